"""Layouts of logits and labels in memory: from rows (N, C) into that of a case, and back."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent.bench.cases import Case

Array = NDArray[Any]


def laid_out(case: Case, array: Array) -> Array:
    """Rows (N, C), or labels (N,), in the layout of the case."""
    if case.classes_first:
        return np.ascontiguousarray(array.T)
    if case.layout == "column-major":
        return np.asfortranarray(array)
    if case.layout == "channels-first":
        images = array.reshape(-1, case.image, case.image, *array.shape[1:])
        return np.ascontiguousarray(np.moveaxis(images, 3, 1)) if images.ndim == 4 else images
    return array


def as_rows(array: Array) -> Array:
    """Rows (N, C) of logits (n, C, h, w), labels (N,) of (n, h, w); else the array itself."""
    if array.ndim == 4:
        return np.moveaxis(array, 1, -1).reshape(-1, array.shape[1])
    return array.reshape(-1) if array.ndim == 3 else array
