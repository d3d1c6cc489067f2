"""Every kernel on arrays between inaccessible pages; prints the number of successful calls.

Run by test_memory_safety.py in a process of its own:

    PYTHONMALLOC=debug python guarded.py float32 end narrow ROWS CLASSES

where ROWS and CLASSES are numbers with commas between.
"""

import itertools
import os
import sys

import fence
import numpy as np
from numba.core.runtime import _nrt_python

import fastxent as fx
from fastxent.cpu import launch


def numbers(text):
    return [int(number) for number in text.split(",")]


def calls(x, labels, soft):
    """A call for each kernel of (N, C) numbers, with all arrays that it takes."""
    n, c = x.shape
    per_class, per_row = np.linspace(0.5, 1.5, c), np.linspace(0.5, 1.5, n)
    weights = dict(weight=per_class, sample_weight=per_row)
    for function in (fx.softmax, fx.log_softmax, fx.logsumexp):
        yield function, (x,), {}
    for target in (labels, soft):
        for grad in (False, True):
            yield fx.categorical_cross_entropy, (soft, target), dict(return_grad=grad, **weights)
            # Plain rows, which may have a kernel of their own; then all that a kernel can do.
            for options in ({}, weights | dict(label_smoothing=0.1)):
                yield fx.cross_entropy, (x, target), dict(return_grad=grad, **options)
        column, bias = per_class[:, None].astype(x.dtype), per_class.astype(x.dtype)
        yield (fx.linear_cross_entropy, (per_row[:, None].astype(x.dtype), column, target),
               dict(linear_bias=bias, return_grad=True))  # fmt: skip
    for target in (labels, soft):
        for grad, probs, hess in itertools.product((False, True), repeat=3):
            flags = dict(return_grad=grad, return_probs=probs, return_hess=hess)
            more = dict(return_lse=True, return_argmax=True, reduction="none", softcap=5.0)
            yield fx.cross_entropy, (x, target), flags | weights | more
    for grad, probs, hess in itertools.product((False, True), repeat=3):
        flags = dict(return_grad=grad, return_probs=probs, return_hess=hess)
        yield (fx.binary_cross_entropy_with_logits, (x, soft),
               flags | dict(weight=soft, pos_weight=per_class, reduction="none"))  # fmt: skip
    for grad in (False, True):
        yield fx.binary_cross_entropy, (soft, soft), dict(return_grad=grad)


def main(kind, side, width, rows, classes):
    """Count the calls of one type, at one side of the memory, by the kernels of one width."""
    fx.set_num_threads(1)
    # Around what the compiled code allocates for itself Python's debug allocator writes a pattern,
    # which it looks at when the memory is freed.
    _nrt_python.memsys_use_cpython_allocator()
    if width == "wide":
        launch.MAX_FEW_CLASSES = dict.fromkeys(launch.MAX_FEW_CLASSES, {"f": 0, "d": 0})
    fence.install().at_end = side == "end"
    count, rng = 0, np.random.default_rng(1)
    for c, n in itertools.product(numbers(classes), numbers(rows)):
        print(f"C = {c}, N = {n}", flush=True)  # the last one before a crash
        x = rng.standard_normal((n, c)).astype(kind)
        soft = rng.random((n, c)).astype(kind)
        half = [(function, (x.astype(np.float16),), {}) for function in (fx.softmax, fx.logsumexp)]
        for function, args, options in [*calls(x, rng.integers(0, c, n), soft), *half]:
            function(*args, **options)
            count += 1
    print(count, flush=True)
    os._exit(0)  # the interpreter's end would free arrays after the functions that free them


if __name__ == "__main__":
    main(*sys.argv[1:])
