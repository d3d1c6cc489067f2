"""The CPU that kernels are compiled for: its name in LLVM, features and vector width."""

from typing import NamedTuple

from numba.core.registry import cpu_target

from fastxent.cpu import lanes

# The features that the kernels' instructions use: wide registers, fma, masks.
_FEATURES = ("sse2", "avx", "avx2", "avx512f", "neon", "fma", "avx512bw", "avx512dq", "avx512vl")
_REGISTERS = {
    "avx512f": 64,
    "avx": 32,
    "sse2": 16,
    "neon": 16,
}  # bytes; the first present one counts


class TargetCPU(NamedTuple):
    """A CPU: the host, or the one that `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES` set."""

    cpu: str
    features: list[str]  # those of _FEATURES
    vector_bytes: int  # of a vector in the kernels' source
    register_bytes: int | None  # of the registers that LLVM uses for it; None if unknown


def target() -> TargetCPU:
    """Return the target of this process."""
    _, cpu, flags = cpu_target.target_context.codegen().magic_tuple()
    features = [name for name in _FEATURES if f"+{name}" in flags.split(",")]
    widths = [width for name, width in _REGISTERS.items() if name in features]
    return TargetCPU(cpu, features, lanes.VECTOR_BYTES, widths[0] if widths else None)
