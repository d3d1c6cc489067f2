"""Fit a problem by plain steps and by both estimators, and check that all agree."""

import math
import sys
import time
from typing import Any, NamedTuple

import numpy as np

import fastxent as fx
from fastxent.cli.demo.data import C, Data
from fastxent.cli.demo.pipeline import Objective, Report, minimise
from fastxent.cli.demo.progress import Iterations
from fastxent.cli.output import Step

# Relative tolerances between two fits; that of accuracies is less than one of 450 digits.
LOSS_TOLERANCE, ACCURACY_TOLERANCE = 1e-4, 2e-3


class Fit(NamedTuple):
    """Scores of a fit, its iterations and its time."""

    accuracy: float
    test_loss: float
    objective: float
    iterations: int
    seconds: float


def fit_by_steps(digits: Data, max_iter: int, tol: float, report: Report) -> Fit:
    """Fit with `minimise`, evaluate with `linear_cross_entropy`."""
    objective = Objective(digits.x, digits.y, digits.n_classes, digits.penalty)
    objective(np.zeros(objective.size))  # compile the kernel, or load it from the cache
    start = time.perf_counter()
    minimum = minimise(objective, max_iter=max_iter, tol=tol, report=report)
    seconds = time.perf_counter() - start
    weight, bias = objective.weight_and_bias(minimum.theta)
    test_loss, predicted = fx.linear_cross_entropy(
        digits.x_test, weight, digits.y_test, linear_bias=bias, return_argmax=True
    )
    accuracy = float(np.mean(predicted == digits.y_test))
    return Fit(accuracy, float(test_loss), minimum.value, minimum.iterations, seconds)


def estimators() -> dict[str, Any]:
    """The classes of the compared estimators, by the library's name."""
    from sklearn.linear_model import LogisticRegression

    from fastxent.integrations import sklearn

    return {"fastxent": sklearn.LogisticRegression, "scikit-learn": LogisticRegression}


def fit_estimator(kind: Any, data: Data, tol: float, step: Step | None = None) -> Fit:
    """Fit an estimator, and evaluate it with scikit-learn; `step` counts its iterations."""
    from sklearn.metrics import log_loss

    model = kind(C=C, tol=tol, max_iter=10_000)
    # Before 1.9 scikit-learn has no callbacks.
    if step is not None and hasattr(model, "set_callbacks"):
        model.set_callbacks(Iterations(step))
    start = time.perf_counter()
    model.fit(data.x, data.y)
    seconds, n_iter = time.perf_counter() - start, int(model.n_iter_[0])
    if step is not None:
        step(n_iter, n_iter)
    loss = log_loss(data.y, model.predict_proba(data.x))
    test_loss = log_loss(data.y_test, model.predict_proba(data.x_test))
    objective = loss + 0.5 * data.penalty * np.vdot(model.coef_, model.coef_)
    accuracy = model.score(data.x_test, data.y_test)
    return Fit(accuracy, test_loss, float(objective), n_iter, seconds)


def require_agreement(ours: Fit, theirs: Fit) -> None:
    """Exit with an error message unless both fits have reached the same optimum."""
    losses = (ours.test_loss, theirs.test_loss), (ours.objective, theirs.objective)
    same_losses = all(math.isclose(*pair, rel_tol=LOSS_TOLERANCE) for pair in losses)
    accuracies = ours.accuracy, theirs.accuracy
    if not same_losses or not math.isclose(*accuracies, rel_tol=ACCURACY_TOLERANCE):
        sys.exit(
            f"fastxent demo: after {ours.iterations} iterations the fit differs from "
            "scikit-learn's\n(is --max-iter too small, or --tol too large?)"
        )
