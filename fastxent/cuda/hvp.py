"""cross_entropy_hvp on the GPU: select and launch its kernels."""

from typing import Any

from fastxent.cuda import hvp_kernels, kernels, thread_plans
from fastxent.cuda.blocks import Block, LogitChange
from fastxent.cuda.cross_entropy import max_per_thread_of, row_blocks
from fastxent.cuda.launch import blocks_of_grid, launch_with, row_kernel
from fastxent.records import Call


def cross_entropy_hvp(call: Call) -> None:
    """Fill `out` with the second derivative of the loss of rows of logits, times `vector`."""
    assert call.target is not None
    x, n_classes, older = call.x, call.x.shape[-1], thread_plans.is_older(call.x.place)
    options, change = kernels.options_of(call.options, n_classes), LogitChange.of(call.options)
    soft = call.target.labels is None
    wants = hvp_kernels.HvpWants(
        soft, soft or options["eps_over_c"] != 0.0, options["factor"] != 1.0,
        options["z_loss"] != 0.0,
    )  # fmt: skip
    most = thread_plans.largest_cluster(x.place)
    for block, common in row_blocks(call, ("out", "grad"), change):
        arguments = common | options | {"vector": block.vector}
        if change.softcap:
            _launch_gradient(call, block, soft, arguments)
        plan = thread_plans.plan_of_pairs(
            block.item, n_classes, block.vectorised, older, block.columns
        )
        plan = thread_plans.clustered(plan, block.item, n_classes, most)
        arguments["length"] = thread_plans.length_of_part(n_classes, plan.cluster)
        kernel = row_kernel(hvp_kernels.make_hvp_kernel, block.item, plan, wants)
        launch_with(arguments, kernel, blocks_of_grid(block.n, plan.rows) * plan.cluster, x.queue)


def _launch_gradient(call: Call, block: Block, soft: bool, arguments: dict[str, Any]) -> None:
    """The gradient by the capped logits of a block, by which the softcap bends the loss."""
    x, n_classes = call.x, call.x.shape[-1]
    wants = kernels.wants_of(soft, arguments, call.outputs)._replace(grad=True)
    limit, older = max_per_thread_of(wants), thread_plans.is_older(x.place)
    plan = thread_plans.plan_of(
        block.item, n_classes, block.vectorised, limit, older, block.columns
    )
    kernel = row_kernel(kernels.make_cross_entropy_kernel, block.item, plan, wants)
    absent = dict.fromkeys(("probs", "hess"))
    launch_with(arguments | absent, kernel, blocks_of_grid(block.n, plan.rows), x.queue)
