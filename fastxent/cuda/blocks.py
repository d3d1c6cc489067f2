"""The rows of a call, in place, or in blocks that are converted on their way to a kernel."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from fastxent.cuda.conversion import (
    apply_chain_rule,
    apply_second_chain_rule,
    convert,
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
    size = array.dtype.itemsize
    *outer, n_classes = array.shape
    *steps, last = array.strides
    if n_classes > 1 and last != size:
        return None
    n, pitch = 1, n_classes * size
    for length, step in zip(reversed(outer), reversed(steps), strict=True):
        if length == 1:
            continue
        if n == 1:
            pitch = step
        elif step != n * pitch:
            return None
        n *= length
    if pitch < 0 or pitch % size or array.address % size:
        return None
    return Rows(array.pointer, pitch)


def can_vectorise(*rows: Rows | None) -> bool:
    """Whether the rows of all arrays are aligned to 16 bytes in the same way."""
    first, *others = [r for r in rows if r is not None]
    at = address_of(first)
    return all((address_of(o) - at) % 16 == 0 and (o.pitch - first.pitch) % 16 == 0 for o in others)


def address_of(rows: Rows) -> int:
    """The address of the first row, for its alignment."""
    return 0 if rows.address is None else rows.address.address


class Block(NamedTuple):
    """Rows first … first + n of a call as a kernel takes them, None for an absent array.

    `vector` is what a second derivative is multiplied by, `outs` are the outputs per class by name.
    """

    item: Element
    vectorised: bool
    first: int
    n: int
    x: Rows
    target_probs: Rows | None
    vector: Rows | None
    outs: dict[str, Rows | None]


class LogitChange(NamedTuple):
    """What logits are multiplied by, and capped at (0: not), before a kernel reads them."""

    scale: float = 1.0
    softcap: float = 0.0

    @classmethod
    def of(cls, options: Options) -> "LogitChange":
        """What a kernel cannot do: it takes a positive scale, and no softcap."""
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

    The first of `outs` may lie over x, as a gradient may: in a converted block it does. Under a
    softcap a block with second derivatives has the gradient too, even if that is not requested.
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
    rows = {name: rows_of(array) for name, array in present.items() if array.dtype == x.dtype}
    x_rows = rows["x"]
    if x_rows is None or None in rows.values() or len(rows) < len(present):
        return None
    out_rows, vector = {name: rows.get(name) for name in outs}, rows.get("vector")
    vectorised, n = can_vectorise(x_rows, vector, *out_rows.values()), math.prod(x.shape[:-1])
    item, probs_rows = element(name_of(x.dtype)), rows.get("target_probs")
    return Block(item, vectorised, 0, n, x_rows, probs_rows, vector, out_rows)


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
            number, True, first, n, rows["x"], rows.get("target_probs"), rows.get("vector"),
            out_rows,
        )  # fmt: skip
        if change != NO_CHANGE:
            _carry_back(x, compute, begin, count, scratches, plain, requested, change)
        for name, out in requested.items():
            put(scratches[name], out, begin, count)


def _unchanged(
    x: DeviceArray, scratches: dict[str, DeviceArray], change: LogitChange
) -> DeviceArray:
    """Memory for a block of the vector as it is, where the kernel is given t′∘vector."""
    scratch = scratches["vector"]
    return scratch if change == NO_CHANGE else x.new(scratch.shape, scratch.dtype)


def _carry_back(
    x: DeviceArray, compute: Any, begin: int, count: int, scratches: dict[str, DeviceArray],
    vector: DeviceArray | None, requested: dict[str, DeviceArray], change: LogitChange,
) -> None:  # fmt: skip
    """Derivatives by the changed logits of a block as those by the logits."""
    for name in _SECOND:  # first: they need the gradient as it is
        if name in requested:
            grad = scratches["grad"] if change.softcap else None
            apply_second_chain_rule(
                x, compute, begin, count, scratches[name], *change, grad, vector
            )
    if "grad" in requested:
        apply_chain_rule(x, compute, begin, count, scratches["grad"], *change)
