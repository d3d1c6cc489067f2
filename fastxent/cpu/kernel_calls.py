"""Calls of kernels from other compiled code: by the names of their own code, which is not repeated.

Code that is linked to a kernel's would hold a copy of it, compiled again. By name it is the code
that NumPy's calls run: compiled once, kept once in the cache.
"""

from typing import Any

from llvmlite import binding
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastxent.cpu import jit


def by_name(source: jit.Kernel, signature: tuple[Any, ...]) -> Any:
    """A compiled function of one tuple, the arguments of the kernel `source` for this signature.

    The kernel is compiled or loaded at once. A process that loads code with such a call from the
    cache must have come here before, so that the name means something.
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
    """A value of another type: as Numba does it, but tuples of names, too, part by part."""
    if not isinstance(target, types.BaseTuple):
        return context.cast(builder, value, kind, target)
    parts = zip(cgutils.unpack_tuple(builder, value), kind, target, strict=True)
    made = [_converted(context, builder, *part) for part in parts]
    return context.make_tuple(builder, target, made)
