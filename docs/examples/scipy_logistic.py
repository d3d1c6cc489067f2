"""Multinomial logistic regression with SciPy's L-BFGS-B; the coefficients are scikit-learn's.

`minimize(..., jac=True)` needs a function that returns value and gradient together, as fastxent's
losses do with `return_grad=True`. The objective is that of `LogisticRegression(C=C)`: C times the
sum of the losses, plus half the sum of the squared weights. The intercepts are not penalised.

The function is written twice. `by_logits` uses `cross_entropy`, whose gradient is that of the
logits, and applies the chain rule to get that of the coefficients. `by_linear` uses
`linear_cross_entropy`, which includes the chain rule.
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
    """The printed results; differences from scikit-learn are the largest over all coefficients."""

    weights: dict[str, float]
    intercepts: dict[str, float]
    objective: dict[str, float]
    accuracy: dict[str, float]


def split(flat: Any, x: Any) -> tuple[Any, Any]:
    """Views of the flat vector: weights (classes, features) and intercepts (classes,)."""
    n_classes = flat.size // (x.shape[1] + 1)
    return flat[:-n_classes].reshape(n_classes, -1), flat[-n_classes:]


def by_logits(flat: Any, x: Any, y: Any) -> tuple[float, Any]:
    """Objective and gradient by cross_entropy and the chain rule."""
    weights, intercepts = split(flat, x)
    loss, d = fx.cross_entropy(x @ weights.T + intercepts, y, reduction="sum", return_grad=True)
    value = C * loss + 0.5 * np.vdot(weights, weights)
    return value, np.concatenate([(C * (d.T @ x) + weights).ravel(), C * d.sum(axis=0)])


def by_linear(flat: Any, x: Any, y: Any) -> tuple[float, Any]:
    """Objective and gradient by linear_cross_entropy."""
    weights, intercepts = split(flat, x)
    loss, grad = fx.linear_cross_entropy(
        x, weights, y, linear_bias=intercepts, reduction="sum",
        wrt=("linear_weight", "linear_bias"), return_grad=True,
    )  # fmt: skip
    value = C * loss + 0.5 * np.vdot(weights, weights)
    gradient = [(C * grad.linear_weight + weights).ravel(), C * grad.linear_bias]
    return value, np.concatenate(gradient)


def fit(x: Any, y: Any) -> dict[str, Any]:
    """Fit with scikit-learn and with SciPy; return vectors of weights and intercepts by name.

    The tolerances are tighter than the defaults, because coefficients are compared. They are
    unique except for a constant added to all intercepts. That constant is the same in all fits:
    all intercepts start at 0, and no gradient step changes their sum.
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
    """Fit three times, compare the coefficients, and print the results."""
    pixels, digits = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(pixels, digits, random_state=0)
    scaler = StandardScaler().fit(x)
    x, x_test = scaler.transform(x), scaler.transform(x_test)

    # Matrix products of this size gain nothing from BLAS threads. On a busy machine, these threads
    # wait for each other longer than an evaluation of the objective takes.
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
