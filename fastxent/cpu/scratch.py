"""Memory of a kernel's own: kernels count no references, so they have no arrays but those given.

It begins where a cache line does. Of a vector that lies across two lines each access is two.
"""

from fastxent.cpu.c_interface import address_of, allocate, free, pointer, words
from fastxent.cpu.jit import inlined
from fastxent.cpu.lanes import VECTOR_BYTES, bytes_each


@inlined
def reserve(like, n):
    """A pointer to room for n elements of the type that `like` has, until it is released."""
    begin = allocate(n * bytes_each(like) + VECTOR_BYTES)
    if begin == 0:
        raise MemoryError("not enough memory for a few rows")
    # At a multiple of 16, as malloc gives it: before the next line there is room for a word.
    address = (begin + VECTOR_BYTES) & -VECTOR_BYTES
    words(address - 8)[0] = begin
    return pointer(address, like)


@inlined
def release(reserved):
    """Give back what was reserved."""
    free(words(address_of(reserved) - 8)[0])


@inlined
def part(of, j, like):
    """What begins j elements on, as elements of the type that `like` has."""
    return pointer(address_of(of) + j * bytes_each(of), like)


@inlined
def whole_lines(like, n):
    """n, or as many more elements as end where a cache line does."""
    per_line = VECTOR_BYTES // bytes_each(like)
    return -(-n // per_line) * per_line
