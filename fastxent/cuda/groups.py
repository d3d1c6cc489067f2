"""Threads that share a row: a part of a warp, a warp, or a block; how they find a maximum or sum.

Within a warp by shuffles, in which all its threads take part whether they have a row or not; beyond
it by one exchange in shared memory. Each exchange has places of its own there, so one barrier is
enough: nobody overwrites what another may still read.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from numba import cuda, int32, uint32

from fastxent.cuda.elements import device

Function = Callable[..., Any]

WARP = 32
_ALL = uint32(0xFFFFFFFF)


class Plan(NamedTuple):
    """How a kernel's threads lie on rows.

    `threads` a row, a power of 2; `rows` a block, 1 where a row takes more than a warp; `vectors`
    of 16 bytes that each thread holds, or single elements if not `wide`; whether there is a `tail`
    that is not held; how many `blocks` a multiprocessor should have room for, by which registers
    are dealt out; of how many blocks a `cluster` is, all of them on one row.
    """

    threads: int
    vectors: int
    rows: int
    wide: bool
    tail: bool
    blocks: int = 1
    cluster: int = 1

    @property
    def block(self) -> int:
        """The threads of a block."""
        return self.threads * self.rows


@functools.cache
def reduction(combine: Function, threads: int) -> Function:
    """reduce(value, shared, slot): the values of all threads of a row combined, in each of them.

    They get the same bits, for `combine` is commutative. `shared` has 32 places a slot.
    """
    within, among = _offsets(min(threads, WARP)), _offsets(threads // WARP)
    warps = int32(threads // WARP)

    @device
    def over_warp(value, shared, slot):
        for offset in within:
            value = combine(value, cuda.shfl_xor_sync(_ALL, value, offset))
        return value

    @device
    def over_block(value, shared, slot):
        for offset in within:
            value = combine(value, cuda.shfl_xor_sync(_ALL, value, offset))
        lane, warp = cuda.threadIdx.x & 31, cuda.threadIdx.x >> 5
        if lane == 0:
            shared[slot * WARP + warp] = value
        cuda.syncthreads()  # before anybody reads what another warp has found
        value = shared[slot * WARP + (lane & (warps - 1))]
        for offset in among:
            value = combine(value, cuda.shfl_xor_sync(_ALL, value, offset))
        return value

    return over_block if threads > WARP else over_warp


def _offsets(threads: int) -> tuple[int, ...]:
    """By which a butterfly reaches all of so many threads, a power of 2."""
    return tuple(1 << k for k in range(threads.bit_length() - 1))


@device
def add(a, b):
    """a + b."""
    return a + b


@device
def add_exactly(a, b):
    """a + b of sums and what rounding has lost of each (Knuth's TwoSum)."""
    total = a[0] + b[0]
    other = total - a[0]
    lost = (a[0] - (total - other)) + (b[0] - other)
    return total, (a[1] + b[1]) + lost


@functools.cache
def exact_sum(threads: int) -> Function:
    """reduce(total, lost, shared, slot): sums by `add_exactly` of all threads, in each of them.

    Of more than a warp; two slots are used.
    """
    within, among = _offsets(WARP), _offsets(threads // WARP)
    warps = int32(threads // WARP)

    @device
    def reduce(total, lost, shared, slot):
        for offset in within:
            other = cuda.shfl_xor_sync(_ALL, total, offset), cuda.shfl_xor_sync(_ALL, lost, offset)
            total, lost = add_exactly((total, lost), other)
        lane, warp = cuda.threadIdx.x & 31, cuda.threadIdx.x >> 5
        if lane == 0:
            shared[slot * WARP + warp], shared[(slot + 1) * WARP + warp] = total, lost
        cuda.syncthreads()  # before anybody reads what another warp has found
        place = slot * WARP + (lane & (warps - 1))
        total, lost = shared[place], shared[place + WARP]
        for offset in among:
            other = cuda.shfl_xor_sync(_ALL, total, offset), cuda.shfl_xor_sync(_ALL, lost, offset)
            total, lost = add_exactly((total, lost), other)
        return total, lost

    return reduce
