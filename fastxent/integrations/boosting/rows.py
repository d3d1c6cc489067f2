"""Read labels, margins and weights from the arguments of objectives and metrics."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent import checks, errors

Array = NDArray[Any]


def is_data(value: Any) -> bool:
    """Whether a value is a DMatrix or a Dataset."""
    return hasattr(value, "get_label")


def arguments(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Array, Array, Any]:
    """Return labels, predictions, and weights or None, from the arguments of either interface."""
    if is_data(y_pred):
        y_true, y_pred, sample_weight = y_pred.get_label(), y_true, y_pred.get_weight()
        if sample_weight is not None and not len(sample_weight):  # a DMatrix without weights
            sample_weight = None
    labels, margins = checks.array(y_true, "y_true"), checks.array(y_pred, "y_pred")
    checks.real_numbers(labels, "y_true")
    if sample_weight is not None:
        sample_weight = checks.array(sample_weight, "sample_weight")
    return labels, margins, sample_weight


def by_row(per_row: Any, name: str, margins: Array) -> Any:
    """Reshape an array with one number for each row of the margins to (N,); None for None."""
    rows = margins.shape[:1]
    if per_row is None:
        return None
    if per_row.shape not in (rows, (*rows, 1)):
        raise errors.per_row_shape(name, rows, per_row.shape)
    return per_row.reshape(rows)


def classes(labels: Array, margins: Array) -> Array:
    """Check labels, which may be floats, and convert them to class indices for margins (N, K)."""
    if margins.ndim != 2 or margins.shape[1] < 2:
        raise errors.margins_shape("(N, K) with at least two classes", margins.shape)
    labels, n_classes = by_row(labels, "y_true", margins), margins.shape[1]
    if labels.dtype.kind == "f" and (odd := np.floor(labels) != labels).any():  # nan, too
        first = int(odd.argmax())
        raise errors.not_integral(first, labels[first])
    if (outside := (labels < 0) | (labels >= n_classes)).any():
        first = int(outside.argmax())
        raise checks.bad_label(labels, first, labels[first], n_classes, None, "y_true")
    return labels.astype(np.int64, copy=False)


def binary_arguments(labels: Array, margins: Array, weight: Any) -> dict[str, Any]:
    """Check labels from 0 to 1; return the arguments of the binary loss, shaped as the margins."""
    if margins.ndim != 1 and margins.shape[1:] != (1,):
        raise errors.margins_shape("(N,) or (N, 1)", margins.shape)
    labels, weight = (
        by_row(a, name, margins) for a, name in ((labels, "y_true"), (weight, "sample_weight"))
    )
    outside = ~((labels >= 0) & (labels <= 1))  # nan, too
    if outside.any():
        first = int(outside.argmax())
        raise errors.not_binary(first, labels[first])
    return {
        "logits": margins,
        "target": labels.reshape(margins.shape),
        "weight": None if weight is None else weight.reshape(margins.shape),
        "reduction": "sum",
    }
