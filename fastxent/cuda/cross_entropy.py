"""cross_entropy and categorical_cross_entropy on the GPU: select and launch their kernels."""

import math
from collections.abc import Iterator
from typing import Any

from fastxent.cuda import categorical_kernels, kernels, split_kernels, thread_plans
from fastxent.cuda.blocks import NO_CHANGE, Block, LogitChange, blocks_of
from fastxent.cuda.conversion import converted_weights
from fastxent.cuda.divisors import inverse_of, reduced
from fastxent.cuda.groups import ThreadPlan
from fastxent.cuda.labels import contiguous_labels, labels_of
from fastxent.cuda.launch import blocks_of_grid, launch_with, row_kernel
from fastxent.cuda.parameters import ClipLimits
from fastxent.device_array import DeviceArray
from fastxent.options import Clip
from fastxent.records import Call


def cross_entropy(call: Call) -> DeviceArray | None:
    """Fill the outputs; return Σ of the row losses / divisor, unless those are requested."""
    losses = fill_cross_entropy(call)
    return None if call.outputs.loss is not None else reduced(losses, call.divisor)


def fill_cross_entropy(call: Call) -> DeviceArray:
    """Fill the outputs; return the row losses."""
    call = _with_losses(call)
    x, n_classes, older = call.x, call.x.shape[-1], thread_plans.is_older(call.x.place)
    rows = RowArguments(call)
    options = kernels.options_of(call.options, n_classes)
    wants = kernels.wants_of(rows.labels is None, options, call.outputs)
    limit = max_per_thread_of(wants)
    for block in rows.blocks(LogitChange.of(call.options)):
        arguments = rows.of_block(block) | options
        plan = thread_plans.plan_of(block.item, n_classes, block.vectorised, limit, older)
        if wants.is_plain:
            parts = thread_plans.parts_of(plan, block.item, block.n, n_classes, x.place)
            if parts[0] > 1:
                _launch_split(x, call.compute, block, parts, arguments)
                continue
            most = thread_plans.largest_cluster(x.place)
            plan = thread_plans.clustered(plan, block.item, n_classes, most)
            if plan.cluster > 1:
                _launch_cluster(x, block, plan, arguments)
                continue
        kernel = row_kernel(kernels.make_cross_entropy_kernel, block.item, plan, wants)
        launch_with(arguments, kernel, blocks_of_grid(block.n, plan.rows), x.queue)
    losses: DeviceArray = call.outputs.loss
    return losses


def max_per_thread_of(wants: kernels.Wants) -> int:
    """How many elements a thread may hold in the kernel of a call."""
    plain = wants._replace(scaled=False).is_plain
    return thread_plans.MAX_PER_THREAD if plain else thread_plans.MAX_PER_THREAD_OPTIONS


def categorical_cross_entropy(call: Call) -> DeviceArray | None:
    """Fill loss and grad; return Σ of the row losses / divisor, for probabilities x."""
    reduces, call = call.outputs.loss is None, _with_losses(call)
    x, n_classes, older = call.x, call.x.shape[-1], thread_plans.is_older(call.x.place)
    rows = RowArguments(call)
    variant = (rows.labels is None, call.outputs.grad is not None)
    limit = (
        thread_plans.MAX_PER_THREAD_OPTIONS if rows.labels is not None
        else thread_plans.MAX_PER_THREAD_LOGARITHMS
    )  # fmt: skip
    for block in rows.blocks():
        plan = thread_plans.plan_of(block.item, n_classes, block.vectorised, limit, older)
        factory = categorical_kernels.make_categorical_kernel
        kernel = row_kernel(factory, block.item, plan, *variant)
        arguments = rows.of_block(block) | {"limits": clip_limits(call.clip)}
        launch_with(arguments, kernel, blocks_of_grid(block.n, plan.rows), x.queue)
    return reduced(call.outputs.loss, call.divisor) if reduces else None


def clip_limits(clip: Clip | None) -> ClipLimits:
    """The limits of probabilities as kernels take them."""
    assert clip is not None
    return ClipLimits(*clip.bounds, clip.most, clip.floor)


def _with_losses(call: Call) -> Call:
    """The call with memory for the row losses, which are reduced if they are not requested."""
    if call.outputs.loss is not None:
        return call
    losses = call.x.new((math.prod(call.x.shape[:-1]),), call.compute)
    return call._replace(outputs=call.outputs._replace(loss=losses))


class RowArguments:
    """The arguments that the kernels of row losses have in common, for each block of rows."""

    def __init__(self, call: Call) -> None:
        assert call.target is not None
        self.call, self.weights = call, converted_weights(call.weights, call.compute)
        self.inverse, self.target_probs = inverse_of(call.divisor), call.target.probs
        labels = call.target.labels
        self.labels = None if labels is None else contiguous_labels(labels)
        self.per_class = {name: getattr(call.outputs, name) for name in kernels.PER_CLASS}
        self.per_row = {name: getattr(call.outputs, name) for name in kernels.PER_ROW}

    def blocks(self, change: LogitChange = NO_CHANGE) -> Iterator[Block]:
        """The blocks of rows of the call."""
        call = self.call
        return blocks_of(call.x, call.compute, self.per_class, self.target_probs, change)

    def of_block(self, block: Block) -> dict[str, Any]:
        """The arguments by the names of the kernels' parameters."""
        labels, first = self.labels, block.first

        def from_first(array: DeviceArray | None) -> Any:
            return None if array is None else array.at(first)

        ignore_index = self.call.options.ignore_index
        return {
            "x": block.x,
            "labels": None if labels is None else labels_of(labels, ignore_index, first),
            "target_probs": block.target_probs,
            "class_weight": self.weights.class_weight,
            "sample_weight": from_first(self.weights.sample_weight),
            "inverse": self.inverse,
            "n_rows": block.n,
            "n": self.call.x.shape[-1],
            **{name: from_first(array) for name, array in self.per_row.items()},
            **block.outs,
        }


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


def _launch_cluster(
    x: DeviceArray, block: Block, plan: ThreadPlan, arguments: dict[str, Any]
) -> None:
    """Rows on a cluster of blocks each."""
    kernel = row_kernel(split_kernels.make_cluster_rows_kernel, block.item, plan)
    length = thread_plans.length_of_part(x.shape[-1], plan.cluster)
    launch_with(arguments | {"length": length}, kernel, block.n * plan.cluster, x.queue)
