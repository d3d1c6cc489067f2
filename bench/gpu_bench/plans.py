"""Times of every plan of threads for a row of a given length."""

import functools

import numpy as np

import fastxent as fx
from fastxent import reference
from fastxent.bench import answers
from gpu_bench import internals
from gpu_bench.arrays import Arrays
from gpu_bench.checks import few, within
from gpu_bench.races import summarised
from gpu_bench.rows import failure, rounded
from gpu_bench.timing import first_call


def plans(gpu, shape, dtype, rounds):
    """Loss and gradient under each plan, in one launch (losses by row need no second one)."""
    if shape.classes <= 32:
        return []
    base = {"group": "plans", "job": "cross_entropy", **shape.fields, "dtype": dtype}
    try:
        arrays = Arrays(gpu, shape, dtype)
        candidates = internals.plans_for(dtype, shape.classes)
    except Exception as problem:
        return [base | {"peer": "fastxent", "note": failure(problem)}]
    options = {"reduction": "none", "check_target": False}
    rows_of, seconds = {}, {}

    def call(plan, k):
        with internals.forced_plan(plan):
            x, y, out = (s[k] for s in (arrays.logits, arrays.labels, arrays.buffers))
            return fx.cross_entropy(x, y, grad_out=out, **options)

    for number, plan in enumerate(candidates):
        name = f"{plan.threads}x{plan.vectors}" + "+streamed" * plan.streamed
        name += f" on {plan.cluster} blocks" if plan.cluster > 1 else ""
        rows_of[name] = base | {"peer": name, "taken": number == 0}
        try:
            rows_of[name] |= check_plan(gpu, shape, dtype, plan)
            call(plan, 0)
            gpu.wait()
            seconds[name] = plan, []
        except Exception as problem:
            rows_of[name]["note"] = failure(problem)
    for k in range(rounds):
        for name, (plan, times) in list(seconds.items()):
            try:
                times.append(gpu.seconds(functools.partial(call, plan, k % len(arrays))))
            except Exception as problem:
                rows_of[name]["note"] = failure(problem)
                del seconds[name]
    summarised(rows_of, {name: times for name, (_, times) in seconds.items()})
    for name in seconds:
        best = min(rows_of[other]["median"] for other in seconds)
        rows_of[name]["of_best"] = rounded(best / rows_of[name]["median"])
    return list(rows_of.values())


def check_plan(gpu, shape, dtype, plan):
    """The error of a plan's answer on a few rows, and whether it is within tolerance."""
    arrays = Arrays(gpu, few(shape), dtype, small=True)
    x, y, out = arrays.logits[0], arrays.labels[0], arrays.buffers[0]

    def call():
        return fx.cross_entropy(x, y, grad_out=out, reduction="sum", check_target=False)

    with internals.forced_plan(plan):
        (_, grad), first = first_call(gpu, call)
    _, exact = reference.cross_entropy(
        gpu.host(x), gpu.host(y).astype(np.int64), reduction="sum", return_grad=True
    )
    error = answers.error((gpu.host(grad),), (exact,))
    return first | within(error, dtype)
