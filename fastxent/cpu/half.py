"""Round float32 to float16.

NumPy takes 80 ns per subnormal result, as it raises floating-point flags one by one, and most of
the gradient of a mean is subnormal.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from fastxent.cpu import jit, kernels

Array = NDArray[Any]


@functools.cache
def _kernel() -> Callable[..., Any]:
    array: Any = types.Array
    signature = (array(types.uint32, 1, "C", readonly=True), array(types.uint16, 1, "C"))
    return jit.specialise(kernels.round_to_half, signature)


def round_into(out: Array, values: Array) -> None:
    """Fill a float16 array of any strides from contiguous float32 of the same size."""
    contiguous = (
        out if out.flags.c_contiguous and out.flags.aligned else np.empty_like(out, order="C")
    )
    bits = values.reshape(-1).view(np.uint32)
    bits.flags.writeable = False
    _kernel()(bits, contiguous.reshape(-1).view(np.uint16))
    if contiguous is not out:
        np.copyto(out, contiguous)


def is_rounding(out: Array, values: Array) -> bool:
    """Whether a copy of `values` to `out` is a rounding of float32 to float16."""
    return out.dtype == np.float16 and values.dtype == np.float32
