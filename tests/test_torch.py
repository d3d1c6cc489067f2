"""PyTorch as a peer: agreement over a grid of all the options that both have."""

import itertools

import numpy as np
import pytest

import fastxent as fx

torch = pytest.importorskip("torch", reason="PyTorch is optional: pip install torch")
functional = torch.nn.functional

SHAPES = {"rank 1": ((5,), 0), "rank 2": ((7, 5), 1), "rank 4": ((3, 5, 2, 4), 1)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_cross_entropy(rng, dtype, shape):
    """Weights × smoothing × ignore × reduction × rank, loss and gradient."""
    shape, axis = shape
    logits = (rng.standard_normal(shape) * 3).astype(dtype)
    labels = rng.integers(0, 5, np.delete(shape, axis))
    tolerance = dict(rtol=2e-5, atol=1e-6) if dtype is np.float32 else dict(rtol=1e-12, atol=1e-14)
    for weighted, smoothing, ignore, reduction in itertools.product(
        (False, True), (0.0, 0.3, 1.0), (-100, 2), ("mean", "sum", "none")
    ):
        if len(shape) == 1 and ignore == 2:
            continue  # the only row ignored: nan in both, tested with the corners
        weight = rng.uniform(0.5, 2, 5).astype(dtype) if weighted else None
        x = torch.tensor(logits, requires_grad=True)
        theirs = functional.cross_entropy(
            x, torch.tensor(labels), None if weight is None else torch.tensor(weight),
            label_smoothing=smoothing, ignore_index=ignore, reduction=reduction,
        )  # fmt: skip
        theirs.sum().backward()
        loss, grad = fx.cross_entropy(
            logits, labels, axis=axis, weight=weight, label_smoothing=smoothing,
            ignore_index=ignore, reduction=reduction, return_grad=True,
        )  # fmt: skip
        np.testing.assert_allclose(loss, theirs.detach().numpy(), **tolerance)
        np.testing.assert_allclose(grad, x.grad.numpy(), **tolerance)


def test_softmax_family(rng, dtype):
    """Softmax, log_softmax, logsumexp over every axis, with special rows."""
    logits = (rng.standard_normal((4, 6, 5)) * 5).astype(dtype)
    logits[0, 0] = -np.inf
    logits[1, 1, 2] = -np.inf
    logits[2, 0, 0] = np.nan
    x = torch.tensor(logits)
    for axis in (0, 1, 2):
        for ours, theirs in (
            (fx.softmax, functional.softmax),
            (fx.log_softmax, functional.log_softmax),
            (fx.logsumexp, torch.logsumexp),
        ):
            want = theirs(x, dim=axis).numpy()
            np.testing.assert_allclose(ours(logits, axis=axis), want, rtol=1e-5, atol=1e-6)


def test_linear(rng, dtype):
    """The linear pipeline: loss and the three gradients."""
    given = {
        name: rng.standard_normal(shape).astype(dtype)
        for name, shape in [("x", (2, 9, 6)), ("linear_weight", (11, 6)), ("linear_bias", (11,))]
    }
    labels = rng.integers(0, 11, (2, 9))
    labels[0, 3] = -100
    x, w, b = (torch.tensor(a, requires_grad=True) for a in given.values())
    for smoothing, reduction in itertools.product((0.0, 0.2), ("mean", "sum", "none")):
        loss, grad = fx.linear_cross_entropy(
            **given, target=labels, label_smoothing=smoothing, reduction=reduction,
            return_grad=True,
        )  # fmt: skip
        theirs = functional.cross_entropy(
            functional.linear(x, w, b).movedim(-1, 1), torch.tensor(labels),
            label_smoothing=smoothing, reduction=reduction,
        )  # fmt: skip
        for tensor in (x, w, b):
            tensor.grad = None
        theirs.sum().backward()
        tolerance = dict(rtol=1e-4, atol=1e-5) if dtype is np.float32 else dict(rtol=1e-10)
        np.testing.assert_allclose(loss, theirs.detach().numpy(), **tolerance)
        for ours, tensor in zip(grad, (x, w, b), strict=True):
            np.testing.assert_allclose(ours, tensor.grad.numpy(), **tolerance)


def test_cpu_tensors_are_taken_as_array_likes(rng):
    """A CPU tensor as target or weight of NumPy logits is read like any array-like."""
    logits = rng.standard_normal((3, 4))
    want = fx.cross_entropy(logits, [0, 3, 1], weight=[1, 2, 3, 4])
    got = fx.cross_entropy(
        logits, torch.tensor([0, 3, 1]), weight=torch.tensor([1.0, 2.0, 3.0, 4.0])
    )
    assert got == want
