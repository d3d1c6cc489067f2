"""softmax, log_softmax, logsumexp and entropy on the GPU."""

from fastxent.cuda import softmax_kernels, thread_plans
from fastxent.cuda.blocks import blocks_of
from fastxent.cuda.conversion import put
from fastxent.cuda.launch import launch_rows, name_of
from fastxent.records import Call


def softmax(call: Call) -> None:
    """Fill `out` with softmax over the last axis."""
    _softmax(call, log=False)


def log_softmax(call: Call) -> None:
    """Fill `out` with log-softmax over the last axis."""
    _softmax(call, log=True)


def _softmax(call: Call, log: bool) -> None:
    x, n_classes, older = call.x, call.x.shape[-1], thread_plans.is_older(call.x.place)
    most = thread_plans.largest_cluster(x.place)
    for block in blocks_of(x, call.compute, {"out": call.outputs.out}):
        plan = thread_plans.plan_of_softmax(
            block.item, n_classes, block.vectorised, older, block.columns, most
        )
        arguments = {"x": block.x, "out": block.outs["out"], "n_rows": block.n, "n": n_classes}
        factory = softmax_kernels.make_softmax_kernel
        launch_rows(factory, (log,), block.item, plan, arguments, x.queue)


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
        arguments = {
            "x": block.x, "out": result.at(block.first if direct else 0), "n_rows": block.n,
            "n": n_classes,
        }  # fmt: skip
        factory = softmax_kernels.make_logsumexp_kernel
        launch_rows(factory, (), block.item, plan, arguments, x.queue)
        if not direct:
            put(result, out, block.first, block.n)


def entropy(call: Call) -> None:
    """Fill `out`, (N,), with the entropy of softmax over the last axis, and its `grad`."""
    x, (out, grad), n_classes = call.x, (call.outputs.out, call.outputs.grad), call.x.shape[-1]
    older, most = thread_plans.is_older(x.place), thread_plans.largest_cluster(x.place)
    for block in blocks_of(x, call.compute, {"grad": grad}):
        plan = thread_plans.plan_of_entropy(
            block.item, n_classes, block.vectorised, older, block.columns, most
        )
        arguments = {
            "x": block.x, "out": out.at(block.first), "grad": block.outs["grad"],
            "n_rows": block.n, "n": n_classes,
        }  # fmt: skip
        factory, variant = softmax_kernels.make_entropy_kernel, (grad is not None,)
        launch_rows(factory, variant, block.item, plan, arguments, x.queue)
