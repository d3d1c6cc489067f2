"""Memory as vectors: row pointers, loads, stores and prefetches.

`row(array, i)` makes a pointer, `load(pointer, j)` counts j in elements. Nothing checks bounds:
`load_part` and `store_part` are for the end of a row. Stores to an output that is None do nothing.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastxent.cpu.half_lanes import (
    build_round,
    build_round_one,
    build_widen,
    build_widen_one,
)
from fastxent.cpu.lanes import (
    I1,
    I32,
    I64,
    Half,
    Lanes,
    arithmetic_type,
    build_call,
    build_lane_mask,
    build_lanes,
)
from fastxent.cpu.partial import build_address, build_part_load, build_part_store

I16 = ir.IntType(16)


def build_nothing(context, builder, sig, args):
    """Emit no instructions: the store to an output that is None."""
    return context.get_dummy_value()


def _is_half(array):
    return isinstance(array, types.Array) and isinstance(array.dtype, Half)


@intrinsic
def is_requested(typingctx, output):
    """Whether an output is not None: a compile-time constant."""

    def lower(context, builder, sig, args):
        return ir.Constant(I1, not isinstance(output, types.NoneType))

    return types.boolean(output), lower


def _build_inner(context, builder, function, signature, values, kinds):
    """Emit a call of a compiled function with values of these types."""
    call = context.get_function(function, signature)
    for library in call.libs:
        context.active_code_library.add_linking_library(library)
    arguments = zip(values, kinds, signature.args, strict=True)
    return call(builder, [context.cast(builder, *argument) for argument in arguments])


@intrinsic
def if_requested(typingctx, output, function, args):
    """Call function(output, *args) unless the output is None; then nothing is compiled."""
    if isinstance(output, types.NoneType):
        return types.none(output, function, args), build_nothing
    inner = function.get_call_type(typingctx, (output, *args), {})

    def lower(context, builder, sig, arguments):
        values = [arguments[0], *cgutils.unpack_tuple(builder, arguments[2], len(args))]
        _build_inner(context, builder, function, inner, values, (output, *args))
        return context.get_dummy_value()

    return types.none(output, function, args), lower


@intrinsic
def either(typingctx, value, if_there, if_none, args):
    """Call if_none(*args) if the value is None, else if_there(*args); compile only that one."""
    function = if_none if isinstance(value, types.NoneType) else if_there
    inner = function.get_call_type(typingctx, tuple(args), {})

    def lower(context, builder, sig, arguments):
        values = cgutils.unpack_tuple(builder, arguments[3], len(args))
        return _build_inner(context, builder, function, inner, values, args)

    return inner.return_type(value, if_there, if_none, args), lower


@intrinsic
def first_requested(typingctx, outputs):
    """The first array of two dimensions in a named tuple of outputs; None if all are None."""
    for k, member in enumerate(outputs):
        if isinstance(member, types.Array) and member.ndim == 2:

            def lower(context, builder, sig, args, k=k):
                return builder.extract_value(args[0], k)

            return member(outputs), lower
    return types.none(outputs), build_nothing


@intrinsic
def row(typingctx, array, i):
    """A pointer to the first element of row i, which must be contiguous; None for None."""
    if isinstance(array, types.NoneType):
        return types.none(array, types.int64), build_nothing

    def lower(context, builder, sig, args):
        value = context.make_array(array)(context, builder, args[0])
        stride = builder.extract_value(value.strides, 0)
        return cgutils.pointer_add(builder, value.data, builder.mul(args[1], stride))

    return types.CPointer(array.dtype)(array, types.int64), lower


@intrinsic
def advance(typingctx, pointer, j):
    """A pointer to element j; None for None."""
    if isinstance(pointer, types.NoneType):
        return types.none(pointer, types.int64), build_nothing

    def lower(context, builder, sig, args):
        return builder.gep(args[0], [args[1]])

    return pointer(pointer, types.int64), lower


@intrinsic
def element_strides(typingctx, array):
    """The strides of a two-dimensional array, in elements."""
    # "exact" says that a stride is whole elements: strides // itemsize would be a slow division.
    size = I64(array.dtype.bitwidth // 8)

    def lower(context, builder, sig, args):
        strides = context.make_array(array)(context, builder, args[0]).strides
        whole = [
            builder.sdiv(builder.extract_value(strides, k), size, flags=["exact"]) for k in (0, 1)
        ]
        return context.make_tuple(builder, sig.return_type, whole)

    return types.UniTuple(types.int64, 2)(array), lower


@intrinsic
def class_step(typingctx, array):
    """The step in elements from class to class of rows (N, C); 1 for one class and for None."""
    is_rows = isinstance(array, types.Array) and array.ndim == 2

    def lower(context, builder, sig, args):
        if not is_rows:
            return I64(1)
        value = context.make_array(array)(context, builder, args[0])
        size = I64(array.dtype.bitwidth // 8)
        step = builder.sdiv(builder.extract_value(value.strides, 1), size, flags=["exact"])
        has_one = builder.icmp_signed("<=", builder.extract_value(value.shape, 1), I64(1))
        return builder.select(has_one, I64(1), step)

    return types.int64(array), lower


@intrinsic
def elements_to_vector(typingctx, array, i):
    """The number of elements from row i to the next multiple of a vector's size; 0 for None."""

    def lower(context, builder, sig, args):
        if isinstance(array, types.NoneType):
            return I64(0)
        value = context.make_array(array)(context, builder, args[0])
        offset = builder.mul(args[1], builder.extract_value(value.strides, 0))
        address = builder.add(builder.ptrtoint(value.data, I64), offset)
        size = array.dtype.bitwidth // 8
        rest = builder.and_(builder.neg(address), I64(Lanes(array.dtype).width * size - 1))
        return builder.udiv(rest, I64(size))

    return types.int64(array, types.int64), lower


@intrinsic
def lanes_of(typingctx, pointer):
    """The number of lanes of a vector of the pointer's type: a compile-time constant."""

    def lower(context, builder, sig, args):
        return I64(Lanes(pointer.dtype).width)

    return types.int64(pointer), lower


@intrinsic
def is_half(typingctx, array):
    """Whether an array is of half precision: a compile-time constant."""

    def lower(context, builder, sig, args):
        return ir.Constant(I1, _is_half(array))

    return types.boolean(array), lower


@intrinsic
def unless_half(typingctx, array, in_place, converted):
    """`converted` if the array is of half precision, else `in_place`: chosen when compiled."""
    chosen = 2 if _is_half(array) else 1

    def lower(context, builder, sig, args):
        return args[chosen]

    return (in_place, converted)[chosen - 1](array, in_place, converted), lower


@intrinsic
def itemsize(typingctx, like):
    """The size in bytes of an element of an array, a pointer's memory or a type; 0 for None."""

    def lower(context, builder, sig, args):
        return I64(0 if isinstance(like, types.NoneType) else like.dtype.bitwidth // 8)

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
    """A vector of the pointer's element type with `value`, rounded to that type, in every lane."""
    lanes = Lanes(pointer.dtype)

    def lower(context, builder, sig, args):
        return build_lanes(context, builder, args[1], value, lanes)

    return lanes(pointer, value), lower


def alignment(kind):
    """Return the alignment in bytes of a vector: a row may begin at any element."""
    return kind.bitwidth // 8


def _widened(builder, value, kind):
    """Return a vector loaded from memory widened to the type of the arithmetic."""
    return build_widen(builder, value, kind) if isinstance(kind, Half) else value


def _narrowed(builder, value, kind):
    """Return a vector of the arithmetic rounded to the type of the memory."""
    return build_round(builder, value, kind) if isinstance(kind, Half) else value


def build_load(context, builder, sig, args):
    """Load a vector of the result's type from a pointer's element j."""
    lanes, kind = sig.return_type, sig.args[0].dtype
    address = build_address(builder, *args[:2], lanes.width)
    return _widened(builder, builder.load(address, align=alignment(kind)), kind)


def build_store(context, builder, sig, args):
    """Write the vector that is the last argument from a pointer's element j on."""
    kind = sig.args[0].dtype
    address = build_address(builder, *args[:2], sig.args[-1].width)
    builder.store(_narrowed(builder, args[-1], kind), address, align=alignment(kind))
    return context.get_dummy_value()


@intrinsic
def element(typingctx, pointer, j):
    """Element j, as a number to compute with."""
    kind = pointer.dtype

    def lower(context, builder, sig, args):
        value = builder.load(builder.gep(args[0], [args[1]]))
        return build_widen_one(builder, value, kind) if isinstance(kind, Half) else value

    return arithmetic_type(kind)(pointer, types.int64), lower


@intrinsic
def set_element(typingctx, pointer, j, value):
    """Write a number, rounded to the pointer's type, to element j."""
    kind = pointer.dtype

    def lower(context, builder, sig, args):
        number = context.cast(builder, args[2], value, arithmetic_type(kind))
        if isinstance(kind, Half):
            number = build_round_one(builder, number, kind)
        builder.store(number, builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.none(pointer, types.int64, value), lower


@intrinsic
def load(typingctx, pointer, j):
    """The vector that begins at element j."""
    return Lanes(pointer.dtype)(pointer, types.int64), build_load


@intrinsic
def load_widened(typingctx, pointer, like):
    """A vector of float64 with as many lanes as one of the type that `like` points at."""
    lanes = Lanes(types.float64, Lanes(like.dtype).width)

    def lower(context, builder, sig, args):
        address = build_address(builder, args[0], I64(0), lanes.width)
        return builder.load(address, align=alignment(lanes.dtype))

    return lanes(pointer, like), lower


@intrinsic
def store(typingctx, pointer, j, x):
    """Write the vector x from element j on; no-op where the pointer is None."""
    absent = isinstance(pointer, types.NoneType)
    return types.none(pointer, types.int64, x), build_nothing if absent else build_store


@intrinsic
def stream(typingctx, pointer, j, x):
    """Write the vector x from element j on past the caches; no-op where the pointer is None.

    The address is a multiple of a vector's size (`elements_to_vector`). Other threads see the
    vector after `fence`.
    """

    def lower(context, builder, sig, args):
        kind, width = pointer.dtype, sig.args[-1].width
        value = _narrowed(builder, args[-1], kind)
        address = build_address(builder, *args[:2], width)
        instruction = builder.store(value, address, align=alignment(kind) * width)
        one = builder.module.add_metadata([I32(1)])
        instruction.set_metadata("nontemporal", one)
        return context.get_dummy_value()

    absent = isinstance(pointer, types.NoneType)
    return types.none(pointer, types.int64, x), build_nothing if absent else lower


@intrinsic
def fence(typingctx):
    """Wait until all stores are visible to other threads."""

    def lower(context, builder, sig, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), lower


def _prefetching(to_write, text):
    """Make an intrinsic that prefetches the cache line of element j; no-op for None."""

    def prefetch(typingctx, pointer, j):
        def lower(context, builder, sig, args):
            at = builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
            # Into the nearest cache, as data. An address outside the array is no error.
            build_call(
                builder, "llvm.prefetch.p0", ir.VoidType(), [at, I32(to_write), I32(3), I32(1)]
            )
            return context.get_dummy_value()

        absent = isinstance(pointer, types.NoneType)
        return types.none(pointer, types.int64), build_nothing if absent else lower

    prefetch.__doc__ = text
    return intrinsic(prefetch)


prefetch = _prefetching(0, "Prefetch the cache line of element j for reading.")
prefetch_to_write = _prefetching(1, "Prefetch the cache line of element j for writing.")


@intrinsic
def load_part(typingctx, pointer, j, n, fill):
    """The n elements from j on, then `fill`; memory after the n elements is not read.

    n None means a whole vector, so one function serves the whole vectors of a row and its tail.
    """
    lanes = Lanes(pointer.dtype)

    def lower(context, builder, sig, args):
        kind, width = pointer.dtype, lanes.width
        at, j, n, _ = args
        rest = build_lanes(context, builder, args[3], fill, lanes)
        mask = build_lane_mask(builder, "<", n, width)
        if isinstance(kind, Half):
            zero = ir.Constant(ir.VectorType(I16, width), [0] * width)
            value = build_part_load(builder, at, j, n, mask, zero, alignment(kind))
            return builder.select(mask, build_widen(builder, value, kind), rest)
        return build_part_load(builder, at, j, n, mask, rest, alignment(kind))

    count, read = (n, build_load) if isinstance(n, types.NoneType) else (types.int64, lower)
    return lanes(pointer, types.int64, count, fill), read


@intrinsic
def store_part(typingctx, pointer, j, n, x):
    """Write the first n lanes of x from element j on, all for n None; no-op for a None pointer."""

    def lower(context, builder, sig, args):
        at, j, n, value = args
        kind = pointer.dtype
        value = _narrowed(builder, value, kind)
        build_part_store(builder, at, j, n, value, alignment(kind))
        return context.get_dummy_value()

    count, write = (n, build_store) if isinstance(n, types.NoneType) else (types.int64, lower)
    absent = isinstance(pointer, types.NoneType)
    return types.none(pointer, types.int64, count, x), build_nothing if absent else write
