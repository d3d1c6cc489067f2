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
    horizontal_max,
    horizontal_sum,
    lane,
    lanes_of,
    load,
    load_part,
    maximum,
    splat,
    store,
    store_part,
    widen,
    without_lane,
    zero_where_zero,
    zeros,
)
from fastxent.cpu.vector_math import exp, expm1
from fastxent.formulas import softcap_parts


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
def has_nan(x, n):
    """Whether any element is nan."""
    for j in range(n):  # noqa: SIM110 - any() over a generator does not compile
        if x[j] != x[j]:
            return True
    return False


# --- sums -----------------------------------------------------------------------------------


@subroutine
def _sum_row(term, tail_term, x, m, other, n, skip):
    """Σ_{j≠skip} of the row's terms in float64, and the skipped term.

    Leaving a term out costs next to nothing here and cannot be done afterwards: s - e_y has lost
    the small terms. skip = n leaves none out (it falls on a lane behind the end, which holds 0).

    A block of 32 vectors is summed by four chains of eight additions each, then blocks in float64
    with what rounding loses (Fast2Sum: no term is negative). A single chain would drift with the
    length of the row, most where terms are equal. An infinite sum has no rounding to give back.
    """
    width = lanes_of(x)
    full = n // width
    at = skip // width
    special = tail_term(x, m, other, full * width, n - full * width)
    total = widen(special)
    if at == full:
        total = widen(without_lane(special, skip - at * width))
    lost = total - total
    for first in range(0, full, 32):
        last = min(first + 32, full)
        a = b = c = d = zeros(x)
        if first <= at < last:
            for k in range(first, last):
                v = term(x, m, other, k)
                if k == at:
                    special = v
                    v = without_lane(v, skip - at * width)
                a, b, c, d = b, c, d, a + v
        else:
            quads = (last - first) // 4
            for q in range(quads):
                k = first + 4 * q
                a = a + term(x, m, other, k)
                b = b + term(x, m, other, k + 1)
                c = c + term(x, m, other, k + 2)
                d = d + term(x, m, other, k + 3)
            for k in range(first + 4 * quads, last):
                a = a + term(x, m, other, k)
        block = widen((a + b) + (c + d))
        larger = total + block
        lost = lost + ((larger - total) - block)
        total = larger
    rounding = horizontal_sum(lost)
    exact = horizontal_sum(total)
    if math.isfinite(rounding):
        exact -= rounding
    return exact, lane(special, skip - at * width)


@subroutine
def _exp_term(x, m, e, k):
    j = k * lanes_of(x)
    value = exp(load(x, j) - m)
    store(e, j, value)
    return value


@subroutine
def _exp_tail(x, m, e, j, part):
    value = exp(load_part(x, j, part, -math.inf) - m)
    store_part(e, j, part, value)
    return value


@inlined
def exp_sum(x, m, e, n, skip):
    """Σ_{j≠skip} exp(x_j - m) and exp(x_skip - m); each is stored in e where e is not None."""
    return _sum_row(_exp_term, _exp_tail, x, m, e, n, skip)


@subroutine
def _element(x, m, other, k):
    return load(x, k * lanes_of(x))


@subroutine
def _last_elements(x, m, other, j, part):
    return load_part(x, j, part, 0.0)


def rest_of_max(x, m, e, n):
    """Σ exp(x_j - m) over all but the first maximum, from the e stored before, if there are."""
    raise NotImplementedError("exists in compiled code only")


@overload(rest_of_max)
def _rest_of_max(x, m, e, n):
    def again(x, m, e, n):
        return exp_sum(x, m, None, n, first_max(x, n))[0]

    def stored(x, m, e, n):
        return _sum_row(_element, _last_elements, e, m, None, n, first_max(e, n))[0]

    return again if isinstance(e, types.NoneType) else stored


@subroutine
def _below_max_term(x, m, weight, k):
    j = k * lanes_of(x)
    w = load(weight, j)
    return zero_where_zero(w, w * (m - load(x, j)))


@subroutine
def _below_max_tail(x, m, weight, j, part):
    w = load_part(weight, j, part, 0.0)
    return zero_where_zero(w, w * (m - load_part(x, j, part, m)))


@inlined
def below_max_sum(x, m, weight, n):
    """Σ_c w_c·(m - x_c) in float64; a class without weight adds exactly 0, even at -inf."""
    return _sum_row(_below_max_term, _below_max_tail, x, m, weight, n, n)[0]


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
def map_rows(f, x, y, out, n, a):
    """out_j = f(x_j, y_j, a) of vectors; out may be x."""
    width = lanes_of(x)
    full = n // width
    for k in range(full):
        store(out, k * width, f(load(x, k * width), load(y, k * width), a))
    part = n - full * width
    if part:
        j = full * width
        v = f(load_part(x, j, part, 0.0), load_part(y, j, part, 0.0), a)
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
    return (p * b) * (1.0 - p)


@subroutine
def minus_multiple(v, w, a):
    """v - w·a."""
    return v - w * a


@subroutine
def times_lanes(v, w, a):
    """v·w."""
    return v * w


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
