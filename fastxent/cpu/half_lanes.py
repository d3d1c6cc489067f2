"""float16 and bfloat16 in memory: their Numba types, and vectors of them to and from float32.

A load widens and a store rounds to nearest, ties to even, so kernels compute in float32. bfloat16
is the upper half of a float32. float16 takes one instruction with F16C, AVX-512 or NEON, else
integer arithmetic: LLVM would call a function of a library that is not linked.
"""

from llvmlite import ir
from numba.extending import models, register_model

from fastxent.cpu.lanes import Half, build_splat, target_cpu

FLOAT16, BFLOAT16 = Half("float16"), Half("bfloat16")

_I16, _I32, _F32 = ir.IntType(16), ir.IntType(32), ir.FloatType()


@register_model(Half)
class _HalfModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _I16)


def has_conversion():
    """Whether the target CPU converts between float16 and float32."""
    is_x86, features = target_cpu()
    return not is_x86 or "+f16c" in features or "+avx512f" in features


def build_widen(builder, bits, kind):
    """Return a vector of the bits of float16 or bfloat16 as float32."""
    width = bits.type.count
    singles = ir.VectorType(_F32, width)
    if kind == BFLOAT16:
        return builder.bitcast(_shift(builder, "shl", _zext(builder, bits), 16), singles)
    if has_conversion():
        halves = builder.bitcast(bits, ir.VectorType(ir.HalfType(), width))
        return builder.fpext(halves, singles)
    return _widen_by_integers(builder, _zext(builder, bits))


def build_round(builder, values, kind):
    """Return a vector of float32 as the bits of float16 or bfloat16."""
    width = values.type.count
    if kind == FLOAT16 and has_conversion():
        halves = builder.fptrunc(values, ir.VectorType(ir.HalfType(), width))
        return builder.bitcast(halves, ir.VectorType(_I16, width))
    bits = builder.bitcast(values, ir.VectorType(_I32, width))
    is_bfloat16 = kind == BFLOAT16
    rounded = _round(builder, bits, 16) if is_bfloat16 else _round_float16(builder, bits)
    # A nan is not rounded: its bits could become those of a zero.
    nan = _all(bits, 0x7FC0 if is_bfloat16 else 0x7E00)
    rounded = builder.select(builder.fcmp_unordered("uno", values, values), nan, rounded)
    return builder.trunc(rounded, ir.VectorType(_I16, width))


# --- integer arithmetic on vectors ----------------------------------------------------------


def _zext(builder, bits):
    return builder.zext(bits, ir.VectorType(_I32, bits.type.count))


def _all(like, number):
    """A constant in all lanes."""
    return ir.Constant(like.type, [number] * like.type.count)


def _shift(builder, direction, bits, count):
    return getattr(builder, direction)(bits, _all(bits, count))


def _round(builder, bits, dropped):
    """The bits without the lowest `dropped`, rounded to nearest, ties to even."""
    odd = builder.and_(_shift(builder, "lshr", bits, dropped), _all(bits, 1))
    half = builder.add(odd, _all(bits, (1 << (dropped - 1)) - 1))
    return _shift(builder, "lshr", builder.add(bits, half), dropped)


# The bits of float32 numbers: 65520, from which on float16 is infinite, 2**-14, its smallest normal
# number, and ½; and the difference of the biases of the exponents.
_TOO_LARGE, _SMALLEST, _ONE_HALF, _BIASES = 0x477FF000, 0x38800000, 0x3F000000, 112 << 23


def _round_float16(builder, bits):
    sign = builder.and_(_shift(builder, "lshr", bits, 16), _all(bits, 0x8000))
    size = builder.and_(bits, _all(bits, 0x7FFFFFFF))
    normal = _round(builder, builder.sub(size, _all(bits, _BIASES)), 13)
    # The steps of float32 numbers from ½ to 1 are those of float16's subnormal numbers.
    singles = ir.VectorType(_F32, bits.type.count)
    half = ir.Constant(singles, [0.5] * bits.type.count)
    total = builder.bitcast(builder.fadd(builder.bitcast(size, singles), half), bits.type)
    subnormal = builder.sub(total, _all(bits, _ONE_HALF))
    result = builder.select(
        builder.icmp_unsigned("<", size, _all(bits, _SMALLEST)), subnormal, normal
    )
    is_large = builder.icmp_unsigned(">=", size, _all(bits, _TOO_LARGE))
    return builder.or_(sign, builder.select(is_large, _all(bits, 0x7C00), result))


def _widen_by_integers(builder, bits):
    singles = ir.VectorType(_F32, bits.type.count)
    sign = _shift(builder, "shl", builder.and_(bits, _all(bits, 0x8000)), 16)
    size = builder.and_(bits, _all(bits, 0x7FFF))
    shifted = _shift(builder, "shl", size, 13)
    normal = builder.add(shifted, _all(bits, _BIASES))
    # Subnormal: as the fraction of a number from 2**-14 on, less that.
    smallest = builder.bitcast(_all(bits, _SMALLEST), singles)
    lifted = builder.bitcast(builder.add(shifted, _all(bits, _SMALLEST)), singles)
    subnormal = builder.bitcast(builder.fsub(lifted, smallest), bits.type)
    result = builder.select(builder.icmp_unsigned("<", size, _all(bits, 0x400)), subnormal, normal)
    is_infinite = builder.icmp_unsigned(">=", size, _all(bits, 0x7C00))
    result = builder.select(is_infinite, builder.add(normal, _all(bits, _BIASES)), result)
    return builder.bitcast(builder.or_(sign, result), singles)


# --- one number -----------------------------------------------------------------------------

# Numbers are converted as a vector of this width, the smallest that every CPU has.
_WIDTH = 8


def build_widen_one(builder, bits, kind):
    """Return the bits of one float16 or bfloat16 as a float32."""
    vector = build_splat(builder, bits, ir.VectorType(_I16, _WIDTH))
    return builder.extract_element(build_widen(builder, vector, kind), _I32(0))


def build_round_one(builder, value, kind):
    """Return a float32 as the bits of a float16 or bfloat16."""
    vector = build_splat(builder, value, ir.VectorType(_F32, _WIDTH))
    return builder.extract_element(build_round(builder, vector, kind), _I32(0))
