"""Rows whose elements are strided while neighbouring rows are contiguous, as in (N, C, H, W).

Neighbouring lanes of a warp have neighbouring rows, and the threads of a row are in different
warps, so each access of a warp is to neighbouring addresses. If all arrays are aligned, a lane
loads 16 bytes: one class of `width` rows. A transpose among lanes turns these into `width` classes
of one row, a vector as in `fastxent.cuda.access`. Otherwise each lane loads single elements of its
row.
"""

import math
from typing import Any, NamedTuple

from numba import cuda, int32, int64, uint32, uint64

from fastxent.cuda.access import Access, Addressing, Line, make_clear, register_type
from fastxent.cuda.elements import Element, Function, device
from fastxent.cuda.groups import ALL, WARP, ThreadPlan
from fastxent.cuda.intrinsics import load_vector, store_vector
from fastxent.cuda.transposes import make_sub_lane, make_transpose


class Position(NamedTuple):
    """A row's place: the number of its group of contiguous rows, and its index in that."""

    outer: Any
    inner: Any


class ColumnRow(NamedTuple):
    """A row: the address of its first element, and the bytes to the next."""

    address: Any
    step: Any


class Vector(NamedTuple):
    """A vector of a row, as functions of `Access` take it in place of an address.

    `address` is that of the elements that this lane loads or stores for it, and `left` the number
    of classes from theirs on: 0 or less if there is nothing to load or store. `wanted`: whether the
    lane's row is to be read.
    """

    address: Any
    step: Any
    left: Any
    wanted: Any


def make_column_addressing(element: Element, plan: ThreadPlan) -> Addressing:
    """The Addressing of rows in columns."""
    threads, n_rows, vectorised = plan.threads, plan.rows, plan.vectorised
    width = element.width if vectorised else 1
    lane_step, sub_lane = WARP // width, make_sub_lane(element)

    @device
    def place():
        lane, warp = cuda.threadIdx.x & 31, cuda.threadIdx.x >> 5
        if vectorised:  # the row that it has after the transpose
            lane = (lane & (lane_step - 1)) * width + sub_lane()
        i = int64(cuda.blockIdx.x) * n_rows + warp // threads * WARP + lane
        return i, int32(warp % threads)

    @device
    def position(rows, i):
        outer = uint64(i) // uint64(rows.inner)
        return Position(outer, uint64(i) - outer * uint64(rows.inner))

    @device
    def row_at(rows, position):
        within = position.inner * rows.pitch
        return ColumnRow(rows.address + position.outer * rows.outer_pitch + within, rows.step)

    @device
    def class_at(row, j):
        return row.address + uint64(uint32(j)) * row.step

    @device
    def from_class(row, j):
        return ColumnRow(row.address + uint64(uint32(j)) * row.step, row.step)

    return Addressing(place, position, row_at, from_class, class_at)


def make_column_access(element: Element, plan: ThreadPlan) -> Access:
    """The Access to rows in columns."""
    vectorised, load, store, pack = plan.vectorised, element.load, element.store, element.pack
    width, words, word, value, minus_inf = register_type(element, vectorised)
    clear, transpose = make_clear(words, minus_inf), make_transpose(element)
    first_vector = make_first_vector(element, plan)

    @device
    def begin(row, line):
        return first_vector(row, line.n, True)

    @device
    def vector_at(vector, k):
        classes = int32(k) * int32(width)
        address = vector.address + uint64(uint32(classes)) * vector.step
        return Vector(address, vector.step, vector.left - classes, vector.wanted)

    @device
    def fetch(vector, buffer, v):
        if vectorised:
            if vector.left > 0:
                load_vector(vector.address, buffer, int32(v * words))
            else:
                clear(buffer, v)
            transpose(buffer, v * words)
            if not vector.wanted:
                clear(buffer, v)
        elif vector.left > 0 and vector.wanted:
            buffer[v] = load(vector.address)
        else:
            clear(buffer, v)

    @device
    def put(vector, values):
        if vectorised:
            packed = cuda.local.array(words, word)
            pack(values, packed)
            transpose(packed, 0)
            if vector.left > 0:
                store_vector(vector.address, packed, int32(0))
        else:
            store(vector.address, values[0])

    return Access(width, words, word, vectorised, False, value, begin, vector_at, fetch, clear, put)


def make_first_vector(element: Element, plan: ThreadPlan) -> Function:
    """first_vector(row, n, wanted): the first Vector of a row of n classes."""
    vectorised, size, sub_lane = plan.vectorised, element.size, make_sub_lane(element)

    @device
    def first_vector(row, n, wanted):
        address, left = row.address, n
        if vectorised:
            # The lane moves class `sub` of `width` rows; its own row is number `sub` of these.
            sub = sub_lane()
            address += uint64(uint32(sub)) * (row.step - uint64(size))
            left -= int32(sub)
        return Vector(address, row.step, left, wanted)

    return first_vector


def make_column_read(element: Element, plan: ThreadPlan) -> Function:
    """read(row, n, thread, wanted, buffer), as in `rows.make_read`.

    n is 0 for a row that does not exist, after the last one.
    """
    access, threads, per_thread = make_column_access(element, plan), plan.threads, plan.vectors
    vector_at, fetch, width = access.vector_at, access.fetch, access.width
    first_vector, collective = make_first_vector(element, plan), access.collective
    minus_inf, streamed = element.compute(-math.inf), plan.streamed

    @device
    def read(row, n, thread, wanted, buffer):
        address = first_vector(row, n, wanted)
        first = vector_at(address, thread)
        for v in range(per_thread):
            fetch(vector_at(first, v * threads), buffer, v)
        n_read = n if wanted else int32(0)
        vectors, readable = n, n_read
        if collective:
            # All lanes take part in reading, also for rows that are not wanted or do not exist. If
            # the row of the first lane does not exist, no row of the warp does.
            most = cuda.shfl_sync(ALL, n, 0) if streamed else n
            vectors = readable = (most + int32(width - 1)) // int32(width)
        return Line(address, int32(0), vectors, readable, int32(-1), minus_inf, n, n_read)

    return read
