"""The row kernels: softmax and its logarithms, cross-entropy, and losses of probabilities.

Each is a source made for an element type and a `Plan`; a thread knows its row and its share of it
(`rows`), and every thread of a row computes the row's few numbers for itself. An address of 0 is an
output, or an input, that there is not.
"""

import math
from typing import NamedTuple

from numba import cuda, int32, int64, uint32, uint64

from fastxent.cuda.elements import device, numbers
from fastxent.cuda.groups import WARP, add, reduction
from fastxent.cuda.intrinsics import load_i64, load_u8, load_u16, load_u32, store_i64
from fastxent.cuda.rows import row_of, split_sum_of
from fastxent.formulas import (
    at_least,
    clipped,
    costs,
    grad_at_target,
    log_sum,
    prob_coefficient,
    row_loss,
)

_NOT_THERE, _OF_NAN = int32(2**31 - 1), int32(-(2**31))
PLACES = 8 * WARP  # for the exchanges of a block


@device
def kept(coefficient, value):
    """`value`, but exactly 0 under a coefficient of 0."""
    return value if coefficient else coefficient


@device
def where_less(a, b, c, d):
    """`c` where a < b, else `d`."""
    return c if a < b else d


@device
def log1m(x):
    """-log(1 - x)."""
    return -math.log1p(-x)


@device
def smaller(a, b):
    """The smaller integer."""
    return min(a, b)


def softmax_kernel(element, plan, log):
    """Softmax, or its logarithm."""
    row, compute, exp = row_of(element, plan), element.compute, element.exp
    place, read, peak, sums, held, word = row.parts()
    one = compute(1)

    @device
    def probability(x, column, args):
        m, inverse = args
        return exp(x - m) * inverse

    @device
    def logarithm(x, column, args):
        m, log_s = args
        return (x - m) - log_s

    write = row.writer(logarithm if log else probability)

    # x, out (N, C) IN, OUT
    def kernel(x, x_pitch, out, out_pitch, n_rows, n):
        i, thread = place()
        shared = cuda.shared.array(PLACES, compute)
        buffer = cuda.local.array(held, word)
        n = int32(n) if i < n_rows else int32(0)
        line = read(x + uint64(i) * x_pitch, n, thread, True, buffer)
        m, behind = peak(buffer, line, thread, one, shared)
        below, count = sums(buffer, line, m, behind, one, shared)
        # p_j = exp(x_j - m) / s, log p_j = (x_j - m) - log s
        others = below + (count - one)
        norm = math.log1p(others) if log else one / (others + one)
        write(out + uint64(i) * out_pitch, buffer, line, thread, (m, norm))

    return kernel


def first_top_of(element, row, plan):
    """The first index of the largest element, or of the first nan: negative then."""
    least = reduction(smaller, plan.threads)

    @device
    def key(x, column, m):
        if x != x:
            return _OF_NAN + column
        return column if x == m else _NOT_THERE

    scan = row.fold(key, smaller)

    @device
    def first_top(buffer, line, thread, m, shared):
        return least(scan(buffer, line, thread, m, _NOT_THERE), shared, 0)

    return first_top


def lse_of(compute):
    """A function of the m of m + log s, of `first_top` and of log s: as SciPy has it.

    m where it is infinite, but nan where the row holds one.
    """
    zero, nan = compute(0), compute(math.nan)

    @device
    def lse(m, top, log_s):
        if m - m == zero:
            return m + log_s
        return nan if top < 0 else m

    return lse


def logsumexp_kernel(element, plan):
    """m + log s."""
    row, compute, size, store = row_of(element, plan), element.compute, element.size, element.store
    place, read, peak, sums, held, word = row.parts()
    first_top, lse = first_top_of(element, row, plan), lse_of(compute)
    one = compute(1)

    # x (N, C) IN, out (N,) OUT
    def kernel(x, x_pitch, out, n_rows, n):
        i, thread = place()
        shared = cuda.shared.array(PLACES, compute)
        keys = cuda.shared.array(WARP, int32)
        buffer = cuda.local.array(held, word)
        live = i < n_rows
        n = int32(n) if live else int32(0)
        line = read(x + uint64(i) * x_pitch, n, thread, True, buffer)
        m, behind = peak(buffer, line, thread, one, shared)
        top = first_top(buffer, line, thread, m, keys)
        below, count = sums(buffer, line, m, behind, one, shared)
        if live and thread == 0:  # a row without classes too
            value = lse(m, top, math.log1p(below + (count - one)))
            store(out + uint64(i) * uint64(size), value)

    return kernel


# --- targets --------------------------------------------------------------------------------


@device
def load_label(labels, kind, i):
    """Label i as 64 bits, its sign kept: kind is 2·log2(bytes), and 1 more for unsigned ones."""
    if kind >= 6:
        return load_i64(labels + uint64(i) * uint64(8))
    if kind >= 4:
        label, sign = int64(load_u32(labels + uint64(i) * uint64(4))), int64(0x80000000)
    elif kind >= 2:
        label, sign = int64(load_u16(labels + uint64(i) * uint64(2))), int64(0x8000)
    else:
        label, sign = int64(load_u8(labels + uint64(i))), int64(0x80)
    return label if kind & 1 else (label ^ sign) - sign


@device
def is_class(label, n):
    """Whether 64 bits are a class; as unsigned ones, so that negative labels are none."""
    return uint64(label) < uint64(n)


def coefficients_of(element, soft):
    """weight(w, j) and a(column, terms), the a_j of `formulas`, for one kind of target.

    terms are (class_weight, target row, keep, spread, y).
    """
    number, one, zero = numbers(element), element.compute(1), element.compute(0)
    load, size, load_number, number_size = element.load, element.size, number.load, number.size

    @device
    def weight(class_weight, j):
        if class_weight:
            return load_number(class_weight + uint64(uint32(j)) * uint64(number_size))
        return one

    @device
    def share_of_class(column, terms):
        return weight(terms[0], column)

    @device
    def share_of_probability(column, terms):
        class_weight, probs, keep, spread, y = terms
        if column == y:
            return zero
        q = load(probs + uint64(uint32(column)) * uint64(size)) * keep + spread
        return kept(q, q * weight(class_weight, column))

    return weight, share_of_probability if soft else share_of_class


@device
def add_pairs(a, b):
    """a + b of pairs."""
    return a[0] + b[0], a[1] + b[1]


def aim_of(element, soft):
    """A function of a row: its weight, class, whether it counts, and loss and gradient if not."""
    compute, number = element.compute, numbers(element)
    zero, one, nan = compute(0), compute(1), compute(math.nan)
    load_number, number_size = number.load, number.size

    @device
    def aim(target, kind, ignoring, ignored, sample_weight, i, n, live):
        if not live:
            return one, int32(0), False, zero
        u = one
        if sample_weight:
            u = load_number(sample_weight + uint64(i) * uint64(number_size))
        if soft:
            return u, int32(0), u != zero, zero
        label = load_label(target, kind, i)
        silent = u == zero or (ignoring != 0 and label == ignored)
        if is_class(label, n):
            return u, int32(label), not silent, zero
        return u, int32(0), False, zero if silent else nan

    return aim


# --- cross-entropy --------------------------------------------------------------------------


class Wants(NamedTuple):
    """What a call of cross-entropy needs beside the plain loss; the rest is gone from its kernel.

    Class probabilities for targets; coefficients a_j of all classes, as smoothing and `soft` have;
    a scale of the logits; the index of the largest, for lse, argmax, the Hessian and `soft`; the
    arrays that are asked for.
    """

    soft: bool = False
    shared: bool = False
    scaled: bool = False
    top: bool = False
    grad: bool = True
    probs: bool = False
    hess: bool = False


def cross_entropy_kernel(element, plan, wants):
    """Cross-entropy of rows of logits, and what a call wants with it."""
    soft, sharing, scaled, topped, sloped, with_probs, with_hess = wants
    reads_all = topped or with_probs  # rows that do not count too; else they are as rows of -inf
    row, compute, exp = row_of(element, plan), element.compute, element.exp
    place, read, peak, sums, held, word = row.parts()
    load, size, number = element.load, element.size, numbers(element)
    load_number, store_number, number_size = number.load, number.store, number.size
    first_top, lse_at = first_top_of(element, row, plan), lse_of(compute)
    (weight_of, a_of), aim = coefficients_of(element, soft), aim_of(element, soft)
    total, split_sum = reduction(add, plan.threads), split_sum_of(element)
    zero, one = compute(0), compute(1)

    @device
    def shared_terms(x, column, args):
        """a_j·(m - x_j) and a_j; what has no weight adds exactly 0, even at -inf."""
        m, factor, terms = args
        a = a_of(column, terms)
        return kept(a, a * ((m - x) * factor)), a

    @device
    def slope(x, column, args):
        """∂L/∂x_j."""
        m, factor, scale, at_y, y, counted, blank, share, terms = args
        g = exp((x - m) * factor) * scale
        if sharing:
            g -= share * a_of(column, terms)
        g = at_y if column == y else g
        return blank if (reads_all or sharing) and not counted else g

    @device
    def probability(x, column, args):
        m, factor, inverse = args
        return exp((x - m) * factor) * inverse

    @device
    def curvature(x, column, args):
        """scale·p_j·(1 - p_j), where 1 - p of the largest is the sum of the others."""
        m, factor, inverse, others, top, scale, counted, blank = args
        p = exp((x - m) * factor) * inverse
        q = others * inverse if column == top else one - p
        return scale * (p * q) if counted else blank

    @device
    def set_apart(class_weight, q, y, keep, spread):
        """Of the class set apart: its coefficient, weight and a_y; and the share of the others."""
        weight = weight_of(class_weight, y)
        if soft:
            q_y = load(q + uint64(uint32(y)) * uint64(size)) * keep + spread
            return kept(q_y, q_y * weight), weight, zero, one
        return keep * weight, weight, weight, spread if sharing else zero

    @device
    def put(out, at, value):
        """One number of a row where it is asked for."""
        if out:
            store_number(out + at * uint64(number_size), value)

    shared_sums = row.fold(shared_terms, add_pairs)

    @device
    def shares(buffer, line, thread, args, shared):
        """Σ a_j·(m - x_j) and Σ a_j."""
        below_a, all_a = zero, zero
        if sharing:
            below_a, all_a = shared_sums(buffer, line, thread, args, (zero, zero))
            below_a, all_a = total(below_a, shared, 4), total(all_a, shared, 5)
        return below_a, all_a

    write_slope, write_probs = row.writer(slope), row.writer(probability)
    write_hess = row.writer(curvature)

    # x (N, C) IN; target (N,) labels of a kind, or (N, C) probabilities with a pitch, IN;
    # class_weight (C,), sample_weight (N,) IN or 0; inverse_at: of 1 / D, or 0 if it is `inverse`;
    # loss, lse, argmax (N,) OUT or 0; grad, probs, hess (N, C) OUT or 0
    def kernel(
        x, x_pitch, target, kind, ignoring, ignored, class_weight, sample_weight, inverse_at,
        inverse, keep, spread, z_loss, factor, n_rows, n, loss, lse, argmax,
        grad, grad_pitch, probs, probs_pitch, hess, hess_pitch,
    ):  # fmt: skip
        i, thread = place()
        shared = cuda.shared.array(PLACES, compute)
        keys = cuda.shared.array(WARP, int32)
        buffer = cuda.local.array(held, word)
        live, at = i < n_rows, uint64(i)
        q = target + at * uint64(kind) if soft else uint64(0)
        u, y, counted, blank = aim(target, kind, ignoring, ignored, sample_weight, i, n, live)
        scale = load_number(inverse_at) if inverse_at else inverse
        counted = counted and scale != zero  # a mean over nothing does not move, and is nan anyway
        line = read(
            x + at * x_pitch, int32(n) if live else int32(0), thread, counted or reads_all, buffer
        )
        factor, top = factor if scaled else one, int32(0)
        m, behind = peak(buffer, line, thread, factor, shared)
        if topped:
            top = first_top(buffer, line, thread, m, keys)
        if soft:
            y = top & int32(0x7FFFFFFF) if counted else int32(0)
        # All that is read of x besides what is held, before `sums`, behind which a thread may
        # write: with grad over x it is gone.
        margin, apart, weight, a_y, share = zero, zero, zero, zero, zero
        if counted:
            margin = (m - load(x + at * x_pitch + uint64(uint32(y)) * uint64(size))) * factor
            apart, weight, a_y, share = set_apart(class_weight, q, y, keep, spread)
        terms = (class_weight, q, keep, spread, y)
        below_a, all_a = shares(buffer, line, thread, (m, factor, terms), shared)
        below, count = sums(buffer, line, m, behind, factor, shared)
        rest, e_y, others, inverse_s = split_sum(margin, below, count)
        log_s = log_sum(rest, e_y, one)
        row_lse = lse_at(m * factor, top, math.log1p(others)) if topped or z_loss else zero
        if thread == 0 and live:
            shared_loss = below_a + all_a * log_s
            value = row_loss(apart, share, z_loss, margin, log_s, shared_loss, row_lse, kept)
            put(loss, at, u * value if counted else blank)
            put(lse, at, row_lse)
            if argmax:
                store_i64(argmax + at * uint64(8), int64(top & int32(0x7FFFFFFF)))
        if with_probs:
            write_probs(probs + at * probs_pitch, buffer, line, thread, (m, factor, inverse_s))
        if with_hess:
            h = u * scale * (apart + all_a if soft else weight)
            args_h = (m, factor, inverse_s, others, top, h, counted, blank)
            write_hess(hess + at * hess_pitch, buffer, line, thread, args_h)
        if sloped:
            up, pull = u * scale * factor, prob_coefficient(share, all_a, z_loss, row_lse)
            at_y = up * grad_at_target(apart, pull, share, a_y, rest, e_y, inverse_s)
            c = up * (apart + pull) * inverse_s
            if not counted:  # exp(-inf - 0)·blank is 0 or nan: what was not read is not looked at
                m, c, at_y = zero, blank, blank
            args_g = (m, factor, c, at_y, y, counted, blank, up * share, terms)
            write_slope(grad + at * grad_pitch, buffer, line, thread, args_g)

    return kernel


# --- losses of probabilities ----------------------------------------------------------------


def categorical_kernel(element, plan, soft, sloped):
    """Cross-entropy of rows of probabilities."""
    row, compute, load, size = row_of(element, plan), element.compute, element.load, element.size
    place, read, _, _, held, word = row.parts()
    number, total = numbers(element), reduction(add, plan.threads)
    load_number, store_number, number_size = number.load, number.store, number.size
    (weight_of, a_of), aim = coefficients_of(element, soft), aim_of(element, soft)
    zero, one = compute(0), compute(1)

    @device
    def clipped_pair(p, bounds):
        """p and 1 - p, each clipped by itself: 1 - clip(p) would not hold a tiny bound."""
        return clipped(p, bounds, where_less), clipped(one - p, bounds, where_less)

    @device
    def cost(x, a, bounds, most):
        """a·(-log p); without weight exactly 0."""
        p, r = clipped_pair(x, bounds)
        return kept(a, a * costs(p, r, most, math.log, log1m, where_less)[0])

    @device
    def slope_of(x, a, scale, bounds, floor):
        """scale·a / p."""
        p, _ = clipped_pair(x, bounds)
        return kept(a, (a * scale) / at_least(p, floor, where_less))

    @device
    def soft_cost(x, column, args):
        terms, bounds, most, _, _, _, _, _ = args
        return cost(x, a_of(column, terms), bounds, most)

    @device
    def slope(x, column, args):
        terms, bounds, _, floor, scale, counted, at_y, blank = args
        if soft:
            return slope_of(x, a_of(column, terms), scale, bounds, floor) if counted else blank
        return at_y if column == terms[4] else blank

    cost_sum, write = row.fold(soft_cost, add), row.writer(slope)

    # probs (N, C) IN; target, weights, inverse as in `cross_entropy_kernel` IN; low … floor as
    # terms.Clip; loss (N,) OUT; grad (N, C) OUT
    def kernel(
        probs, probs_pitch, target, kind, ignoring, ignored, class_weight, sample_weight,
        inverse_at, inverse, low, high, below, above, most, floor, n_rows, n, loss, grad,
        grad_pitch,
    ):  # fmt: skip
        i, thread = place()
        shared = cuda.shared.array(PLACES, compute)
        buffer = cuda.local.array(held, word)
        live, at, bounds = i < n_rows, uint64(i), (low, high, below, above)
        u, y, counted, value = aim(target, kind, ignoring, ignored, sample_weight, i, n, live)
        scale = load_number(inverse_at) if inverse_at else inverse
        length = int32(n) if live else int32(0)
        line = read(probs + at * probs_pitch, length, thread, soft and counted, buffer)
        # No class is set apart here. Nothing is written before all that is read of p.
        q = target + at * uint64(kind) if soft else uint64(0)
        terms = (class_weight, q, one, zero, int32(-1) if soft else y)
        moving, at_y, blank = counted and scale != zero, value, value
        if soft:
            args = (terms, bounds, most, floor, zero, counted, zero, zero)
            value = u * total(cost_sum(buffer, line, thread, args, zero), shared, 0)
        elif counted:
            p = load(probs + at * probs_pitch + uint64(uint32(y)) * uint64(size))
            w = weight_of(class_weight, y)
            value = u * cost(p, w, bounds, most)
            at_y = slope_of(p, w, -u * scale, bounds, floor) if moving else zero
        cuda.syncthreads()  # all have read what is apart from their own elements
        if thread == 0 and live:
            store_number(loss + at * uint64(number_size), value if counted else blank)
        if sloped:
            args = (terms, bounds, most, floor, -u * scale, moving, at_y, blank)
            write(grad + at * grad_pitch, buffer, line, thread, args)

    return kernel
