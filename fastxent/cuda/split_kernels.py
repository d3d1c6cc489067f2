"""Long rows, each on several blocks: on a cluster of them, or by two kernels where rows are few.

All blocks of a row have to know of each part its maximum, what is below that, and how often it
occurs; and the target's logit, for with grad over x it is gone when others start to write. The
blocks of a cluster tell each other. Two kernels leave it in memory between them, and the second one
reads the parts again from the L2 cache; but they take as many blocks to a row as there are.
"""

import math

from numba import cuda, int32, int64, uint32, uint64

from fastxent.cuda.elements import device, numbers
from fastxent.cuda.intrinsics import cluster_arrive, cluster_wait, store_beside
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
from fastxent.formulas import grad_at_target, log_sum, prob_coefficient, row_loss


def _part_of(size):
    """A function of a block: its row, where its part begins, and how long that is."""

    @device
    def part(length, n_parts, n):
        i = int64(cuda.blockIdx.x) // n_parts
        first = (int64(cuda.blockIdx.x) - i * n_parts) * length
        return i, first, uint64(first) * uint64(size), int32(max(min(length, n - first), 0))

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


def merging(element, part):
    """A function of what `part(found, k)` says of each part: the maximum and the sums of a row."""
    maximum, exp, compute = element.maximum, element.exp, element.compute
    zero, minus_inf = compute(0), compute(-math.inf)

    @device
    def merge(found, n_parts):
        m, below, count = minus_inf, zero, zero
        for k in range(n_parts):
            m = maximum(m, part(found, k)[0])
        for k in range(n_parts):
            own, b, c = part(found, k)
            if own == m:
                below, count = below + b, count + c
            else:
                below += (b + c) * exp(own - m) if own > minus_inf else b
        return m, below, count

    return merge


def ending_of(element, row):
    """A function of a block that knows the sums of its row: the loss, and its part of the gradient.

    loss, grad are addresses of the row's loss and of the part, or 0.
    """
    compute, exp, store_number = element.compute, element.exp, numbers(element).store
    (weight_of, _), split_sum = coefficients_of(element, False), split_sum_of(element)
    lse, zero, one = lse_of(compute), compute(0), compute(1)

    @device
    def slope(x, column, args):
        m, scale, at_y, y = args
        return at_y if column == y else exp(x - m) * scale

    write = row.writer(slope)

    @device
    def end(first, line, buffer, thread, sums, aim, class_weight, x_y, scale, z_loss, loss, grad):
        (m, below, ones), (u, y, counted, blank) = sums, aim
        weight, margin = zero, zero
        if counted:
            weight, margin = weight_of(class_weight, y), m - x_y
        rest, e_y, others, inverse_s = split_sum(margin, below, ones)
        row_lse = lse(m, int32(0), math.log1p(others)) if z_loss else zero
        if thread == 0 and first == 0 and loss:
            log_s = log_sum(rest, e_y, one)
            value = u * row_loss(weight, zero, z_loss, margin, log_s, zero, row_lse, kept)
            store_number(loss, value if counted else blank)
        if grad:
            up, pull = u * scale, prob_coefficient(zero, zero, z_loss, row_lse)
            at_y = up * grad_at_target(weight, pull, zero, zero, rest, e_y, inverse_s)
            c = up * (weight + pull) * inverse_s
            if not counted:  # as in a row on one block
                m, c, at_y = zero, blank, blank
            write(grad, buffer, line, thread, (m, c, at_y, int32(int64(y) - first)))

    return end


def split_rows_kernel(element, plan):
    """The plain cross-entropy of rows whose parts have been summed."""
    row, number, size = row_of(element, plan), numbers(element), element.size
    _, read, _, _, held, word = row.parts()
    part, aim_at, end = _part_of(size), aim_of(element, False), ending_of(element, row)
    load_number, number_size = number.load, number.size
    zero = element.compute(0)

    @device
    def part_there(found, k):
        at = found + uint64(k) * uint64(3 * number_size)
        below = load_number(at + uint64(number_size))
        return load_number(at), below, load_number(at + uint64(2 * number_size))

    merge = merging(element, part_there)

    # As in `cross_entropy_kernel`; found, at_target as above IN
    def kernel(
        x, x_pitch, target, kind, ignoring, ignored, class_weight, sample_weight, inverse_at,
        inverse, z_loss, length, n_parts, n, found, at_target, loss, grad, grad_pitch,
    ):  # fmt: skip
        i, first, on, count = part(length, n_parts, n)
        thread, at = int32(cuda.threadIdx.x), uint64(i) * uint64(number_size)
        buffer = cuda.local.array(held, word)
        u, y, counted, blank = aim_at(target, kind, ignoring, ignored, sample_weight, i, n, True)
        scale = load_number(inverse_at) if inverse_at else inverse
        counted = counted and scale != zero
        line = read(x + uint64(i) * x_pitch + on, count, thread, counted, buffer)
        sums = merge(found + uint64(i) * uint64(n_parts * 3 * number_size), n_parts)
        x_y = load_number(at_target + at) if counted else zero
        end(
            first, line, buffer, thread, sums, (u, y, counted, blank), class_weight, x_y, scale,
            z_loss, loss + at if loss else loss,
            grad + uint64(i) * grad_pitch + on if grad else grad,
        )  # fmt: skip

    return kernel


def cluster_rows_kernel(element, plan):
    """The plain cross-entropy of rows on clusters of blocks, which hold all of it between them.

    Each block writes what it found into the shared memory of all; nothing is read twice.
    """
    row, number, size, load = row_of(element, plan), numbers(element), element.size, element.load
    _, read, peak, sums, held, word = row.parts()
    part, aim_at, end = _part_of(size), aim_of(element, False), ending_of(element, row)
    load_number, number_size, compute = number.load, number.size, element.compute
    zero, one, minus_inf = compute(0), compute(1), compute(-math.inf)
    n_parts, places = plan.cluster, 3 * plan.cluster

    @device
    def part_there(found, k):
        return found[3 * k], found[3 * k + 1], found[3 * k + 2]

    merge = merging(element, part_there)

    # As in `cross_entropy_kernel`; length: of a part
    def kernel(
        x, x_pitch, target, kind, ignoring, ignored, class_weight, sample_weight, inverse_at,
        inverse, z_loss, length, n, loss, grad, grad_pitch,
    ):  # fmt: skip
        cluster_arrive()  # this block has begun; whether the others have is asked where it matters
        i, first, on, count = part(length, n_parts, n)
        thread = int32(cuda.threadIdx.x)
        shared = cuda.shared.array(PLACES, compute)
        found = cuda.shared.array(places, compute)
        buffer = cuda.local.array(held, word)
        u, y, counted, blank = aim_at(target, kind, ignoring, ignored, sample_weight, i, n, True)
        scale = load_number(inverse_at) if inverse_at else inverse
        counted = counted and scale != zero
        address = x + uint64(i) * x_pitch
        line = read(address + on, count, thread, counted, buffer)
        # Read now: with grad over x another block may overwrite it once it is past the barrier.
        x_y = load(address + uint64(uint32(y)) * uint64(size)) if counted else zero
        m, behind = peak(buffer, line, thread, one, shared)
        shift = m if m > minus_inf else zero  # a part of -inf alone has sums of 0, not nan
        below, ones = sums(buffer, line, shift, behind, one, shared)
        cluster_wait()  # for all blocks to have begun: before, their memory is not there
        if thread < n_parts:
            own = int32(3 * (first // length))
            store_beside(found, own, m, thread)
            store_beside(found, own + int32(1), below, thread)
            store_beside(found, own + int32(2), ones, thread)
        cluster_arrive()  # nobody merges before all have stored what they found
        cluster_wait()
        end(
            first, line, buffer, thread, merge(found, n_parts), (u, y, counted, blank),
            class_weight, x_y, scale, z_loss,
            loss + uint64(i) * uint64(number_size) if loss else loss,
            grad + uint64(i) * grad_pitch + on if grad else grad,
        )  # fmt: skip

    return kernel
