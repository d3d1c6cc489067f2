"""The kernels that calls launch, each as it is launched: what is compiled and looked at."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from numba.cuda import compiler, dispatcher, types

from fastxent.cuda import array_kernels, binary, binary_kernels, kernels, launch, split_kernels
from fastxent.cuda.elements import element
from fastxent.cuda.groups import Plan
from fastxent.cuda.jit import Kernel, clustered
from fastxent.cuda.kernels import Wants

SOFT = Wants(soft=True, shared=True, top=True)
EVERYTHING = Wants(shared=True, scaled=True, top=True, probs=True, hess=True)


class Entry(NamedTuple):
    """A kernel for some architectures, and what its code has to hold: which accesses to 16 bytes,
    and no float64.
    """  # noqa: D205

    kernel: Kernel
    capabilities: list[tuple[int, int]]
    vectors: tuple[str, ...]
    single: bool


BOTH, LOADS, STORES = ("ld", "st"), ("ld",), ("st",)
OLD, NEW = [(7, 5), (8, 0)], [(9, 0), (10, 0)]


def of(name, older=None):
    """The architectures that rows of a type are computed on."""
    old = OLD[1:] if "float16" in name else OLD
    return [*(old if older in (True, None) else []), *(NEW if older in (False, None) else [])]


def cross_entropy(name, n_classes, older, wants=Wants(), wide=True):  # noqa: B008 - a tuple
    """The kernel of a call on rows of so many classes."""
    item = element(name)
    plan = launch.plan_of(item, n_classes, wide, launch.effort_of(wants), older)
    how = (kernels.cross_entropy_kernel, item, plan, launch._CROSS_ENTROPY, wants)
    vectors = BOTH if wants.grad or wants.probs else LOADS
    vectors = vectors if plan.wide else ()
    return Entry(launch.row_kernel(*how), of(name, older), vectors, name != "float64")


def row(factory, name, n_classes, older, signature, *how, effort=None, vectors=BOTH):
    """The kernel of another call."""
    item = element(name)
    plan = launch.plan_of(item, n_classes, True, effort or launch.map_effort(item), older)
    prepared = launch.row_kernel(factory, item, plan, signature, *how)
    return Entry(prepared, of(name, older), vectors, name != "float64")


def binary_loss(name, factory, signature, *wants):
    """The kernel of a binary loss."""
    item, plan = element(name), Plan(binary.THREADS, binary.VECTORS, 1, True, False)
    prepared = launch.row_kernel(factory, item, plan, signature, binary_kernels.BinaryWants(*wants))
    return Entry(prepared, of(name), BOTH, name != "float64")


def split(name, older):
    """The kernels of rows on several blocks."""
    item = element(name)
    plan = launch.plan_of_parts(item, True, older)
    sums = (split_kernels.split_sums_kernel, item, plan, launch.SPLIT_SUMS)
    rows = (split_kernels.split_rows_kernel, item, plan, launch.SPLIT_ROWS)
    for how, vectors in ((sums, LOADS), (rows, BOTH)):
        yield Entry(launch.row_kernel(*how), of(name, older), vectors, name != "float64")


def cluster(name, n_classes):
    """The kernel of long rows on clusters of blocks."""
    item = element(name)
    plan = launch.plan_of(item, n_classes, True, launch.LITTLE)
    plan = launch.clustered(plan, item, n_classes, launch.CLUSTERS[-1])
    prepared = launch.row_kernel(split_kernels.cluster_rows_kernel, item, plan, launch.CLUSTER_ROWS)
    return Entry(prepared, list(NEW), BOTH, name != "float64")


def scaled(name):
    """The kernel of a gradient times what is above it."""
    item = element(name)
    plan = Plan(launch.THREADS, launch.SOME // item.width, 1, True, False)
    prepared = launch.row_kernel(array_kernels.scale_kernel, item, plan, "aaaii")
    return Entry(prepared, of(name), BOTH, True)


def others():
    """The kernels that are not about rows."""
    two = (array_kernels.scan_kernel, array_kernels.mean_kernel)  # of one chunk, of several
    for compute in ("float32", "float64"):
        for factory in launch.SIGNATURES:
            for how in [(True,), (False,)] if factory in two else [()]:
                prepared = launch._kernel(factory, np.dtype(compute), *how)
                yield Entry(prepared, of(compute), (), False)


def of_rows(older):
    """The kernels of rows, on GPUs older than compute capability 9 or others."""
    for n_classes in (10, 100, 1000, 4096, 8192, 16384, 32768, 128256):
        yield cross_entropy("float32", n_classes, older)
    for n_classes in (1000, 16384, 32768, 128256):
        yield cross_entropy("bfloat16", n_classes, older)
    yield cross_entropy("float16", 16384, older)
    yield cross_entropy("float32", 1000, older, wide=False)
    yield cross_entropy("float32", 50000, older, wide=False)
    yield cross_entropy("float64", 1000, older)
    yield cross_entropy("float64", 128256, older)
    yield cross_entropy("float32", 16384, older, Wants(grad=False))
    for name in ("float32", "bfloat16"):
        for wants in (SOFT, EVERYTHING, Wants(shared=True)):
            for n_classes in (8192, 50000):
                yield cross_entropy(name, n_classes, older, wants)
        for n_classes, log in ((16384, False), (32768, True), (128256, True)):
            how = (kernels.softmax_kernel, name, n_classes, older, "asasii", log)
            yield row(*how, effort=launch.softmax_effort(element(name), older))
        yield row(kernels.logsumexp_kernel, name, 8192, older, "asaii", vectors=LOADS)
        yield from split(name, older)
        how = (kernels.categorical_kernel, name, 8192, older, launch._CATEGORICAL)
        yield row(*how, False, True, effort=launch.SOME, vectors=STORES)
        yield row(*how, True, True, effort=launch.MUCH)


def every():
    """All kernels, of each kind those that differ, for the architectures that they are for."""
    found = {}
    for older in (True, False):
        for entry in of_rows(older):
            if entry.kernel in found:
                entry.capabilities.extend(found[entry.kernel].capabilities)
            found[entry.kernel] = entry
    yield from found.values()
    for n_classes in (50257, 262144, 1 << 20):
        yield cluster("float32", n_classes)
    yield cluster("bfloat16", 128256)
    for name in ("float32", "bfloat16"):
        yield scaled(name)
        wants = (False, True, True, True)
        yield binary_loss(name, binary_kernels.binary_logits_kernel, binary.LOGITS, *wants)
        yield binary_loss(name, binary_kernels.binary_probs_kernel, binary.PROBS, False, True)
    yield from others()


# Functions of a device are compiled for the GPU that is there, though nothing of them depends on
# it: so one is made up where there is none.
dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=(8, 0))


def compiled(kernel, capabilities):
    """PTX for each architecture, from one translation to LLVM's language, which takes longest."""
    library, _ = compiler._compile_pyfunc_with_fixup(
        kernel.source, types.void(*kernel.types), debug=None, lineinfo=False, device=False,
        fastmath=False, cc=capabilities[0], opt=None, abi="numba", abi_info=None,
        forceinline=False, launch_bounds=(kernel.block, kernel.blocks), lto=False,
    )  # fmt: skip
    return {
        capability: clustered(library.get_asm_strs(cc=capability)[0], kernel.cluster)
        for capability in capabilities
    }
