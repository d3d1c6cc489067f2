"""A row on its threads: read once into registers, scanned there, its ends and its tail apart.

A row begins wherever its address says: up to the first address divisible by 16, and behind the last
whole vector, single elements are the `edge`, one a thread. The vectors in between are dealt out in
turns; each thread holds the first few of its own, and reads those behind them (the `tail`) again in
every scan, the last time from the end, where the caches still hold it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from numba import cuda, int32, int64, uint32, uint64

from fastxent.cuda.elements import VECTOR_BYTES, Element, device
from fastxent.cuda.groups import WARP, Plan, add, reduction
from fastxent.cuda.intrinsics import load_vector

Function = Callable[..., Any]

# So many vectors of the tail are on their way to a thread at a time.
_AHEAD = 4


class Row(NamedTuple):
    """What kernels do with the rows of one element type under one plan.

    A `line` is (address, before, vectors, reach, edge_at, edge): where a row's vectors begin, how
    many elements stand before them, how many there are and how many of them are to be read; the
    column of this thread's single element, -1 without one, and its value. `fold` and `writer` take
    a formula of an element, formula(x, column, args), and make a function of all of a row's.
    """

    held: int
    word: Any
    place: Function
    read: Function
    peak: Function
    sums: Function
    fold: Function
    writer: Function

    def parts(self) -> tuple[Any, ...]:
        """What kernels call by its own name, for compiled code knows no tuple of functions."""
        return self.place, self.read, self.peak, self.sums, self.held, self.word


@functools.cache
def row_of(element: Element, plan: Plan) -> Row:
    """The functions for rows of these elements on threads that lie like this."""
    threads, vectors_held, rows, wide, tail, *_ = plan
    compute, size = element.compute, element.size
    width, step = (element.width, VECTOR_BYTES) if wide else (1, size)
    words = element.words if wide else 1
    value = element.value if wide else _itself
    word = element.word if wide else compute
    nothing = element.nothing if wide else compute(-math.inf)
    maximum, exp, load, store = element.maximum, element.exp, element.load, element.store
    write_vector = element.write
    minus_inf, zero, one = compute(-math.inf), compute(0), compute(1)
    largest, total = reduction(maximum, threads), reduction(add, threads)
    beyond, ahead_words = int32(threads * vectors_held), _AHEAD * words
    stride = threads * step

    @device
    def place():
        """The row of this thread, and its number among those of the row."""
        thread = cuda.threadIdx.x
        if rows == 1:
            return int64(cuda.blockIdx.x), int32(thread)
        return int64(cuda.blockIdx.x) * rows + thread // threads, int32(thread % threads)

    @device
    def beside(address, at):
        """The address of vector number `at`. From that of a thread's first, those of the others
        are a constant away: each computed anew would take registers of its own.
        """  # noqa: D205, D209
        return address + uint64(uint32(at)) * uint64(step)

    @device
    def fetch(where, buffer, v):
        """The vector there into place v of a buffer."""
        if wide:
            load_vector(where, buffer, int32(v * words))
        else:
            buffer[v] = load(where)

    @device
    def clear(buffer, v):
        for k in range(words):
            buffer[v * words + k] = nothing

    @device
    def read(row, n, thread, wanted, buffer):
        """The line of a row of n elements; its first vectors, if wanted, or -inf in the buffer."""
        before = int32(0)
        if wide:
            past = row // uint64(size) % uint64(width)
            before = min(int32((uint64(width) - past) % uint64(width)), n)
        vectors = (n - before) // int32(width)
        reach = vectors if wanted else int32(0)
        address = row + uint64(uint32(before)) * uint64(size)
        mine = beside(address, thread)
        for v in range(vectors_held):
            if thread + v * threads < reach:
                fetch(mine + uint64(v * stride), buffer, v)
            else:
                clear(buffer, v)
        edge_at, edge = int32(-1), minus_inf
        if wide:
            if thread < before:
                edge_at = thread
            elif thread < n - vectors * int32(width):
                edge_at = thread + vectors * int32(width)
            if wanted and edge_at >= 0:
                edge = load(row + uint64(uint32(edge_at)) * uint64(size))
        return address, before, vectors, reach, edge_at, edge

    @device
    def tail_sums(line, thread, m, factor):
        """The maximum of m and of this thread's tail, and its sums for that, in one scan."""
        address, _, _, reach, _, _ = line
        ahead = cuda.local.array(ahead_words, word)
        below, count = zero, zero
        at = thread + beyond
        while at < reach:
            mine = beside(address, at)
            for v in range(_AHEAD):
                if at + v * threads < reach:
                    fetch(mine + uint64(v * stride), ahead, v)
                else:
                    clear(ahead, v)
            new = m
            for i in range(_AHEAD * width):
                new = maximum(new, value(ahead, i))
            if new > m:  # what was the maximum is below it now
                below, count = (below + count) * exp((m - new) * factor), zero
                m = new
            shift = m if m > minus_inf else zero  # -inf - (-inf) would be nan, not nothing
            for i in range(_AHEAD * width):
                e = exp((value(ahead, i) - shift) * factor)
                below += zero if e == one else e
                count += one if e == one else zero
            at += int32(_AHEAD * threads)
        return m, below, count

    @device
    def peak(buffer, line, thread, factor, shared):
        """m = max_j x_j of the row, and what `sums` goes on from: this thread's tail."""
        m = line[5]
        for i in range(vectors_held * width):
            m = maximum(m, value(buffer, i))
        m = largest(m, shared, 0)
        if not tail:
            return m, (m, zero, zero)
        behind = tail_sums(line, thread, m, factor)
        return largest(behind[0], shared, 1), behind

    @device
    def sums(buffer, line, m, behind, factor, shared):
        """Σ exp(x_j - m) over what is below the maximum, and how often the maximum occurs.

        Apart, for beside 1 the small numbers of a confident row would be lost. Four sums a thread:
        a longer chain would drift with the length of the row. What any of the row's threads has
        read before, none has overwritten yet.
        """
        parts = cuda.local.array(4, compute)
        for k in range(4):
            parts[k] = zero
        mine, below, count = behind
        if tail:
            if mine < m:
                below, count = (below + count) * exp((mine - m) * factor), zero
        if wide:
            e = exp((line[5] - m) * factor)
            below += zero if e == one else e
            count += one if e == one else zero
        for i in range(vectors_held * width):
            e = exp((value(buffer, i) - m) * factor)
            parts[i & 3] += zero if e == one else e
            count += one if e == one else zero
        below += (parts[0] + parts[1]) + (parts[2] + parts[3])
        found = total(below, shared, 2), total(count, shared, 3)
        if threads <= WARP:
            cuda.syncwarp()  # shuffles promise no order of memory, as the barrier of a block does
        return found

    def fold(formula, combine):
        @device
        def folded(buffer, line, thread, args, found):
            """`found` combined with the formula of each of this thread's elements."""
            address, before, _, reach, edge_at, edge = line
            again = cuda.local.array(words, word)
            for v in range(vectors_held):
                at = thread + v * threads
                if at < reach:
                    for k in range(width):
                        x = value(buffer, v * width + k)
                        found = combine(found, formula(x, before + at * width + k, args))
            if tail:
                at = thread + beyond
                while at < reach:
                    fetch(beside(address, at), again, 0)
                    for k in range(width):
                        x = value(again, k)
                        found = combine(found, formula(x, before + at * width + k, args))
                    at += int32(threads)
            if wide:
                if edge_at >= 0:
                    found = combine(found, formula(edge, edge_at, args))
            return found

        return folded

    @device
    def put(address, values):
        if wide:
            write_vector(address, values)
        else:
            store(address, values[0])

    def writer(formula):
        @device
        def write(out, buffer, line, thread, args):
            """The formula of each of this thread's elements to where they stand in another row."""
            address, before, vectors, reach, edge_at, edge = line
            start = out + uint64(uint32(before)) * uint64(size)
            values, again = cuda.local.array(width, compute), cuda.local.array(words, word)
            if tail:
                at = thread + beyond
                if at < vectors:
                    at += (vectors - int32(1) - at) // int32(threads) * int32(threads)
                while at >= beyond and at < vectors:
                    if reach:
                        fetch(beside(address, at), again, 0)
                    else:
                        clear(again, 0)
                    for k in range(width):
                        values[k] = formula(value(again, k), before + at * width + k, args)
                    put(beside(start, at), values)
                    at -= int32(threads)
            mine = beside(start, thread)
            for v in range(vectors_held):
                at = thread + v * threads
                if at < vectors:
                    for k in range(width):
                        x = value(buffer, v * width + k)
                        values[k] = formula(x, before + at * width + k, args)
                    put(mine + uint64(v * stride), values)
            if wide:
                if edge_at >= 0:
                    store(
                        out + uint64(uint32(edge_at)) * uint64(size),
                        formula(edge, edge_at, args),
                    )

        return write

    return Row(vectors_held * words, word, place, read, peak, sums, fold, writer)


@device
def _itself(words, i):
    return words[i]


@functools.cache
def split_sum_of(element: Element) -> Function:
    """A function of m - x_y and of what `sums` found: Σ_{j≠y} e_j, e_y, Σ_{j≠max} e_j, 1 / s.

    Where y is a maximum, its 1 is one of those that were counted; else it is below them.
    """
    exp, one = element.exp, element.compute(1)

    @device
    def split_sum(margin, below, count):
        e_y, others = exp(-margin), below + (count - one)
        rest = others if e_y == one else (below - e_y) + count
        return rest, e_y, others, one / (rest + e_y)

    return split_sum
