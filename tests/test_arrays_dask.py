"""Dask arrays: lazy out, NumPy's numbers in any chunks, errors at the call, of labels later."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
from conftest import Bounds, normal, worst

import fastxent as fx
from fastxent import functions, reference
from fastxent.cpu import backend

dask = pytest.importorskip("dask", reason="Dask is optional: pip install 'dask[array]'")
da = pytest.importorskip("dask.array", reason="dask.array is optional: pip install 'dask[array]'")

N, C = 13, 11
# By rows, by classes, by both, all in one.
CHUNKS = [((6, 7), (11,)), ((13,), (4, 4, 3)), ((4, 4, 5), (1, 5, 5)), ((13,), (11,))]
IDS = ["rows", "classes", "both", "one"]
ALL = {f"return_{name}": True for name in ("grad", "probs", "lse", "hess", "argmax")}


@pytest.fixture(autouse=True)
def scheduler():
    """Tasks run one after another, where an error's traceback begins."""
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def data(rng):
    """Logits, labels, class probabilities, weights of classes and of rows."""
    labels = rng.integers(0, C, N)
    labels[3] = -100
    u = rng.random(N)
    u[2] = 0
    x = 3 * rng.standard_normal((N, C))
    return x, labels, rng.random((N, C)), rng.random(C), u


def flat(result):
    """All arrays of a result."""
    for part in result if type(result) is tuple else (result,):
        if isinstance(part, fx.LinearGrad):
            yield from (array for array in part if array is not None)
        else:
            yield part


def agree(got, want, rtol):
    """Lazy arrays of NumPy's numbers, shapes and types, C-contiguous when computed."""
    lazy, want = list(flat(got)), list(flat(want))
    assert all(isinstance(array, da.Array) for array in lazy)
    for known, array, expected in zip(lazy, dask.compute(*lazy), want, strict=True):
        assert known.shape == array.shape == expected.shape
        assert known.dtype == array.dtype == expected.dtype
        assert np.asarray(array).flags.c_contiguous
        array, expected = (np.asarray(a, np.float64) for a in (array, expected))
        np.testing.assert_allclose(array, expected, rtol, rtol / 30)


def tolerance(dtype):
    """Of sums that are rounded a few times: the bounds themselves are tested apart."""
    return {"float16": 2e-3, "float32": 6e-6}.get(np.dtype(dtype).name, 1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32])
@pytest.mark.parametrize("chunks", CHUNKS, ids=IDS)
def test_the_softmax_family(data, chunks, dtype):
    array = data[0].astype(dtype)
    x = da.from_array(array, chunks)
    for function in (fx.softmax, fx.log_softmax, fx.logsumexp):
        agree(function(x), function(array), tolerance(dtype))
    agree(fx.logsumexp(x, keepdims=True), fx.logsumexp(array, keepdims=True), tolerance(dtype))


OPTIONS = {
    "plain": {},
    "weights": dict(weight=True, sample_weight=True),
    "smoothing": dict(weight=True, label_smoothing=0.1, z_loss=0.01),
    "softcap": dict(sample_weight=True, logit_scale=1.5, softcap=5.0),
    "negative scale": dict(logit_scale=-2.0, label_smoothing=1.0),
    "normalizer": dict(normalizer=7.0),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("chunks", CHUNKS, ids=IDS)
@pytest.mark.parametrize("kind", ["index", "probs"])
def test_cross_entropy(data, dtype, chunks, options, kind):
    """Every result, of both kinds of target; targets and weights are NumPy's or Dask's."""
    array, labels, q, w, u = data
    array, target = array.astype(dtype), labels if kind == "index" else q
    how = options | ALL
    for name, value in (("weight", w), ("sample_weight", u)):
        if name in how:
            how[name] = value
    x = da.from_array(array, chunks)
    for reduction in ("mean", "sum", "none") if "normalizer" not in how else ("mean",):
        want = fx.cross_entropy(array, target, reduction=reduction, **how)
        agree(fx.cross_entropy(x, target, reduction=reduction, **how), want, tolerance(dtype))
    lazy = {key: da.from_array(v, 3) if isinstance(v, np.ndarray) else v for key, v in how.items()}
    if "normalizer" in how:
        lazy["normalizer"] = da.asarray(how["normalizer"])
    got = fx.cross_entropy(x, da.from_array(target, 5), reduction=reduction, **lazy)
    agree(got, want, tolerance(dtype))


def test_half_precision_is_rounded_once(data):
    """float16 by classes: the float32 result in half precision, the loss float32."""
    array = data[0].astype(np.float16)
    x = da.from_array(array, (5, 4))
    got = dask.compute(*fx.cross_entropy(x, data[1], **ALL))
    want = reference.cross_entropy(array, data[1], **ALL)
    for at in (1, 2, 4):
        spacing = np.spacing(np.abs(want[at]).astype(np.float16)).astype(np.float64)
        assert (np.abs(got[at] - want[at]) <= 0.51 * spacing).all()


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_axis(rng, axis):
    """The class axis anywhere, other axes in chunks too."""
    array = rng.standard_normal((6, 4, 5)).astype(np.float32)
    labels = rng.integers(0, array.shape[axis], np.delete(array.shape, axis))
    for chunks in ((3, 2, 2), (6, 4, 2), -1):
        x = da.from_array(array, chunks)
        how = dict(axis=axis, **ALL)
        agree(fx.cross_entropy(x, labels, **how), fx.cross_entropy(array, labels, **how), 6e-6)
        for function in (fx.softmax, fx.logsumexp):
            agree(function(x, axis=axis), function(array, axis=axis), 6e-6)


def test_one_sample(data):
    """Logits without a batch; an empty chunk among the classes."""
    array = data[0][0]
    for chunks in ((11,), (4, 0, 7)):
        x = da.from_array(array, (chunks,))
        agree(fx.cross_entropy(x, 3, sample_weight=2.0, **ALL),
              fx.cross_entropy(array, 3, sample_weight=2.0, **ALL), 1e-12)  # fmt: skip
        for keepdims in (False, True):
            agree(fx.logsumexp(x, keepdims=keepdims), fx.logsumexp(array, keepdims=keepdims), 1e-12)
    with pytest.raises(IndexError, match=r"target\[\(\)\] must be a class in 0 .. 10"):
        fx.cross_entropy(x, 11).compute()


# --- values -------------------------------------------------------------------------------------


def test_the_bounds_hold_across_chunks(rng, dtype):
    """Within the specified bounds of exact arithmetic, for rows from flat to confident."""
    spread = np.array([0.01, 1, 5, 20, 60])[:, None]
    z = (spread * rng.standard_normal((5, 4, 600)).reshape(5, -1)).reshape(-1, 600).astype(dtype)
    y = rng.integers(0, 600, len(z))
    y[::2] = z[::2].argmax(-1)
    exact = z.astype(np.longdouble)
    bounds = Bounds(exact, dtype)
    x = da.from_array(z, (7, 100))
    how = dict(reduction="none", return_grad=True, return_probs=True, return_lse=True)
    loss, grad, probs, lse = dask.compute(*fx.cross_entropy(x, y, **how))
    want_loss, want_grad, want, want_lse = reference.cross_entropy(exact, y, **how)
    where = normal(want, dtype)
    assert worst(probs, want, bounds.probs(), where) <= 1
    at = np.arange(len(z)), y
    away = np.arange(600) != y[:, None]
    assert worst(grad, want_grad, bounds.probs(), away & normal(want_grad, dtype)) <= 1
    assert (
        worst(grad[at], want_grad[at], bounds.grad_at_target()[at], normal(want_grad[at], dtype))
        <= 1
    )
    assert worst(loss, want_loss, bounds.log_probs()[at], normal(want_loss, dtype)) <= 1
    error, m = np.abs(lse - want_lse), exact.max(-1)
    assert (error <= bounds.lse() * np.maximum(np.abs(m), want_lse - m)).all()
    logs = fx.log_softmax(x).compute()
    assert worst(logs, reference.log_softmax(exact), bounds.log_probs()) <= 1


@pytest.mark.parametrize("delta", [1e-3, 1e-10, 1e-30])
@pytest.mark.parametrize("apart", [False, True], ids=["same chunk", "other chunk"])
def test_confident_rows(dtype, delta, apart):
    """Loss δ and gradient −δ at the target, wherever the other class stands."""
    row = np.full(12, -np.inf, dtype)
    row[1], row[7 if apart else 2] = 0, np.log(delta)
    delta = np.exp(np.longdouble(row.max(initial=-np.inf, where=(row != 0))))
    x = da.from_array(row[None], (1, 4))
    for target in ([1], np.eye(12)[1][None]):
        loss, grad = dask.compute(*fx.cross_entropy(x, target, return_grad=True))
        rtol = 1e-5 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(loss, float(np.log1p(delta)), rtol)
        np.testing.assert_allclose(grad[0, 1], float(-delta / (1 + delta)), rtol)


def test_shared_offset(rng):
    """An offset costs only the digits that the inputs lose."""
    array = (1e7 + rng.integers(-3, 4, (5, 12))).astype(np.float32)
    labels = rng.integers(0, 12, 5)
    for scale in (1.0, 3.0):
        how = dict(reduction="none", return_grad=True, logit_scale=scale)
        got = dask.compute(*fx.cross_entropy(da.from_array(array, (3, 4)), labels, **how))
        want = reference.cross_entropy(array - np.float32(1e7), labels, **how)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, 2e-6, 1e-12)


SPECIAL = [0.0, 1.0, -np.inf, np.inf, np.nan]


@pytest.mark.parametrize("options", [{}, dict(label_smoothing=0.2), dict(softcap=2.0),
                                     dict(weight=np.float64([0, 2, 0, 1]))],
                         ids=["plain", "smoothing", "softcap", "weights"])  # fmt: skip
@pytest.mark.parametrize("kind", ["index", "probs"])
def test_every_row_of_special_values(options, kind):
    """Rows of −inf, +inf and nan in any chunk are what they are in one; others do not notice."""
    array = np.array(np.meshgrid(*[SPECIAL] * 4)).reshape(4, -1).T.astype(np.float64)
    labels = np.arange(len(array)) % 5
    labels[labels == 4] = -100
    target = labels
    if kind == "probs":
        target = np.float64([[1, 0, 0, 0], [0, 0, 1, 0], [0.5, 0, 0, 0.5], [0, 0, 0, 0],
                             [0.1, 0.2, 0.3, 0.4]])[np.arange(len(array)) % 5]  # fmt: skip
    how = dict(reduction="none", **ALL, **options)
    want = fx.cross_entropy(array, target, **how)
    for chunks in ((-1, 1), (100, (2, 2)), (-1, (3, 1))):
        agree(fx.cross_entropy(da.from_array(array, chunks), target, **how), want, 1e-12)
    for function in (fx.softmax, fx.log_softmax, fx.logsumexp):
        agree(function(da.from_array(array, (-1, 1))), function(array), 1e-12)


@pytest.mark.parametrize("chunks", [(2, -1), (2, 2)], ids=["rows", "classes"])
def test_means_over_nothing_and_bad_rows(chunks):
    """A divisor of 0 or infinity; labels that are not looked at; ignored rows that hold nan."""
    array = np.float64([[1, 2, 3], [3, np.nan, 1], [0, 1, 0], [2, 2, 2]])
    x = da.from_array(array, chunks)
    for labels, options in (
        ([-100] * 4, {}), ([0, -100, 1, 2], dict(normalizer=0.0)),
        ([0, -100, 1, 2], dict(normalizer=np.inf)), ([0, 1, -100, 2], {}),
        ([0, -100, 9, 2], dict(check_target=False)),
        ([0, -100, -1, 2], dict(check_target=False, weight=[1.0, 2.0, 3.0])),
        ([0, 1, 2, -100], dict(sample_weight=[1.0, 0.0, 2.0, 3.0])),
        ([0, -100, 1, 2], dict(weight=[0.0, 0.0, 0.0])),
    ):  # fmt: skip
        how = dict(return_grad=True, return_lse=True, **options)
        agree(fx.cross_entropy(x, labels, **how), fx.cross_entropy(array, labels, **how), 1e-12)
    empty = np.empty((0, 3))
    agree(fx.cross_entropy(da.from_array(empty, chunks), [], return_grad=True),
          fx.cross_entropy(empty, [], return_grad=True), 0)  # fmt: skip
    nothing = np.empty((4, 0))
    agree(fx.logsumexp(da.from_array(nothing, (2, 1))), fx.logsumexp(nothing), 0)


def test_a_hundred_thousand_classes_in_eight_chunks(rng):
    """(1000, 100000): within the bounds of exact arithmetic, and beside NumPy's in all rows."""
    part = rng.standard_normal((250, 100_000), np.float32)
    factors = np.float32([0.1, 1, 4, 10])
    lazy = da.from_array(part, (250, 12_500), name=False)
    x = da.concatenate([lazy * factor for factor in factors])
    assert x.numblocks == (4, 8)
    y = rng.integers(0, 100_000, 1000)
    y[::3] = np.tile(part.argmax(-1), 4)[::3]
    how = dict(reduction="none", return_grad=True, return_lse=True)
    loss, grad, lse = fx.cross_entropy(x, y, **how)
    for i, factor in enumerate(factors):  # a block of rows needs no other: little memory
        rows = slice(250 * i, 250 * i + 250)
        z, labels = part * factor, y[rows]
        got = dask.compute(loss[rows], grad[rows], lse[rows], scheduler="threads")
        want = fx.cross_entropy(z, labels, **how)
        for at in (0, 2):
            np.testing.assert_allclose(got[at], want[at], 20 * 2**-23)
        exact = z[:1].astype(np.longdouble)
        bounds = Bounds(exact, np.float32)
        _, true = reference.cross_entropy(exact, labels[:1], reduction="sum", return_grad=True)
        limit = np.where(np.arange(100_000) == labels[0], bounds.grad_at_target(), bounds.probs())
        assert worst(got[1][:1], true, limit, normal(true, np.float32)) <= 1
        z = np.subtract(got[1], want[1], out=z)
        limit = np.abs(want[1], out=want[1])
        limit *= 100 * 2**-23  # where logits lie up to 90 below the largest
        limit += np.finfo(np.float32).tiny
        assert (np.abs(z, out=z) <= limit).all()


# --- the other losses ---------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [None, 1e-3])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_probabilities(data, dtype, eps, reduction):
    """Chunks along classes are joined for categorical_cross_entropy."""
    x, labels, q, w, u = data
    array = fx.softmax(x.astype(dtype))
    how = dict(eps=eps, reduction=reduction, return_grad=True)
    for target, given in (
        (labels, dict(weight=w)), (q, {}), (labels, dict(sample_weight=u)),
        (np.full(N, -100), {}), (q, dict(sample_weight=u)),
    ):  # fmt: skip
        got = fx.categorical_cross_entropy(da.from_array(array, (5, 4)), target, **how, **given)
        want = fx.categorical_cross_entropy(array, target, **how, **given)
        agree(got, want, tolerance(dtype))
    for given in ({}, dict(weight=u[:, None]), dict(weight=2.0), dict(weight=q)):
        got = fx.binary_cross_entropy(da.from_array(array, (5, 4)), q, **how, **given)
        agree(got, fx.binary_cross_entropy(array, q, **how, **given), tolerance(dtype))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_binary_losses_of_logits(data, dtype, reduction):
    x, _, q, w, _ = data
    array = x.astype(dtype)
    for given in ({}, dict(weight=q, pos_weight=w), dict(pos_weight=da.from_array(w, 3))):
        how = dict(reduction=reduction, return_grad=True, return_probs=True, return_hess=True)
        got = fx.binary_cross_entropy_with_logits(da.from_array(array, (5, 4)), q, **how, **given)
        given = {name: np.asarray(value) for name, value in given.items()}
        want = fx.binary_cross_entropy_with_logits(array, q, **how, **given)
        agree(got, want, tolerance(dtype))
    scalar = fx.binary_cross_entropy_with_logits(da.asarray(array[0, 0]), 1, reduction=reduction)
    agree(scalar, fx.binary_cross_entropy_with_logits(array[0, 0], 1, reduction=reduction), 1e-6)
    empty = fx.binary_cross_entropy_with_logits(da.zeros((0, 3)), np.zeros((0, 3)))
    assert np.isnan(empty.compute())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_binary_weights_stay_as_small_as_they_came(data, monkeypatch, reduction):
    """No block gets a weight for each element, unless there is one."""
    body, shapes = functions.BINARY_WITH_LOGITS.body, set()

    def watched(*args, **kwargs):
        shapes.add(np.shape(kwargs["weight"]))
        return body(*args, **kwargs)

    array, q, u = data[0], data[2], data[4]
    for weight, largest in ((None, 1), (2.0, 1), (u[:, None], 7), (q[:1], 4)):
        how = dict(weight=weight, reduction=reduction, return_grad=True)
        want = fx.binary_cross_entropy_with_logits(array, q, **how)
        lazy = fx.binary_cross_entropy_with_logits(da.from_array(array, (7, 4)), q, **how)
        shapes.clear()
        with monkeypatch.context() as patch:
            patch.setattr(functions.BINARY_WITH_LOGITS, "body", watched)
            agree(lazy, want, 1e-12)
        assert shapes
        assert max(map(np.prod, shapes)) == largest


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("by", [11, 4], ids=["rows", "classes"])
@pytest.mark.parametrize("kind", ["index", "probs"])
def test_linear_cross_entropy(data, rng, dtype, reduction, by, kind):
    """Weights whole or chunked along classes; an ignored row adds nothing, though its x is nan."""
    _, labels, q, w, u = data
    x = rng.standard_normal((N, 6)).astype(dtype)
    matrix, bias = rng.standard_normal((C, 6)).astype(dtype), rng.standard_normal(C).astype(dtype)
    target = labels if kind == "index" else q
    how = dict(reduction=reduction, return_grad=True, return_lse=True, return_argmax=True)
    for given in ({}, dict(linear_bias=bias, weight=w, sample_weight=u, label_smoothing=0.1)):
        features = x.copy()
        if given or kind == "index":
            features[3 if kind == "index" else 2] = np.nan
        want = fx.linear_cross_entropy(features, matrix, target, **how, **given)
        lazy = da.from_array(matrix, (by, 6))
        got = fx.linear_cross_entropy(da.from_array(features, (5, 4)), lazy, target, **how, **given)
        assert isinstance(got[1], fx.LinearGrad)
        agree(got, want, 10 * tolerance(dtype))
    one = fx.linear_cross_entropy(da.from_array(x[0]), matrix, 3, return_grad=True)
    agree(one, fx.linear_cross_entropy(x[0], matrix, 3, return_grad=True), 10 * tolerance(dtype))


def test_linear_weights_with_empty_chunks(rng):
    """Chunks without classes or features are passed over."""
    x, matrix = rng.standard_normal((5, 3)), rng.standard_normal((C, 3))
    want = fx.linear_cross_entropy(x, matrix, [0, 10, 4, 3, 7], return_grad=True)
    for chunks in (((4, 0, 7), (3,)), ((0, 11), (2, 0, 1)), ((4, 7, 0), (0, 3))):
        lazy = da.from_array(matrix, chunks)
        for features in (da.from_array(x, (2, 3)), da.from_array(x, ((2, 3), (1, 0, 2)))):
            got = fx.linear_cross_entropy(features, lazy, [0, 10, 4, 3, 7], return_grad=True)
            agree(got, want, 1e-12)


# --- entropy and second derivatives -------------------------------------------------------------


@pytest.mark.parametrize("chunks", CHUNKS, ids=IDS)
def test_entropy(data, dtype, chunks):
    """Alone, with its gradient, and beside a loss; chunks along classes are joined for it."""
    x, labels, q, w, _ = data
    array = x.astype(dtype)
    lazy = da.from_array(array, chunks)
    for how in ({}, dict(return_grad=True)):
        agree(fx.entropy(lazy, **how), fx.entropy(array, **how), tolerance(dtype))
    agree(fx.entropy(lazy[0], return_grad=True), fx.entropy(array[0], return_grad=True), 6e-6)
    for target in (labels, q):
        how = dict(weight=w, return_grad=True, return_argmax=True, return_entropy=True)
        want = fx.cross_entropy(array, target, **how)
        agree(fx.cross_entropy(lazy, target, **how), want, tolerance(dtype))
    matrix = x[:7].astype(dtype)
    how = dict(return_grad=True, return_lse=True, return_entropy=True)
    want = fx.linear_cross_entropy(array, matrix, labels % 7, **how)
    for classes in (7, 3):
        got = fx.linear_cross_entropy(lazy, da.from_array(matrix, classes), labels % 7, **how)
        agree(got, want, 10 * tolerance(dtype))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("chunks", CHUNKS, ids=IDS)
@pytest.mark.parametrize("kind", ["index", "probs"])
def test_hessian_vector_products(data, rng, dtype, chunks, options, kind):
    """The divisor of a mean is that of all rows; the vector is NumPy's, Dask's or a list."""
    x, labels, q, w, u = data
    array, target = x.astype(dtype), labels if kind == "index" else q
    v = rng.standard_normal((N, C))
    weights = {"weight": w, "sample_weight": u}
    how = options | {name: weights[name] for name in weights if name in options}
    lazy = da.from_array(array, chunks)
    for reduction in ("mean", "sum", "none") if "normalizer" not in how else ("mean",):
        want = fx.cross_entropy_hvp(array, target, v, reduction=reduction, **how)
        for vector in (v, da.from_array(v, 4), v.tolist()):
            got = fx.cross_entropy_hvp(lazy, target, vector, reduction=reduction, **how)
            agree(got, want, tolerance(dtype))


def test_products_of_other_shapes(rng):
    """The class axis anywhere, one sample, rows that do not count."""
    array = rng.standard_normal((6, 4, 5))
    labels, x = rng.integers(0, 4, (6, 5)), da.from_array(array, (3, 2, 2))
    want = fx.cross_entropy_hvp(array, labels, array, axis=1)
    agree(fx.cross_entropy_hvp(x, labels, x, axis=1), want, 1e-12)
    one = fx.cross_entropy_hvp(array[0, 0], 3, array[1, 0])
    agree(fx.cross_entropy_hvp(x[0, 0], 3, array[1, 0]), one, 1e-12)
    ignored = fx.cross_entropy_hvp(x[0], [-100] * 4, x[0])
    np.testing.assert_array_equal(ignored.compute(), np.zeros((4, 5)))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_binary_products(data, rng, dtype, reduction):
    x, _, q, w, u = data
    array, v = x.astype(dtype), rng.standard_normal((N, C))
    for given in ({}, dict(weight=u[:, None], pos_weight=w)):
        how = dict(reduction=reduction, **given)
        want = fx.binary_cross_entropy_with_logits_hvp(array, q, v, **how)
        for vector in (v, da.from_array(v, 3)):
            lazy = da.from_array(array, (5, 4))
            got = fx.binary_cross_entropy_with_logits_hvp(lazy, q, vector, **how)
            agree(got, want, tolerance(dtype))
    scalar = fx.binary_cross_entropy_with_logits_hvp(da.asarray(array[0, 0]), 1, 2.0)
    agree(scalar, fx.binary_cross_entropy_with_logits_hvp(array[0, 0], 1, 2.0), 1e-6)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("by", [11, 4], ids=["rows", "classes"])
def test_linear_products(data, rng, dtype, reduction, by):
    """Each part of the vector, and those parts of the product that are asked for."""
    _, labels, _, w, u = data
    x, matrix = (rng.standard_normal((n, 6)).astype(dtype) for n in (N, C))
    bias, v = rng.standard_normal(C).astype(dtype), rng.standard_normal((N, 6))
    lazy, weights = da.from_array(x, (5, 4)), da.from_array(matrix, (by, 6))
    for vector, how in (
        ((v, None, None), {}), ((None, matrix[::-1], None), dict(wrt="linear_weight")),
        ((v, matrix, bias[::-1]), dict(linear_bias=bias, weight=w, sample_weight=u, softcap=3.0)),
    ):  # fmt: skip
        how = dict(reduction=reduction, **how)
        want = fx.linear_cross_entropy_hvp(x, matrix, labels, vector, **how)
        chunked = fx.LinearGrad(*(a if a is None else da.from_array(a, 3) for a in vector))
        for given in (vector, chunked):
            got = fx.linear_cross_entropy_hvp(lazy, weights, labels, given, **how)
            assert isinstance(got, fx.LinearGrad)
            assert [a is None for a in got] == [a is None for a in want]
            agree(got, want, 30 * tolerance(dtype))
    vector = v[0], matrix, None
    one = fx.linear_cross_entropy_hvp(lazy[0], weights, 3, vector)
    agree(one, fx.linear_cross_entropy_hvp(x[0], matrix, 3, vector), 30 * tolerance(dtype))


def test_products_are_lazy_and_name_what_is_wrong(data, rng):
    """Nothing is computed at the call; labels are checked at compute; the words are NumPy's."""
    x, labels, q, _, _ = data
    late, matrix, parts = unread((N, C), (5, 4)), x[:7], (None, None, None)
    for result in (
        fx.cross_entropy_hvp(late, labels, unread((N, C), 3)),
        fx.cross_entropy_hvp(x_of(x), labels, late), fx.entropy(late),
        fx.binary_cross_entropy_with_logits_hvp(late, q, x),
        fx.linear_cross_entropy_hvp(x_of(x), matrix, labels % 7, (late, None, None))[1],
    ):  # fmt: skip
        with pytest.raises(AssertionError, match="computed"):
            result.compute()
    with pytest.raises(IndexError, match=r"target\[1\] must be a class in 0 .. 10"):
        fx.cross_entropy_hvp(x_of(x), np.arange(N) * 11, x).compute()
    with pytest.raises(ValueError, match="out must be None"):
        fx.cross_entropy_hvp(x_of(x), labels, x, out=np.empty_like(x))
    for name, args in (
        ("cross_entropy_hvp", (labels, x[:3])), ("cross_entropy_hvp", (labels, x * 1j)),
        ("cross_entropy_hvp", (labels, None)), ("cross_entropy_hvp", (labels[:2], x)),
        ("binary_cross_entropy_with_logits_hvp", (q, x[0])),
        ("binary_cross_entropy_with_logits_hvp", (q[0], x)),
        ("linear_cross_entropy_hvp", (matrix, labels % 7, x)),
        ("linear_cross_entropy_hvp", (matrix, labels % 7, parts)),
        ("linear_cross_entropy_hvp", (matrix, labels % 7, (None, None, x[0]))),
        ("linear_cross_entropy_hvp", (matrix, labels % 7, (x, x, None))),
        ("linear_cross_entropy_hvp", (matrix, labels % 7, (x * 1j, None, None))),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError)) as ours:
            getattr(fx, name)(x, *args)
        with pytest.raises(type(ours.value)) as error:
            getattr(fx, name)(x_of(x), *args)
        assert str(error.value) == str(ours.value), name
    with pytest.raises(ValueError, match=r"at least one class, got shape \(4, 0\)"):
        fx.entropy(da.zeros((4, 0)))


def x_of(array):
    """The array in chunks of rows."""
    return da.from_array(array, (5, -1))


def test_half_precision_weights_are_summed_in_float32(rng):
    """Gradients of weights are rounded to half precision once, not block by block."""
    x, matrix = rng.standard_normal((512, 4)), rng.standard_normal((3, 4)).astype(np.float16)
    labels = rng.integers(0, 3, 512)
    lazy = da.from_array(x.astype(np.float16), (8, 4))
    got = fx.linear_cross_entropy(lazy, matrix, labels, return_grad=True)[1].linear_weight
    want = reference.linear_cross_entropy(x.astype(np.float16), matrix, labels, return_grad=True)
    spacing = np.spacing(np.abs(want[1].linear_weight).astype(np.float16)).astype(np.float64)
    assert got.dtype == np.float16
    assert (np.abs(got.compute() - want[1].linear_weight) <= 0.51 * spacing).all()


# --- errors, and when ---------------------------------------------------------------------------


def never(block):
    raise AssertionError("computed")


def unread(shape, chunks, dtype=np.float64):
    """An array that must not be computed."""
    meta = np.empty((0,) * len(shape), dtype)
    return da.zeros(shape, chunks=chunks, dtype=dtype).map_blocks(never, dtype=dtype, meta=meta)


@pytest.mark.parametrize("chunks", CHUNKS, ids=IDS)
def test_nothing_is_computed_at_the_call(chunks):
    x, y, q = unread((N, C), chunks), unread((N,), 4, np.int64), unread((N, C), 3)
    w, u = unread((C,), 3), unread((N,), 2)
    results = [
        *flat(fx.cross_entropy(x, y, weight=w, sample_weight=u, **ALL)),
        *flat(fx.cross_entropy(x, q, normalizer=unread((), ()), **ALL)),
        fx.softmax(x), fx.log_softmax(x), fx.logsumexp(x), fx.categorical_cross_entropy(x, y),
        fx.binary_cross_entropy(x, q, weight=u[:, None]),
        *flat(fx.linear_cross_entropy(x, unread((5, C), 3), y, return_grad=True)),
    ]  # fmt: skip
    for result in results:
        with pytest.raises(AssertionError, match="computed"):
            result.compute()


@pytest.mark.parametrize("chunks", [(4, -1), (4, 2)], ids=["rows", "classes"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_bad_label_is_an_error_of_the_computation(chunks, reduction):
    """Of the first of all blocks, by its place in the whole array, in NumPy's words."""
    array, labels = np.zeros((10, 3)), np.zeros(10, np.int64)
    labels[[6, 9]] = 3, -1
    x = da.from_array(array, chunks)
    with pytest.raises(IndexError) as ours:
        fx.cross_entropy(array, labels)
    lazy = fx.cross_entropy(x, labels, reduction=reduction, return_grad=True, return_lse=True)
    for result in lazy[:2]:
        with pytest.raises(IndexError) as error:
            result.compute()
        assert str(error.value) == str(ours.value)
    deep = fx.cross_entropy(da.zeros((4, 5, 3), chunks=(2, 2, 3)), np.full((4, 5), [0, 0, 0, 7, 0]))
    with pytest.raises(IndexError, match=r"target\[0, 3\] must be a class in 0 .. 2 or"):
        deep.compute()
    with pytest.raises(IndexError, match=f"got {2**64 - 100}"):
        fx.cross_entropy(x, np.full(10, 2**64 - 100, np.uint64)).compute()
    with pytest.raises(IndexError, match="0 .. 1, got 2"):
        fx.linear_cross_entropy(
            da.zeros((3, 2)), np.zeros((2, 2)), [0, 2, 0], ignore_index=None
        ).compute()


X = np.zeros((4, 3))
BAD = {
    "axis": dict(axis=2), "axis type": dict(axis=1.5), "axis bool": dict(axis=True),
    "target shape": dict(target=np.zeros(5, int)), "float labels": dict(target=np.zeros(4)),
    "bool labels": dict(target=np.zeros(4, bool)), "complex target": dict(target=X * 1j),
    "masked": dict(target=np.ma.masked_array([0] * 4)), "ragged": dict(target=[[0], [1, 2]]),
    "weight": dict(weight=np.ones(4)), "sample_weight": dict(sample_weight=np.ones((4, 1))),
    "complex weight": dict(weight=1j * np.ones(3)), "reduction": dict(reduction="max"),
    "smoothing": dict(label_smoothing=1.5), "softcap": dict(softcap=0.0),
    "z_loss": dict(z_loss="1"), "scale": dict(logit_scale=np.nan), "flag": dict(return_grad="yes"),
    "ignored": dict(target=X, ignore_index=1), "ignore_index": dict(ignore_index=1.0),
    "normalizer": dict(normalizer=[1.0]), "normalizer bool": dict(normalizer=True),
    "normalizer and sum": dict(normalizer=1.0, reduction="sum"), "unknown": dict(spam=1),
}  # fmt: skip


@pytest.mark.parametrize("given", BAD.values(), ids=BAD)
def test_other_errors_are_those_of_the_call(given):
    """The words are NumPy's, whether the arguments are Dask's or NumPy's."""
    given = {"target": np.zeros(4, int)} | given
    with pytest.raises((TypeError, ValueError)) as ours:
        fx.cross_entropy(X, **given)
    lazy = {name: da.from_array(value) if type(value) is np.ndarray else value
            for name, value in given.items()}  # fmt: skip
    for arguments in (given, lazy):
        for chunks in ((2, 3), (2, 1)):
            with pytest.raises(type(ours.value)) as error:
                fx.cross_entropy(da.from_array(X, chunks), **arguments)
            assert str(error.value) == str(ours.value)


def test_errors_of_the_other_functions():
    """Likewise."""
    for name, args, given in (
        ("softmax", [X * 1j], {}), ("softmax", [np.zeros(())], {}),
        ("logsumexp", [X], dict(axis=5)),
        ("logsumexp", [X], dict(keepdims="no")),
        ("categorical_cross_entropy", [X, X], dict(eps=0.7)),
        ("binary_cross_entropy", [X, np.zeros(4)], {}),
        ("binary_cross_entropy", [X, X], dict(weight=np.ones((2, 4, 3)))),
        ("binary_cross_entropy_with_logits", [X, X * 1j], {}),
        ("linear_cross_entropy", [X, np.zeros((5, 4)), [0] * 4], {}),
        ("linear_cross_entropy", [X, np.zeros(3), [0] * 4], {}),
        ("linear_cross_entropy", [X, np.zeros((5, 3)), [0] * 3], {}),
        ("linear_cross_entropy", [X, np.zeros((5, 3)), [0] * 4], dict(linear_bias=np.zeros(3))),
        ("linear_cross_entropy", [X, np.zeros((5, 3)), [0] * 4], dict(weight=np.zeros(3))),
        ("linear_cross_entropy", [X, np.zeros((5, 3)), [0] * 4], dict(accumulate=True)),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError)) as ours:
            getattr(fx, name)(*args, **given)
        with pytest.raises(type(ours.value)) as error:
            getattr(fx, name)(da.from_array(args[0]), *args[1:], **given)
        assert str(error.value) == str(ours.value), name


class Late:
    """An array at the second look."""

    looks = 0

    def __array__(self, *args, **kwargs):
        self.looks += 1
        if self.looks < 2:
            raise RuntimeError("not yet")
        return np.zeros(4, int)


def test_arguments_that_are_almost_numpy_arrays(tmp_path, monkeypatch):
    """Subclasses are NumPy's arrays; what does not fit is named without computing."""
    array = np.arange(12.0).reshape(4, 3)
    x = da.from_array(array, (2, 2))
    for name, value in (("target", np.array([0, 2, 1, 1])), ("weight", np.ones(3)),
                        ("sample_weight", np.arange(4.0))):  # fmt: skip
        mapped = np.memmap(tmp_path / name, value.dtype, "w+", shape=value.shape)
        mapped[:] = value
        how = {"target": [0, 1, 2, 0], "return_grad": True} | {name: mapped}
        agree(fx.cross_entropy(x, **how), fx.cross_entropy(array, **how), 1e-12)
    for kernel in ("cross_entropy", "linear_cross_entropy", "binary_cross_entropy"):
        monkeypatch.setattr(backend, kernel, lambda call: never(call))
    for name, args in (("cross_entropy", ()), ("linear_cross_entropy", (np.zeros((3, 3)),))):
        for given in (dict(target=Late()), dict(target=[0] * 4, sample_weight=Late())):
            odd = "sample_weight" if len(given) > 1 else "target"
            match = rf"{odd} must be an array that fits \w+ of shape \(4, 3\), got Late"
            with pytest.raises(ValueError, match=match):
                getattr(fx, name)(x, *args, **given)
    with pytest.raises(ValueError, match="weight must be an array that fits probs"):
        fx.binary_cross_entropy(x.T, X.T, weight=Late())
    with pytest.raises(TypeError, match="target must be an array or a nested sequence, got None"):
        fx.binary_cross_entropy(x, None)


def test_what_dask_has_beside_numpy_is_refused():
    """Buffers, chunks of unknown sizes, blocks that are no NumPy arrays, other collections."""
    x = da.from_array(X)
    for buffer in ("out", "grad_out", "probs_out"):
        function, target = (fx.softmax, ()) if buffer == "out" else (fx.cross_entropy, ([0] * 4,))
        with pytest.raises(ValueError, match=f"{buffer} must be None"):
            function(x, *target, **{buffer: np.empty_like(X)})
    unknown = x[da.from_array(np.ones(4)) > 0]
    with pytest.raises(ValueError, match="logits must have chunks of known sizes"):
        fx.softmax(unknown)
    with pytest.raises(ValueError, match="target must have chunks of known sizes"):
        fx.cross_entropy(x, unknown[:, 0].astype(int))
    masked = da.ma.masked_equal(x, 1)
    with pytest.raises(TypeError, match=r"logits must be a Dask array of NumPy arrays, .*Masked"):
        fx.softmax(masked)
    with pytest.raises(TypeError, match=r"logits must be a dask.array.Array, got Delayed"):
        fx.softmax(dask.delayed(X))
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'target'"):
        fx.cross_entropy(x)


# --- how ----------------------------------------------------------------------------------------


def test_a_block_is_computed_once_for_all_of_its_results(data):
    """A loss, its gradient and the rest come from the same tasks; threads give the same bits."""
    array, labels, *_ = data
    seen = []

    def count(block):
        seen.append(block.shape)
        return block

    for chunks, blocks in (((5, 11), 3), ((5, 4), 9)):
        x = da.from_array(array, chunks)
        x = x.map_blocks(count, dtype=x.dtype, meta=np.empty((0, 0)))
        seen.clear()
        one = dask.compute(*fx.cross_entropy(x, labels, **ALL))
        assert len(seen) == blocks
        two = dask.compute(*fx.cross_entropy(x, labels, **ALL), scheduler="threads")
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)


def test_tasks_use_one_thread(data, monkeypatch):
    """Dask shares the work; the caller's own number stays."""
    numbers = []

    def watch(function):
        body = function.body

        def watched(*args, **kwargs):
            numbers.append(fx.get_num_threads())
            return body(*args, **kwargs)

        monkeypatch.setattr(function, "body", watched)

    one, several = (fx.softmax(da.from_array(data[0], (5, n))) for n in (11, 4))
    watch(functions.SOFTMAX)
    watch(functions.CROSS_ENTROPY)  # which chunks of classes are computed by
    with fx.num_threads(3):
        one.compute()
        several.compute()
        assert fx.get_num_threads() == 3
    assert set(numbers) == {1}


def test_what_chunks_of_classes_do_not_know(data, monkeypatch):
    """For an option or a result that cannot be merged, classes are put into one chunk."""
    classes = importlib.import_module("fastxent.arrays.dask.classes")
    x, labels = data[0], data[1]
    how = dict(z_loss=0.1, return_lse=True)
    want = fx.cross_entropy(x, labels, **how)
    merged = classes.cross_entropy
    monkeypatch.setattr(classes, "cross_entropy", lambda call: pytest.fail("merged"))
    for name, known in (("_OPTIONS", {"z_loss"}), ("_RESULTS", {"lse"})):
        with monkeypatch.context() as patch:
            patch.setattr(classes, name, getattr(classes, name) - known)
            agree(fx.cross_entropy(da.from_array(x, (5, 4)), labels, **how), want, 1e-12)
    monkeypatch.setattr(classes, "cross_entropy", merged)
    agree(fx.cross_entropy(da.from_array(x, (5, 4)), labels, **how), want, 1e-12)


def test_dask_is_not_imported_before_its_first_array():
    code = (
        "import sys, numpy as np, fastxent as fx; fx.softmax(np.ones(3)); "
        "assert 'dask' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
