"""Scans of one row by vectors: maximum, sums, elementwise functions, softcap.

Every function takes row pointers (`memory.row`) and the number n of classes. A row is scanned
several times while it is in cache. The tail of a row, after its whole vectors, is one partial
vector.
"""

import math

from numba import types

from fastxent.cpu.jit import inlined, overload, subroutine
from fastxent.cpu.lanes import (
    Half,
    arithmetic_type,
    copysign,
    fabs,
    first_equal,
    fma,
    has_fma,
    horizontal_max,
    horizontal_sum,
    lane,
    maximum,
    smaller,
    where_less,
    widen,
    without_lane,
    zero_where_zero,
)
from fastxent.cpu.memory import (
    element,
    lanes_of,
    load,
    load_part,
    prefetch,
    prefetch_to_write,
    splat,
    store,
    store_part,
    zeros,
)
from fastxent.cpu.vector_math import exp, expm1, log, log1m, log_of, shifted_exp
from fastxent.formulas import (
    capped_product,
    clipped_pair,
    coefficient,
    cost,
    costs,
    grad_element,
    hess_with_z_loss,
    loss_element,
    prob_grad_element,
    softcap_bend,
    softcap_parts,
)


@inlined
def lowest(x):
    """-inf in the type of the arithmetic, for a maximum to begin with.

    As a number of Python it would make a maximum of float32 a float64, and the conversion back
    flushes a subnormal one to 0, which is no element of the row.
    """
    return horizontal_max(splat(x, -math.inf))


@subroutine
def row_max(x, n):
    """m = max_j x_j. A nan may be lost here; the sum of exponentials has it."""
    width = lanes_of(x)
    full = n // width
    quads = full // 4
    # Four independent maxima: the comparisons of one would wait for each other.
    a = b = c = d = load_part(x, full * width, n - full * width, -math.inf)
    for q in range(quads):
        j = 4 * q * width
        a = maximum(a, load(x, j))
        b = maximum(b, load(x, j + width))
        c = maximum(c, load(x, j + 2 * width))
        d = maximum(d, load(x, j + 3 * width))
    for k in range(4 * quads, full):
        a = maximum(a, load(x, k * width))
    return horizontal_max(maximum(maximum(a, b), maximum(c, d)))


@subroutine
def _widened_max(x, z, n):
    """m = max_j x_j, and z_j = x_j in the type of the arithmetic."""
    width = lanes_of(x)
    full = n // width
    a = load_part(x, full * width, n - full * width, -math.inf)
    store_part(z, full * width, n - full * width, a)
    b = c = d = a
    for q in range(full // 4):
        j = 4 * q * width
        x_a, x_b, x_c, x_d = (
            load(x, j), load(x, j + width), load(x, j + 2 * width), load(x, j + 3 * width)
        )  # fmt: skip
        store(z, j, x_a)
        store(z, j + width, x_b)
        store(z, j + 2 * width, x_c)
        store(z, j + 3 * width, x_d)
        a, b, c, d = maximum(a, x_a), maximum(b, x_b), maximum(c, x_c), maximum(d, x_d)
    for k in range(full // 4 * 4, full):
        x_a = load(x, k * width)
        store(z, k * width, x_a)
        a = maximum(a, x_a)
    return horizontal_max(maximum(maximum(a, b), maximum(c, d)))


def row_max_of(x, z, n):
    """m = max_j x_j; x_j of half precision are copied to z."""
    raise NotImplementedError("exists in compiled code only")


@overload(row_max_of)
def _choose_row_max(x, z, n):
    if isinstance(x.dtype, Half):
        return lambda x, z, n: _widened_max(x, z, n)
    return lambda x, z, n: row_max(x, n)


@subroutine
def first_max(x, n):
    """The first index of the maximum or, if there is one, of the first nan, as in numpy.argmax."""
    best = element(x, 0)
    at = 0
    for j in range(n):
        value = element(x, j)
        if value != value:
            return j
        if value > best:
            best, at = value, j
    return at


@subroutine
def find(x, value, n):
    """The first index of an element equal to `value`; 0 if there is none, as in a row of nan."""
    width = lanes_of(x)
    for j in range(0, n, width):
        at = first_equal(load_part(x, j, smaller(n - j, width), math.nan), value)
        if at < width:
            return j + at
    return 0


@subroutine
def has_nan(x, n):
    """Whether any element is nan."""
    for j in range(n):  # noqa: SIM110 - any() over a generator does not compile
        if element(x, j) != element(x, j):
            return True
    return False


# --- sums -----------------------------------------------------------------------------------


@subroutine
def add_block(total, lost, block):
    """total + block, and the accumulated rounding error, by Fast2Sum.

    The error is exact where |total| is the larger, soon always true if no term is negative; else it
    is within an ulp of the block.
    """
    larger = total + block
    return larger, lost + ((larger - total) - block)


@subroutine
def rounded(total, lost):
    """The sum of the lanes, corrected by the rounding error unless it is infinite."""
    rounding = horizontal_sum(lost)
    exact = horizontal_sum(total)
    return exact - rounding if math.isfinite(rounding) else exact


@subroutine
def _sum_row(term, args, n, skip):
    """Σ_{j≠skip} of the row's terms in float64, and the skipped term.

    term(args, j, count) returns the vector of terms from element j on, of which the first `count`
    (None: all) are used, 0 elsewhere; args[0] is the row. A term has to be skipped here: s - e_y
    would have lost the small terms. skip = n skips none, or a lane after the end, which holds 0.

    Sixteen vectors are added before their sum is widened to float64: the rounding error of a longer
    sum in float32 would grow with the length of the row, most where terms are equal.
    """
    width = lanes_of(args[0])
    full = n // width
    at = skip // width
    special = zeros(args[0])
    if n > full * width:
        special = term(args, full * width, n - full * width)
    lost = widen(zeros(args[0]))
    if at < full:
        total = widen(special)
        special = term(args, at * width, None)
        total, lost = add_block(total, lost, widen(without_lane(special, skip - at * width)))
    else:
        total = widen(without_lane(special, skip - at * width))
    # The vectors before the one with the skipped term, then those after it.
    for run in range(2):
        begin, end = (0, smaller(at, full)) if run == 0 else (at + 1, full)
        for first in range(begin, end, 16):
            block = zeros(args[0])
            for k in range(first, smaller(first + 16, end)):
                block = block + term(args, k * width, None)
            total, lost = add_block(total, lost, widen(block))
    return rounded(total, lost), lane(special, skip - at * width)


def _scaled_down(value):
    """A vector, or an eighth of it in float32, so that a sum of eight vectors does not overflow."""
    raise NotImplementedError("exists in compiled code only")


def _scaled_up(total, like):
    """The sum of blocks that were scaled by `_scaled_down`, for a pointer's element type."""
    raise NotImplementedError("exists in compiled code only")


@overload(_scaled_down)
def _choose_scaled_down(value):
    return (lambda value: value * 0.125) if value.dtype == types.float32 else (lambda value: value)


@overload(_scaled_up)
def _choose_scaled_up(total, like):
    if arithmetic_type(like.dtype) == types.float32:
        return lambda total, like: total * 8.0
    return lambda total, like: total


@subroutine
def sum_of_losses(term, args, n):
    """Σ term(args, j, count) over n losses.

    Eight vectors are added plainly, in their own type, as widening each to float64 would be a good
    part of the work of a binary loss. Their sums are widened and added with compensation.
    """
    width = lanes_of(args[0])
    full = n // width
    end = horizontal_sum(widen(term(args, full * width, n - full * width)))
    if full == 0:
        return end
    total = lost = widen(zeros(args[0]))
    for first in range(0, full, 8):
        block = zeros(args[0])
        for k in range(first, smaller(first + 8, full)):
            block = block + _scaled_down(term(args, k * width, None))
        total, lost = add_block(total, lost, widen(block))
    return _scaled_up(rounded(total, lost), args[0]) + end


@subroutine
def _exp_term(args, j, count):
    x, m, e, next_rows = args
    next_x, next_e = next_rows
    prefetch(next_x, j)
    prefetch_to_write(next_e, j)
    value = shifted_exp(load_part(x, j, count, -math.inf) - m)
    store_part(e, j, count, value)
    return value


@inlined
def exp_sum(x, m, e, n, skip, next_rows):
    """Σ_{j≠skip} exp(x_j - m) and exp(x_skip - m); exp(x_j - m) is stored in e unless that is None.

    `next_rows` are the rows that will be read and written next, or None. They are prefetched here,
    as this scan computes most; the next one would only wait for memory.
    """
    return _sum_row(_exp_term, (x, m, e, next_rows), n, skip)


# As in vector_math: without it in hardware a product and a sum.
_HAS_FMA = has_fma()


@inlined
def _exp_and_depth(args, j, count):
    """A vector of exp(x_j - m), and x_j - m, which counts as -1000 if it is less.

    There the exponential is 0 in either type, and so is their product, also of -inf.
    """
    x, m, e, next_rows = args
    next_x, next_e = next_rows
    prefetch(next_x, j)
    prefetch_to_write(next_e, j)
    depth = load_part(x, j, count, -math.inf) - m
    value = shifted_exp(depth)
    store_part(e, j, count, value)
    return value, maximum(depth, splat(x, -1000.0))


@inlined
def _add_product(total, a, b):
    """total + a·b."""
    return fma(a, b, total) if _HAS_FMA else total + a * b


@subroutine
def exp_and_depth_sums(x, m, e, n, skip, next_rows):
    """What `exp_sum` returns, and Σ_j e_j·(x_j - m): as `_sum_row`, with two sums in one scan."""
    args, width = (x, m, e, next_rows), lanes_of(x)
    full, at = n // width, skip // width
    special = depth = zeros(x)
    if n > full * width:
        special, depth = _exp_and_depth(args, full * width, n - full * width)
    below, lost, lost_below = widen(special * depth), widen(zeros(x)), widen(zeros(x))
    if at < full:
        total = widen(special)
        special, depth = _exp_and_depth(args, at * width, None)
        total, lost = add_block(total, lost, widen(without_lane(special, skip - at * width)))
        below, lost_below = add_block(below, lost_below, widen(special * depth))
    else:
        total = widen(without_lane(special, skip - at * width))
    for run in range(2):
        begin, end = (0, smaller(at, full)) if run == 0 else (at + 1, full)
        for first in range(begin, end, 16):
            block = block_below = zeros(x)
            for k in range(first, smaller(first + 16, end)):
                value, depth = _exp_and_depth(args, k * width, None)
                block, block_below = block + value, _add_product(block_below, value, depth)
            total, lost = add_block(total, lost, widen(block))
            below, lost_below = add_block(below, lost_below, widen(block_below))
    return rounded(total, lost), lane(special, skip - at * width), rounded(below, lost_below)


@subroutine
def _element(args, j, count):
    return load_part(args[0], j, count, 0.0)


@inlined
def sum_without(a, n, skip):
    """Σ_{j≠skip} a_j in float64, and a_skip."""
    return _sum_row(_element, (a,), n, skip)


def rest_of_max(x, m, e, n):
    """Σ exp(x_j - m) over all but the first maximum, from the stored e unless that is None."""
    raise NotImplementedError("exists in compiled code only")


@overload(rest_of_max)
def _rest_of_max(x, m, e, n):
    def compute(x, m, e, n):
        return exp_sum(x, m, None, n, find(x, m, n), (None, None))[0]

    def load_stored(x, m, e, n):
        return sum_without(e, n, find(e, 1.0, n))[0]

    return compute if isinstance(e, types.NoneType) else load_stored


@subroutine
def _below_max_term(args, j, count):
    x, m, weight = args
    w = load_part(weight, j, count, 0.0)
    return loss_element(w, m - load_part(x, j, count, m), zero_where_zero)


@inlined
def below_max_sum(x, m, weight, n):
    """Σ_j w_j·(m - x_j) in float64; a class without weight adds exactly 0, even at -inf."""
    return _sum_row(_below_max_term, (x, m, weight), n, n)[0]


@inlined
def _product_term(args, j, count):
    e, v, c, next_v = args
    prefetch(next_v, j)
    e_j = load_part(e, j, count, 0.0)
    return loss_element(e_j, load_part(v, j, count, 0.0) - c, zero_where_zero)


@subroutine
def product_sum(e, v, c, n, next_v):
    """Σ_j e_j·(v_j - c) in float64; exactly 0 where e_j is, whatever v_j. Prefetches `next_v`.

    Four sums at a time: the additions of one would wait for each other.
    """
    args, width = (e, v, c, next_v), lanes_of(e)
    full = n // width
    quads = full // 4
    total = widen(_product_term(args, full * width, n - full * width))
    lost = widen(zeros(e))
    for first in range(0, quads, 4):
        p = q = r = s = zeros(e)
        for k in range(4 * first, 4 * smaller(first + 4, quads), 4):
            p = p + _product_term(args, k * width, None)
            q = q + _product_term(args, (k + 1) * width, None)
            r = r + _product_term(args, (k + 2) * width, None)
            s = s + _product_term(args, (k + 3) * width, None)
        total, lost = add_block(total, lost, widen((p + q) + (r + s)))
    for k in range(4 * quads, full):
        total, lost = add_block(total, lost, widen(_product_term(args, k * width, None)))
    return rounded(total, lost)


# --- element by element ---------------------------------------------------------------------


@subroutine
def map_row(f, x, out, n, a, b):
    """out_j = f(x_j, a, b) for vectors; out may be x."""
    width = lanes_of(x)
    full = n // width
    for k in range(full):
        store(out, k * width, f(load(x, k * width), a, b))
    count = n - full * width
    if count:
        j = full * width
        store_part(out, j, count, f(load_part(x, j, count, 0.0), a, b))


@subroutine
def map_rows(f, x, y, out, n, a, b):
    """out_j = f(x_j, y_j, a, b) for vectors; out may be x."""
    width = lanes_of(x)
    full = n // width
    for k in range(full):
        store(out, k * width, f(load(x, k * width), load(y, k * width), a, b))
    count = n - full * width
    if count:
        j = full * width
        v = f(load_part(x, j, count, 0.0), load_part(y, j, count, 0.0), a, b)
        store_part(out, j, count, v)


@subroutine
def scale_element(v, a, b):
    """v·a: p_j from e_j and 1 / s."""
    return v * a


@subroutine
def log_prob_element(v, a, b):
    """(v - a) - b: log p_j from x_j, m and log s."""
    return (v - a) - b


@subroutine
def shift_and_scale(v, a, b):
    """(v - a)·b: the shifted logit times the scale."""
    return (v - a) * b


@subroutine
def hess_of_exp(v, a, b):
    """p·(factor·(1 - p) + z_loss_coef·p) for p = v·a and b = (factor, z_loss_coef)."""
    factor, z_loss_coef = b
    p = v * a
    return hess_with_z_loss(p, 1.0 - p, factor, z_loss_coef)


@subroutine
def grad_of_exp(v, w, a, b):
    """v·a - w·b: the gradient from e_j and a_j."""
    return grad_element(v, a, w, b)


@subroutine
def product(v, w, a, b):
    """v·w."""
    return v * w


@subroutine
def smoothed(v, w, a, b):
    """w·(a·v + b): a_j from q_j, w_j, 1-ε and ε/C."""
    return coefficient(v, w, a, b, zero_where_zero)


@subroutine
def fill_row(out, n, value):
    """out_j = value."""
    width = lanes_of(out)
    full = n // width
    v = splat(out, value)
    for k in range(full):
        store(out, k * width, v)
    store_part(out, full * width, n - full * width, v)


# --- logits before the loss -----------------------------------------------------------------


@subroutine
def softcap_row(x, scale, cap, z, slope, n):
    """z_j = cap·tanh(scale·x_j/cap) and its derivative slope_j = 1 - tanh²(…)."""
    width = lanes_of(x)
    for j in range(0, n, width):
        count = smaller(n - j, width)
        a = (load_part(x, j, count, 0.0) * scale) / cap
        t, derivative = softcap_parts(exp(fabs(a) * -2.0), expm1(fabs(a) * -2.0), 1.0)
        store_part(z, j, count, copysign(t, a) * cap)
        store_part(slope, j, count, derivative)


@subroutine
def capped_row(h, v, slope, z, grad, out, n, scale, bend):
    """out_j = t′_j·h_j + grad_j·t″_j·v_j: a second derivative by the logits from that by z.

    out may be any of the rows.
    """
    width = lanes_of(h)
    for j in range(0, n, width):
        count = smaller(n - j, width)
        slope_j = load_part(slope, j, count, 0.0)
        t2 = softcap_bend(load_part(z, j, count, 0.0), slope_j, bend)
        value = capped_product(
            load_part(h, j, count, 0.0), slope_j * scale, load_part(grad, j, count, 0.0), t2,
            load_part(v, j, count, 0.0), zero_where_zero,
        )  # fmt: skip
        store_part(out, j, count, value)


# --- losses of probabilities ----------------------------------------------------------------


@inlined
def clipped_costs(p, r, most):
    """-log p and -log r of vectors, at most `most` each, for r = 1 - p."""
    return costs(p, r, most, log, log1m, where_less)


@inlined
def clipped_cost(p, r, most):
    """-log p of a vector, at most `most`, for r = 1 - p."""
    return cost(p, r, most, log_of, where_less)


@subroutine
def _cost_term(args, j, count):
    p, q, weight, step, d, scale, clip = args
    q_j = load_part(q, j, count, 0.0)
    a = zero_where_zero(q_j, q_j * load_part(weight, j * step, count, 0.0))
    p_j, r = clipped_pair(load_part(p, j, count, 0.5), clip.bounds, 1.0, where_less)
    slope = prob_grad_element(a, p_j, scale, clip.floor, where_less, zero_where_zero)
    store_part(d, j, count, slope)
    return loss_element(a, clipped_cost(p_j, r, clip.most), zero_where_zero)


@inlined
def cost_sum(p, q, weight, step, d, scale, clip, n):
    """Σ_j a_j·(-log p_j) for a_j = q_j·w_j, and d_j = scale·a_j / p_j; a_j = 0 adds exactly 0."""
    return sum_of_losses(_cost_term, (p, q, weight, step, d, scale, clip), n)
