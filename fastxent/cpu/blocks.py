"""Present arrays of any shape, stride, byte order and type as rows, whole or by converted blocks.

A kernel takes (rows, classes) of its own float type with contiguous rows. Most arrays have such a
view; any other is converted block by block, never as a whole.
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

# Work is counted in elements. The cost of a row besides its elements, measured:
_ROW_COST = 24
# The cost of an element of a binary loss.
_ELEMENT_COST = 2
# With less work than this, waking a thread costs more than it saves.
SERIAL_BELOW = 1 << 19
# A chunk is the work of one kernel call: large enough to hide the cost of the call, small enough to
# share evenly and to react to Ctrl-C. It depends on the shape alone, so sums over chunks have the
# same bits for every number of threads.
_SMALLEST_CHUNK, _LARGEST_CHUNK, _CHUNKS = 1 << 18, 1 << 21, 16


class Operand:
    """An array (…, classes) as rows of the kernel's type; with inner=0, as elements.

    With `columns` the kernel also takes column-major arrays. `rows` is None for an array that has
    to be converted.
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
        """The work of a row, or of an element of a binary loss, in elements of logits."""
        return self.row_cost(self.inner[0]) if self.inner else _ELEMENT_COST

    @staticmethod
    def row_cost(n_classes: int) -> int:
        """Return the work of one row of logits."""
        return n_classes + _ROW_COST

    def block(self, box: Box) -> Array:
        """Return the rows of the box, or an uninitialised array for them."""
        index, lo, hi = box
        if self.rows is not None:
            return self.rows[lo:hi]
        return np.empty((hi - lo, *self.inner), self.dtype)

    def _part(self, box: Box) -> Array:
        """Return a view of the box of the array; an array even without dimensions."""
        index: Any = (*box[0], ...)
        part: Array = self.array[index]
        return part

    def read(self, box: Box) -> Array:
        """Return the rows of the box, converted if necessary."""
        block = self.block(box)
        if self.rows is None:
            part = self._part(box)
            put(block.reshape(part.shape), part)
        return block

    def write(self, box: Box, block: Array) -> None:
        """Write a block that is not a view back to the array."""
        if self.rows is None:
            part = self._part(box)
            put(part, block.reshape(part.shape))


def put(out: Array, values: Array) -> None:
    """Copy into an array of another type; values beyond its range become infinite."""
    if half.is_rounding(out, values):
        half.round_into(out, values)
        return
    with np.errstate(all="ignore"):
        np.copyto(out, values, casting="unsafe")


def as_rows(array: Array, dtype: DTypeLike) -> Array | None:
    """Return the array as a (rows, classes) view with contiguous rows; None if there is none."""
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
    """Return the array as a contiguous (elements,) view; None if there is none."""
    if not _is_native(array, dtype) or not array.flags.c_contiguous:
        return None
    return array.reshape(-1)


def _is_native(array: Array, dtype: DTypeLike) -> bool:
    return array.dtype == dtype and array.dtype.isnative and array.flags.aligned


def boxes(
    shape: tuple[int, ...], limit: int, lo: int = 0, outer: tuple[slice, ...] = ()
) -> Iterator[Box]:
    """Split the axes of rows into boxes of at most `limit` rows, each a range of the flat rows."""
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
    """Return the number of rows per kernel call, for rows of this cost."""
    chunk = min(max(rows * cost // _CHUNKS, _SMALLEST_CHUNK), _LARGEST_CHUNK)
    return max(1, chunk // cost)


def for_each_chunk(call: Callable[[int, int], Result], rows: int, cost: int) -> list[Result]:
    """Return the results of call(lo, hi) over chunks of the rows, in order."""
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
    """Return the results of call(arrays, base, lo, hi) over all rows, in order.

    `arrays` are the inputs, then the outputs, as views or converted blocks that begin at row
    `base`. `call` computes their rows lo..hi.
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
    """Return [do(k) for k in range(count)], by several threads if the work is worth it."""
    results: dict[int, Result] = {}

    def work(k: int) -> None:
        results[k] = do(k)

    threads.run(work, count, threads.get_num_threads() if cost >= SERIAL_BELOW else 1)
    return [results[k] for k in range(count)]
