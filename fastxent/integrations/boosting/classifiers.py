"""Functions that both classifiers use: labels, probabilities, class weights, metrics."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.multiclass import check_classification_targets

from fastxent import softmax
from fastxent.integrations.boosting import metrics
from fastxent.integrations.boosting.rows import Array

_OF_MARGINS = (
    metrics.binary_logloss, metrics.logloss, metrics.mlogloss, metrics.multi_logloss,
)  # fmt: skip


def arguments(method: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Bind the arguments of a call of an estimator's method by name, without the estimator."""
    signature = inspect.signature(method)
    bound = signature.bind(*args, **kwargs).arguments
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound |= bound.pop(name, {})
    bound.pop("self")
    return bound


def encode(y: Any) -> tuple[Any, Array]:
    """Fit an encoder to the labels, which may be strings; return it and the class indices."""
    check_classification_targets(y)
    encoder = LabelEncoder()
    return encoder, encoder.fit_transform(y)


def probabilities(margins: Array) -> Array:
    """The probabilities (N, K) for margins (N, K); (N, 2) for margins (N,) of class 1."""
    if margins.ndim == 1:
        margins = np.stack([np.zeros_like(margins), margins], axis=1)
    probs: Array = softmax(margins)
    return probs


def make_margin_metric(metric: Any) -> Any:
    """Convert a metric of probabilities to one of margins; fastxent's metrics are returned as is.

    With a custom objective the libraries pass margins to a metric, but a metric written for the
    built-in objective expects probabilities.
    """
    if metric in _OF_MARGINS:
        return metric

    @functools.wraps(metric)
    def of_margins(y_true: Any, y_pred: Array, *args: Any, **kwargs: Any) -> Any:
        probs = probabilities(y_pred)
        return metric(y_true, probs if y_pred.ndim > 1 else probs[:, 1], *args, **kwargs)

    return of_margins


def class_weighted(objective: Any, negative: float, positive: float) -> Any:
    """A binary objective that multiplies each row's weight by the weight of its class."""
    if negative == positive == 1:
        return objective

    def weighted(y_true: Array, y_pred: Array, sample_weight: Any = None) -> Any:
        factor = np.where(y_true > 0, positive, negative)
        weight = factor if sample_weight is None else sample_weight * factor
        return objective(y_true, y_pred, weight)

    return weighted


def take_over(estimator: Any, fitted: Any, *own: str) -> None:
    """Copy the fitted state of the library's estimator: attributes that are not parameters.

    The attributes named in `own` are not copied.
    """
    excluded = {*fitted.get_params(), *own}
    vars(estimator).update({k: v for k, v in vars(fitted).items() if k not in excluded})
