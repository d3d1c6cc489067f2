"""Answers of fastxent on the GPU, compared with `fastxent.reference` in float64."""

import functools

import numpy as np

from fastxent import reference
from fastxent.bench import answers
from fastxent.bench.layouts import as_rows
from gpu_bench.arrays import Arrays
from gpu_bench.cases import SMOOTHING, TOLERANCE, Shape
from gpu_bench.rows import failure
from gpu_bench.sides import fastxent_calls
from gpu_bench.timing import first_call

ROWS, IMAGE = 5, 4  # of the checked arrays: two images of 4x4
LONG = 16384  # for longer rows, the kernel may depend on the number of rows


def few(shape):
    """Few rows of the same length, in the same layout."""
    return Shape(2 * IMAGE**2, shape.classes, IMAGE) if shape.image else Shape(ROWS, shape.classes)


def checked(shape, least):
    """The smallest number of rows that the same kernel computes as all rows.

    With `least` rows the GPU is busy; a shape that names its rows keeps them.
    """
    if shape.image or shape.classes <= LONG:
        return few(shape)
    return shape if shape.rows else Shape(max(ROWS, least), shape.classes)


def exact_answer(gpu, arrays, job):
    """The parts of the answer for the first set, computed in float64."""
    x, axis = gpu.host(arrays.logits[0]), arrays.shape.options
    y = gpu.host(arrays.labels[0]).astype(np.int64)
    if job == "softmax":
        return (reference.softmax(x, **axis),)
    if job == "entropy":
        return reference.entropy(x, return_grad=True, **axis)
    if job == "hvp":
        return (reference.cross_entropy_hvp(x, y, gpu.host(arrays.extra[0]), **axis),)
    target = gpu.host(arrays.extra[0]) if job == "soft_targets" else y
    options = {"label_smoothing": SMOOTHING} if job == "smoothing" else {}
    parts = reference.cross_entropy(
        x, target, return_grad=job != "loss", return_probs=job == "probs", **options, **axis
    )
    return parts if isinstance(parts, tuple) else (parts,)


def check(gpu, shape, dtype, job):
    """A row for each call of fastxent: its error, and whether that is within tolerance."""
    arrays = Arrays(gpu, shape, dtype, job, small=True)
    exact = tuple(as_rows(np.asarray(part)) for part in exact_answer(gpu, arrays, job))
    results = []
    for name, call in fastxent_calls(arrays, job).items():
        row = {"group": "check", "job": job, "peer": name, **shape.fields, "dtype": dtype}
        try:
            answer, first = first_call(gpu, functools.partial(call, 0))
            parts = answer if isinstance(answer, tuple) else (answer,)
            error = answers.error(tuple(as_rows(gpu.host(part)) for part in parts), exact)
            row |= first | within(error, dtype)
        except Exception as problem:
            row |= {"note": failure(problem), "right": False}
        results.append(row)
    return results


def within(error, dtype):
    """An error, and whether it is within tolerance."""
    return {"error": float(f"{error:.3g}"), "right": bool(error <= TOLERANCE[dtype])}
