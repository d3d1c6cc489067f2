"""Copy arrays to others of another layout or type."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent.cpu import arguments, jit
from fastxent.cpu.arguments import ELEMENTS, array_type

Array = NDArray[Any]
_CONVERT_PLANES = jit.Source("conversion_kernels", "convert_planes")


@functools.cache
def _kernel(char: str, out_char: str) -> Callable[..., Any]:
    source = array_type(ELEMENTS[char], 3)
    out = array_type(ELEMENTS[out_char], 3, out=True)
    return jit.specialise(_CONVERT_PLANES, (source, out))


def put(out: Array, values: Array) -> None:
    """Copy into an array of the same shape; values beyond the range of its type become infinite."""
    pair = _as_planes(out, values)
    if pair is None:
        with np.errstate(all="ignore"):
            np.copyto(out, values, casting="unsafe")
        return
    target, source = pair
    _kernel(values.dtype.char, out.dtype.char)(source, target)


def _as_planes(out: Array, values: Array) -> tuple[Array, Array] | None:
    """View both as (planes, rows, classes) for the kernel; None if there is no such view."""
    if out.ndim < 2 or not out.size or not _is_faster(out, values):
        return None
    for k in range(out.ndim - 1):  # as few planes as possible
        shape = math.prod(out.shape[:k]), math.prod(out.shape[k:-1]), out.shape[-1]
        try:
            return out.reshape(shape, copy=False), values.reshape(shape, copy=False)
        except ValueError:
            continue
    return None


def _is_faster(out: Array, values: Array) -> bool:
    """Whether the kernel can copy these arrays and is faster than NumPy.

    NumPy takes 12 ns per element where the last axis is not contiguous in one of them, and 80 ns
    per subnormal float16; most of the gradient of a mean is subnormal.
    """
    for array in (out, values):
        own = array.dtype
        if own.char not in ELEMENTS or not own.isnative or not array.flags.aligned:
            return False
    same = out.dtype == values.dtype
    if not same and arguments.ARITHMETIC[out.dtype.char] != arguments.ARITHMETIC[values.dtype.char]:
        return False
    return not same or (out.strides[-1] == out.itemsize) != (values.strides[-1] == out.itemsize)
