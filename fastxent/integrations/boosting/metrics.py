"""Metrics of margins, for XGBoost and LightGBM with a custom objective."""

import math
from typing import Any

import numpy as np

from fastxent import binary_cross_entropy_with_logits, cross_entropy
from fastxent.integrations.boosting import rows
from fastxent.integrations.boosting.rows import Array


def mlogloss(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
    r"""Compute XGBoost's mlogloss from margins: Σ w·(lse(x) - x_y) / Σ w.

    XGBoost passes margins to a metric if the objective is a function, and probabilities otherwise.
    So use this metric with `xgboost_softmax`. Also set `disable_default_eval_metric=True`:
    otherwise XGBoost adds its own metric of this name, and the results have two entries per round.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As for `xgboost_softmax`.

    Returns
    -------
    float, or (str, float) if the second argument is a DMatrix
        As each interface expects it. XGBoost's own metric clips probabilities at 1e-16.

    Raises
    ------
    IndexError, TypeError, ValueError
        As for `xgboost_softmax`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.integrations.boosting import mlogloss
    >>> round(mlogloss([2.0], np.zeros((1, 4))), 4)  # log 4
    1.3863
    """
    value = _softmax_loss(*rows.arguments(y_true, y_pred, sample_weight))
    return ("mlogloss", value) if rows.is_data(y_pred) else value


def logloss(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
    r"""Compute XGBoost's logloss from margins: Σ w·[(1 - y)·softplus(x) + y·softplus(-x)] / Σ w.

    Use it with `xgboost_logistic`; see `mlogloss`.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As for `xgboost_logistic`.

    Returns
    -------
    float, or (str, float) if the second argument is a DMatrix
        XGBoost's own metric clips probabilities at 1e-16.

    Raises
    ------
    TypeError, ValueError
        As for `xgboost_logistic`.

    Examples
    --------
    >>> from fastxent.integrations.boosting import logloss
    >>> round(logloss([0.0, 1.0], [0.0, 2.0]), 4)
    0.41
    """
    value = _logistic_loss(*rows.arguments(y_true, y_pred, sample_weight))
    return ("logloss", value) if rows.is_data(y_pred) else value


def multi_logloss(y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[str, float, bool]:
    r"""Compute LightGBM's multi_logloss from raw scores: Σ w·(lse(x) - x_y) / Σ w.

    LightGBM passes raw scores to a metric if the objective is a function, and probabilities
    otherwise. So use this metric with `lightgbm_softmax` and `metric="None"`: LightGBM's own metric
    of this name would treat the raw scores as probabilities.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As for `lightgbm_softmax`.

    Returns
    -------
    (str, float, bool)
        The metric's name, its value, and False: larger is not better. LightGBM's own metric clips
        probabilities at 1e-15.

    Raises
    ------
    IndexError, TypeError, ValueError
        As for `lightgbm_softmax`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.integrations.boosting import multi_logloss
    >>> name, value, larger_is_better = multi_logloss([2.0], np.zeros((1, 4)))
    >>> name, round(value, 4), larger_is_better
    ('multi_logloss', 1.3863, False)
    """
    return "multi_logloss", _softmax_loss(*rows.arguments(y_true, y_pred, sample_weight)), False


def binary_logloss(y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[str, float, bool]:
    r"""Compute LightGBM's binary_logloss: Σ w·[(1 - y)·softplus(x) + y·softplus(-x)] / Σ w.

    Use it with `lightgbm_logistic`; see `multi_logloss`.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As for `lightgbm_logistic`.

    Returns
    -------
    (str, float, bool)
        The metric's name, its value, and False: larger is not better. LightGBM's own metric clips
        probabilities at 1e-15.

    Raises
    ------
    TypeError, ValueError
        As for `lightgbm_logistic`.

    Examples
    --------
    >>> from fastxent.integrations.boosting import binary_logloss
    >>> name, value, larger_is_better = binary_logloss([0.0, 1.0], [0.0, 2.0])
    >>> name, round(value, 4), larger_is_better
    ('binary_logloss', 0.41, False)
    """
    return "binary_logloss", _logistic_loss(*rows.arguments(y_true, y_pred, sample_weight)), False


def _softmax_loss(labels: Array, margins: Array, weight: Any) -> float:
    classes = rows.classes(labels, margins)
    u = rows.by_row(weight, "sample_weight", margins)
    return float(cross_entropy(margins, classes, sample_weight=u, ignore_index=None))


def _logistic_loss(labels: Array, margins: Array, weight: Any) -> float:
    arguments = rows.binary_arguments(labels, margins, weight)
    total = float(margins.size) if weight is None else float(weight.sum(dtype=np.float64))
    loss = binary_cross_entropy_with_logits(**arguments)
    return float(loss) / total if total else math.nan
