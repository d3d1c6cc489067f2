"""Accuracy: every result within the contract's bounds of exact arithmetic (longdouble)."""

import numpy as np
import pytest
from conftest import Bounds, normal, worst

import fastxent as fx
from fastxent import reference

CLASSES = [1, 2, 3, 10, 15, 16, 17, 33, 100, 1000, 4097, 32000, 128256]
SPREADS = [1, 10, 30]


def make_logits(rng, dtype, classes, spread):
    """Uniform in ±spread; a few rows are constant but for one class (equal terms add up worst)."""
    rows = max(4, min(64, 200_000 // classes))
    logits = rng.uniform(-spread, spread, (rows, classes))
    logits[1::4] = -spread / 3
    logits[1::4, classes // 2] = spread / 7
    return logits.astype(dtype)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("classes", CLASSES)
def test_softmax_family(rng, dtype, classes, spread):
    """Softmax, log_softmax and logsumexp over sizes and spreads."""
    logits = make_logits(rng, dtype, classes, spread)
    exact = logits.astype(np.longdouble)
    bounds = Bounds(exact, dtype)
    p = reference.softmax(exact)
    shifted = np.exp(exact - exact.max(-1, keepdims=True))
    where = normal(shifted, dtype) & normal(p, dtype)
    assert worst(fx.softmax(logits), p, bounds.probs(), where) <= 1
    assert worst(fx.log_softmax(logits), reference.log_softmax(exact), bounds.log_probs()) <= 1
    m = exact.max(-1)
    lse = reference.logsumexp(exact)
    error = np.abs(fx.logsumexp(logits).astype(np.longdouble) - lse)
    assert np.all(error <= bounds.lse() * np.maximum(np.abs(m), np.abs(lse - m)))


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("aim", ["random", "largest"])
def test_index_targets(rng, dtype, classes, spread, aim):
    """Row loss, gradient, probabilities: random targets, and those the model is sure of."""
    logits = make_logits(rng, dtype, classes, spread)
    rows = np.arange(len(logits))
    labels = logits.argmax(-1) if aim == "largest" else rng.integers(0, classes, len(rows))
    exact = logits.astype(np.longdouble)
    bounds = Bounds(exact, dtype)
    loss, grad, probs = fx.cross_entropy(
        logits, labels, reduction="none", return_grad=True, return_probs=True
    )
    want, want_grad, want_probs = reference.cross_entropy(
        exact, labels, reduction="none", return_grad=True, return_probs=True
    )
    at = (rows, labels)
    here = normal(want, dtype)
    assert worst(loss, want, bounds.log_probs()[at], here) <= 1
    where = normal(want_probs, dtype)
    assert worst(probs, want_probs, bounds.probs(), where) <= 1
    assert worst(grad[at], want_grad[at], bounds.grad_at_target()[at], here) <= 1
    where[at] = False
    assert worst(grad, want_grad, bounds.probs(), where) <= 1


@pytest.mark.parametrize("scale", [0.125, 3.0, 0.7, -1.3])
@pytest.mark.parametrize("classes", [2, 17, 1000])
def test_logit_scale(rng, dtype, classes, scale):
    """A scale is applied after the shift, so large logits of small spread keep their digits."""
    logits = (make_logits(rng, dtype, classes, 5) + dtype(500)).astype(dtype)
    labels = rng.integers(0, classes, len(logits))
    exact = logits.astype(np.longdouble)
    bounds = Bounds(exact * np.longdouble(scale), dtype, scaled=True)
    loss, probs = fx.cross_entropy(
        logits, labels, reduction="none", return_probs=True, logit_scale=scale
    )
    want, want_probs = reference.cross_entropy(
        exact, labels, reduction="none", return_probs=True, logit_scale=scale
    )
    assert worst(loss, want, bounds.log_probs()[np.arange(len(labels)), labels]) <= 1
    assert worst(probs, want_probs, bounds.probs(), normal(want_probs, dtype)) <= 1


@pytest.mark.parametrize("cap", [0.5, 5.0, 30.0])
@pytest.mark.parametrize("classes", [2, 17, 1000])
def test_softcap(rng, dtype, classes, cap):
    """A softcap adds 2·cap ulp, also to the gradient where tanh is saturated."""
    logits = make_logits(rng, dtype, classes, 3 * cap)
    labels = rng.integers(0, classes, len(logits))
    exact = logits.astype(np.longdouble)
    bounds = Bounds(cap * np.tanh(exact / cap), dtype, softcap=cap)
    probs, grad = fx.cross_entropy(
        logits, labels, reduction="sum", return_probs=True, return_grad=True, softcap=cap
    )[2:0:-1]
    want_grad, want = reference.cross_entropy(
        exact, labels, reduction="sum", return_probs=True, return_grad=True, softcap=cap
    )[1:]
    assert worst(probs, want, bounds.probs(), normal(want, dtype)) <= 1
    where = normal(want_grad, dtype)
    where[np.arange(len(labels)), labels] = False
    # The slope has a relative error of its own: of 2|a| in exp(-2|a|), |a| = |x| / cap.
    slope = (4 + 2 * np.abs(exact) / cap) * bounds.ulp
    assert worst(grad, want_grad, bounds.probs() + slope, where) <= 1


@pytest.mark.parametrize("classes", [1, 2, 17, 1000])
def test_smoothing_and_z_loss(rng, dtype, classes):
    """Smoothing, class weights and z-loss: relative to the sum of the absolute terms."""
    logits = make_logits(rng, dtype, classes, 10)
    labels = rng.integers(0, classes, len(logits))
    weight = rng.uniform(0.5, 2, classes).astype(dtype)
    options = {"weight": weight, "label_smoothing": 0.1, "z_loss": 1e-2}
    exact = logits.astype(np.longdouble)
    w = weight.astype(np.longdouble)
    bounds = Bounds(exact, dtype)
    loss, grad = fx.cross_entropy(logits, labels, reduction="none", return_grad=True, **options)
    want, want_grad = reference.cross_entropy(
        exact, labels, reduction="none", return_grad=True, **(options | {"weight": w})
    )
    assert worst(loss, want, bounds.probs().max(-1)) <= 1  # all terms of the loss are positive
    p, lse = reference.softmax(exact), reference.logsumexp(exact)[:, None]
    w_y = w[labels][:, None]
    one_hot = np.arange(classes) == labels[:, None]
    terms = (0.9 * w_y + 0.1 * w.mean() + 2e-2 * np.abs(lse)) * p + 0.1 / classes * w
    terms += 0.9 * w_y * one_hot
    error = np.abs(grad.astype(np.longdouble) - want_grad)
    assert np.all(error <= (bounds.probs() + 4 * bounds.ulp) * terms)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_hessian_diagonal(rng, dtype, classes):
    """p·(1 - p) keeps its digits for a dominant class too."""
    logits = make_logits(rng, dtype, classes, 30)
    logits[::3, 0] += 40
    labels = rng.integers(0, classes, len(logits))
    exact = logits.astype(np.longdouble)
    hess = fx.cross_entropy(logits, labels, reduction="sum", return_hess=True)[1]
    want = reference.cross_entropy(exact, labels, reduction="sum", return_hess=True)[1]
    bounds = Bounds(exact, dtype)
    bound = bounds.probs() + bounds.grad_at_target()
    assert worst(hess, want, bound, normal(want, dtype)) <= 1


def test_confident_rows(dtype):
    """p_y = 1 - δ down to δ = 1e-30: loss ≈ δ and gradient at the target ≈ -δ, never 0."""
    tolerance = 1e-5 if dtype is np.float32 else 1e-12
    for classes in (2, 3, 16, 17, 40):
        for delta in (1e-3, 1e-8, 1e-16, 1e-26, 1e-30):
            for y in (0, classes // 2, classes - 1):
                logits = np.full((1, classes), np.log(delta / (classes - 1)), dtype)
                logits[0, y] = 0
                loss, grad, lse = fx.cross_entropy(
                    logits, [y], reduction="sum", return_grad=True, return_lse=True
                )
                exact = reference.cross_entropy(
                    logits.astype(np.longdouble), [y], reduction="sum", return_grad=True
                )
                assert abs(loss / exact[0] - 1) < tolerance
                assert abs(grad[0, y] / exact[1][0, y] - 1) < tolerance
                assert abs(exact[0] / delta - 1) < max(2 * delta, 40 * tolerance)
                assert abs(lse[0] / exact[0] - 1) < tolerance
                assert abs(fx.log_softmax(logits)[0, y] / -exact[0] - 1) < tolerance


@pytest.mark.parametrize("offset", [1e3, 1e7, -1e7])
def test_shared_offset(rng, offset):
    """Logits + 1e7 give the loss of what the inputs still hold, in float32 to the last bits."""
    logits = (rng.integers(-20, 20, (32, 50)) + offset).astype(np.float32)
    labels = rng.integers(0, 50, 32)
    plain = (logits.astype(np.float64) - offset).astype(np.float32)
    got = fx.cross_entropy(logits, labels, reduction="none", return_grad=True)
    want = fx.cross_entropy(plain, labels, reduction="none", return_grad=True)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_shared_offset_float64(rng):
    """Likewise 1e12 in float64."""
    logits = rng.integers(-20, 20, (32, 50)).astype(np.float64)
    labels = rng.integers(0, 50, 32)
    np.testing.assert_array_equal(
        fx.cross_entropy(logits + 1e12, labels, reduction="none"),
        fx.cross_entropy(logits, labels, reduction="none"),
    )


def test_worked_examples():
    """Numbers that users of this subject know."""
    logits = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
    loss, grad = fx.cross_entropy(logits, [1, 0], return_grad=True)
    np.testing.assert_allclose(
        fx.cross_entropy(logits, [1, 0], reduction="none"), [1.4170, 2.6200], atol=5e-5
    )
    assert round(float(loss), 4) == 2.0185
    np.testing.assert_allclose(grad, [[0.330, -0.379, 0.049], [-0.464, 0.243, 0.220]], atol=5e-4)
    assert round(float(fx.cross_entropy([1, 2, 0.1], 1)), 4) == 0.4170
    assert float(fx.cross_entropy(np.zeros((5, 7)), [0, 1, 2, 3, 4])) == pytest.approx(np.log(7))
    assert float(fx.logsumexp([0.0, -40.0])) == pytest.approx(4.248354e-18, rel=1e-6)
