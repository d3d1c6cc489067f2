"""Targets of either kind, their weights and reduction: checked once for every loss of rows."""

import math
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastxent import _inputs as inputs
from fastxent.arrays.device import DeviceArray
from fastxent.terms import Target, Terms


class Aim(NamedTuple):
    """A checked target and what stands beside it.

    `rows` is the shape of the loss before reduction, `of` the name of the input, `labels` the class
    indices as they came (None for probabilities), `target` what a backend takes; `divisor` what
    `normalizer` and `reduction` say without looking at the rows: None for a mean over what counts;
    `given` are the arrays that were read, which no buffer may overlap.
    """

    rows: tuple[int, ...]
    of: str
    labels: Any
    target: Target
    terms: Terms
    per_row: bool
    divisor: Any
    given: list[tuple[str, Any]]

    def scan(
        self, backend: ModuleType, n_classes: int, check: bool, compute: "np.dtype[Any]"
    ) -> Any:
        """The divisor; raises IndexError for the first label that is no class, if asked to check.

        One pass over the labels does both, before anything is written. The backend of a GPU leaves
        there what is there. Of probabilities integers are checked: ValueError for other than 0, 1.
        """
        divisor = self.divisor
        if isinstance(divisor, DeviceArray):
            divisor = backend.normalizer(divisor, compute)
        if self.labels is None:
            if check:
                check_one_hot(backend, self.given[0][1], self.of, self.rows)
            if divisor is not None:
                return divisor
            u = self.terms.sample_weight
            return float(math.prod(self.rows)) if u is None else backend.total(u, compute)
        if divisor is not None and not check:
            return divisor
        total, first_bad, label = backend.scan_labels(
            self.target.labels, n_classes, self.terms, compute, check
        )
        if check and first_bad >= 0:
            ignored = self.terms.ignore_index
            raise inputs.bad_label(self.labels, first_bad, label, n_classes, ignored)
        return total if divisor is None else divisor


def read_target(
    target: Any,
    of: str,
    shape: tuple[int, ...],
    axis: int,
    compute: "np.dtype[Any]",
    *,
    weight: Any,
    sample_weight: Any,
    ignore_index: Any,
    reduction: Any,
    normalizer: Any = None,
    label_smoothing: Any = 0.0,
    z_loss: Any = 0.0,
    logit_scale: Any = 1.0,
    softcap: Any = None,
) -> Aim:
    """Check the arguments that speak of rows and classes, for an input of this name and shape."""
    if ignore_index is not None and type(ignore_index) is not int:
        ignore_index = inputs.integer(ignore_index, "ignore_index")
    found = inputs.target(target, shape, axis, of)
    rows = (*shape[:axis], *shape[axis + 1 :])
    how = inputs.reduction(reduction)
    divisor = inputs.normalizer(normalizer, how)
    labels = None
    if found.ndim == len(shape):
        inputs.nothing_ignored(ignore_index)
        ignored, read = None, Target(None, inputs.classes_last(found, axis))
    else:
        labels = found
        flat, ignored = inputs.flat_labels(labels, ignore_index)
        read = Target(flat, None)
    given: list[tuple[str, Any]] = [("target", found)]
    for name, value in (("weight", weight), ("sample_weight", sample_weight)):
        given.append((name, None if value is None else inputs.array(value, name)))
    per_row = inputs.weights(given[2][1], "sample_weight", rows, "one for each row")
    terms = Terms(
        inputs.weights(given[1][1], "weight", (shape[axis],), "one for each class"),
        per_row.reshape(-1) if isinstance(per_row, np.ndarray) else per_row,
        ignored,
        inputs.smoothing(label_smoothing),
        inputs.real(z_loss, "z_loss"),
        inputs.held(inputs.real(logit_scale, "logit_scale"), "logit_scale", compute),
        inputs.cap(softcap, compute),
    )
    if how != "mean":
        divisor = 1.0
    return Aim(rows, of, labels, read, terms, how == "none", divisor, given)


def check_one_hot(
    backend: ModuleType, target: Any, of: str, indices: tuple[int, ...] | None = None
) -> None:
    """Raise for a target of integers other than 0 and 1, which more likely are class indices.

    `indices` is the shape that those have, None where there are none.
    """
    if target.dtype.kind in "iu" and target.size:
        at, value = backend.first_beyond_one(target)
        if at >= 0:
            raise inputs.no_one_hot_row(target, at, value, of, indices)


def scalar(value: Any, dtype: "np.dtype[Any]") -> Any:
    """A reduced loss in its own type; beyond the type's range it is infinite, without a warning.

    A GPU's stays there.
    """
    if isinstance(value, DeviceArray):
        return value
    # Far from the ends of either type nothing needs a guard, which takes as long as a small kernel.
    if 1e-30 < abs(value) < 1e30:
        return dtype.type(value)
    with np.errstate(all="ignore"):
        return dtype.type(value)


def answer(loss: Any, *asked: Any) -> Any:
    """The loss alone, or a tuple of it and of what was asked for."""
    results = [value for value in asked if value is not None]
    return (loss, *results) if results else loss
