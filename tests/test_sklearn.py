"""scikit-learn as a peer: the losses behind its linear models and boosting, and its log_loss."""

import itertools

import numpy as np
import pytest

import fastxent as fx

metrics = pytest.importorskip("sklearn.metrics", reason="pip install scikit-learn")
losses = pytest.importorskip("sklearn._loss.loss", reason="private, and may move")

# What scikit-learn's own arithmetic allows (its p - 1 at the target, its x + lse).
TOLERANCE = {np.float32: dict(rtol=2e-6, atol=2e-6), np.float64: dict(rtol=1e-13, atol=5e-15)}


def agree(ours, theirs, dtype, **tolerance):
    """Each result, shape and type too."""
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, strict=True, **TOLERANCE[dtype] | tolerance)


def sample_weights(rng, n, dtype):
    """None, and numbers of which one is 0."""
    weight = rng.uniform(0.2, 2, n).astype(dtype)
    weight[1] = 0
    return None, weight


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n_classes", [3, 37])
def test_half_multinomial_loss(rng, dtype, n_classes, order):
    """Loss, gradient, probabilities and Hessian diagonal, with and without sample weights."""
    raw = np.asarray(rng.standard_normal((20, n_classes)) * 3, dtype, order)
    labels = rng.integers(0, n_classes, 20)
    peer, y = losses.HalfMultinomialLoss(n_classes=n_classes), labels.astype(dtype)
    for weight in sample_weights(rng, 20, dtype):
        theirs = dict(y_true=y, raw_prediction=raw, sample_weight=weight)
        loss, grad = peer.loss_gradient(**theirs)
        loss_grad, probs = peer.gradient_proba(**theirs)
        hess_grad, hess = peer.gradient_hessian(**theirs)
        ours = fx.cross_entropy(
            raw, labels, sample_weight=weight, reduction="none", return_grad=True,
            return_probs=True, return_hess=True,
        )  # fmt: skip
        agree(ours, (loss, grad, probs, hess), dtype)
        agree([ours[1]] * 2, (loss_grad, hess_grad), dtype)
        agree([ours[0]], [peer.loss(**theirs)], dtype)
        # Called, the peer is the weighted mean.
        mean = fx.cross_entropy(raw, labels, sample_weight=weight)
        np.testing.assert_allclose(mean, peer(**theirs), **TOLERANCE[dtype])


def test_half_binomial_loss(rng, dtype):
    """Loss, gradient and Hessian of hard and soft labels, with and without sample weights."""
    raw = (rng.standard_normal(40) * 5).astype(dtype)
    soft = rng.uniform(0, 1, 40).astype(dtype)
    peer = losses.HalfBinomialLoss()
    for y, weight in itertools.product((soft, soft.round()), sample_weights(rng, 40, dtype)):
        theirs = dict(y_true=y, raw_prediction=raw, sample_weight=weight)
        loss, grad = peer.loss_gradient(**theirs)
        hess_grad, hess = peer.gradient_hessian(**theirs)
        ours = fx.binary_cross_entropy_with_logits(
            raw, y, weight=weight, reduction="none", return_grad=True, return_probs=True,
            return_hess=True,
        )  # fmt: skip
        agree(ours, (loss, grad, peer.predict_proba(raw)[:, 1], hess), dtype)
        agree([ours[1]], [hess_grad], dtype)
        agree([ours[0]], [peer.loss(**theirs)], dtype)
        # Called, the peer divides by the weights' sum: so does a mean over counted rows.
        total = fx.binary_cross_entropy_with_logits(raw, y, weight=weight, reduction="sum")
        divisor = 40 if weight is None else weight.sum(dtype=float)
        np.testing.assert_allclose(total / divisor, peer(**theirs), **TOLERANCE[dtype])


def test_half_binomial_loss_in_the_tails(dtype):
    """Hard labels keep relative accuracy however confident: atol is 0."""
    raw = np.array([-80, -38, -36, -18, -16, -3, 0, 3, 14, 19, 34, 80], dtype)
    peer = losses.HalfBinomialLoss()
    theirs = dict(y_true=np.zeros_like(raw), raw_prediction=raw)
    (loss, grad), (_, hess) = peer.loss_gradient(**theirs), peer.gradient_hessian(**theirs)
    wanted = dict(reduction="none", return_grad=True, return_hess=True)
    ours = fx.binary_cross_entropy_with_logits(raw, np.zeros(12), **wanted)
    agree(ours, (loss, grad, hess), dtype, atol=0)
    # scikit-learn has this accuracy for y = 0 only; ours is the same for y = 1 mirrored.
    mirrored = fx.binary_cross_entropy_with_logits(-raw, np.ones(12), **wanted)
    agree(mirrored, (loss, -grad, hess), dtype, atol=0)


def test_log_loss(rng, dtype):
    """Mean and sum of all four losses are log_loss, with and without sample weights."""
    raw = (rng.standard_normal((30, 5)) * 3).astype(dtype)
    labels, x = rng.integers(0, 5, 30), raw[:, 0] / 4  # where 1 - p is not yet all rounding
    hard, probs = labels % 2, fx.softmax(raw)
    _, sigma = fx.binary_cross_entropy_with_logits(x, hard, return_probs=True)
    rtol, eps = 2e-6 if dtype is np.float32 else 1e-13, float(np.finfo(dtype).eps)
    for weight, normalize in itertools.product(sample_weights(rng, 30, dtype), (True, False)):
        reduction = "mean" if normalize else "sum"
        # A probability next to 1 is a rounded number, and so is its logarithm next to 0.
        tolerance = dict(rtol=rtol, atol=eps if normalize else 30 * eps)
        given = dict(sample_weight=weight, normalize=normalize)
        want = metrics.log_loss(labels, probs, labels=range(5), **given)
        options = dict(sample_weight=weight, reduction=reduction)
        for got in (
            fx.cross_entropy(raw, labels, **options),
            fx.categorical_cross_entropy(probs, labels, **options),
            fx.categorical_cross_entropy(probs, np.eye(5)[labels], **options),
        ):
            np.testing.assert_allclose(got, want, **tolerance)
        # A binary mean divides by the number of elements, log_loss by the sum of the weights.
        ratio = weight.mean(dtype=float) if normalize and weight is not None else 1
        want = ratio * metrics.log_loss(hard, sigma, **given)
        for got in (
            fx.binary_cross_entropy_with_logits(x, hard, weight=weight, reduction=reduction),
            fx.binary_cross_entropy(sigma, hard, weight=weight, reduction=reduction),
        ):
            np.testing.assert_allclose(got, want, **tolerance)
    # log_loss keeps probabilities off 0 and 1 by one eps, which eps=… does too.
    sure, hard = np.array([0, 1, 1, 0], dtype), [1, 1, 0, 0]
    np.testing.assert_allclose(
        fx.binary_cross_entropy(sure, hard, eps=eps), metrics.log_loss(hard, sure), rtol
    )
