"""What kernels are compiled for: the CPU as LLVM knows it, and the width of its vectors."""

from typing import NamedTuple

from numba.core.registry import cpu_target

from fastxent.cpu import lanes

# What the kernels' instructions come from: wider registers, products that add, masks.
_FEATURES = ("sse2", "avx", "avx2", "avx512f", "neon", "fma", "avx512bw", "avx512dq", "avx512vl")
_REGISTERS = {"avx512f": 64, "avx": 32, "sse2": 16, "neon": 16}  # bytes; the first that is there


class Target(NamedTuple):
    """A CPU, by itself or as `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES` have it."""

    cpu: str
    features: list[str]  # of those that matter here
    vector_bytes: int  # of a vector in the kernels' source
    register_bytes: int | None  # of the registers that LLVM lays it into; None if not known


def target() -> Target:
    """The one of this process."""
    _, cpu, flags = cpu_target.target_context.codegen().magic_tuple()
    features = [name for name in _FEATURES if f"+{name}" in flags.split(",")]
    widths = [width for name, width in _REGISTERS.items() if name in features]
    return Target(cpu, features, lanes.VECTOR_BYTES, widths[0] if widths else None)
