"""View arrays of any shape, stride, byte order and type as rows, or convert them by blocks.

A kernel takes (rows, classes) of its own float type with contiguous rows. Most arrays have such a
view; any other is converted block by block, never as a whole.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastxent.cpu import threads
from fastxent.cpu.conversion import put

Array = NDArray[Any]
DType = np.dtype[Any]
Result = TypeVar("Result")
# From arrays, and the row where they begin, to a call for their rows lo..hi.
Bind = Callable[[list[Array | None], int], Callable[[int, int], Result]]
Box = tuple[tuple[slice, ...], int, int]

# The letters of half precision: float16 and bfloat16.
HALF = "eE"

# Work is counted in elements. The measured cost of a row in addition to its elements:
_ROW_COST = 24
# The cost of an element of a binary loss.
_ELEMENT_COST = 2
# The sizes of a chunk, a block of rows, in elements. It is the work of one kernel call: large
# enough to hide the cost of the call, small enough to share evenly and to react to Ctrl-C. It
# depends on the shape alone, so sums over chunks have the same bits for every number of threads.
_SMALLEST_CHUNK, _LARGEST_CHUNK, _CHUNKS = 1 << 18, 1 << 21, 16
# A kernel call for less work than this costs more than converting the rows.
_SMALLEST_PLANE = 1 << 15
# Pieces of column-major rows are multiples of so many: whole tiles of few classes.
_ROWS_OF_LINES = 256
# Blocks of converted rows are multiples of so many: for each class whole cache lines, and vectors.
_CONVERTED_ROWS = 32


class Operand:
    """An array (…, classes) as rows of the kernel's type; with inner=0, as elements.

    `rows` is None for an array that has to be converted.
    """

    __slots__ = ("array", "dtype", "inner", "rows")

    def __init__(self, array: Array, dtype: DType, inner: int = 1) -> None:
        self.array = array
        self.dtype = dtype
        self.inner = array.shape[array.ndim - inner :]
        self.rows = as_operand(array, dtype, inner)

    def reserve(self, rows: int) -> Array | None:
        """Return memory for blocks of so many rows; None where `block` is a view."""
        return np.empty((rows, *self.inner), self.dtype) if self.rows is None else None

    def block(self, box: Box, memory: Array | None = None) -> Array:
        """Return the rows of the box, or an array for them, uninitialised: in this memory."""
        index, lo, hi = box
        if self.rows is not None:
            return self.rows[lo:hi]
        return np.empty((hi - lo, *self.inner), self.dtype) if memory is None else memory[: hi - lo]

    def _part(self, box: Box) -> Array:
        """Return a view of the box of the array; an array even without dimensions."""
        index: Any = (*box[0], ...)
        part: Array = self.array[index]
        return part

    def read(self, box: Box, memory: Array | None = None) -> Array:
        """Return the rows of the box, converted if necessary: in this memory."""
        block = self.block(box, memory)
        if self.rows is None:
            part = self._part(box)
            put(block.reshape(part.shape), part)
        return block

    def write(self, box: Box, block: Array) -> None:
        """Write a block that is not a view back to the array."""
        if self.rows is None:
            part = self._part(box)
            put(part, block.reshape(part.shape))


def row_cost(n_classes: int) -> int:
    """The work of one row of logits, in elements."""
    return n_classes + _ROW_COST


class Operands(NamedTuple):
    """The inputs and outputs of a call, and how a kernel takes them, inputs first.

    `rows`, or `planes` of column-major rows, are views of these types. Both are None if blocks of
    rows have to be converted. An output that is None is None there too.
    """

    inputs: Sequence[Array]
    outputs: Sequence[Array | None]
    types: list[DType]
    rows: list[Array | None] | None
    planes: list[Array | None] | None


def find_operands(
    inputs: Sequence[Array], outputs: Sequence[Array | None], compute: DType, inner: int = 1, *,
    columns: bool = False, as_half: bool = True,
) -> Operands:  # fmt: skip
    """Determine how a kernel takes the inputs and outputs: in place or converted.

    `inner` = 0 means elements. With `columns`, column-major rows are taken in place. With `as_half`
    so is half precision, if no array has to be converted; else all have the type of the arithmetic.
    """
    own, arrays = inputs[0].dtype, [*inputs, *outputs]
    if as_half and own is not compute and own.itemsize == 2 and own.char in HALF:
        types = [own if a is not None and a.dtype == own else compute for a in arrays]
        rows, planes = _as_they_are(arrays, types, inner, columns)
        if rows is not None or planes is not None:
            return Operands(inputs, outputs, types, rows, planes)
    types = [compute] * len(arrays)
    return Operands(inputs, outputs, types, *_as_they_are(arrays, types, inner, columns))


def _as_they_are(
    arrays: list[Array | None], types: list[DType], inner: int, columns: bool
) -> tuple[list[Array | None] | None, list[Array | None] | None]:
    """The rows and planes of `Operands`."""
    rows: list[Array | None] = []
    for array, dtype in zip(arrays, types, strict=True):
        view = None if array is None else as_operand(array, dtype, inner)
        if view is None and array is not None:
            return None, _planes(arrays, types) if columns else None
        rows.append(view)
    return rows, None


def _has_type(array: Array, dtype: DType) -> bool:
    """Whether a kernel can read the elements as they are."""
    own = array.dtype
    return (own is dtype or own == dtype) and own.isnative and array.flags.aligned


def as_operand(array: Array, dtype: DType, inner: int) -> Array | None:
    """The array as a kernel takes it, without a copy; None if it has to be converted."""
    own, flags = array.dtype, array.flags  # as `_has_type`: every call comes here, for each array
    if not ((own is dtype or own == dtype) and own.isnative and flags.aligned):
        return None
    is_whole = flags.c_contiguous
    if not inner:
        return array.reshape(-1) if is_whole else None
    classes = array.shape[-1]
    if not is_whole and classes > 1 and array.strides[-1] != array.itemsize:
        return None
    if array.ndim == 2:
        return array
    try:
        return array.reshape((math.prod(array.shape[:-1]), classes), copy=False)
    except ValueError:
        return None


def _planes(arrays: Sequence[Array | None], types: Sequence[DType]) -> list[Array | None] | None:
    """View the arrays (…, classes) as (planes, rows, classes), if the first is column-major.

    In a plane rows or classes are contiguous; no array is copied. None if there is no such view, or
    if planes are too small for a kernel call each.
    """
    x = arrays[0]
    assert x is not None
    if x.shape[-1] < 2 or x.strides[-1] == x.itemsize or not x.size:
        return None
    pairs = zip(arrays, types, strict=True)
    if not all(array is None or _has_type(array, dtype) for array, dtype in pairs):
        return None
    for k in range(x.ndim - 1):  # as few planes as possible
        rows = math.prod(x.shape[k:-1])
        if k and rows * row_cost(x.shape[-1]) < _SMALLEST_PLANE:
            break
        shape = math.prod(x.shape[:k]), rows, x.shape[-1]
        try:
            views = [None if a is None else a.reshape(shape, copy=False) for a in arrays]
        except ValueError:
            continue
        if all(a is None or a.itemsize in a.strides[1:] for a in views):
            return views
    return None


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


def rows_at_once(cost: int = _ELEMENT_COST) -> int:
    """The number of rows of this cost, or of elements of a binary loss, that are always one chunk.

    This holds for column-major rows too.
    """
    return _SMALLEST_CHUNK // cost


def rows_converted_at_once(n_classes: int) -> int:
    """The number of rows in several planes that are always converted, in one block."""
    return (_SMALLEST_PLANE - 1) // row_cost(n_classes)


def for_each_chunk(call: Callable[[int, int], Result], rows: int, cost: int) -> list[Result]:
    """Return the results of call(lo, hi) over chunks of the rows, in order."""
    step = chunk_rows(rows, cost)
    if rows <= step:
        return [call(0, rows)] if rows else []
    return collect(
        lambda k: call(k * step, min((k + 1) * step, rows)), -(-rows // step), rows * cost
    )


def for_each_block(
    bind: Bind[Result], operands: Operands, inner: int = 1, cost: int | None = None
) -> list[Result]:
    """Return the results of bind(arrays, base)(lo, hi) over all rows, in order.

    `arrays` are the inputs, then the outputs: whole arrays, or converted blocks that begin at row
    `base`; lo and hi count from there. `cost` is that of a row of which only a part is read; a
    block to be converted is always read as a whole.
    """
    inputs, outputs, types, as_rows, planes = operands
    shape = inputs[0].shape[: inputs[0].ndim - inner]
    rows, whole = math.prod(shape), row_cost(inputs[0].shape[-1]) if inner else _ELEMENT_COST
    if as_rows is not None:
        return for_each_chunk(bind(as_rows, 0), rows, cost or whole)
    if planes is not None:
        return _for_each_plane(bind, planes, cost or whole)
    every = [
        None if array is None else Operand(array, dtype, inner)
        for array, dtype in zip((*inputs, *outputs), types, strict=True)
    ]
    limit = chunk_rows(rows, whole)
    if inner and limit % _CONVERTED_ROWS:
        limit = max(limit - limit % _CONVERTED_ROWS, _CONVERTED_ROWS)
    parts = list(boxes(shape, limit)) if rows else []

    # Blocks' memory that no thread uses at the moment, to be used again: if each block allocated
    # its own, the number of blocks in memory would depend on the allocator.
    free_memory: list[list[Array | None]] = []

    def do(k: int) -> Result:
        box = parts[k]
        try:
            memory = free_memory.pop()
        except IndexError:
            size = min(limit, rows)
            memory = [None if operand is None else operand.reserve(size) for operand in every]
        arrays = [
            None if operand is None
            else operand.read(box, own) if j < len(inputs) else operand.block(box, own)
            for j, (operand, own) in enumerate(zip(every, memory, strict=True))
        ]  # fmt: skip
        result = bind(arrays, box[1])(0, box[2] - box[1])
        for operand, block in zip(every[len(inputs) :], arrays[len(inputs) :], strict=True):
            if operand is not None and block is not None:
                operand.write(box, block)
        free_memory.append(memory)
        return result

    return collect(do, len(parts), rows * whole)


def _for_each_plane(bind: Bind[Result], views: list[Array | None], cost: int) -> list[Result]:
    """Return the results of bind(arrays, base)(lo, hi) over the rows of each plane."""
    assert views[0] is not None
    n, rows, _ = views[0].shape
    step = -(-chunk_rows(n * rows, cost) // _ROWS_OF_LINES) * _ROWS_OF_LINES
    parts = [(k, lo, min(lo + step, rows)) for k in range(n) for lo in range(0, rows, step)]

    def do(part: int) -> Result:
        k, lo, hi = parts[part]
        arrays = [None if view is None else view[k] for view in views]
        return bind(arrays, k * rows)(lo, hi)

    return collect(do, len(parts), n * rows * cost)


def collect(do: Callable[[int], Result], count: int, cost: int) -> list[Result]:
    """Return [do(k) for k in range(count)], by several threads if the work is worth it."""
    results: dict[int, Result] = {}

    def work(k: int) -> None:
        results[k] = do(k)

    threads.run(work, count, threads.get_num_threads() if cost >= threads.SERIAL_BELOW else 1)
    return [results[k] for k in range(count)]
