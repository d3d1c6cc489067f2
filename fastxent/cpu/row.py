"""What kernels do to one row while it sits in cache: scans made of vectors, with their tails.

Every function takes row pointers (`lanes.row`) and the number n of classes.
"""

import math

from numba import types
from numba.extending import overload

from fastxent.cpu.jit import inlined, subroutine
from fastxent.cpu.lanes import (
    copysign,
    fabs,
    first_equal,
    horizontal_max,
    horizontal_sum,
    lane,
    lanes_of,
    load,
    load_part,
    maximum,
    prefetch,
    prefetch_to_write,
    splat,
    store,
    store_part,
    where_less,
    widen,
    without_lane,
    zero_where_zero,
    zeros,
)
from fastxent.cpu.vector_math import exp, expm1, log, log1m, shifted_exp
from fastxent.formulas import (
    clipped_pair,
    coefficient,
    costs,
    grad_element,
    hess_element,
    loss_element,
    prob_grad_element,
    softcap_parts,
)


@subroutine
def row_max(x, n):
    """m = max_j x_j. A nan may be lost here; it comes back in the sum of exponentials."""
    width = lanes_of(x)
    full = n // width
    quads = full // 4
    # Four chains, because one would wait for each comparison.
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
def first_max(x, n):
    """The first index of the largest element, or of the first nan, as numpy.argmax has it."""
    best = x[0]
    at = 0
    for j in range(n):
        value = x[j]
        if value != value:
            return j
        if value > best:
            best, at = value, j
    return at


@subroutine
def find(x, value, n):
    """The first index of an element that equals `value`; 0 if none does, as in a row of nan."""
    width = lanes_of(x)
    for j in range(0, n, width):
        at = first_equal(load_part(x, j, min(n - j, width), math.nan), value)
        if at < width:
            return j + at
    return 0


@subroutine
def has_nan(x, n):
    """Whether any element is nan."""
    for j in range(n):  # noqa: SIM110 - any() over a generator does not compile
        if x[j] != x[j]:
            return True
    return False


# --- sums -----------------------------------------------------------------------------------


@subroutine
def add_block(total, lost, block):
    """total + block, and what rounding has lost so far, by Fast2Sum.

    That is exact where the total is the larger, as it soon is where no term is negative; else the
    error is within an ulp of the block.
    """
    larger = total + block
    return larger, lost + ((larger - total) - block)


@subroutine
def rounded(total, lost):
    """The sum of the lanes; an infinite one has no rounding to give back."""
    rounding = horizontal_sum(lost)
    exact = horizontal_sum(total)
    return exact - rounding if math.isfinite(rounding) else exact


@subroutine
def _sum_row(term, args, n, skip):
    """Σ_{j≠skip} of the row's terms in float64, and the skipped term.

    term(args, j, part) gives the vector of terms from element j on, of which `part` count (None:
    all); args[0] is the row. Leaving a term out costs next to nothing here and cannot be done
    afterwards: s - e_y has lost the small terms. skip = n leaves none out (it falls on a lane
    behind the end, which holds 0).

    Sixteen vectors are added up before their sum is widened to float64: a longer chain would drift
    with the length of the row, most where terms are equal.
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
    # The vectors before the one with the skipped term, then those behind it.
    for run in range(2):
        begin, end = (0, min(at, full)) if run == 0 else (at + 1, full)
        for first in range(begin, end, 16):
            block = zeros(args[0])
            for k in range(first, min(first + 16, end)):
                block = block + term(args, k * width, None)
            total, lost = add_block(total, lost, widen(block))
    return rounded(total, lost), lane(special, skip - at * width)


@subroutine
def sum_of_losses(term, args, n):
    """Σ term(args, j, part) over n losses, each widened to float64 before it is added.

    Eight vectors are as good as a sum of eight numbers; their sums give back what rounding lost.
    """
    width = lanes_of(args[0])
    full = n // width
    total = widen(term(args, full * width, n - full * width))
    lost = widen(zeros(args[0]))
    for first in range(0, full, 8):
        block = widen(zeros(args[0]))
        for k in range(first, min(first + 8, full)):
            block = block + widen(term(args, k * width, None))
        total, lost = add_block(total, lost, block)
    return rounded(total, lost)


@subroutine
def _exp_term(args, j, part):
    x, m, e, soon = args
    next_x, next_e = soon
    prefetch(next_x, j)
    prefetch_to_write(next_e, j)
    value = shifted_exp(load_part(x, j, part, -math.inf) - m)
    store_part(e, j, part, value)
    return value


@inlined
def exp_sum(x, m, e, n, skip, soon):
    """Σ_{j≠skip} exp(x_j - m) and exp(x_skip - m); each is stored in e where e is not None.

    `soon` are the rows that will be read and written next, or None. They are asked for meanwhile:
    this is the long scan, and the next is one that would do nothing but wait for memory.
    """
    return _sum_row(_exp_term, (x, m, e, soon), n, skip)


@subroutine
def _element(args, j, part):
    return load_part(args[0], j, part, 0.0)


@inlined
def sum_apart(a, n, skip):
    """Σ_{j≠skip} a_j in float64, and a_skip."""
    return _sum_row(_element, (a,), n, skip)


def rest_of_max(x, m, e, n):
    """Σ exp(x_j - m) over all but the first maximum, from the e stored before, if there are."""
    raise NotImplementedError("exists in compiled code only")


@overload(rest_of_max)
def _rest_of_max(x, m, e, n):
    def again(x, m, e, n):
        return exp_sum(x, m, None, n, find(x, m, n), (None, None))[0]

    def stored(x, m, e, n):
        return sum_apart(e, n, find(e, 1.0, n))[0]

    return again if isinstance(e, types.NoneType) else stored


@subroutine
def _below_max_term(args, j, part):
    x, m, weight = args
    w = load_part(weight, j, part, 0.0)
    return loss_element(w, m - load_part(x, j, part, m), zero_where_zero)


@inlined
def below_max_sum(x, m, weight, n):
    """Σ_c w_c·(m - x_c) in float64; a class without weight adds exactly 0, even at -inf."""
    return _sum_row(_below_max_term, (x, m, weight), n, n)[0]


# --- element by element ---------------------------------------------------------------------


@subroutine
def map_row(f, x, out, n, a, b):
    """out_j = f(x_j, a, b) of vectors; out may be x."""
    width = lanes_of(x)
    full = n // width
    for k in range(full):
        store(out, k * width, f(load(x, k * width), a, b))
    part = n - full * width
    if part:
        j = full * width
        store_part(out, j, part, f(load_part(x, j, part, 0.0), a, b))


@subroutine
def map_rows(f, x, y, out, n, a, b):
    """out_j = f(x_j, y_j, a, b) of vectors; out may be x."""
    width = lanes_of(x)
    full = n // width
    for k in range(full):
        store(out, k * width, f(load(x, k * width), load(y, k * width), a, b))
    part = n - full * width
    if part:
        j = full * width
        v = f(load_part(x, j, part, 0.0), load_part(y, j, part, 0.0), a, b)
        store_part(out, j, part, v)


@subroutine
def times(v, a, b):
    """v·a."""
    return v * a


@subroutine
def minus_minus(v, a, b):
    """(v - a) - b."""
    return (v - a) - b


@subroutine
def minus_times(v, a, b):
    """(v - a)·b."""
    return (v - a) * b


@subroutine
def variance(v, a, b):
    """b·p·(1 - p) for p = v·a."""
    p = v * a
    # The factor goes to p before 1 - p does; times 1 is exact.
    return hess_element(p * b, 1.0 - p, 1.0)


@subroutine
def times_minus(v, w, a, b):
    """v·a - w·b."""
    return grad_element(v, a, w, b)


@subroutine
def times_lanes(v, w, a, b):
    """v·w."""
    return v * w


@subroutine
def mixed(v, w, a, b):
    """w·(a·v + b), but exactly 0 where the second factor is: w may be infinite in float32."""
    return coefficient(v, w, a, b, zero_where_zero)


@subroutine
def fill_row(out, n, value):
    """out_j = value; nothing is read, so what the row held does not matter."""
    width = lanes_of(out)
    full = n // width
    v = splat(out, value)
    for k in range(full):
        store(out, k * width, v)
    store_part(out, full * width, n - full * width, v)


# --- logits before the loss -----------------------------------------------------------------


@subroutine
def softcap_row(x, scale, cap, z, slope, n):
    """z_j = cap·tanh(scale·x_j/cap), slope_j = 1 - tanh²(…)."""
    width = lanes_of(x)
    for j in range(0, n, width):
        part = min(n - j, width)
        a = (load_part(x, j, part, 0.0) * scale) / cap
        t, derivative = softcap_parts(exp(fabs(a) * -2.0), expm1(fabs(a) * -2.0), 1.0)
        store_part(z, j, part, copysign(t, a) * cap)
        store_part(slope, j, part, derivative)


# --- losses of probabilities ----------------------------------------------------------------


@inlined
def lane_costs(p, r, most):
    """-log p and -log r of vectors, at most `most`, for r = 1 - p."""
    return costs(p, r, most, log, log1m, where_less)


@subroutine
def _cost_term(args, j, part):
    p, q, weight, step, d, scale, clip = args
    bounds, most, floor = clip
    q_j = load_part(q, j, part, 0.0)
    a = zero_where_zero(q_j, q_j * load_part(weight, j * step, part, 0.0))
    p_j, r = clipped_pair(load_part(p, j, part, 0.5), bounds, 1.0, where_less)
    slope = prob_grad_element(a, p_j, scale, floor, where_less, zero_where_zero)
    store_part(d, j, part, slope)
    return loss_element(a, lane_costs(p_j, r, most)[0], zero_where_zero)


@inlined
def cost_sum(p, q, weight, step, d, scale, clip, n):
    """Σ_j a_j·(-log p_j) for a_j = q_j·w_j, and d_j = scale·a_j / p_j; a_j = 0 adds exactly 0."""
    return sum_of_losses(_cost_term, (p, q, weight, step, d, scale, clip), n)
