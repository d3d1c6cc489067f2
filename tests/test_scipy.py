"""SciPy as a peer: the softmax family, and losses put together from scipy.special."""

import itertools

import numpy as np
import pytest

import fastxent as fx

special = pytest.importorskip("scipy.special", reason="SciPy is optional: pip install scipy")

INF, NAN = np.inf, np.nan
# What SciPy's own arithmetic allows; the bounds of ours are tested against exact arithmetic.
RTOL = {np.float32: 2e-6, np.float64: 1e-14}
EVERY = dict(return_grad=True, return_probs=True, return_lse=True, return_hess=True,
             return_argmax=True)  # fmt: skip
AXES = (0, 1, 2, -1, -3)
each_name = pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])


def both(name, logits, **options):
    """Our answer and SciPy's, which warns where it meets infinities."""
    with np.errstate(all="ignore"):
        theirs = getattr(special, name)(logits, **options)
    return getattr(fx, name)(logits, **options), theirs


def agree(ours, theirs, rtol, atol=0.0):
    """Shape and type too."""
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, strict=True)


# ---- the softmax family -------------------------------------------------------------------------


@each_name
def test_softmax_family(rng, dtype, name):
    """Every axis of a rank-3 array, near zero and far apart."""
    for spread, axis in itertools.product((0.1, 1.0, 10.0), AXES):
        logits = (rng.standard_normal((4, 6, 37)) * spread).astype(dtype)
        # exp amplifies the rounding of x - max; the logarithms add numbers around the spread.
        several = 8 * np.finfo(dtype).eps * (1 + spread)
        agree(*both(name, logits, axis=axis), several, 0.0 if name == "softmax" else several / 2)


def test_logsumexp_keeps_dimensions(rng, dtype):
    """keepdims, over every axis and of rank 1."""
    logits = (rng.standard_normal((4, 6, 5)) * 5).astype(dtype)
    for axis, keepdims in itertools.product(AXES, (False, True)):
        ours, theirs = both("logsumexp", logits, axis=axis, keepdims=keepdims)
        agree(ours, theirs, RTOL[dtype], RTOL[dtype])
    agree(fx.logsumexp(logits[0, 0], keepdims=True), special.logsumexp(logits[0, 0])[None], 1e-6)


@each_name
@pytest.mark.parametrize("kind", ["i1", "u2", "i4", ">i8", "?"])
def test_integers(rng, name, kind):
    """Integers and bools compute in float64."""
    logits = rng.integers(0, 2 if kind == "?" else 9, (4, 3, 5)).astype(kind)
    # SciPy gives int8 back as float16, and lets unsigned differences wrap.
    readable = logits if kind in ("i4", ">i8") else logits.astype(float)
    for axis in AXES:
        theirs = getattr(special, name)(readable, axis=axis)
        agree(getattr(fx, name)(logits, axis=axis), theirs, 1e-14, 1e-15)


@each_name
def test_half_precision(rng, name):
    """float16 is SciPy's answer in float64, rounded once (its own float16 sums in float16)."""
    logits = (rng.standard_normal((4, 6, 5)) * 3).astype(np.float16)
    for axis in AXES:
        theirs = getattr(special, name)(logits.astype(float), axis=axis)
        ours = getattr(fx, name)(logits, axis=axis)
        agree(ours, theirs.astype(np.float16), 2.0**-10, 2.0**-24)  # a unit in the last place


@each_name
def test_special_values(dtype, name):
    """Every row over {0, -40, 1.5, -inf, inf, nan}: nan and infinity where SciPy has them."""
    rows = np.array(list(itertools.product([0, -40, 1.5, -INF, INF, NAN], repeat=3)), dtype)
    if name == "log_softmax":
        # Beside +inf SciPy gives -inf, we nan: as softmax and the losses, and as PyTorch.
        infinite = (rows == INF).any(-1)
        assert np.isnan(fx.log_softmax(rows[infinite])).all()
        rows = rows[~infinite]
    ours, theirs = both(name, rows, axis=-1)
    agree(ours, theirs, RTOL[dtype], RTOL[dtype] if name == "log_softmax" else 0.0)
    for along in (0, 1):  # as columns too
        columns = getattr(fx, name)(np.moveaxis(rows[:, :, None], 1, along), axis=along)
        want = ours[:, None] if name == "logsumexp" else np.moveaxis(ours[:, :, None], 1, along)
        agree(columns, want, RTOL[dtype])


def test_logsumexp_corners(dtype):
    """All -inf, +inf, nan beside it; [0, -40]; one class; an axis that is empty."""
    for row in ([-INF, -INF], [1, INF], [INF, INF], [INF, -INF], [NAN, INF], [NAN, -INF], [3], []):
        agree(*both("logsumexp", np.array(row, dtype)[None], axis=-1), 0)
    for row in ([0, -40], [-40, 0], [0, -40, -INF], [0, -40, -41], [0, -80]):
        agree(*both("logsumexp", np.array(row, dtype)[None], axis=-1), RTOL[dtype])
    for shape, axis in itertools.product([(2, 0), (0, 2), (0, 0)], (0, 1)):
        agree(*both("logsumexp", np.empty(shape, dtype), axis=axis), 0)


@pytest.mark.parametrize("offset", [0, 1e3, -1e3, 1e7])
def test_softmax_family_of_offset_rows(rng, dtype, offset):
    """A shared offset, however large, is taken away first."""
    logits = (rng.integers(-8, 9, (5, 40)) + offset).astype(dtype)
    for name in ("softmax", "log_softmax", "logsumexp"):
        agree(*both(name, logits, axis=-1), 10 * RTOL[dtype])


# ---- losses -------------------------------------------------------------------------------------


def test_cross_entropy(rng, dtype):
    """Loss, gradient, probabilities, lse and Hessian out of SciPy's softmax family."""
    logits = (rng.standard_normal((5, 7, 11)) * 3).astype(dtype)
    exact = logits.astype(float)
    for axis in (0, 1, 2):
        rows, classes = np.delete(logits.shape, axis), logits.shape[axis]
        labels, q = rng.integers(0, classes, rows), rng.uniform(0, 1, logits.shape)
        one_hot = np.moveaxis(np.eye(classes)[labels], -1, axis)
        log_p, p = special.log_softmax(exact, axis=axis), special.softmax(exact, axis=axis)
        for target, a in ((labels, one_hot), (one_hot, one_hot), (q, q)):
            total = a.sum(axis, keepdims=True)
            want = (
                -(a * log_p).sum(axis), total * p - a, p, special.logsumexp(exact, axis=axis),
                total * p * (1 - p), logits.argmax(axis),
            )  # fmt: skip
            got = fx.cross_entropy(logits, target, axis=axis, reduction="none", **EVERY)
            for ours, theirs in zip(got, want, strict=True):
                atol = 3e-7 if dtype is np.float32 else 5e-15  # of the differences of both
                np.testing.assert_allclose(ours, theirs, RTOL[dtype], atol)


def test_relative_entropy(rng, dtype):
    """Soft cross-entropy is Kullback-Leibler divergence and entropy: rel_entr and entr."""
    logits = (rng.standard_normal((6, 9)) * 3).astype(dtype)
    q = rng.dirichlet(np.ones(9), 6)
    p = special.softmax(logits.astype(float), axis=-1)
    theirs = (special.rel_entr(q, p) + special.entr(q)).sum(-1)
    for loss, given in ((fx.cross_entropy, logits), (fx.categorical_cross_entropy, p)):
        for reduction, want in (("none", theirs), ("mean", theirs.mean()), ("sum", theirs.sum())):
            got, _ = loss(given.astype(dtype), q, reduction=reduction, return_grad=True)
            np.testing.assert_allclose(got, want, RTOL[dtype])


def test_categorical_cross_entropy(rng, dtype):
    """It is -xlogy(q, p), summed: also where both are 0, and of clipped probabilities."""
    p = rng.dirichlet(np.ones(9) / 3, (4, 6)).astype(dtype)
    q = rng.dirichlet(np.ones(9), (4, 6))
    p[0, :, :3] = q[0, :, :3] = 0
    labels = rng.integers(3, 9, (4, 6))
    weight = rng.uniform(0.5, 2, 9)
    for eps, (target, a), w in itertools.product(
        (None, 1e-3), ((q, q), (labels, np.eye(9)[labels])), (None, weight)
    ):
        used = p.astype(float) if eps is None else np.clip(p.astype(float), eps, 1 - eps)
        scaled = a if w is None else a * w
        terms = -special.xlogy(scaled, np.maximum(used, np.exp(-100)))  # the logarithm ends there
        options = dict(eps=eps, weight=w, return_grad=True)
        loss, grad = fx.categorical_cross_entropy(p, target, reduction="none", **options)
        np.testing.assert_allclose(loss, terms.sum(-1), RTOL[dtype])
        np.testing.assert_allclose(grad, -scaled / np.maximum(used, 1e-12), RTOL[dtype])
        total = fx.categorical_cross_entropy(p, target, reduction="sum", **options)[0]
        np.testing.assert_allclose(total, terms.sum(), RTOL[dtype])


def test_binary_cross_entropy(rng, dtype):
    """It is -xlogy(y, p) - xlog1py(1 - y, -p), at 0 and 1 and next to them too."""
    p = rng.uniform(0, 1, (5, 8)).astype(dtype)
    soft = rng.uniform(0, 1, (5, 8))
    hard = (soft > 0.5).astype(float)
    edge = np.finfo(dtype).epsneg
    p[0] = hard[0]
    p[1, :4] = [1e-30, edge, 1 - edge, 1 - 8 * edge]
    soft[0] = hard[0]
    weight = rng.uniform(0.5, 2, (5, 1))
    exact = p.astype(float)
    for y, w in itertools.product((soft, hard), (None, weight)):
        y = y.astype(dtype).astype(float)
        terms = -special.xlogy(y, exact) - special.xlog1py(1 - y, -exact)
        theirs = terms if w is None else w * terms
        np.testing.assert_allclose(
            fx.binary_cross_entropy(p, y, weight=w, reduction="none"), theirs, RTOL[dtype]
        )
        np.testing.assert_allclose(
            fx.binary_cross_entropy(p, y, weight=w), theirs.mean(), RTOL[dtype]
        )


def test_binary_cross_entropy_with_logits(rng, dtype):
    """Loss, gradient, probabilities and Hessian out of expit and log_expit, in both tails."""
    reach = -np.log(np.finfo(dtype).tiny) - 1  # beyond it σ is no normal number
    tails = np.array([-reach, -40, -17, -1e-3, 0, 1e-3, 17, 40, reach])
    x = np.concatenate([tails, rng.standard_normal(32) * 5]).astype(dtype)
    soft = rng.uniform(0, 1, x.size).astype(dtype)
    weight, pos_weight = rng.uniform(0.5, 2, (2, x.size))
    z = x.astype(float)
    for y, (w, r) in itertools.product(
        (soft, np.zeros_like(x), np.ones_like(x)), ((1.0, 1.0), (weight, pos_weight))
    ):
        neg, pos = w * (1 - y.astype(float)), w * r * y.astype(float)
        want = (
            -neg * special.log_expit(-z) - pos * special.log_expit(z),
            neg * special.expit(z) - pos * special.expit(-z),
            special.expit(z),
            (neg + pos) * special.expit(z) * special.expit(-z),
        )
        got = fx.binary_cross_entropy_with_logits(
            x, y, weight=w, pos_weight=r, reduction="none", return_grad=True, return_probs=True,
            return_hess=True,
        )  # fmt: skip
        for ours, theirs, cancels in zip(got, want, (0, 1, 0, 0), strict=True):
            # Only the gradient of a soft label is a difference.
            atol = RTOL[dtype] * cancels * (y is soft)
            np.testing.assert_allclose(ours, theirs, RTOL[dtype], atol)


def test_binary_logits_at_infinity(dtype):
    """±inf: the loss is 0 or inf as log_expit says, σ and the gradient are 0 or 1."""
    x, y = np.array([-INF, -INF, INF, INF, NAN], dtype), np.array([0, 1, 0, 1, 0])
    loss, grad, probs = fx.binary_cross_entropy_with_logits(
        x, y, reduction="none", return_grad=True, return_probs=True
    )
    np.testing.assert_array_equal(loss, -special.log_expit(np.where(y, x, -x)))
    np.testing.assert_array_equal(probs, special.expit(x))
    np.testing.assert_array_equal(grad, special.expit(x) - y)
