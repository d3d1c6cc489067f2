"""Per-row device functions for two rows that are read side by side, such as logits and a vector.

Both are dealt out to the threads alike, see `fastxent.cuda.rows`: they begin at addresses that are
aligned alike, so that a thread holds the same columns of both.
"""

from typing import Any, NamedTuple

from numba import cuda, int32, uint32, uint64

from fastxent.cuda.elements import Element, Function, device
from fastxent.cuda.groups import ThreadPlan
from fastxent.cuda.rows import make_access


class Pair(NamedTuple):
    """A row and another one as its threads read them: the Line of each."""

    line: Any
    other: Any


def make_pair_fold(element: Element, plan: ThreadPlan, step: Function) -> Function:
    """fold(buffer, others, pair, thread, args, state): `state` after all elements of the thread.

    Each element makes of it step(state, x, v, column, args), v being that of the other row.
    """
    access, threads, held_vectors = make_access(element, plan), plan.threads, plan.vectors
    vector_at, fetch, value = access.vector_at, access.fetch, access.value
    width, words, word = access.width, access.words, access.word
    singles, streamed, collective = access.singles, plan.streamed, access.collective
    first_streamed = int32(threads * held_vectors)

    @device
    def fold(buffer, others, pair, thread, args, state):
        line, other = pair.line, pair.other
        for v in range(held_vectors):
            at = thread + v * threads
            if at < line.readable:
                for k in range(width):
                    column = line.head + at * width + k
                    if not collective or column < line.n_read:
                        x, y = value(buffer, v * width + k), value(others, v * width + k)
                        state = step(state, x, y, column, args)
        if streamed:
            words_x, words_y = cuda.local.array(words, word), cuda.local.array(words, word)
            at = thread + first_streamed
            while at < line.readable:
                fetch(vector_at(line.address, at), words_x, 0)
                fetch(vector_at(other.address, at), words_y, 0)
                for k in range(width):
                    column = line.head + at * width + k
                    if not collective or column < line.n_read:
                        x, y = value(words_x, k), value(words_y, k)
                        state = step(state, x, y, column, args)
                at += int32(threads)
        if singles:
            if line.single_at >= 0:
                state = step(state, line.single, other.single, line.single_at, args)
        return state

    return fold


def make_pair_writer(element: Element, plan: ThreadPlan, formula: Function) -> Function:
    """write(out, buffer, others, pair, thread, args): formula(x, v, column, args) to `out`.

    `out` is the address of a row that is aligned like the two, and may be either of them.
    """
    access, threads, held_vectors = make_access(element, plan), plan.threads, plan.vectors
    vector_at, fetch, clear, put = access.vector_at, access.fetch, access.clear, access.put
    value, width, words, word = access.value, access.width, access.words, access.word
    singles, streamed, collective = access.singles, plan.streamed, access.collective
    compute, size, store, begin = element.compute, element.size, element.store, access.begin
    zero = compute(0)
    first_streamed = int32(threads * held_vectors)

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
                    fetch(vector_at(other.address, at), words_y, 0)
                else:
                    clear(words_x, 0)
                    clear(words_y, 0)
                for k in range(width):
                    x, y = value(words_x, k), value(words_y, k)
                    column = line.head + at * width + k
                    exists = not collective or column < line.n
                    values[k] = formula(x, y, column, args) if exists else zero
                put(vector_at(address, at), values)
                at -= int32(threads)
        first = vector_at(address, thread)
        for v in range(held_vectors):
            at = thread + v * threads
            if collective or at < line.vectors:
                for k in range(width):
                    x, y = value(buffer, v * width + k), value(others, v * width + k)
                    column = line.head + at * width + k
                    exists = not collective or column < line.n
                    values[k] = formula(x, y, column, args) if exists else zero
                put(vector_at(first, v * threads), values)
        if singles:
            if line.single_at >= 0:
                store(
                    out + uint64(uint32(line.single_at)) * uint64(size),
                    formula(line.single, other.single, line.single_at, args),
                )

    return write
