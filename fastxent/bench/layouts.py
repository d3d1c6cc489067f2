"""Convert logits and labels between rows (N, C) and the memory layout of a case."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent.bench.cases import Case

Array = NDArray[Any]


def laid_out(case: Case, array: Array) -> Array:
    """Convert rows (N, C), or labels (N,), to the layout of the case."""
    if case.classes_first:
        return np.ascontiguousarray(array.T)
    if case.layout == "column-major":
        return np.asfortranarray(array)
    if case.layout == "channels-first":
        images = array.reshape(-1, case.image, case.image, *array.shape[1:])
        return np.ascontiguousarray(np.moveaxis(images, 3, 1)) if images.ndim == 4 else images
    return array


def as_rows(array: Array) -> Array:
    """Convert logits (n, C, h, w) to rows (N, C), labels (n, h, w) to (N,); keep other arrays."""
    if array.ndim == 4:
        return np.moveaxis(array, 1, -1).reshape(-1, array.shape[1])
    return array.reshape(-1) if array.ndim == 3 else array
