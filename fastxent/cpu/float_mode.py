"""The mode of the floating-point unit: flush subnormal results to zero during a kernel."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastxent.cpu.lanes import I32, build_call, target_cpu

_FLUSH_TO_ZERO = 1 << 15  # a bit of x86's MXCSR register


def _mode_register(builder, name, memory):
    """Store ("st") or load ("ld") the register MXCSR."""
    pointer = builder.bitcast(memory, ir.IntType(8).as_pointer())
    build_call(builder, f"llvm.x86.sse.{name}mxcsr", ir.VoidType(), [pointer])


@intrinsic
def flush_subnormals(typingctx):
    """Flush subnormal results to zero in this thread; return the mode for `restore_mode`.

    The gradient of a mean is often subnormal, and an x86 CPU takes many times as long for each
    subnormal result. On other CPUs this does nothing.
    """

    def lower(context, builder, sig, args):
        if not target_cpu()[0]:
            return I32(0)
        memory = cgutils.alloca_once(builder, I32)
        _mode_register(builder, "st", memory)
        mode = builder.load(memory)
        builder.store(builder.or_(mode, I32(_FLUSH_TO_ZERO)), memory)
        _mode_register(builder, "ld", memory)
        return mode

    return types.int32(), lower


@intrinsic
def restore_mode(typingctx, mode):
    """Restore the mode that `flush_subnormals` returned."""

    def lower(context, builder, sig, args):
        if target_cpu()[0]:
            memory = cgutils.alloca_once(builder, I32)
            builder.store(args[0], memory)
            _mode_register(builder, "ld", memory)
        return context.get_dummy_value()

    return types.none(types.int32), lower
