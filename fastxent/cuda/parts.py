"""The maximum of a row and its sums of exponentials, from those of its parts, one a block.

The sums of a part are those for its own maximum, so that the blocks exchange numbers once.
"""

import math

from fastxent.cuda.elements import Element, Function, device
from fastxent.cuda.groups import add_exactly
from fastxent.cuda.rows import Row
from fastxent.cuda.sharing import Sharing

SUMS = 3  # the numbers of a part: its maximum, and the two sums of `rows.make_exp_sums`


def make_part_sums(element: Element, row: Row) -> Function:
    """part_sums(buffer, line, thread, shared): m, below, count of a part of a row."""
    row_maximum, exp_sums, compute = row.row_maximum, row.exp_sums, element.compute
    zero, one, minus_inf = compute(0), compute(1), compute(-math.inf)

    @device
    def part_sums(buffer, line, thread, shared):
        m, streamed_part = row_maximum(buffer, line, thread, one, shared)
        shift = m if m > minus_inf else zero  # the sums of a part of -inf are 0, not nan
        below, count = exp_sums(buffer, line, shift, streamed_part, one, shared)
        return m, below, count

    return part_sums


def make_merge(element: Element, part_of: Function) -> Function:
    """merge(sums, n_parts): the maximum and sums of a row from part_of(sums, k) of its parts."""
    maximum, exp, compute = element.maximum, element.exp, element.compute
    zero, minus_inf = compute(0), compute(-math.inf)

    @device
    def merge(sums, n_parts):
        m, below, count = minus_inf, (zero, zero), (zero, zero)
        for k in range(n_parts):
            m = maximum(m, part_of(sums, k)[0])
        for k in range(n_parts):
            part_m, part_below, part_count = part_of(sums, k)
            if part_m == m:
                count = add_exactly(count, (part_count, zero))
            elif part_m > minus_inf:
                part_below = (part_below + part_count) * exp(part_m - m)
            below = add_exactly(below, (part_below, zero))
        return m, below[0] + below[1], count[0] + count[1]

    return merge


def make_row_sums(element: Element, row: Row, sharing: Sharing) -> Function:
    """row_sums(buffer, line, thread, part, cells, shared): m, below, count of a row.

    `cells` are SUMS for each block that shares the row.
    """
    row_maximum, exp_sums, part_sums = row.row_maximum, row.exp_sums, make_part_sums(element, row)
    wait_for_start, publish, barrier = sharing.wait_for_start, sharing.publish, sharing.barrier
    n_parts = row.plan.cluster
    one = element.compute(1)

    @device
    def alone(buffer, line, thread, part, cells, shared):
        m, streamed_part = row_maximum(buffer, line, thread, one, shared)
        below, count = exp_sums(buffer, line, m, streamed_part, one, shared)
        return m, below, count

    @device
    def part_of(cells, k):
        return cells[k], cells[n_parts + k], cells[2 * n_parts + k]

    merge = make_merge(element, part_of)

    @device
    def together(buffer, line, thread, part, cells, shared):
        m, below, count = part_sums(buffer, line, thread, shared)
        wait_for_start()
        publish(cells, 0, part, thread, m)
        publish(cells, 1, part, thread, below)
        publish(cells, 2, part, thread, count)
        barrier()
        return merge(cells, n_parts)

    return together if n_parts > 1 else alone
