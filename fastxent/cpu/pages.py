"""Huge pages for new memory on Linux, as NumPy requests them for its arrays.

Linux maps new memory page by page at the first write. With pages of 4 KiB, mapping takes two to
three times as long as computing a large gradient.
"""

import ctypes
import mmap
import os
from typing import Any

LARGE = 1 << 22  # bytes; NumPy requests huge pages from this size on
_ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux only


def _find() -> Any:
    if _ADVICE is None or os.environ.get("NUMPY_MADVISE_HUGEPAGE", "1") == "0":
        return None
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is not None:
        madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return madvise


_madvise = _find()


def use_huge(address: int, size: int) -> None:
    """Advise the system to map unwritten memory in huge pages.

    It is only advice: a system without huge pages, or with them disabled, ignores it.
    """
    if _madvise is not None:
        start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        _madvise(start, address + size - start, _ADVICE)
