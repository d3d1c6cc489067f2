"""Huge pages for new memory, as NumPy asks for them for its own, unless it is told not to.

Linux maps new memory page by page, when it is first written to. With pages of 4 KiB that takes two
to three times as long as a large gradient takes to be computed.
"""

import ctypes
import mmap
import os
from typing import Any

LARGE = 1 << 22  # bytes from which on NumPy asks, too
_ADVICE = getattr(mmap, "MADV_HUGEPAGE", None)  # of Linux alone


def _find() -> Any:
    if _ADVICE is None or os.environ.get("NUMPY_MADVISE_HUGEPAGE", "1") == "0":
        return None
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is not None:
        madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return madvise


_madvise = _find()


def use_huge(address: int, size: int) -> None:
    """Advise the system to map memory that nobody has written to in huge pages.

    Only advice: where the system has none, or is set never to use them, nothing changes.
    """
    if _madvise is not None:
        start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        _madvise(start, address + size - start, _ADVICE)
