"""The binary losses on the GPU: arrays of any shape as flat ones, weights that broadcast."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fastxent.cuda import binary_kernels
from fastxent.cuda.elements import Element, element
from fastxent.cuda.groups import Plan
from fastxent.cuda.launch import (
    BLOCK_BYTES,
    ROW_TYPES,
    Array,
    Rows,
    as_numbers,
    converted,
    is_wide,
    name_of,
    number_of,
    put,
    reduced,
    row_kernel,
    run,
)
from fastxent.records import Call, Outputs

# The threads of a block and the vectors of each: for more, loops would not be unrolled.
THREADS, VECTORS = 256, 1
# How many elements are converted at a time: a multiple of what a block takes.
ELEMENTS = BLOCK_BYTES // 4

# What the kernels take: x, target, weights, the scale and limits, n and chunk, sums, outputs.
LOGITS = "aa" + "afiiafii" + "f" + "ii" + "aaaaa"
PROBS = "aa" + "afii" + "fffffff" + "ii" + "aaa"


def binary_cross_entropy_with_logits(call: Call) -> Array | None:
    """Fill loss, grad, probs, hess; return Σ of the losses / divisor, unless they are asked for."""
    assert call.target is not None
    return _binary(
        binary_kernels.binary_logits_kernel, LOGITS, call.x, call.target.probs, call.weights[2:],
        (), call.divisor, call.outputs, call.compute,
    )  # fmt: skip


def binary_cross_entropy(call: Call) -> Array | None:
    """Fill loss and grad; return Σ of the losses / divisor, unless they are asked for."""
    clip = call.clip
    assert clip is not None and call.target is not None
    limits = (*clip.bounds, clip.most, clip.floor)
    return _binary(
        binary_kernels.binary_probs_kernel, PROBS, call.x, call.target.probs, call.weights[2:3],
        limits, call.divisor, call.outputs, call.compute,
    )  # fmt: skip


def _binary(
    factory: Callable[..., Any], signature: str, x: Array, target: Array, weights: tuple[Any, ...],
    limits: tuple[float, ...], divisor: float, outputs: Outputs, compute: Any,
) -> Array | None:  # fmt: skip
    loss = outputs.loss
    outs: tuple[Any, ...] = outputs.grad, outputs.probs, outputs.hess
    wants = binary_kernels.BinaryWants(loss is not None, *(out is not None for out in outs))
    if limits:
        outs = outs[:1]  # probabilities have no others
    last = (1.0 / divisor if divisor else 0.0, *limits)
    sums, done = None, 0
    for block in _blocks(x, target, weights, (loss, *outs), compute):
        chunk = THREADS * VECTORS * (block.item.width if block.wide else 1)
        if sums is None and loss is None:
            sums = x.new((2 * -(-x.size // chunk),), compute)
        plan = Plan(THREADS, VECTORS, 1, block.wide, False)
        grid = -(-block.n // chunk)
        sums_at = 0 if sums is None else sums.address + 2 * done * compute.itemsize
        run(
            row_kernel(factory, block.item, plan, signature, wants), grid, x.place,
            block.x, block.target, *(part for weight in block.weights for part in weight[:4]),
            *last, block.n, chunk, sums_at, *block.outs,
        )  # fmt: skip
        done += grid
    if loss is not None:
        return None
    return reduced(x.new((0,), compute) if sums is None else sums, divisor)


class _Weight(NamedTuple):
    """A weight as `binary_kernels.weight_of` takes it, and the array that keeps it."""

    address: int = 0
    number: float = 1.0
    inner: int = 1
    period: int = 0
    kept: Array = None


class _Block(NamedTuple):
    """Some elements of a call as a kernel takes them: addresses, 0 of what there is not."""

    item: Element
    wide: bool
    n: int
    x: int
    target: int
    weights: list[_Weight]
    outs: list[int]


def _blocks(
    x: Array, target: Array, weights: tuple[Any, ...], outs: tuple[Array | None, ...], compute: Any
) -> Iterator[_Block]:
    """All elements at once where kernels can take them as they lie; else so many at a time."""
    n = x.size
    if not n:
        return
    own = [a for a in (x, target, *outs) if a is not None]
    alike = {(a.dtype, a.is_contiguous) for a in own} == {(x.dtype, True)}
    readable = alike and name_of(x.dtype) in ROW_TYPES
    runs = [_of_one_run(w, x.shape, compute) if readable else None for w in weights]
    seen = [run for run in runs if run is not None]
    if len(seen) == len(weights):
        first, *rest = (
            Rows(a.address, 0, 1) for a in (x, *(out for out in outs if out is not None))
        )
        wide = is_wide(first, *rest)
        addresses = [0 if out is None else out.address for out in outs]
        yield _Block(element(name_of(x.dtype)), wide, n, x.address, target.address, seen, addresses)
        return
    number, limit = number_of(compute), min(n, ELEMENTS)
    spread = [w.spread(x.shape) if _is_array(w) else w for w in weights]
    arrays = [x, target, *filter(_is_array, spread)]
    scratch = [x.new((limit,), compute) for _ in arrays]
    made = [None if out is None else x.new((limit,), compute) for out in outs]
    for begin in range(0, n, limit):
        count = min(limit, n - begin)
        for array, part in zip(arrays, scratch, strict=True):
            converted(array, compute, begin, count, part)
        parts = iter(scratch[2:])
        ready = [_Weight(next(parts).address) if _is_array(w) else _number(w) for w in spread]
        addresses = [0 if a is None else a.address for a in made]
        yield _Block(number, True, count, scratch[0].address, scratch[1].address, ready, addresses)
        for out, part in zip(outs, made, strict=True):
            if out is not None:
                put(part, out, begin, count)


def _is_array(weight: Any) -> bool:
    return hasattr(weight, "place")


def _number(weight: float | None) -> _Weight:
    return _Weight() if weight is None else _Weight(number=float(weight))


def _of_one_run(weight: Any, shape: tuple[int, ...], compute: Any) -> _Weight | None:
    """A number, or an array that is spread over axes around its own; None of others.

    What is as large as the whole has to be of the type that is computed in: no copy is made of it.
    """
    if not _is_array(weight):
        return _number(weight)
    own = (1,) * (len(shape) - weight.ndim) + weight.shape
    axes = [k for k, n in enumerate(own) if n != 1]
    first, end = (axes[0], axes[-1] + 1) if axes else (len(shape), len(shape))
    whole = own == shape
    if own[first:end] != shape[first:end]:
        return None
    if whole and not (weight.dtype == compute and weight.is_contiguous):
        return None
    kept = as_numbers(weight, compute)
    period = 0 if whole else math.prod(shape[first:end])
    return _Weight(kept.address, 1.0, math.prod(shape[end:]), period, kept)
