"""Exchange numbers between the blocks of a cluster that share a row; no-op for a single block.

Each block writes its numbers into the shared memory of all blocks: `cells` have a slot per number
with a place per block. So one kernel serves rows on one block and rows on several.
"""

import math
from typing import NamedTuple

from numba import cuda, int32, int64

from fastxent.cuda.elements import Element, Function, device
from fastxent.cuda.groups import ThreadPlan
from fastxent.cuda.intrinsics import cluster_arrive, cluster_wait, store_beside
from fastxent.cuda.layouts import make_addressing

NOT_THERE = int32(2**31 - 1)  # the column if a part of a row does not contain it


class Sharing(NamedTuple):
    """The functions of a kernel whose rows may be shared.

    A kernel calls arrive() first, and wait_for_start() before the first
    publish(cells, slot, part, thread, value), which writes a number to all blocks; after barrier()
    all numbers are there. Then sum_of(cells, slot, value) is the sum over all blocks, and
    leading(cells, m, v) the m and v (slots 0 and 1) of the block with the largest m.
    first_top(cells, tops, part, thread, m, top, first) publishes a block's maximum and the result
    of `softmax_kernels.make_first_top` and returns those of the row. place(length, n_rows, n) is a
    thread's row, its number, and the number, first column and length of its block's part of the
    row.
    """

    arrive: Function
    wait_for_start: Function
    place: Function
    publish: Function
    barrier: Function
    leading: Function
    first_top: Function
    sum_of: Function


def make_sharing(element: Element, plan: ThreadPlan) -> Sharing:
    """The functions for rows of these elements under a plan."""
    n_parts, is_shared, zero = plan.cluster, plan.cluster > 1, element.compute(0)
    row_place, maximum = make_addressing(element, plan).place, element.maximum
    minus_inf = element.compute(-math.inf)

    @device
    def arrive():
        if is_shared:
            cluster_arrive()  # this block has started; `wait_for_start` waits for the others

    @device
    def wait_for_start():
        if is_shared:
            cluster_wait()  # until all have started: before, their shared memory does not exist

    @device
    def place(length, n_rows, n):
        if is_shared:
            i = int64(cuda.blockIdx.x) // n_parts
            part = int64(cuda.blockIdx.x) - i * n_parts
            first = part * length
            count = int32(max(min(length, n - first), 0))
            return i, int32(cuda.threadIdx.x), int32(part), first, count
        i, thread = row_place()
        return i, thread, int32(0), int64(0), int32(n) if i < n_rows else int32(0)

    @device
    def publish(cells, slot, part, thread, value):
        if is_shared:
            if thread < n_parts:
                store_beside(cells, int32(slot * n_parts) + part, value, thread)

    @device
    def barrier():
        if is_shared:
            cluster_arrive()
            cluster_wait()

    @device
    def leading(cells, m, v):
        if is_shared:
            m, v = cells[0], cells[n_parts]
            for k in range(1, n_parts):
                if cells[k] > m:
                    m, v = cells[k], cells[n_parts + k]
        return m, v

    @device
    def first_top(cells, tops, part, thread, m, top, first):
        if is_shared:
            wait_for_start()
            publish(cells, 0, part, thread, m)
            publish(tops, 0, part, thread, top if top == NOT_THERE else top + int32(first))
            barrier()
            m = minus_inf
            for k in range(n_parts):
                m = maximum(m, cells[k])
            top = NOT_THERE
            for k in range(n_parts):
                if cells[k] == m or tops[k] < 0:  # a part that holds nan counts, whatever its m
                    top = min(top, tops[k])
        return m, top

    @device
    def sum_of(cells, slot, value):
        if is_shared:
            value = zero
            for k in range(n_parts):
                value += cells[slot * n_parts + k]
        return value

    return Sharing(arrive, wait_for_start, place, publish, barrier, leading, first_top, sum_of)
