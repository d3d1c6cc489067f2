"""Answers of fastxent on the GPU, compared with `fastxent.reference` in float64."""

import numpy as np

from fastxent import reference
from fastxent.bench import answers
from gpu_bench.cases import ARRAYS, TOLERANCE
from gpu_bench.rows import failure
from gpu_bench.sides import Arrays, fastxent_calls


def exact_answer(gpu, x, y, job):
    """The parts of the answer, computed in float64."""
    logits, labels = gpu.host(x), gpu.host(y).astype(np.int64)
    if job == "softmax":
        return (reference.softmax(logits),)
    loss, grad = reference.cross_entropy(logits, labels, return_grad=True)
    return (np.asarray(loss),) if job == "loss" else (np.asarray(loss), grad)


def check(gpu, classes, dtype, rows=5):
    """A row for every job and call of fastxent: its error, and whether that is within tolerance."""
    results = []
    for job in ARRAYS:
        arrays = Arrays(gpu, rows, classes, dtype, small=True)
        exact = exact_answer(gpu, arrays.logits[0], arrays.labels[0], job)
        for name, call in fastxent_calls(arrays, job).items():
            row = {"group": "check", "job": job, "peer": name, "rows": rows, "classes": classes,
                   "dtype": dtype}  # fmt: skip
            try:
                answer = call(0)
                parts = answer if isinstance(answer, tuple) else (answer,)
                error = answers.error(tuple(map(gpu.host, parts)), exact)
                row |= {"error": float(f"{error:.3g}"), "right": bool(error <= TOLERANCE[dtype])}
            except Exception as problem:
                row |= {"note": failure(problem), "right": False}
            results.append(row)
    return results
