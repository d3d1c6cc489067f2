"""Host memory of another library's array as NumPy sees it; results are made in more of that kind.

Nothing is asked of the library that would change the array: NumPy gets an address, and keeps the
array alive as long as its view.
"""

import ctypes
import sys
from typing import Any

import numpy as np

# Where no numbers are there is no address either, but NumPy wants one: any will do.
NOWHERE = 64


class Borrowed(ctypes.Array):  # type: ignore[type-arg]
    """Memory from an address on; how far it may be read is what its user has checked.

    It is the base of arrays that are made of it: `np.ndarray(shape, dtype, memory, 0, strides)`.
    """

    _type_, _length_ = ctypes.c_byte, sys.maxsize
    __slots__ = ("owner",)
    owner: Any  # the library's array, which keeps the memory

    def new(
        self, like: "np.ndarray[Any, Any]", shape: tuple[int, ...], dtype: Any
    ) -> "np.ndarray[Any, Any]":
        """An uninitialised array in new memory of the same library; `like` is of this one."""
        raise NotImplementedError
