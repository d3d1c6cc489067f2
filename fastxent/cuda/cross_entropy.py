"""cross_entropy and categorical_cross_entropy on the GPU: select and launch their kernels."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fastxent.cuda import categorical_kernels, kernels, split_kernels, thread_plans
from fastxent.cuda.blocks import NO_CHANGE, Block, LogitChange, blocks_of
from fastxent.cuda.conversion import converted_weights
from fastxent.cuda.divisors import inverse_of, reduced
from fastxent.cuda.groups import ThreadPlan
from fastxent.cuda.labels import contiguous_labels, labels_of
from fastxent.cuda.launch import launch_rows, launch_with, row_kernel
from fastxent.cuda.parameters import ClipLimits
from fastxent.device_array import DeviceArray
from fastxent.options import Clip
from fastxent.records import Call, Place


def cross_entropy(call: Call) -> DeviceArray | None:
    """Fill the outputs; return Σ of the row losses / divisor, unless those are requested."""
    return fill_and_reduce(fill_cross_entropy, call)


def categorical_cross_entropy(call: Call) -> DeviceArray | None:
    """Fill loss and grad for probabilities x; return as `cross_entropy` does."""
    return fill_and_reduce(_fill_categorical, call)


def fill_and_reduce(fill: Callable[[Call], None], call: Call) -> DeviceArray | None:
    """Fill the outputs and the row losses, which are reduced if they are not requested."""
    if call.outputs.loss is not None:
        fill(call)
        return None
    losses = call.x.new((math.prod(call.x.shape[:-1]),), call.compute)
    fill(call._replace(outputs=call.outputs._replace(loss=losses)))
    return reduced(losses, call.divisor)


def fill_cross_entropy(call: Call) -> None:
    """Fill the outputs, among them the row losses."""
    assert call.target is not None
    x, n_classes = call.x, call.x.shape[-1]
    options = kernels.options_of(call.options, n_classes)
    soft, change = call.target.labels is None, LogitChange.of(call.options)
    wants = kernels.wants_of(soft, options, call.outputs)
    if change.softcap and wants.hess:
        wants = wants._replace(grad=True)  # for the second derivative of the softcap
    is_plain = split_kernels.are_enough(soft, options, call.outputs)
    for block, common in row_blocks(call, kernels.PER_CLASS, change):
        arguments = common | options
        plan = plan_of(wants, block, n_classes, x.place)
        if is_plain:
            parts = thread_plans.parts_of(plan, block.item, block.n, n_classes, x.place)
            if parts[0] > 1:
                _launch_split(x, call.compute, block, parts, arguments)
                continue
        factory: Callable[..., Any] = kernels.make_cross_entropy_kernel
        variant: tuple[Any, ...] = (wants,)
        if is_plain and plan.cluster > 1:
            factory, variant = split_kernels.make_cluster_rows_kernel, ()
        launch_rows(factory, variant, block.item, plan, arguments, x.queue)


def plan_of(wants: kernels.Wants, block: Block, n_classes: int, place: Place) -> ThreadPlan:
    """The plan of the kernel of a call, on clusters where rows are longer than a block holds."""
    older, most = thread_plans.is_older(place), thread_plans.largest_cluster(place)
    rows, limit = (block.item, n_classes, block.vectorised), thread_plans.MAX_PER_THREAD
    if not wants._replace(scaled=False).is_plain:
        return thread_plans.plan_of_options(*rows, older, block.columns, most)
    plan = thread_plans.plan_of(*rows, limit, older, block.columns)
    return thread_plans.clustered(plan, block.item, n_classes, most)


def _fill_categorical(call: Call) -> None:
    assert call.target is not None
    x, n_classes, older = call.x, call.x.shape[-1], thread_plans.is_older(call.x.place)
    soft, limits = call.target.labels is None, clip_limits(call.clip)
    limit = thread_plans.MAX_PER_THREAD_LOGARITHMS if soft else thread_plans.MAX_PER_THREAD_OPTIONS
    factory, with_grad = categorical_kernels.make_categorical_kernel, call.outputs.grad is not None
    for block, common in row_blocks(call, kernels.PER_CLASS):
        # Probabilities beside labels are not read as rows, so nothing is to be transposed.
        vectorised = block.vectorised and (soft or not block.columns)
        plan = thread_plans.plan_of(block.item, n_classes, vectorised, limit, older, block.columns)
        arguments = common | {"limits": limits}
        launch_rows(factory, (soft, with_grad), block.item, plan, arguments, x.queue)


def clip_limits(clip: Clip | None) -> ClipLimits:
    """The limits of probabilities as kernels take them."""
    assert clip is not None
    return ClipLimits(*clip.bounds, clip.most, clip.floor)


def row_blocks(
    call: Call, per_class_names: Iterable[str], change: LogitChange = NO_CHANGE
) -> Iterator[tuple[Block, dict[str, Any]]]:
    """Yield blocks of rows with outputs per class of these names; the first may overlap x.

    With each block come, by name, the arguments that all kernels of row losses have.
    """
    assert call.target is not None
    labels, probs = call.target
    labels = None if labels is None else contiguous_labels(labels)
    weights, inverse = converted_weights(call.weights, call.compute), inverse_of(call.divisor)
    outputs, ignore_index = call.outputs._asdict(), call.options.ignore_index
    per_class = {name: outputs[name] for name in per_class_names}
    per_row = {name: outputs[name] for name in kernels.PER_ROW}
    per_row["sample_weight"] = weights.sample_weight
    for block in blocks_of(call.x, call.compute, per_class, probs, change, call.vector):
        first = block.first
        arguments = {
            "x": block.x,
            "labels": None if labels is None else labels_of(labels, ignore_index, first),
            "target_probs": block.target_probs,
            "class_weight": weights.class_weight,
            "inverse": inverse,
            "n_rows": block.n,
            "n": call.x.shape[-1],
            **{name: None if row is None else row.at(first) for name, row in per_row.items()},
            **block.outs,
        }
        yield block, arguments


def _launch_split(
    x: DeviceArray, compute: Any, block: Block, parts: tuple[int, int], arguments: dict[str, Any]
) -> None:
    """Rows on several blocks each, by two kernels."""
    n_parts, length = parts
    grid = block.n * n_parts
    plan = thread_plans.plan_of_parts(block.item, block.vectorised, thread_plans.is_older(x.place))
    arguments = arguments | {
        "n_parts": n_parts, "length": length, "sums": x.new((grid, 3), compute),
        "at_target": x.new((block.n,), compute),
    }  # fmt: skip
    for factory in (split_kernels.make_split_sums_kernel, split_kernels.make_split_rows_kernel):
        kernel = row_kernel(factory, block.item, plan)
        launch_with(arguments, kernel, grid, x.queue)
