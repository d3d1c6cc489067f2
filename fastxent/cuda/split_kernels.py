"""Rows that are few and long, each on several blocks: first the sums of their parts, then the rest.

Between the two kernels stands what all blocks of a row have to know: of each part its maximum, what
is below that, and how often it occurs; and the target's logit, for with grad over x it is gone when
the second one starts to write. The parts are read again from the L2 cache.
"""

import math

from numba import cuda, int32, int64, uint64

from fastxent.cuda.elements import device, numbers
from fastxent.cuda.kernels import (
    PLACES,
    aim_of,
    coefficients_of,
    is_class,
    kept,
    load_label,
    lse_of,
)
from fastxent.cuda.rows import row_of, split_sum_of
from fastxent.formulas import grad_at_target, log_sum, row_loss, shared_pull


def _part_of(size):
    """A function of a block: its row, where its part begins, and how long that is."""

    @device
    def part(length, n_parts, n):
        i = int64(cuda.blockIdx.x) // n_parts
        first = (int64(cuda.blockIdx.x) - i * n_parts) * length
        return i, first, uint64(first) * uint64(size), int32(min(length, n - first))

    return part


def split_sums_kernel(element, plan):
    """The sums of each part of a row, and the row's logit at its target."""
    row, number, size, load = row_of(element, plan), numbers(element), element.size, element.load
    _, read, peak, sums, held, word = row.parts()
    part, compute = _part_of(size), element.compute
    zero, one, minus_inf = compute(0), compute(1), compute(-math.inf)
    store_number, number_size = number.store, number.size

    # x (N, C) IN; labels (N,) of a kind IN; sums (N, parts, 3): m, below, count OUT; at_target
    # (N,) OUT
    def kernel(x, x_pitch, labels, kind, length, n_parts, n, found, at_target):
        i, first, on, count = part(length, n_parts, n)
        thread = int32(cuda.threadIdx.x)
        shared = cuda.shared.array(PLACES, compute)
        buffer = cuda.local.array(held, word)
        address = x + uint64(i) * x_pitch
        line = read(address + on, count, thread, True, buffer)
        m, behind = peak(buffer, line, thread, one, shared)
        shift = m if m > minus_inf else zero  # a part of -inf alone has sums of 0, not nan
        below, ones = sums(buffer, line, shift, behind, one, shared)
        if thread == 0:
            at = found + uint64(cuda.blockIdx.x) * uint64(3 * number_size)
            store_number(at, m)
            store_number(at + uint64(number_size), below)
            store_number(at + uint64(2 * number_size), ones)
            y = load_label(labels, kind, i)
            if is_class(y, n) and first <= y and y < first + int64(count):
                x_y = load(address + uint64(y) * uint64(size))
                store_number(at_target + uint64(i) * uint64(number_size), x_y)

    return kernel


def split_rows_kernel(element, plan):
    """The plain cross-entropy of rows whose parts have been summed."""
    row, number, size, exp = row_of(element, plan), numbers(element), element.size, element.exp
    _, read, _, _, held, word = row.parts()
    part, split_sum = _part_of(size), split_sum_of(element)
    maximum, compute = element.maximum, element.compute
    (weight_of, _), aim = coefficients_of(element, False), aim_of(element, False)
    load_number, store_number, number_size = number.load, number.store, number.size
    lse = lse_of(compute)
    zero, one, minus_inf = compute(0), compute(1), compute(-math.inf)

    @device
    def of_parts(found, n_parts):
        """The maximum and the sums of a row."""
        m, below, count = minus_inf, zero, zero
        for k in range(n_parts):
            m = maximum(m, load_number(found + uint64(k) * uint64(3 * number_size)))
        for k in range(n_parts):
            at = found + uint64(k) * uint64(3 * number_size)
            own = load_number(at)
            b, c = load_number(at + uint64(number_size)), load_number(at + uint64(2 * number_size))
            if own == m:
                below, count = below + b, count + c
            else:
                below += (b + c) * exp(own - m) if own > minus_inf else b
        return m, below, count

    @device
    def slope(x, column, args):
        m, scale, at_y, y = args
        return at_y if column == y else exp(x - m) * scale

    write = row.writer(slope)

    # As in `cross_entropy_kernel`; found, at_target as above IN
    def kernel(
        x, x_pitch, target, kind, ignoring, ignored, class_weight, sample_weight, inverse_at,
        inverse, z_loss, length, n_parts, n, found, at_target, loss, grad, grad_pitch,
    ):  # fmt: skip
        i, first, on, count = part(length, n_parts, n)
        thread, at = int32(cuda.threadIdx.x), uint64(i) * uint64(number_size)
        buffer = cuda.local.array(held, word)
        u, y, counted, blank = aim(target, kind, ignoring, ignored, sample_weight, i, n, True)
        scale = load_number(inverse_at) if inverse_at else inverse
        counted = counted and scale != zero
        line = read(x + uint64(i) * x_pitch + on, count, thread, counted, buffer)
        m, below, ones = of_parts(found + uint64(i) * uint64(n_parts * 3 * number_size), n_parts)
        weight, margin = zero, zero
        if counted:
            weight, margin = weight_of(class_weight, y), m - load_number(at_target + at)
        rest, e_y, others, inverse_s = split_sum(margin, below, ones)
        row_lse = lse(m, int32(0), math.log1p(others)) if z_loss else zero
        if thread == 0 and first == 0 and loss:
            log_s = log_sum(rest, e_y, one)
            value = u * row_loss(weight, zero, z_loss, margin, log_s, zero, row_lse, kept)
            store_number(loss + at, value if counted else blank)
        if grad:
            up, pull = u * scale, shared_pull(zero, zero, z_loss, row_lse)
            at_y = up * grad_at_target(weight, pull, zero, zero, rest, e_y, inverse_s)
            c = up * (weight + pull) * inverse_s
            if not counted:  # as in a row on one block
                m, c, at_y = zero, blank, blank
            args = (m, c, at_y, int32(int64(y) - first))
            write(grad + uint64(i) * grad_pitch + on, buffer, line, thread, args)

    return kernel
