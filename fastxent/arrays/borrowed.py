"""NumPy views of another library's host memory; results are allocated by that library.

The array is not changed: NumPy gets its address, and the view keeps the array alive.
"""

import ctypes
import sys
from typing import Any

import numpy as np

# The address of an array without elements, for which NumPy takes any but 0.
NOWHERE = 64


class Borrowed(ctypes.Array):  # type: ignore[type-arg]
    """Memory from an address on, of unchecked length.

    It is the base of arrays: `np.ndarray(shape, dtype, memory, 0, strides)`.
    """

    _type_, _length_ = ctypes.c_byte, sys.maxsize
    __slots__ = ("owner",)
    owner: Any  # the library's array, which keeps the memory alive

    def new(
        self, like: "np.ndarray[Any, Any]", shape: tuple[int, ...], dtype: Any
    ) -> "np.ndarray[Any, Any]":
        """An uninitialised array of the same library; `like` is an array in this memory."""
        raise NotImplementedError
