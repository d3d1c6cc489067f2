"""Reductions over the threads of a row: part of a warp, a warp, or a block.

Threads of a warp exchange values by shuffles, in which all its threads take part whether they have
a row or not; warps exchange theirs once through shared memory. Each exchange has its own slots
there, so one barrier is enough: no thread overwrites what another may still read.
"""

import functools
from typing import NamedTuple

from numba import cuda, int32, uint32

from fastxent.cuda.elements import Function, device

WARP = 32
ALL = uint32(0xFFFFFFFF)  # the lanes of a warp


class ThreadPlan(NamedTuple):
    """How a kernel's threads are laid out on rows.

    `threads` a row, a power of 2; `rows` a block, 1 where a row takes more than a warp; `vectors`
    of 16 bytes that each thread holds in registers, or single elements if not `vectorised`; whether
    the rest of a row is `streamed`, read again in every scan; how many `blocks` a multiprocessor
    should have room for, which limits the registers of a thread; whether rows are `columns`: then
    the threads of a row are in as many warps, each of which has threads of 32 rows, see
    `fastxent.cuda.columns`; how many blocks form the `cluster` that shares a row.
    """

    threads: int
    vectors: int
    rows: int
    vectorised: bool
    streamed: bool
    blocks: int = 1
    columns: bool = False
    cluster: int = 1

    @property
    def is_warp(self) -> bool:
        """Whether a row's threads are within a warp, so that they exchange values by shuffles."""
        return self.threads == 1 if self.columns else self.threads <= WARP

    @property
    def slot(self) -> int:
        """The places in shared memory for an exchange between the warps of a block."""
        return self.block if self.columns and self.threads > 1 else WARP

    @property
    def block(self) -> int:
        """The threads of a block."""
        return self.threads * self.rows


def make_reduction(combine: Function, plan: ThreadPlan) -> Function:
    """reduce(value, shared, slot): the values of all threads of a row combined, in each of them.

    All threads get the same bits, as `combine` is commutative. `shared` has `plan.slot` places a
    slot.
    """
    if plan.columns:
        return make_column_reduction(combine, plan.threads, plan.block)
    return make_row_reduction(combine, plan.threads)


@functools.cache
def make_row_reduction(combine: Function, threads: int) -> Function:
    """The reduction over neighbouring threads, with 32 places a slot."""
    within_warp, among_warps = _offsets(min(threads, WARP)), _offsets(threads // WARP)
    warps = int32(threads // WARP)

    @device
    def over_warp(value, shared, slot):
        for offset in within_warp:
            value = combine(value, cuda.shfl_xor_sync(ALL, value, offset))
        return value

    @device
    def over_block(value, shared, slot):
        for offset in within_warp:
            value = combine(value, cuda.shfl_xor_sync(ALL, value, offset))
        lane, warp = cuda.threadIdx.x & 31, cuda.threadIdx.x >> 5
        if lane == 0:
            shared[slot * WARP + warp] = value
        cuda.syncthreads()  # before any thread reads the value of another warp
        value = shared[slot * WARP + (lane & (warps - 1))]
        for offset in among_warps:
            value = combine(value, cuda.shfl_xor_sync(ALL, value, offset))
        return value

    return over_block if threads > WARP else over_warp


@functools.cache
def make_column_reduction(combine: Function, threads: int, block: int) -> Function:
    """The reduction over threads of the same lane in as many warps, with a place for each thread.

    All threads combine the values in the same order, by fours: the error of a longer chain would
    grow with its length.
    """
    fours, in_four = max(1, threads // 4), min(4, threads)

    @device
    def reduce(value, shared, slot):
        if threads == 1:
            return value
        own = cuda.threadIdx.x
        shared[slot * block + own] = value
        cuda.syncthreads()  # before any thread reads the value of another warp
        first = slot * block + own // (threads * WARP) * (threads * WARP) + (own & 31)
        for k in range(fours):
            part = shared[first + 4 * k * WARP]
            for j in range(1, in_four):
                part = combine(part, shared[first + (4 * k + j) * WARP])
            value = combine(value, part) if k else part
        return value

    return reduce


def _offsets(threads: int) -> tuple[int, ...]:
    """The offsets of a butterfly over so many threads, a power of 2."""
    return tuple(1 << k for k in range(threads.bit_length() - 1))


@device
def add(a, b):
    """a + b."""
    return a + b


@device
def smaller(a, b):
    """The smaller integer."""
    return min(a, b)


@device
def add_exactly(a, b):
    """a + b of pairs (sum, rounding error of the sum), by Knuth's TwoSum."""
    total = a[0] + b[0]
    other = total - a[0]
    lost = (a[0] - (total - other)) + (b[0] - other)
    return total, (a[1] + b[1]) + lost


@device
def finite_sum(pair):
    """What `add_exactly` has added up; the rounding error of an infinite sum would be nan."""
    total, lost = pair
    nothing = total - total
    return total + lost if nothing == nothing else total


@functools.cache
def make_exact_sum(threads: int) -> Function:
    """reduce(total, lost, shared, slot): sums by `add_exactly` over all threads, in each of them.

    For rows of more than a warp; it takes two slots.
    """
    within_warp, among_warps = _offsets(WARP), _offsets(threads // WARP)
    warps = int32(threads // WARP)

    @device
    def reduce(total, lost, shared, slot):
        for offset in within_warp:
            other = cuda.shfl_xor_sync(ALL, total, offset), cuda.shfl_xor_sync(ALL, lost, offset)
            total, lost = add_exactly((total, lost), other)
        lane, warp = cuda.threadIdx.x & 31, cuda.threadIdx.x >> 5
        if lane == 0:
            shared[slot * WARP + warp], shared[(slot + 1) * WARP + warp] = total, lost
        cuda.syncthreads()  # before any thread reads the sums of another warp
        place = slot * WARP + (lane & (warps - 1))
        total, lost = shared[place], shared[place + WARP]
        for offset in among_warps:
            other = cuda.shfl_xor_sync(ALL, total, offset), cuda.shfl_xor_sync(ALL, lost, offset)
            total, lost = add_exactly((total, lost), other)
        return total, lost

    return reduce
