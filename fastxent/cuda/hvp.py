"""cross_entropy_hvp on the GPU: select and launch its kernels."""

from typing import Any

from fastxent.cuda import hvp_kernels, kernels, thread_plans
from fastxent.cuda.blocks import Block, LogitChange
from fastxent.cuda.cross_entropy import plan_of, row_blocks
from fastxent.cuda.launch import launch_rows
from fastxent.records import Call


def cross_entropy_hvp(call: Call) -> None:
    """Fill `out` with the second derivative of the loss of rows of logits, times `vector`."""
    assert call.target is not None
    x, n_classes, older = call.x, call.x.shape[-1], thread_plans.is_older(call.x.place)
    options, change = kernels.options_of(call.options, n_classes), LogitChange.of(call.options)
    soft = call.target.labels is None
    wants = hvp_kernels.HvpWants(
        soft, soft or options["eps_over_c"] != 0.0, options["factor"].value != 1.0,
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
        factory = hvp_kernels.make_hvp_kernel
        launch_rows(factory, (wants,), block.item, plan, arguments, x.queue)


def _launch_gradient(call: Call, block: Block, soft: bool, arguments: dict[str, Any]) -> None:
    """The gradient of the capped logits of a block, for the second derivative of the softcap."""
    x, n_classes = call.x, call.x.shape[-1]
    wants = kernels.wants_of(soft, arguments, call.outputs)._replace(grad=True)
    plan = plan_of(wants, block, n_classes, x.place)
    arguments = arguments | dict.fromkeys(("probs", "hess"))
    factory = kernels.make_cross_entropy_kernel
    launch_rows(factory, (wants,), block.item, plan, arguments, x.queue)
