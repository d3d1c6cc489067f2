"""Speed and memory of the main job beside NumPy, as ratios of medians in one run.

`python bench/main_job.py`
"""

import functools
import tracemalloc
from typing import Any

import numpy as np
from race import race

import fastxent as fx
from fastxent.cli.demo import numpy_cross_entropy  # everything after exp in place

SHAPES = [(32, 10), (65536, 10), (16384, 100), (8192, 1000), (1024, 32000)]
LINEAR = (4096, 256, 32000)


def idiom(logits: Any, target: Any) -> Any:
    """Mean loss and gradient as they are usually written, line by line from the formulas."""
    rows = np.arange(len(target))
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs = exps / exps.sum(axis=1, keepdims=True)
    loss = -np.log(probs[rows, target]).mean()
    grad = probs.copy()
    grad[rows, target] -= 1
    return loss, grad / len(target)


def ours(logits: Any, target: Any) -> Any:
    """Mean loss and gradient by fastxent, into a fresh array as the idiom does."""
    return fx.cross_entropy(logits, target, return_grad=True)


def inputs(shape: tuple[int, int]) -> tuple[Any, Any]:
    """Logits of spread ±3 and random labels."""
    rng = np.random.default_rng(0)
    return 3 * rng.standard_normal(shape, np.float32), rng.integers(0, shape[1], shape[0])


def hidden_memory(call: Any, returned: Any) -> float:
    """MB allocated at the peak beyond what is returned."""
    call()
    tracemalloc.start()
    result = call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return float(peak - returned(result)) / 1e6


def main() -> None:
    """Print the table."""
    print(f"threads: {fx.get_num_threads()}; float32, loss and a fresh gradient")
    for shape in SHAPES:
        sides = [ours, idiom, numpy_cross_entropy]
        mine, *theirs = race(sides, functools.partial(inputs, shape))
        idiomatic, in_place = (other / mine for other in theirs)
        print(
            f"{shape!s:>14}  fastxent {mine * 1e3:8.3f} ms   x NumPy idiom {idiomatic:6.2f}   "
            f"x NumPy in place {in_place:6.2f}"
        )
    logits, labels = inputs((4096, 16000))
    extra = hidden_memory(
        lambda: fx.cross_entropy(logits, labels, return_grad=True), lambda r: r[1].nbytes
    )
    print(f"hidden memory at (4096, 16000): {extra:.1f} MB beyond the gradient")
    n, k, c = LINEAR
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((n, k), np.float32), rng.standard_normal((c, k), np.float32)
    labels = rng.integers(0, c, n)
    extra = hidden_memory(
        lambda: fx.linear_cross_entropy(x, w, labels, return_grad=True),
        lambda r: r[1].x.nbytes + r[1].linear_weight.nbytes,
    )
    print(f"hidden memory of linear {LINEAR}: {extra:.1f} MB beyond the gradients")


if __name__ == "__main__":
    main()
