"""What all of Dask's ways share: tasks that return several arrays, and sums by a tree."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import dask.array as da
import numpy as np

from fastxent.cpu.threads import num_threads
from fastxent.functions import Function

Index = tuple[Any, ...]

# The index of classes that are no axis of x; those of x are 0, 1, …
CLASSES = -1
# How many numbers of blocks are combined at once: more than Dask's 4, for they are small, and
# each level of a tree costs the scheduler a round.
NUMBERS = 16


class Layout(NamedTuple):
    """An array that a task returns for each block: the index of its axes, its type, its chunks.

    `single` are the indices along which each block has one element, `new` those that the task's
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
    """The arrays of which `task` returns a tuple for each block of `index`.

    Operands are arrays and their indices in turn. The tuples are the blocks of an internal array,
    so that a block is computed once for all of its results.
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
    """The array that a task returns block by block."""
    return da.blockwise(
        task, layout.axes, *operands, dtype=layout.dtype, align_arrays=False, new_axes=layout.new,
        meta=np.empty((0,) * len(layout.axes), layout.dtype),
        adjust_chunks=dict.fromkeys(layout.single, 1),
    )  # fmt: skip


def operands(*pairs: tuple[Any, Index]) -> list[Any]:
    """Arrays and their indices in turn; None and None for an array that was not given."""
    return [one for array, index in pairs for one in (array, None if array is None else index)]


def _item(number: int, results: Any) -> Any:
    return only(results)[number]


def only(block: Any) -> Any:
    """The one block along an index that is not among the results': Dask passes nested lists.

    None of None, in place of an array that was not given.
    """
    while type(block) is list:
        (block,) = block
    return block


def compute(function: Function, *args: Any, **kwargs: Any) -> Any:
    """A function's results for NumPy arrays, on one thread: Dask distributes the work."""
    with num_threads(1):
        return function(*args, **kwargs)


def is_half(dtype: Any) -> bool:
    """Whether it is float16 or bfloat16, which compute in float32."""
    return dtype.itemsize == 2 and dtype.kind not in "biu"


def total(parts: Any, dtype: Any, axes: Index) -> Any:
    """The sum over axes by a tree, in float64, converted to another type in the end."""
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
    """The array in another type; numbers beyond its range are infinite, without a warning."""
    if array.dtype == dtype:
        return array
    index = tuple(range(array.ndim))
    return single(functools.partial(_converted, dtype=dtype), Layout(index, dtype), (array, index))


@np.errstate(all="ignore")
def _converted(values: Any, dtype: Any) -> Any:
    return np.asarray(values).astype(dtype)
