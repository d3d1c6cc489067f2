"""Per-row device functions: vector loads into registers, unaligned ends, streamed remainder.

A row may begin at any address. The elements before the first address divisible by 16 (the unaligned
head) and those after the last whole vector (the unaligned end) are single ones, one a thread. The
vectors between are distributed cyclically: each thread holds its first few in registers. If there
are more, they are streamed: read again in every scan, the last time in reverse order, so
that the caches still hold what is read first.
"""

import functools
import math
from typing import Any, NamedTuple

from numba import cuda, int32, uint32, uint64

from fastxent.cuda.access import Line
from fastxent.cuda.columns import make_column_read
from fastxent.cuda.elements import Element, Function, device, make_exp
from fastxent.cuda.groups import ThreadPlan, add, add_exactly, make_reduction
from fastxent.cuda.layouts import make_access, make_addressing
from fastxent.cuda.scans import Pair, make_fold, make_sums, make_writer

# How many streamed vectors a thread loads before it uses the first: that hides their latency.
_AHEAD = 4


def make_read(element: Element, plan: ThreadPlan) -> Function:
    """read(row, n, thread, wanted, buffer): the Line of a row of n elements.

    The thread's first vectors go to the buffer: -inf where there is none, or the row is not wanted.
    """
    if plan.columns:
        return make_column_read(element, plan)
    access, threads, per_thread = make_access(element, plan), plan.threads, plan.vectors
    vector_at, fetch, clear = access.vector_at, access.fetch, access.clear
    vectorised, size, width, load = plan.vectorised, element.size, access.width, element.load
    minus_inf = element.compute(-math.inf)

    @device
    def read(row, n, thread, wanted, buffer):
        head = int32(0)
        if vectorised:
            past = row // uint64(size) % uint64(width)
            head = min(int32((uint64(width) - past) % uint64(width)), n)
        vectors = (n - head) // int32(width)
        readable = vectors if wanted else int32(0)
        address = row + uint64(uint32(head)) * uint64(size)
        first = vector_at(address, thread)
        for v in range(per_thread):
            if thread + v * threads < readable:
                fetch(vector_at(first, v * threads), buffer, v)
            else:
                clear(buffer, v)
        single_at, single = int32(-1), minus_inf
        if vectorised:
            if thread < head:
                single_at = thread
            elif thread < n - vectors * int32(width):
                single_at = thread + vectors * int32(width)
            if wanted and single_at >= 0:
                single = load(row + uint64(uint32(single_at)) * uint64(size))
        n_read = n if wanted else int32(0)
        return Line(address, head, vectors, readable, single_at, single, n, n_read)

    return read


def make_streamed_sums(element: Element, plan: ThreadPlan, scaled: bool) -> Function:
    """streamed_sums(line, thread, m, factor): the maximum of m and of the thread's streamed part.

    And the sums of the streamed part for that maximum, in one scan, as `make_exp_sums` has them.
    What is loaded at once is added up by itself, then added exactly: in one chain equal terms would
    lose digits.
    """
    access, threads, compute = make_access(element, plan), plan.threads, element.compute
    vector_at, fetch, clear = access.vector_at, access.fetch, access.clear
    value, width, word, collective = access.value, access.width, access.word, access.collective
    maximum, exp = element.maximum, make_exp(element, scaled)
    first_streamed, ahead_words = int32(threads * plan.vectors), _AHEAD * access.words
    minus_inf, zero, one = compute(-math.inf), compute(0), compute(1)

    @device
    def streamed_sums(line, thread, m, factor):
        ahead = cuda.local.array(ahead_words, word)
        parts = cuda.local.array(2, compute)
        below, lost, count = zero, zero, zero
        at = thread + first_streamed
        while at < line.readable:
            first = vector_at(line.address, at)
            for v in range(_AHEAD):
                if collective or at + v * threads < line.readable:
                    fetch(vector_at(first, v * threads), ahead, v)
                else:
                    clear(ahead, v)
            new = m
            for i in range(_AHEAD * width):
                new = maximum(new, value(ahead, i))
            if new > m:  # what was the maximum is below it now
                below, count = ((below + lost) + count) * exp(m - new, factor), zero
                m, lost = new, zero
            shift = m if m > minus_inf else zero  # -inf - (-inf) would be nan instead of -inf
            parts[0], parts[1] = zero, zero
            for i in range(_AHEAD * width):
                e = exp(value(ahead, i) - shift, factor)
                parts[i & 1] += zero if e == one else e
                count += one if e == one else zero
            below, lost = add_exactly((below, lost), (parts[0] + parts[1], zero))
            at += int32(_AHEAD * threads)
        return m, below + lost, count

    return streamed_sums


def make_row_maximum(element: Element, plan: ThreadPlan, scaled: bool) -> Function:
    """row_maximum(buffer, line, thread, factor, shared): m = max_j x_j.

    And the input of `exp_sums`: the maximum and the sums of the thread's streamed part.
    """
    access, maximum, streamed = make_access(element, plan), element.maximum, plan.streamed
    value, n_elements = access.value, plan.vectors * access.width
    largest = make_reduction(maximum, plan)
    streamed_sums, zero = make_streamed_sums(element, plan, scaled), element.compute(0)

    @device
    def row_maximum(buffer, line, thread, factor, shared):
        m = line.single
        for i in range(n_elements):
            m = maximum(m, value(buffer, i))
        m = largest(m, shared, 0)
        if not streamed:
            return m, (m, zero, zero)
        sums = streamed_sums(line, thread, m, factor)
        return largest(sums[0], shared, 1), sums

    return row_maximum


def make_exp_sums(element: Element, plan: ThreadPlan, scaled: bool) -> Function:
    """exp_sums(buffer, line, m, streamed_part, factor, shared): Σ exp(x_j - m), in two parts.

    The sum over what is below the maximum, and how often the maximum occurs: added to 1, the small
    numbers of a confident row would be lost.
    """
    access, is_warp = make_access(element, plan), plan.is_warp
    exp, compute = make_exp(element, scaled), element.compute
    value, n_elements = access.value, plan.vectors * access.width
    singles, streamed = access.singles, plan.streamed
    total, zero, one = make_reduction(add, plan), compute(0), compute(1)

    @device
    def exp_sums(buffer, line, m, streamed_part, factor, shared):
        # Four sums a thread: the error of a longer chain would grow with the length of the row.
        parts = cuda.local.array(4, compute)
        for k in range(4):
            parts[k] = zero
        streamed_m, below, count = streamed_part
        if streamed:
            if streamed_m < m:
                below, count = (below + count) * exp(streamed_m - m, factor), zero
        if singles:
            e = exp(line.single - m, factor)
            below += zero if e == one else e
            count += one if e == one else zero
        for i in range(n_elements):
            e = exp(value(buffer, i) - m, factor)
            parts[i & 3] += zero if e == one else e
            count += one if e == one else zero
        below += (parts[0] + parts[1]) + (parts[2] + parts[3])
        sums = total(below, shared, 2), total(count, shared, 3)
        # After this, threads write: all threads of the row have read it before. The barrier of a
        # block orders memory, but shuffles do not.
        if is_warp:
            cuda.syncwarp()
        return sums

    return exp_sums


def make_row_fold(
    element: Element, plan: ThreadPlan, formula: Function, combine: Function
) -> Function:
    """fold(buffer, line, thread, args, start): `start` combined with all elements of the thread.

    Each element enters as formula(x, column, args).
    """

    @device
    def step(state, x, v, column, args):
        return combine(state, formula(x, column, args))

    fold = make_fold(element, plan, step, paired=False)

    @device
    def row_fold(buffer, line, thread, args, start):
        return fold(buffer, buffer, Pair(line, line), thread, args, start)

    return row_fold


def make_row_sums(element: Element, plan: ThreadPlan, formula: Function) -> Function:
    """sums(buffer, line, thread, args): two sums over all elements, of formula(x, column, args)."""

    @device
    def of_pair(x, v, column, args):
        return formula(x, column, args)

    sums = make_sums(element, plan, of_pair, paired=False)

    @device
    def row_sums(buffer, line, thread, args):
        return sums(buffer, buffer, Pair(line, line), thread, args)

    return row_sums


def make_row_writer(element: Element, plan: ThreadPlan, formula: Function) -> Function:
    """write(out, buffer, line, thread, args): formula(x, column, args) of all elements to `out`.

    `out` is the address of a row that is aligned like the one that was read, and may be that row.
    """

    @device
    def of_pair(x, v, column, args):
        return formula(x, column, args)

    write = make_writer(element, plan, of_pair, paired=False)

    @device
    def row_write(out, buffer, line, thread, args):
        write(out, buffer, buffer, Pair(line, line), thread, args)

    return row_write


class Row(NamedTuple):
    """The functions that kernels call for rows of one element type under one plan.

    A buffer is `n_words` registers of type `word`. Compiled code knows no tuple of functions: a
    kernel takes those that it calls by names of its own.
    """

    plan: ThreadPlan
    n_words: int
    word: Any
    place: Function
    position: Function
    row_at: Function
    from_class: Function
    class_at: Function
    read: Function
    row_maximum: Function
    exp_sums: Function
    exp: Function
    make_fold: Function
    make_sums: Function
    make_writer: Function


_SCANS = make_row_fold, make_row_sums, make_row_writer


@functools.cache
def make_row(element: Element, plan: ThreadPlan, scaled: bool = False) -> Row:
    """The functions for rows of these elements under a plan; `scaled`: by a `parameters.Factor`."""
    access = make_access(element, plan)
    return Row(
        plan, plan.vectors * access.words, access.word, *make_addressing(element, plan),
        make_read(element, plan), make_row_maximum(element, plan, scaled),
        make_exp_sums(element, plan, scaled), make_exp(element, scaled),
        *(functools.partial(make, element, plan) for make in _SCANS),
    )  # fmt: skip


@functools.cache
def make_split_sum(element: Element, scaled: bool = False) -> Function:
    """split_sum(lead, factor, below, count): Σ_{j≠y} e_j, e_y, Σ_{j≠max} e_j, 1 / s.

    Of lead = m - x_y and of the results of `exp_sums`. Where y is a maximum, its 1 is one of those
    that were counted; else it is below them.
    """
    exp, one = make_exp(element, scaled), element.compute(1)

    @device
    def split_sum(lead, factor, below, count):
        e_y, others = exp(-lead, factor), below + (count - one)
        rest = others if e_y == one else (below - e_y) + count
        return rest, e_y, others, one / (rest + e_y)

    return split_sum
