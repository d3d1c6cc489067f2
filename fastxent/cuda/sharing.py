"""What the blocks of a cluster that share a row tell each other; a block alone tells nothing.

Each block writes its numbers into the shared memory of all, `cells` of a slot per number and a
place per block. So one kernel does for rows on one block, and for rows on several.
"""

from typing import NamedTuple

from numba import cuda, int32, int64

from fastxent.cuda.elements import Element, Function, device
from fastxent.cuda.groups import ThreadPlan
from fastxent.cuda.intrinsics import cluster_arrive, cluster_wait, store_beside
from fastxent.cuda.rows import make_addressing


class Sharing(NamedTuple):
    """The functions of a kernel whose rows may be shared.

    begin() comes first, and begun() before the first tell(cells, slot, part, thread, value); behind
    meet() all have told. Then sum_of(cells, slot, value) and leading(cells, m, v) are the sum and
    the largest of all blocks, of which m and v come from slots 0 and 1. place(length, n_rows, n)
    is a thread's row, its number, and the number of the part, first column and length of what its
    block has of the row.
    """

    begin: Function
    begun: Function
    place: Function
    tell: Function
    meet: Function
    leading: Function
    sum_of: Function


def make_sharing(element: Element, plan: ThreadPlan) -> Sharing:
    """The functions for rows of these elements under a plan."""
    n_parts, is_shared, zero = plan.cluster, plan.cluster > 1, element.compute(0)
    row_place = make_addressing(element, plan).place

    @device
    def begin():
        if is_shared:
            cluster_arrive()  # this block has begun; the wait for the others comes where it matters

    @device
    def begun():
        if is_shared:
            cluster_wait()  # until all have: before, their shared memory does not exist

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
    def tell(cells, slot, part, thread, value):
        if is_shared:
            if thread < n_parts:
                store_beside(cells, int32(slot * n_parts) + part, value, thread)

    @device
    def meet():
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
    def sum_of(cells, slot, value):
        if is_shared:
            value = zero
            for k in range(n_parts):
                value += cells[slot * n_parts + k]
        return value

    return Sharing(begin, begun, place, tell, meet, leading, sum_of)
