"""Multinomial regression with SciPy's second-order methods, compared with L-BFGS.

`newton-cg` and `trust-ncg` need `hessp(w, v)`, the Hessian times a vector. With
`linear_cross_entropy_hvp` it takes three lines. The Hessian itself, which has (C·K)² elements, is
never computed. The objective is the mean loss plus half the sum of the squared weights times
`PENALTY`. All three methods stop when the norm of the gradient is at most `TOLERANCE`.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits  # comes with scikit-learn

import fastxent as fx

PENALTY = 1e-3
TOLERANCE = 1e-6
METHODS = ("L-BFGS-B", "newton-cg", "trust-ncg")


class Fit(NamedTuple):
    """Result of a method: weights, objective, gradient norm, numbers of calls, and seconds."""

    weights: Any
    objective: float
    norm: float
    calls: int
    products: int
    seconds: float


class Problem:
    """Objective and `hessp` for rows x (N, K) and labels; the weights (C, K) are a flat vector."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y
        self.shape = int(y.max()) + 1, x.shape[1]
        self.calls = self.products = 0
        self.norm = np.inf  # of the last gradient

    def objective(self, flat: Any) -> tuple[float, Any]:
        """Value and gradient at the weights `flat`."""
        self.calls += 1
        loss, grad = fx.linear_cross_entropy(
            self.x, flat.reshape(self.shape), self.y, wrt="linear_weight", return_grad=True
        )
        value = loss + 0.5 * PENALTY * np.vdot(flat, flat)
        gradient = grad.linear_weight.ravel() + PENALTY * flat
        self.norm = float(np.linalg.norm(gradient))
        return value, gradient

    def stop(self, _: Any) -> None:
        """Callback after each step: the same stopping rule for all methods."""
        if self.norm <= TOLERANCE:
            raise StopIteration

    def hessp(self, flat: Any, v: Any) -> Any:
        """The Hessian at `flat` times v."""
        self.products += 1
        W, vector = flat.reshape(self.shape), (None, v.reshape(self.shape), None)
        product = fx.linear_cross_entropy_hvp(self.x, W, self.y, vector, wrt="linear_weight")
        return product.linear_weight.ravel() + PENALTY * v


def fit(problem: Problem, method: str) -> Fit:
    """Fit the weights with one method, starting from zeros."""
    problem.calls = problem.products = 0
    options = {
        "L-BFGS-B": {"gtol": 0.0, "ftol": 0.0, "maxiter": 5000, "maxfun": 10**5},
        "newton-cg": {"xtol": 0.0, "maxiter": 500},
        "trust-ncg": {"gtol": 0.0, "maxiter": 500, "initial_trust_radius": 10.0},
    }[method]
    more: dict[str, Any] = {} if method == "L-BFGS-B" else {"hessp": problem.hessp}
    start, began = np.zeros(problem.shape).ravel(), time.perf_counter()
    flat = minimize(
        problem.objective, start, jac=True, method=method, options=options,
        callback=problem.stop, **more,
    ).x  # fmt: skip
    took, calls, products = time.perf_counter() - began, problem.calls, problem.products
    value, _ = problem.objective(flat)
    return Fit(flat.reshape(problem.shape), value, problem.norm, calls, products, took)


def digits() -> Problem:
    """scikit-learn's digits: (1797, 64), 10 classes."""
    pixels, labels = load_digits(return_X_y=True)
    return Problem(pixels / 16, labels)


def larger(n: int = 20_000, n_features: int = 100, n_classes: int = 100) -> Problem:
    """Random rows around the centre of their class; the classes overlap."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(n_classes, n_features))
    labels = rng.integers(0, n_classes, n)
    return Problem(0.3 * centres[labels] + rng.normal(size=(n, n_features)), labels)


def main(problems: dict[str, Callable[[], Problem]]) -> dict[str, dict[str, Fit]]:
    """Fit each problem with each method, and print a table."""
    figures: dict[str, dict[str, Fit]] = {}
    for name, make in problems.items():
        problem = make()
        zeros = np.zeros(problem.shape).ravel()
        problem.objective(zeros), problem.hessp(zeros, zeros)  # the first calls load the kernels
        # One BLAS thread: the products are small, and several threads would wait for each other.
        with threadpool_limits(1, user_api="blas"):
            fits = figures[name] = {method: fit(problem, method) for method in METHODS}
        best = fits["trust-ncg"].weights
        print(f"\n{name}: {problem.x.shape} rows, {problem.shape[0]} classes")
        print(f"{'':12}{'calls':>7}{'hessp':>7}{'seconds':>9}{'objective':>14}{'|gradient|':>12}"
              f"{'weights off by':>16}")  # fmt: skip
        for method, f in fits.items():
            off = np.abs(f.weights - best).max()
            print(f"{method:12}{f.calls:7}{f.products:7}{f.seconds:9.2f}{f.objective:14.9f}"
                  f"{f.norm:12.1e}{off:16.1e}")  # fmt: skip
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", action="store_true", help="the small problem alone")
    both = {"digits": digits, "larger": larger}
    main({"digits": digits} if parser.parse_args().digits else both)
