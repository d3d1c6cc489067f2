"""Intrinsics for C interfaces: memory as words, calls of C functions, atomics, allocation.

A C struct is treated as words of 8 bytes: its members are pointers and integers of that size, or
padded to it. An int or an enum is the lower half of its word.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastxent.cpu.lanes import arithmetic_type

_WORD = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()
_pointer: Any = types.CPointer
WORDS = _pointer(types.int64)


@intrinsic
def pointer(typingctx: Any, address: Any, dtype: Any) -> Any:
    """An address as a pointer to numbers of this type, or of that of its arithmetic."""
    kind = _pointer(arithmetic_type(dtype.dtype))

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(kind))

    return kind(types.int64, dtype), lower


@intrinsic
def array_memory(typingctx: Any, address: Any, dtype: Any) -> Any:
    """An address as a pointer to numbers as arrays of this type hold them."""
    kind = _pointer(dtype.instance_type if isinstance(dtype, types.TypeRef) else dtype.dtype)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(kind))

    return kind(types.int64, dtype), lower


@intrinsic
def words(typingctx: Any, address: Any) -> Any:
    """The words at an address."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], _WORD.as_pointer())

    return WORDS(types.int64), lower


@intrinsic
def address_of(typingctx: Any, pointer: Any) -> Any:
    """The address of a pointer, as an integer."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], _WORD)

    return types.int64(pointer), lower


@intrinsic
def struct(typingctx: Any, members: Any) -> Any:
    """A tuple of int64 as a C struct on the stack of the enclosing compiled function.

    It lives until that function returns; in a loop it is the same memory each time.
    """

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = cgutils.alloca_once_value(builder, args[0])
        return builder.bitcast(place, _WORD.as_pointer())

    return WORDS(members), lower


@intrinsic
def call(typingctx: Any, function: Any, argument: Any) -> Any:
    """Call the C function at an address with a pointer; return the pointer it returns, as int64."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(_WORD, [_WORD.as_pointer()])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])

    return types.int64(types.int64, WORDS), lower


@intrinsic
def add_to(typingctx: Any, words: Any, index: Any, value: Any) -> Any:
    """Atomically add to words[index]; return the previous value."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.gep(args[0], [args[1]])
        return builder.atomic_rmw("add", place, args[2], "seq_cst")

    return types.int64(WORDS, types.int64, types.int64), lower


def _by_name(builder: Any, name: str, result: Any, arg: Any) -> Any:
    kind = ir.FunctionType(result, [arg.type])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [arg])


@intrinsic
def allocate(typingctx: Any, n: Any) -> Any:
    """Allocate n bytes; return their address, 0 if there is no memory."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        # Called by name: Numba's own interface is disabled without reference counting.
        return builder.ptrtoint(_by_name(builder, "NRT_Allocate", _BYTES, args[0]), _WORD)

    return types.int64(types.int64), lower


@intrinsic
def free(typingctx: Any, address: Any) -> Any:
    """Free memory of `allocate`."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _by_name(builder, "NRT_Free", ir.VoidType(), builder.inttoptr(args[0], _BYTES))
        return context.get_dummy_value()

    return types.none(types.int64), lower


@intrinsic
def c_function(typingctx: Any, function: Any) -> Any:
    """The address of a C function void f(intptr_t) that calls a compiled function of one int64.

    It is part of the module being compiled, so it is cached and relocated with it. The compiled
    function must not raise: no caller could catch the exception.
    """
    function.dispatcher.compile((types.int64,))

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        inner = sig.args[0].dispatcher.get_compile_result(types.none(types.int64))
        context.active_code_library.add_linking_library(inner.library)
        kind = ir.FunctionType(ir.VoidType(), [_WORD])
        outer = ir.Function(builder.module, kind, builder.module.get_unique_name("task"))
        outer.linkage = "internal"
        inside = ir.IRBuilder(outer.append_basic_block())
        context.call_internal_no_propagate(inside, inner.fndesc, inner.signature, outer.args)
        inside.ret_void()
        return builder.ptrtoint(outer, _WORD)

    return types.int64(function), lower
