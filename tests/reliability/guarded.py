"""Every kernel on arrays between inaccessible pages; prints the number of successful calls.

Run by test_memory_safety.py in a process of its own:

    PYTHONMALLOC=debug python guarded.py float32 end narrow ROWS CLASSES

where ROWS and CLASSES are numbers with commas between. Instead of `narrow`, the kernels of few
classes, `wide` takes those of many, `columns` column-major arrays.
"""

import itertools
import os
import sys

import fence
import ml_dtypes  # noqa: F401 - NumPy knows bfloat16 by its name then
import numpy as np
from numba.core.runtime import _nrt_python

import fastxent as fx
from fastxent.cpu import blocks, launch

# Column-major rows of few classes so many that the output is written past the caches; and whose
# classes do not lie at whole vectors.
MANY = (2**17, 2**17 + 1)


def numbers(text):
    return [int(number) for number in text.split(",")]


def requested(is_half):
    """Which of gradient, probabilities and Hessian; of half precision, which compiles longer, all.

    Kernels of fewer outputs are those of all with something left out.
    """
    return [(True,) * 3] if is_half else itertools.product((False, True), repeat=3)


def calls(x, labels, soft):
    """A call for each kernel of (N, C) numbers, with all arrays that it takes."""
    n, c = x.shape
    is_half = x.itemsize == 2
    per_class, per_row = np.linspace(0.5, 1.5, c), np.linspace(0.5, 1.5, n)
    weights = dict(weight=per_class, sample_weight=per_row)
    for function in (fx.softmax, fx.log_softmax, fx.logsumexp):
        yield function, (x,), {}
        yield function, (every_other(x),), {}
    for target in (labels, soft):
        for grad in (True,) if is_half else (False, True):
            yield fx.categorical_cross_entropy, (soft, target), dict(return_grad=grad, **weights)
            # Plain rows, which may have a kernel of their own; then all that a kernel can do.
            for options in ({}, weights | dict(label_smoothing=0.1)):
                yield fx.cross_entropy, (x, target), dict(return_grad=grad, **options)
        column, bias = per_class[:, None].astype(x.dtype), per_class.astype(x.dtype)
        yield (fx.linear_cross_entropy, (per_row[:, None].astype(x.dtype), column, target),
               dict(linear_bias=bias, return_grad=True))  # fmt: skip
    yield from derivatives(x, labels, soft, weights)
    for target in (labels, soft):
        for grad, probs, hess in requested(is_half):
            flags = dict(return_grad=grad, return_probs=probs, return_hess=hess)
            more = dict(return_lse=True, return_argmax=True, reduction="none", softcap=5.0)
            yield fx.cross_entropy, (x, target), flags | weights | more
    for grad, probs, hess in requested(is_half):
        flags = dict(return_grad=grad, return_probs=probs, return_hess=hess)
        yield (fx.binary_cross_entropy_with_logits, (x, soft),
               flags | dict(weight=soft, pos_weight=per_class, reduction="none"))  # fmt: skip
    for grad in (False, True):
        yield fx.binary_cross_entropy, (soft, soft), dict(return_grad=grad)


def derivatives(x, labels, soft, weights):
    """Hessian-vector products, new and over either input, and entropies."""
    for target in (labels, soft):
        yield fx.cross_entropy_hvp, (x, target, soft), weights | dict(label_smoothing=0.1)
        copy = x.copy()
        yield fx.cross_entropy_hvp, (copy, target, soft), dict(out=copy)
        # All that a kernel can do.
        options = weights | dict(softcap=5.0, z_loss=0.1)
        copy = soft.copy()
        yield fx.cross_entropy_hvp, (x, target, copy), options | dict(out=copy)
    for options in ({}, dict(weight=soft, pos_weight=weights["weight"])):
        yield fx.binary_cross_entropy_with_logits_hvp, (x, soft, soft), options
    yield fx.entropy, (x,), {}
    yield fx.entropy, (x,), dict(return_grad=True)
    for grad in (False, True):
        yield fx.cross_entropy, (x, labels), dict(return_entropy=True, return_grad=grad)


def every_other(x):
    """The same numbers with gaps between: converted block by block."""
    return np.repeat(x, 2, axis=1)[:, ::2]


def column_calls(x, labels, soft):
    """Column-major arrays: logits, targets and outputs in every combination; several planes."""
    n, c = x.shape
    columns, soft_columns = np.asfortranarray(x), np.asfortranarray(soft)
    weights = dict(weight=np.linspace(0.5, 1.5, c), sample_weight=np.linspace(0.5, 1.5, n))
    weights |= dict(label_smoothing=0.1)
    labels = labels.astype(np.int64)
    labels[::3] = -100
    for function in (fx.softmax, fx.log_softmax):
        for given, out in ((columns, columns), (columns, x), (x, columns)):
            yield function, (given,), dict(out=np.empty_like(out))
    yield fx.logsumexp, (columns,), {}
    for options in ({}, weights):
        for target in (labels, soft, soft_columns):
            yield fx.cross_entropy, (columns, target), options
            for grad_out in (x, columns):
                buffer = dict(grad_out=np.empty_like(grad_out))
                yield fx.cross_entropy, (columns, target), options | buffer
        yield (
            fx.cross_entropy,
            (columns, labels),
            options | dict(reduction="none", return_hess=True, grad_out=np.empty_like(columns)),
        )
        yield (
            fx.categorical_cross_entropy,
            (soft_columns, labels),
            dict(grad_out=np.empty_like(columns)),
        )
    for target, vector in ((labels, columns), (labels, x), (soft_columns, columns)):
        for out in (x, columns):
            buffer = dict(out=np.empty_like(out))
            yield fx.cross_entropy_hvp, (columns, target, vector), buffer
    yield fx.entropy, (columns,), {}
    yield fx.entropy, (columns,), dict(grad_out=np.empty_like(columns))
    of_planes, plane_labels = np.stack([x.T] * 2), np.stack([labels] * 2)
    for function in (fx.softmax, fx.logsumexp):
        yield function, (of_planes,), dict(axis=1)
    for target in (plane_labels, np.stack([soft.T] * 2)):
        yield fx.cross_entropy, (of_planes, target), dict(axis=1, return_grad=True)


def many_rows(kind, rng):
    """Calls on column-major rows so many that the output is written past the caches."""
    for n in MANY:
        x, labels = rng.standard_normal((9, n)).astype(kind), rng.integers(0, 9, n)
        yield fx.softmax, (x,), dict(axis=0)
        yield fx.cross_entropy, (x, labels), dict(axis=0, return_grad=True)
        yield fx.cross_entropy_hvp, (x, labels, x), dict(axis=0)
        yield fx.entropy, (x,), dict(axis=0, return_grad=True)


def main(kind, side, kernels, rows, classes):
    """Count the calls of one type, at one side of the memory, by one sort of kernels."""
    fx.set_num_threads(1)
    # Around what the compiled code allocates for itself Python's debug allocator writes a pattern,
    # which it looks at when the memory is freed.
    _nrt_python.memsys_use_cpython_allocator()
    if kernels == "wide":
        launch.MAX_FEW_CLASSES = dict.fromkeys(launch.MAX_FEW_CLASSES, {"f": 0, "d": 0})
    blocks._SMALLEST_PLANE = 0
    fence.install().at_end = side == "end"
    count, rng = 0, np.random.default_rng(1)
    every = column_calls if kernels == "columns" else calls
    for c, n in itertools.product(numbers(classes), numbers(rows)):
        print(f"C = {c}, N = {n}", flush=True)  # the last one before a crash
        x = rng.standard_normal((n, c)).astype(kind)
        soft = rng.random((n, c)).astype(kind)
        labels = rng.integers(0, min(c, 127), n).astype("blhBiHlI"[c % 8])
        for function, args, options in every(x, labels, soft):
            function(*args, **options)
            count += 1
    if kernels == "columns":
        print("many rows", flush=True)
        for function, args, options in many_rows(kind, rng):
            function(*args, **options)
            count += 1
    print(count, flush=True)
    os._exit(0)  # the interpreter's end would free arrays after the functions that free them


if __name__ == "__main__":
    main(*sys.argv[1:])
