"""Calls that are prepared once a kind: the same bits, and the same errors, as by the long way."""

import itertools

import numpy as np
import pytest

import fastxent as fx
from fastxent import prepared

N, C = 19, 7


@pytest.fixture(autouse=True)
def _no_kinds(monkeypatch):
    """No kind is known at first."""
    monkeypatch.setattr(prepared, "_kinds", {})


@pytest.fixture
def arrays(rng):
    """Arrays of a call, in float32 and float64."""
    logits = 3 * rng.standard_normal((N, C))
    soft = rng.random((N, C))
    return {
        kind: {
            "logits": logits.astype(kind), "by class": np.ascontiguousarray(logits.T, kind),
            "probs": soft.astype(kind),
            "class": rng.random(C).astype(kind), "row": rng.random(N).astype(kind),
            "labels": np.arange(N) % C, "narrow": (np.arange(N) % C).astype("u1"),
            "hard": (logits > 0).astype(kind),
        }
        for kind in "fd"
    }  # fmt: skip


LOGITS = [
    {}, {"reduction": "none"}, {"reduction": "sum", "label_smoothing": 0.1}, {"z_loss": 1e-3},
    {"softcap": 5.0, "logit_scale": 0.5}, {"ignore_index": 3}, {"ignore_index": None},
    {"normalizer": 40.0}, {"check_target": False, "reduction": "sum"},
    {"return_lse": True, "return_probs": True, "return_argmax": True}, {"return_hess": True},
]  # fmt: skip


def calls(a):
    """Calls of many kinds on the arrays of one type."""
    weights = [
        {}, {"weight": a["class"]}, {"sample_weight": a["row"]},
        {"weight": a["class"], "sample_weight": a["row"]},
    ]  # fmt: skip
    for options, given, grad in itertools.product(LOGITS, weights, (False, True)):
        more = options | given | {"return_grad": grad}
        for labels in (a["labels"], a["narrow"], a["labels"].tolist()):
            yield fx.cross_entropy, (a["logits"], labels), more
        yield fx.cross_entropy, (a["by class"], a["labels"]), more | {"axis": 0}
        if "ignore_index" not in options:
            yield fx.cross_entropy, (a["logits"], a["probs"]), more
            yield fx.cross_entropy, (a["by class"], a["probs"].T.copy()), more | {"axis": 0}
    for eps, given, how in itertools.product((None, 0.1), weights, ("none", "mean")):
        more = given | {"eps": eps, "reduction": how, "return_grad": True}
        for target in (a["labels"], a["probs"]):
            yield fx.categorical_cross_entropy, (a["probs"], target), more
    for given, how in itertools.product(({}, {"weight": a["probs"]}), ("none", "mean")):
        more = given | {"reduction": how, "return_grad": True}
        yield fx.binary_cross_entropy, (a["probs"], a["hard"]), more
        yield fx.binary_cross_entropy_with_logits, (a["logits"], a["hard"]), more
    both = {"weight": a["probs"], "pos_weight": a["hard"], "return_hess": True}
    yield fx.binary_cross_entropy_with_logits, (a["logits"], a["hard"]), both


def bits(answer):
    """Types, shapes and bytes of what a call returned."""
    parts = answer if isinstance(answer, tuple) else (answer,)
    return [(type(a), a.dtype, a.shape, a.tobytes()) for a in parts]


@pytest.mark.parametrize("kind", "fd")
def test_bits_of_the_long_way(arrays, kind):
    """The third call of a kind, which is prepared, gives what the first gave."""
    found = list(calls(arrays[kind]))
    for function, args, options in found:
        first, *_, third = (bits(function(*args, **options)) for _ in range(3))
        assert first == third
    kinds = [kind for kind in prepared._kinds.values() if isinstance(kind, prepared.PreparedCall)]
    assert len(kinds) > 0.6 * len(found)  # those without options have a way of their own


def said(function, *args, **options):
    """What a call raises."""
    with pytest.raises((IndexError, TypeError, ValueError)) as error:
        function(*args, **options)
    return type(error.value), str(error.value)


@pytest.mark.parametrize("kind", "fde")
@pytest.mark.parametrize("axis", [1, 2, -1])
def test_bits_of_arrays_of_any_rank(rng, kind, axis):
    """The same for batches of rows, and for small planes of classes, which are copied."""
    x = rng.standard_normal((3, C, 2, 5)).astype(kind)
    rows = np.delete(x.shape, axis)
    labels, soft = rng.integers(0, x.shape[axis], rows), rng.random(x.shape).astype(kind)
    given = {"axis": axis, "sample_weight": rng.random(rows), "grad_out": np.empty_like(x)}
    for target, reduction in itertools.product((labels, soft), ("none", "mean")):
        more = given | {"reduction": reduction, "return_probs": True, "return_lse": True}
        first, *_, third = (bits(fx.cross_entropy(x, target, **more)) for _ in range(3))
        assert first == third
        over = x.copy()
        assert bits(fx.cross_entropy(over, target, **more | {"grad_out": over})) == first
    is_prepared = kind != "e" or axis == -1
    assert {type(k) is prepared.PreparedCall for k in prepared._kinds.values()} == {is_prepared}


def test_planes_that_are_read_as_they_are(rng):
    """A kind that was prepared with small planes gets large ones, and single ones."""
    small = rng.standard_normal((2, C, 4, 4))
    for _ in range(3):
        fx.cross_entropy(small, np.zeros((2, 4, 4), int), axis=1, z_loss=0.1, return_grad=True)
    for shape in ((2, C, 64, 64), (1, C, 4, 4), (2, C, 1, 1)):
        x, labels = rng.standard_normal(shape), np.zeros((shape[0], *shape[2:]), int)
        found = bits(fx.cross_entropy(x, labels, axis=1, z_loss=0.1, return_grad=True))
        kinds = dict(prepared._kinds)
        prepared._kinds.clear()
        assert bits(fx.cross_entropy(x, labels, axis=1, z_loss=0.1, return_grad=True)) == found
        prepared._kinds.update(kinds)


def test_errors_of_the_long_way(arrays, monkeypatch):
    """What is refused is refused in the same words, whatever was prepared before."""
    a = arrays["f"]
    x, y, w, u = a["logits"], a["labels"], a["class"], a["row"]
    good = {"weight": w, "sample_weight": u, "label_smoothing": 0.1, "return_grad": True}
    read_only = np.empty_like(x)
    read_only.flags.writeable = False
    bad = [
        ((x, y + 1), {}), ((x, y[:-1]), {}), ((x, y.astype(float)), {}), ((x, y), {"axis": 5}),
        ((x, y), {"weight": w[:-1]}), ((x, y), {"sample_weight": u[:-1]}), ((x, y), {"axis": 1.0}),
        ((x, y), {"label_smoothing": 1.5}), ((x, y), {"label_smoothing": True}),
        ((x, y), {"return_grad": 1.0}), ((x, y), {"reduction": ["mean"]}), ((x, y), {"axis": True}),
        ((x, y), {"grad_out": read_only}), ((x, y), {"grad_out": np.empty_like(x).T}),
        ((x, y), {"grad_out": np.empty((N, C))}), ((x, y), {"normalizer": "many"}),
        ((x, y), {"reduction": "sum", "normalizer": 3.0}), ((x, (y + 1).tolist()), {}),
        ((x, a["probs"]), {"ignore_index": 2}), ((x, y), {"softcap": -1.0}),
    ]  # fmt: skip
    fresh = [said(fx.cross_entropy, *args, **good | options) for args, options in bad]
    for args in ((x, y), (x, y.tolist()), (x, a["probs"])):
        for more in ({}, {"grad_out": np.empty_like(x)}, {"normalizer": 3.0}):
            for _ in range(3):
                fx.cross_entropy(*args, **good | more)
    assert sum(isinstance(kind, prepared.PreparedCall) for kind in prepared._kinds.values()) >= 6
    assert [said(fx.cross_entropy, *args, **good | options) for args, options in bad] == fresh


def test_layouts_that_change(arrays):
    """A kind that was prepared with plain arrays gets others; and the other way round."""
    a = arrays["f"]
    x, y = a["logits"], a["labels"]
    memory = np.empty(x.nbytes + 1, np.uint8)[1:]
    unaligned = memory.view(x.dtype).reshape(x.shape)
    unaligned[:] = x
    gaps = np.repeat(x, 2, axis=1)[:, ::2]
    strided = np.repeat(y, 2)[::2]
    for order in (1, -1):
        prepared._kinds.clear()
        found = set()
        pairs = [(x, y), (np.asfortranarray(x), y), (gaps, y), (unaligned, y), (x, strided)]
        for logits, labels in pairs[::order]:
            for _ in range(3):
                loss, grad = fx.cross_entropy(logits, labels, z_loss=0.1, return_grad=True)
                found.add(round(float(loss), 5))
                np.testing.assert_allclose(grad.sum(1), 0.2 / N * lse(x), atol=1e-6)
        assert len(found) == 1


def test_shapes_that_change(arrays):
    """Other numbers of rows, and more than a kernel takes at once, are of the same kind."""
    x, y = arrays["f"]["by class"], arrays["f"]["labels"]
    many, labels = np.tile(x, 3000), np.tile(y, 3000)
    for n in (N, N, N, 1, 2, N):
        part = np.ascontiguousarray(x[:, :n])
        loss, grad = fx.cross_entropy(part, y[:n], axis=0, z_loss=0.1, return_grad=True)
        want, want_grad = fx.cross_entropy(part.T.copy(), y[:n], z_loss=0.1, return_grad=True)
        assert loss == want
        np.testing.assert_allclose(grad, want_grad.T, rtol=1e-6, atol=1e-9)
    whole = fx.cross_entropy(many, labels, axis=0, z_loss=0.1)
    assert whole == pytest.approx(fx.cross_entropy(x, y, axis=0, z_loss=0.1), rel=1e-6)


def lse(x):
    """Σ of the gradient of z_loss·lse² over a row, over its factor."""
    return np.log(np.exp(x.astype(float)).sum(1))


def test_buffers_and_places(arrays):
    """A buffer is filled and returned; over the logits; and refused where it covers weights."""
    a = arrays["d"]
    x, y = a["logits"], a["labels"]
    want = fx.cross_entropy(x, y, z_loss=0.1, return_grad=True)[1]
    for _ in range(3):
        buffer = np.empty_like(x)
        loss, grad = fx.cross_entropy(x, y, z_loss=0.1, grad_out=buffer)
        assert grad is buffer and np.array_equal(buffer, want)
        over = x.copy()
        assert fx.cross_entropy(over, y, z_loss=0.1, grad_out=over)[1] is over
        assert np.array_equal(over, want)
        probs = np.empty_like(x)
        found = fx.cross_entropy(x, y, z_loss=0.1, grad_out=buffer, probs_out=probs)
        assert found[-1] is probs
        np.testing.assert_allclose(probs, fx.softmax(x), rtol=1e-14)
    with pytest.raises(ValueError, match="must not overlap sample_weight"):
        fx.cross_entropy(x, y, z_loss=0.1, sample_weight=buffer.reshape(-1)[:N], grad_out=buffer)


def test_kinds_are_bounded(arrays, monkeypatch):
    """Too many kinds are forgotten together; all calls go on."""
    monkeypatch.setattr(prepared, "_MOST_KINDS", 5)
    x, y = arrays["f"]["logits"], arrays["f"]["labels"]
    for k in range(40):
        for _ in range(3):
            fx.cross_entropy(x, y, z_loss=float(k))
        assert len(prepared._kinds) <= 5


def test_nothing_of_no_rows(arrays):
    """No rows, and rows that are all ignored, take the long way to their corner cases."""
    x, y = arrays["f"]["logits"], arrays["f"]["labels"]
    for _ in range(3):
        fx.cross_entropy(x, y, z_loss=0.1, return_grad=True)
        fx.cross_entropy(x, y, z_loss=0.1, ignore_index=-1, return_grad=True)
    assert np.isnan(fx.cross_entropy(x[:0], y[:0], z_loss=0.1, return_grad=True)[0])
    loss, grad = fx.cross_entropy(
        x, np.full_like(y, -1), z_loss=0.1, ignore_index=-1, return_grad=True
    )
    assert np.isnan(loss) and not grad.any()
