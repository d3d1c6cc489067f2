"""The corner table of the contract, position by position, beside NumPy's own arithmetic."""

import itertools

import numpy as np
import pytest

import fastxent as fx
from fastxent import reference

INF, NAN = np.inf, np.nan
SPECIAL = [0.0, 1.5, -INF, INF, NAN]


def all_outputs(module, logits, labels, **options):
    flags = ("grad", "probs", "lse", "hess", "argmax")
    return module.cross_entropy(
        logits, labels, reduction="none", **options, **{f"return_{flag}": True for flag in flags}
    )


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.3}, {"softcap": 2.0},
                                     {"logit_scale": -2.0}, {"z_loss": 0.1}])  # fmt: skip
def test_every_row_of_special_values(dtype, options):
    """Each row over {0, 1.5, -inf, inf, nan}, each target: what the reference says, and no warning.

    Rows sit at different places of the vectors: widths 3, 16 + 3 and 40 padded with -inf or 0.5.
    """
    for width, fill in ((3, 0.0), (19, -INF), (19, 0.5), (40, -2.0)):
        rows = np.array(list(itertools.product(SPECIAL, repeat=3)))
        logits = np.full((len(rows), width), fill, dtype)
        logits[:, -3:] = rows
        for y in (width - 3, width - 1, 0):
            labels = np.full(len(rows), y)
            got = all_outputs(fx, logits, labels, **options)
            want = all_outputs(reference, logits.astype(np.longdouble), labels, **options)
            for name, a, b in zip(
                ("loss", "grad", "probs", "lse", "hess", "argmax"), got, want, strict=True
            ):
                np.testing.assert_allclose(a, b.astype(a.dtype), rtol=1e-5, atol=1e-7, err_msg=name)


def test_softmax_family_of_special_rows(dtype):
    """Softmax, log_softmax and logsumexp of every row of special values."""
    rows = np.array(list(itertools.product(SPECIAL, repeat=3)), dtype)
    for name in ("softmax", "log_softmax", "logsumexp"):
        want = getattr(reference, name)(rows.astype(np.longdouble))
        np.testing.assert_allclose(getattr(fx, name)(rows), want.astype(dtype), rtol=1e-6)


@pytest.mark.parametrize("bad", [-INF, INF, NAN])
def test_bad_rows_do_not_touch_others(rng, dtype, bad):
    """The bits of other rows do not depend on a bad one."""
    logits = rng.standard_normal((6, 21)).astype(dtype)
    labels = rng.integers(0, 21, 6)
    clean = all_outputs(fx, logits, labels)
    spoilt = logits.copy()
    spoilt[2] = bad
    for a, b in zip(all_outputs(fx, spoilt, labels), clean, strict=True):
        np.testing.assert_array_equal(np.delete(a, 2, 0), np.delete(b, 2, 0))


def test_minus_inf_at_the_target(dtype):
    """Loss +inf, gradient -1·scale at the target, softmax of the others."""
    logits = np.array([[-INF, 1.0, 2.0]], dtype)
    loss, grad = fx.cross_entropy(logits, [0], return_grad=True)
    assert loss == INF
    np.testing.assert_array_equal(grad[0, 0], -1)
    np.testing.assert_allclose(grad[0, 1:], fx.softmax(logits[0, 1:]), rtol=1e-6)


def test_minus_inf_elsewhere(dtype):
    """Finite loss and gradient exactly 0; with smoothing +inf and -(u/D)·w_c·ε/C."""
    logits = np.array([[-INF, 1.0, 2.0]], dtype)
    loss, grad = fx.cross_entropy(logits, [1], return_grad=True)
    assert np.isfinite(loss)
    assert grad[0, 0] == 0
    loss, grad = fx.cross_entropy(logits, [1], label_smoothing=0.3, return_grad=True)
    assert loss == INF
    np.testing.assert_allclose(grad[0, 0], -0.1, rtol=1e-6)


@pytest.mark.parametrize("classes", [20, 700, 1500])
def test_masked_classes_in_long_rows(dtype, classes):
    """-inf all over a row: finite loss, +inf under smoothing, 0 where it has no weight."""
    logits = np.zeros((1, classes), dtype)
    logits[0, ::3] = -INF
    plain = fx.cross_entropy(logits, [1])
    np.testing.assert_allclose(plain, np.log(np.isfinite(logits).sum()), rtol=1e-6)
    assert fx.cross_entropy(logits, [1], label_smoothing=0.1) == INF
    weight = np.ones(classes)
    weight[::3] = 0
    got = fx.cross_entropy(logits, [1], weight=weight, label_smoothing=0.1, reduction="sum")
    want = reference.cross_entropy(logits, [1], weight=weight, label_smoothing=0.1, reduction="sum")
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_zero_weight_adds_exactly_nothing(dtype):
    """A class of weight 0 adds 0 even where its logit is -inf, as target and under smoothing."""
    logits = np.array([[-INF, 1.0, 2.0]], dtype)
    for smoothing in (0.0, 0.3):
        loss, grad = fx.cross_entropy(
            logits, [0], weight=[0, 1, 1], reduction="sum", label_smoothing=smoothing,
            return_grad=True,
        )  # fmt: skip
        assert np.isfinite(loss)
        assert np.isfinite(grad).all()
        assert (loss == 0) == (smoothing == 0)


@pytest.mark.parametrize("row", [[NAN, 1, 2], [1, NAN, 2], [INF, 1, 2], [1, 2, INF], [-INF] * 3])
def test_a_bad_row_is_nan_even_without_class_weight(dtype, row):
    """w_y = 0 silences a term, not a row that is nan: loss and gradient agree."""
    loss, grad = fx.cross_entropy(
        np.array([row], dtype), [0], weight=[0, 1, 1], reduction="sum", return_grad=True
    )
    assert np.isnan(loss)
    assert np.isnan(grad).all()


@pytest.mark.parametrize("options", [{"softcap": 3.0}, {"logit_scale": 0.0}, {"logit_scale": -2.0},
                                     {"logit_scale": 0.0, "softcap": 3.0}])  # fmt: skip
def test_lse_of_transformed_special_rows(dtype, options):
    """Lse speaks of the logits after scale and softcap: 0·inf is nan, a capped inf is the cap."""
    rows = np.array(list(itertools.product(SPECIAL, repeat=2)), dtype)
    labels = np.zeros(len(rows), int)
    got = all_outputs(fx, rows, labels, **options)[3]
    want = all_outputs(reference, rows.astype(np.longdouble), labels, **options)[3]
    np.testing.assert_allclose(got, want.astype(dtype), rtol=1e-6)


def test_ignored_rows(dtype):
    """Exactly 0 whatever their logits hold, but lse, probs and argmax are given."""
    logits = np.array([[NAN, 1.0], [INF, 0.0], [3.0, 1.0], [0.5, 0.0]], dtype)
    labels = [-100, -100, -100, 0]
    loss, grad, probs, lse, hess, argmax = all_outputs(fx, logits, labels)
    for array in (loss, grad, hess):
        assert (array[:3] == 0).all()
        assert (array[3] != 0).any()
    np.testing.assert_array_equal(np.isnan(probs).all(-1), [True, True, False, False])
    np.testing.assert_allclose(probs[2:].sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(lse, [NAN, INF, 3.126928, 0.974077], rtol=1e-6)
    np.testing.assert_array_equal(argmax, [0, 0, 0, 0])


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        ([], {}),
        ([-100, -100], {}),
        ([0, 1], {"weight": [0, 0]}),
        ([0, 1], {"sample_weight": [0, 0]}),
        ([0, 1], {"normalizer": 0}),
    ],
)
def test_mean_over_nothing(dtype, labels, options):
    """Divisor 0: the mean is nan and the gradient zeros, even of a nan row; the sum is a sum."""
    logits = np.array([[1.0, 2.0], [NAN, 0.0]], dtype)[: len(labels)]
    loss, grad = fx.cross_entropy(logits, labels, return_grad=True, **options)
    assert np.isnan(loss)
    np.testing.assert_array_equal(grad, np.zeros_like(logits))
    x = np.ones((len(labels), 3))
    loss, linear = fx.linear_cross_entropy(x, np.ones((2, 3)), labels, return_grad=True, **options)
    assert np.isnan(loss)
    assert not linear.x.any()
    assert not linear.linear_weight.any()
    if labels == []:
        assert fx.cross_entropy(logits, labels, reduction="sum") == 0
        assert fx.cross_entropy(logits, labels, reduction="none").shape == (0,)
        assert fx.cross_entropy(logits, labels, normalizer=2.0) == 0


def test_logsumexp_corners(dtype):
    """All -inf; +inf; an empty axis; [0, -40]."""
    assert fx.logsumexp(np.array([-INF, -INF], dtype)) == -INF
    assert fx.logsumexp(np.array([1, INF], dtype)) == INF
    assert np.isnan(fx.logsumexp(np.array([NAN, INF], dtype)))
    np.testing.assert_array_equal(fx.logsumexp(np.empty((2, 0), dtype)), [-INF, -INF])
    np.testing.assert_allclose(fx.logsumexp(np.array([0, -40], dtype)), 4.248354e-18, rtol=1e-6)


@pytest.mark.parametrize("label", [2, -1, 5_000_000_000, -(2**63)])
def test_unchecked_bad_label_is_nan(dtype, label):
    """check_target=False: the bad row is nan, the others are as ever, nothing is out of bounds."""
    logits = np.array([[1.0, 2.0], [0.5, 0.0], [3.0, 1.0]], dtype)
    loss, grad = fx.cross_entropy(
        logits, [0, label, 1], reduction="none", return_grad=True, check_target=False
    )
    assert np.isnan(loss[1])
    assert np.isnan(grad[1]).all()
    want = fx.cross_entropy(logits, [0, 0, 1], reduction="none", return_grad=True)
    np.testing.assert_array_equal(loss[::2], want[0][::2])
    np.testing.assert_array_equal(grad[::2], want[1][::2])


def test_what_a_type_cannot_hold_is_infinite():
    """Overflow of a sum, a weight, a product or a half: inf or nan, and no warning."""
    flat = np.zeros((2, 3), np.float32)
    assert fx.cross_entropy(flat, [0, 1], sample_weight=[1e300, 1], reduction="sum") == INF
    assert fx.cross_entropy(flat, [0, 1], weight=[1e300, 1, 1], reduction="sum") == INF
    assert fx.cross_entropy(flat, [0, 1], normalizer=1e-320) == INF
    assert fx.cross_entropy(flat, [0, 1], weight=[1e-46] * 3) == np.float32(np.log(3))
    tiny = {"sample_weight": [1e-310] * 2}
    _, grad = fx.cross_entropy(flat.astype(float), [0, 1], return_grad=True, **tiny)
    np.testing.assert_allclose(grad[0], [-2 / 6, 1 / 6, 1 / 6], rtol=1e-12)
    half = np.full((1, 1), 65504, np.float16)
    _, grad = fx.cross_entropy(half, [0], z_loss=1.0, return_grad=True)  # 2·lse·p
    assert grad[0, 0] == INF
    assert fx.logsumexp(np.full(1 << 24, 65504, np.float16)) == INF
    huge = np.full((2, 3), 1e30, np.float32)
    loss, grad = fx.linear_cross_entropy(huge, huge, [0, 1], return_grad=True)
    assert np.isnan(loss)
    assert np.isnan(grad.linear_weight).all()
    loss, grad, lse = fx.cross_entropy(
        [[1e300, 0.0]], [0], logit_scale=1e10, return_grad=True, return_lse=True
    )
    assert loss == 0
    assert not grad.any()
    assert lse == INF


def test_the_users_error_state_does_not_matter():
    """np.errstate(all="raise") around a call changes nothing, in any thread."""
    half = np.linspace(0, -20, 3000 * 300).reshape(3000, 300).astype(np.float16)
    bias = np.full(1000, -INF, np.float32)
    x, w = np.full((4000, 2), INF, np.float32), np.ones((1000, 2), np.float32)
    with np.errstate(all="raise"), fx.num_threads(3):
        assert np.isfinite(fx.softmax(half)).all()
        flat = np.zeros((2, 2), np.float32)
        assert np.isfinite(fx.cross_entropy(flat, [0, 1], weight=[1e-46, 1], label_smoothing=0.1))
        assert np.isnan(fx.linear_cross_entropy(x, w, np.zeros(4000, int), linear_bias=bias))


def test_linear_ignored_and_nan_rows(rng, dtype):
    """An ignored row adds nothing even where its x holds nan; a counted nan row makes nan."""
    x = rng.standard_normal((5, 3)).astype(dtype)
    w = rng.standard_normal((4, 3)).astype(dtype)
    spoilt = x.copy()
    spoilt[1] = NAN
    for accumulate in (False, True):
        buffers = fx.LinearGrad(np.zeros_like(x), np.zeros_like(w), None)
        _, grad = fx.linear_cross_entropy(
            spoilt, w, [0, -100, 2, 3, 1], grad_out=buffers, accumulate=accumulate
        )
        assert not grad.x[1].any()
        _, clean = fx.linear_cross_entropy(np.delete(x, 1, 0), w, [0, 2, 3, 1], return_grad=True)
        np.testing.assert_allclose(grad.linear_weight, clean.linear_weight, rtol=1e-5, atol=1e-6)
    _, grad = fx.linear_cross_entropy(spoilt, w, [0, 1, 2, 3, 1], return_grad=True)
    assert np.isnan(grad.linear_weight).all()
    assert np.isnan(grad.x[1]).all()
    assert np.isfinite(np.delete(grad.x, 1, 0)).all()
