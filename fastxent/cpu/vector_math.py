"""Vector exp, expm1 and logarithms on the ranges that losses need, to about 1 ulp.

exp and expm1 take non-positive arguments: after the maximum is subtracted there are no others, so
no overflow has to be handled. Subnormal results become 0: on many CPUs each costs a microcode
assist. Method (Cody and Waite): x = n·ln 2 + r with |r| <= ln 2 / 2; then e^r = 1 + q with
q = r + r²·P(r), and e^x = 2^n + 2^n·q. `shifted_exp` saves two of the eleven multiplications of
this in float32, where multiplications limit the speed of a row.

log x = k·ln 2 + log(1 + f), where x = 2^k·(1 + f) with 1 + f in √½ .. √2: in float32 as
f - f²/2 + f³·P(f), in float64, after Sun's fdlibm, as f - (f²/2 - s·(f²/2 + s²·P(s²))) with
s = f / (2 + f). log1p and log1m have ranges so short that x ± x²·P(x) is enough.

Each P is the minimax polynomial (Remez) for the relative error of the function, which is below
6e-9 for float32 and 1e-17 for float64, so that rounding dominates; for `shifted_exp` it is 9.2e-8.

The docstring of a function gives its lane types, its largest error in ulp (as `tests/test_lanes.py`
measures it against extended precision), and its valid range.
"""

import math

from numba import types

from fastxent.cpu.jit import inlined, overload
from fastxent.cpu.lanes import (
    at_least,
    exponent,
    fabs,
    fma,
    has_fma,
    mantissa,
    polynomial,
    power_of_two,
    where_less,
)

LOG2_E, LN2 = 1.4426950408889634, 0.6931471805599453
# ln 2 in two parts; the first has so few bits that its product with n is exact.
LN2_HI_32, LN2_LO_32 = 0.693359375, -2.12194440054690583e-4
LN2_HI_64, LN2_LO_64 = 6.93145751953125e-1, 1.42860682030941723212e-6
# Adding 1.5·2**(number of fraction bits) rounds to an integer in the low bits; with the exponent
# bias added too, these are the exponent field of 2**n.
SHIFT_32, SHIFT_64 = 12582912.0 + 127.0, 6755399441055744.0 + 1023.0
# The logarithm of the smallest normal number: -126·ln 2 and -1022·ln 2.
LOWEST_32, LOWEST_64 = -87.33654475055310, -708.3964185322641
# A number whose n is -127.
ZERO_FROM_32 = -88.0
ROOT_HALF = 0.7071067811865476

_exp_32 = polynomial(
    0.499999934319743788, 0.166665203994574858, 0.0416683908343913318, 0.00836874508091688233,
    0.00138145370820633531,
)  # fmt: skip
_shifted_exp_32 = polynomial(
    0.99999970197677612, 0.4999915063381195, 0.16667649149894714, 0.041897822171449661,
    0.0082895671948790550,
)  # fmt: skip
_exp_64 = polynomial(
    0.500000000000001067, 0.166666666666664115, 4.16666666665297294e-2, 8.33333333349497964e-3,
    1.38888889437596882e-3, 1.9841269505765859e-4, 2.48014929498759415e-5, 2.75575868128949246e-6,
    2.7630306178626537e-7, 2.50000155107195864e-8,
)  # fmt: skip
_log_32 = polynomial(
    0.33333331707836742, -0.250008210320673933, 0.200012268629792891, -0.16623357410258687,
    0.142017583521696137, -0.131601821629500327, 0.127615745495824554, -0.0763449398631267753,
)  # fmt: skip
_log_64 = polynomial(
    0.66666666666667341557, 0.39999999999416370411, 0.28571428742015851861, 0.22222198610746118702,
    0.18183562407279448604, 0.15314098774387317122, 0.14795475839390845671,
)  # fmt: skip
_log1p_32 = polynomial(
    -0.499999327631265499, 0.333305113084531835, -0.24958587317586662, 0.196954000878671166,
    -0.153553952180231286, 0.106805539992303261, -0.0576644320097083949, 0.0202045796580349594,
    -0.00331847160817321096,
)  # fmt: skip
# In powers of (x - ½)²: two polynomials of half the degree, as each step waits for the one before.
_log1p_64_even = polynomial(
    -0.37813956756734246, -0.09323036636366903, -0.028943183164417283, -0.009909900766963532,
    -0.0035856647739285212, -0.0013445311725850085, -0.0005165391191998817, -0.00020487921021877982,
    -7.108746069619355e-05, -5.112648585996751e-05,
)  # fmt: skip
_log1p_64_odd = polynomial(
    0.1792249369360372, 0.05108344610540023, 0.016788742491279877, 0.005929011560851005,
    0.0021876475781440075, 0.0008313430182767024, 0.000323465972590171, 0.00012544903799165908,
    5.2745327631095706e-05, 2.5329609760955606e-05,
)  # fmt: skip


def exp(x):
    """e**x.

    Lane types: float32, float64
    Max error: ULP = 1
    Valid range: [-inf, 0], nan; exactly 0 where the result would be subnormal
    """
    raise NotImplementedError("exp of lanes exists in compiled code only")


def shifted_exp(x):
    """e**x of a rounded difference x, whose rounding may have cost |x|/2 ulp already.

    Lane types: float32, float64
    Max error: ULP = 1.5 + |x|/40 (float32), as exp (float64)
    Valid range: [-inf, 0], nan; where e**x is below the normal range, 0 or subnormal
    """
    raise NotImplementedError("shifted_exp of lanes exists in compiled code only")


def expm1(x):
    """e**x - 1.

    Lane types: float32, float64
    Max error: ULP = 1
    Valid range: [-inf, 0], nan
    """
    raise NotImplementedError("expm1 of lanes exists in compiled code only")


def log(x):
    """Natural logarithm.

    Lane types: float32, float64
    Max error: ULP = 1.2
    Valid range: positive and finite, subnormal too (tested on (0, 1]); -inf for x <= 0, nan for nan
    """
    raise NotImplementedError("log of lanes exists in compiled code only")


def log_above_one(x):
    """Natural logarithm.

    Lane types: float32, float64
    Max error: ULP = 1.2
    Valid range: x >= 1 and finite (tested to 1e30); the result for nan is a number
    """
    raise NotImplementedError("log_above_one of lanes exists in compiled code only")


def log1p(x):
    """log(1 + x).

    Lane types: float32, float64
    Max error: ULP = 1.2
    Valid range: [0, 1], nan
    """
    raise NotImplementedError("log1p of lanes exists in compiled code only")


def log1m(x):
    """-log(1 - x).

    Lane types: float32, float64
    Max error: ULP = 1.2
    Valid range: [0, ½], nan
    """
    raise NotImplementedError("log1m of lanes exists in compiled code only")


def log_of(p, r):
    """log p for r = 1 - p: from r where p is close to 1, as p may be rounded there.

    Lane types: float32, float64
    Max error: ULP = 1.2
    Valid range: p and r in [0, 1], nan; below -103 for p = 0
    """
    raise NotImplementedError("log_of of lanes exists in compiled code only")


def _make_exp_parts(series, shift, high, low):
    @inlined
    def exp_parts(x):
        """2^n and q with e^x = 2^n·(1 + q); ln 2 = high + low."""
        shifted = x * LOG2_E + shift
        n = shifted - shift
        r = (x - n * high) - n * low
        return power_of_two(shifted), series(r) * (r * r) + r

    return exp_parts


_exp_parts32 = _make_exp_parts(_exp_32, SHIFT_32, LN2_HI_32, LN2_LO_32)
_exp_parts64 = _make_exp_parts(_exp_64, SHIFT_64, LN2_HI_64, LN2_LO_64)


@inlined
def _exp(x, parts, lowest):
    t, q = parts(x)
    return where_less(x, lowest, 0.0, t * q + t)


@inlined
def _remainder_by_fma(x, n):
    """x - n·ln 2 with one rounding; the relative error of ln 2 in float32 is 2.7e-9."""
    return fma(n, -LN2, x)


@inlined
def _remainder_in_two(x, n):
    """x - n·ln 2 without fma, with ln 2 in two parts."""
    return (x - n * LN2_HI_32) - n * LN2_LO_32


@inlined
def _scale_by_fma(t, q):
    """2^n·(1 + q), without a register for the 1: the loop of the row needs all of them."""
    return fma(q, t, t)


@inlined
def _scale_in_two(t, q):
    """2^n·(1 + q) without fma."""
    return (q + 1.0) * t


@inlined
def _shifted_exp32(x, remainder, scale):
    # Clamped to where n is -127, for which 2^n is 0: no comparison with x is needed at the end.
    x = at_least(x, ZERO_FROM_32)
    shifted = x * LOG2_E + SHIFT_32
    r = remainder(x, shifted - SHIFT_32)
    return scale(power_of_two(shifted), _shifted_exp_32(r) * r)


@inlined
def _expm1(x, parts, lowest):
    t, q = parts(x)
    return where_less(x, lowest, 0.0, t * q) + (where_less(x, lowest, 0.0, t) - 1.0)


@inlined
def _log_core32(k, f):
    """k·ln 2 + log(1 + f)."""
    return ((_log_32(f) * f - 0.5) * (f * f) + k * LN2_LO_32 + f) + k * LN2_HI_32


@inlined
def _log_core64(k, f):
    """k·ln 2 + log(1 + f)."""
    s = f / (f + 2.0)
    z = s * s
    half = (f * f) * 0.5
    return k * LN2_HI_64 - ((half - (s * (half + _log_64(z) * z) + k * LN2_LO_64)) - f)


@inlined
def _log(x, core, tiny, lift, lifted):
    # A subnormal number is scaled to the normal range first. x - x is 0, but nan for nan, whose
    # bits alone would give a number.
    normal = where_less(x, tiny, x * lift, x)
    k = exponent(normal) - where_less(x, tiny, lifted, x - x)
    result = core(k, mantissa(normal) - 1.0)
    return where_less(0.0, x, result, where_less(x, tiny, -math.inf, x))


@inlined
def _log_of(p, r, core, lift, lifted):
    # log(1 - r) where p is above √½: there 1 + f is 1 - r itself. A nan takes this side, which
    # keeps it. Else log p, by bits: p is lifted above the subnormal numbers, 0 to one below them,
    # -0.0 without its sign.
    large = fabs(p) * lift
    k = where_less(1.0 - ROOT_HALF, r, exponent(large) - lifted, 0.0)
    return core(k, where_less(1.0 - ROOT_HALF, r, mantissa(large) - 1.0, -r))


@inlined
def _log1p_64(x):
    t = x - 0.5
    square = t * t
    return _log1p_64_odd(square) * t + _log1p_64_even(square)


@inlined
def _log1m(x, core):
    # 1 - x = 1 + f, or (1 + f) / 2 where it is below √½; 1 - 2x is exact there.
    k = where_less(1.0 - ROOT_HALF, x, -1.0, x - x)
    return -core(k, where_less(1.0 - ROOT_HALF, x, 1.0 - (x + x), -x))


def _implement(function, float32, float64):
    """Overload a function by the element type of the lanes."""

    @overload(function)
    def choose(x):
        return float32 if x.dtype == types.float32 else float64


_implement(
    exp, lambda x: _exp(x, _exp_parts32, LOWEST_32), lambda x: _exp(x, _exp_parts64, LOWEST_64)
)
_implement(
    shifted_exp,
    (lambda x: _shifted_exp32(x, _remainder_by_fma, _scale_by_fma))
    if has_fma()
    else (lambda x: _shifted_exp32(x, _remainder_in_two, _scale_in_two)),
    lambda x: exp(x),
)
_implement(
    expm1,
    lambda x: _expm1(x, _exp_parts32, LOWEST_32),
    lambda x: _expm1(x, _exp_parts64, LOWEST_64),
)
_implement(
    log,
    lambda x: _log(x, _log_core32, 2.0**-126, 2.0**24, 24.0),
    lambda x: _log(x, _log_core64, 2.0**-1022, 2.0**53, 53.0),
)
_implement(
    log_above_one,
    lambda x: _log_core32(exponent(x), mantissa(x) - 1.0),
    lambda x: _log_core64(exponent(x), mantissa(x) - 1.0),
)
_implement(log1p, lambda x: _log1p_32(x) * (x * x) + x, lambda x: _log1p_64(x) * (x * x) + x)
_implement(log1m, lambda x: _log1m(x, _log_core32), lambda x: _log1m(x, _log_core64))


@overload(log_of)
def _implement_log_of(p, r):
    def float32(p, r):
        return _log_of(p, r, _log_core32, 2.0**24, 24.0)

    def float64(p, r):
        return _log_of(p, r, _log_core64, 2.0**53, 53.0)

    return float32 if p.dtype == types.float32 else float64
