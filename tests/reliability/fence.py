"""Guard pages: NumPy arrays whose memory ends, or begins, at an inaccessible page.

After `install` this holds for everything that NumPy allocates in this process: a read or write one
byte outside ends it by a signal. (NUMBA_BOUNDSCHECK does not check vector loads.)
"""

import ctypes
import mmap

_PAGE = mmap.PAGESIZE
_NONE, _READ_WRITE = 0, 3  # PROT_NONE, PROT_READ | PROT_WRITE
_PRIVATE, _ANONYMOUS = mmap.MAP_PRIVATE, mmap.MAP_ANONYMOUS
_SET_HANDLER = 304  # of NumPy's C interface: PyDataMem_SetHandler
# Objects that NumPy and the capsule point to, alive until the process ends.
_NAME, _kept = b"mem_handler", []

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.memmove.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]

_Malloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_Calloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
_Realloc = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_Free = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _Handler(ctypes.Structure):
    """PyDataMem_Handler, version 1."""

    _fields_ = [
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", ctypes.c_void_p),
        ("malloc", _Malloc),
        ("calloc", _Calloc),
        ("realloc", _Realloc),
        ("free", _Free),
    ]


class Fence:
    """Allocator of memory between two inaccessible pages, next to one or the other."""

    def __init__(self):
        self.at_end = True
        self._blocks = {}  # address of the memory: address of all pages, their size, its own size

    def malloc(self, context, size):
        """Allocate new pages, which the system zeroes."""
        inner = -(-size // _PAGE) * _PAGE
        whole = inner + 2 * _PAGE
        base = _libc.mmap(None, whole, _NONE, _PRIVATE | _ANONYMOUS, -1, 0)
        if base == ctypes.c_void_p(-1).value:
            return None
        _libc.mprotect(base + _PAGE, inner, _READ_WRITE)
        address = base + _PAGE + (inner - size if self.at_end else 0)
        self._blocks[address] = (base, whole, size)
        return address

    def calloc(self, context, count, size):
        """Allocate memory, which is always zeroed."""
        return self.malloc(context, count * size)

    def realloc(self, context, address, size):
        """Reallocate; the memory always moves."""
        moved = self.malloc(context, size)
        if address and moved:
            _libc.memmove(moved, address, min(size, self._blocks[address][2]))
            self.free(context, address, 0)
        return moved

    def free(self, context, address, size):
        """Unmap the pages, so that use after free is caught too."""
        base, whole, _ = self._blocks.pop(address)
        _libc.munmap(base, whole)


def install():
    """Use a Fence for all further allocations of NumPy; return it, to change its side."""
    from numpy._core.multiarray import _ARRAY_API

    fence = Fence()
    handler = _Handler(b"fence", 1, None, _Malloc(fence.malloc), _Calloc(fence.calloc),
                       _Realloc(fence.realloc), _Free(fence.free))  # fmt: skip
    python = ctypes.pythonapi
    python.PyCapsule_GetPointer.restype = ctypes.c_void_p
    python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    python.PyCapsule_New.restype = ctypes.py_object
    python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    table = ctypes.cast(
        python.PyCapsule_GetPointer(_ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p)
    )
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[_SET_HANDLER])
    set_handler(python.PyCapsule_New(ctypes.addressof(handler), _NAME, None))
    _kept.append(handler)
    return fence
