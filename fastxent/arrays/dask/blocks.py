"""Helpers for Dask graphs: tasks that return several arrays, and tree sums."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import dask.array as da
import numpy as np

from fastxent.cpu.threads import num_threads
from fastxent.functions import Function

Index = tuple[Any, ...]

# The index of a class axis that x does not have; the axes of x have the indices 0, 1, …
CLASSES = -1
# How many scalars of blocks are combined at once. More than Dask's default of 4, because they are
# small and each level of the tree costs a round of the scheduler.
NUMBERS = 16


class Layout(NamedTuple):
    """An array that a task returns for each block: the indices of its axes, its type, its chunks.

    `single` are the indices along which each block has length 1, `new` those that the task's
    operands do not have, with their chunks.
    """

    axes: Index
    dtype: Any
    single: Index = ()
    new: dict[Any, Any] = {}  # never written


def several(
    task: Callable[..., tuple[Any, ...]], index: Index, operands: Iterable[Any],
    layouts: list[Layout],
) -> list[Any]:  # fmt: skip
    """Make the arrays of a task that returns a tuple of arrays for each block of `index`.

    Operands are arrays and their indices in turn. The tuples are the blocks of an internal array,
    so a block is computed once for all its results.
    """
    tuples = da.blockwise(
        task, index, *operands, meta=np.empty((0,) * len(index), object), align_arrays=False
    )
    return [
        da.blockwise(
            functools.partial(_item, number), layout.axes, tuples, index, dtype=layout.dtype,
            meta=np.empty((0,) * len(layout.axes), layout.dtype), align_arrays=False,
            adjust_chunks=dict.fromkeys(layout.single, 1), new_axes=layout.new,
        )
        for number, layout in enumerate(layouts)
    ]  # fmt: skip


def single(task: Callable[..., Any], layout: Layout, operands: Iterable[Any]) -> Any:
    """Make the array of a task that returns one array for each block."""
    return da.blockwise(
        task, layout.axes, *operands, dtype=layout.dtype, align_arrays=False, new_axes=layout.new,
        meta=np.empty((0,) * len(layout.axes), layout.dtype),
        adjust_chunks=dict.fromkeys(layout.single, 1),
    )  # fmt: skip


def operands(*pairs: tuple[Any, Index]) -> list[Any]:
    """Arrays and their indices in turn; None and None for a missing array."""
    return [one for array, index in pairs for one in (array, None if array is None else index)]


def _item(number: int, results: Any) -> Any:
    return only(results)[number]


def only(block: Any) -> Any:
    """Unwrap the nested lists that Dask passes along indices that the results do not have.

    None, for a missing array, is returned unchanged.
    """
    while type(block) is list:
        (block,) = block
    return block


def compute(function: Function, *args: Any, **kwargs: Any) -> Any:
    """Call a function on NumPy arrays with one thread, because Dask distributes the work."""
    with num_threads(1):
        return function(*args, **kwargs)


def is_half(dtype: Any) -> bool:
    """Whether a type is float16 or bfloat16, which are computed in float32."""
    return dtype.itemsize == 2 and dtype.kind not in "biu"


def total(parts: Any, dtype: Any, axes: Index) -> Any:
    """Sum over axes by a tree in float64, then convert to `dtype`."""
    numbers = len(axes) == parts.ndim
    summed = da.reduction(
        parts, _sum, _sum, axis=axes, dtype=np.float64, concatenate=True,
        split_every=NUMBERS if numbers else None,
        meta=np.empty((0,) * (parts.ndim - len(axes)), np.float64),
    )  # fmt: skip
    return converted(summed, dtype)


@np.errstate(all="ignore")
def _sum(values: Any, axis: Any, keepdims: bool) -> Any:
    return np.sum(values, axis=axis, keepdims=keepdims, dtype=np.float64)


def converted(array: Any, dtype: Any) -> Any:
    """Convert an array to a type; overflow gives inf without a warning."""
    if array.dtype == dtype:
        return array
    index = tuple(range(array.ndim))
    return single(functools.partial(_converted, dtype=dtype), Layout(index, dtype), (array, index))


@np.errstate(all="ignore")
def _converted(values: Any, dtype: Any) -> Any:
    return np.asarray(values).astype(dtype)
