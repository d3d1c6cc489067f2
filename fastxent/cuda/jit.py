"""Kernels made into machine code for one architecture, without a GPU, and kept on disk.

Numba turns a kernel into PTX, and the linker of the same toolkit makes that machine code: so the
driver, which may be older than the toolkit, never has to read PTX. A kernel is launched from what
comes out, not by Numba's dispatcher, which takes ten times as long to launch one.
"""

import functools
import importlib.metadata
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from numba import cuda, types

from fastxent import kernel_files

# Older architectures have none of what half precision needs, and newer toolkits do not know them.
OLDEST, OLDEST_HALF = (7, 5), (8, 0)

_INSTALL = "pip install 'fastxent[cuda13]', or fastxent[cuda12] for a driver of CUDA 12"


class Kernel(NamedTuple):
    """A kernel to be compiled: its name, which says all that its source was made of, and types."""

    name: str
    source: Callable[..., Any]
    types: tuple[Any, ...]
    addresses: tuple[int, ...]  # which of its arguments are such
    block: int
    blocks: int  # of them a multiprocessor should hold, by which the registers are dealt out
    cluster: int  # how many blocks can reach into each other's shared memory

    def __hash__(self) -> int:
        return hash(self.name)  # asked at every launch, and the types' are not kept


def kernel(
    factory: Callable[..., Any],
    *args: Any,
    signature: str,
    compute: Any,
    block: int,
    blocks: int = 1,
    cluster: int = 1,
) -> Kernel:
    """The kernel that a factory makes of these.

    In its signature `a` is an address or 0, `s` a step of addresses, `i` an integer, `f` a number
    of the type that is computed in, and `d` a float64.
    """
    kinds = {
        "a": types.uint64, "s": types.uint64, "i": types.int64, "f": compute, "d": types.float64,
    }  # fmt: skip
    said = "-".join(re.sub(r"\w+=|[^\w,()]", "", str(getattr(arg, "name", arg))) for arg in args)
    name = f"{factory.__name__.removesuffix('_kernel')}-{said}"
    addresses = tuple(position for position, kind in enumerate(signature) if kind == "a")
    found = tuple(map(kinds.get, signature))
    return Kernel(name, factory(*args), found, addresses, block, blocks, cluster)


def ptx(kernel: Kernel, capability: tuple[int, int]) -> str:
    """What Numba makes of a kernel."""
    supported(kernel, capability)
    code, _ = cuda.compile(
        kernel.source, types.void(*kernel.types), device=False, abi="numba", cc=capability,
        launch_bounds=(kernel.block, kernel.blocks),
    )  # fmt: skip
    return clustered(str(code), kernel.cluster)


def clustered(code: str, cluster: int) -> str:
    """PTX of a kernel whose blocks are in clusters, for which Numba has no option."""
    if cluster == 1:
        return code
    said = rf"\1\n.explicitcluster\n.reqnctapercluster {cluster}, 1, 1"
    found, n = re.subn(r"^(\.maxntid .*)$", said, code, count=1, flags=re.MULTILINE)
    assert n == 1, "without its clusters it would reach for blocks that are not there"
    return found


def link(code: str, capability: tuple[int, int]) -> tuple[bytes, str]:
    """Machine code of PTX, and what the assembler reports of registers and memory."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    options = LinkerOptions(arch="sm_{}{}".format(*capability), ptxas_options=["-v"], verbose=True)
    linker = Linker(ObjectCode.from_ptx(code.encode()), options=options)
    return bytes(linker.link("cubin").code), linker.get_info_log()


def machine_code(kernel: Kernel, capability: tuple[int, int]) -> tuple[str, bytes]:
    """A kernel's name in its machine code, and that: from disk, where it has been made before."""
    identity = _identity(kernel, capability)
    kept = kernel_files.load("cuda", identity)
    if kept is None:
        try:
            code = ptx(kernel, capability)
            name = re.search(r"\.entry (\w+)", code)
            assert name is not None
            kept = name[1].encode() + b"\0" + link(code, capability)[0]
        except Exception as error:  # of any kind: kernels compile wherever there is a toolkit
            raise RuntimeError(_cannot_compile(capability, error)) from error
        kernel_files.save("cuda", identity, kept)
    entry, _, content = kept.partition(b"\0")
    return entry.decode(), content


def obstacle(capability: tuple[int, int]) -> str:
    """Why no kernel can be made for an architecture, found out by making one; empty if it can."""
    if reason := too_old(capability, half=False):
        return reason
    try:
        code, _ = cuda.compile(_nothing, types.void(), device=False, abi="numba", cc=capability)
        link(str(code), capability)
    except Exception as error:  # as above
        return _cannot_compile(capability, error)
    return ""


def _nothing() -> None:
    """The smallest kernel."""


def _cannot_compile(capability: tuple[int, int], error: Exception) -> str:
    architecture = "sm_{}{}".format(*capability)
    return f"the CUDA toolkit cannot compile for {architecture} ({error}); {_INSTALL}"


def supported(kernel: Kernel, capability: tuple[int, int]) -> None:
    """Raise where an architecture cannot run a kernel."""
    if reason := too_old(capability, half="float16" in kernel.name):
        raise RuntimeError(
            f"{reason}: copy the arrays to the host, where they are computed on the CPU"
        )


def too_old(capability: tuple[int, int], *, half: bool) -> str:
    """Why an architecture cannot run kernels, or those of half precision; empty if it can."""
    oldest = OLDEST_HALF if half else OLDEST
    if capability >= oldest:
        return ""
    return (
        f"{'half precision' if half else 'fastxent'} needs a GPU of compute capability "
        f"{oldest} or newer, this one has {capability}"
    )


@functools.cache
def _versions() -> tuple[str, ...]:
    from fastxent._version import __version__

    found = [__version__, platform.python_version()]
    for package in ("numba-cuda", "cuda-core", "nvidia-nvvm", "nvidia-nvjitlink",
                    "nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink-cu12"):  # fmt: skip
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(found)


def _identity(kernel: Kernel, capability: tuple[int, int]) -> bytes:
    """All that the machine code depends on."""
    sources = kernel_files.sources(Path(__file__).parent)
    shape = kernel.block, kernel.blocks, kernel.cluster
    kind = (kernel.name, kernel.types, shape, capability)
    return repr((kind, _versions(), sources)).encode()
