"""Time that a small call spends in Python before it returns."""

import functools
import importlib

import numpy as np

import fastxent as fx
from fastxent.bench import record
from gpu_bench.arrays import Arrays
from gpu_bench.cases import SMALL
from gpu_bench.rows import failure, rounded
from gpu_bench.sides import deferred, fastxent_calls
from gpu_bench.timing import host_seconds
from gpu_bench.torch_sides import torch_call

JOBS = ("cross_entropy", "loss", "softmax")


def launch_path(gpu, peers, batches):
    """Microseconds until a small call returns, without waiting for the GPU."""
    arrays = Arrays(gpu, SMALL, "float32", small=True)
    sides = {f"{name}, {job}": functools.partial(call, 0)
             for job in JOBS for name, call in fastxent_calls(arrays, job).items()}  # fmt: skip
    x, y = arrays.logits[0], arrays.labels[0]
    sides["fastxent, labels checked"] = lambda: fx.cross_entropy(x, y, return_grad=True)
    if "torch" in peers:
        sides["torch, cross_entropy"] = functools.partial(
            deferred(lambda: torch_call(arrays, "cross_entropy", False)), 0
        )
        sides["fastxent, in torch's graph"] = lambda: in_graph(arrays)
    sides |= {f"cupy, {name}": call for name, call in cupy_sides().items()}
    results = []
    for name, call in sides.items():
        row = {"group": "launch", "peer": name, **SMALL.fields}
        try:
            times = [host_seconds(gpu, call, 50) for _ in range(batches + 1)][1:]
            row |= record.summary(times)
            row["microseconds"] = rounded(row["median"] * 1e6)
        except Exception as problem:
            row["note"] = failure(problem)
        results.append(row)
    return results


def in_graph(arrays):
    """Forward and backward through fastxent's autograd node."""
    leaf = arrays.logits[0].detach().requires_grad_()
    loss = fx.cross_entropy(leaf, arrays.labels[0], check_target=False)
    return arrays.gpu.torch.autograd.grad(loss, leaf)


def cupy_sides():
    """Small calls on CuPy arrays; they raise if there is no CuPy."""
    try:
        cupy = importlib.import_module("cupy")
        rng = np.random.default_rng(0)
        x = cupy.asarray(rng.standard_normal(SMALL.logits, np.float32))
        y, out = cupy.asarray(rng.integers(0, SMALL.classes, SMALL.rows)), cupy.empty_like(x)
    except Exception as problem:
        error = problem

        def missing():
            raise error

        return {"cross_entropy": missing}
    return {
        "cross_entropy": lambda: fx.cross_entropy(x, y, check_target=False, grad_out=out),
        "softmax": lambda: fx.softmax(x, out=out),
    }
