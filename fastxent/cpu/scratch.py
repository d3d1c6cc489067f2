"""Memory of a kernel's own: kernels count no references, so they have no arrays but those given.

It begins where a cache line does. Of a vector that lies across two lines each access is two.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastxent.cpu.jit import inlined
from fastxent.cpu.lanes import VECTOR_BYTES

_WORD = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()


def _call(builder, name, result, arg):
    declared = ir.FunctionType(result, [arg.type])
    return builder.call(cgutils.get_or_insert_function(builder.module, declared, name), [arg])


def _before(builder, address):
    """The word before an address, which keeps what is to be freed."""
    return builder.inttoptr(builder.sub(address, _WORD(8)), _WORD.as_pointer())


@intrinsic
def _allocate(typingctx, like, n):
    """Room for n elements; a null pointer if there is none."""
    kind = types.CPointer(like.dtype)

    def lower(context, builder, sig, args):
        line = _WORD(VECTOR_BYTES)
        size = builder.mul(args[1], _WORD(like.dtype.bitwidth // 8))
        raw = _call(builder, "NRT_Allocate", _BYTES, builder.add(size, line))
        begin = builder.ptrtoint(raw, _WORD)
        with builder.if_else(builder.icmp_unsigned("==", begin, _WORD(0))) as (none, some):
            with none:
                without = builder.block
            with some:
                # malloc gives multiples of 16: there is room for the word before.
                address = builder.and_(builder.add(begin, line), _WORD(-VECTOR_BYTES))
                builder.store(begin, _before(builder, address))
                within = builder.block
        found = builder.phi(_WORD)
        found.add_incoming(_WORD(0), without)
        found.add_incoming(address, within)
        return builder.inttoptr(found, context.get_value_type(kind))

    return kind(like, types.int64), lower


@intrinsic
def _is_null(typingctx, pointer):
    def lower(context, builder, sig, args):
        return builder.icmp_unsigned("==", builder.ptrtoint(args[0], _WORD), _WORD(0))

    return types.boolean(pointer), lower


@inlined
def reserve(like, n):
    """A pointer to room for n elements of the type that `like` has, until it is released."""
    pointer = _allocate(like, n)
    if _is_null(pointer):
        raise MemoryError("not enough memory for a few rows")
    return pointer


@intrinsic
def whole_lines(typingctx, like, n):
    """n, or as many more elements as end where a cache line does."""
    per_line = VECTOR_BYTES * 8 // like.dtype.bitwidth

    def lower(context, builder, sig, args):
        return builder.and_(builder.add(args[1], _WORD(per_line - 1)), _WORD(-per_line))

    return types.int64(like, types.int64), lower


@intrinsic
def release(typingctx, pointer):
    """Give back what was reserved."""

    def lower(context, builder, sig, args):
        begin = builder.load(_before(builder, builder.ptrtoint(args[0], _WORD)))
        _call(builder, "NRT_Free", ir.VoidType(), builder.inttoptr(begin, _BYTES))
        return context.get_dummy_value()

    return types.none(pointer), lower


@intrinsic
def part(typingctx, pointer, j, like):
    """What begins j elements on, as elements of the type that `like` has."""
    kind = types.CPointer(like.dtype)

    def lower(context, builder, sig, args):
        return builder.bitcast(builder.gep(args[0], [args[1]]), context.get_value_type(kind))

    return kind(pointer, types.int64, like), lower
