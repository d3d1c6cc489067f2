"""What compiled code needs to speak a C interface: words of memory, calls, and atomics.

A C struct is seen as words of 8 bytes: its members are pointers and integers of that size, or
padded to it. An int or an enum is the lower half of its word.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_WORD = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()
_pointer: Any = types.CPointer
WORDS = _pointer(types.int64)


@intrinsic
def pointer(typingctx: Any, address: Any, dtype: Any) -> Any:
    """An address as a pointer to numbers of this type, indexed as p[i]."""
    kind = _pointer(dtype.dtype)

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
    """The address that a pointer holds."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], _WORD)

    return types.int64(pointer), lower


@intrinsic
def struct(typingctx: Any, members: Any) -> Any:
    """A tuple of int64 as a C struct, in the memory of the compiled function that this stands in.

    It lives until that returns; in a loop it is the same memory again.
    """

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = cgutils.alloca_once_value(builder, args[0])
        return builder.bitcast(place, _WORD.as_pointer())

    return WORDS(members), lower


@intrinsic
def call(typingctx: Any, function: Any, argument: Any) -> Any:
    """Call the C function at an address, which takes a pointer and returns one: its address."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(_WORD, [_WORD.as_pointer()])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])

    return types.int64(types.int64, WORDS), lower


@intrinsic
def add_to(typingctx: Any, words: Any, index: Any, value: Any) -> Any:
    """words[index] += value in one step that no thread can interrupt; what it was before."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.gep(args[0], [args[1]])
        return builder.atomic_rmw("add", place, args[2], "seq_cst")

    return types.int64(WORDS, types.int64, types.int64), lower


def _by_name(builder: Any, name: str, result: Any, arg: Any) -> Any:
    kind = ir.FunctionType(result, [arg.type])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [arg])


@intrinsic
def allocate(typingctx: Any, n: Any) -> Any:
    """The address of n bytes until it is given to `free`; 0 if there is no memory."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        # By their names: Numba's own way is closed where it counts no references.
        return builder.ptrtoint(_by_name(builder, "NRT_Allocate", _BYTES, args[0]), _WORD)

    return types.int64(types.int64), lower


@intrinsic
def free(typingctx: Any, address: Any) -> Any:
    """Give back what was allocated."""

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _by_name(builder, "NRT_Free", ir.VoidType(), builder.inttoptr(args[0], _BYTES))
        return context.get_dummy_value()

    return types.none(types.int64), lower


@intrinsic
def c_function(typingctx: Any, function: Any) -> Any:
    """The address of a C function void f(intptr_t) that calls a compiled function of one int64.

    It lies in the module that is being compiled, so it is cached and moved with it. There is nobody
    to raise to: the function must not.
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
