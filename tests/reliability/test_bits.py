"""Reproducibility: the same bits on every run and for any number of threads; accurate sums."""

import functools
import math

import numpy as np
import pytest

import fastxent as fx

REDUCTIONS = ["mean", "sum", "none"]
ALL = dict(
    return_grad=True, return_probs=True, return_lse=True, return_hess=True, return_argmax=True,
    return_entropy=True,
)  # fmt: skip


@functools.cache
def inputs(kind):
    """Logits, labels and probabilities of eight chunks, one per thread."""
    rng = np.random.default_rng(5)
    logits = rng.standard_normal((52_000, 16), dtype=np.float32).astype(kind)
    return logits, rng.integers(0, 16, 52_000), fx.softmax(logits[::-1].copy())


def linear(x, labels, q, **how):
    """With more rows of x than a block of logits holds, and sums of one term."""
    loss, grad = fx.linear_cross_entropy(x[:4300, :1], np.ones((2000, 1), x.dtype), labels[:4300],
                                         return_grad=True, **how)  # fmt: skip
    return loss, grad.x, grad.linear_weight


def linear_product(x, labels, q):
    """The product of the same, of a vector with both parts."""
    W = np.ones((2000, 1), x.dtype)
    vector = (q[:4300, :1], W, None)
    return fx.linear_cross_entropy_hvp(x[:4300, :1], W, labels[:4300], vector)[:2]


CALLS = {
    "softmax": lambda x, y, q: [fx.softmax(x)],
    "log_softmax": lambda x, y, q: [fx.log_softmax(x)],
    "logsumexp": lambda x, y, q: [fx.logsumexp(x)],
    "softmax, transposed": lambda x, y, q: [fx.softmax(np.asfortranarray(x))],
} | {
    f"{name}, {how}": functools.partial(call, reduction=how)
    for how in REDUCTIONS
    for name, call in {
        "cross_entropy": lambda x, y, q, **how: [fx.cross_entropy(x, y, **how)],
        "cross_entropy, all outputs": lambda x, y, q, **how: fx.cross_entropy(x, y, **ALL, **how),
        "cross_entropy, probabilities": lambda x, y, q, **how: fx.cross_entropy(
            x, q, weight=q[0], return_grad=True, **how),
        "cross_entropy, transposed": lambda x, y, q, **how: fx.cross_entropy(
            np.asfortranarray(x), y, return_grad=True, **how),
        "categorical_cross_entropy": lambda x, y, q, **how: fx.categorical_cross_entropy(
            q, y, return_grad=True, **how),
        "categorical, probabilities": lambda x, y, q, **how: fx.categorical_cross_entropy(
            q, q, return_grad=True, **how),
        "binary_cross_entropy": lambda x, y, q, **how: fx.binary_cross_entropy(
            q, q, return_grad=True, **how),
        "binary_cross_entropy_with_logits": lambda x, y, q, **how:
            fx.binary_cross_entropy_with_logits(
                x, q, pos_weight=q[0], return_grad=True, return_hess=True, **how),
        "linear_cross_entropy": linear,
    }.items()
}  # fmt: skip


CALLS |= {
    "entropy": lambda x, y, q: fx.entropy(x, return_grad=True),
    "entropy, transposed": lambda x, y, q: fx.entropy(np.asfortranarray(x), return_grad=True),
    "cross_entropy_hvp": lambda x, y, q: [fx.cross_entropy_hvp(x, y, q)],
    "cross_entropy_hvp, all options": lambda x, y, q: [
        fx.cross_entropy_hvp(x, q, q, weight=q[0], softcap=5.0, z_loss=0.1, label_smoothing=0.1)
    ],
    "cross_entropy_hvp, transposed": lambda x, y, q: [
        fx.cross_entropy_hvp(np.asfortranarray(x), y, np.asfortranarray(q))
    ],
    "binary_cross_entropy_with_logits_hvp": lambda x, y, q: [
        fx.binary_cross_entropy_with_logits_hvp(x, q, q, pos_weight=q[0])
    ],
    "linear_cross_entropy_hvp": linear_product,
}


def same_bits(results, others):
    return all(
        np.array_equal(*(np.atleast_1d(array).view(f"u{array.itemsize}") for array in pair))
        for pair in zip(results, others, strict=True)
    )


@pytest.mark.parametrize("name", CALLS)
def test_one_bit_pattern(name, dtype, effort, count):
    """The bits are the same for 1 to 8 threads, in many calls."""
    patterns = []
    for _ in range(effort(2, 50)):
        for n in effort((1, 2, 3, 8), range(1, 9)):
            with fx.num_threads(n):
                results = [a for a in CALLS[name](*inputs(dtype)) if a is not None]
            if not any(same_bits(results, pattern) for pattern in patterns):
                patterns.append(results)
    count("bits", int(len(patterns) == 1), 1)


# Of 10 million rows or elements: a function, and its arguments made of logits (N, 2), labels (N,).
MEANS = {
    "cross_entropy": lambda x, y: (fx.cross_entropy, x, y),
    "cross_entropy, one-hot": lambda x, y: (fx.cross_entropy, x, np.eye(2, dtype=x.dtype)[y]),
    "categorical_cross_entropy": lambda x, y: (fx.categorical_cross_entropy, fx.softmax(x), y),
    "binary_cross_entropy": lambda x, y: (
        fx.binary_cross_entropy, fx.softmax(x)[:, 0], y.astype(x.dtype)),
    "binary_cross_entropy_with_logits": lambda x, y: (
        fx.binary_cross_entropy_with_logits, np.ascontiguousarray(x[:, 0]), y.astype(x.dtype)),
}  # fmt: skip


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("name", MEANS)
def test_means_of_many(name, equal, dtype, effort, count):
    """The mean of many rows is as accurate as that of a few, also for equal losses."""
    n, rng = effort(2_000_000, 2_000_000 if equal else 10_000_000), np.random.default_rng(1)
    if equal:
        x, y = np.tile(np.array([0.1, -0.3], dtype), (n, 1)), np.zeros(n, int)
    else:
        x = rng.standard_normal((n, 2), dtype=np.float32).astype(dtype)
        y = rng.integers(0, 2, n)
    function, *args = MEANS[name](x, y)
    single = function(*args, reduction="none").astype(np.float64)
    exact = math.fsum(single) / n
    # Single binary losses in float64 are added as they are, in the lanes of a vector.
    ulps = 4 if dtype is np.float64 and name.startswith("binary") else 1
    error = abs(float(function(*args)) - exact)
    count("means", int(error <= ulps * np.spacing(dtype(exact))), 1)


def test_a_weighted_mean_of_many(dtype, effort, count):
    """A weighted mean is within an ulp too."""
    n, rng = effort(2_000_000, 10_000_000), np.random.default_rng(1)
    x = rng.standard_normal((n, 2), dtype=np.float32).astype(dtype)
    y, weight = rng.integers(0, 2, n), np.full(n, 0.1)
    exact = math.fsum(fx.cross_entropy(x, y, reduction="none").astype(np.float64)) / n
    got = float(fx.cross_entropy(x, y, sample_weight=weight))
    count("means", int(abs(got - exact) <= np.spacing(dtype(exact))), 1)
