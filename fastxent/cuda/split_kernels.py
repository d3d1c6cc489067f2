"""The cross-entropy kernels of long rows: several blocks a row, as a cluster or by two kernels.

All blocks of a row need the maximum and the sums of each part of it, and the target's logit: where
grad overlaps x it is overwritten once blocks start to write. The blocks of a cluster write these
into each other's shared memory. Of two kernels the first leaves them in global memory and the
second reads the parts again, from the L2 cache; but a row has as many blocks as it has parts.
"""

import math

from numba import cuda, int32, int64, uint32, uint64

from fastxent.cuda.elements import device, number_type
from fastxent.cuda.groups import WARP
from fastxent.cuda.kernels import options_of
from fastxent.cuda.loss_terms import Coefficients, loss_value, make_gradient_terms
from fastxent.cuda.parameters import Address, Integer, Inverse, Labels, Number, Rows
from fastxent.cuda.parts import SUMS, make_merge, make_part_sums, make_row_sums
from fastxent.cuda.rows import make_row, make_split_sum
from fastxent.cuda.sharing import make_sharing
from fastxent.cuda.softmax_kernels import SLOTS, make_lse
from fastxent.cuda.targets import (
    CheckedTarget,
    is_class,
    load_label,
    make_check_target,
    make_class_weight,
    make_inverse,
)
from fastxent.formulas import log_sum
from fastxent.options import Options
from fastxent.results import Outputs

# The options and outputs that these kernels support.
OPTIONS, OUTPUTS = {"z_loss"}, {"loss", "grad"}
_DEFAULTS = options_of(Options(), 1)
_N_SHARED = SLOTS * WARP


def are_enough(soft: bool, options: dict[str, float], outputs: Outputs) -> bool:
    """Whether these kernels support a call: labels, and only these options and outputs."""
    pairs = zip(Outputs._fields, outputs, strict=True)
    requested = {name for name, array in pairs if array is not None}
    changed = {name for name, value in options.items() if value != _DEFAULTS.get(name)}
    return not soft and requested <= OUTPUTS and changed <= OPTIONS


def make_part(size):
    """part(length, n_parts, n): a block's row, its part's first element, offset and length."""

    @device
    def part(length, n_parts, n):
        i = int64(cuda.blockIdx.x) // n_parts
        first = (int64(cuda.blockIdx.x) - i * n_parts) * length
        return i, first, uint64(first) * uint64(size), int32(max(min(length, n - first), 0))

    return part


def make_split_sums_kernel(element, plan):
    """The sums of each part of a row, and the row's logit at its target."""
    row, number, compute = make_row(element, plan), number_type(element), element.compute
    read, n_words, word, size, load = row.read, row.n_words, row.word, element.size, element.load
    part, part_sums = make_part(size), make_part_sums(element, row)
    store_number, number_size = number.store, number.size

    # x (N, C) IN; labels (N,) IN; sums (N, parts, 3): m, below, count OUT; at_target (N,) OUT
    def kernel(
        x: Rows, labels: Labels, length: Integer, n_parts: Integer, n: Integer, sums: Address,
        at_target: Address,
    ):  # fmt: skip
        i, first, offset, count = part(length, n_parts, n)
        thread = int32(cuda.threadIdx.x)
        shared = cuda.shared.array(_N_SHARED, compute)
        buffer = cuda.local.array(n_words, word)
        x_row = x.address + uint64(i) * x.pitch
        line = read(x_row + offset, count, thread, True, buffer)
        m, below, ones = part_sums(buffer, line, thread, shared)
        if thread == 0:
            at = sums + uint64(cuda.blockIdx.x) * uint64(3 * number_size)
            store_number(at, m)
            store_number(at + uint64(number_size), below)
            store_number(at + uint64(2 * number_size), ones)
            y = load_label(labels.address, labels.kind, i)
            if is_class(y, n) and first <= y and y < first + int64(count):
                x_y = load(x_row + uint64(y) * uint64(size))
                store_number(at_target + uint64(i) * uint64(number_size), x_y)

    return kernel


def make_finish(element, row):
    """finish(...): the row's loss, and a block's part of the gradient, from the sums of the row.

    loss and grad are addresses of the row's loss and of the part of the gradient, or 0.
    """
    exp, store_number, compute = element.exp, number_type(element).store, element.compute
    class_weight_of, split_sum = make_class_weight(element), make_split_sum(element)
    gradient_terms, lse_of = make_gradient_terms(element), make_lse(compute)
    zero, one = compute(0), compute(1)

    @device
    def grad_formula(x, column, args):
        m, scale, at_y, y = args
        return at_y if column == y else exp(x - m) * scale

    write = row.make_writer(grad_formula)

    @device
    def finish(
        first, line, buffer, thread, sums, checked, class_weight, x_y, scale, z_loss, loss, grad
    ):
        m, below, ones = sums
        w_y, lead = zero, zero
        if checked.active:
            w_y, lead = class_weight_of(class_weight, checked.y), m - x_y
        coefs = Coefficients(w_y, zero, zero, w_y)
        rest, e_y, others, inverse_s = split_sum(lead, one, below, ones)
        lse = lse_of(m, int32(0), math.log1p(others)) if z_loss else zero
        if thread == 0 and first == 0 and loss:
            log_s = log_sum(rest, e_y, one)
            store_number(loss, loss_value(checked, coefs, z_loss, lead, log_s, zero, lse))
        if grad:
            up = checked.u * scale
            m, c, at_y = gradient_terms(
                checked, coefs, z_loss, up, m, zero, rest, e_y, inverse_s, lse
            )
            write(grad, buffer, line, thread, (m, c, at_y, int32(int64(checked.y) - first)))

    return finish


def make_split_rows_kernel(element, plan):
    """Loss and gradient of rows whose parts have been summed by `make_split_sums_kernel`."""
    row, number, size = make_row(element, plan), number_type(element), element.size
    read, n_words, word, part = row.read, row.n_words, row.word, make_part(size)
    check_target, inverse_of = make_check_target(element, False), make_inverse(element)
    finish, load_number, number_size = make_finish(element, row), number.load, number.size
    zero = element.compute(0)

    @device
    def part_of(sums, k):
        at = sums + uint64(k) * uint64(3 * number_size)
        below = load_number(at + uint64(number_size))
        return load_number(at), below, load_number(at + uint64(2 * number_size))

    merge = make_merge(element, part_of)

    # As in `make_cross_entropy_kernel`; sums, at_target as above IN
    def kernel(
        x: Rows, labels: Labels, class_weight: Address, sample_weight: Address, inverse: Inverse,
        z_loss: Number, length: Integer, n_parts: Integer, n: Integer, sums: Address,
        at_target: Address, loss: Address, grad: Rows,
    ):  # fmt: skip
        i, first, offset, count = part(length, n_parts, n)
        thread, at = int32(cuda.threadIdx.x), uint64(i) * uint64(number_size)
        buffer = cuda.local.array(n_words, word)
        u, y, active, fill = check_target(labels, sample_weight, i, n, True)
        scale = inverse_of(inverse)
        checked = CheckedTarget(u, y, active and scale != zero, fill)
        line = read(x.address + uint64(i) * x.pitch + offset, count, thread, checked.active, buffer)
        row_sums = merge(sums + uint64(i) * uint64(n_parts * 3 * number_size), n_parts)
        x_y = load_number(at_target + at) if checked.active else zero
        finish(
            first, line, buffer, thread, row_sums, checked, class_weight, x_y, scale, z_loss,
            loss + at if loss else loss,
            grad.address + uint64(i) * grad.pitch + offset if grad.address else grad.address,
        )  # fmt: skip

    return kernel


def make_cluster_rows_kernel(element, plan):
    """Loss and gradient of rows on clusters of blocks, whose registers hold a row between them.

    Each block writes its sums into the shared memory of all; nothing is read twice.
    """
    row, number, compute = make_row(element, plan), number_type(element), element.compute
    read, n_words, word, size, load = row.read, row.n_words, row.word, element.size, element.load
    sharing, zero, n_cells = make_sharing(element, plan), compute(0), SUMS * plan.cluster
    arrive, place, row_sums = sharing.arrive, sharing.place, make_row_sums(element, row, sharing)
    check_target, inverse_of = make_check_target(element, False), make_inverse(element)
    finish, number_size = make_finish(element, row), number.size

    # As in `make_cross_entropy_kernel`; length: of a part
    def kernel(
        x: Rows, labels: Labels, class_weight: Address, sample_weight: Address, inverse: Inverse,
        z_loss: Number, length: Integer, n_rows: Integer, n: Integer, loss: Address, grad: Rows,
    ):  # fmt: skip
        arrive()
        i, thread, part, first, count = place(length, n_rows, n)
        offset = uint64(first) * uint64(size)
        shared = cuda.shared.array(_N_SHARED, compute)
        cells = cuda.shared.array(n_cells, compute)
        buffer = cuda.local.array(n_words, word)
        u, y, active, fill = check_target(labels, sample_weight, i, n, True)
        scale = inverse_of(inverse)
        checked = CheckedTarget(u, y, active and scale != zero, fill)
        x_row = x.address + uint64(i) * x.pitch
        line = read(x_row + offset, count, thread, checked.active, buffer)
        # Before the cluster's barrier: where grad overlaps x, another block may overwrite it later.
        x_y = load(x_row + uint64(uint32(y)) * uint64(size)) if checked.active else zero
        sums = row_sums(buffer, line, thread, part, cells, shared)
        finish(
            first, line, buffer, thread, sums, checked, class_weight, x_y, scale, z_loss,
            loss + uint64(i) * uint64(number_size) if loss else loss,
            grad.address + uint64(i) * grad.pitch + offset if grad.address else grad.address,
        )  # fmt: skip

    return kernel
