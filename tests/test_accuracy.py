"""Accuracy: every result within the specification's bounds of exact arithmetic (longdouble)."""

import numpy as np
import pytest
from conftest import Bounds, normal, worst

import fastxent as fx
from fastxent import reference

CLASSES = [1, 2, 3, 10, 15, 16, 17, 33, 100, 1000, 4097, 32000, 128256]
SPREADS = [1, 10, 30]


def make_logits(rng, dtype, classes, spread):
    """Uniform in ±spread; a few rows are constant but for one class (equal terms add up worst).

    Of few classes so many that column-major rows are several tiles.
    """
    rows = max(4, min(160, 200_000 // classes))
    logits = rng.uniform(-spread, spread, (rows, classes))
    logits[1::4] = -spread / 3
    logits[1::4, classes // 2] = spread / 7
    return logits.astype(dtype)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("classes", CLASSES)
def test_softmax_family(rng, dtype, layout, classes, spread):
    """Softmax, log_softmax and logsumexp over sizes and spreads."""
    logits = layout(make_logits(rng, dtype, classes, spread))
    out = np.empty_like(logits)
    exact = logits.astype(np.longdouble)
    bounds = Bounds(exact, dtype)
    p = reference.softmax(exact)
    shifted = np.exp(exact - exact.max(-1, keepdims=True))
    where = normal(shifted, dtype) & normal(p, dtype)
    assert worst(fx.softmax(logits, out=out), p, bounds.probs(), where) <= 1
    log_p = reference.log_softmax(exact)
    assert worst(fx.log_softmax(logits, out=out), log_p, bounds.log_probs()) <= 1
    m = exact.max(-1)
    lse = reference.logsumexp(exact)
    error = np.abs(fx.logsumexp(logits).astype(np.longdouble) - lse)
    assert np.all(error <= bounds.lse() * np.maximum(np.abs(m), np.abs(lse - m)))


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("aim", ["random", "largest"])
def test_index_targets(rng, dtype, layout, classes, spread, aim):
    """Row loss, gradient, probabilities: random targets, and those the model is sure of."""
    logits = layout(make_logits(rng, dtype, classes, spread))
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
    where = normal(want_probs, dtype)
    assert worst(probs, want_probs, bounds.probs(), where) <= 1
    where[at] = False
    # And without the probabilities, where narrow rows have a kernel of their own.
    out = np.empty_like(logits)
    alone = fx.cross_entropy(logits, labels, reduction="none", grad_out=out)
    for value, d in ((loss, grad), alone):
        assert worst(value, want, bounds.log_probs()[at], here) <= 1
        assert worst(d[at], want_grad[at], bounds.grad_at_target()[at], here) <= 1
        assert worst(d, want_grad, bounds.probs(), where) <= 1


def make_probs(rng, dtype, shape, kind):
    """Target rows: of a Dirichlet distribution with a few zeros, or one-hot."""
    rows, classes = shape
    if kind == "one-hot":
        return (np.arange(classes) == rng.integers(0, classes, (rows, 1))).astype(dtype)
    probs = rng.dirichlet(np.ones(min(classes, 50)), rows)
    probs = np.resize(probs, (classes, rows)).T / max(1, classes / 50)
    probs[:, 1::7] = 0
    return probs.astype(dtype)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", ["soft", "one-hot"])
@pytest.mark.parametrize("options", [{}, {"weight": True}, {"label_smoothing": 0.1}])
def test_probability_targets(rng, dtype, layout, classes, spread, kind, options):
    """Soft and one-hot rows: loss and gradient relative to the sum of the absolute terms."""
    logits = layout(make_logits(rng, dtype, classes, spread))
    target = layout(make_probs(rng, dtype, logits.shape, kind))
    weight = rng.uniform(0.5, 2, classes).astype(dtype) if "weight" in options else None
    smoothing = options.get("label_smoothing", 0.0)
    exact, q = logits.astype(np.longdouble), target.astype(np.longdouble)
    w = np.ones(classes, np.longdouble) if weight is None else weight.astype(np.longdouble)
    given = {"label_smoothing": smoothing, "reduction": "none"}
    out = np.empty_like(logits)
    loss, grad = fx.cross_entropy(logits, target, weight=weight, grad_out=out, **given)
    want, want_grad = reference.cross_entropy(exact, q, weight=w, return_grad=True, **given)
    bounds = Bounds(exact, dtype)
    # The roundings of w, 1 - ε, ε/C and of their products and sums, where there are any.
    extra = (4 if options else 1) * bounds.ulp
    a = w * ((1 - smoothing) * q + smoothing / classes)
    assert worst(loss, want, bounds.log_probs().max(-1) + extra, normal(want, dtype)) <= 1
    terms = a.sum(-1, keepdims=True) * reference.softmax(exact) + a
    where = normal(np.exp(exact - exact.max(-1, keepdims=True)), dtype) & normal(terms, dtype)
    error = np.abs(grad.astype(np.longdouble) - want_grad)
    assert np.all((error <= (bounds.probs() + extra + 2 * bounds.ulp) * terms)[where])


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
def test_hessian_diagonal(rng, dtype, layout, classes):
    """p·(1 - p) keeps its digits for a dominant class too."""
    logits = layout(make_logits(rng, dtype, classes, 30))
    logits[::3, 0] += 40
    labels = rng.integers(0, classes, len(logits))
    exact = logits.astype(np.longdouble)
    hess = fx.cross_entropy(logits, labels, reduction="sum", return_hess=True)[1]
    want = reference.cross_entropy(exact, labels, reduction="sum", return_hess=True)[1]
    bounds = Bounds(exact, dtype)
    bound = bounds.probs() + bounds.grad_at_target()
    assert worst(hess, want, bound, normal(want, dtype)) <= 1


CONFIDENT = [2, 3, 16, 17, 40, 400]  # classes of rows that are all but sure


def confident_rows(dtype, classes):
    """Rows with p_y = 1 - δ down to δ = 1e-30, y, their exact loss and gradient, and δ."""
    for delta in (1e-3, 1e-8, 1e-16, 1e-26, 1e-30):
        for y in (0, classes // 2, classes - 1):
            logits = np.full((1, classes), np.log(delta / (classes - 1)), dtype)
            logits[0, y] = 0
            loss, grad = reference.cross_entropy(
                logits.astype(np.longdouble), [y], reduction="sum", return_grad=True
            )
            yield logits, y, loss, grad[0, y], delta


@pytest.mark.parametrize("kind", ["index", "one-hot"])
@pytest.mark.parametrize("classes", CONFIDENT)
def test_confident_rows(dtype, layout, classes, kind):
    """Loss ≈ δ and gradient at the target ≈ -δ, never 0."""
    tolerance = 1e-5 if dtype is np.float32 else 1e-12
    for logits, y, exact, slope, delta in confident_rows(dtype, classes):
        assert abs(exact / delta - 1) < max(2 * delta, 40 * tolerance)
        target = [y] if kind == "index" else np.arange(classes)[None] == y
        rows = layout(np.repeat(logits, 70, 0))
        out = np.empty_like(rows)
        loss, grad = fx.cross_entropy(
            rows, np.repeat(target, 70, 0), reduction="none", grad_out=out
        )
        assert (np.abs(loss / exact - 1) < tolerance).all()
        assert (np.abs(grad[:, y] / slope - 1) < tolerance).all()


@pytest.mark.parametrize("classes", CONFIDENT)
def test_lse_and_log_softmax_of_confident_rows(dtype, classes):
    """Likewise: what is not the gradient's kernel for narrow rows, and log_softmax."""
    tolerance = 1e-5 if dtype is np.float32 else 1e-12
    for logits, y, exact, slope, _ in confident_rows(dtype, classes):
        loss, grad, lse = fx.cross_entropy(
            logits, [y], reduction="sum", return_grad=True, return_lse=True
        )
        assert abs(loss / exact - 1) < tolerance
        assert abs(grad[0, y] / slope - 1) < tolerance
        assert abs(lse[0] / exact - 1) < tolerance
        assert abs(fx.log_softmax(logits)[0, y] / -exact - 1) < tolerance


@pytest.mark.parametrize("classes", [1, 2, 15, 33, 64, 100, 150, 350])
def test_the_maximum_is_found_wherever_it_is(dtype, classes):
    """A logit that leads by 1e5 at every place of a row: any other shift would overflow."""
    logits = np.zeros((classes, classes), dtype)
    np.fill_diagonal(logits, 1e5)
    np.testing.assert_array_equal(fx.softmax(logits), np.eye(classes))
    for target in (np.arange(classes), np.eye(classes)):
        assert (fx.cross_entropy(logits, target, reduction="none") == 0).all()


@pytest.mark.parametrize("offset", [1e3, 1e7, -1e7])
def test_shared_offset(rng, layout, offset):
    """Logits + 1e7 give the loss of what the inputs still hold, in float32 to the last bits."""
    logits = (rng.integers(-20, 20, (32, 50)) + offset).astype(np.float32)
    labels = rng.integers(0, 50, 32)
    plain = (logits.astype(np.float64) - offset).astype(np.float32)
    for target in (labels, np.eye(50)[labels], rng.dirichlet(np.ones(50), 32)):
        got = fx.cross_entropy(layout(logits), target, reduction="none", return_grad=True)
        want = fx.cross_entropy(layout(plain), target, reduction="none", return_grad=True)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("classes", [50, 400])
@pytest.mark.parametrize("kind", ["index", "one-hot", "soft"])
def test_shared_offset_float64(rng, kind, classes):
    """Likewise 1e12 in float64."""
    logits = rng.integers(-20, 20, (32, classes)).astype(np.float64)
    labels = rng.integers(0, classes, 32)
    target = {"index": labels, "one-hot": np.eye(classes)[labels]}.get(kind)
    if target is None:
        target = rng.dirichlet(np.ones(classes), 32)
    np.testing.assert_array_equal(
        fx.cross_entropy(logits + 1e12, target, reduction="none"),
        fx.cross_entropy(logits, target, reduction="none"),
    )


# --- binary, and of probabilities -----------------------------------------------------------


@pytest.mark.parametrize("spread", [*SPREADS, 80, 1e-20])
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_logits(rng, dtype, spread, weighted):
    """Hard labels: 4 ulp plus the roundings of weights, for any size of the logit."""
    logits = rng.uniform(-spread, spread, 150_001).astype(dtype)  # several chunks
    logits[:9] = [0, spread, -spread, 1e-3, -1e-3, 0.4142, -0.4142, 0.25, -0.25]
    labels = rng.integers(0, 2, logits.size).astype(dtype)
    weights = {}
    if weighted:
        weights = {k: rng.uniform(0.5, 2, logits.size).astype(dtype) for k in WEIGHTS}
    exact = {k: v.astype(np.longdouble) for k, v in weights.items()}
    flags = {"reduction": "none", "return_grad": True, "return_probs": True, "return_hess": True}
    got = fx.binary_cross_entropy_with_logits(logits, labels, **weights, **flags)
    want = reference.binary_cross_entropy_with_logits(
        logits.astype(np.longdouble), labels, **exact, **flags
    )
    bound = (4 + 2 * weighted) * np.finfo(dtype).eps
    for name, a, b in zip(("loss", "grad", "probs", "hess"), got, want, strict=True):
        assert worst(a, b, bound, normal(b, dtype)) <= 1, name


WEIGHTS = ["weight", "pos_weight"]


def near_the_ends(rng, dtype, n):
    """Probabilities from 1e-30 to 1 - ulp, and everything between."""
    p = rng.random(n)
    p[::3] = 10.0 ** -rng.uniform(0, 30, p[::3].size)
    p[1::3] = 1 - 10.0 ** -rng.uniform(0, 7 if dtype is np.float32 else 15, p[1::3].size)
    return p.astype(dtype)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("eps", [None, 1e-15, 1e-3, 0.4])
def test_binary_probabilities(rng, dtype, eps, weighted):
    """Hard labels: 4 ulp, at p = 1 too, where eps = 1e-15 is below the rounding of 1."""
    probs = near_the_ends(rng, dtype, 150_001)
    probs[:4] = [0, 0, 1, 1]
    labels = rng.integers(0, 2, probs.size).astype(dtype)
    labels[:4] = [0, 1, 0, 1]
    weight = rng.uniform(0.5, 2, probs.size).astype(dtype) if weighted else dtype(1)
    flags = {"reduction": "none", "return_grad": True, "eps": eps}
    exact = probs.astype(np.longdouble)
    got = fx.binary_cross_entropy(probs, labels, weight=weight, **flags)
    want = reference.binary_cross_entropy(
        exact, labels, weight=weight.astype(np.longdouble), **flags
    )
    bound = (4 + weighted) * np.finfo(dtype).eps
    for name, a, b in zip(("loss", "grad"), got, want, strict=True):
        assert worst(a, b, bound, normal(b, dtype)) <= 1, name


@pytest.mark.parametrize("eps", [None, 1e-15, 0.05])
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", ["index", "soft", "one-hot"])
def test_categorical(rng, dtype, classes, kind, eps):
    """Losses and gradients of probabilities, 4 ulp and a few of the target's products."""
    rows = max(4, min(64, 200_000 // classes))
    probs = near_the_ends(rng, dtype, rows * classes).reshape(rows, classes)
    if kind == "index":
        target = exact_target = rng.integers(0, classes, rows)
    else:
        target = make_probs(rng, dtype, probs.shape, kind)
        exact_target = target.astype(np.longdouble)
    weight = rng.uniform(0.5, 2, classes).astype(dtype)
    flags = {"reduction": "none", "return_grad": True, "eps": eps}
    got = fx.categorical_cross_entropy(probs, target, weight=weight, **flags)
    want = reference.categorical_cross_entropy(
        probs.astype(np.longdouble), exact_target, weight=weight.astype(np.longdouble), **flags
    )
    bound = (4 if kind == "index" else 6) * np.finfo(dtype).eps
    for name, a, b in zip(("loss", "grad"), got, want, strict=True):
        assert worst(a, b, bound, normal(b, dtype) | (b == 0)) <= 1, name


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision(rng, layout, kind):
    """Every function: the float32 result, rounded once; losses and lse in float32."""
    kind = np.dtype(getattr(pytest.importorskip("ml_dtypes"), kind, kind))
    logits = (rng.standard_normal((40, 37)) * 8).astype(kind)
    probs, soft = (fx.softmax(rng.standard_normal((40, 37)) * 3).astype(kind) for _ in "ab")
    labels, hard = rng.integers(0, 37, 40), rng.integers(0, 2, (40, 37))
    grads = {"reduction": "none", "return_grad": True}
    every = grads | {"return_probs": True, "return_hess": True}
    linear = (rng.standard_normal((40, 5)), rng.standard_normal((37, 5)), rng.standard_normal(37))
    x, w, b = (a.astype(kind) for a in linear)
    calls = [
        (fx.softmax, [logits], {}), (fx.log_softmax, [logits], {}), (fx.logsumexp, [logits], {}),
        (fx.cross_entropy, [logits, labels], every | {"return_lse": True}),
        (fx.cross_entropy, [logits, soft], every | {"return_lse": True}),
        (fx.categorical_cross_entropy, [probs, labels], grads),
        (fx.categorical_cross_entropy, [probs, soft], grads),
        (fx.binary_cross_entropy, [probs, soft], grads),
        (fx.binary_cross_entropy_with_logits, [logits, hard], every),
        (fx.linear_cross_entropy, [x, w, labels], grads | {"linear_bias": b}),
        (fx.linear_cross_entropy, [x, w, soft], grads | {"linear_bias": b}),
    ]  # fmt: skip
    for function, given, options in calls:
        args = [layout(a) if a.ndim == 2 else a for a in given]
        wide = [a.astype(np.float32) if a.dtype == kind else a for a in args]
        wider = options | (
            {"linear_bias": b.astype(np.float32)} if "linear_bias" in options else {}
        )
        got, want = function(*args, **options), function(*wide, **wider)
        assert isinstance(got, tuple) == bool(options)
        if isinstance(got, tuple):
            (loss, grad, *rest), (want_loss, want_grad, *want_rest) = got, want
            assert loss.dtype == np.float32
            np.testing.assert_array_equal(loss, want_loss, err_msg=function.__name__)
            parts = zip([*grad, *rest], [*want_grad, *want_rest], strict=True)
        else:
            parts = [(got, want)]
        for a, b_ in parts:
            lse = function is fx.cross_entropy and a.shape == (40,)
            assert a.dtype == (np.float32 if lse else kind)
            with np.errstate(over="ignore"):  # 1e5 is infinite in float16
                b_ = b_.astype(a.dtype)
            np.testing.assert_array_equal(
                a.astype(np.float32), b_.astype(np.float32), function.__name__
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


def test_worked_examples_of_probabilities():
    """Binary: -y/p + (1-y)/(1-p); categorical: -y/p; the mean divided by N."""
    loss, grad = fx.binary_cross_entropy([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], return_grad=True)
    assert round(float(loss), 6) == 0.164252
    np.testing.assert_allclose(grad, [-1 / 3.6, 1 / 3.6, -1 / 3.2, 1 / 3.2], rtol=1e-12)
    assert round(float(fx.binary_cross_entropy([0.9, 0.1, 0.7], [1, 0, 1])), 6) == 0.189132
    loss, grad = fx.binary_cross_entropy(0.9, 1, return_grad=True)
    assert round(float(loss), 6) == 0.105361
    assert grad == pytest.approx(-1 / 0.9)
    loss, grad = fx.binary_cross_entropy_with_logits(2.0, 1, return_grad=True)
    assert round(float(loss), 6) == 0.126928
    assert grad == pytest.approx(1 / (1 + np.exp(-2)) - 1)
    probs = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]])
    for target in (np.eye(3), [0, 1, 2]):
        loss, grad = fx.categorical_cross_entropy(probs, target, return_grad=True)
        assert round(float(loss), 6) == 0.424322
        np.testing.assert_allclose(grad, -np.eye(3) / probs / 3, rtol=1e-12)
    loss, grad = fx.categorical_cross_entropy([0.2, 0.7, 0.1], 1, return_grad=True)
    assert round(float(loss), 6) == 0.356675
    np.testing.assert_allclose(grad, [0, -1 / 0.7, 0], rtol=1e-12)
    # float32 in the textbook form gives 0 here, and PyTorch's clamp at -100 stands at p = 0.
    tiny = fx.binary_cross_entropy_with_logits(np.float32(-20), 0)
    assert float(tiny) == pytest.approx(2.0611537e-9, rel=1e-6)
    assert fx.binary_cross_entropy(0.0, 1) == 100
