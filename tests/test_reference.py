"""The specification in code, checked against worked numbers, differences, SciPy and PyTorch."""

import numpy as np
import pytest

from fastxent import reference as ref

INF, NAN = np.inf, np.nan
EXACT = np.longdouble
EPS = float(np.finfo(EXACT).eps)
LOGITS = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
W = np.array([0.5, 2.0, 0.0, 1.5])
U = np.array([[1.0, 0.5, 2.0], [0.0, 3.0, 1.0]])
ALL = dict.fromkeys((f"return_{s}" for s in ("grad", "probs", "lse", "hess", "argmax")), True)
ROWS = {"reduction": "none", "return_grad": True}


def _rng():
    return np.random.default_rng(7)


def _target(kind):
    """Return a target for logits of shape (2, 3, 4)."""
    return _rng().random((2, 3, 4)) if kind == "probs" else np.array([[0, 3, -100], [1, 2, 1]])


def _close(got, want, rtol=1e-13, atol=0.0):
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


def _check_gradient(f, x, grad):
    """Compare with fourth-order central differences of Σ f(x), a few hundred roundings allowed."""
    h = EXACT(EPS**0.2)
    want = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        once, twice = (np.sum(f(x + d)) - np.sum(f(x - d)) for d in (step, 2 * step))
        want[i] = (8 * once - twice) / (12 * h)
    assert grad.dtype == EXACT and np.abs(grad).max() > 1e-3
    _close(grad, want, rtol=0, atol=3000 * EPS**0.8)


# ---- worked numbers -----------------------------------------------------------------------------


def test_worked_cross_entropy():
    """The two-row example comes out as computed by hand; equal scores cost log C."""
    _close(ref.cross_entropy(LOGITS, [1, 0], reduction="none"), [1.4170, 2.6200], atol=5e-5)
    mean, grad = ref.cross_entropy(LOGITS, [1, 0], return_grad=True)
    _close(mean, 2.0185, atol=5e-5)
    _close(grad, [[0.330, -0.379, 0.049], [-0.464, 0.243, 0.220]], atol=6e-4)
    _close(ref.cross_entropy([1, 2, 0.1], 1), 0.4170, atol=5e-5)
    _close(ref.cross_entropy(np.full(50_257, 3.0), 0), np.log(50_257))


@pytest.mark.parametrize(
    ("loss", "first", "target", "want"),
    [
        ("binary_cross_entropy", [0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], 0.164252),
        ("binary_cross_entropy", [0.9, 0.1, 0.7], [1, 0, 1], 0.189132),
        ("binary_cross_entropy", 0.9, 1, 0.105361),
        ("binary_cross_entropy_with_logits", 2.0, 1, 0.126928),
        ("categorical_cross_entropy", [[7, 2, 1], [1, 8, 1], [2, 3, 5]], np.eye(3), 0.424322),
        ("categorical_cross_entropy", [2, 7, 1], 1, 0.356675),
    ],
)
def test_worked_probabilities(loss, first, target, want):
    """Textbook values of the losses of probabilities and of one logit."""
    first = np.divide(first, 10) if loss[0] == "c" else first
    got = getattr(ref, loss)(first, target)
    assert isinstance(got, np.float64)
    _close(got, want, rtol=0, atol=5.1e-7)


# ---- gradients ----------------------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "class weights": {"weight": W},
    "sample weights": {"sample_weight": U},
    "normalizer": {"normalizer": 7.0},
    "smoothing": {"label_smoothing": 0.1},
    "z_loss": {"z_loss": 0.01},
    "scale": {"logit_scale": 2.5},
    "negative scale": {"logit_scale": -0.7},
    "softcap": {"softcap": 1.5},
    "all": dict(
        weight=W, sample_weight=U, label_smoothing=0.2, z_loss=0.1, logit_scale=-1.3, softcap=2.0
    ),
}
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
each_kind = pytest.mark.parametrize("kind", ["index", "probs"])
each_reduction = pytest.mark.parametrize("reduction", ["none", "sum", "mean"])


@each_kind
@each_option
def test_cross_entropy_gradient(kind, options):
    """The gradient is the derivative of the loss under every option, here with axis=0."""
    x, target = _rng().normal(0, 2, (4, 2, 3)).astype(EXACT), _target(kind)
    options = {**options, "axis": 0, "target": np.moveaxis(target, -1, 0)}
    if kind == "index":
        options["target"] = target
    grad = ref.cross_entropy(x, return_grad=True, **options)[1]
    _check_gradient(lambda x: ref.cross_entropy(x, **options), x, grad)


@each_kind
@each_option
def test_linear_gradient(kind, options):
    """The three gradients are the derivatives of the loss with respect to the three inputs."""
    inputs = [_rng().normal(size=shape).astype(EXACT) for shape in [(2, 3, 2), (4, 2), (4,)]]

    def call(inputs, **flags):
        x, w, b = inputs
        return ref.linear_cross_entropy(x, w, _target(kind), linear_bias=b, **options, **flags)

    loss, grad = call(inputs, return_grad=True)
    logits = inputs[0] @ inputs[1].T + inputs[2]
    np.testing.assert_array_equal(loss, ref.cross_entropy(logits, _target(kind), **options))
    for n, name in enumerate(("x", "linear_weight", "linear_bias")):
        others = (inputs[:n], inputs[n + 1 :])
        _check_gradient(lambda a, o=others: call([*o[0], a, *o[1]]), inputs[n], getattr(grad, name))


@each_reduction
@pytest.mark.parametrize("weight", [None, W], ids=["", "weight"])
@pytest.mark.parametrize("eps", [None, 1e-7])
def test_probability_gradients(reduction, weight, eps):
    """Away from the clipping, gradients of the losses of probabilities are their derivatives."""
    p = _rng().uniform(0.3, 0.7, (2, 3, 4)).astype(EXACT)
    for loss, kind, more in [
        (ref.categorical_cross_entropy, "index", {"sample_weight": U}),
        (ref.categorical_cross_entropy, "probs", {"sample_weight": U}),
        (ref.binary_cross_entropy, "probs", {}),
    ]:
        options = {"target": _target(kind), "reduction": reduction, "weight": weight, "eps": eps}
        grad = loss(p, return_grad=True, **options, **more)[1]
        _check_gradient(lambda p, f=loss, o={**options, **more}: f(p, **o), p, grad)


@each_reduction
@pytest.mark.parametrize("weights", [{}, {"weight": W, "pos_weight": W[::-1]}])
def test_binary_logits_derivatives(reduction, weights):
    """Gradient and Hessian are the first and second derivatives."""
    x, options = _rng().normal(0, 3, (3, 4)).astype(EXACT), {"reduction": reduction, **weights}
    y = _rng().random((3, 4))

    def call(x, **flags):
        return ref.binary_cross_entropy_with_logits(x, y, **options, **flags)

    _, grad, hess = call(x, return_grad=True, return_hess=True)
    _check_gradient(call, x, grad)
    _check_gradient(lambda x: call(x, return_grad=True)[1], x, hess)


@each_kind
@pytest.mark.parametrize("name", ["plain", "none", "class weights", "sample weights", "normalizer"])
def test_cross_entropy_hessian(kind, name):
    """The Hessian's diagonal is the derivative of each gradient element by its own logit."""
    x, options = _rng().normal(size=(2, 3, 4)).astype(EXACT), OPTIONS[name]
    hess = ref.cross_entropy(x, _target(kind), return_hess=True, **options)[1]
    for j in range(4):

        def own(x_j, j=j):
            z = np.concatenate([x[..., :j], x_j, x[..., j + 1 :]], -1)
            return ref.cross_entropy(z, _target(kind), return_grad=True, **options)[1][..., j]

        _check_gradient(own, x[..., j : j + 1], hess[..., j : j + 1])


# ---- meaning ------------------------------------------------------------------------------------


@each_kind
def test_sample_weight_repeats_rows(kind):
    """A whole sample weight does what repeating the row would, in every reduction."""
    x, target, u = _rng().normal(size=(6, 4)), _target(kind), [2, 3, 1, 0, 1, 2]
    target = target.reshape(6, *target.shape[2:])
    for reduction in ("sum", "mean"):
        options = {"weight": W, "reduction": reduction, "z_loss": 0.1, "label_smoothing": 0.1}
        got = ref.cross_entropy(x, target, sample_weight=u, **options)
        want = ref.cross_entropy(np.repeat(x, u, 0), np.repeat(target, u, 0), **options)
        _close(got, want)


def test_smoothing_mixes_in_the_uniform_target():
    """Label smoothing of indices is that of one-hot rows, which is ε/C more of every class."""
    x, y, eps = _rng().normal(size=(5, 4)).astype(EXACT), [0, 1, 3, 2, 1], EXACT(0.1)
    mixed = (1 - eps) * np.eye(4)[y] + eps / 4
    for target, smoothing in [(y, 0.1), (np.eye(4)[y], 0.1), (mixed, 0.0)]:
        got = ref.cross_entropy(x, target, label_smoothing=smoothing)
        _close(got, (mixed * -ref.log_softmax(x)).sum(-1).mean(), rtol=8 * EPS)


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_axis(axis):
    """Every result has its class axis where the logits have it."""
    x, target = _rng().normal(size=(2, 3, 4)), _target("index")
    want = ref.cross_entropy(x, target, reduction="none", **ALL)
    got = ref.cross_entropy(np.moveaxis(x, -1, axis), target, axis=axis, reduction="none", **ALL)
    for a, b in zip(got, want, strict=True):
        assert a.flags.c_contiguous
        np.testing.assert_array_equal(np.moveaxis(a, axis, -1) if a.ndim == 3 else a, b)


# ---- corners ------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [1, 1000])
def test_confident_row(others):
    """With p_y = 1 − 1e-26, loss, gradient and Hessian at the target keep full accuracy."""
    x, delta = np.r_[60.0, np.zeros(others)], others * np.exp(-60.0)
    loss, grad, probs, lse, hess, argmax = ref.cross_entropy(x, 0, **ALL)
    _close([loss, -grad[0], hess[0]], [delta] * 3)
    _close(grad[1:], np.full(others, np.exp(-60.0)))
    assert probs[0] == 1 and lse == 60 and argmax == 0
    _close(ref.log_softmax(x), np.r_[-delta, np.full(others, -60.0)])


def test_logsumexp_corners():
    """Infinities, nan, an empty axis, and the log1p of the rest."""
    x = [[-INF, -INF], [INF, 0], [INF, -INF], [INF, NAN], [NAN, -INF]]
    np.testing.assert_array_equal(ref.logsumexp(x), [-INF, INF, INF, NAN, NAN])
    _close(ref.logsumexp([0, -40]), 4.248354255291589e-18, rtol=1e-15)
    assert ref.logsumexp(np.zeros((2, 0))).tolist() == [-INF, -INF]
    assert ref.logsumexp(LOGITS, axis=0, keepdims=True).shape == (1, 3)


@pytest.mark.parametrize("row", [[-INF] * 3, [INF, 0, -INF], [0, NAN, NAN], [INF, 0, NAN]])
def test_nan_rows(row):
    """A row of −inf, with +inf or with nan is nan, and leaves the other row alone."""
    x = np.array([row, [1.0, 2.0, 3.0]])
    got = ref.cross_entropy(x, [1, 1], reduction="none", **ALL)
    want = ref.cross_entropy(x[1:], [1], reduction="none", **ALL)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a[1], b[0])
    loss, grad, probs, _, hess, argmax = got
    others = (ref.softmax(x), ref.log_softmax(x))
    assert all(np.isnan(a[0]).all() for a in (loss, grad, probs, hess, *others))
    assert argmax[0] == np.argmax(row)
    # even where no class has a weight, and where no other class is there to make it so
    assert np.isnan(ref.cross_entropy(row, 1, weight=[0, 0, 0], z_loss=0.5, reduction="sum"))
    assert np.isnan(ref.cross_entropy([[INF], [0]], [0, 0], reduction="none")).tolist() == [1, 0]


@pytest.mark.parametrize("z_loss", [0.0, 0.5])
def test_ignored_rows(z_loss):
    """A row not counted is exactly 0 whatever it holds; its lse, probs and argmax are given."""
    x, u = np.array([[NAN, 0, 1], [INF, 2, 4], [1, 2, 4]]), [1.0, 0.0, 1.0]
    loss, grad, probs, lse, hess, argmax = ref.cross_entropy(
        x, [-100, 2, 2], sample_weight=u, z_loss=z_loss, reduction="none", **ALL
    )
    assert loss[2] > 0.1 and not loss[:2].any() and not grad[:2].any() and not hess[:2].any()
    assert np.isnan(lse[0]) and lse[1] == INF and argmax.tolist() == [0, 0, 2]
    given = ref.cross_entropy(x[2], 0, ignore_index=0, reduction="sum", **ALL)
    assert given[0] == 0 and not given[1].any() and given[3] == lse[2]
    np.testing.assert_array_equal(given[2], probs[2])
    assert ref.cross_entropy(x[2], 0, ignore_index=None) > 0


def test_minus_infinity():
    """Elsewhere it costs nothing and has no gradient; at the target the loss is +inf."""
    x, w = [0.0, -INF, 1.0], np.array([1.0, 2.0, 4.0])
    loss, grad = ref.cross_entropy(x, 0, return_grad=True)
    _close([loss, *grad], [np.log1p(np.e), -np.e / (1 + np.e), 0, np.e / (1 + np.e)])
    loss, grad = ref.cross_entropy([x], [1], normalizer=4, return_grad=True)
    _close([loss, *grad[0]], [INF, 1 / (1 + np.e) / 4, -1 / 4, np.e / (1 + np.e) / 4])
    loss, grad = ref.cross_entropy(x, 0, weight=w, label_smoothing=0.3, **ROWS)
    _close([loss, grad[1]], [INF, -0.3 / 3 * 2])
    assert ref.cross_entropy(x, 1, weight=[1, 0, 1], reduction="sum") == 0
    assert ref.cross_entropy(x, 0, weight=[1, NAN, INF], reduction="sum") < 2
    assert ref.cross_entropy(x, 0, weight=[1, 0, 1], label_smoothing=0.3) < 2
    _close(ref.cross_entropy(x, 2, softcap=2.0), ref.cross_entropy([0, -2, 2 * np.tanh(0.5)], 2))


@pytest.mark.parametrize(
    ("x", "target", "options"),
    [
        (np.zeros((0, 3)), [], {}),
        (LOGITS, [-100, -100], {}),
        (LOGITS, [0, 0], {"weight": [0, 1, 1]}),
        (LOGITS, [0, 1], {"normalizer": 0}),
        (LOGITS, np.zeros((2, 3)), {"sample_weight": [0, 0]}),
    ],
)
def test_zero_divisor(x, target, options):
    """A mean of nothing is nan and its gradient is 0; a normalizer or a sum is a number."""
    loss, grad, hess = ref.cross_entropy(x, target, return_grad=True, return_hess=True, **options)
    assert np.isnan(loss) and grad.shape == x.shape and not grad.any() and not hess.any()
    assert np.isfinite(ref.cross_entropy(x, target, **{**options, "normalizer": 5}))
    assert np.isfinite(ref.cross_entropy(x, target, **{**options, "reduction": "sum"}))


def test_far_out():
    """A shared offset changes only the lse; a saturated softcap keeps its derivative."""
    x = LOGITS * 8 // 1 / 8  # on a grid that survives the offset
    got, want = (ref.cross_entropy(z, [0, 1], **ALL) for z in (x + 1e7, x))
    for n in (0, 1, 2, 4, 5):
        np.testing.assert_array_equal(got[n], want[n])
    grad = ref.cross_entropy([40.0, 0.0], 1, softcap=1.0, return_grad=True)[1]
    _close(grad[0], np.e / (1 + np.e) * 4 * np.exp(-80.0))


@pytest.mark.parametrize("bad", [3, -1, np.uint64(2**64 - 1), np.uint8(156)])
@pytest.mark.parametrize("loss", [ref.cross_entropy, ref.categorical_cross_entropy])
def test_label_out_of_range(loss, bad):
    """An IndexError with row and value; unchecked, that row alone is nan."""
    x, target = LOGITS / 4, np.array([1, bad], dtype=np.asarray(bad).dtype)
    with pytest.raises(IndexError, match=rf"{bad} at row \(1,\)"):
        loss(x, target, sample_weight=[1, 0])
    for reduction in ("none", "mean"):
        value, grad = loss(x, target, check_target=False, reduction=reduction, return_grad=True)
        assert np.isnan(np.r_[value][-1]) and np.isnan(grad).tolist() == [[False] * 3, [True] * 3]
    nothing = {"check_target": False, "sample_weight": [1, -1]}  # divisor 0: even then no gradient
    assert not loss(x, target, return_grad=True, **nothing)[1].any()


def test_bad_arguments():
    """What would give a wrong number raises."""
    losses = ref.cross_entropy, ref.categorical_cross_entropy, ref.binary_cross_entropy
    for loss in (*losses, ref.binary_cross_entropy_with_logits):
        with pytest.raises(ValueError, match="reduction"):
            loss(np.full((1, 1), 0.5), np.ones((1, 1)), reduction="average")
    with pytest.raises(TypeError, match="integers"):
        ref.cross_entropy(LOGITS, [0.0, 1.0])
    with pytest.raises(ValueError, match="target"):
        ref.cross_entropy(LOGITS, [0, 1, 2])
    with pytest.raises(ValueError, match="empty"):
        ref.cross_entropy(np.zeros((2, 0)), [0, 0])


def test_probabilities_at_the_edges():
    """Logs are clamped at −100 with eps=None; p and 1 − p are clipped, exactly, at eps."""
    p, y = np.array([0.0, 1.0, 1.0, -0.1, 1.1, NAN]), np.array([1.0, 0, 1, 1, 1, 1])
    loss, grad = ref.binary_cross_entropy(p, y, **ROWS)
    np.testing.assert_array_equal(loss, [100, 100, 0, NAN, NAN, NAN])
    np.testing.assert_array_equal(grad, [-1e12, 1e12, 0, NAN, NAN, NAN])
    _close(ref.binary_cross_entropy([1e-20, 1 - 2**-53], [0, 1], **ROWS)[0], [1e-20, 2**-53])
    loss, grad = ref.binary_cross_entropy(p, y, eps=1e-20, **ROWS)
    big = -np.log(1e-20)
    _close(loss, [big, big, 1e-20, big, 1e-20, NAN])
    _close(grad, [-1e20, 1e20, -1, -1e20, -1, NAN])
    loss, grad = ref.categorical_cross_entropy([[0.0, NAN], [1.0, 0.0]], [0, 0], **ROWS)
    np.testing.assert_array_equal(loss, [100, 0])
    np.testing.assert_array_equal(grad, [[-1e12, 0], [-1, 0]])
    loss, grad = ref.categorical_cross_entropy([[0.0, 1], [1, 2]], [0, 1], eps=1e-20, **ROWS)
    _close(loss, [big, 1e-20])
    _close(grad, [[-1e20, 0], [0, -1]])


def test_binary_logits_at_the_edges():
    """Both signs keep relative accuracy, and a zero coefficient adds exactly 0 at ±inf."""
    x, e = np.array([-700.0, -30.3, 30.3, 700.0]), np.exp([-700.0, -30.3, -30.3, -700.0])
    call = ref.binary_cross_entropy_with_logits
    loss, grad, hess = call(x, [0, 0, 1, 1], return_hess=True, **ROWS)
    _close(loss, np.log1p(e), rtol=1e-15)
    _close(grad, e / (1 + e) * [1, 1, -1, -1], rtol=1e-15)
    _close(hess, e / (1 + e) ** 2, rtol=1e-15)
    loss, grad = call([-INF, INF, INF, INF, 0], [0, 1, 0, 1, 1], weight=[1, 1, 1, 0, 1], **ROWS)
    assert loss[:-1].tolist() == [0, 0, INF, 0] and grad.tolist() == [0, 0, 1, 0, -0.5]
    assert call(-INF, 1, pos_weight=0.0) == 0


def test_linear_nan_rows():
    """An ignored row adds nothing even where its x holds nan; a counted one makes all nan."""
    x, w = _rng().normal(size=(3, 5)), _rng().normal(size=(4, 5))
    x[1] = NAN
    flags = {"return_grad": True, "return_lse": True, "return_argmax": True}
    loss, grad, lse, argmax = ref.linear_cross_entropy(x, w, [0, -100, 2], **flags)
    want_loss, want = ref.linear_cross_entropy(x[::2], w, [0, 2], return_grad=True)
    assert loss == want_loss and grad.linear_bias is None and not grad.x[1].any()
    _close(grad.linear_weight, want.linear_weight)
    assert np.isnan(lse).tolist() == [False, True, False] and argmax[1] == 0
    grad = ref.linear_cross_entropy(x, w, [0, 1, 2], linear_bias=w[:, 0], return_grad=True)[1]
    assert np.isnan(grad.linear_weight).all() and np.isnan(grad.linear_bias).all()
    grad = ref.linear_cross_entropy(x, w * NAN, [0, -100, 2], return_grad=True)[1]
    assert np.isnan(grad.x).all(-1).tolist() == [True, False, True] and not grad.x[1].any()


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "i1", "?", EXACT])
def test_types(dtype):
    """Results are float64, longdouble for longdouble; argmax is int64."""
    x, want = np.arange(6).reshape(2, 3).astype(dtype), EXACT if dtype is EXACT else np.float64
    got = ref.cross_entropy(x, np.array([0, 2], "u1"), **ALL)
    assert [a.dtype for a in got] == [want] * 5 + [np.int64]
    assert all(f(x, axis=0).dtype == want for f in (ref.softmax, ref.log_softmax, ref.logsumexp))


# ---- SciPy and PyTorch --------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("spread", [1.0, 100.0, 1e4])
def test_against_scipy(axis, spread):
    """The softmax family is SciPy's (whose log_softmax rounds 1e-26 to 0)."""
    special = pytest.importorskip("scipy.special")
    x = _rng().normal(0, spread, (3, 4, 5))
    for name in ("softmax", "log_softmax", "logsumexp"):
        want = getattr(special, name)(x, axis=axis)
        _close(getattr(ref, name)(x, axis=axis), want, atol=1e-15 * (name == "log_softmax"))


def _check_torch(name, loss, x, target, reduction, rtol=1e-12, **weights):
    """Compare loss and gradient with the function `name` of torch.nn.functional."""
    torch = pytest.importorskip("torch")
    t = torch.tensor(x, requires_grad=True)
    more = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in weights.items()}
    f = getattr(torch.nn.functional, name)
    given = t.log() if name == "nll_loss" else t
    want = f(given, torch.tensor(target), reduction=reduction, **more)
    want.sum().backward()
    axis = {"axis": 1} if name == "cross_entropy" else {}
    got = loss(x, target, reduction=reduction, return_grad=True, **axis, **weights)
    _close(got[0], want.detach(), rtol=rtol, atol=1e-14)  # PyTorch's own rounding of |x| ≤ 20
    _close(got[1], t.grad, rtol=rtol, atol=1e-14)


@each_kind
@each_reduction
@pytest.mark.parametrize("weights", [{}, {"weight": W}], ids=["", "weight"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_against_torch(kind, reduction, weights, smoothing):
    """Loss and gradient of logits (N, C, d) are PyTorch's."""
    x, target = _rng().normal(0, 5, (2, 4, 3)), _target(kind)
    target = np.moveaxis(target, -1, 1) if kind == "probs" else target
    options = {"label_smoothing": smoothing, **weights}
    _check_torch("cross_entropy", ref.cross_entropy, x, target, reduction, **options)


@each_reduction
@pytest.mark.parametrize("weights", [{}, {"weight": W}], ids=["", "weight"])
def test_other_losses_against_torch(reduction, weights):
    """Binary losses and the NLL of probabilities are PyTorch's, at 0 and 1 too."""
    p, y = _rng().uniform(0.01, 0.99, (5, 4)), _rng().random((5, 4)).round(1)
    p[0], y[0] = [0, 0, 1, 1], [0, 1, 0, 1]
    pos = {"pos_weight": W[::-1].copy()} if weights else {}
    for name, x, options in [
        ("binary_cross_entropy", p, {"rtol": 5e-9}),  # PyTorch's 1e-12 has float32's rounding
        ("binary_cross_entropy_with_logits", 40 * p - 20, pos),
    ]:
        _check_torch(name, getattr(ref, name), x, y, reduction, **weights, **options)
    p, target = p[1:], np.array([1, 3, -100, 2])
    _check_torch("nll_loss", ref.categorical_cross_entropy, p, target, reduction, **weights)
