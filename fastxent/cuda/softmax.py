"""softmax, log_softmax, logsumexp and entropy on the GPU."""

from fastxent.cuda import softmax_kernels, thread_plans
from fastxent.cuda.blocks import blocks_of
from fastxent.cuda.conversion import put
from fastxent.cuda.launch import blocks_of_grid, launch, name_of, row_kernel
from fastxent.records import Call


def softmax(call: Call) -> None:
    """Fill `out` with softmax over the last axis."""
    _softmax(call, log=False)


def log_softmax(call: Call) -> None:
    """Fill `out` with log-softmax over the last axis."""
    _softmax(call, log=True)


def _softmax(call: Call, log: bool) -> None:
    x, n_classes, older = call.x, call.x.shape[-1], thread_plans.is_older(call.x.place)
    for block in blocks_of(x, call.compute, {"out": call.outputs.out}):
        limit = thread_plans.max_per_thread_of_softmax(block.item, older)
        plan = thread_plans.plan_of(
            block.item, n_classes, block.vectorised, limit, older, block.columns
        )
        launch(
            row_kernel(softmax_kernels.make_softmax_kernel, block.item, plan, log),
            blocks_of_grid(block.n, plan.rows), x.queue, x=block.x, out=block.outs["out"],
            n_rows=block.n, n=n_classes,
        )  # fmt: skip


def logsumexp(call: Call) -> None:
    """Fill `out`, (N,) of its own type, with logsumexp over the last axis."""
    x, out, compute = call.x, call.outputs.out, call.compute
    n_classes, older = x.shape[-1], thread_plans.is_older(x.place)
    for block in blocks_of(x, compute, {}):
        direct = block.item.name == name_of(out.dtype)
        result = out if direct else x.new((block.n,), compute)
        limit = thread_plans.max_per_thread_of_sums(block.item)
        plan = thread_plans.plan_of(
            block.item, n_classes, block.vectorised, limit, older, block.columns
        )
        launch(
            row_kernel(softmax_kernels.make_logsumexp_kernel, block.item, plan),
            blocks_of_grid(block.n, plan.rows), x.queue, x=block.x,
            out=result.at(block.first if direct else 0), n_rows=block.n, n=n_classes,
        )  # fmt: skip
        if not direct:
            put(result, out, block.first, block.n)


def entropy(call: Call) -> None:
    """Fill `out`, (N,), with the entropy of softmax over the last axis, and its `grad`."""
    x, (out, grad), n_classes = call.x, (call.outputs.out, call.outputs.grad), call.x.shape[-1]
    older = thread_plans.is_older(x.place)
    for block in blocks_of(x, call.compute, {"grad": grad}):
        plan = thread_plans.plan_of_entropy(
            block.item, n_classes, block.vectorised, older, block.columns
        )
        launch(
            row_kernel(softmax_kernels.make_entropy_kernel, block.item, plan, grad is not None),
            blocks_of_grid(block.n, plan.rows), x.queue, x=block.x, out=out.at(block.first),
            grad=block.outs["grad"], n_rows=block.n, n=n_classes,
        )  # fmt: skip
