"""The binary losses on the GPU: arrays of any shape as flat ones, weights that broadcast."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from fastxent.cuda import binary_kernels, thread_plans
from fastxent.cuda.blocks import BLOCK_BYTES, ROW_TYPES, can_vectorise
from fastxent.cuda.conversion import as_numbers, convert, put
from fastxent.cuda.cross_entropy import clip_limits
from fastxent.cuda.divisors import reduced
from fastxent.cuda.elements import Element, element
from fastxent.cuda.groups import ThreadPlan
from fastxent.cuda.launch import blocks_of_grid, launch, name_of, number_of, row_kernel
from fastxent.cuda.parameters import ElementOutputs, Rows, Weight
from fastxent.device_array import DeviceArray
from fastxent.records import Call

# The threads of a block and the vectors of each: with more, loops would not be unrolled.
THREADS, VECTORS = 256, 1
# How many elements are converted at a time: a multiple of the elements of a block.
ELEMENTS = BLOCK_BYTES // 4

WeightOrNumber = DeviceArray | float | None  # None is 1


def binary_cross_entropy_with_logits(call: Call) -> DeviceArray | None:
    """Fill loss, grad, probs, hess; return Σ of the losses / divisor, unless they are requested."""
    weights = {"weight": call.weights.weight, "pos_weight": call.weights.pos_weight}
    return _launch_binary(binary_kernels.make_binary_logits_kernel, call, weights, {})


def binary_cross_entropy(call: Call) -> DeviceArray | None:
    """Fill loss and grad; return Σ of the losses / divisor, unless they are requested."""
    factory, weights = binary_kernels.make_binary_probs_kernel, {"weight": call.weights.weight}
    return _launch_binary(factory, call, weights, {"limits": clip_limits(call.clip)})


def binary_cross_entropy_with_logits_hvp(call: Call) -> None:
    """Fill `out` with the second derivative of the losses, times `vector`."""
    assert call.target is not None
    weights = {"weight": call.weights.weight, "pos_weight": call.weights.pos_weight}
    arrays = {"x": call.x, "target": call.target.probs, "vector": call.vector}
    scale = 1.0 / call.divisor if call.divisor else 0.0
    for block in _blocks(arrays, weights, {"out": call.outputs.out}, call.compute):
        plan = ThreadPlan(THREADS, VECTORS, 1, block.vectorised, False)
        chunk = thread_plans.elements_per_block(plan, block.item)
        launch(
            row_kernel(binary_kernels.make_binary_hvp_kernel, block.item, plan),
            blocks_of_grid(block.n, chunk), call.x.queue, **block.inputs, **block.outs,
            scale=scale, n=block.n, chunk=chunk,
        )  # fmt: skip


def _launch_binary(
    factory: Callable[..., Any],
    call: Call,
    weights: dict[str, WeightOrNumber],
    options: dict[str, Any],
) -> DeviceArray | None:
    assert call.target is not None
    x, compute = call.x, call.compute
    arrays = {"x": x, "target": call.target.probs}
    outs = {name: getattr(call.outputs, name) for name in binary_kernels.BinaryWants._fields}
    wants = binary_kernels.BinaryWants(*(array is not None for array in outs.values()))
    scale = 1.0 / call.divisor if call.divisor else 0.0
    sums, n_done = None, 0
    for block in _blocks(arrays, weights, outs, compute):
        plan = ThreadPlan(THREADS, VECTORS, 1, block.vectorised, False)
        chunk = thread_plans.elements_per_block(plan, block.item)
        if sums is None and not wants.loss:
            sums = x.new((2 * blocks_of_grid(x.size, chunk),), compute)
        kernel, grid = row_kernel(factory, block.item, plan, wants), blocks_of_grid(block.n, chunk)
        block_sums = None if sums is None else sums.at(2 * n_done)
        launch(
            kernel, grid, x.queue, **block.inputs, **options, scale=scale, n=block.n, chunk=chunk,
            outs=ElementOutputs(sums=block_sums, **block.outs),
        )  # fmt: skip
        n_done += grid
    if wants.loss:
        return None
    return reduced(x.new((0,), compute) if sums is None else sums, call.divisor)


class _Block(NamedTuple):
    """Some elements of a call: arrays and weights by the names of the parameters; outputs."""

    item: Element
    vectorised: bool
    n: int
    inputs: dict[str, Any]
    outs: dict[str, DeviceArray | None]


def _blocks(
    arrays: dict[str, DeviceArray], weights: dict[str, WeightOrNumber],
    outs: dict[str, DeviceArray | None], compute: Any,
) -> Iterable[_Block]:  # fmt: skip
    """All elements at once where kernels can take them in place, else converted blocks of them."""
    whole = _in_place(arrays, weights, outs, compute)
    return _converted(arrays, weights, outs, compute) if whole is None else [whole]


def _in_place(
    arrays: dict[str, DeviceArray], weights: dict[str, WeightOrNumber],
    outs: dict[str, DeviceArray | None], compute: Any,
) -> _Block | None:  # fmt: skip
    x = arrays["x"]
    present = arrays | {name: out for name, out in outs.items() if out is not None}
    if name_of(x.dtype) not in ROW_TYPES:
        return None
    if any(array.dtype != x.dtype or not array.is_contiguous for array in present.values()):
        return None
    broadcast = {name: _broadcast(w, x.shape, compute) for name, w in weights.items()}
    if None in broadcast.values():
        return None
    # The target is read by single elements.
    aligned = [array for name, array in present.items() if name != "target"]
    vectorised = can_vectorise(*(Rows(array.pointer, 0) for array in aligned))
    inputs = {**arrays, **broadcast}
    return _Block(element(name_of(x.dtype)), vectorised, x.size, inputs, outs)


def _converted(
    arrays: dict[str, DeviceArray], weights: dict[str, WeightOrNumber],
    outs: dict[str, DeviceArray | None], compute: Any,
) -> Iterator[_Block]:  # fmt: skip
    """One block of elements at a time, converted on its way to the kernel and back."""
    x = arrays["x"]
    number, n, limit = number_of(compute), x.size, max(1, min(x.size, ELEMENTS))
    sources = arrays | {
        name: w.broadcast_to(x.shape) for name, w in weights.items() if isinstance(w, DeviceArray)
    }
    requested = {name: out for name, out in outs.items() if out is not None}
    scratches = {name: x.new((limit,), compute) for name in (*sources, *requested)}
    inputs = {name: scratches[name] for name in arrays} | {
        name: Weight(scratches[name]) if isinstance(w, DeviceArray) else _number(w)
        for name, w in weights.items()
    }
    block_outs = {name: scratches.get(name) for name in outs}
    for begin in range(0, n, limit):
        count = min(limit, n - begin)
        for name, source in sources.items():
            convert(source, compute, begin, count, scratches[name])
        yield _Block(number, True, count, inputs, block_outs)
        for name, out in requested.items():
            put(scratches[name], out, begin, count)


def _number(weight: float | None) -> Weight:
    return Weight(number=1.0 if weight is None else float(weight))


def _broadcast(weight: WeightOrNumber, shape: tuple[int, ...], compute: Any) -> Weight | None:
    """A weight that kernels can broadcast: of at most two groups of neighbouring axes of `shape`.

    None otherwise. A weight of the whole shape must have the type of the arithmetic, or it would be
    copied as a whole.
    """
    if not isinstance(weight, DeviceArray):
        return _number(weight)
    own = (1,) * (len(shape) - weight.ndim) + weight.shape
    if own == shape:
        is_number = weight.dtype == compute and weight.is_contiguous
        return Weight(weight) if is_number else None
    groups = _groups_of_axes(own, shape)
    if len(groups) > 2:
        return None
    inner_axes = groups[0] if groups else (1, 1)
    outer_axes = groups[1] if len(groups) > 1 else (1, 0)
    return Weight(as_numbers(weight, compute), 1.0, *inner_axes, *outer_axes)


def _groups_of_axes(own: tuple[int, ...], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """The groups of neighbouring axes that a weight has, from the last on, as `parameters.Weight`.

    Each is the number of elements of `shape` per step of its index, and its length.
    """
    groups: list[tuple[int, int]] = []
    inner, joins = 1, False
    for n, own_n in zip(reversed(shape), reversed(own), strict=True):
        if n == 1:
            continue
        if own_n == n and joins:
            groups[-1] = groups[-1][0], groups[-1][1] * n
        elif own_n == n:
            groups.append((inner, n))
        inner, joins = inner * n, own_n == n
    return groups
