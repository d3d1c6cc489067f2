"""Cache-aligned scratch memory of kernels.

Kernels count no references, so they cannot create arrays. The memory begins at a cache line: a
vector that straddles two lines costs two accesses.
"""

from fastxent.cpu.c_interface import address_of, allocate, free, pointer, words
from fastxent.cpu.jit import inlined
from fastxent.cpu.lanes import VECTOR_BYTES
from fastxent.cpu.memory import itemsize


@inlined
def reserve(like, n):
    """Allocate n elements of the arithmetic of `like`; return a pointer, for `release`."""
    begin = allocate(n * itemsize(pointer(0, like)) + VECTOR_BYTES)
    if begin == 0:
        raise MemoryError("not enough memory for a few rows")
    # malloc's addresses are multiples of 16, so a word fits before the next cache line.
    address = (begin + VECTOR_BYTES) & -VECTOR_BYTES
    words(address - 8)[0] = begin
    return pointer(address, like)


@inlined
def release(reserved):
    """Free what `reserve` allocated."""
    free(words(address_of(reserved) - 8)[0])


@inlined
def view(of, j, like):
    """A pointer to element j, with elements of the type of `like`."""
    return pointer(address_of(of) + j * itemsize(of), like)


@inlined
def whole_lines(like, n):
    """n rounded up to whole cache lines of elements."""
    per_line = VECTOR_BYTES // itemsize(pointer(0, like))
    return -(-n // per_line) * per_line
