"""Arrays of any rank, stride, byte order and type, as rows that a kernel can read and write.

A kernel wants (rows, classes) of its own float type with contiguous rows. Most arrays are that
already and are handed over whole; any other is converted block by block, never as a whole.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastxent.cpu import half, threads

Array = NDArray[Any]
Result = TypeVar("Result")
Box = tuple[tuple[slice, ...], int, int]

# Work is counted in elements; what a row costs besides its elements equals about this many.
_ROW_COST = 24
# And what an element of a binary loss costs.
_ELEMENT_COST = 2
# Below this much work waking a thread costs more than it saves.
SERIAL_BELOW = 1 << 19
# A chunk is what one kernel call does: long enough to hide its own cost, short enough to share
# evenly and to let Ctrl-C through. It depends on the shape alone, so that sums over chunks have
# the same bits whatever the number of threads.
_SMALLEST_CHUNK, _LARGEST_CHUNK, _CHUNKS = 1 << 18, 1 << 21, 16


class Operand:
    """One (…, classes) array, seen as rows of the kernel's type; with inner=0, as elements.

    With `columns` the kernel also takes rows that lie across, one class behind the other.
    """

    def __init__(
        self, array: Array, dtype: DTypeLike, inner: int = 1, columns: bool = False
    ) -> None:
        self.array = array
        self.dtype = dtype
        outer = array.ndim - inner
        self.outer, self.inner = array.shape[:outer], array.shape[outer:]
        self.rows = as_rows(array, dtype) if inner else as_elements(array, dtype)
        if columns and self.rows is None and _is_columns(array, dtype):
            self.rows = array

    @property
    def cost(self) -> int:
        """The work of one row, or of one element of a binary loss, in elements of logits."""
        return self.row_cost(self.inner[0]) if self.inner else _ELEMENT_COST

    @staticmethod
    def row_cost(n_classes: int) -> int:
        """The work of one row of logits."""
        return n_classes + _ROW_COST

    def block(self, box: Box) -> Array:
        """The rows of the box, or an uninitialised array for them."""
        index, lo, hi = box
        if self.rows is not None:
            return self.rows[lo:hi]
        return np.empty((hi - lo, *self.inner), self.dtype)

    def _part(self, box: Box) -> Array:
        """The box of the array as it is; a view, even without dimensions."""
        index: Any = (*box[0], ...)
        part: Array = self.array[index]
        return part

    def read(self, box: Box) -> Array:
        """The rows of the box, converted if they have to be."""
        block = self.block(box)
        if self.rows is None:
            part = self._part(box)
            put(block.reshape(part.shape), part)
        return block

    def write(self, box: Box, block: Array) -> None:
        """Put back what the kernel left in a block that was not the array itself."""
        if self.rows is None:
            part = self._part(box)
            put(part, block.reshape(part.shape))


def put(out: Array, values: Array) -> None:
    """Copy into an array of another type, which may hold less: what is too large is infinite."""
    if half.is_rounding(out, values):
        half.round_into(out, values)
        return
    with np.errstate(all="ignore"):
        np.copyto(out, values, casting="unsafe")


def as_rows(array: Array, dtype: DTypeLike) -> Array | None:
    """The array as (rows, classes) without a copy, if there is such a view."""
    if not _is_native(array, dtype):
        return None
    classes = array.shape[-1]
    if classes > 1 and array.strides[-1] != array.itemsize:
        return None
    if array.ndim == 2:
        return array
    try:
        return array.reshape((math.prod(array.shape[:-1]), classes), copy=False)
    except ValueError:
        return None


def _is_columns(array: Array, dtype: DTypeLike) -> bool:
    return array.ndim == 2 and array.strides[0] == array.itemsize and _is_native(array, dtype)


def as_elements(array: Array, dtype: DTypeLike) -> Array | None:
    """The array as contiguous (elements,) without a copy, if it is that already."""
    if not _is_native(array, dtype) or not array.flags.c_contiguous:
        return None
    return array.reshape(-1)


def _is_native(array: Array, dtype: DTypeLike) -> bool:
    return array.dtype == dtype and array.dtype.isnative and array.flags.aligned


def boxes(
    shape: tuple[int, ...], limit: int, lo: int = 0, outer: tuple[slice, ...] = ()
) -> Iterator[Box]:
    """Split leading axes into boxes of at most `limit` rows, each a run lo..hi of the flat rows."""
    if not shape:
        yield outer, lo, lo + 1
        return
    inner = math.prod(shape[1:])
    if inner <= limit:
        step = limit // inner
        for k in range(0, shape[0], step):
            stop = min(k + step, shape[0])
            yield (*outer, slice(k, stop)), lo + k * inner, lo + stop * inner
    else:
        for k in range(shape[0]):
            yield from boxes(shape[1:], limit, lo + k * inner, (*outer, slice(k, k + 1)))


def chunk_rows(rows: int, cost: int) -> int:
    """How many rows of this cost one kernel call takes."""
    chunk = min(max(rows * cost // _CHUNKS, _SMALLEST_CHUNK), _LARGEST_CHUNK)
    return max(1, chunk // cost)


def for_each_chunk(call: Callable[[int, int], Result], rows: int, cost: int) -> list[Result]:
    """The results of call(lo, hi) over fixed chunks of the rows, in order."""
    step = chunk_rows(rows, cost)
    if rows <= step:
        return [call(0, rows)] if rows else []
    return collect(
        lambda k: call(k * step, min((k + 1) * step, rows)), -(-rows // step), rows * cost
    )


def for_each_block(
    call: Callable[[list[Array | None], int, int, int], Result],
    inputs: Sequence[Operand],
    outputs: Sequence[Operand | None],
) -> list[Result]:
    """The results of call(arrays, base, lo, hi) over all rows, in order.

    `arrays` are those of the inputs, then of the outputs. They begin at row `base` of the whole,
    and `call` shall do their rows lo..hi.
    """
    operands = [*inputs, *outputs]
    shape, cost = inputs[0].outer, inputs[0].cost
    rows = math.prod(shape)
    if all(operand is None or operand.rows is not None for operand in operands):
        arrays = [None if operand is None else operand.rows for operand in operands]
        return for_each_chunk(lambda lo, hi: call(arrays, 0, lo, hi), rows, cost)
    parts = list(boxes(shape, chunk_rows(rows, cost))) if rows else []

    def do(k: int) -> Result:
        box = parts[k]
        written = [None if operand is None else operand.block(box) for operand in outputs]
        result = call([*(i.read(box) for i in inputs), *written], box[1], 0, box[2] - box[1])
        for operand, block in zip(outputs, written, strict=True):
            if operand is not None and block is not None:
                operand.write(box, block)
        return result

    return collect(do, len(parts), rows * cost)


def collect(do: Callable[[int], Result], count: int, cost: int) -> list[Result]:
    """[do(k) for k in range(count)], by as many threads as the work is worth."""
    results: dict[int, Result] = {}

    def work(k: int) -> None:
        results[k] = do(k)

    threads.run(work, count, threads.get_num_threads() if cost >= SERIAL_BELOW else 1)
    return [results[k] for k in range(count)]
