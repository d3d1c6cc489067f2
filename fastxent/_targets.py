"""Class-index targets, their weights and reduction: checked once for every loss that has them."""

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastxent import _inputs as inputs
from fastxent.terms import Terms


class IndexTarget(NamedTuple):
    """A checked target and what stands beside it.

    `labels` is the target as it came, `flat` its (N,) int64 form, `divisor` what `normalizer`
    and `reduction` say without looking at the labels: None for a mean over what counts; `given`
    are the arrays that were read, which no buffer may overlap.
    """

    labels: NDArray[Any]
    flat: NDArray[Any]
    terms: Terms
    per_row: bool
    divisor: float | None
    given: list[tuple[str, Any]]

    def scan(self, backend: ModuleType, n_classes: int, check: bool) -> float:
        """The divisor; raises IndexError for the first label that is no class, if asked to check.

        One pass over the labels does both, before anything is written.
        """
        if self.divisor is not None and not check:
            return self.divisor
        total, first_bad = backend.scan_labels(self.flat, n_classes, self.terms)
        if check and first_bad >= 0:
            raise inputs.bad_label(self.labels, first_bad, n_classes, self.terms.ignore_index)
        return float(total) if self.divisor is None else self.divisor


def index_target(
    target: Any,
    shape: tuple[int, ...],
    axis: int,
    compute: "np.dtype[Any]",
    *,
    weight: Any,
    sample_weight: Any,
    ignore_index: Any,
    label_smoothing: Any,
    z_loss: Any,
    logit_scale: Any,
    softcap: Any,
    reduction: Any,
    normalizer: Any,
) -> IndexTarget:
    """Check the arguments that speak of rows and classes, for logits of this shape and axis."""
    if ignore_index is not None and type(ignore_index) is not int:
        ignore_index = inputs.integer(ignore_index, "ignore_index")
    labels = inputs.class_index(target, shape, axis)
    how = inputs.reduction(reduction)
    divisor = inputs.normalizer(normalizer, how)
    flat, ignored = inputs.flat_labels(labels, ignore_index)
    given: list[tuple[str, Any]] = [("target", labels)]
    for name, value in (("weight", weight), ("sample_weight", sample_weight)):
        given.append((name, None if value is None else inputs.array(value, name)))
    rows = inputs.weights(given[2][1], "sample_weight", labels.shape, "one for each row")
    terms = Terms(
        inputs.weights(given[1][1], "weight", (shape[axis],), "one for each class"),
        rows if rows is None else rows.reshape(-1),
        ignored,
        inputs.smoothing(label_smoothing),
        inputs.real(z_loss, "z_loss"),
        inputs.held(inputs.real(logit_scale, "logit_scale"), "logit_scale", compute),
        inputs.cap(softcap, compute),
    )
    if how != "mean":
        divisor = 1.0
    return IndexTarget(labels, flat, terms, how == "none", divisor, given)


def scalar(value: float, dtype: "np.dtype[Any]") -> Any:
    """A reduced loss in its own type; beyond the type's range it is infinite, without a warning."""
    with np.errstate(all="ignore"):
        return dtype.type(value)


def answer(loss: Any, *asked: Any) -> Any:
    """The loss alone, or a tuple of it and of what was asked for."""
    results = [value for value in asked if value is not None]
    return (loss, *results) if results else loss
