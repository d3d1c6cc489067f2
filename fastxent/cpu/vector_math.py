"""exp, expm1, log and log1p on the ranges that losses need, a vector at a time: about 1 ulp.

exp and expm1 take non-positive arguments. After the max shift there are no others, so there is no
overflow to guard, and what would be subnormal is returned as 0: on many CPUs each subnormal result
costs a microcode assist. Method (Cody and Waite): x = n·ln 2 + r with |r| <= ln 2 / 2; then
e^r = 1 + q with q = r + r²·Q(r), and e^x = 2^n + 2^n·q.

log takes positive arguments, log1p those in -1/2 .. 1. Method: x = 2^k·(1 + f) with 1 + f in
√½ .. √2; then log x = k·ln 2 + log(1 + f), where log(1 + f) = f - f²/2 + f³·P(f) in float32, and
in float64, after Sun's fdlibm, f - (f²/2 - s·(f²/2 + s²·P(s²))) with s = f / (2 + f).

Q and P are the polynomials of least maximal relative error of the whole (Remez): 3.1e-9 for e^r in
float32 and 3.7e-18 in float64, 5.8e-9 and 1.2e-18 for the logarithm, so rounding decides.
"""

import math

from numba import types
from numba.extending import overload

from fastxent.cpu.jit import inlined
from fastxent.cpu.lanes import exponent, mantissa, power_of_two, where_less

LOG2_E = 1.4426950408889634
# ln 2 in two parts; the first has so few bits that n times it is exact, with or without fma.
LN2_HI_32, LN2_LO_32 = 0.693359375, -2.12194440054690583e-4
LN2_HI_64, LN2_LO_64 = 6.93145751953125e-1, 1.42860682030941723212e-6
# Adding 1.5·2**(mantissa bits) rounds to an integer and leaves it in the low bits.
SHIFT_32, SHIFT_64 = 12582912.0, 6755399441055744.0
# ln of the smallest normal number: -126·ln 2 and -1022·ln 2.
LOWEST_32, LOWEST_64 = -87.33654475055310, -708.3964185322641


# Where 1 + f changes its k, minus 1: √½ - 1 and √2 - 1.
ROOT_HALF_1, ROOT_TWO_1 = -0.2928932188134524, 0.41421356237309515


def exp(x):
    """e**x for x <= 0 (Lanes); exactly 0 where the result would not be a normal number."""
    raise NotImplementedError("exp of lanes exists in compiled code only")


def expm1(x):
    """e**x - 1 for x <= 0 (Lanes), to its own relative accuracy."""
    raise NotImplementedError("expm1 of lanes exists in compiled code only")


def log(x):
    """Natural logarithm of positive x (Lanes), subnormal too; -inf of 0 and below, nan of nan."""
    raise NotImplementedError("log of lanes exists in compiled code only")


def log1p(x):
    """log(1 + x) for x in -1/2 .. 1 (Lanes), to its own relative accuracy."""
    raise NotImplementedError("log1p of lanes exists in compiled code only")


@inlined
def _parts32(x):
    """2^n and q with e^x = 2^n·(1 + q)."""
    shifted = x * LOG2_E + SHIFT_32
    n = shifted - SHIFT_32
    r = (x - n * LN2_HI_32) - n * LN2_LO_32
    q = 0.00138145370820633531 * r + 0.00836874508091688233
    q = (q * r + 0.0416683908343913318) * r + 0.166665203994574858
    q = (q * r + 0.499999934319743788) * (r * r) + r
    return power_of_two(shifted), q


@inlined
def _parts64(x):
    """2^n and q with e^x = 2^n·(1 + q)."""
    shifted = x * LOG2_E + SHIFT_64
    n = shifted - SHIFT_64
    r = (x - n * LN2_HI_64) - n * LN2_LO_64
    q = 2.50000155107195864e-8 * r + 2.7630306178626537e-7
    q = (q * r + 2.75575868128949246e-6) * r + 2.48014929498759415e-5
    q = (q * r + 1.9841269505765859e-4) * r + 1.38888889437596882e-3
    q = (q * r + 8.33333333349497964e-3) * r + 4.16666666665297294e-2
    q = (q * r + 1.66666666666664115e-1) * r + 0.500000000000001067
    return power_of_two(shifted), q * (r * r) + r


def _exp32(x):
    t, q = _parts32(x)
    return where_less(x, LOWEST_32, 0.0, t * q + t)


def _exp64(x):
    t, q = _parts64(x)
    return where_less(x, LOWEST_64, 0.0, t * q + t)


def _expm1_32(x):
    t, q = _parts32(x)
    return where_less(x, LOWEST_32, 0.0, t * q) + (where_less(x, LOWEST_32, 0.0, t) - 1.0)


def _expm1_64(x):
    t, q = _parts64(x)
    return where_less(x, LOWEST_64, 0.0, t * q) + (where_less(x, LOWEST_64, 0.0, t) - 1.0)


@inlined
def _log_core32(k, f):
    """k·ln 2 + log(1 + f)."""
    p = -0.0763449398631267753 * f + 0.127615745495824554
    p = (p * f - 0.131601821629500327) * f + 0.142017583521696137
    p = (p * f - 0.16623357410258687) * f + 0.200012268629792891
    p = (p * f - 0.250008210320673933) * f + 0.33333331707836742
    square = f * f
    return ((p * f - 0.5) * square + k * LN2_LO_32 + f) + k * LN2_HI_32


@inlined
def _log_core64(k, f):
    """k·ln 2 + log(1 + f)."""
    s = f / (f + 2.0)
    z = s * s
    p = 0.14795475839390845671 * z + 0.15314098774387317122
    p = (p * z + 0.18183562407279448604) * z + 0.22222198610746118702
    p = (p * z + 0.28571428742015851861) * z + 0.39999999999416370411
    p = (p * z + 0.66666666666667341557) * z
    half = (f * f) * 0.5
    return k * LN2_HI_64 - ((half - (s * (half + p) + k * LN2_LO_64)) - f)


@inlined
def _log(x, core, tiny, lift, lifted):
    # A subnormal number is lifted into the normal range first. x - x is 0, but nan for nan.
    normal = where_less(x, tiny, x * lift, x)
    k = exponent(normal) - where_less(x, tiny, lifted, x - x)
    result = core(k, (mantissa(normal) - 1.0) + (x - x))
    return where_less(0.0, x, result, where_less(x, tiny, -math.inf, x))


def _log32(x):
    return _log(x, _log_core32, 2.0**-126, 2.0**24, 24.0)


def _log64(x):
    return _log(x, _log_core64, 2.0**-1022, 2.0**53, 53.0)


@inlined
def _halved(x):
    """The k and f with 1 + x = 2^k·(1 + f), for x in -1/2 .. 1: x where it is small enough."""
    k = where_less(x, ROOT_HALF_1, -1.0, where_less(ROOT_TWO_1, x, 1.0, x - x))
    f = where_less(x, ROOT_HALF_1, (x + x) + 1.0, where_less(ROOT_TWO_1, x, (x - 1.0) * 0.5, x))
    return k, f


def _log1p_32(x):
    k, f = _halved(x)
    return _log_core32(k, f)


def _log1p_64(x):
    k, f = _halved(x)
    return _log_core64(k, f)


def _by_type(float32, float64):
    """The overload that takes the polynomial of the lanes' own precision."""

    def choose(x):
        return float32 if x.dtype == types.float32 else float64

    return choose


overload(exp)(_by_type(_exp32, _exp64))
overload(expm1)(_by_type(_expm1_32, _expm1_64))
overload(log)(_by_type(_log32, _log64))
overload(log1p)(_by_type(_log1p_32, _log1p_64))
