"""Scans over a row, or over a pair of rows such as logits and probabilities.

Both rows of a pair are distributed over the threads in the same way (see `fastxent.cuda.rows`):
they have the same alignment, so that a thread holds the same columns of both. A scan that is not
`paired` reads the first row only.
"""

from typing import Any, NamedTuple

from numba import cuda, int32, uint32, uint64

from fastxent.cuda.elements import Element, Function, device, repeated
from fastxent.cuda.groups import ThreadPlan, add_exactly, finite_sum
from fastxent.cuda.layouts import make_access


class Pair(NamedTuple):
    """A row and another one as its threads read them: the Line of each."""

    line: Any
    other: Any


def make_fold(element: Element, plan: ThreadPlan, step: Function, paired: bool) -> Function:
    """fold(buffer, others, pair, thread, args, state): `state` after all elements of the thread.

    For each element, state = step(state, x, v, column, args), where v is that of the other row.
    """
    access, threads, per_thread = make_access(element, plan), plan.threads, plan.vectors
    vector_at, fetch, value = access.vector_at, access.fetch, access.value
    width, words, word = access.width, access.words, access.word
    singles, streamed, collective = access.singles, plan.streamed, access.collective
    first_streamed = int32(threads * per_thread)

    @device
    def step_vector(state, v, arguments):
        buffer, others, line, thread, args = arguments
        at = thread + v * threads
        if at < line.readable:
            for k in range(width):
                column = line.head + at * width + k
                if not collective or column < line.n_read:
                    x, y = value(buffer, v * width + k), value(others, v * width + k)
                    state = step(state, x, y, column, args)
        return state

    step_vectors = repeated(step_vector, per_thread)

    @device
    def fold(buffer, others, pair, thread, args, state):
        line, other = pair.line, pair.other
        if collective:  # see `repeated`; other loops are short enough
            state = step_vectors(state, 0, (buffer, others, line, thread, args))
        else:
            for v in range(per_thread):
                state = step_vector(state, v, (buffer, others, line, thread, args))
        if streamed:
            words_x, words_y = cuda.local.array(words, word), cuda.local.array(words, word)
            at = thread + first_streamed
            while at < line.readable:
                fetch(vector_at(line.address, at), words_x, 0)
                if paired:
                    fetch(vector_at(other.address, at), words_y, 0)
                for k in range(width):
                    column = line.head + at * width + k
                    if not collective or column < line.n_read:
                        x = value(words_x, k)
                        state = step(state, x, value(words_y, k) if paired else x, column, args)
                at += int32(threads)
        if singles:
            if line.single_at >= 0:
                state = step(state, line.single, other.single, line.single_at, args)
        return state

    return fold


def make_sums(element: Element, plan: ThreadPlan, formula: Function, paired: bool) -> Function:
    """sums(buffer, others, pair, thread, args): two sums over all elements of the thread.

    Of each element formula(x, v, column, args) is a pair of terms. A vector is added up by itself,
    the vectors exactly: in one chain equal terms would lose digits.
    """
    access, threads, per_thread = make_access(element, plan), plan.threads, plan.vectors
    vector_at, fetch, value = access.vector_at, access.fetch, access.value
    width, words, word, compute = access.width, access.words, access.word, element.compute
    singles, streamed, collective = access.singles, plan.streamed, access.collective
    first_streamed, zero = int32(threads * per_thread), compute(0)

    @device
    def with_vector(state, vectors, others, first, line, at, args):
        parts = cuda.local.array(4, compute)
        for k in range(4):
            parts[k] = zero
        for k in range(width):
            column = line.head + at * width + k
            if not collective or column < line.n_read:
                a, b = formula(value(vectors, first + k), value(others, first + k), column, args)
                parts[k & 1] += a
                parts[2 + (k & 1)] += b
        a, b = parts[0] + parts[1], parts[2] + parts[3]
        return add_exactly(state[0], (a, zero)), add_exactly(state[1], (b, zero))

    @device
    def add_vector(state, v, arguments):
        buffer, others, line, thread, args = arguments
        at = thread + v * threads
        if at < line.readable:
            state = with_vector(state, buffer, others, v * width, line, at, args)
        return state

    add_vectors = repeated(add_vector, per_thread)

    @device
    def sums(buffer, others, pair, thread, args):
        line, other, state = pair.line, pair.other, ((zero, zero), (zero, zero))
        state = add_vectors(state, 0, (buffer, others, line, thread, args))
        if streamed:
            words_x, words_y = cuda.local.array(words, word), cuda.local.array(words, word)
            at = thread + first_streamed
            while at < line.readable:
                fetch(vector_at(line.address, at), words_x, 0)
                if paired:
                    fetch(vector_at(other.address, at), words_y, 0)
                beside = words_y if paired else words_x
                state = with_vector(state, words_x, beside, 0, line, at, args)
                at += int32(threads)
        a, b = finite_sum(state[0]), finite_sum(state[1])
        if singles:
            if line.single_at >= 0:
                single = formula(line.single, other.single, line.single_at, args)
                a, b = a + single[0], b + single[1]
        return a, b

    return sums


def make_writer(element: Element, plan: ThreadPlan, formula: Function, paired: bool) -> Function:
    """write(out, buffer, others, pair, thread, args): formula(x, v, column, args) to `out`.

    `out` is the address of a row that is aligned like the two, and may be either of them.
    """
    access, threads, per_thread = make_access(element, plan), plan.threads, plan.vectors
    vector_at, fetch, clear, put = access.vector_at, access.fetch, access.clear, access.put
    value, width, words, word = access.value, access.width, access.words, access.word
    singles, streamed, collective = access.singles, plan.streamed, access.collective
    compute, size, store, begin = element.compute, element.size, element.store, access.begin
    first_streamed, zero = int32(threads * per_thread), compute(0)

    @device
    def write_vector(done, v, arguments):
        first, values, buffer, others, line, thread, args = arguments
        at = thread + v * threads
        if collective or at < line.vectors:
            for k in range(width):
                x, y = value(buffer, v * width + k), value(others, v * width + k)
                column = line.head + at * width + k
                exists = not collective or column < line.n
                values[k] = formula(x, y, column, args) if exists else zero
            put(vector_at(first, v * threads), values)
        return done

    write_vectors = repeated(write_vector, per_thread)

    @device
    def write(out, buffer, others, pair, thread, args):
        line, other = pair.line, pair.other
        address = begin(out, line)
        values = cuda.local.array(width, compute)
        if streamed:
            words_x, words_y = cuda.local.array(words, word), cuda.local.array(words, word)
            at = thread + first_streamed
            if at < line.vectors:
                at += (line.vectors - int32(1) - at) // int32(threads) * int32(threads)
            while at >= first_streamed and at < line.vectors:
                if line.readable:
                    fetch(vector_at(line.address, at), words_x, 0)
                    if paired:
                        fetch(vector_at(other.address, at), words_y, 0)
                else:
                    clear(words_x, 0)
                    clear(words_y, 0)
                for k in range(width):
                    x, column = value(words_x, k), line.head + at * width + k
                    exists, y = not collective or column < line.n, value(words_y, k)
                    y = y if paired else x
                    values[k] = formula(x, y, column, args) if exists else zero
                put(vector_at(address, at), values)
                at -= int32(threads)
        first = vector_at(address, thread)
        write_vectors(int32(0), 0, (first, values, buffer, others, line, thread, args))
        if singles:
            if line.single_at >= 0:
                store(
                    out + uint64(uint32(line.single_at)) * uint64(size),
                    formula(line.single, other.single, line.single_at, args),
                )

    return write
