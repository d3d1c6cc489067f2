"""Gradients are the derivatives of the losses: fourth-order central differences, all options."""

import itertools

import numpy as np
import pytest

import fastxent as fx

OPTIONS = {
    "plain": {},
    "weights": {"weight": [0.5, 2.0, 0.0, 1.5, 3.0], "sample_weight": [1.0, 0.0, 2.5, 0.7]},
    "smoothing": {"label_smoothing": 0.2},
    "weighted smoothing": {"label_smoothing": 0.2, "weight": [0.5, 2.0, 0.0, 1.5, 3.0]},
    "all smoothing": {"label_smoothing": 1.0},
    "z-loss": {"z_loss": 0.3},
    "scale": {"logit_scale": 1.7},
    "negative scale": {"logit_scale": -0.6},
    "zero scale": {"logit_scale": 0.0},
    "softcap": {"softcap": 2.0},
    "normalizer": {"normalizer": 7.0},
    "everything": {
        "label_smoothing": 0.1,
        "z_loss": 0.05,
        "logit_scale": -1.3,
        "softcap": 1.5,
        "weight": [0.5, 2.0, 0.3, 1.5, 3.0],
        "sample_weight": [1.0, -0.5, 2.5, 0.7],
    },
}


# A normalizer goes with the mean only.
CASES = [
    (name, reduction)
    for name, options in OPTIONS.items()
    for reduction in (["mean"] if "normalizer" in options else ["mean", "sum", "none"])
]
TARGETS = {
    "index": np.array([3, 1, -100, 0]),
    # Not normalised, negative, zero: taken as they are.
    "soft": np.array([[0.2, 0.3, 0.1, 0.4, 0], [1, 0, 0, 0, 0], [2, 1, 0.5, 0, 1],
                      [-0.1, 0.4, 0.6, 0.1, 0]]),
}  # fmt: skip
targets = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())


def derivative(function, array, h=1e-3):
    """Fourth-order central differences of a scalar function with respect to each element."""
    result = np.empty_like(array)
    for index in np.ndindex(array.shape):
        values = []
        for step in (-2, -1, 1, 2):
            moved = array.copy()
            moved[index] += step * h
            values.append(function(moved))
        result[index] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    return result


@targets
@pytest.mark.parametrize(("name", "reduction"), CASES)
def test_with_respect_to_logits(rng, name, reduction, target):
    """The gradient is the derivative of the loss (of its sum for "none"), option by option."""
    options = OPTIONS[name]
    logits = rng.standard_normal((4, 5)) * 2

    def loss(x):
        return np.sum(fx.cross_entropy(x, target, reduction=reduction, **options))

    grad = fx.cross_entropy(logits, target, reduction=reduction, return_grad=True, **options)[1]
    np.testing.assert_allclose(grad, derivative(loss, logits), atol=2e-10)


@targets
@pytest.mark.parametrize(("name", "reduction"), CASES)
def test_with_respect_to_the_linear_map(rng, name, reduction, target):
    """Likewise with respect to x, linear_weight and linear_bias."""
    options = OPTIONS[name]
    given = {
        "x": rng.standard_normal((4, 3)),
        "linear_weight": rng.standard_normal((5, 3)),
        "linear_bias": rng.standard_normal(5),
    }

    def run(return_grad=False, **changed):
        return fx.linear_cross_entropy(
            target=target,
            reduction=reduction,
            return_grad=return_grad,
            **(given | changed),
            **options,
        )

    grad = run(return_grad=True)[1]
    for part, value in given.items():
        want = derivative(lambda v, part=part: np.sum(run(**{part: v})), value)
        np.testing.assert_allclose(getattr(grad, part), want, atol=2e-10, err_msg=part)


def test_hessian_is_the_derivative_of_the_gradient(rng):
    """The diagonal of the Hessian, for the plain loss."""
    logits = rng.standard_normal((3, 4))
    labels, weight = [0, 3, 1], [1.0, 0.5, 2.0, 3.0]
    hess = fx.cross_entropy(logits, labels, weight=weight, return_hess=True)[1]
    for index in np.ndindex(logits.shape):

        def grad(value, index=index):
            moved = logits.copy()
            moved[index] = value[0]
            return fx.cross_entropy(moved, labels, weight=weight, return_grad=True)[1][index]

        np.testing.assert_allclose(hess[index], derivative(grad, logits[index][None])[0], atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "axis"), [((5,), 0), ((2, 5), -1), ((2, 5, 3), 1), ((5, 2, 3), 0), ((2, 1, 3, 5), -1)]
)
def test_any_rank_and_axis(rng, shape, axis):
    """Every rank and class axis gives the derivative in the layout of the logits."""
    logits = rng.standard_normal(shape)
    labels = rng.integers(0, 5, [n for k, n in enumerate(shape) if k != axis % len(shape)])
    grad = fx.cross_entropy(logits, labels, axis=axis, return_grad=True)[1]
    want = derivative(lambda x: fx.cross_entropy(x, labels, axis=axis), logits)
    np.testing.assert_allclose(grad, want, atol=2e-10)


@targets
@pytest.mark.parametrize("eps", [None, 0.05])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_categorical_with_respect_to_probabilities(rng, reduction, eps, target):
    """Likewise of probabilities, which need not add up to 1."""
    probs = rng.uniform(0.1, 0.9, (4, 5))
    options = {"weight": [0.5, 2.0, 0.0, 1.5, 3.0], "sample_weight": [1.0, 0.0, 2.5, 0.7]}
    options |= {"reduction": reduction, "eps": eps}
    grad = fx.categorical_cross_entropy(probs, target, return_grad=True, **options)[1]
    want = derivative(lambda p: np.sum(fx.categorical_cross_entropy(p, target, **options)), probs)
    np.testing.assert_allclose(grad, want, atol=2e-8)


@pytest.mark.parametrize("weights", [{}, {"weight": [[0.5], [2.0], [0.0], [-1.0]]}])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_binary_derivatives(rng, reduction, weights):
    """The gradient of both binary losses, and the second derivative for logits."""
    logits, target = rng.standard_normal((4, 5)) * 3, TARGETS["soft"]
    options = weights | {"reduction": reduction}
    more = options | {"pos_weight": [1.0, 2.0, 0.0, 0.3, 5.0]}
    run = fx.binary_cross_entropy_with_logits
    _, grad, hess = run(logits, target, return_grad=True, return_hess=True, **more)
    want = derivative(lambda x: np.sum(run(x, target, **more)), logits)
    np.testing.assert_allclose(grad, want, atol=2e-10)
    for j in range(5):  # element by element, so columns may move together

        def slope(value, j=j):
            moved = logits.copy()
            moved[:, j] += value[0]
            return run(moved, target, return_grad=True, **more)[1][:, j].sum()

        np.testing.assert_allclose(hess[:, j].sum(), derivative(slope, np.zeros(1))[0], atol=2e-10)
    probs = rng.uniform(0.05, 0.95, (4, 5))
    for eps in (None, 0.01):
        run = fx.binary_cross_entropy
        grad = run(probs, target, eps=eps, return_grad=True, **options)[1]
        want = derivative(lambda p, eps=eps: np.sum(run(p, target, eps=eps, **options)), probs)  # noqa: B023
        # At p = 0.05 the differences themselves are off by h⁴/30·24/p⁵ = 2.6e-6 times the weight.
        np.testing.assert_allclose(grad, want, atol=1e-5)


def test_softmax_family_derivatives(rng):
    """∂lse/∂x = p and ∂log p_j/∂x_i = δ_ij - p_i."""
    x = rng.standard_normal(6)
    p = fx.softmax(x)
    np.testing.assert_allclose(derivative(fx.logsumexp, x), p, atol=1e-11)
    for j, value in itertools.islice(enumerate(p), 3):
        want = (np.arange(6) == j) - p
        got = derivative(lambda v, j=j: fx.log_softmax(v)[j], x)
        np.testing.assert_allclose(got, want, atol=1e-11)
        assert value == p[j]
