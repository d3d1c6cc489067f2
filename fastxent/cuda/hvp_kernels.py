"""The kernel of Hessian-vector products of cross-entropy of rows of logits.

Logits and vector are read once, as a pair, into the registers of a row's threads. Of a target only
the sum of its coefficients is needed: see `fastxent.formulas`.
"""

import math
from typing import Any, NamedTuple

from numba import cuda, int32, uint64

from fastxent.cuda.elements import (
    device,
    make_product,
    number_type,
    zero_where_zero,
)
from fastxent.cuda.groups import add, add_exactly, finite_sum, make_reduction, smaller
from fastxent.cuda.parameters import Address, Factor, Integer, Inverse, Labels, Number, Rows
from fastxent.cuda.rows import make_row
from fastxent.cuda.scans import Pair, make_fold, make_writer
from fastxent.cuda.sharing import NOT_THERE, make_sharing
from fastxent.cuda.softmax_kernels import SLOTS, make_lse
from fastxent.cuda.targets import (
    CoefficientTerms,
    make_check_target,
    make_class_weight,
    make_coefficient,
    make_inverse,
)
from fastxent.formulas import hvp_element, prob_coefficient

_CELLS = 7  # numbers that the blocks of a cluster exchange: two, then five


class HvpWants(NamedTuple):
    """What a call needs besides the product for labels; the rest is pruned from its kernel.

    `soft`, `all_classes` and `scaled` as in `kernels.Wants`; `z_loss`: a z-loss.
    """

    soft: bool = False
    all_classes: bool = False
    scaled: bool = False
    z_loss: bool = False


class Moments(NamedTuple):
    """Sums over a row: Σ e_j of those below 1 and their number that are 1; Σ e_j·u_j, Σ e_j·v_j.

    u_j = v_j - v_m, m the largest logit. And Σ a_j.
    """

    below: Any
    count: Any
    u: Any
    v: Any
    a: Any


def make_leading(element, row):
    """leading(buffer, line, thread, v_row, n, shared, keys): m, and v at its first column."""
    largest = make_reduction(element.maximum, row.plan)
    least = make_reduction(smaller, row.plan)
    load, class_at, compute = element.load, row.class_at, element.compute
    zero, minus_inf = compute(0), compute(-math.inf)

    @device
    def with_column(x, column, args):
        return x, column

    @device
    def larger(a, b):
        return b if b[0] > a[0] or (b[0] == a[0] and b[1] < a[1]) else a

    fold = row.make_fold(with_column, larger)

    @device
    def leading(buffer, line, thread, v_row, n, shared, keys):
        own, column = fold(buffer, line, thread, zero, (minus_inf, NOT_THERE))
        m = largest(own, shared, 0)
        top = least(column if own == m else NOT_THERE, keys, 0)
        # None of a row that is not read, and of -inf alone.
        return m, load(class_at(v_row, top)) if top < n else zero

    return leading


def make_moments(element, row, wants):
    """moments(buffer, others, pair, thread, args, terms, shared): those of a row, or of a part."""
    exp, zero, one = row.exp, element.compute(0), element.compute(1)
    total, with_z_loss = make_reduction(add, row.plan), wants.z_loss
    coefficient_of, class_at = make_coefficient(element, wants.soft), row.class_at
    load, soft = element.load, wants.soft
    all_classes = wants.all_classes

    @device
    def step(state, x, v, column, args):
        """Add with rounding errors: in one chain, equal terms would lose digits."""
        m, factor, v_m = args
        below, count, u_sum, v_sum = state
        e = exp(x - m, factor)
        below = add_exactly(below, (zero if e == one else e, zero))
        count += one if e == one else zero
        u_sum = add_exactly(u_sum, (zero_where_zero(e, e * (v - v_m)), zero))
        if with_z_loss:
            v_sum = add_exactly(v_sum, (zero_where_zero(e, e * v), zero))
        return below, count, u_sum, v_sum

    @device
    def coefficient_terms(x, column, terms):
        q = load(class_at(terms.probs, column)) if soft else zero
        return coefficient_of(q, column, terms), zero

    fold = make_fold(element, row.plan, step, paired=True)
    # Two scans: in one, loops over half precision would be too long to be unrolled.
    coefficient_sums = row.make_sums(coefficient_terms)

    @device
    def moments(buffer, others, pair, thread, args, terms, shared):
        nothing, a_sum = (zero, zero), zero
        if all_classes:
            a_sum = coefficient_sums(buffer, pair.line, thread, terms)[0]
        state = nothing, zero, nothing, nothing
        below, count, u_sum, v_sum = fold(buffer, others, pair, thread, args, state)
        return Moments(
            total(finite_sum(below), shared, 1), total(count, shared, 2),
            total(finite_sum(u_sum), shared, 3),
            total(finite_sum(v_sum), shared, 4) if with_z_loss else zero,
            total(a_sum, shared, 5) if all_classes else zero,
        )  # fmt: skip

    return moments


def make_shared_moments(sharing):
    """shared_moments(cells, part, thread, moments): those of a row from those of its parts."""
    publish, barrier, sum_of = sharing.publish, sharing.barrier, sharing.sum_of

    @device
    def shared_moments(cells, part, thread, moments):
        publish(cells, 2, part, thread, moments.below)
        publish(cells, 3, part, thread, moments.count)
        publish(cells, 4, part, thread, moments.u)
        publish(cells, 5, part, thread, moments.v)
        publish(cells, 6, part, thread, moments.a)
        barrier()
        return Moments(
            sum_of(cells, 2, moments.below), sum_of(cells, 3, moments.count),
            sum_of(cells, 4, moments.u), sum_of(cells, 5, moments.v), sum_of(cells, 6, moments.a),
        )  # fmt: skip

    return shared_moments


def make_factors(element, wants):
    """factors(...): 1 / s, π - v_m, and the two coefficients of `formulas.hvp_element`, of a row.

    From its Moments and the coefficients of its target; `by` is what it is multiplied by.
    """
    lse_of, with_z_loss, zero = make_lse(element.compute), wants.z_loss, element.compute(0)
    one = element.compute(1)

    @device
    def factors(moments, target_coef, other_coef, z_loss, m, by):
        others = moments.below + (moments.count - one)  # Σ e_j of the classes but m's
        inverse_s, lse = one / (others + one), zero
        if with_z_loss:
            lse = lse_of(m, int32(0), math.log1p(others))
        curvature = target_coef + prob_coefficient(other_coef, moments.a, z_loss, lse)
        z_loss_coef = by * (z_loss + z_loss) * (moments.v * inverse_s)
        return inverse_s, moments.u * inverse_s, by * curvature, z_loss_coef

    return factors


def make_hvp_kernel(element, plan, wants):
    """Second derivatives of cross-entropy by the logits, times a vector."""
    soft, all_classes, scaled, with_z_loss = wants
    row, compute, number = make_row(element, plan, scaled), element.compute, number_type(element)
    read, n_words, word, n_keys = row.read, row.n_words, row.word, plan.slot
    position, row_at, from_class = row.position, row.row_at, row.from_class
    n_shared = SLOTS * n_keys
    sharing, number_size, n_cells = make_sharing(element, plan), number.size, _CELLS * plan.cluster
    arrive, wait_for_start, place, publish, barrier, leading_of = sharing[:6]
    check_target, inverse_of = make_check_target(element, soft), make_inverse(element)
    class_weight_of, leading = make_class_weight(element), make_leading(element, row)
    moments_of, shared_moments = make_moments(element, row, wants), make_shared_moments(sharing)
    factors, is_warp = make_factors(element, wants), plan.is_warp
    exp, times, zero, one = row.exp, make_product(scaled), compute(0), compute(1)

    @device
    def product(x, v, column, args):
        m, factor, v_m, inverse_s, mean, scale, z_loss_coef, active, fill = args
        p = exp(x - m, factor) * inverse_s
        h = zero_where_zero(p, hvp_element(p, v - v_m, mean, scale, z_loss_coef))
        return h if active else fill

    write = make_writer(element, plan, product, paired=True)

    # x, vector (N, C) IN; labels (N,), or target_probs (N, C), class_weight (C,), sample_weight
    # (N,) as in `make_cross_entropy_kernel` IN; length: of a part of a row; out (N, C), which may
    # be x or vector, OUT
    def kernel(
        x: Rows, vector: Rows, labels: Labels, target_probs: Rows, class_weight: Address,
        sample_weight: Address, inverse: Inverse, one_minus_eps: Number, eps_over_c: Number,
        z_loss: Number, factor: Factor, length: Integer, n_rows: Integer, n: Integer, out: Rows,
    ):  # fmt: skip
        arrive()
        i, thread, part, first, count = place(length, n_rows, n)
        pos = position(x, i)
        shared = cuda.shared.array(n_shared, compute)
        cells = cuda.shared.array(n_cells, compute)
        keys = cuda.shared.array(n_keys, int32)
        buffer, others = cuda.local.array(n_words, word), cuda.local.array(n_words, word)
        u, y, active, fill = check_target(labels, sample_weight, i, n, i < n_rows)
        scale = inverse_of(inverse)
        if scale == zero:
            active, fill = False, zero  # the mean of no rows
        v_row = from_class(row_at(vector, pos), first)
        line = read(from_class(row_at(x, pos), first), count, thread, active, buffer)
        pair = Pair(line, read(v_row, count, thread, active, others))
        z_loss = z_loss if with_z_loss else zero
        m, v_m = leading(buffer, line, thread, v_row, count if active else int32(0), shared, keys)
        wait_for_start()
        publish(cells, 0, part, thread, m)
        publish(cells, 1, part, thread, v_m)
        barrier()
        m, v_m = leading_of(cells, m, v_m)
        # The coefficients of the part's classes; no class has a formula of its own.
        w = class_weight + uint64(first) * uint64(number_size) if class_weight else class_weight
        q = from_class(row_at(target_probs, pos), first)
        terms = CoefficientTerms(w, q, one_minus_eps, eps_over_c, int32(-1))
        moments = moments_of(buffer, others, pair, thread, (m, factor, v_m), terms, shared)
        # After this, threads write: all have read v_m and their own elements before. The barrier of
        # a block or a cluster orders memory, but shuffles do not.
        moments = shared_moments(cells, part, thread, moments)
        if is_warp:
            cuda.syncwarp()
        target_coef, other_coef, by = zero, one, times(times(u * scale, factor), factor)
        if not soft:
            target_coef = one_minus_eps * class_weight_of(class_weight, y)
            other_coef = eps_over_c if all_classes else zero
        numbers = factors(moments, target_coef, other_coef, z_loss, times(m, factor), by)
        inverse_s, mean, bent, z_loss_coef = numbers
        args = (m, factor, v_m, inverse_s, mean, bent, z_loss_coef, active, fill)
        write(from_class(row_at(out, pos), first), buffer, others, pair, thread, args)

    return kernel
