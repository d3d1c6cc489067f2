"""Call kernels from other compiled code by symbol name, without a copy of their code.

Code that links a kernel holds a copy of it, which is compiled again. A call by name runs the code
that calls from NumPy run: it is compiled once and cached once.
"""

from typing import Any

from llvmlite import binding
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastxent.cpu import jit


def by_name(source: jit.Kernel, signature: tuple[Any, ...]) -> Any:
    """Return a compiled function of one tuple: the arguments of a kernel for this signature.

    The kernel is compiled or loaded now, and its symbol is registered. A process must call this
    before it runs code from the cache that contains such a call.
    """
    result = jit.compiled(source, signature)
    declared, returned = result.fndesc, result.signature.return_type
    name = f"fastxent.{jit.name_of(source)}{signature}"
    binding.add_symbol(name, result.library.get_pointer_to_function(declared.llvm_func_name))

    @intrinsic
    def call(typingctx, args):
        def lower(context, builder, sig, operands):
            converted = _converted(context, builder, operands[0], args, types.Tuple(signature))
            values = cgutils.unpack_tuple(builder, converted)
            convention = context.call_conv
            kind = convention.get_function_type(returned, signature)
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            return convention.call_function(builder, function, returned, signature, values)[1]

        return returned(args), lower

    return call


def _converted(context, builder, value, kind, target):
    """Convert a value to the type `target` as Numba does, and named tuples member by member."""
    if not isinstance(target, types.BaseTuple):
        return context.cast(builder, value, kind, target)
    parts = zip(cgutils.unpack_tuple(builder, value), kind, target, strict=True)
    made = [_converted(context, builder, *part) for part in parts]
    return context.make_tuple(builder, target, made)
