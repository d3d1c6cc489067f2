"""Time one evaluation of loss and gradient by fastxent and by NumPy."""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastxent as fx
from fastxent.cli.demo.data import Array, Data

LARGE = (8192, 1000)  # shape of logits that fit in no cache
ROUNDS, LARGE_ROUNDS = 101, 15


def numpy_cross_entropy(logits: Array, target: Array) -> tuple[Any, Array]:
    """Compute the mean loss and its gradient by the logits, as usually written in NumPy."""
    rows = np.arange(len(target))
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    loss = -np.log(probs[rows, target]).mean()
    probs[rows, target] -= 1
    probs /= len(target)
    return loss, probs


def numpy_linear_cross_entropy(
    x: Array, weight: Array, bias: Array, target: Array
) -> tuple[Any, fx.LinearGrad]:
    """Compute the mean loss and its gradients by x, W and b in NumPy."""
    loss, d = numpy_cross_entropy(x @ weight.T + bias, target)
    return loss, fx.LinearGrad(d @ weight, d.T @ x, d.sum(axis=0))


class Speed(NamedTuple):
    """Median time of one evaluation by each library, in seconds."""

    case: str
    fastxent: float
    numpy: float


def time_digits(digits: Data) -> Speed:
    """Time an evaluation of the fit, dominated by matrix products and call overhead."""
    x, y = digits.x, digits.y
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((digits.n_classes, x.shape[1]))
    bias = rng.standard_normal(digits.n_classes)
    buffers = fx.LinearGrad(np.empty_like(x), np.empty_like(weight), np.empty_like(bias))

    def ours() -> tuple[Any, ...]:
        loss, grad = fx.linear_cross_entropy(
            x, weight, y, linear_bias=bias, return_grad=True, grad_out=buffers
        )
        return loss, *grad

    def theirs() -> tuple[Any, ...]:
        loss, grad = numpy_linear_cross_entropy(x, weight, bias, y)
        return loss, *grad

    case = f"digits: x {x.shape}, W {weight.shape}, {x.dtype}"
    return compare(case, ours, theirs, tolerance=1e-12, rounds=ROUNDS)


def time_large() -> Speed:
    """Time a batch whose logits exceed the CPU caches, so that each pass reads memory."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(LARGE, np.float32)
    target = rng.integers(0, LARGE[1], LARGE[0])
    buffer = np.empty_like(logits)
    return compare(
        f"random logits {LARGE}, {logits.dtype}",
        lambda: fx.cross_entropy(logits, target, return_grad=True, grad_out=buffer),
        lambda: numpy_cross_entropy(logits, target),
        tolerance=1e-5,
        rounds=LARGE_ROUNDS,
    )


def compare(
    case: str,
    ours: Callable[[], tuple[Any, ...]],
    theirs: Callable[[], tuple[Any, ...]],
    *,
    tolerance: float,
    rounds: int,
) -> Speed:
    """Time two functions, after a check that they return the same numbers."""
    for got, expected in zip(ours(), theirs(), strict=True):
        error = np.max(np.abs(got - expected)) / np.max(np.abs(expected))
        if not error <= tolerance:  # nan fails too
            sys.exit(f"fastxent demo: {case}: differs from NumPy by {error:.1e} (relative)")
    times = np.empty((rounds, 2))
    for row in times:  # in turn, so that a slow phase affects both
        for k, function in enumerate((ours, theirs)):
            function()  # warm up: data in cache, threads awake
            start = time.perf_counter()
            function()
            row[k] = time.perf_counter() - start
    return Speed(case, *np.median(times, axis=0).tolist())
