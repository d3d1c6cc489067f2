"""Present the rows of a call to kernels, in place or through converted blocks."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fastxent.cuda import thread_plans
from fastxent.cuda.conversion import (
    apply_chain_rule,
    apply_second_chain_rule,
    convert,
    merged_dims,
    put,
)
from fastxent.cuda.elements import Element, element
from fastxent.cuda.launch import name_of, number_of
from fastxent.cuda.parameters import Rows
from fastxent.device_array import DeviceArray
from fastxent.options import Options

# The bytes of a converted block: it stays in the L2 cache until it is used.
BLOCK_BYTES = 16 << 20
# The types that kernels read in place.
ROW_TYPES = ("float32", "float64", "float16", "bfloat16")
# Outputs that are second derivatives.
_SECOND = ("hess", "out")


def rows_of(array: DeviceArray) -> Rows | None:
    """An array's rows, if they are evenly spaced and contiguous; None if not."""
    size, n_classes = array.dtype.itemsize, array.shape[-1]
    if n_classes > 1 and array.strides[-1] != size:
        return None
    dims = merged_dims(array.shape[:-1], array.strides[:-1])
    pitch = dims[-1][1] if dims else n_classes * size
    if len(dims) > 1 or pitch < 0 or pitch % size or array.address % size:
        return None
    return Rows(array.pointer, pitch)


def columns_of(array: DeviceArray) -> Rows | None:
    """An array's rows, if they are contiguous in evenly spaced groups; None if not."""
    size, step = array.dtype.itemsize, array.strides[-1]
    dims = merged_dims(array.shape[:-1], array.strides[:-1])
    if not 1 <= len(dims) <= 2 or dims[-1][1] != size:
        return None
    outer_pitch = dims[0][1] if len(dims) == 2 else 0
    steps = step, outer_pitch, array.address
    if min(steps) < 0 or any(bytes_ % size for bytes_ in steps):
        return None
    return Rows(array.pointer, size, step, dims[-1][0], outer_pitch)


def can_vectorise(*rows: Rows | None) -> bool:
    """Whether the rows of all arrays are aligned to 16 bytes in the same way."""
    first, *others = [r for r in rows if r is not None]
    at = address_of(first)
    return all((address_of(o) - at) % 16 == 0 and (o.pitch - first.pitch) % 16 == 0 for o in others)


def can_vectorise_columns(item: Element, *rows: Rows | None) -> bool:
    """Whether contiguous rows of all arrays form whole, aligned vectors of 16 bytes."""
    present = [r for r in rows if r is not None]
    bytes_ = [n for r in present for n in (address_of(r), r.step, r.outer_pitch)]
    return all(n % 16 == 0 for n in bytes_) and all(r.inner % item.width == 0 for r in present)


def address_of(rows: Rows) -> int:
    """The address of the first row, for its alignment."""
    return 0 if rows.address is None else rows.address.address


class Block(NamedTuple):
    """Rows first … first + n of a call as a kernel takes them, None for an absent array.

    `vector` is what a second derivative is multiplied by, `outs` are the outputs per class by name.
    `columns`: the elements of a row are strided, see `fastxent.cuda.columns`.
    """

    item: Element
    vectorised: bool
    columns: bool
    first: int
    n: int
    x: Rows
    target_probs: Rows | None
    vector: Rows | None
    outs: dict[str, Rows | None]


class LogitChange(NamedTuple):
    """The scale and the softcap (0: none) of logits, applied before a kernel reads them."""

    scale: float = 1.0
    softcap: float = 0.0

    @classmethod
    def of(cls, options: Options) -> "LogitChange":
        """The options that kernels do not support: they take a positive scale and no softcap."""
        if options.softcap is not None or not options.logit_scale:
            return cls(options.logit_scale, options.softcap or 0.0)
        return cls(math.copysign(1.0, options.logit_scale))


NO_CHANGE = LogitChange()


def blocks_of(
    x: DeviceArray, compute: Any, outs: dict[str, DeviceArray | None],
    target_probs: DeviceArray | None = None, change: LogitChange = NO_CHANGE,
    vector: DeviceArray | None = None,
) -> Iterator[Block]:  # fmt: skip
    """All rows at once where kernels can take them in place; else one converted block at a time.

    The first of `outs` may overlap x, as a gradient may; in a converted block it replaces x. With a
    softcap, a block with second derivatives has the gradient too, even if that is not requested.
    """
    inputs = {"x": x, "target_probs": target_probs, "vector": vector}
    block = _in_place(inputs, outs) if change == NO_CHANGE else None
    if block is None:
        yield from _converted(inputs, compute, outs, change)
    else:
        yield block


def _in_place(
    inputs: dict[str, DeviceArray | None], outs: dict[str, DeviceArray | None]
) -> Block | None:
    x = inputs["x"]
    assert x is not None
    if name_of(x.dtype) not in ROW_TYPES:
        return None
    present = {name: array for name, array in (inputs | outs).items() if array is not None}
    if any(array.dtype != x.dtype for array in present.values()):
        return None
    item, n = element(name_of(x.dtype)), math.prod(x.shape[:-1])
    rows = _rows_alike(present, rows_of)
    is_columns = rows is None
    if rows is None and thread_plans.suit_columns(n, x.shape[-1], x.place):
        rows = _rows_alike(present, columns_of)
    if rows is None:
        return None
    out_rows, vector = {name: rows.get(name) for name in outs}, rows.get("vector")
    moved = rows["x"], rows.get("target_probs"), vector, *out_rows.values()
    vectorised = can_vectorise_columns(item, *moved) if is_columns else can_vectorise(*moved)
    return Block(
        item, vectorised, is_columns, 0, n, rows["x"], rows.get("target_probs"), vector, out_rows
    )


def _rows_alike(
    arrays: dict[str, DeviceArray], read: Callable[[DeviceArray], Rows | None]
) -> dict[str, Rows] | None:
    """The rows of arrays that are laid out alike, by name; None if they are not."""
    by_name = {name: read(array) for name, array in arrays.items()}
    rows = {name: r for name, r in by_name.items() if r is not None}
    is_alike = len(rows) == len(arrays) and len({r.inner for r in rows.values()}) == 1
    return rows if is_alike else None


def _converted(
    inputs: dict[str, DeviceArray | None], compute: Any, outs: dict[str, DeviceArray | None],
    change: LogitChange,
) -> Iterator[Block]:  # fmt: skip
    x, over_x = inputs["x"], next(iter(outs), None)
    assert x is not None
    number, n_classes, n_rows = number_of(compute), x.shape[-1], math.prod(x.shape[:-1])
    limit = max(1, min(n_rows, BLOCK_BYTES // max(1, n_classes * number.size)))
    present = {name: array for name, array in inputs.items() if array is not None}
    requested = {name: out for name, out in outs.items() if out is not None}
    scratches = {
        name: x.new((limit, n_classes), compute)
        for name in (*present, *requested) if name != over_x
    }  # fmt: skip
    if over_x in requested:
        scratches[over_x] = scratches["x"]
    if change.softcap and not requested.keys().isdisjoint(_SECOND) and "grad" not in requested:
        scratches["grad"] = x.new((limit, n_classes), compute)
    vector = inputs["vector"]
    plain = None if vector is None else _unchanged(x, scratches, change)
    rows = {
        name: Rows(scratch.pointer, n_classes * number.size) for name, scratch in scratches.items()
    }
    out_rows = {name: rows.get(name) for name in outs}
    for first in range(0, n_rows, limit):
        n = min(limit, n_rows - first)
        begin, count = first * n_classes, n * n_classes
        convert(x, compute, begin, count, scratches["x"], *change)
        for name, array in present.items():
            if name != "x":
                convert(array, compute, begin, count, scratches[name])
        if vector is not None and plain is not None and change != NO_CHANGE:
            convert(vector, compute, begin, count, plain)
            apply_chain_rule(x, compute, begin, count, scratches["vector"], *change)
        yield Block(
            number, True, False, first, n, rows["x"], rows.get("target_probs"), rows.get("vector"),
            out_rows,
        )  # fmt: skip
        if change != NO_CHANGE:
            _carry_back(x, compute, begin, count, scratches, plain, requested, change)
        for name, out in requested.items():
            put(scratches[name], out, begin, count)


def _unchanged(
    x: DeviceArray, scratches: dict[str, DeviceArray], change: LogitChange
) -> DeviceArray:
    """Memory for a block of the unchanged vector, where the kernel takes t′∘vector."""
    scratch = scratches["vector"]
    return scratch if change == NO_CHANGE else x.new(scratch.shape, scratch.dtype)


def _carry_back(
    x: DeviceArray, compute: Any, begin: int, count: int, scratches: dict[str, DeviceArray],
    vector: DeviceArray | None, requested: dict[str, DeviceArray], change: LogitChange,
) -> None:  # fmt: skip
    """Convert derivatives with respect to the changed logits of a block to those of the logits."""
    for name in _SECOND:  # first: they need the gradient as it is
        if name in requested:
            grad = scratches["grad"] if change.softcap else None
            apply_second_chain_rule(
                x, compute, begin, count, scratches[name], *change, grad, vector
            )
    if "grad" in requested:
        apply_chain_rule(x, compute, begin, count, scratches["grad"], *change)
