"""Compile kernels to machine code for one architecture, without a GPU, and cache it on disk.

Numba compiles a kernel to PTX, and the linker of the same toolkit compiles that to machine code: so
the driver, which may be older than the toolkit, never has to read PTX. The driver launches that
code directly: Numba's own dispatcher takes ten times as long for a launch.
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
from fastxent.cuda.parameters import Signature, signature_of

# Half precision needs instructions of 8.0; newer toolkits do not compile for less than 7.5.
OLDEST, OLDEST_HALF = (7, 5), (8, 0)

_INSTALL = "pip install 'fastxent[cuda13]', or fastxent[cuda12] for a driver of CUDA 12"


class Kernel(NamedTuple):
    """A kernel to be compiled. Its name encodes all that its source was made from, and its types.

    A multiprocessor should have room for `blocks` blocks: that limits the registers of a thread.
    `cluster` is how many blocks can write into each other's shared memory.
    """

    name: str
    source: Callable[..., Any]
    signature: Signature
    block: int
    blocks: int
    cluster: int

    def __hash__(self) -> int:
        return hash(self.name)  # needed at every launch, and a tuple does not keep its hash

    @property
    def types(self) -> tuple[Any, ...]:
        """The Numba types of its parameters."""
        return self.signature.types


def make_kernel(
    factory: Callable[..., Any],
    *args: Any,
    compute: Any,
    block: int,
    blocks: int = 1,
    cluster: int = 1,
) -> Kernel:
    """The kernel that a factory makes of these arguments, for a type of the arithmetic."""
    words = "-".join(re.sub(r"\w+=|[^\w,()]", "", str(getattr(arg, "name", arg))) for arg in args)
    name = f"{factory.__name__.removeprefix('make_').removesuffix('_kernel')}-{words}"
    source = factory(*args)
    return Kernel(name, source, signature_of(source, compute), block, blocks, cluster)


def ptx(kernel: Kernel, capability: tuple[int, int]) -> str:
    """A kernel compiled to PTX."""
    supported(kernel, capability)
    code, _ = cuda.compile(
        kernel.source, types.void(*kernel.types), device=False, abi="numba", cc=capability,
        launch_bounds=(kernel.block, kernel.blocks),
    )  # fmt: skip
    return clustered(str(code), kernel.cluster)


def clustered(code: str, cluster: int) -> str:
    """PTX with the directives of a kernel that is launched in clusters, which Numba lacks."""
    if cluster == 1:
        return code
    directives = rf"\1\n.explicitcluster\n.reqnctapercluster {cluster}, 1, 1"
    code, n = re.subn(r"^(\.maxntid .*)$", directives, code, count=1, flags=re.MULTILINE)
    assert n == 1, "without them a kernel would write to blocks that do not exist"
    return code


def link(code: str, capability: tuple[int, int]) -> tuple[bytes, str]:
    """PTX compiled to machine code, and the report of registers and spills."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    options = LinkerOptions(arch="sm_{}{}".format(*capability), ptxas_options=["-v"], verbose=True)
    linker = Linker(ObjectCode.from_ptx(code.encode()), options=options)
    return bytes(linker.link("cubin").code), linker.get_info_log()


def machine_code(kernel: Kernel, capability: tuple[int, int]) -> tuple[str, bytes]:
    """The name of a kernel's entry and its machine code, from disk if it was compiled before."""
    identity = _identity(kernel, capability)
    entry = kernel_files.load("cuda", identity)
    if entry is None:
        try:
            code = ptx(kernel, capability)
            name = re.search(r"\.entry (\w+)", code)
            assert name is not None
            entry = name[1].encode() + b"\0" + link(code, capability)[0]
        except Exception as error:  # the toolkit raises errors of many types
            raise RuntimeError(_cannot_compile(capability, error)) from error
        kernel_files.save("cuda", identity, entry)
    name_bytes, _, content = entry.partition(b"\0")
    return name_bytes.decode(), content


def obstacle(capability: tuple[int, int]) -> str:
    """Why kernels cannot be compiled for an architecture, by compiling one; empty if they can."""
    if reason := too_old(capability, half=False):
        return reason
    try:
        code, _ = cuda.compile(_empty, types.void(), device=False, abi="numba", cc=capability)
        link(str(code), capability)
    except Exception as error:  # as above
        return _cannot_compile(capability, error)
    return ""


def _empty() -> None:
    """The smallest kernel, to try the toolkit."""


def _cannot_compile(capability: tuple[int, int], error: Exception) -> str:
    architecture = "sm_{}{}".format(*capability)
    return f"the CUDA toolkit cannot compile for {architecture} ({error}); {_INSTALL}"


def supported(kernel: Kernel, capability: tuple[int, int]) -> None:
    """Raise if an architecture cannot run a kernel."""
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

    versions = [__version__, platform.python_version()]
    for package in ("numba-cuda", "cuda-core", "nvidia-nvvm", "nvidia-nvjitlink",
                    "nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink-cu12"):  # fmt: skip
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(versions)


def _identity(kernel: Kernel, capability: tuple[int, int]) -> bytes:
    """Everything that the machine code depends on."""
    sources = kernel_files.sources(Path(__file__).parent)
    shape = kernel.block, kernel.blocks, kernel.cluster
    key = (kernel.name, kernel.types, shape, capability)
    return repr((key, _versions(), sources)).encode()
