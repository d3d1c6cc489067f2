"""Hessian-vector products and entropy: values, accuracy, corners, memory, errors."""

import itertools
import math

import numpy as np
import pytest
from conftest import Bounds, normal, worst

import fastxent as fx
from fastxent import reference

INF, NAN = np.inf, np.nan
CLASSES = [1, 2, 3, 10, 16, 17, 100, 145, 1000, 4097, 128256]
N_CLASSES = 6
WEIGHT = np.array([0.5, 2.0, 0.0, 1.5, 3.0, 1.0])
OPTIONS = {
    "plain": {},
    "class weights": {"weight": WEIGHT},
    "sample weights": {"sample_weight": np.array([1.0, 0.0, 2.5, 0.7, 1.0, 1.0, 3.0])},
    "smoothing": {"label_smoothing": 0.2},
    "scale": {"logit_scale": -1.7},
    "z-loss": {"z_loss": 0.1},
    "softcap": {"softcap": 2.0},
    "normalizer": {"normalizer": 3.0},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
}
PAIRS = [(a,) for a in OPTIONS] + [
    (a, b) for a, b in itertools.combinations(OPTIONS, 2)
    if {a, b} & {"softcap", "z-loss"} and {a, b} != {"sum", "none"}
]  # fmt: skip


def options_of(names):
    return {name: value for key in names for name, value in OPTIONS[key].items()}


def rows_of(rng, kind, n=7):
    """Logits, a target and a vector; class indices have an ignored row."""
    logits, vector = rng.normal(0, 2, (2, n, N_CLASSES))
    if kind == "soft":
        return logits, rng.random((n, N_CLASSES)), vector
    labels = rng.integers(0, N_CLASSES, n)
    labels[1] = -100
    return logits, labels, vector


each_kind = pytest.mark.parametrize("kind", ["index", "soft"])


# --- values ---------------------------------------------------------------------------------


def matrix(logits, target, options):
    """The Hessian of each row in longdouble, by differences of the reference's gradient."""
    x, step = logits.astype(np.longdouble), np.longdouble(1e-5)
    columns = []
    for e_j in np.eye(x.shape[1]):
        up, down = (
            reference.cross_entropy(x + sign * step * e_j, target, return_grad=True, **options)[1]
            for sign in (1, -1)
        )
        columns.append((up - down) / (2 * step))
    return np.stack(columns, -1)


@each_kind
@pytest.mark.parametrize("names", PAIRS, ids=" and ".join)
def test_products_are_those_of_the_matrix(rng, kind, names):
    """Matrix times vector, for the reference and the kernels; and the diagonal is `hess`."""
    logits, target, vector = rows_of(rng, kind)
    options = options_of(names)
    hessian = matrix(logits, target, options)
    want = (hessian @ vector.astype(np.longdouble)[..., None])[..., 0]
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    for module in (reference, fx):
        got = module.cross_entropy_hvp(logits, target, vector, **options)
        np.testing.assert_allclose(got, want.astype(float), rtol=1e-8, atol=1e-9)
        hess = module.cross_entropy(logits, target, return_hess=True, **options)[1]
        np.testing.assert_allclose(hess, diagonal.astype(float), rtol=1e-8, atol=1e-9)


@each_kind
@pytest.mark.parametrize("n_classes", [6, 300])
@pytest.mark.parametrize("names", PAIRS, ids=" and ".join)
def test_the_diagonal_is_made_of_products(rng, dtype, kind, names, n_classes):
    """hess_j = e_j · hvp(e_j): rows of few classes and of many."""
    logits, target, _ = rows_of(rng, kind)
    options = options_of(names)
    if n_classes > N_CLASSES:
        logits = np.tile(logits, n_classes // N_CLASSES)
        target = np.tile(target, n_classes // N_CLASSES) if kind == "soft" else target
        if "weight" in options:
            options["weight"] = np.tile(WEIGHT, n_classes // N_CLASSES)
    logits = logits.astype(dtype)
    hess = fx.cross_entropy(logits, target, return_hess=True, **options)[1]
    largest = np.abs(hess).max()
    for j in range(0, n_classes, 1 if n_classes == N_CLASSES else 37):
        e_j = np.broadcast_to(np.arange(n_classes) == j, logits.shape)
        product = fx.cross_entropy_hvp(logits, target, e_j, **options)
        rtol, atol = (2e-5, 1e-5) if dtype is np.float32 else (1e-12, 1e-13)
        np.testing.assert_allclose(
            product[:, j], hess[:, j], rtol=rtol, atol=atol * largest, err_msg=f"class {j}"
        )


@pytest.mark.parametrize("n", [7, 60_000])
@pytest.mark.parametrize("weights", [{}, {"weight": WEIGHT, "pos_weight": WEIGHT[::-1]}])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_binary_products(rng, dtype, weights, reduction, n):
    """The diagonal times the vector, of elements in one chunk and in several."""
    logits, target, vector = (a.astype(dtype) for a in rows_of(rng, "soft", n))
    options = weights | {"reduction": reduction}
    got = fx.binary_cross_entropy_with_logits_hvp(logits, target, vector, **options)
    hess = fx.binary_cross_entropy_with_logits(logits, target, return_hess=True, **options)[1]
    np.testing.assert_allclose(got, hess * vector, rtol=4 * np.finfo(dtype).eps)
    want = reference.binary_cross_entropy_with_logits_hvp(
        logits.astype(np.longdouble), target, vector, **options
    )
    np.testing.assert_allclose(got, want.astype(dtype), rtol=16 * np.finfo(dtype).eps)
    assert got.dtype == dtype


# --- accuracy -------------------------------------------------------------------------------


def bound_of_product(logits, target, vector, options, bound):
    """The bound of a product, from exact parts of the reference; and what it is relative to.

    `bound` is that of each probability. An element has its own share of the sum over all classes,
    and each term of that sum the share of its own class.
    """
    given = {"weight": None, "label_smoothing": 0.0, "z_loss": 0.0, "logit_scale": 1.0} | options
    z_loss = given["z_loss"]
    rows = reference._read_rows(
        logits, target, -1, given["weight"], -100, given["label_smoothing"], z_loss,
        given["logit_scale"], given.get("softcap"), True,
    )  # fmt: skip
    (k, _, _, lse, p, _), (t1, t2) = rows.softmax, rows.slopes
    moved = t1 * vector
    u = np.abs(moved - np.take_along_axis(moved, k, -1))
    curvature = rows.target.a.sum(-1, keepdims=True) + 2 * z_loss * np.abs(lse)

    def spread(share):
        parts = curvature * u * p + 2 * z_loss * np.abs(moved) * p
        return np.abs(t1) * p * (share * parts).sum(-1, keepdims=True)

    terms = np.abs(t1) * p * curvature * u + np.abs(rows.grad * t2 * vector) + spread(1)
    return bound * terms + spread(bound), terms


def check_product(logits, target, vector, dtype, **options):
    """The product is within its bound of the reference in longdouble."""
    exact, v = logits.astype(np.longdouble), vector.astype(np.longdouble)
    out = np.full_like(logits, NAN)
    got = fx.cross_entropy_hvp(logits, target, vector, out=out, reduction="none", **options)
    want = reference.cross_entropy_hvp(exact, target, v, reduction="none", **options)
    scale, cap = options.get("logit_scale", 1.0), options.get("softcap")
    z = exact * np.longdouble(scale)
    z = z if cap is None else cap * np.tanh(z / cap)
    bounds = Bounds(z, dtype, scaled=scale != 1.0, softcap=cap or 0.0)
    # The roundings of the options' own factors; the slope's own error, as in test_accuracy.
    extra = 4 * len(options) * bounds.ulp
    if cap is not None:
        extra = extra + (8 + 4 * np.abs(exact) / cap) * bounds.ulp
    bound, terms = bound_of_product(exact, target, v, options, bounds.probs() + extra)
    where = normal(np.exp(z - z.max(-1, keepdims=True)), dtype) & normal(terms, dtype)
    error = np.abs(got.astype(np.longdouble) - want)
    with np.errstate(divide="ignore"):  # an error where the bound is 0 counts as infinite
        share = np.divide(error, bound, where=where & (error != 0), out=0 * bound)
    assert share.max(initial=0) <= 1  # nor is it nan


def logits_of(rng, dtype, n_classes, spread):
    """Uniform in ±spread; a few rows are constant but for one class; a few are all but sure.

    All exponentials are normal numbers.
    """
    n = max(4, min(160, 100_000 // n_classes))
    logits = rng.uniform(-spread, spread, (n, n_classes))
    logits[1::4] = -spread / 3
    logits[1::4, n_classes // 2] = spread / 7
    logits[2::4, n_classes // 3] = spread + 20
    return logits.astype(dtype), rng.integers(0, n_classes, n)


@pytest.mark.parametrize("spread", [1, 30])
@pytest.mark.parametrize("n_classes", CLASSES)
def test_accuracy_of_products(rng, dtype, layout, n_classes, spread):
    """Over sizes and spreads; vectors of equal, of one-hot and of random numbers."""
    logits, labels = logits_of(rng, dtype, n_classes, spread)
    vector = rng.normal(size=logits.shape).astype(dtype)
    vector[::5] = 1
    vector[1::5] = np.arange(n_classes) == n_classes // 2
    check_product(layout(logits), labels, layout(vector), dtype)
    check_product(layout(logits), rng.random(logits.shape).astype(dtype), layout(vector), dtype)


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 0.1}, {"z_loss": 0.01}, {"logit_scale": 0.7}, {"softcap": 5.0},
        {"softcap": 30.0, "z_loss": 0.01}, {"z_loss": 0.5, "label_smoothing": 0.1},
    ],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("n_classes", [2, 17, 1000, 32000])
def test_accuracy_of_products_under_options(rng, dtype, n_classes, options):
    """Likewise; with z-loss, π is not taken from sums that cancel."""
    logits, labels = logits_of(rng, dtype, n_classes, 10)
    vector = rng.normal(size=logits.shape).astype(dtype)
    vector[1::4] = np.arange(n_classes) == n_classes // 2
    check_product(logits, labels, vector, dtype, **options)


@pytest.mark.parametrize("n_classes", [2, 17, 400])
@pytest.mark.parametrize("delta", [1e-3, 1e-16, 1e-26])
def test_products_of_confident_rows(dtype, n_classes, delta):
    """p = 1 - δ: every element keeps its digits, the dominant one too."""
    logits = np.full((1, n_classes), np.log(delta / (n_classes - 1)), dtype)
    logits[0, n_classes // 2] = 0
    vector = np.linspace(1, 2, n_classes).astype(dtype)[None]
    vector[0, n_classes // 2] = 0
    want = reference.cross_entropy_hvp(logits.astype(np.longdouble), [0], vector)
    got = fx.cross_entropy_hvp(logits, [0], vector)
    np.testing.assert_allclose(got, want.astype(dtype), rtol=2e-5 if dtype is np.float32 else 1e-12)


def test_products_do_not_feel_an_offset(rng, dtype):
    """Logits + 1e7, to the last bits that the inputs still hold."""
    logits = rng.integers(-8, 8, (50, 33)).astype(dtype)
    labels, vector = rng.integers(0, 33, 50), rng.normal(size=(50, 33)).astype(dtype)
    plain = fx.cross_entropy_hvp(logits, labels, vector)
    np.testing.assert_array_equal(fx.cross_entropy_hvp(logits + dtype(1e7), labels, vector), plain)


@pytest.mark.parametrize("spread", [1, 30])
@pytest.mark.parametrize("n_classes", CLASSES)
def test_accuracy_of_entropy(rng, dtype, layout, n_classes, spread):
    """Relative to Σ p·|log p| and p·(|log p| + H); beside a loss it is within the same bounds."""
    logits, labels = logits_of(rng, dtype, n_classes, spread)
    exact, logits = logits.astype(np.longdouble), layout(logits)
    want, want_grad = reference.entropy(exact, return_grad=True)
    p, log_p = reference.softmax(exact), reference.log_softmax(exact)
    bounds = Bounds(exact, dtype)
    got, grad = fx.entropy(logits, grad_out=np.full_like(logits, NAN))
    beside = fx.cross_entropy(logits, labels, return_entropy=True)[1]
    with_grad = fx.cross_entropy(logits, labels, return_grad=True, return_entropy=True)[2]
    for entropy in (got, fx.entropy(logits), beside, with_grad):
        assert worst(entropy, want, bounds.log_probs().max(-1), normal(want, dtype)) <= 1
    terms = p * (np.abs(log_p) + want[:, None])
    # Each element has its own share, and each term of H that of its class.
    shares = (bounds.probs() * p * 2 * bounds.below).sum(-1, keepdims=True)
    where = normal(p, dtype) & normal(terms, dtype)
    error = np.abs(grad.astype(np.longdouble) - want_grad)
    assert np.all((error <= bounds.probs() * terms + p * shares)[where])


# --- corners --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [5, 300])
def test_rows_that_do_not_count(rng, dtype, layout, n_classes):
    """Products are exactly 0 in ignored rows and rows without weight, whatever they hold."""
    logits = rng.normal(size=(20, n_classes)).astype(dtype)
    vector = rng.normal(size=(20, n_classes)).astype(dtype)
    labels, weight = rng.integers(0, n_classes, 20), np.ones(20)
    labels[3], weight[17] = -100, 0
    want = fx.cross_entropy_hvp(layout(logits), labels, layout(vector), sample_weight=weight)
    for row in (3, 17):
        logits[row], vector[row] = NAN, INF
    out = layout(np.full_like(logits, NAN))
    got = fx.cross_entropy_hvp(
        layout(logits), labels, layout(vector), sample_weight=weight, out=out
    )
    assert not got[[3, 17]].any()
    others = np.delete(np.arange(20), [3, 17])
    np.testing.assert_array_equal(got[others], want[others])


@pytest.mark.parametrize("n_classes", [5, 300])
@pytest.mark.parametrize("options", [{}, {"z_loss": 0.1}, {"label_smoothing": 0.1}])
def test_a_class_without_probability_takes_no_part(rng, dtype, layout, n_classes, options):
    """p_j = 0: exactly 0 there, and the others are as without it, whatever the vector holds."""
    logits = rng.normal(size=(9, n_classes)).astype(dtype)
    vector = rng.normal(size=(9, n_classes)).astype(dtype)
    logits[:, 1] = -INF
    want = fx.cross_entropy_hvp(layout(logits), np.zeros(9, int), layout(vector), **options)
    for value in (NAN, INF, -INF):
        vector[:, 1] = value
        got = fx.cross_entropy_hvp(layout(logits), np.zeros(9, int), layout(vector), **options)
        assert not got[:, 1].any()
        np.testing.assert_array_equal(got, want)
        at_target = fx.cross_entropy_hvp(logits, np.ones(9, int), vector, **options)
        assert not at_target[:, 1].any() and np.isfinite(at_target).all()


def test_binary_products_are_0_where_the_hessian_is(dtype):
    """Whatever the vector holds: certain elements, and those without weight."""
    logits = np.array([INF, -INF, 1e30, 0, 0.5], dtype)
    for value in (INF, -INF, NAN):
        vector = np.full(5, value, dtype)
        got = fx.binary_cross_entropy_with_logits_hvp(
            logits, np.zeros(5), vector, weight=[1, 1, 1, 0, 0]
        )
        np.testing.assert_array_equal(got, np.zeros(5))
        plain = fx.binary_cross_entropy_with_logits_hvp(logits[:3], np.zeros(3), vector[:3])
        np.testing.assert_array_equal(plain, np.zeros(3))


@pytest.mark.parametrize("n_classes", [3, 19, 300])
def test_rows_of_nan(dtype, layout, n_classes):
    """A product is nan where the gradient is, in the whole row, and in no other row."""
    for special in ([NAN, 0, 0], [INF, 0, -INF], [-INF] * 3, [INF, INF, 0]):
        logits = np.full((40, n_classes), -INF, dtype)
        logits[:, :3] = 0.5
        logits[7, :3] = special
        vector = np.ones_like(logits)
        labels = np.zeros(40, int)
        grad = fx.cross_entropy(logits, labels, return_grad=True)[1]
        got = fx.cross_entropy_hvp(layout(logits), labels, layout(vector))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(grad))
        assert np.isnan(got[7]).all()
        H, entropy_grad = fx.entropy(layout(logits), return_grad=True)
        for row in (np.isnan(H), np.isnan(entropy_grad).all(-1), np.isnan(entropy_grad).any(-1)):
            np.testing.assert_array_equal(row, np.arange(40) == 7)


@pytest.mark.parametrize("n_classes", [3, 300])
def test_bad_labels(rng, dtype, n_classes):
    """An error that names the row; unchecked, the row is nan."""
    logits = rng.normal(size=(20, n_classes)).astype(dtype)
    labels = np.zeros(20, int)
    labels[4] = n_classes
    with pytest.raises(IndexError, match=r"target\[4\]"):
        fx.cross_entropy_hvp(logits, labels, logits)
    got = fx.cross_entropy_hvp(logits, labels, logits, check_target=False)
    np.testing.assert_array_equal(np.isnan(got).all(-1), np.arange(20) == 4)
    assert np.isfinite(np.delete(got, 4, 0)).all()


def test_a_divisor_of_zero(rng, dtype):
    """Zeros, as for the gradient; a sum follows the formula."""
    logits = rng.normal(size=(4, 5)).astype(dtype)
    for how in ({"normalizer": 0}, {"weight": np.zeros(5)}, {"ignore_index": 2}):
        assert not fx.cross_entropy_hvp(logits, [2] * 4, logits, **how).any()
    empty = fx.cross_entropy_hvp(logits[:0], np.zeros(0, int), logits[:0])
    assert empty.shape == (0, 5)
    assert fx.binary_cross_entropy_with_logits_hvp(logits[:0], logits[:0], logits[:0]).size == 0
    x, W = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    parts = fx.linear_cross_entropy_hvp(x, W, [2] * 4, (x, W, None), ignore_index=2)
    assert not parts.x.any() and not parts.linear_weight.any()


def test_entropy_is_never_below_zero(dtype, layout):
    """0, and +0, of one class and where one class has all; log C of equal logits."""
    sure = np.full((20, 7), -INF, dtype)
    sure[:, 3] = 5
    for logits in (np.zeros((20, 1), dtype), sure):
        for H, grad in (
            fx.entropy(layout(logits), return_grad=True),
            fx.cross_entropy(logits, np.zeros(20, int), return_entropy=True, return_grad=True)[2:]
            + (np.zeros(1),),
        ):
            assert not H.any() and not np.signbit(H).any()
            assert not grad.any() and not np.signbit(grad).any()
    for n_classes in (2, 7, 1000):
        H, grad = fx.entropy(layout(np.ones((20, n_classes), dtype)), return_grad=True)
        np.testing.assert_allclose(H, math.log(n_classes), rtol=4 * np.finfo(dtype).eps)
        assert not grad.any()
    with pytest.raises(ValueError, match="axis"):
        fx.entropy(np.zeros((3, 0)))


def test_entropy_of_ignored_rows_and_under_options(rng, dtype):
    """That of the transformed logits, unscaled, of every row; the other results keep their bits."""
    for n_classes in (6, 300):
        logits = rng.normal(0, 3, (20, n_classes)).astype(dtype)
        labels = rng.integers(0, n_classes, 20)
        labels[4] = -100
        for options in ({}, {"softcap": 2.0}, {"logit_scale": -0.5}, {"reduction": "none"}):
            flags = dict(return_grad=True, return_probs=True, return_hess=True, return_argmax=True)
            *others, H = fx.cross_entropy(logits, labels, return_entropy=True, **flags, **options)
            plain = fx.cross_entropy(logits, labels, **flags, **options)
            for got, want in zip(others, plain, strict=True):
                np.testing.assert_array_equal(got, want)
            x = logits.astype(np.longdouble) * options.get("logit_scale", 1.0)
            x = 2 * np.tanh(x / 2) if "softcap" in options else x
            np.testing.assert_allclose(H, reference.entropy(x).astype(dtype), rtol=3e-6)


# --- memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("n_classes", [7, 300])
def test_results_over_their_inputs(rng, dtype, layout, n_classes):
    """`out` exactly over the vector or the logits: the same bits."""
    logits, vector = (layout(a) for a in rng.normal(size=(2, 50, n_classes)).astype(dtype))
    labels, y = rng.integers(0, n_classes, 50), rng.random((50, n_classes))
    for options in ({}, {"softcap": 3.0, "z_loss": 0.1}):
        want = fx.cross_entropy_hvp(logits, labels, vector, out=np.empty_like(logits), **options)
        for k in (0, 1):
            arrays = [logits.copy(order="K"), vector.copy(order="K")]
            got = fx.cross_entropy_hvp(arrays[0], labels, arrays[1], out=arrays[k], **options)
            assert got is arrays[k]
            np.testing.assert_array_equal(got, want)
    want = fx.binary_cross_entropy_with_logits_hvp(logits, y, vector)
    for k in (0, 1):
        arrays = [logits.copy(order="K"), vector.copy(order="K")]
        got = fx.binary_cross_entropy_with_logits_hvp(arrays[0], y, arrays[1], out=arrays[k])
        assert got is arrays[k]
        np.testing.assert_array_equal(got, want)
    want = fx.entropy(logits, grad_out=np.empty_like(logits))[1]
    mine = logits.copy(order="K")
    np.testing.assert_array_equal(fx.entropy(mine, grad_out=mine)[1], want)


def test_vectors_of_any_real_type(rng, dtype):
    """The logits' type sets that of the result; the vector is converted, whatever its layout."""
    logits = rng.normal(size=(6, 4)).astype(dtype)
    labels, whole = rng.integers(0, 4, 6), rng.integers(-3, 3, (6, 4))
    want = fx.cross_entropy_hvp(logits, labels, whole.astype(dtype))
    gaps = np.zeros((6, 8))
    gaps[:, ::2] = whole
    swapped = whole.astype(">f8")
    for vector in (whole, whole.tolist(), whole.astype(np.float64), gaps[:, ::2], swapped):
        got = fx.cross_entropy_hvp(logits, labels, vector)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, want)
        y = np.eye(4)[labels]
        binary = fx.binary_cross_entropy_with_logits_hvp(logits, y, vector)
        same = fx.binary_cross_entropy_with_logits_hvp(logits, y, whole.astype(dtype))
        np.testing.assert_array_equal(binary, same)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_class_axis(rng, dtype, axis):
    """Moved to the end and back, to roundings."""
    shape = (5, 40, 6)
    logits, vector = rng.normal(size=(2, *shape)).astype(dtype)
    labels = rng.integers(0, shape[axis], shape[:axis] + shape[axis + 1 :])
    got = fx.cross_entropy_hvp(logits, labels, vector, axis=axis)
    moved = [np.ascontiguousarray(np.moveaxis(a, axis, -1)) for a in (logits, vector)]
    want = np.moveaxis(fx.cross_entropy_hvp(moved[0], labels, moved[1]), -1, axis)
    tolerance = {"rtol": 16 * np.finfo(dtype).eps, "atol": 1e-8}
    np.testing.assert_allclose(got, want, **tolerance)
    H, grad = fx.entropy(logits, axis=axis, return_grad=True)
    want_H, want_grad = fx.entropy(moved[0], return_grad=True)
    np.testing.assert_allclose(H, want_H, **tolerance)
    np.testing.assert_allclose(grad, np.moveaxis(want_grad, -1, axis), **tolerance)


def test_the_same_bits_for_any_number_of_threads(rng, dtype):
    """Rows are split, never their sums."""
    logits, vector = rng.normal(size=(2, 3000, 300)).astype(dtype)
    labels = rng.integers(0, 300, 3000)
    results = []
    for threads in (1, 2, 3):
        with fx.num_threads(threads):
            results.append((
                fx.cross_entropy_hvp(logits, labels, vector), *fx.entropy(logits, return_grad=True),
                fx.binary_cross_entropy_with_logits_hvp(logits, logits > 0, vector),
            ))  # fmt: skip
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(a, b)


# --- the linear map -------------------------------------------------------------------------


def linear_inputs(rng, dtype, n=50, k=7, c=11):
    inputs = fx.LinearGrad(*(rng.normal(size=s).astype(dtype) for s in ((n, k), (c, k), (c,))))
    vector = fx.LinearGrad(*(rng.normal(size=a.shape).astype(dtype) for a in inputs))
    labels = rng.integers(0, c, n)
    labels[3] = -100
    return inputs, labels, vector


LINEAR = [
    {}, {"softcap": 3.0, "z_loss": 0.1, "label_smoothing": 0.1}, {"wrt": "x"},
    {"wrt": ("linear_bias", "linear_weight"), "reduction": "none"},
    {"sample_weight": np.linspace(0, 2, 50), "logit_scale": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("options", LINEAR, ids=str)
@pytest.mark.parametrize("absent", [(), ("x",), ("linear_weight", "linear_bias"), ("linear_bias",)])
@pytest.mark.parametrize("block", [32 << 20, 1 << 10], ids=["one block", "blocks"])
def test_linear_products(rng, dtype, monkeypatch, options, absent, block):
    """Beside the reference, with parts of the vector missing, in one block and in several."""
    from fastxent.cpu import linear

    monkeypatch.setattr(linear, "BLOCK_BYTES", block)
    inputs, labels, vector = linear_inputs(rng, dtype)
    vector = vector._replace(**dict.fromkeys(absent))
    got, want = (
        module.linear_cross_entropy_hvp(
            inputs.x.astype(kind), inputs.linear_weight, labels, vector,
            linear_bias=inputs.linear_bias, **options,
        )
        for module, kind in ((fx, dtype), (reference, np.longdouble))
    )  # fmt: skip
    assert isinstance(got, fx.LinearGrad)
    for part, exact in zip(got, want, strict=True):
        assert (part is None) is (exact is None)
        if part is not None:
            scale = float(np.abs(exact).max())
            np.testing.assert_allclose(
                part, exact.astype(dtype), atol=(5e-6 if dtype is np.float32 else 1e-14) * scale
            )


def test_entropy_beside_a_linear_map(rng, dtype, monkeypatch):
    """That of the logits of each row, in blocks too, ignored rows included."""
    from fastxent.cpu import linear

    monkeypatch.setattr(linear, "BLOCK_BYTES", 1 << 10)
    inputs, labels, _ = linear_inputs(rng, dtype)
    args = inputs.x, inputs.linear_weight, labels
    for options in ({}, {"softcap": 2.0, "return_grad": True}):
        *_, H = fx.linear_cross_entropy(
            *args, linear_bias=inputs.linear_bias, return_entropy=True, **options
        )
        *_, want = reference.linear_cross_entropy(
            *args, linear_bias=inputs.linear_bias, return_entropy=True, **options
        )
        assert H.shape == labels.shape and H.dtype == dtype
        np.testing.assert_allclose(H, want, rtol=2e-5 if dtype is np.float32 else 1e-12)


def test_linear_products_are_differences_of_the_gradient(rng):
    """The full Hessian in all three inputs, its mixed parts too."""
    inputs, labels, vector = linear_inputs(rng, np.longdouble)

    def gradient(t):
        x, w, b = (a + t * v for a, v in zip(inputs, vector, strict=True))
        return reference.linear_cross_entropy(
            x, w, labels, linear_bias=b, softcap=2.0, z_loss=0.1, return_grad=True
        )[1]

    step = np.longdouble(1e-5)
    got = reference.linear_cross_entropy_hvp(
        inputs.x, inputs.linear_weight, labels, vector, linear_bias=inputs.linear_bias,
        softcap=2.0, z_loss=0.1,
    )  # fmt: skip
    for part, up, down in zip(got, gradient(step), gradient(-step), strict=True):
        want = ((up - down) / (2 * step)).astype(float)
        np.testing.assert_allclose(part.astype(float), want, rtol=1e-7, atol=1e-9)


def test_ignored_rows_of_a_linear_map(rng, dtype):
    """They add nothing, whatever x and its vector hold; a counted row of nan makes parts nan."""
    inputs, labels, vector = linear_inputs(rng, dtype)

    def run():
        return fx.linear_cross_entropy_hvp(
            inputs.x, inputs.linear_weight, labels, vector[:2] + (None,)
        )

    want = run()
    inputs.x[3], vector.x[3] = NAN, INF
    for got, exact in zip(run()[:2], want[:2], strict=True):
        np.testing.assert_array_equal(got, exact)
    assert not want.x[3].any()
    inputs.x[5] = NAN
    assert np.isnan(run().linear_weight).all() and np.isnan(run().x[5]).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_buffers_of_linear_products(rng, dtype):
    """New, or exactly over their parts of the vector: the same bits."""
    inputs, labels, vector = linear_inputs(rng, dtype)
    args = inputs.x, inputs.linear_weight, labels
    want = fx.linear_cross_entropy_hvp(*args, vector, linear_bias=inputs.linear_bias)
    for out in (fx.LinearGrad(*map(np.empty_like, vector)), vector):
        got = fx.linear_cross_entropy_hvp(*args, vector, linear_bias=inputs.linear_bias, out=out)
        for part, buffer, exact in zip(got, out, want, strict=True):
            assert part is buffer
            np.testing.assert_array_equal(part, exact)


# --- errors ---------------------------------------------------------------------------------


X = np.zeros((4, 3))
Y = [0, 1, 2, 0]
W = np.zeros((5, 3))


@pytest.mark.parametrize("call, error, words", [
    (lambda: fx.cross_entropy_hvp(X, Y, X[:3]), ValueError, r"vector must have shape \(4, 3\)"),
    (lambda: fx.cross_entropy_hvp(X, Y, X * 1j), TypeError, "vector must hold real numbers"),
    (lambda: fx.cross_entropy_hvp(X, Y, X, out=X[:3]), ValueError, "out must have shape"),
    (lambda: fx.cross_entropy_hvp(X, Y, X, out=X.astype("f")), ValueError, "out must have dtype"),
    (lambda: fx.cross_entropy_hvp(X, Y, X.copy(), out=X[::-1]), ValueError,
     "out must not overlap logits .it may be exactly the memory of logits or vector"),
    (lambda: fx.cross_entropy_hvp(X.copy(), Y, X, out=X[::-1]), ValueError, "overlap vector"),
    (lambda: fx.cross_entropy_hvp(X, Y, X, reduction="all"), ValueError, "reduction"),
    (lambda: fx.cross_entropy_hvp(X, Y, X, return_grad=True), TypeError, "return_grad"),
    (lambda: fx.binary_cross_entropy_with_logits_hvp(X, X, X[0]), ValueError, "vector must have"),
    (lambda: fx.linear_cross_entropy_hvp(X, W, Y, (None,) * 3), ValueError, "at least one of"),
    (lambda: fx.linear_cross_entropy_hvp(X, W, Y, X), ValueError, "vector must be a LinearGrad"),
    (lambda: fx.linear_cross_entropy_hvp(X, W, Y, (X, W)), ValueError, "got a tuple of length 2"),
    (lambda: fx.linear_cross_entropy_hvp(X, W, Y, (X, X, None)), ValueError,
     "vector.linear_weight must have shape"),
    (lambda: fx.linear_cross_entropy_hvp(X, W, Y, (X, W, np.zeros(5))), ValueError,
     "vector.linear_bias must be None without linear_bias"),
    (lambda: fx.linear_cross_entropy_hvp(X, W, Y, (X, W, None), wrt="b"), ValueError, "wrt"),
    (lambda: fx.linear_cross_entropy_hvp(X, W, Y, (X, W, None), wrt="x",
                                         out=fx.LinearGrad(X.copy(), W.copy(), None)),
     ValueError, "out.linear_weight must be None without linear_weight in wrt"),
    (lambda: fx.linear_cross_entropy_hvp(X, W, Y, (X, W, None),
                                         out=fx.LinearGrad(X, W.copy(), None)[:2] + (None,)),
     ValueError, "out.x must not overlap x"),
    (lambda: fx.entropy(X, grad_out=X[::-1]), ValueError, "grad_out must not overlap logits"),
    (lambda: fx.entropy(1.0), ValueError, "logits"),
])  # fmt: skip
def test_errors(call, error, words):
    """They name the argument, what was expected and what came; nothing has been written."""
    before = X.copy()
    with pytest.raises(error, match=words):
        call()
    np.testing.assert_array_equal(X, before)
