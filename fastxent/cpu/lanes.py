"""A SIMD vector as a Numba type: 64 bytes of floats whose arithmetic reads as a scalar's does.

LLVM lowers `<16 x float>` to whatever the CPU has (one AVX-512 register, two AVX2, four SSE or
NEON), so one source serves all of them; a loop left to the auto-vectoriser does not get there,
because a maximum without nnan and a call of libm's exp both stay scalar.

Memory is reached through row pointers: `row(array, i)`, then `load(pointer, j)` with `j` counted
in elements. Nothing here checks bounds: `load_part` and `store_part` are for the end of a row.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

VECTOR_BYTES = 64

_I1, _I32, _I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


class Lanes(types.Type):
    """The Numba type of a vector of `width` floats; 64 bytes of them unless it says otherwise."""

    def __init__(self, dtype, width=None):
        self.dtype = dtype
        self.width = width or VECTOR_BYTES * 8 // dtype.bitwidth
        super().__init__(f"Lanes({dtype}, {self.width})")

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
        """The name of the type inside LLVM's intrinsic names."""
        return f"v{self.width}f{self.dtype.bitwidth}"


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.vector)


def _splat(builder, value, vector):
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, zeros)


def _as_lanes(context, builder, value, kind, lanes):
    """A vector as it is; a scalar rounded to the vectors' element type, in every lane.

    So a bare constant or a float64 coefficient never drags float64 instructions into a float32
    kernel.
    """
    if isinstance(kind, Lanes):
        return value
    return _splat(builder, context.cast(builder, value, kind, lanes.dtype), lanes.vector)


def _call(builder, name, result, args):
    declared = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, declared, name), args)


# --- arithmetic -----------------------------------------------------------------------------


def _arithmetic(op, build):
    """Register `op` between vectors, and between a vector and a scalar."""

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
        pairs = zip(args, sig.args, strict=True)
        return build(
            builder, *(_as_lanes(context, builder, v, t, sig.return_type) for v, t in pairs)
        )

    lower_builtin(op, Lanes, Lanes)(lower)
    lower_builtin(op, Lanes, types.Float)(lower)
    lower_builtin(op, types.Float, Lanes)(lower)


# `contract` lets a·b + c become one fma. Nothing stronger: reassociation would undo the
# Cody-Waite reduction of exp, nnan and ninf would break what is specified for nan and inf.
_FLAGS = ["contract"]
_arithmetic(operator.add, lambda b, x, y: b.fadd(x, y, flags=_FLAGS))
_arithmetic(operator.sub, lambda b, x, y: b.fsub(x, y, flags=_FLAGS))
_arithmetic(operator.mul, lambda b, x, y: b.fmul(x, y, flags=_FLAGS))
_arithmetic(operator.truediv, lambda b, x, y: b.fdiv(x, y, flags=_FLAGS))


@infer_global(operator.neg)
class _Negation(AbstractTemplate):
    def generic(self, args, kws):
        (x,) = args
        return signature(x, x) if isinstance(x, Lanes) else None


@lower_builtin(operator.neg, Lanes)
def _negate(context, builder, sig, args):
    return builder.fneg(args[0])


def polynomial(*coefficients):
    """An intrinsic that takes x to Σ c_k·x**k, lane by lane, by Horner's rule."""

    def lower(context, builder, sig, args):
        (x,), lanes = args, sig.return_type
        *others, value = (ir.Constant(lanes.vector, [c] * lanes.width) for c in coefficients)
        for constant in reversed(others):
            product = builder.fmul(value, x, flags=_FLAGS)
            value = builder.fadd(product, constant, flags=_FLAGS)
        return value

    @intrinsic
    def evaluate(typingctx, x):
        return x(x), lower

    return evaluate


def _llvm(name, arity):
    """An intrinsic that calls `llvm.<name>` on vectors of one type."""

    def lower(context, builder, sig, args):
        lanes = sig.return_type
        return _call(builder, f"llvm.{name}.{lanes.suffix}", lanes.vector, list(args))

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


def _target():
    """Whether the CPU compiled for is an x86, and its features."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return triple.startswith(("x86", "i686")), features.split(",")


def has_fma():
    """Whether the CPU compiled for has an instruction that multiplies and adds, rounding once."""
    is_x86, features = _target()
    return not is_x86 or "+fma" in features


@intrinsic
def fma(typingctx, x, y, z):
    """x·y + z, rounded once; y and z are vectors or scalars. A slow call where `has_fma` is not."""
    lanes = x

    def lower(context, builder, sig, args):
        operands = [
            _as_lanes(context, builder, value, t, lanes)
            for value, t in zip(args, sig.args, strict=True)
        ]
        return _call(builder, f"llvm.fma.{lanes.suffix}", lanes.vector, operands)

    return lanes(x, y, z), lower


@intrinsic
def scaled(typingctx, x, factor):
    """x·factor, or x if factor is None."""

    def lower(context, builder, sig, args):
        return builder.fmul(*args) if isinstance(factor, Lanes) else args[0]

    return x(x, factor), lower


def _larger(builder, x, y):
    # One vmaxps on x86; llvm.maximum would spend more instructions on keeping the nan.
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


@intrinsic
def maximum(typingctx, x, y):
    """The larger of each pair. A nan may be lost: the row's sum brings it back."""

    def lower(context, builder, sig, args):
        return _larger(builder, *args)

    return x(x, x), lower


def _where(relation, text):
    """An intrinsic that chooses by comparing lanes; each argument is a vector or a scalar."""

    def choose(typingctx, x, y, a, b):
        lanes = next(t for t in (x, y, a, b) if isinstance(t, Lanes))

        def lower(context, builder, sig, args):
            x, y, a, b = (
                _as_lanes(context, builder, value, t, lanes)
                for value, t in zip(args, sig.args, strict=True)
            )
            return builder.select(builder.fcmp_ordered(relation, x, y), a, b)

        return lanes(x, y, a, b), lower

    choose.__doc__ = text
    return intrinsic(choose)


where_less = _where("<", "`a` in the lanes where x < y, else `b`; a nan is not less.")
where_equal = _where("==", "`a` in the lanes where x = y, else `b`; a nan equals nothing.")


@intrinsic
def zero_where_zero(typingctx, x, value):
    """`value`, but exactly 0 in the lanes where x is 0: a term of no weight adds nothing."""

    def lower(context, builder, sig, args):
        zero = ir.Constant(sig.return_type.vector, [0.0] * sig.return_type.width)
        return builder.select(builder.fcmp_ordered("==", args[0], zero), zero, args[1])

    return value(x, value), lower


# Of each float type: bits of the fraction, bias of the exponent, the bits of 1 and of √½.
_FORMAT = {
    types.float32: (23, 127, 0x3F800000, 0x3F3504F3),
    types.float64: (52, 1023, 0x3FF0000000000000, 0x3FE6A09E667F3BCD),
}


def _constant(lanes, bits):
    return ir.Constant(lanes.bits, [bits] * lanes.width)


@intrinsic
def power_of_two(typingctx, shifted):
    """2**n, read off the low bits of n + 127 + 1.5·2**23 (float64: n + 1023 + 1.5·2**52).

    The sum was rounded to an integer by the addition itself. A conversion to integers would be
    undefined for the nan and inf that pass through here, and scalar for float64 before AVX-512.
    """

    def lower(context, builder, sig, args):
        lanes = sig.return_type
        fraction, *_ = _FORMAT[lanes.dtype]
        bits = builder.bitcast(args[0], lanes.bits)
        return builder.bitcast(builder.shl(bits, _constant(lanes, fraction)), lanes.vector)

    return shifted(shifted), lower


def _bits_from_root(builder, x, lanes):
    """The bits of x, moved so that the exponent field changes at √½·2**k instead of at 2**k."""
    *_, one, root = _FORMAT[lanes.dtype]
    return builder.add(builder.bitcast(x, lanes.bits), _constant(lanes, one - root))


@intrinsic
def exponent(typingctx, x):
    """The k with x·2**-k in √½ … √2, as floats; x must be a positive normal number."""

    def lower(context, builder, sig, args):
        lanes = sig.return_type
        fraction, bias, *_ = _FORMAT[lanes.dtype]
        biased = builder.lshr(_bits_from_root(builder, args[0], lanes), _constant(lanes, fraction))
        # k + bias as the last bits of 2**fraction: a conversion would be scalar for float64.
        shift = _constant(lanes, (fraction + bias) << fraction)
        shifted = builder.bitcast(builder.or_(biased, shift), lanes.vector)
        offset = ir.Constant(lanes.vector, [float(2**fraction + bias)] * lanes.width)
        return builder.fsub(shifted, offset)

    return x(x), lower


@intrinsic
def mantissa(typingctx, x):
    """x·2**-k in √½ … √2; x must be a positive normal number."""

    def lower(context, builder, sig, args):
        lanes = sig.return_type
        fraction, *_, root = _FORMAT[lanes.dtype]
        kept = builder.and_(
            _bits_from_root(builder, args[0], lanes), _constant(lanes, (1 << fraction) - 1)
        )
        return builder.bitcast(builder.add(kept, _constant(lanes, root)), lanes.vector)

    return x(x), lower


@intrinsic
def narrow(typingctx, x, pointer):
    """x rounded to the pointer's element type, lane by lane."""
    lanes = Lanes(pointer.dtype, x.width)

    def lower(context, builder, sig, args):
        return args[0] if x == lanes else builder.fptrunc(args[0], lanes.vector)

    return lanes(x, pointer), lower


@intrinsic
def widen(typingctx, x):
    """x in float64, lane by lane."""
    wide = Lanes(types.float64, x.width)

    def lower(context, builder, sig, args):
        return args[0] if x == wide else builder.fpext(args[0], wide.vector)

    return wide(x), lower


# --- across the lanes -----------------------------------------------------------------------


def _halving(build):
    """An intrinsic that folds the upper half of a vector onto the lower until one is left."""

    @intrinsic
    def reduce(typingctx, x):
        def lower(context, builder, sig, args):
            (value,) = args
            half = sig.args[0].width // 2
            while half:
                index = ir.VectorType(_I32, half)
                low = ir.Constant(index, list(range(half)))
                high = ir.Constant(index, list(range(half, 2 * half)))
                value = build(
                    builder,
                    builder.shuffle_vector(value, value, low),
                    builder.shuffle_vector(value, value, high),
                )
                half //= 2
            return builder.extract_element(value, _I32(0))

        return x.dtype(x), lower

    return reduce


horizontal_sum = _halving(lambda b, x, y: b.fadd(x, y))
horizontal_max = _halving(_larger)


def _lane_is(builder, relation: str, index, width: int):
    """The mask of the lanes that stand in `relation` to `index`."""
    integers = ir.VectorType(_I32, width)
    position = _splat(builder, builder.trunc(index, _I32), integers)
    return builder.icmp_signed(relation, ir.Constant(integers, list(range(width))), position)


@intrinsic
def lane(typingctx, x, index):
    """The element of lane `index`."""

    def lower(context, builder, sig, args):
        return builder.extract_element(args[0], builder.trunc(args[1], _I32))

    return x.dtype(x, types.int64), lower


@intrinsic
def first_equal(typingctx, x, value):
    """The first lane that equals the scalar `value`, or the number of lanes."""

    def lower(context, builder, sig, args):
        wanted = _as_lanes(context, builder, args[1], value, x)
        integer = ir.IntType(x.width)
        mask = builder.bitcast(builder.fcmp_ordered("==", args[0], wanted), integer)
        return builder.zext(builder.cttz(mask, _I1(0)), _I64)

    return types.int64(x, value), lower


@intrinsic
def without_lane(typingctx, x, index):
    """x with 0 in lane `index`."""

    def lower(context, builder, sig, args):
        lanes = sig.return_type
        here = _lane_is(builder, "==", args[1], lanes.width)
        return builder.select(here, ir.Constant(lanes.vector, [0.0] * lanes.width), args[0])

    return x(x, types.int64), lower


# --- the mode of the floating-point unit ----------------------------------------------------

_FLUSH_TO_ZERO = 1 << 15  # a bit of x86's MXCSR register


def _mode_register(builder, name, room):
    pointer = builder.bitcast(room, ir.IntType(8).as_pointer())
    _call(builder, f"llvm.x86.sse.{name}mxcsr", ir.VoidType(), [pointer])


@intrinsic
def flush_subnormals(typingctx):
    """Make subnormal results 0 in this thread, until what is returned is given to `restore_mode`.

    Gradients of a mean are often subnormal where probabilities are not, and a CPU that stops for
    each of them takes many times as long. Only x86 does; elsewhere nothing happens.
    """

    def lower(context, builder, sig, args):
        if not _target()[0]:
            return _I32(0)
        room = cgutils.alloca_once(builder, _I32)
        _mode_register(builder, "st", room)
        found = builder.load(room)
        builder.store(builder.or_(found, _I32(_FLUSH_TO_ZERO)), room)
        _mode_register(builder, "ld", room)
        return found

    return types.int32(), lower


@intrinsic
def restore_mode(typingctx, mode):
    """Undo `flush_subnormals`, given what that returned."""

    def lower(context, builder, sig, args):
        if _target()[0]:
            room = cgutils.alloca_once(builder, _I32)
            builder.store(args[0], room)
            _mode_register(builder, "ld", room)
        return context.get_dummy_value()

    return types.none(types.int32), lower


# --- memory ---------------------------------------------------------------------------------


def _nothing(context, builder, sig, args):
    """What is asked of an output that is None."""
    return context.get_dummy_value()


@intrinsic
def row(typingctx, array, i):
    """A pointer to the first element of row i, which must be contiguous; of None it is None."""
    if isinstance(array, types.NoneType):
        return types.none(array, types.int64), _nothing

    def lower(context, builder, sig, args):
        value = context.make_array(array)(context, builder, args[0])
        stride = builder.extract_value(value.strides, 0)
        return cgutils.pointer_add(builder, value.data, builder.mul(args[1], stride))

    return types.CPointer(array.dtype)(array, types.int64), lower


@intrinsic
def steps(typingctx, array):
    """How many elements from a row to the next, and from a class to the next."""
    # That a stride is whole elements has to be said: strides // itemsize is a division.
    size = _I64(array.dtype.bitwidth // 8)

    def lower(context, builder, sig, args):
        strides = context.make_array(array)(context, builder, args[0]).strides
        whole = [
            builder.sdiv(builder.extract_value(strides, k), size, flags=["exact"]) for k in (0, 1)
        ]
        return context.make_tuple(builder, sig.return_type, whole)

    return types.UniTuple(types.int64, 2)(array), lower


@intrinsic
def lanes_of(typingctx, pointer):
    """How many elements one vector of this pointer's type holds: a compile-time constant."""

    def lower(context, builder, sig, args):
        return _I64(Lanes(pointer.dtype).width)

    return types.int64(pointer), lower


@intrinsic
def bytes_each(typingctx, like):
    """The size of an element of an array, of what a pointer points at, or of a type."""

    def lower(context, builder, sig, args):
        return _I64(like.dtype.bitwidth // 8)

    return types.int64(like), lower


@intrinsic
def zeros(typingctx, pointer):
    """A vector of zeros of the pointer's element type."""
    lanes = Lanes(pointer.dtype)

    def lower(context, builder, sig, args):
        return ir.Constant(lanes.vector, [0.0] * lanes.width)

    return lanes(pointer), lower


@intrinsic
def splat(typingctx, pointer, value):
    """A vector of the pointer's element type with `value`, rounded to it, in every lane."""
    lanes = Lanes(pointer.dtype)

    def lower(context, builder, sig, args):
        return _as_lanes(context, builder, args[1], value, lanes)

    return lanes(pointer, value), lower


def _address(builder, pointer, j, lanes):
    return builder.bitcast(builder.gep(pointer, [j]), lanes.vector.as_pointer())


# Rows begin anywhere, so only the element's own alignment is promised.
def _align(lanes):
    return lanes.dtype.bitwidth // 8


@intrinsic
def load(typingctx, pointer, j):
    """The vector that begins at element j."""
    lanes = Lanes(pointer.dtype)

    def lower(context, builder, sig, args):
        return builder.load(_address(builder, *args[:2], lanes), align=_align(lanes))

    return lanes(pointer, types.int64), lower


@intrinsic
def load_wide(typingctx, pointer, like):
    """As many float64 as there are lanes in a vector of the type that `like` points at."""
    lanes = Lanes(types.float64, Lanes(like.dtype).width)

    def lower(context, builder, sig, args):
        return builder.load(_address(builder, args[0], _I64(0), lanes), align=_align(lanes))

    return lanes(pointer, like), lower


@intrinsic
def store(typingctx, pointer, j, x):
    """Write the vector x from element j on; to None, nothing."""

    def lower(context, builder, sig, args):
        builder.store(args[2], _address(builder, *args[:2], x), align=_align(x))
        return context.get_dummy_value()

    absent = isinstance(pointer, types.NoneType)
    return types.none(pointer, types.int64, x), _nothing if absent else lower


def _prefetching(to_write, text):
    """An intrinsic that asks for the cache line of element j, early; of None, for nothing."""

    def ask(typingctx, pointer, j):
        def lower(context, builder, sig, args):
            at = builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
            # Into the nearest cache, as data; memory that is not there is no error.
            _call(
                builder, "llvm.prefetch.p0", ir.VoidType(), [at, _I32(to_write), _I32(3), _I32(1)]
            )
            return context.get_dummy_value()

        absent = isinstance(pointer, types.NoneType)
        return types.none(pointer, types.int64), _nothing if absent else lower

    ask.__doc__ = text
    return intrinsic(ask)


prefetch = _prefetching(0, "Ask for the cache line of element j, which will be read.")
prefetch_to_write = _prefetching(1, "Ask for the cache line of element j, which will be written.")


@intrinsic
def load_part(typingctx, pointer, j, n, fill):
    """The n elements from j on, then `fill`; memory behind the n is not touched.

    n None is a whole vector: so one function serves the vectors of a row and what is left over.
    """
    lanes = Lanes(pointer.dtype)

    def whole(context, builder, sig, args):
        return builder.load(_address(builder, *args[:2], lanes), align=_align(lanes))

    def lower(context, builder, sig, args):
        rest = _as_lanes(context, builder, args[3], fill, lanes)
        mask = _lane_is(builder, "<", args[2], lanes.width)
        operands = [_address(builder, *args[:2], lanes), _I32(_align(lanes)), mask, rest]
        return _call(builder, f"llvm.masked.load.{lanes.suffix}.p0", lanes.vector, operands)

    count, read = (n, whole) if isinstance(n, types.NoneType) else (types.int64, lower)
    return lanes(pointer, types.int64, count, fill), read


def _store_halves(builder, address, n, value, lanes):
    """The first n lanes, n < all, as the vectors of half, quarter … the width that make up n.

    A masked store is dozens of instructions before AVX-512; these branches take the same way in
    every row.
    """
    half = lanes.width // 2
    while half:
        index = ir.VectorType(_I32, half)
        low, high = (
            builder.shuffle_vector(value, value, ir.Constant(index, list(range(k, k + half))))
            for k in (0, half)
        )
        taken = builder.trunc(builder.lshr(n, _I64(half.bit_length() - 1)), _I1)
        before = builder.block
        with builder.if_then(taken):
            target = builder.bitcast(address, low.type.as_pointer())
            builder.store(low, target, align=_align(lanes))
            behind = builder.gep(address, [_I64(half)])
            inside = builder.block
        value = _either(builder, (high, inside), (low, before))
        address = _either(builder, (behind, inside), (address, before))
        half //= 2


def _either(builder, *ways):
    """What has come from whichever block was taken."""
    result = builder.phi(ways[0][0].type)
    for value, block in ways:
        result.add_incoming(value, block)
    return result


@intrinsic
def store_part(typingctx, pointer, j, n, x):
    """Write the first n lanes of x (all, for n None) from element j on; to None, nothing."""

    def whole(context, builder, sig, args):
        builder.store(args[3], _address(builder, *args[:2], x), align=_align(x))
        return context.get_dummy_value()

    def lower(context, builder, sig, args):
        pointer, j, n, value = args
        with builder.if_else(builder.icmp_signed(">=", n, _I64(x.width))) as (whole, halves):
            with whole:
                builder.store(value, _address(builder, pointer, j, x), align=_align(x))
            with halves:
                _store_halves(builder, builder.gep(pointer, [j]), n, value, x)
        return context.get_dummy_value()

    count, write = (n, whole) if isinstance(n, types.NoneType) else (types.int64, lower)
    absent = isinstance(pointer, types.NoneType)
    return types.none(pointer, types.int64, count, x), _nothing if absent else write


def _places(builder, columns, places, width):
    """The addresses, lane by lane, of the elements that `places` counts from `columns` on."""
    for k in range(width):
        place = builder.load(builder.gep(places, [_I64(k)]))
        yield k, builder.gep(columns, [place])


@intrinsic
def place_labels(typingctx, labels, n, ignored, columns, places):
    """Write where the classes of a group stand in its columns; how many rows have none.

    Row k's is in lane k of the column that label k names, of column 0 where the label is not one of
    the n classes or is `ignored`. The labels are read once, all at the same time.
    """
    width = Lanes(columns.dtype).width
    vector = ir.VectorType(_I64, width)

    def lower(context, builder, sig, args):
        labels, n, ignored, _, places = args
        y = builder.load(builder.bitcast(labels, vector.as_pointer()), align=8)
        zero, lanes = (ir.Constant(vector, [k * i for i in range(width)]) for k in (0, 1))
        inside = builder.icmp_unsigned("<", y, _splat(builder, n, vector))
        loud = builder.icmp_signed("!=", y, _splat(builder, ignored, vector))
        good = builder.and_(inside, loud)
        column = builder.select(good, y, zero)
        shift = ir.Constant(vector, [width.bit_length() - 1] * width)
        place = builder.add(builder.shl(column, shift), lanes)
        builder.store(place, builder.bitcast(places, vector.as_pointer()), align=8)
        missing = builder.bitcast(builder.not_(good), ir.IntType(width))
        return builder.zext(builder.ctpop(missing), _I64)

    row_of = types.CPointer(types.int64)
    return types.int64(row_of, types.int64, types.int64, columns, row_of), lower


@intrinsic
def gather_lanes(typingctx, columns, places):
    """Of each lane, the element at its place, counted from `columns` on."""
    lanes = Lanes(columns.dtype)

    def lower(context, builder, sig, args):
        value = ir.Constant(lanes.vector, ir.Undefined)
        for k, address in _places(builder, *args, lanes.width):
            value = builder.insert_element(value, builder.load(address), _I32(k))
        return value

    return lanes(columns, types.CPointer(types.int64)), lower


@intrinsic
def scatter_lanes(typingctx, columns, places, x):
    """Write each lane of x to its place, counted from `columns` on."""

    def lower(context, builder, sig, args):
        columns, places, value = args
        for k, address in _places(builder, columns, places, x.width):
            builder.store(builder.extract_element(value, _I32(k)), address)
        return context.get_dummy_value()

    return types.none(columns, types.CPointer(types.int64), x), lower


# --- rows turned over into columns ----------------------------------------------------------


def _block(lanes):
    """How many columns are turned over at once: those that a 128-bit load finds beside each other.

    These, and unpacking within 128 bits, are cheap on every CPU; gathers are not.
    """
    return 128 // lanes.dtype.bitwidth


def _unpack(builder, x, y, high, size, part):
    """Interleave runs of `size` of the lower or upper halves of each 128-bit part of x and y."""
    index = []
    for first in range(0, x.type.count, part):
        for k in range(part // 2 * high, part // 2 * (high + 1), size):
            index += [first + k + i for i in range(size)]
            index += [x.type.count + first + k + i for i in range(size)]
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_I32, len(index)), index))


def _transposed(builder, vectors, part):
    """Within each 128-bit part, the square of `part` vectors transposed; its own inverse."""
    if part == 2:
        x, y = vectors
        return [_unpack(builder, x, y, high, 1, part) for high in (0, 1)]
    a, b, c, d = vectors
    pairs = [
        (_unpack(builder, a, b, high, 1, part), _unpack(builder, c, d, high, 1, part))
        for high in (0, 1)
    ]
    return [_unpack(builder, x, y, high, 2, part) for x, y in pairs for high in (0, 1)]


def _joined(builder, vectors):
    """Vectors one behind the other, as one; their number is a power of two."""
    while len(vectors) > 1:
        index = list(range(2 * vectors[0].type.count))
        constant = ir.Constant(ir.VectorType(_I32, len(index)), index)
        vectors = [
            builder.shuffle_vector(x, y, constant)
            for x, y in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


def _quarter(builder, x, k, part):
    """The k-th 128 bits of a vector."""
    index = [part * k + i for i in range(part)]
    return builder.shuffle_vector(x, x, ir.Constant(ir.VectorType(_I32, part), index))


@intrinsic
def columns_at_once(typingctx, pointer):
    """How many columns `read_columns` and `write_columns` turn over."""
    block = _block(Lanes(pointer.dtype))

    def lower(context, builder, sig, args):
        return _I64(block)

    return types.int64(pointer), lower


def _column_address(builder, columns, j, k, lanes):
    at = builder.mul(builder.add(j, _I64(k)), _I64(lanes.width))
    return _address(builder, columns, at, lanes)


@intrinsic
def read_columns(typingctx, pointer, stride, j, columns, m):
    """Turn the columns from j on of as many rows as there are lanes into vectors at `columns`.

    Returns the maximum of m and these, as `maximum` has it.
    """
    lanes = Lanes(pointer.dtype)

    def lower(context, builder, sig, args):
        pointer, stride, j, columns, largest = args
        part, bytes_ = _block(lanes), lanes.dtype.bitwidth // 8
        kind = ir.VectorType(lanes.vector.element, part).as_pointer()
        at, rows = builder.gep(pointer, [j]), []
        for _ in range(lanes.width):
            rows.append(builder.load(builder.bitcast(at, kind), align=bytes_))
            at = builder.gep(at, [stride])
        # Row i of the square in each 128-bit part: the rows i, i + part, i + 2·part …
        square = [_joined(builder, rows[i::part]) for i in range(part)]
        for k, column in enumerate(_transposed(builder, square, part)):
            builder.store(column, _column_address(builder, columns, j, k, lanes), align=bytes_)
            largest = _larger(builder, largest, column)
        return largest

    return lanes(pointer, types.int64, types.int64, columns, lanes), lower


@intrinsic
def write_columns(typingctx, pointer, stride, j, columns, factor):
    """The inverse of `read_columns`: write to the rows what the vectors at `columns` hold.

    Times `factor`, a vector, unless that is None.
    """
    lanes = Lanes(pointer.dtype)

    def lower(context, builder, sig, args):
        pointer, stride, j, columns, factor = args
        part, bytes_ = _block(lanes), lanes.dtype.bitwidth // 8
        kind = ir.VectorType(lanes.vector.element, part).as_pointer()
        vectors = []
        for k in range(part):
            place = _column_address(builder, columns, j, k, lanes)
            vectors.append(builder.load(place, align=bytes_))
        if isinstance(sig.args[4], Lanes):
            vectors = [builder.fmul(vector, factor) for vector in vectors]
        square, at = _transposed(builder, vectors, part), builder.gep(pointer, [j])
        for i in range(lanes.width):
            piece = _quarter(builder, square[i % part], i // part, part)
            builder.store(piece, builder.bitcast(at, kind), align=bytes_)
            at = builder.gep(at, [stride])
        return context.get_dummy_value()

    return types.none(pointer, types.int64, types.int64, columns, factor), lower


@intrinsic
def write_at_places(typingctx, pointer, row_step, class_step, places, x):
    """Write lane k of x to row k, at the class whose place among the columns `places` holds.

    Rows and classes lie so many elements apart. Nothing if x is None.
    """

    def lower(context, builder, sig, args):
        at, row_step, class_step, places, value = args
        shift = _I64(x.width.bit_length() - 1)
        for k in range(x.width):
            place = builder.load(builder.gep(places, [_I64(k)]))
            step = builder.mul(builder.lshr(place, shift), class_step)
            builder.store(builder.extract_element(value, _I32(k)), builder.gep(at, [step]))
            at = builder.gep(at, [row_step])
        return context.get_dummy_value()

    absent = isinstance(x, types.NoneType)
    signature = types.none(pointer, types.int64, types.int64, places, x)
    return signature, _nothing if absent else lower


@intrinsic
def load_column(typingctx, pointer, stride, j):
    """The elements j, stride + j, 2·stride + j …: one of each row of a group."""
    lanes = Lanes(pointer.dtype)

    def lower(context, builder, sig, args):
        pointer, stride, j = args
        value, at = ir.Constant(lanes.vector, ir.Undefined), builder.gep(pointer, [j])
        for k in range(lanes.width):
            value = builder.insert_element(value, builder.load(at), _I32(k))
            at = builder.gep(at, [stride])
        return value

    return lanes(pointer, types.int64, types.int64), lower


@intrinsic
def store_column(typingctx, pointer, stride, j, x):
    """Write the lanes of x to the elements j, stride + j, 2·stride + j … of a group."""

    def lower(context, builder, sig, args):
        pointer, stride, j, value = args
        at = builder.gep(pointer, [j])
        for k in range(x.width):
            builder.store(builder.extract_element(value, _I32(k)), at)
            at = builder.gep(at, [stride])
        return context.get_dummy_value()

    return types.none(pointer, types.int64, types.int64, x), lower
