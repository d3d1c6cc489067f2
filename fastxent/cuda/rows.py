"""Per-row device functions: vector loads into registers, unaligned ends, streamed remainder.

A row may begin at any address. The elements before the first address divisible by 16 (the unaligned
head) and those behind the last whole vector (the unaligned end) are single ones, one a thread. The
vectors between are dealt out to the threads in turns: each thread holds its first few in registers.
If there are more, they are streamed: read again in every scan, the last time in reverse order, so
that the caches still hold what is read first.
"""

import functools
import math
from typing import Any, NamedTuple

from numba import cuda, int32, int64, uint32, uint64

from fastxent.cuda.elements import VECTOR_BYTES, Element, Function, device, make_exp, word_value
from fastxent.cuda.groups import WARP, ThreadPlan, add, add_exactly, finite_sum, make_reduction
from fastxent.cuda.intrinsics import load_vector

# How many streamed vectors a thread loads before it uses the first: that hides their latency.
_AHEAD = 4


class Line(NamedTuple):
    """A row as its threads read it.

    `address` is that of its first whole vector, `head` the number of elements before that;
    `vectors` how many vectors there are, `readable` how many of them are to be read;
    `single_at` the column of this thread's unaligned element, -1 without one, and `single` its
    value.
    """

    address: Any
    head: Any
    vectors: Any
    readable: Any
    single_at: Any
    single: Any


class Access(NamedTuple):
    """How the elements of a row are addressed and moved, a vector at a time or one by one.

    A vector is `words` registers of type `word` with `width` elements, `step` bytes; a thread's
    vectors are `stride` bytes apart. value(words, i) is an element in registers.
    vector_at(address, k) is the address of vector k, fetch(address, buffer, v) loads a vector into
    slot v of a buffer, clear(buffer, v) fills that with -inf, put(address, values) stores a vector.
    """

    width: int
    words: int
    word: Any
    step: int
    stride: int
    value: Function
    vector_at: Function
    fetch: Function
    clear: Function
    put: Function


@functools.cache
def make_access(element: Element, plan: ThreadPlan) -> Access:
    """How rows of these elements are accessed under a plan."""
    vectorised, load, store, write = plan.vectorised, element.load, element.store, element.write
    if vectorised:
        width, words, word, step = element.width, element.words, element.word, VECTOR_BYTES
        value, minus_inf = element.value, element.minus_inf
    else:
        width, words, word, step = 1, 1, element.compute, element.size
        value, minus_inf = word_value, element.compute(-math.inf)

    @device
    def vector_at(address, k):
        # From the address of a thread's first vector those of its others are a constant away:
        # computed anew, each would take registers of its own.
        return address + uint64(uint32(k)) * uint64(step)

    @device
    def fetch(address, buffer, v):
        if vectorised:
            load_vector(address, buffer, int32(v * words))
        else:
            buffer[v] = load(address)

    @device
    def clear(buffer, v):
        for k in range(words):
            buffer[v * words + k] = minus_inf

    @device
    def put(address, values):
        if vectorised:
            write(address, values)
        else:
            store(address, values[0])

    stride = plan.threads * step
    return Access(width, words, word, step, stride, value, vector_at, fetch, clear, put)


def make_place(plan: ThreadPlan) -> Function:
    """place(): the row of this thread, and its number among the threads of the row."""
    threads, rows = plan.threads, plan.rows

    @device
    def place():
        thread = cuda.threadIdx.x
        if rows == 1:
            return int64(cuda.blockIdx.x), int32(thread)
        return int64(cuda.blockIdx.x) * rows + thread // threads, int32(thread % threads)

    return place


def make_read(element: Element, plan: ThreadPlan) -> Function:
    """read(row, n, thread, wanted, buffer): the Line of a row of n elements.

    The thread's first vectors go to the buffer: -inf where there is none, or the row is not wanted.
    """
    access, threads, held_vectors = make_access(element, plan), plan.threads, plan.vectors
    vector_at, fetch, clear, stride = access.vector_at, access.fetch, access.clear, access.stride
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
        for v in range(held_vectors):
            if thread + v * threads < readable:
                fetch(first + uint64(v * stride), buffer, v)
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
        return Line(address, head, vectors, readable, single_at, single)

    return read


def make_streamed_sums(element: Element, plan: ThreadPlan, scaled: bool) -> Function:
    """streamed_sums(line, thread, m, factor): the maximum of m and of the thread's streamed part.

    And the sums of the streamed part for that maximum, in one scan, as `make_exp_sums` has them.
    What is loaded at once is added up by itself, then added exactly: in one chain equal terms would
    lose digits.
    """
    access, threads, compute = make_access(element, plan), plan.threads, element.compute
    vector_at, fetch, clear, stride = access.vector_at, access.fetch, access.clear, access.stride
    value, width, word = access.value, access.width, access.word
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
                if at + v * threads < line.readable:
                    fetch(first + uint64(v * stride), ahead, v)
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

    And what `exp_sums` continues from: the maximum and the sums of the thread's streamed part.
    """
    access, maximum, streamed = make_access(element, plan), element.maximum, plan.streamed
    value, n_held = access.value, plan.vectors * access.width
    largest = make_reduction(maximum, plan.threads)
    streamed_sums, zero = make_streamed_sums(element, plan, scaled), element.compute(0)

    @device
    def row_maximum(buffer, line, thread, factor, shared):
        m = line.single
        for i in range(n_held):
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
    access, threads = make_access(element, plan), plan.threads
    exp, compute = make_exp(element, scaled), element.compute
    value, n_held = access.value, plan.vectors * access.width
    vectorised, streamed = plan.vectorised, plan.streamed
    total, zero, one = make_reduction(add, threads), compute(0), compute(1)

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
        if vectorised:
            e = exp(line.single - m, factor)
            below += zero if e == one else e
            count += one if e == one else zero
        for i in range(n_held):
            e = exp(value(buffer, i) - m, factor)
            parts[i & 3] += zero if e == one else e
            count += one if e == one else zero
        below += (parts[0] + parts[1]) + (parts[2] + parts[3])
        sums = total(below, shared, 2), total(count, shared, 3)
        # Behind this, threads write: all of the row have read what they read of it before. The
        # barrier of a block orders memory, but shuffles do not.
        if threads <= WARP:
            cuda.syncwarp()
        return sums

    return exp_sums


def make_fold(element: Element, plan: ThreadPlan, formula: Function, combine: Function) -> Function:
    """fold(buffer, line, thread, args, start): `start` combined with all elements of the thread.

    Of each element formula(x, column, args) is taken.
    """
    access, threads, held_vectors = make_access(element, plan), plan.threads, plan.vectors
    vector_at, fetch, value = access.vector_at, access.fetch, access.value
    width, words, word = access.width, access.words, access.word
    vectorised, streamed = plan.vectorised, plan.streamed
    first_streamed = int32(threads * held_vectors)

    @device
    def fold(buffer, line, thread, args, start):
        streamed_words, result = cuda.local.array(words, word), start
        for v in range(held_vectors):
            at = thread + v * threads
            if at < line.readable:
                for k in range(width):
                    x = value(buffer, v * width + k)
                    result = combine(result, formula(x, line.head + at * width + k, args))
        if streamed:
            at = thread + first_streamed
            while at < line.readable:
                fetch(vector_at(line.address, at), streamed_words, 0)
                for k in range(width):
                    x = value(streamed_words, k)
                    result = combine(result, formula(x, line.head + at * width + k, args))
                at += int32(threads)
        if vectorised:
            if line.single_at >= 0:
                result = combine(result, formula(line.single, line.single_at, args))
        return result

    return fold


def make_sums(element: Element, plan: ThreadPlan, formula: Function) -> Function:
    """sums(buffer, line, thread, args): two sums over all elements of the thread.

    Of each element formula(x, column, args) is a pair of terms. A vector is added up by itself, the
    vectors exactly: in one chain equal terms would lose digits.
    """
    access, threads, held_vectors = make_access(element, plan), plan.threads, plan.vectors
    vector_at, fetch, value = access.vector_at, access.fetch, access.value
    width, words, word, compute = access.width, access.words, access.word, element.compute
    vectorised, streamed, zero = plan.vectorised, plan.streamed, compute(0)
    first_streamed = int32(threads * held_vectors)

    @device
    def with_vector(state, vectors, first, column, args):
        parts = cuda.local.array(4, compute)
        for k in range(4):
            parts[k] = zero
        for k in range(width):
            a, b = formula(value(vectors, first + k), column + k, args)
            parts[k & 1] += a
            parts[2 + (k & 1)] += b
        a, b = parts[0] + parts[1], parts[2] + parts[3]
        return add_exactly(state[0], (a, zero)), add_exactly(state[1], (b, zero))

    @device
    def sums(buffer, line, thread, args):
        state = (zero, zero), (zero, zero)
        for v in range(held_vectors):
            at = thread + v * threads
            if at < line.readable:
                state = with_vector(state, buffer, v * width, line.head + at * width, args)
        if streamed:
            streamed_words, at = cuda.local.array(words, word), thread + first_streamed
            while at < line.readable:
                fetch(vector_at(line.address, at), streamed_words, 0)
                state = with_vector(state, streamed_words, 0, line.head + at * width, args)
                at += int32(threads)
        a, b = finite_sum(state[0]), finite_sum(state[1])
        if vectorised:
            if line.single_at >= 0:
                single = formula(line.single, line.single_at, args)
                a, b = a + single[0], b + single[1]
        return a, b

    return sums


def make_writer(element: Element, plan: ThreadPlan, formula: Function) -> Function:
    """write(out, buffer, line, thread, args): formula(x, column, args) of all elements to `out`.

    `out` is the address of a row that is aligned like the one that was read, and may be that row.
    """
    access, threads, held_vectors = make_access(element, plan), plan.threads, plan.vectors
    vector_at, fetch, clear, put = access.vector_at, access.fetch, access.clear, access.put
    value, width, words, word = access.value, access.width, access.words, access.word
    stride, vectorised, streamed = access.stride, plan.vectorised, plan.streamed
    compute, size, store = element.compute, element.size, element.store
    first_streamed = int32(threads * held_vectors)

    @device
    def write(out, buffer, line, thread, args):
        address = out + uint64(uint32(line.head)) * uint64(size)
        values, streamed_words = cuda.local.array(width, compute), cuda.local.array(words, word)
        if streamed:
            at = thread + first_streamed
            if at < line.vectors:
                at += (line.vectors - int32(1) - at) // int32(threads) * int32(threads)
            while at >= first_streamed and at < line.vectors:
                if line.readable:
                    fetch(vector_at(line.address, at), streamed_words, 0)
                else:
                    clear(streamed_words, 0)
                for k in range(width):
                    x = value(streamed_words, k)
                    values[k] = formula(x, line.head + at * width + k, args)
                put(vector_at(address, at), values)
                at -= int32(threads)
        first = vector_at(address, thread)
        for v in range(held_vectors):
            at = thread + v * threads
            if at < line.vectors:
                for k in range(width):
                    x = value(buffer, v * width + k)
                    values[k] = formula(x, line.head + at * width + k, args)
                put(first + uint64(v * stride), values)
        if vectorised:
            if line.single_at >= 0:
                store(
                    out + uint64(uint32(line.single_at)) * uint64(size),
                    formula(line.single, line.single_at, args),
                )

    return write


class Row(NamedTuple):
    """The functions that kernels call for rows of one element type under one plan.

    A buffer is `n_words` registers of type `word`. Compiled code knows no tuple of functions: a
    kernel takes those that it calls by names of its own.
    """

    plan: ThreadPlan
    n_words: int
    word: Any
    place: Function
    read: Function
    row_maximum: Function
    exp_sums: Function
    exp: Function
    make_fold: Function
    make_sums: Function
    make_writer: Function


@functools.cache
def make_row(element: Element, plan: ThreadPlan, scaled: bool = False) -> Row:
    """The functions for rows of these elements under a plan; `scaled`: by a `parameters.Factor`."""
    access = make_access(element, plan)
    return Row(
        plan, plan.vectors * access.words, access.word, make_place(plan), make_read(element, plan),
        make_row_maximum(element, plan, scaled), make_exp_sums(element, plan, scaled),
        make_exp(element, scaled), functools.partial(make_fold, element, plan),
        functools.partial(make_sums, element, plan), functools.partial(make_writer, element, plan),
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
