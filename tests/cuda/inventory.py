"""The kernels that calls launch, for the test of their machine code."""

import itertools
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from numba.cuda import compiler, dispatcher, types

from fastxent.cuda import (
    binary,
    binary_kernels,
    categorical_kernels,
    conversion_kernels,
    hvp_kernels,
    kernels,
    launch,
    reduction_kernels,
    softmax_kernels,
    split_kernels,
    thread_plans,
)
from fastxent.cuda.elements import element
from fastxent.cuda.groups import ThreadPlan
from fastxent.cuda.hvp_kernels import HvpWants
from fastxent.cuda.jit import Kernel, clustered
from fastxent.cuda.kernels import Wants

SOFT = Wants(soft=True, all_classes=True, top=True)
EVERYTHING = Wants(all_classes=True, scaled=True, top=True, probs=True, hess=True, entropy=True)
HVP_OPTIONS = HvpWants(all_classes=True, scaled=True, z_loss=True)
HVP_SOFT = HvpWants(soft=True, all_classes=True, scaled=True, z_loss=True)


class Entry(NamedTuple):
    """A kernel for some architectures; its code has these accesses to 16 bytes, and no float64."""

    kernel: Kernel
    capabilities: list[tuple[int, int]]
    vectors: tuple[str, ...]
    single: bool


BOTH, LOADS, STORES = ("ld", "st"), ("ld",), ("st",)
OLD, NEW = [(7, 5), (8, 0)], [(9, 0), (10, 0)]


def architectures(name, older=None):
    """The architectures that rows of a type are computed on."""
    old = OLD[1:] if "float16" in name else OLD
    return [*(old if older in (True, None) else []), *(NEW if older in (False, None) else [])]


def most(older):
    """The most blocks of a cluster; older GPUs have none."""
    return 1 if older else thread_plans.CLUSTERS[-1]


def loss(name, n_classes, older, wants=Wants(), vectorised=True):  # noqa: B008 - a tuple
    """The kernel of cross_entropy on rows of so many classes."""
    item = element(name)
    plan = thread_plans.plan_of(item, n_classes, vectorised, older=older)
    if wants._replace(grad=True) != Wants():  # the others have a kernel of their own for clusters
        plan = thread_plans.plan_of_options(item, n_classes, vectorised, older, False, most(older))
    prepared = launch.row_kernel(kernels.make_cross_entropy_kernel, item, plan, wants)
    vectors = BOTH if wants.grad or wants.probs else LOADS
    vectors = vectors if plan.vectorised else ()
    return Entry(prepared, architectures(name, older), vectors, name != "float64")


def row(factory, name, n_classes, older, *variant, limit=None, vectors=BOTH):
    """The kernel of another call."""
    item = element(name)
    limit = limit or thread_plans.max_per_thread_of_sums(item)
    plan = thread_plans.plan_of(item, n_classes, True, limit, older)
    if factory is softmax_kernels.make_softmax_kernel:
        plan = thread_plans.plan_of_softmax(item, n_classes, True, older, False, most(older))
    prepared = launch.row_kernel(factory, item, plan, *variant)
    return Entry(prepared, architectures(name, older), vectors, name != "float64")


def binary_loss(name, factory, *wants):
    """The kernel of a binary loss."""
    item, plan = element(name), ThreadPlan(binary.THREADS, binary.VECTORS, 1, True, False)
    prepared = launch.row_kernel(factory, item, plan, binary_kernels.BinaryWants(*wants))
    return Entry(prepared, architectures(name), BOTH, name != "float64")


def split(name, older):
    """The kernels of rows on several blocks."""
    item = element(name)
    plan = thread_plans.plan_of_parts(item, True, older)
    for factory, vectors in (
        (split_kernels.make_split_sums_kernel, LOADS),
        (split_kernels.make_split_rows_kernel, BOTH),
    ):
        prepared = launch.row_kernel(factory, item, plan)
        yield Entry(prepared, architectures(name, older), vectors, name != "float64")


def cluster(name, n_classes):
    """The kernel of long rows on clusters of blocks."""
    item = element(name)
    plan = thread_plans.plan_of(item, n_classes, True)
    plan = thread_plans.clustered(plan, item, n_classes, most(False))
    prepared = launch.row_kernel(split_kernels.make_cluster_rows_kernel, item, plan)
    return Entry(prepared, list(NEW), BOTH, name != "float64")


def hvp(name, n_classes, older, wants=HvpWants(), vectorised=True):  # noqa: B008 - a tuple
    """The kernel of second derivatives times a vector, on clusters where a GPU has them."""
    item = element(name)
    plan = thread_plans.plan_of_pairs(item, n_classes, vectorised, older)
    plan = thread_plans.clustered(plan, item, n_classes, most(older))
    prepared = launch.row_kernel(hvp_kernels.make_hvp_kernel, item, plan, wants)
    vectors = BOTH if plan.vectorised else ()
    return Entry(prepared, architectures(name, older), vectors, name != "float64")


def entropy(name, n_classes, older, with_grad):
    """The kernel of entropy."""
    item = element(name)
    plan = thread_plans.plan_of_entropy(item, n_classes, True, older, False, most(older))
    prepared = launch.row_kernel(softmax_kernels.make_entropy_kernel, item, plan, with_grad)
    vectors = BOTH if with_grad else LOADS
    return Entry(prepared, architectures(name, older), vectors, name != "float64")


def of_vectors(older):
    """The kernels of second derivatives, and of entropy."""
    for n_classes in (10, 100, 1000, 4096, 32768, 128256, 1 << 20):
        yield hvp("float32", n_classes, older)
    yield hvp("float32", 1000, older, vectorised=False)
    yield hvp("float16", 16384, older)
    yield hvp("float64", 1000, older)
    for name in ("float32", "bfloat16", "float64"):
        for wants in (HvpWants(), HVP_OPTIONS, HVP_SOFT):
            for n_classes in (8192, 50000):
                yield hvp(name, n_classes, older, wants)
        for n_classes in (100, 4096, 50000, 262144):
            yield entropy(name, n_classes, older, True)
    yield entropy("float32", 8192, older, False)
    yield loss("float32", 8192, older, Wants(entropy=True))


def scaled(name):
    """The kernel of a gradient times the gradient above it."""
    item = element(name)
    vectors = thread_plans.MAX_PER_THREAD_OPTIONS // item.width
    plan = ThreadPlan(launch.THREADS, vectors, 1, True, False)
    prepared = launch.row_kernel(conversion_kernels.make_scale_kernel, item, plan)
    return Entry(prepared, architectures(name), BOTH, True)


def column(name, n_classes, older, factory, *variant, limit=None, vectorised=True, vectors=BOTH):
    """A kernel of rows whose classes lie apart."""
    item = element(name)
    limit = limit or thread_plans.MAX_PER_THREAD_OPTIONS
    if factory is hvp_kernels.make_hvp_kernel:
        plan = thread_plans.plan_of_pairs(item, n_classes, vectorised, older, True)
    elif factory is softmax_kernels.make_softmax_kernel:
        plan = thread_plans.plan_of_softmax(item, n_classes, vectorised, older, True, 1)
    elif factory is softmax_kernels.make_entropy_kernel:
        plan = thread_plans.plan_of_entropy(item, n_classes, vectorised, older, True, 1)
    else:
        plan = thread_plans.plan_of(item, n_classes, vectorised, limit, older, True)
    prepared = launch.row_kernel(factory, item, plan, *variant)
    found = vectors if plan.vectorised else ()
    return Entry(prepared, architectures(name, older), found, name != "float64")


def of_columns(older):
    """The kernels of rows whose classes lie apart."""
    plain, softmax = thread_plans.MAX_PER_THREAD, softmax_kernels.make_softmax_kernel
    losses, hvps = kernels.make_cross_entropy_kernel, hvp_kernels.make_hvp_kernel
    categorical = categorical_kernels.make_categorical_kernel
    of_probs = thread_plans.MAX_PER_THREAD_LOGARITHMS
    for n_classes in (5, 21, 150, 1000, 50000):
        yield column("float32", n_classes, older, losses, Wants(), limit=plain)
    yield column("float32", 21, older, losses, Wants(), limit=plain, vectorised=False)
    yield column("float32", 50000, older, losses, Wants(), limit=plain, vectorised=False)
    yield column("float16", 150, older, losses, Wants(), limit=plain)
    for name in ("float32", "bfloat16", "float64"):
        yield column(name, 1000, older, losses, Wants(), limit=plain)
        yield column(name, 50000, older, losses, Wants(), limit=plain)
        item = element(name)
        sums = thread_plans.max_per_thread_of_sums(item)
        yield column(
            name, 500, older, softmax_kernels.make_logsumexp_kernel, limit=sums, vectors=LOADS
        )
        for n_classes, log in ((21, False), (1000, True)):
            yield column(name, n_classes, older, softmax, log)
        for n_classes, vectorised in ((21, True), (21, False), (1000, True)):
            for wants in (SOFT, EVERYTHING, Wants(all_classes=True)):
                yield column(name, n_classes, older, losses, wants, vectorised=vectorised)
        for n_classes, wants in ((21, HvpWants()), (21, HVP_OPTIONS), (1000, HVP_SOFT)):
            yield column(name, n_classes, older, hvps, wants)
        yield column(name, 21, older, softmax_kernels.make_entropy_kernel, True)
        yield column(name, 1000, older, softmax_kernels.make_entropy_kernel, True)
        yield column(name, 21, older, categorical, True, True, limit=of_probs)
        yield column(name, 21, older, categorical, False, True, vectorised=False)


# The kernels that are not laid out on rows, and their variants.
FLAT = {
    reduction_kernels.make_scan_kernel: [(True,), (False,)],  # of one chunk, of several
    reduction_kernels.make_sum_kernel: [()],
    reduction_kernels.make_divisor_kernel: [()],
    reduction_kernels.make_mean_kernel: [(True,), (False,)],
    conversion_kernels.make_copy_labels_kernel: [()],
    conversion_kernels.make_gather_kernel: [()],
    conversion_kernels.make_chain_kernel: [()],
    conversion_kernels.make_second_chain_kernel: [()],
    conversion_kernels.make_scatter_kernel: [()],
    conversion_kernels.make_clear_kernel: [()],
}


def flat():
    """Those kernels for both types that are computed in."""
    for compute in ("float32", "float64"):
        for factory, variants in FLAT.items():
            for variant in variants:
                prepared = launch.flat_kernel(factory, np.dtype(compute), *variant)
                yield Entry(prepared, architectures(compute), (), False)


def of_rows(older):
    """The kernels of rows, on GPUs older than compute capability 9 or others."""
    for n_classes in (10, 100, 1000, 4096, 8192, 16384, 32768, 128256):
        yield loss("float32", n_classes, older)
    for n_classes in (1000, 16384, 32768, 128256):
        yield loss("bfloat16", n_classes, older)
    yield loss("float16", 16384, older)
    yield loss("float32", 1000, older, vectorised=False)
    yield loss("float32", 50000, older, vectorised=False)
    yield loss("float64", 1000, older)
    yield loss("float64", 128256, older)
    yield loss("float32", 16384, older, Wants(grad=False))
    for name in ("float32", "bfloat16"):
        for wants in (SOFT, EVERYTHING, Wants(all_classes=True)):
            for n_classes in (8192, 50000, 262144):
                yield loss(name, n_classes, older, wants)
        for n_classes, log in ((16384, False), (32768, True), (128256, True), (262144, False)):
            factory = softmax_kernels.make_softmax_kernel
            yield row(factory, name, n_classes, older, log)
        yield row(softmax_kernels.make_logsumexp_kernel, name, 8192, older, vectors=LOADS)
        yield from split(name, older)
        of_labels, of_probs = (
            thread_plans.MAX_PER_THREAD_OPTIONS, thread_plans.MAX_PER_THREAD_LOGARITHMS,
        )  # fmt: skip
        factory = categorical_kernels.make_categorical_kernel
        yield row(factory, name, 8192, older, False, True, limit=of_labels, vectors=STORES)
        yield row(factory, name, 8192, older, True, True, limit=of_probs)


def every():
    """All kernels, of each kind those that differ, for the architectures that they are for."""
    entries = {}
    for older in (True, False):
        for entry in itertools.chain(of_rows(older), of_vectors(older), of_columns(older)):
            if entry.kernel in entries:
                entry.capabilities.extend(entries[entry.kernel].capabilities)
            entries[entry.kernel] = entry
    yield from entries.values()
    for n_classes in (50257, 262144, 1 << 20):
        yield cluster("float32", n_classes)
    yield cluster("bfloat16", 128256)
    for name in ("float32", "bfloat16"):
        yield scaled(name)
        wants = (False, True, True, True)
        yield binary_loss(name, binary_kernels.make_binary_logits_kernel, *wants)
        yield binary_loss(name, binary_kernels.make_binary_probs_kernel, False, True)
        plan = ThreadPlan(binary.THREADS, binary.VECTORS, 1, True, False)
        prepared = launch.row_kernel(binary_kernels.make_binary_hvp_kernel, element(name), plan)
        yield Entry(prepared, architectures(name), BOTH, True)
    yield from flat()


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
