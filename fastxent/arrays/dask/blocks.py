"""What all of Dask's ways share: tasks that give several arrays, and sums by a tree."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import dask.array as da
import numpy as np

from fastxent.arrays import views
from fastxent.cpu.threads import num_threads

Index = tuple[Any, ...]

# The index of classes that are no axis of x; those of x are 0, 1, …
CLASSES = -1
# How many numbers of blocks are put together at once: more than Dask's 4, for they are small, and
# each level of a tree costs the scheduler a round.
NUMBERS = 16


class Part(NamedTuple):
    """An array among those that a task gives: the index of its axes, its type, and its chunks.

    `once` are the indices along which each block gives one element, `new` those that the task's
    operands do not have, with their chunks.
    """

    axes: Index
    dtype: Any
    once: Index = ()
    new: dict[Any, Any] = {}  # never written


def several(
    task: Callable[..., tuple[Any, ...]], index: Index, operands: Iterable[Any], parts: list[Part]
) -> list[Any]:
    """The arrays of which `task` gives a tuple for each block of `index`.

    Operands are arrays and their indices in turn. The tuples are the blocks of an array that nobody
    sees, which is how a block is computed once for all of its results.
    """
    tuples = da.blockwise(
        task, index, *operands, meta=np.empty((0,) * len(index), object), align_arrays=False
    )
    return [
        da.blockwise(
            functools.partial(_part, number), part.axes, tuples, index, dtype=part.dtype,
            meta=np.empty((0,) * len(part.axes), part.dtype), align_arrays=False,
            adjust_chunks=dict.fromkeys(part.once, 1), new_axes=part.new,
        )
        for number, part in enumerate(parts)
    ]  # fmt: skip


def single(task: Callable[..., Any], part: Part, operands: Iterable[Any]) -> Any:
    """The array that a task gives."""
    return da.blockwise(
        task, part.axes, *operands, dtype=part.dtype, align_arrays=False, new_axes=part.new,
        meta=np.empty((0,) * len(part.axes), part.dtype),
        adjust_chunks=dict.fromkeys(part.once, 1),
    )  # fmt: skip


def _part(number: int, results: Any) -> Any:
    return only(results)[number]


def only(block: Any) -> Any:
    """The one block along an index that is not among the results': Dask gives lists of them."""
    while type(block) is list:
        (block,) = block
    return block


def compute(name: str, *args: Any, **kwargs: Any) -> Any:
    """A public function's results for NumPy arrays, on one thread: Dask shares out the work."""
    with num_threads(1):
        return views.body(name)(*args, **kwargs)


def is_half(dtype: Any) -> bool:
    """float16 or bfloat16, which compute in float32."""
    return dtype.itemsize == 2 and dtype.kind not in "biu"


def total(parts: Any, dtype: Any, axes: Index) -> Any:
    """The sum over axes, by a tree, in float64, as another type in the end."""
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
    """The array in another type; what that does not hold is infinite, without a warning."""
    if array.dtype == dtype:
        return array
    index = tuple(range(array.ndim))
    return single(functools.partial(_converted, dtype=dtype), Part(index, dtype), (array, index))


@np.errstate(all="ignore")
def _converted(values: Any, dtype: Any) -> Any:
    return np.asarray(values).astype(dtype)
