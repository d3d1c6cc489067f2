"""exp and expm1 of non-positive arguments, a vector at a time.

After the max shift no argument is positive, so there is no overflow to guard, and what would be
subnormal is returned as 0: on many CPUs each subnormal result costs a microcode assist.

Method (Cody and Waite): x = n·ln 2 + r with |r| <= ln 2 / 2; then e^r = 1 + q with
q = r + r²·Q(r), and e^x = 2^n + 2^n·q. Q is the polynomial of least maximal relative error of
e^r (Remez): 3.1e-9 for float32, 3.7e-18 for float64, so rounding decides: about 1 ulp.
"""

from numba import types
from numba.extending import overload

from fastxent.cpu.jit import inlined
from fastxent.cpu.lanes import power_of_two, zero_where_less

LOG2_E = 1.4426950408889634
# ln 2 in two parts; the first has so few bits that n times it is exact, with or without fma.
LN2_HI_32, LN2_LO_32 = 0.693359375, -2.12194440054690583e-4
LN2_HI_64, LN2_LO_64 = 6.93145751953125e-1, 1.42860682030941723212e-6
# Adding 1.5·2**(mantissa bits) rounds to an integer and leaves it in the low bits.
SHIFT_32, SHIFT_64 = 12582912.0, 6755399441055744.0
# ln of the smallest normal number: -126·ln 2 and -1022·ln 2.
LOWEST_32, LOWEST_64 = -87.33654475055310, -708.3964185322641


def exp(x):
    """e**x for x <= 0 (Lanes); exactly 0 where the result would not be a normal number."""
    raise NotImplementedError("exp of lanes exists in compiled code only")


def expm1(x):
    """e**x - 1 for x <= 0 (Lanes), to its own relative accuracy."""
    raise NotImplementedError("expm1 of lanes exists in compiled code only")


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
    return zero_where_less(x, LOWEST_32, t * q + t)


def _exp64(x):
    t, q = _parts64(x)
    return zero_where_less(x, LOWEST_64, t * q + t)


def _expm1_32(x):
    t, q = _parts32(x)
    return zero_where_less(x, LOWEST_32, t * q) + (zero_where_less(x, LOWEST_32, t) - 1.0)


def _expm1_64(x):
    t, q = _parts64(x)
    return zero_where_less(x, LOWEST_64, t * q) + (zero_where_less(x, LOWEST_64, t) - 1.0)


def _by_type(float32, float64):
    """The overload that takes the polynomial of the lanes' own precision."""

    def choose(x):
        return float32 if x.dtype == types.float32 else float64

    return choose


overload(exp)(_by_type(_exp32, _exp64))
overload(expm1)(_by_type(_expm1_32, _expm1_64))
