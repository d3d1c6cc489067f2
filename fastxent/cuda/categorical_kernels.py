"""The kernel of cross-entropy of probabilities."""

import math

from numba import cuda, int32, uint64

from fastxent.cuda.elements import device, log1m, number_type, where_less, zero_where_zero
from fastxent.cuda.groups import add, make_reduction
from fastxent.cuda.parameters import Address, ClipLimits, Integer, Inverse, Labels, Rows
from fastxent.cuda.rows import make_row
from fastxent.cuda.scans import Pair, make_sums, make_writer
from fastxent.cuda.targets import (
    CoefficientTerms,
    make_check_target,
    make_class_weight,
    make_coefficient,
    make_inverse,
)
from fastxent.formulas import clipped_pair, costs, loss_element, prob_grad_element


def make_categorical_kernel(element, plan, soft, with_grad):
    """Cross-entropy of rows of probabilities with targets that are labels, or `soft`."""
    row, compute, load, n_shared = make_row(element, plan), element.compute, element.load, plan.slot
    place, read, n_words, word = row.place, row.read, row.n_words, row.word
    position, row_at, class_at = row.position, row.row_at, row.class_at
    number, total = number_type(element), make_reduction(add, plan)
    store_number, number_size = number.store, number.size
    class_weight_of = make_class_weight(element)
    coefficient_of = make_coefficient(element, soft)
    check_target, inverse_of = make_check_target(element, soft), make_inverse(element)
    zero, one = compute(0), compute(1)

    @device
    def clip(x, limits):
        """p and 1 - p within the limits."""
        bounds = limits.low, limits.high, limits.below, limits.above
        return clipped_pair(x, bounds, one, where_less)

    @device
    def loss_of_class(x, a, limits):
        """a·(-log p)."""
        p, one_minus_p = clip(x, limits)
        cost = costs(p, one_minus_p, limits.most, math.log, log1m, where_less)[0]
        return loss_element(a, cost, zero_where_zero)

    @device
    def grad_of_class(x, a, scale, limits):
        """scale·a / p."""
        p, _ = clip(x, limits)
        return prob_grad_element(a, p, scale, limits.floor, where_less, zero_where_zero)

    @device
    def soft_loss(x, q, column, args):
        terms, limits = args
        return loss_of_class(x, coefficient_of(q, column, terms), limits), zero

    @device
    def grad_formula(x, q, column, args):
        terms, limits, scale, has_grad, at_y, fill = args
        if soft:
            a = coefficient_of(q, column, terms)
            return grad_of_class(x, a, scale, limits) if has_grad else fill
        return at_y if column == terms.y else fill

    sums_of_losses = make_sums(element, plan, soft_loss, paired=soft)
    write_grad = make_writer(element, plan, grad_formula, paired=soft)

    # probs (N, C) IN; labels, target_probs, weights as in `make_cross_entropy_kernel` IN; loss (N,)
    # OUT; grad (N, C) OUT or 0
    def kernel(
        x: Rows, labels: Labels, target_probs: Rows, class_weight: Address, sample_weight: Address,
        inverse: Inverse, limits: ClipLimits, n_rows: Integer, n: Integer, loss: Address,
        grad: Rows,
    ):  # fmt: skip
        i, thread = place()
        shared = cuda.shared.array(n_shared, compute)
        buffer = cuda.local.array(n_words, word)
        exists, at, pos = i < n_rows, uint64(i), position(x, i)
        u, y, active, value = check_target(labels, sample_weight, i, n, exists)
        scale = inverse_of(inverse)
        x_row, q = row_at(x, pos), row_at(target_probs, pos)
        length = int32(n) if exists else int32(0)
        line = read(x_row, length, thread, soft and active, buffer)
        beside = cuda.local.array(n_words, word) if soft else buffer
        q_line = read(q, length, thread, active, beside) if soft else line
        pair = Pair(line, q_line)
        # With probabilities no class has a formula of its own.
        terms = CoefficientTerms(class_weight, q, one, zero, int32(-1) if soft else y)
        has_grad, at_y, fill = active and scale != zero, value, value
        if soft:
            losses, _ = sums_of_losses(buffer, beside, pair, thread, (terms, limits))
            value = u * total(losses, shared, 0)
        elif active:
            p = load(class_at(x_row, y))
            w_y = class_weight_of(class_weight, y)
            value = u * loss_of_class(p, w_y, limits)
            at_y = grad_of_class(p, w_y, -u * scale, limits) if has_grad else zero
        # grad may overlap x: no thread writes before all have read the elements that are not their
        # own.
        cuda.syncthreads()
        if thread == 0 and exists:
            store_number(loss + at * uint64(number_size), value if active else fill)
        if with_grad:
            args = (terms, limits, -u * scale, has_grad, at_y, fill)
            write_grad(row_at(grad, pos), buffer, beside, pair, thread, args)

    return kernel
