"""What calls hold in memory at their peak beyond arguments and results, as Linux counts it.

Prints a line a call: the bytes, how many are allowed, what it was. Run by test_memory.py:

    python resident.py float32

or with `large` instead of a type.
"""

import ctypes
import sys
from pathlib import Path

import ml_dtypes  # noqa: F401 - NumPy knows bfloat16 by its name then
import numpy as np

import fastxent as fx

THREADS = 2
# A thread has two tiles of 256 KiB and some rows, and its stack; Linux counts to some 100 KiB.
LIMIT = 4_000_000
# An array that is converted has a block of at most 2²¹ numbers for a thread.
BLOCK = THREADS << 21


def _status():
    """The peak and the present resident size in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = dict(line.split(":", 1) for line in lines)
    return [int(pairs[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS")]


def beyond(call):
    """Peak of a call in bytes beyond what was there before and the results that it returns."""
    size = sum(result.nbytes for result in call())  # the first call compiles
    ctypes.CDLL(None).malloc_trim(0)  # memory that was freed must not hide what is allocated
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before, _results = _status()[1], call()
    return _status()[0] - before - size


def cases(dtype):
    """Logits in each layout that is computed in another way; whether they are converted."""

    def filled(*shape):
        return np.full(shape, 0.5, dtype)

    yield "rows", filled(4000, 8000), -1, False
    yield "rows of few classes", filled(2**21, 20), -1, False
    yield "columns", filled(150, 2**18).T, -1, False
    yield "planes", filled(4, 150, 2**16), 1, False
    yield "columns of many classes", filled(8192, 4000).T, -1, True


def every_way(dtype):
    """Gradient, product and entropy; gradient and product in a buffer laid out as the logits."""
    for name, x, axis, is_converted in cases(dtype):
        labels = np.zeros(np.moveaxis(x, axis, -1).shape[:-1], np.int64)
        block = BLOCK * max(x.itemsize, 4) * is_converted
        for options in ({"return_grad": True}, {"grad_out": np.zeros_like(x)}):

            def call(x=x, labels=labels, options=options, axis=axis):
                results = fx.cross_entropy(x, labels, axis=axis, **options)
                return results if "return_grad" in options else results[:1]

            print(beyond(call), LIMIT + 2 * block, name, *options)
        vector, out = x.copy(order="K"), np.zeros_like(x)
        print(beyond(lambda x=x, labels=labels, vector=vector, out=out, axis=axis: (
            fx.cross_entropy_hvp(x, labels, vector, axis=axis, out=out)[:0],)),
            LIMIT + 3 * block, name, "product")  # fmt: skip
        print(beyond(lambda x=x, out=out, axis=axis: (
            fx.entropy(x, axis=axis, grad_out=out)[:1])),
            LIMIT + 2 * block, name, "entropy")  # fmt: skip


def large():
    """Segmentation, 629 MB of logits, and a language model, 262 MB of bfloat16."""
    for shape, dtype, axis in (
        ((4, 150, 512, 512), np.float32, 1), ((4096, 32000), "bfloat16", -1)
    ):  # fmt: skip
        x = np.full(shape, 0.5, dtype)
        labels = np.zeros(np.moveaxis(x, axis, -1).shape[:-1], np.int64)
        print(beyond(lambda x=x, labels=labels, axis=axis: (
            fx.cross_entropy(x, labels, axis=axis),)), LIMIT, shape)  # fmt: skip
        print(beyond(lambda x=x, labels=labels, axis=axis: fx.cross_entropy(
            x, labels, axis=axis, return_grad=True)), LIMIT, shape, "gradient")  # fmt: skip


if __name__ == "__main__":
    fx.set_num_threads(THREADS)
    large() if sys.argv[1] == "large" else every_way(sys.argv[1])
