"""A SIMD vector as a Numba type: 64 bytes of floats with the arithmetic of a scalar.

LLVM lowers `<16 x float>` to whatever the CPU has (one AVX-512 register, two AVX2, four SSE or
NEON), so one source serves all of them. The auto-vectoriser does not get there: a maximum without
nnan and a call of libm's exp both stay scalar.

Functions named `build_…` emit LLVM instructions for the intrinsics here and in `memory.py` and
`columns.py`.
"""

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

VECTOR_BYTES = 64

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


class Half(types.Type):
    """The Numba type of a half-precision number in memory; its vectors are of float32."""

    bitwidth = 16


def arithmetic_type(dtype: Any) -> Any:
    """Return the type in which numbers of a type are computed."""
    return types.float32 if isinstance(dtype, Half) else dtype


class Lanes(types.Type):
    """The Numba type of a vector of `width` floats, by default as many as 64 bytes hold.

    Numbers of half precision are floats here.
    """

    def __init__(self, dtype, width=None):
        self.dtype = arithmetic_type(dtype)
        self.width = width or VECTOR_BYTES * 8 // self.dtype.bitwidth
        super().__init__(f"Lanes({self.dtype}, {self.width})")

    @property
    def vector(self):
        """The LLVM type."""
        element = ir.FloatType() if self.dtype == types.float32 else ir.DoubleType()
        return ir.VectorType(element, self.width)

    @property
    def bits(self):
        """The LLVM type of integers of the same width."""
        return ir.VectorType(ir.IntType(self.dtype.bitwidth), self.width)

    @property
    def suffix(self):
        """The type's name in the names of LLVM's intrinsics."""
        return intrinsic_suffix(self.vector)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.vector)


def intrinsic_suffix(vector):
    """Return the name of an LLVM vector type in the names of LLVM's intrinsics."""
    element = {"float": "f32", "double": "f64"}.get(str(vector.element), str(vector.element))
    return f"v{vector.count}{element}"


def build_splat(builder, value, vector):
    """Return `value` in every element of an LLVM vector type."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, I32(0))
    zeros = ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, zeros)


def build_lanes(context, builder, value, kind, lanes):
    """Return a vector unchanged, a scalar rounded to the element type and in every lane.

    So a constant or a float64 coefficient brings no float64 instructions into a float32 kernel.
    """
    if isinstance(kind, Lanes):
        return value
    return build_splat(builder, context.cast(builder, value, kind, lanes.dtype), lanes.vector)


def build_operands(context, builder, sig, args, lanes):
    """Return all arguments as `build_lanes` does."""
    pairs = zip(args, sig.args, strict=True)
    return [build_lanes(context, builder, value, kind, lanes) for value, kind in pairs]


def build_slice(builder, vector, first, count):
    """Return `count` elements of a vector."""
    index = ir.Constant(ir.VectorType(I32, count), list(range(first, first + count)))
    return builder.shuffle_vector(vector, vector, index)


def build_call(builder, name, result, args):
    """Call the LLVM intrinsic or C function of this name."""
    declared = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, declared, name), args)


# --- arithmetic -----------------------------------------------------------------------------


def _arithmetic(op, build):
    """Register the operator `op` for two vectors, and for a vector and a scalar."""

    @infer_global(op)
    class Template(AbstractTemplate):
        def generic(self, args, kws):
            left, right = args
            if isinstance(left, Lanes) and (right == left or isinstance(right, types.Float)):
                return signature(left, left, right)
            if isinstance(right, Lanes) and isinstance(left, types.Float):
                return signature(right, left, right)
            return None

    def lower(context, builder, sig, args):
        return build(builder, *build_operands(context, builder, sig, args, sig.return_type))

    lower_builtin(op, Lanes, Lanes)(lower)
    lower_builtin(op, Lanes, types.Float)(lower)
    lower_builtin(op, types.Float, Lanes)(lower)


# `contract` lets a·b + c become one fma. Nothing stronger: reassociation would undo the
# Cody-Waite reduction of exp; nnan and ninf would break the promises about nan and inf.
FLAGS = ["contract"]
_arithmetic(operator.add, lambda b, x, y: b.fadd(x, y, flags=FLAGS))
_arithmetic(operator.sub, lambda b, x, y: b.fsub(x, y, flags=FLAGS))
_arithmetic(operator.mul, lambda b, x, y: b.fmul(x, y, flags=FLAGS))
_arithmetic(operator.truediv, lambda b, x, y: b.fdiv(x, y, flags=FLAGS))


@infer_global(operator.neg)
class _Negation(AbstractTemplate):
    def generic(self, args, kws):
        (x,) = args
        return signature(x, x) if isinstance(x, Lanes) else None


@lower_builtin(operator.neg, Lanes)
def _negate(context, builder, sig, args):
    return builder.fneg(args[0])


def polynomial(*coefficients):
    """Make an intrinsic that evaluates Σ c_k·x**k in each lane by Horner's rule."""

    def lower(context, builder, sig, args):
        (x,), lanes = args, sig.return_type
        *others, value = (ir.Constant(lanes.vector, [c] * lanes.width) for c in coefficients)
        for constant in reversed(others):
            product = builder.fmul(value, x, flags=FLAGS)
            value = builder.fadd(product, constant, flags=FLAGS)
        return value

    @intrinsic
    def evaluate(typingctx, x):
        return x(x), lower

    return evaluate


def _llvm(name, arity):
    """Make an intrinsic that calls `llvm.<name>` on vectors of one type."""

    def lower(context, builder, sig, args):
        lanes = sig.return_type
        return build_call(builder, f"llvm.{name}.{lanes.suffix}", lanes.vector, list(args))

    if arity == 1:

        @intrinsic
        def unary(typingctx, x):
            return x(x), lower

        return unary

    @intrinsic
    def binary(typingctx, x, y):
        return x(x, x), lower

    return binary


fabs = _llvm("fabs", 1)
copysign = _llvm("copysign", 2)


def target_cpu():
    """Return whether the target CPU is an x86, and the list of its features."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return triple.startswith(("x86", "i686")), features.split(",")


def is_arm():
    """Whether the target CPU is a 64-bit ARM."""
    triple, *_ = cpu_target.target_context.codegen().magic_tuple()
    return triple.startswith(("aarch64", "arm64"))


def has_fma():
    """Whether the target CPU has fused multiply-add instructions."""
    is_x86, features = target_cpu()
    return not is_x86 or "+fma" in features


def has_avx512():
    """Whether the target CPU has AVX-512: 32 registers, each of a whole vector."""
    return "+avx512f" in target_cpu()[1]


@intrinsic
def fma(typingctx, x, y, z):
    """x·y + z, rounded once; y and z are vectors or scalars. A slow call without `has_fma`."""
    lanes = x

    def lower(context, builder, sig, args):
        operands = build_operands(context, builder, sig, args, lanes)
        return build_call(builder, f"llvm.fma.{lanes.suffix}", lanes.vector, operands)

    return lanes(x, y, z), lower


@intrinsic
def scale_by(typingctx, x, factor):
    """x·factor, or x if factor is None."""

    def lower(context, builder, sig, args):
        return builder.fmul(*args) if isinstance(factor, Lanes) else args[0]

    return x(x, factor), lower


def build_max(builder, x, y, on_arm="maxnum"):
    """Return the larger of each pair. If one is nan: y on x86; on ARM the other one.

    This is one instruction: vmaxps on x86, where llvm.maxnum and llvm.maximum would be more; fmaxnm
    on ARM, or with "maximum" fmax, whose result is nan if one of the pair is.
    """
    if is_arm():
        name = f"llvm.{on_arm}.{intrinsic_suffix(x.type)}"
        return build_call(builder, name, x.type, [x, y])
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


@intrinsic
def maximum(typingctx, x, y):
    """The larger of each pair. A nan may be lost; the sum of the row's exponentials has it."""

    def lower(context, builder, sig, args):
        return build_max(builder, *args)

    return x(x, x), lower


@intrinsic
def at_least(typingctx, x, bound):
    """x, but `bound`, a scalar, in the lanes where x is less; nan where x is nan."""

    def lower(context, builder, sig, args):
        value, bound = build_operands(context, builder, sig, args, sig.return_type)
        return build_max(builder, bound, value, "maximum")

    return x(x, bound), lower


def _chosen_integer(relation, text):
    """Make an intrinsic of two integers; Numba's min and max are functions, each compiled."""

    def choose(typingctx, a, b):
        def lower(context, builder, sig, args):
            return builder.select(builder.icmp_signed(relation, *args), *args)

        return types.int64(types.int64, types.int64), lower

    choose.__doc__ = text
    return intrinsic(choose)


smaller = _chosen_integer("<", "The smaller of two integers.")
larger = _chosen_integer(">", "The larger of two integers.")


def _where(relation, text):
    """Make an intrinsic that selects by comparing lanes; each argument is a vector or a scalar."""

    def choose(typingctx, x, y, a, b):
        lanes = next(t for t in (x, y, a, b) if isinstance(t, Lanes))

        def lower(context, builder, sig, args):
            x, y, a, b = build_operands(context, builder, sig, args, lanes)
            return builder.select(builder.fcmp_ordered(relation, x, y), a, b)

        return lanes(x, y, a, b), lower

    choose.__doc__ = text
    return intrinsic(choose)


where_less = _where("<", "`a` in the lanes where x < y, else `b`; a comparison with nan is false.")
where_equal = _where(
    "==", "`a` in the lanes where x = y, else `b`; a comparison with nan is false."
)


@intrinsic
def zero_where_zero(typingctx, x, value):
    """`value`, but exactly 0 in the lanes where x is 0: a term without weight adds nothing."""

    def lower(context, builder, sig, args):
        zero = ir.Constant(sig.return_type.vector, [0.0] * sig.return_type.width)
        return builder.select(builder.fcmp_ordered("==", args[0], zero), zero, args[1])

    return value(x, value), lower


# For each float type: number of fraction bits, exponent bias, the bits of 1 and of √½.
_FORMAT = {
    types.float32: (23, 127, 0x3F800000, 0x3F3504F3),
    types.float64: (52, 1023, 0x3FF0000000000000, 0x3FE6A09E667F3BCD),
}


def _constant(lanes, bits):
    return ir.Constant(lanes.bits, [bits] * lanes.width)


@intrinsic
def power_of_two(typingctx, shifted):
    """2**n, from the low bits of n + 127 + 1.5·2**23 (float64: n + 1023 + 1.5·2**52).

    The addition itself has rounded n to an integer. A conversion to integers would be undefined for
    nan and inf, and scalar for float64 before AVX-512.
    """

    def lower(context, builder, sig, args):
        lanes = sig.return_type
        fraction, *_ = _FORMAT[lanes.dtype]
        bits = builder.bitcast(args[0], lanes.bits)
        return builder.bitcast(builder.shl(bits, _constant(lanes, fraction)), lanes.vector)

    return shifted(shifted), lower


def _bits_from_root(builder, x, lanes):
    """Return the bits of x, shifted so that the exponent field changes at √½·2**k, not at 2**k."""
    *_, one, root = _FORMAT[lanes.dtype]
    return builder.add(builder.bitcast(x, lanes.bits), _constant(lanes, one - root))


@intrinsic
def exponent(typingctx, x):
    """The k with x·2**-k in √½ … √2, as floats; x must be positive and normal."""

    def lower(context, builder, sig, args):
        lanes = sig.return_type
        fraction, bias, *_ = _FORMAT[lanes.dtype]
        biased = builder.lshr(_bits_from_root(builder, args[0], lanes), _constant(lanes, fraction))
        # k + bias as the low bits of 2**fraction: a conversion would be scalar for float64.
        shift = _constant(lanes, (fraction + bias) << fraction)
        shifted = builder.bitcast(builder.or_(biased, shift), lanes.vector)
        offset = ir.Constant(lanes.vector, [float(2**fraction + bias)] * lanes.width)
        return builder.fsub(shifted, offset)

    return x(x), lower


@intrinsic
def mantissa(typingctx, x):
    """x·2**-k in √½ … √2; x must be positive and normal."""

    def lower(context, builder, sig, args):
        lanes = sig.return_type
        fraction, *_, root = _FORMAT[lanes.dtype]
        low_bits = builder.and_(
            _bits_from_root(builder, args[0], lanes), _constant(lanes, (1 << fraction) - 1)
        )
        return builder.bitcast(builder.add(low_bits, _constant(lanes, root)), lanes.vector)

    return x(x), lower


@intrinsic
def round_to(typingctx, x, pointer):
    """x rounded to the pointer's element type."""
    lanes = Lanes(pointer.dtype, x.width)

    def lower(context, builder, sig, args):
        return args[0] if x == lanes else builder.fptrunc(args[0], lanes.vector)

    return lanes(x, pointer), lower


@intrinsic
def widen(typingctx, x):
    """x converted to float64."""
    widened = Lanes(types.float64, x.width)

    def lower(context, builder, sig, args):
        return args[0] if x == widened else builder.fpext(args[0], widened.vector)

    return widened(x), lower


# --- across the lanes -----------------------------------------------------------------------


def _halving(build):
    """Make an intrinsic that combines the halves of a vector until one element is left."""

    @intrinsic
    def reduce(typingctx, x):
        def lower(context, builder, sig, args):
            (value,) = args
            half = sig.args[0].width // 2
            while half:
                low, high = (build_slice(builder, value, k, half) for k in (0, half))
                value = build(builder, low, high)
                half //= 2
            return builder.extract_element(value, I32(0))

        return x.dtype(x), lower

    return reduce


horizontal_sum = _halving(lambda b, x, y: b.fadd(x, y))
horizontal_max = _halving(build_max)


def build_lane_mask(builder, relation: str, index, width: int):
    """Return the mask of the lanes whose number compares to `index` by `relation`."""
    integers = ir.VectorType(I32, width)
    position = build_splat(builder, builder.trunc(index, I32), integers)
    return builder.icmp_signed(relation, ir.Constant(integers, list(range(width))), position)


@intrinsic
def lane(typingctx, x, index):
    """The element of lane `index`."""

    def lower(context, builder, sig, args):
        return builder.extract_element(args[0], builder.trunc(args[1], I32))

    return x.dtype(x, types.int64), lower


@intrinsic
def first_equal(typingctx, x, value):
    """The first lane that equals the scalar `value`, or the number of lanes."""

    def lower(context, builder, sig, args):
        values = build_lanes(context, builder, args[1], value, x)
        integer = ir.IntType(x.width)
        mask = builder.bitcast(builder.fcmp_ordered("==", args[0], values), integer)
        return builder.zext(builder.cttz(mask, I1(0)), I64)

    return types.int64(x, value), lower


@intrinsic
def without_lane(typingctx, x, index):
    """x with 0 in lane `index`."""

    def lower(context, builder, sig, args):
        lanes = sig.return_type
        here = build_lane_mask(builder, "==", args[1], lanes.width)
        return builder.select(here, ir.Constant(lanes.vector, [0.0] * lanes.width), args[0])

    return x(x, types.int64), lower
