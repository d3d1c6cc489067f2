"""The binary losses on the GPU: arrays of any shape as flat ones, weights that broadcast."""

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
    converted,
    is_wide,
    name_of,
    number_of,
    put,
    reduced,
    row_kernel,
    run,
)
from fastxent.terms import Clip, Outputs

# The threads of a block and the vectors of each: for more, loops would not be unrolled.
THREADS, VECTORS = 256, 1
# How many elements are converted at a time: a multiple of what a block takes.
ELEMENTS = BLOCK_BYTES // 4

# What the kernels take: x, target, weights, the scale and limits, n and chunk, sums, outputs.
LOGITS = "aa" + "afaf" + "f" + "ii" + "aaaaa"
PROBS = "aa" + "af" + "fffffff" + "ii" + "aaa"


def binary_logits(
    x: Array, target: Array, weight: Any, pos_weight: Any, divisor: float, outputs: Outputs,
    compute: Any,
) -> Array | None:  # fmt: skip
    """Fill loss, grad, probs, hess; return Σ of the losses / divisor, unless they are asked for."""
    return _binary(
        binary_kernels.binary_logits_kernel, LOGITS, x, target, (weight, pos_weight), (), divisor,
        outputs, compute,
    )  # fmt: skip


def binary_probs(
    x: Array, target: Array, weight: Any, clip: Clip, divisor: float, outputs: Outputs, compute: Any
) -> Array | None:
    """Fill loss and grad; return Σ of the losses / divisor, unless they are asked for."""
    limits = (*clip.bounds, clip.most, clip.floor)
    return _binary(
        binary_kernels.binary_probs_kernel, PROBS, x, target, (weight,), limits, divisor, outputs,
        compute,
    )  # fmt: skip


def _binary(
    factory: Callable[..., Any], signature: str, x: Array, target: Array, weights: tuple[Any, ...],
    limits: tuple[float, ...], divisor: float, outputs: Outputs, compute: Any,
) -> Array | None:  # fmt: skip
    loss = outputs.loss
    outs: tuple[Any, ...] = outputs[3:]
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
            block.x, block.target, *(part for w in block.weights for part in _weight(w)),
            *last, block.n, chunk, sums_at, *block.outs,
        )  # fmt: skip
        done += grid
    if loss is not None:
        return None
    return reduced(x.new((0,), compute) if sums is None else sums, divisor)


def _weight(weight: int | float) -> tuple[int, float]:
    """An address, or 0 and a number."""
    return (weight, 1.0) if isinstance(weight, int) else (0, weight)


class _Block(NamedTuple):
    """Some elements of a call as a kernel takes them: addresses, 0 of what there is not.

    A weight is an address, or a float.
    """

    item: Element
    wide: bool
    n: int
    x: int
    target: int
    weights: list[Any]
    outs: list[int]


def _blocks(
    x: Array, target: Array, weights: tuple[Any, ...], outs: tuple[Array | None, ...], compute: Any
) -> Iterator[_Block]:
    """All elements at once where kernels can take them as they lie; else so many at a time."""
    n = x.size
    if not n:
        return
    spread = [_spread(w, x.shape) for w in weights]
    own = [a for a in (x, target, *outs) if a is not None]
    numbers_only = [w for w in spread if not isinstance(w, float)]
    alike = {(a.dtype, a.is_contiguous) for a in own} == {(x.dtype, True)}
    if alike and name_of(x.dtype) in ROW_TYPES and all(
        w.dtype == compute and w.is_contiguous for w in numbers_only
    ):  # fmt: skip
        first, *rest = (
            Rows(a.address, 0, 1) for a in (x, *(out for out in outs if out is not None))
        )
        at = [w if isinstance(w, float) else w.address for w in spread]
        wide = is_wide(first, *rest)
        addresses = [0 if out is None else out.address for out in outs]
        yield _Block(element(name_of(x.dtype)), wide, n, x.address, target.address, at, addresses)
        return
    number, limit = number_of(compute), min(n, ELEMENTS)
    arrays = [x, target, *numbers_only]
    scratch = [x.new((limit,), compute) for _ in arrays]
    made = [None if out is None else x.new((limit,), compute) for out in outs]
    for begin in range(0, n, limit):
        count = min(limit, n - begin)
        for array, part in zip(arrays, scratch, strict=True):
            converted(array, compute, begin, count, part)
        ready = iter(scratch[2:])
        at = [w if isinstance(w, float) else next(ready).address for w in spread]
        addresses = [0 if a is None else a.address for a in made]
        yield _Block(number, True, count, scratch[0].address, scratch[1].address, at, addresses)
        for out, part in zip(outs, made, strict=True):
            if out is not None:
                put(part, out, begin, count)


def _spread(weight: Any, shape: tuple[int, ...]) -> Any:
    """A weight as a float, or as an array of the whole shape."""
    if weight is None:
        return 1.0
    return weight.spread(shape) if hasattr(weight, "place") else float(weight)
