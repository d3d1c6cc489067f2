"""NumPy views of another library's host memory; results are allocated by that library.

The array itself is not changed. NumPy gets its address, and the view keeps the array alive.
"""

import ctypes
import sys
from typing import Any

import numpy as np

# The address of an empty array, for which NumPy accepts any address but 0.
NOWHERE = 64


class Borrowed(ctypes.Array):  # type: ignore[type-arg]
    """Memory at an address, of unchecked length.

    Arrays are made over it: `np.ndarray(shape, dtype, memory, 0, strides)`.
    """

    _type_, _length_ = ctypes.c_byte, sys.maxsize
    __slots__ = ("owner",)
    owner: Any  # the library's array, which keeps the memory alive

    def new(
        self, like: "np.ndarray[Any, Any]", shape: tuple[int, ...], dtype: Any
    ) -> "np.ndarray[Any, Any]":
        """Allocate an array by the same library; `like` is an array in this memory."""
        raise NotImplementedError
