"""Launch kernels on the queue of a call, with arguments by name."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastxent.cuda import driver, thread_plans
from fastxent.cuda.elements import Element, element
from fastxent.cuda.groups import ThreadPlan
from fastxent.cuda.jit import Kernel, make_kernel
from fastxent.device_array import Queue

# The threads of a block of a kernel without a `ThreadPlan`.
THREADS = 256
FLOAT64, INT64 = np.dtype(np.float64), np.dtype(np.int64)


def launch(kernel: Kernel, grid: int, queue: Queue, **arguments: Any) -> None:
    """Launch a kernel on so many blocks; does nothing for 0."""
    kernel.signature.check(arguments)
    launch_with(arguments, kernel, grid, queue)


def launch_with(arguments: dict[str, Any], kernel: Kernel, grid: int, queue: Queue) -> None:
    """Launch a kernel with those of the arguments that it has parameters for."""
    if grid:
        values, pointers = kernel.signature.pack(arguments)
        queue.add_launch(driver.launch(kernel, grid, queue.place, values), pointers)


def launch_rows(
    factory: Callable[..., Any], variant: tuple[Any, ...], item: Element, plan: ThreadPlan,
    arguments: dict[str, Any], queue: Queue,
) -> None:  # fmt: skip
    """Launch the kernel of a factory on n_rows rows of n, on as many blocks as the plan says."""
    n_rows, n = arguments["n_rows"], arguments["n"]
    length = thread_plans.length_of_part(n, plan.cluster)
    kernel, grid = row_kernel(factory, item, plan, *variant), blocks_of_grid(n_rows, plan.rows)
    launch_with(arguments | {"length": length}, kernel, grid * plan.cluster, queue)


def blocks_of_grid(n: int, block: int) -> int:
    """How many blocks cover n, so many each."""
    return -(-n // block)


@functools.cache
def row_kernel(
    factory: Callable[..., Any], item: Element, plan: ThreadPlan, *variant: Any
) -> Kernel:
    """The kernel of a factory for rows of these elements under a plan."""
    return make_kernel(
        factory, item, plan, *variant, compute=item.compute, block=plan.block, blocks=plan.blocks,
        cluster=plan.cluster,
    )  # fmt: skip


@functools.cache
def flat_kernel(factory: Callable[..., Any], compute: Any, *variant: Any) -> Kernel:
    """The kernel of a factory without a `ThreadPlan`, for a type of the arithmetic."""
    number = number_of(compute)
    return make_kernel(factory, number, THREADS, *variant, compute=number.compute, block=THREADS)


@functools.cache
def name_of(dtype: Any) -> str:
    """A type's name, cached: NumPy builds it at each access."""
    return str(dtype.name)


@functools.cache
def number_of(compute: Any) -> Element:
    """The element type of the arithmetic."""
    return element(name_of(compute))
