"""The same problem fitted by fastxent and by scikit-learn, and a check that both agree."""

import math
import sys
import time
from typing import NamedTuple

import numpy as np

import fastxent as fx
from fastxent.cli.demo.data import C, Digits
from fastxent.cli.demo.pipeline import Objective, Report, minimise

LOSS_TOLERANCE = 1e-4  # relative, between the two fits


class Fit(NamedTuple):
    """Scores of a fit, its iterations and its time."""

    accuracy: float
    test_loss: float
    objective: float
    iterations: int
    seconds: float


def fit_fastxent(digits: Digits, max_iter: int, tol: float, report: Report) -> Fit:
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


def fit_scikit_learn(digits: Digits) -> Fit:
    """Fit and evaluate with scikit-learn alone; fastxent is not used."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    model = LogisticRegression(C=C, tol=1e-8, max_iter=10_000)
    start = time.perf_counter()
    model.fit(digits.x, digits.y)
    seconds = time.perf_counter() - start
    loss = log_loss(digits.y, model.predict_proba(digits.x))
    test_loss = log_loss(digits.y_test, model.predict_proba(digits.x_test))
    objective = loss + 0.5 * digits.penalty * np.vdot(model.coef_, model.coef_)
    accuracy = model.score(digits.x_test, digits.y_test)
    return Fit(accuracy, test_loss, float(objective), int(model.n_iter_[0]), seconds)


def require_agreement(ours: Fit, theirs: Fit) -> None:
    """Exit with an error message unless both fits have reached the same optimum."""
    losses = (ours.test_loss, theirs.test_loss), (ours.objective, theirs.objective)
    same_losses = all(math.isclose(*pair, rel_tol=LOSS_TOLERANCE) for pair in losses)
    if not same_losses or ours.accuracy != theirs.accuracy:
        sys.exit(
            f"fastxent demo: after {ours.iterations} iterations the fit differs from "
            "scikit-learn's\n(is --max-iter too small, or --tol too large?)"
        )
