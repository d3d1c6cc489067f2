"""The corner cases of docs/specification.md, section 3: every position, beside NumPy."""

import itertools

import numpy as np
import pytest

import fastxent as fx
from fastxent import reference

INF, NAN = np.inf, np.nan
SPECIAL = [0.0, 1.5, -INF, INF, NAN]


def all_outputs(module, logits, labels, **options):
    """All outputs; loss and gradient are the same alone, by the kernel of narrow rows too.

    The gradient alone is laid out as the logits.
    """
    flags = ("grad", "probs", "lse", "hess", "argmax")
    options["reduction"] = "none"
    results = module.cross_entropy(
        logits, labels, **options, **{f"return_{flag}": True for flag in flags}
    )
    grad = {"grad_out": np.empty_like(logits)} if module is fx else {"return_grad": True}
    alone = module.cross_entropy(logits, labels, **options, **grad)
    for one, other in zip(alone, results, strict=False):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    return results


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.3}, {"softcap": 2.0},
                                     {"logit_scale": -2.0}, {"z_loss": 0.1}])  # fmt: skip
def test_every_row_of_special_values(dtype, layout, options):
    """Each row over {0, 1.5, -inf, inf, nan}, each target: what the reference says, and no warning.

    Rows sit at different places of the vectors: widths 3, 16 + 3 and 40 padded with -inf or 0.5.
    """
    for width, fill in ((3, 0.0), (19, -INF), (19, 0.5), (40, -2.0)):
        rows = np.array(list(itertools.product(SPECIAL, repeat=3)))
        logits = np.full((len(rows), width), fill, dtype)
        logits[:, -3:] = rows
        for y in (width - 3, width - 1, 0):
            labels = np.full(len(rows), y)
            got = all_outputs(fx, layout(logits), labels, **options)
            want = all_outputs(reference, logits.astype(np.longdouble), labels, **options)
            for name, a, b in zip(
                ("loss", "grad", "probs", "lse", "hess", "argmax"), got, want, strict=True
            ):
                np.testing.assert_allclose(a, b.astype(a.dtype), rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.3}, {"z_loss": 0.1}])
@pytest.mark.parametrize("width", [2, 3, 19, 40, 1000])
def test_a_subnormal_maximum(dtype, layout, options, width):
    """A row whose largest logit is subnormal, at any place, under a label and under probabilities.

    Kernels flush subnormal results to zero; the maximum has to stay equal to its element.
    """
    logits = np.full((width, width), -1, dtype)
    np.fill_diagonal(logits, 6 * np.finfo(dtype).smallest_subnormal)
    labels = np.arange(width) % 3 % width
    rows = np.eye(width, dtype=dtype)[labels]
    for target in (labels, rows):
        got = all_outputs(fx, layout(logits), target, **options)
        want = all_outputs(reference, logits.astype(np.longdouble), target, **options)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b.astype(a.dtype), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.3}, {"softcap": 2.0},
                                     {"weight": True}, {"z_loss": 0.1}])  # fmt: skip
def test_every_row_of_special_values_under_probabilities(dtype, layout, options):
    """Likewise under soft and one-hot rows: a class of no weight adds exactly 0, even at -inf."""
    targets = np.array([[0, 0, 1], [1, 0, 0], [0.5, 0, 0.5], [0, 0, 0], [0.2, 0.5, 0.3]])
    for width, fill in ((3, 0.0), (19, -INF), (19, 0.5), (40, -2.0)):
        rows = np.array(list(itertools.product(SPECIAL, repeat=3)))
        logits = np.full((len(rows), width), fill, dtype)
        logits[:, -3:] = rows
        given = options
        if "weight" in options:
            given = {"weight": np.where(np.arange(width) == width - 1, 0, 1.5)}
        for q in targets:
            target = np.zeros((len(rows), width), dtype)
            target[:, -3:] = q
            got = all_outputs(fx, layout(logits), layout(target), **given)
            want = all_outputs(reference, logits.astype(np.longdouble), target, **given)
            for name, a, b in zip(
                ("loss", "grad", "probs", "lse", "hess", "argmax"), got, want, strict=True
            ):
                np.testing.assert_allclose(a, b.astype(a.dtype), rtol=1e-5, atol=1e-7, err_msg=name)


def test_softmax_family_of_special_rows(dtype, layout):
    """Softmax, log_softmax and logsumexp of every row of special values."""
    rows = np.array(list(itertools.product(SPECIAL, repeat=3)), dtype)
    for name in ("softmax", "log_softmax", "logsumexp"):
        want = getattr(reference, name)(rows.astype(np.longdouble))
        np.testing.assert_allclose(getattr(fx, name)(layout(rows)), want.astype(dtype), rtol=1e-6)


@pytest.mark.parametrize("bad", [-INF, INF, NAN])
def test_bad_rows_do_not_touch_others(rng, dtype, layout, bad):
    """The bits of other rows do not depend on a bad one."""
    logits = layout(rng.standard_normal((6, 21)).astype(dtype))
    labels = rng.integers(0, 21, 6)
    clean = all_outputs(fx, logits, labels)
    spoilt = logits.copy("K")
    spoilt[2] = bad
    for a, b in zip(all_outputs(fx, spoilt, labels), clean, strict=True):
        np.testing.assert_array_equal(np.delete(a, 2, 0), np.delete(b, 2, 0))
    soft = rng.dirichlet(np.ones(21), 6)
    got, want = (all_outputs(fx, x, soft) for x in (spoilt, logits))
    for a, b in zip(got, want, strict=True):
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


@pytest.mark.parametrize("classes", [2, 400])
def test_gradient_beside_ignored_rows(dtype, classes):
    """Zeros in place of what the buffer held; the row after them is as if it were alone."""
    logits = np.full((4, classes), -0.5, dtype)
    logits[:2] = [[NAN], [INF]]
    grad = np.full_like(logits, NAN)
    loss, _ = fx.cross_entropy(logits, [-100, -100, -100, 1], reduction="none", grad_out=grad)
    want = np.full(classes, 1 / classes)
    want[1] -= 1
    np.testing.assert_allclose(loss, [0, 0, 0, np.log(classes)], rtol=1e-6)
    np.testing.assert_array_equal(grad[:3], 0)
    np.testing.assert_allclose(grad[3], want, rtol=1e-6)


def test_rows_of_weight_0_do_not_count(dtype):
    """Nor does a row of sample weight 0, whatever it holds and its class weighs."""
    logits = np.array([[NAN, 1.0], [INF, 0.0], [0.5, 0.0]], dtype)
    loss, grad, *_ = all_outputs(fx, logits, [0, 1, 1], sample_weight=[0, 0, 2.0])
    assert (loss[:2] == 0).all()
    assert (grad[:2] == 0).all()
    assert loss[2] > 0
    mean = fx.cross_entropy(logits, [0, 1, 1], sample_weight=[0, 0, 2.0], weight=[INF, 1.0])
    np.testing.assert_allclose(mean, loss[2] / 2, rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 400])
def test_large_weights_do_not_swallow_small_ones(dtype, classes):
    """Row losses of 1e100 that cancel leave the others as they are."""
    u = [1, 1e100, 1, -1e100]
    logits = np.zeros((4, classes), dtype)
    total = fx.cross_entropy(logits, [0] * 4, sample_weight=u, reduction="sum")
    np.testing.assert_allclose(total, 2 * np.log(classes), rtol=1e-6)


def test_an_infinite_class_weight_stays_in_its_class(dtype):
    """Of a row of another class nothing is nan; of its own row the others are infinite."""
    logits, weight = np.zeros((2, 5), dtype), [1, np.inf, 1, 1, 1]
    _, grad = fx.cross_entropy(logits, [1, 2], weight=weight, reduction="sum", return_grad=True)
    assert np.isinf(np.delete(grad[0], 1)).all()
    assert np.isfinite(grad[1]).all()
    soft = np.eye(5, dtype=dtype)[[2, 3]]
    _, grad = fx.cross_entropy(logits, soft, weight=weight, reduction="sum", return_grad=True)
    assert np.isfinite(grad).all()


def test_rows_without_sample_weight(dtype):
    """Under probabilities a row of weight 0 is silent, whatever it and its target hold."""
    logits = np.array([[NAN, 1.0], [INF, 0.0], [3.0, 1.0], [0.5, 0.0]], dtype)
    target = np.array([[0.5, 0.5], [NAN, 1], [INF, 0], [0.25, 0.75]], dtype)
    u = [0, 0, 0, 2.0]
    loss, grad, probs, lse, hess, argmax = all_outputs(fx, logits, target, sample_weight=u)
    for array in (loss, grad, hess):
        assert (array[:3] == 0).all()
        assert (array[3] != 0).any()
    np.testing.assert_allclose(lse, [NAN, INF, 3.126928, 0.974077], rtol=1e-6)
    mean, grad = fx.cross_entropy(logits, target, sample_weight=u, return_grad=True)
    np.testing.assert_allclose(mean, loss[3] / 2, rtol=1e-6)
    x = np.array([[NAN, 1], [INF, 2], [NAN, 3], [1, 4]], dtype)
    weight = np.array([[1, 2], [3, 1]], dtype)
    _, linear = fx.linear_cross_entropy(x, weight, target, sample_weight=u, return_grad=True)
    _, alone = fx.linear_cross_entropy(x[3:], weight, target[3:], return_grad=True)
    np.testing.assert_allclose(linear.linear_weight, alone.linear_weight, rtol=1e-6)
    assert not linear.x[:3].any()


def test_probabilities_are_taken_as_they_are(dtype):
    """Not normalised: twice the target is twice the loss and the gradient; nan stays nan."""
    logits = np.array([[1.0, 2.0, -1.0]], dtype)
    target = np.array([[0.5, 0.25, 0.125]], dtype)
    one, two = (fx.cross_entropy(logits, k * target, return_grad=True) for k in (1, 2))
    np.testing.assert_allclose(two[0], 2 * one[0], rtol=1e-6)
    np.testing.assert_allclose(two[1], 2 * one[1], rtol=1e-6)
    loss, grad = fx.cross_entropy(logits, [[0.5, NAN, 0.5]], return_grad=True)
    assert np.isnan(loss)
    assert np.isnan(grad).all()


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
    if "weight" not in options:
        soft, u = np.ones(logits.shape), options
        loss, grad = fx.cross_entropy(logits, soft, return_grad=True, **u)
        assert np.isnan(loss)
        if options or not labels:
            np.testing.assert_array_equal(grad, np.zeros_like(logits))
    if "normalizer" not in options:
        probs = np.full(logits.shape, 0.5, dtype)
        loss, grad = fx.categorical_cross_entropy(probs, labels, return_grad=True, **options)
        assert np.isnan(loss)
        np.testing.assert_array_equal(grad, np.zeros_like(logits))
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


def test_one_row_of_probabilities_does_not_touch_another(dtype, rng):
    """With ignored rows and bad labels here and there each row is what it is alone."""
    n, classes = 700, 5
    probs = rng.random((n, classes)).astype(dtype)
    labels = rng.integers(0, classes, n)
    labels[[3, 130, 131, 699]], labels[[9, 400]] = -100, (classes, -1)
    want_loss = -np.log(np.take_along_axis(probs, labels[:, None].clip(0, 4), 1)[:, 0])
    want_grad = -np.eye(classes)[labels.clip(0, 4)] / probs
    for rows, value in (([3, 130, 131, 699], 0), ([9, 400], NAN)):
        want_loss[rows], want_grad[rows] = value, value
    strided = np.repeat(labels, 2)[::2]
    framed = np.zeros((n, classes + 2), dtype)
    for given, target, buffer in (
        (probs, labels, None),
        (probs.copy(), strided, "in place"),
        (probs, labels, framed[:, 1:-1]),
    ):
        loss, grad = fx.categorical_cross_entropy(
            given, target, reduction="none", check_target=False, return_grad=True,
            grad_out=given if type(buffer) is str else buffer,
        )  # fmt: skip
        np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
        np.testing.assert_allclose(grad, want_grad, rtol=1e-5)
    assert not framed[:, [0, -1]].any()
    active = labels >= 0
    active[9] = False
    kept = np.where(active, labels, -100)
    for target in (kept, np.repeat(kept, 2)[::2]):
        mean = fx.categorical_cross_entropy(probs, target)
        np.testing.assert_allclose(mean, want_loss[active].mean(), rtol=1e-5)


def test_what_a_type_cannot_hold_is_infinite():
    """Overflow of a sum, a weight, a product or a half: inf or nan, and no warning."""
    flat = np.zeros((2, 3), np.float32)
    assert fx.cross_entropy(flat, [0, 1], sample_weight=[1e300, 1], reduction="sum") == INF
    assert fx.cross_entropy(flat, [0, 1], weight=[1e300, 1, 1], reduction="sum") == INF
    assert fx.cross_entropy(flat, [0, 1], normalizer=1e-320) == INF
    huge = {"weight": [1e308] * 3, "label_smoothing": 0.1, "reduction": "sum"}
    assert fx.cross_entropy(flat.astype(float), [0, 1], **huge) == INF
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
        # Targets and weights that float32 does not hold: 1e-50 is 0, 1e300 infinite.
        tiny = np.array([[1, 1e-50], [1e-320, 1]])
        huge = np.array([[1e300, 0], [0, 1]])
        for target in (tiny, huge):
            for function in (
                fx.cross_entropy, fx.categorical_cross_entropy,
                fx.binary_cross_entropy, fx.binary_cross_entropy_with_logits,
            ):  # fmt: skip
                loss = function(flat + np.float32(0.5), target)
                assert np.isfinite(loss) or target is huge
        for weight in (tiny, tiny[0], 1e-50):
            assert np.isfinite(
                fx.binary_cross_entropy_with_logits(flat, [[1, 0]] * 2, weight=weight)
            )
        heavy = np.array([1, np.finfo(np.longdouble).max])  # infinite in float64
        assert fx.cross_entropy(flat, [0, 1], weight=heavy, reduction="sum") > 0


def test_weights_beyond_the_type_leave_other_classes_alone(dtype):
    """A target of 0 weighs exactly 0, however heavy its class is."""
    heavy = 1e39 if dtype is np.float32 else 1e300
    logits = np.array([[0, 1]], dtype)
    for target in ([[1, 0]], [0]):
        loss, grad = fx.cross_entropy(
            logits, target, weight=[1, heavy], reduction="sum", return_grad=True
        )
        np.testing.assert_allclose(loss, np.log1p(np.e), rtol=1e-6)
        np.testing.assert_allclose(grad, [[-0.7310586, 0.7310586]], rtol=1e-6)
        probs = np.array([[0.1, 0.9]], dtype)
        loss, grad = fx.categorical_cross_entropy(
            probs, target, weight=[1, heavy], reduction="sum", return_grad=True
        )
        np.testing.assert_allclose(loss, np.log(10), rtol=1e-6)
        np.testing.assert_allclose(grad, [[-10, 0]], rtol=1e-6)
    # Of an index all is scaled before it is rounded.
    _, grad = fx.categorical_cross_entropy(
        np.array([[1e-30, 0.5]], dtype), [0], weight=[1e300, 1], return_grad=True
    )
    np.testing.assert_allclose(grad, [[-1e12, 0]], rtol=1e-6)
    big = 1e30 if dtype is np.float32 else 1e200
    run = fx.binary_cross_entropy_with_logits
    for y, want in ((0, big * np.log1p(np.e)), (1 / big, big * np.log1p(np.e) + big * 0.3132617)):
        loss = run(dtype(1), dtype(y), weight=big, pos_weight=big)
        np.testing.assert_allclose(loss, want, rtol=1e-6)
    loss, grad = run(dtype(1), 0, pos_weight=1e300, return_grad=True)
    np.testing.assert_allclose([loss, grad], [np.log1p(np.e), 0.7310586], rtol=1e-6)


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


# --- binary, and of probabilities -----------------------------------------------------------


@pytest.mark.parametrize("weights", [{}, {"weight": 0.0}, {"pos_weight": 0.0}, {"pos_weight": 3.0},
                                     {"weight": 0.5}])  # fmt: skip
def test_binary_logits_of_special_values(dtype, weights):
    """±inf and nan under every label: what the reference says; a coefficient of 0 adds exactly 0.

    At different places of the vectors.
    """
    logits = np.repeat(np.array([0.0, -0.0, 1.5, -INF, INF, NAN, 1e30, -1e30], dtype), 4)
    target = np.tile([0, 1, 0.5, 2.0], 8)
    flags = {f"return_{name}": True for name in ("grad", "probs", "hess")} | {"reduction": "none"}
    for shift in (0, 3, 13):
        x, y = np.roll(logits, shift)[: 32 - shift // 2], np.roll(target, shift)[: 32 - shift // 2]
        got = fx.binary_cross_entropy_with_logits(x, y, **weights, **flags)
        want = reference.binary_cross_entropy_with_logits(
            x.astype(np.longdouble), y, **weights, **flags
        )
        for name, a, b in zip(("loss", "grad", "probs", "hess"), got, want, strict=True):
            np.testing.assert_allclose(a, b.astype(dtype), rtol=1e-6, err_msg=name)


def test_an_infinite_weight_is_an_infinite_loss(dtype):
    """Not nan, at any finite logit whose loss is not 0: also where x is 0 or exp(-|x|) is."""
    x, y = np.array([0, 5, -5, 1000, 0, -1000], dtype), np.array([0, 0, 0, 0, 1, 1])
    for weights in ({"weight": INF}, {"weight": [INF] * 6}):
        loss = fx.binary_cross_entropy_with_logits(x, y, **weights, reduction="none")
        np.testing.assert_array_equal(loss, INF)


@pytest.mark.parametrize("eps", [None, 1e-15, 0.1])
def test_losses_of_special_probabilities(dtype, eps):
    """0, 1, outside, nan: PyTorch's clamps without eps, nan outside; with eps all is clipped."""
    probs = np.array([0, 1, 0.5, -0.1, 1.1, -INF, INF, NAN, 1e-30, 1 - 1e-7, 1e-40], dtype)
    assert dtype is np.float64 or probs[-1] > 0  # a subnormal number
    p = np.repeat(probs, 3)
    y = np.tile([0.0, 1.0, 0.25], len(probs))
    flags = {"eps": eps, "reduction": "none", "return_grad": True}
    got = fx.binary_cross_entropy(p, y, **flags)
    want = reference.binary_cross_entropy(p.astype(np.longdouble), y, **flags)
    rows, target = np.full((len(p), 5), 0.5, dtype), np.zeros((len(p), 5))
    rows[:, 3], target[:, 3] = p, y
    got += fx.categorical_cross_entropy(rows, target, **flags)
    want += reference.categorical_cross_entropy(rows.astype(np.longdouble), target, **flags)
    labels = np.full(len(p), 3)
    got += fx.categorical_cross_entropy(rows, labels, **flags)
    want += reference.categorical_cross_entropy(rows.astype(np.longdouble), labels, **flags)
    for k, (a, b) in enumerate(zip(got, want, strict=True)):
        np.testing.assert_allclose(a, b.astype(dtype), rtol=1e-6, err_msg=str(k))
    if eps is None:
        assert fx.binary_cross_entropy(dtype(0), 1) == 100
        assert fx.binary_cross_entropy(dtype(0), 1, return_grad=True)[1] == dtype(-1e12)
        assert np.isnan(fx.categorical_cross_entropy(dtype([1.5, 0.5]), 0))
    elif eps == 1e-15:
        np.testing.assert_allclose(got[0][4], 1e-15, rtol=1e-6)  # p = 1, y = 1: not 0
        np.testing.assert_allclose(got[1][1], -1e15, rtol=1e-6)  # p = 0, y = 1


def test_a_class_without_weight_is_silent_in_probabilities(dtype):
    """q·w = 0 adds exactly 0 to loss and gradient, where p is nan or outside too."""
    probs = np.array([[NAN, 0.5, 7.0, 0.25]], dtype)
    want = -np.log(0.5) - np.log(0.25)
    loss, grad = fx.categorical_cross_entropy(probs, [[0, 1, 0, 1]], return_grad=True)
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    np.testing.assert_allclose(grad, [[0, -2, 0, -4]], rtol=1e-6)
    loss = fx.categorical_cross_entropy(probs, [[1, 1, 1, 1]], weight=[0, 1, 0, 1])
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    assert fx.categorical_cross_entropy(probs, [0], weight=[0, 1, 1, 1], reduction="sum") == 0
    for silent in ({"sample_weight": [0]}, {"ignore_index": 0}):
        loss, grad = fx.categorical_cross_entropy(
            probs, [0], reduction="sum", return_grad=True, **silent
        )
        assert loss == 0
        assert not grad.any()
    loss, grad = fx.categorical_cross_entropy(
        probs, [9], reduction="sum", return_grad=True, check_target=False
    )
    assert np.isnan(loss)
    assert np.isnan(grad).all()


def test_mean_of_no_elements(dtype):
    """Binary losses of nothing: the mean is nan, the sum 0, without a warning."""
    empty = np.empty((0, 3), dtype)
    for function in (fx.binary_cross_entropy, fx.binary_cross_entropy_with_logits):
        loss, grad = function(empty, empty, return_grad=True)
        assert np.isnan(loss)
        assert grad.shape == (0, 3)
        assert function(empty, empty, reduction="sum") == 0
        assert function(empty, empty, reduction="none", weight=np.ones(3)).shape == (0, 3)


def test_mean_over_nothing_keeps_what_is_no_derivative(dtype):
    """Probabilities and lse do not depend on the divisor: gradient and Hessian alone are 0."""
    x, y = np.array([[0.5, -1.0], [2.0, 3.0]], dtype), [1, 0]
    names = ("grad", "probs", "lse", "hess", "argmax")
    asked = {f"return_{name}": True for name in names}
    loss, *got = fx.cross_entropy(x, y, normalizer=0.0, **asked)
    _, *want = fx.cross_entropy(x, y, **asked)
    assert np.isnan(loss)
    for name, array, expected in zip(names, got, want, strict=True):
        derivative = name in ("grad", "hess")
        np.testing.assert_array_equal(array, 0 if derivative else expected, name)
