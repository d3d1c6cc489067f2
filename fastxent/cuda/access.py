"""Address, load and store the elements of rows that are contiguous in memory.

`fastxent.cuda.columns` does the same for rows whose elements are strided.
"""

import math
from typing import Any, NamedTuple

from numba import cuda, int32, int64, uint32, uint64

from fastxent.cuda.elements import VECTOR_BYTES, Element, Function, device, word_value
from fastxent.cuda.groups import ThreadPlan
from fastxent.cuda.intrinsics import load_vector


class Line(NamedTuple):
    """A row as its threads read it.

    `address` is that of its first whole vector, `head` the number of elements before that;
    `vectors` how many vectors there are, `readable` how many of them are to be read;
    `single_at` the column of this thread's unaligned element, -1 without one, and `single` its
    value; `n` the number of columns, `n_read` that of those to be read.
    """

    address: Any
    head: Any
    vectors: Any
    readable: Any
    single_at: Any
    single: Any
    n: Any
    n_read: Any


class Access(NamedTuple):
    """How the elements of a row are moved, a vector at a time or one by one.

    A vector is `words` registers of type `word` with `width` elements. value(words, i) is an
    element in registers. begin(row, line) is the address of the first whole vector of a row that is
    aligned like a Line, vector_at(address, k) that of the k-th after it. fetch(address, buffer, v)
    loads a vector into slot v of a buffer, clear(buffer, v) fills that with -inf,
    put(address, values) stores a vector. Where they are `collective`, all lanes of a warp call them
    together, also for vectors that do not exist, and a row's last vector may be incomplete.
    `singles`: rows have elements outside of vectors.
    """

    width: int
    words: int
    word: Any
    collective: bool
    singles: bool
    value: Function
    begin: Function
    vector_at: Function
    fetch: Function
    clear: Function
    put: Function


class Addressing(NamedTuple):
    """How a thread finds its row in memory.

    place() is the row of this thread, and its number among the threads of the row.
    position(rows, i) is the place of row i in arrays of this layout, row_at(rows, position) the row
    there of a `parameters.Rows`. Of a row, from_class(row, j) is the part from class j on, and
    class_at(row, j) the address of the element.
    """

    place: Function
    position: Function
    row_at: Function
    from_class: Function
    class_at: Function


def register_type(element: Element, vectorised: bool) -> tuple[int, int, Any, Function, Any]:
    """Width, words and word type of what is moved at a time; value(words, i); -inf as a word."""
    if vectorised:
        return element.width, element.words, element.word, element.value, element.minus_inf
    return 1, 1, element.compute, word_value, element.compute(-math.inf)


def make_clear(words: int, minus_inf: Any) -> Function:
    """clear(buffer, v): write -inf to slot v of a buffer of vectors of so many words."""

    @device
    def clear(buffer, v):
        for k in range(words):
            buffer[v * words + k] = minus_inf

    return clear


def make_row_access(element: Element, plan: ThreadPlan) -> Access:
    """The Access to rows of contiguous elements under a plan."""
    vectorised, load, store, write = plan.vectorised, element.load, element.store, element.write
    width, words, word, value, minus_inf = register_type(element, vectorised)
    size, step = element.size, VECTOR_BYTES if vectorised else element.size

    @device
    def begin(row, line):
        return row + uint64(uint32(line.head)) * uint64(size)

    @device
    def vector_at(address, k):
        # A thread's other vectors are at constant offsets from its first one: computed separately,
        # each address would take registers of its own.
        return address + uint64(uint32(k)) * uint64(step)

    @device
    def fetch(address, buffer, v):
        if vectorised:
            load_vector(address, buffer, int32(v * words))
        else:
            buffer[v] = load(address)

    @device
    def put(address, values):
        if vectorised:
            write(address, values)
        else:
            store(address, values[0])

    return Access(
        width, words, word, False, vectorised, value, begin, vector_at, fetch,
        make_clear(words, minus_inf), put,
    )  # fmt: skip


def make_row_addressing(element: Element, plan: ThreadPlan) -> Addressing:
    """The Addressing of rows of contiguous elements."""
    threads, n_rows, size = plan.threads, plan.rows, element.size

    @device
    def place():
        thread = cuda.threadIdx.x
        if n_rows == 1:
            return int64(cuda.blockIdx.x), int32(thread)
        return int64(cuda.blockIdx.x) * n_rows + thread // threads, int32(thread % threads)

    @device
    def position(rows, i):
        return uint64(i)

    @device
    def row_at(rows, position):
        return rows.address + position * rows.pitch

    @device
    def from_class(row, j):
        return row + uint64(uint32(j)) * uint64(size)

    return Addressing(place, position, row_at, from_class, from_class)
