"""The kernels that calls launch, each as it is launched: what is compiled and looked at."""

from typing import NamedTuple

from fastxent.cuda import binary, binary_kernels, kernels, launch
from fastxent.cuda.elements import element
from fastxent.cuda.groups import Plan
from fastxent.cuda.jit import Kernel
from fastxent.cuda.kernels import Wants

SOFT = Wants(soft=True, shared=True, top=True)
EVERYTHING = Wants(shared=True, scaled=True, top=True, probs=True, hess=True)


class Entry(NamedTuple):
    """A kernel, and what its code has to hold: vectors of 16 bytes, and no float64."""

    kernel: Kernel
    wide: bool
    single: bool


def cross_entropy(name, n_classes, wants=Wants(), wide=True):  # noqa: B008 - a tuple
    """The kernel of a call on rows of so many classes."""
    item = element(name)
    plan = launch.plan_of(item, n_classes, wide, launch.effort_of(wants))
    how = (kernels.cross_entropy_kernel, item, plan, launch._CROSS_ENTROPY, wants)
    return Entry(launch._row_kernel(*how), plan.wide, name != "float64")


def row(factory, name, n_classes, signature, *how, effort=None):
    """The kernel of another call."""
    item = element(name)
    plan = launch.plan_of(item, n_classes, True, effort or launch.map_effort(item))
    prepared = launch._row_kernel(factory, item, plan, signature, *how)
    return Entry(prepared, plan.wide, name != "float64")


def binary_loss(name, factory, signature, *wants):
    """The kernel of a binary loss."""
    item, plan = element(name), Plan(binary.THREADS, binary.VECTORS, 1, True, False)
    prepared = binary._kernel(factory, item, plan, binary_kernels.BinaryWants(*wants), signature)
    return Entry(prepared, True, name != "float64")


def others():
    """The kernels that are not about rows."""
    for compute in ("float32", "float64"):
        for factory in launch.SIGNATURES:
            yield Entry(launch._kernel(factory, compute), False, False)


def every():
    """All kernels, of each kind those that differ."""
    for n_classes in (10, 100, 1000, 4096, 8192, 16384, 32768, 128256):
        yield cross_entropy("float32", n_classes)
    for name in ("bfloat16", "float16"):
        for n_classes in (1000, 16384, 32768, 128256):
            yield cross_entropy(name, n_classes)
    yield cross_entropy("float32", 1000, wide=False)
    yield cross_entropy("float32", 50000, wide=False)
    yield cross_entropy("float64", 1000)
    yield cross_entropy("float64", 128256)
    yield cross_entropy("float32", 32768, Wants(grad=False))
    for name in ("float32", "bfloat16"):
        for wants in (SOFT, EVERYTHING, Wants(shared=True)):
            yield cross_entropy(name, 8192, wants)
            yield cross_entropy(name, 50000, wants)
    for name in ("float32", "bfloat16"):
        yield row(kernels.softmax_kernel, name, 8192, "aaaaii", False)
        yield row(kernels.softmax_kernel, name, 128256, "aaaaii", True)
        yield row(kernels.logsumexp_kernel, name, 8192, "aaaii")
        for soft, effort in ((False, launch.SOME), (True, launch.MUCH)):
            how = (kernels.categorical_kernel, name, 8192, launch._CATEGORICAL, soft, True)
            yield row(*how, effort=effort)
        wants = (False, True, True, True)
        yield binary_loss(name, binary_kernels.binary_logits_kernel, binary.LOGITS, *wants)
        yield binary_loss(name, binary_kernels.binary_probs_kernel, binary.PROBS, False, True)
    yield from others()
