"""Multinomial logistic regression by SciPy's L-BFGS-B, with scikit-learn's coefficients.

`minimize(..., jac=True)` wants a function that gives value and gradient together, which is what
`return_grad=True` gives. The objective is that of `LogisticRegression(C=C)`: C times the sum of
the losses, and half the squares of the weights; the intercepts are not penalised.

The function is written twice: with `cross_entropy`, whose gradient is that of the logits and is
taken to the coefficients by the chain rule, and with `linear_cross_entropy`, which does that.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # comes with scikit-learn

import fastxent as fx

C = 0.1


class Figures(NamedTuple):
    """What is printed: the differences from scikit-learn are the largest of all coefficients."""

    weights: dict[str, float]
    intercepts: dict[str, float]
    objective: dict[str, float]
    accuracy: dict[str, float]


def split(flat: Any, x: Any) -> tuple[Any, Any]:
    """Weights (classes, features) and intercepts (classes,): views of one vector of both."""
    n_classes = flat.size // (x.shape[1] + 1)
    return flat[:-n_classes].reshape(n_classes, -1), flat[-n_classes:]


def by_logits(flat: Any, x: Any, y: Any) -> tuple[float, Any]:
    """Objective and gradient: cross_entropy and the chain rule."""
    weights, intercepts = split(flat, x)
    loss, d = fx.cross_entropy(x @ weights.T + intercepts, y, reduction="sum", return_grad=True)
    value = C * loss + 0.5 * np.vdot(weights, weights)
    return value, np.concatenate([(C * (d.T @ x) + weights).ravel(), C * d.sum(axis=0)])


def by_linear(flat: Any, x: Any, y: Any) -> tuple[float, Any]:
    """The same: linear_cross_entropy has the gradients of weights and intercepts."""
    weights, intercepts = split(flat, x)
    loss, grad = fx.linear_cross_entropy(
        x, weights, y, linear_bias=intercepts, reduction="sum",
        wrt=("linear_weight", "linear_bias"), return_grad=True,
    )  # fmt: skip
    value = C * loss + 0.5 * np.vdot(weights, weights)
    gradient = [(C * grad.linear_weight + weights).ravel(), C * grad.linear_bias]
    return value, np.concatenate(gradient)


def fit(x: Any, y: Any) -> dict[str, Any]:
    """Weights and intercepts in one vector, as scikit-learn finds them and as SciPy does.

    The tolerances are tighter than the defaults, for coefficients are compared. A constant added
    to all intercepts changes nothing; all start at 0, and no gradient changes their sum.
    """
    peer = LogisticRegression(C=C, tol=1e-8, max_iter=1000).fit(x, y)
    fits = {"scikit-learn": np.concatenate([peer.coef_.ravel(), peer.intercept_])}
    start = np.zeros_like(fits["scikit-learn"])
    for function in (by_logits, by_linear):
        fits[function.__name__] = minimize(
            function, start, args=(x, y), jac=True, method="L-BFGS-B",
            options={"gtol": 1e-8, "ftol": 1e-15, "maxiter": 1000},
        ).x  # fmt: skip
    return fits


def main() -> Figures:
    """Fit three times, compare, and print."""
    pixels, digits = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(pixels, digits, random_state=0)
    scaler = StandardScaler().fit(x)
    x, x_test = scaler.transform(x), scaler.transform(x_test)

    # Products of this size gain nothing from BLAS's threads, which on a busy machine wait for one
    # another for longer than an evaluation takes.
    with threadpool_limits(1, user_api="blas"):
        fits = fit(x, y)

    peer_weights, peer_intercepts = split(fits["scikit-learn"], x)
    figures = Figures({}, {}, {}, {})
    for name, flat in fits.items():
        weights, intercepts = split(flat, x)
        figures.weights[name] = float(np.abs(weights - peer_weights).max())
        figures.intercepts[name] = float(np.abs(intercepts - peer_intercepts).max())
        figures.objective[name] = float(by_logits(flat, x, y)[0])
        predicted = (x_test @ weights.T + intercepts).argmax(axis=1)
        figures.accuracy[name] = float((predicted == y_test).mean())

    print(f"{len(y)} digits to fit, {len(y_test)} to test; {weights.size} weights\n")
    print(f"{'':28}" + "".join(f"{name:>14}" for name in fits))
    for label, row, form in (
        ("objective", figures.objective, "14.8f"),
        ("largest weight difference", figures.weights, "14.1e"),
        ("of the intercepts", figures.intercepts, "14.1e"),
        ("test accuracy", figures.accuracy, "14.4f"),
    ):
        print(f"{label:28}" + "".join(f"{value:{form}}" for value in row.values()))
    return figures


if __name__ == "__main__":
    main()
