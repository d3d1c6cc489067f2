"""Objectives and metrics for XGBoost and LightGBM: gradient and Hessian diagonal in one pass.

Each is a module-level function without state, so that it can be pickled with a model. Neither
library is imported. The native interfaces call f(predictions, data), those of scikit-learn
f(labels, predictions[, weights]); every function takes both.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent import binary_cross_entropy_with_logits, calls, checks, cross_entropy, errors
from fastxent.dispatch import backend_of
from fastxent.functions import CROSS_ENTROPY
from fastxent.records import Outputs

__all__ = [
    "binary_logloss",
    "lightgbm_logistic",
    "lightgbm_softmax",
    "logloss",
    "mlogloss",
    "multi_logloss",
    "xgboost_logistic",
    "xgboost_softmax",
]

Array = NDArray[Any]
Gradients = tuple[Array, Array]

# XGBoost's lower bound of the Hessian's elements.
_MIN_HESSIAN = np.float32(1e-16)


def xgboost_softmax(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Gradients:
    r"""XGBoost's multi:softprob and multi:softmax, as a custom objective.

    With x the margins of a row, p their softmax, y its class and w its weight:

    .. math::
        g_k = w\,(p_k - [k = y]), \qquad h_k = \max(2\,w\,p_k (1 - p_k),\ 10^{-16})

    The factor of 2 and the lower bound of h are XGBoost's (src/objective/multiclass_obj.cu).

    Parameters
    ----------
    y_true, y_pred : array_like
        Labels (N,) in 0 … K-1, integers or whole floats, and margins (N, K), as passed by
        `XGBClassifier(objective=xgboost_softmax)`. Or the margins and a DMatrix with labels and
        weights, as passed by `xgboost.train(..., obj=xgboost_softmax)`.
    sample_weight : array_like, optional
        Weights (N,).

    Returns
    -------
    grad, hess : arrays, shape (N, K)
        In the type of the margins, float32 from XGBoost.

    Raises
    ------
    IndexError
        A label that is less than 0 or not less than K.
    TypeError
        Labels or margins that are no real numbers.
    ValueError
        A label that is no integer; shapes that do not fit.

    References
    ----------
    T. Chen and C. Guestrin, "XGBoost", arXiv:1603.02754.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.integrations.boosting import xgboost_softmax
    >>> grad, hess = xgboost_softmax([2.0], np.zeros((1, 4), np.float32))
    >>> grad.tolist(), hess.tolist()
    ([[0.25, 0.25, -0.75, 0.25]], [[0.375, 0.375, 0.375, 0.375]])
    """
    grad, hess = _softmax(*_arguments(y_true, y_pred, sample_weight), lambda n_classes: 2.0)
    return grad, np.maximum(hess, _MIN_HESSIAN, out=hess)


def xgboost_logistic(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Gradients:
    r"""XGBoost's binary:logistic, as a custom objective.

    With σ(x) the probability of class 1:

    .. math::
        g = w\,(σ(x) - y), \qquad h = w \max(σ(x)\,σ(-x),\ 10^{-16})

    as in XGBoost (src/objective/regression_loss.h).

    Parameters
    ----------
    y_true, y_pred : array_like
        Labels (N,) from 0 to 1 and margins (N,) or (N, 1); or the margins and a DMatrix.
    sample_weight : array_like, optional
        Weights (N,). `scale_pos_weight` has no effect: weight the rows instead.

    Returns
    -------
    grad, hess : arrays
        Shaped as the margins.

    Raises
    ------
    TypeError
        Labels or margins that are no real numbers.
    ValueError
        A label outside of 0 … 1; shapes that do not fit.

    References
    ----------
    T. Chen and C. Guestrin, "XGBoost", arXiv:1603.02754.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.integrations.boosting import xgboost_logistic
    >>> grad, hess = xgboost_logistic([0.0, 1.0], np.zeros(2, np.float32))
    >>> grad.tolist(), hess.tolist()
    ([0.5, -0.5], [0.25, 0.25])
    """
    labels, margins, weight = _arguments(y_true, y_pred, sample_weight)
    grad, hess = _logistic(labels, margins, weight)
    least = _MIN_HESSIAN if weight is None else _MIN_HESSIAN * weight.reshape(hess.shape)
    return grad, np.maximum(hess, least, out=hess)


def lightgbm_softmax(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Gradients:
    r"""LightGBM's multiclass, as a custom objective.

    With x the raw scores of a row, p their softmax, y its class and w its weight:

    .. math::
        g_k = w\,(p_k - [k = y]), \qquad h_k = \frac{K}{K - 1}\,w\,p_k (1 - p_k)

    The factor is LightGBM's (src/objective/multiclass_objective.hpp), after Friedman.

    Parameters
    ----------
    y_true, y_pred : array_like
        Labels (N,) in 0 … K-1, integers or whole floats, and raw scores (N, K), as passed by
        `LGBMClassifier(objective=lightgbm_softmax)`. Or the scores and a Dataset with labels and
        weights, as passed by `lightgbm.train({"objective": lightgbm_softmax, …})`.
    sample_weight : array_like, optional
        Weights (N,).

    Returns
    -------
    grad, hess : arrays, shape (N, K)
        In the type and layout of the scores: float64 and column-major from LightGBM, which then
        needs no transpose.

    Raises
    ------
    IndexError
        A label that is less than 0 or not less than K.
    TypeError
        Labels or scores that are no real numbers.
    ValueError
        A label that is no integer; shapes that do not fit; fewer than two classes.

    References
    ----------
    J. H. Friedman, "Greedy function approximation: a gradient boosting machine", 4.6.
    G. Ke et al., "LightGBM", NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.integrations.boosting import lightgbm_softmax
    >>> grad, hess = lightgbm_softmax([2.0], np.zeros((1, 4)))
    >>> grad.tolist(), hess.tolist()
    ([[0.25, 0.25, -0.75, 0.25]], [[0.25, 0.25, 0.25, 0.25]])
    """
    return _softmax(*_arguments(y_true, y_pred, sample_weight), lambda n: n / (n - 1))


def lightgbm_logistic(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Gradients:
    r"""LightGBM's binary, as a custom objective.

    With σ(x) the probability of class 1:

    .. math::
        g = w\,(σ(x) - y), \qquad h = w\,σ(x)\,σ(-x)

    as in LightGBM with `sigmoid=1` (src/objective/binary_objective.hpp).

    Parameters
    ----------
    y_true, y_pred : array_like
        Labels (N,) from 0 to 1 and raw scores (N,); or the scores and a Dataset.
    sample_weight : array_like, optional
        Weights (N,). `scale_pos_weight` and `is_unbalance` have no effect: weight the rows, or
        pass `class_weight`.

    Returns
    -------
    grad, hess : arrays, shape (N,)

    Raises
    ------
    TypeError
        Labels or scores that are no real numbers.
    ValueError
        A label outside of 0 … 1; shapes that do not fit.

    References
    ----------
    G. Ke et al., "LightGBM", NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.integrations.boosting import lightgbm_logistic
    >>> grad, hess = lightgbm_logistic([0.0, 1.0], np.zeros(2))
    >>> grad.tolist(), hess.tolist()
    ([0.5, -0.5], [0.25, 0.25])
    """
    return _logistic(*_arguments(y_true, y_pred, sample_weight))


# --- metrics --------------------------------------------------------------------------------


def mlogloss(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
    r"""XGBoost's mlogloss of margins: Σ w·(lse(x) - x_y) / Σ w.

    XGBoost passes margins to a metric if the objective is a function, and probabilities
    otherwise, so use it with `xgboost_softmax`.

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
        As `xgboost_softmax`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.integrations.boosting import mlogloss
    >>> round(mlogloss([2.0], np.zeros((1, 4))), 4)  # log 4
    1.3863
    """
    value = _softmax_loss(*_arguments(y_true, y_pred, sample_weight))
    return ("mlogloss", value) if _is_data(y_pred) else value


def logloss(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
    r"""XGBoost's logloss of margins: Σ w·[(1 - y)·softplus(x) + y·softplus(-x)] / Σ w.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As for `xgboost_logistic`, with which it is to be used: see `mlogloss`.

    Returns
    -------
    float, or (str, float) if the second argument is a DMatrix
        XGBoost's own metric clips probabilities at 1e-16.

    Raises
    ------
    TypeError, ValueError
        As `xgboost_logistic`.

    Examples
    --------
    >>> from fastxent.integrations.boosting import logloss
    >>> round(logloss([0.0, 1.0], [0.0, 2.0]), 4)
    0.41
    """
    value = _logistic_loss(*_arguments(y_true, y_pred, sample_weight))
    return ("logloss", value) if _is_data(y_pred) else value


def multi_logloss(y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[str, float, bool]:
    r"""LightGBM's multi_logloss of raw scores: Σ w·(lse(x) - x_y) / Σ w.

    LightGBM passes raw scores to a metric if the objective is a function, and probabilities
    otherwise, so use it with `lightgbm_softmax` and `metric="None"`: LightGBM's own metric of this
    name would treat the raw scores as probabilities.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As for `lightgbm_softmax`.

    Returns
    -------
    (str, float, bool)
        The metric's name, its value, and that larger is not better. LightGBM's own takes no
        probability as less than 1e-15.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `lightgbm_softmax`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.integrations.boosting import multi_logloss
    >>> name, value, larger_is_better = multi_logloss([2.0], np.zeros((1, 4)))
    >>> name, round(value, 4), larger_is_better
    ('multi_logloss', 1.3863, False)
    """
    return "multi_logloss", _softmax_loss(*_arguments(y_true, y_pred, sample_weight)), False


def binary_logloss(y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[str, float, bool]:
    r"""LightGBM's binary_logloss: Σ w·[(1 - y)·softplus(x) + y·softplus(-x)] / Σ w.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As for `lightgbm_logistic`, with which it is to be used: see `multi_logloss`.

    Returns
    -------
    (str, float, bool)
        The metric's name, its value, and that larger is not better. LightGBM's own takes no
        probability as less than 1e-15.

    Raises
    ------
    TypeError, ValueError
        As `lightgbm_logistic`.

    Examples
    --------
    >>> from fastxent.integrations.boosting import binary_logloss
    >>> name, value, larger_is_better = binary_logloss([0.0, 1.0], [0.0, 2.0])
    >>> name, round(value, 4), larger_is_better
    ('binary_logloss', 0.41, False)
    """
    return "binary_logloss", _logistic_loss(*_arguments(y_true, y_pred, sample_weight)), False


# --- shared helpers ------------------------------------------------------------------------


def _is_data(value: Any) -> bool:
    """Whether a value is a DMatrix or a Dataset."""
    return hasattr(value, "get_label")


def _arguments(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Array, Array, Any]:
    """Labels, predictions, and weights or None, from the arguments of either interface."""
    if _is_data(y_pred):
        y_true, y_pred, sample_weight = y_pred.get_label(), y_true, y_pred.get_weight()
        if sample_weight is not None and not len(sample_weight):  # a DMatrix without weights
            sample_weight = None
    labels, margins = checks.array(y_true, "y_true"), checks.array(y_pred, "y_pred")
    checks.real_numbers(labels, "y_true")
    if sample_weight is not None:
        sample_weight = checks.array(sample_weight, "sample_weight")
    return labels, margins, sample_weight


def _by_row(per_row: Any, name: str, margins: Array) -> Any:
    """An array with one number for each row of the margins, as (N,); None for None."""
    rows = margins.shape[:1]
    if per_row is None:
        return None
    if per_row.shape not in (rows, (*rows, 1)):
        raise errors.per_row_shape(name, rows, per_row.shape)
    return per_row.reshape(rows)


def _classes(labels: Array, margins: Array) -> Array:
    """Class indices of the rows of margins (N, K), from labels that may be floats."""
    if margins.ndim != 2 or margins.shape[1] < 2:
        raise errors.margins_shape("(N, K) with at least two classes", margins.shape)
    labels, n_classes = _by_row(labels, "y_true", margins), margins.shape[1]
    if labels.dtype.kind == "f" and (odd := np.floor(labels) != labels).any():  # nan, too
        first = int(odd.argmax())
        raise errors.not_integral(first, labels[first])
    if (outside := (labels < 0) | (labels >= n_classes)).any():
        first = int(outside.argmax())
        raise checks.bad_label(labels, first, labels[first], n_classes, None, "y_true")
    return labels.astype(np.int64, copy=False)


def _softmax(
    labels: Array, margins: Array, weight: Any, factor: Callable[[int], float]
) -> Gradients:
    """w·(p - e_y) and factor(K)·w·p·(1 - p), in the type and layout of the margins.

    Calls the backend, because the public `cross_entropy` would return row-major arrays, while
    LightGBM's margins are column-major, and the factor of the Hessian would need a second pass and
    a second rounding. If two splits are equally good, the last bit of the float32 that LightGBM
    rounds to decides, so everything is computed in LightGBM's float64.
    """
    classes = _classes(labels, margins)
    grad, hess = _gradient_pair(margins, checks.precision(margins.dtype, "y_pred").own)
    call = calls.read_rows(CROSS_ENTROPY, CROSS_ENTROPY.defaults() | {
        "logits": margins, "target": classes, "ignore_index": None, "reduction": "sum",
        "sample_weight": _by_row(weight, "sample_weight", margins), "check_target": False,
    })  # fmt: skip
    call = call._replace(
        outputs=Outputs(grad=grad, hess=hess),
        options=call.options._replace(hess_factor=factor(margins.shape[1])),
    )
    backend_of(margins).cross_entropy(call)
    return grad, hess


def _gradient_pair(margins: Array, dtype: Any) -> Gradients:
    """Two arrays in the layout of the margins, in one block of memory.

    The C library (glibc) returns two blocks of several megabytes to the system after each round of
    boosting, and new pages cost as much time as filling them. It keeps one block twice as large for
    the next round.
    """
    if margins.flags.f_contiguous:
        grad, hess = np.empty((2, *margins.shape[::-1]), dtype)
        return grad.T, hess.T
    grad, hess = np.empty((2, *margins.shape), dtype)
    return grad, hess


def _softmax_loss(labels: Array, margins: Array, weight: Any) -> float:
    classes = _classes(labels, margins)
    u = _by_row(weight, "sample_weight", margins)
    return float(cross_entropy(margins, classes, sample_weight=u, ignore_index=None))


def _binary_arguments(labels: Array, margins: Array, weight: Any) -> dict[str, Any]:
    """Arguments of the binary loss, in the shape of the margins; labels must be in 0 … 1."""
    if margins.ndim != 1 and margins.shape[1:] != (1,):
        raise errors.margins_shape("(N,) or (N, 1)", margins.shape)
    labels, weight = (
        _by_row(a, name, margins) for a, name in ((labels, "y_true"), (weight, "sample_weight"))
    )
    outside = ~((labels >= 0) & (labels <= 1))  # nan, too
    if outside.any():
        first = int(outside.argmax())
        raise errors.not_binary(first, labels[first])
    return {
        "logits": margins,
        "target": labels.reshape(margins.shape),
        "weight": None if weight is None else weight.reshape(margins.shape),
        "reduction": "sum",
    }


def _logistic(labels: Array, margins: Array, weight: Any) -> Gradients:
    """w·(σ(x) - y) and w·σ(x)·σ(-x)."""
    arguments = _binary_arguments(labels, margins, weight)
    arguments |= {"return_grad": True, "return_hess": True}
    _, grad, hess = binary_cross_entropy_with_logits(**arguments)
    return grad, hess


def _logistic_loss(labels: Array, margins: Array, weight: Any) -> float:
    arguments = _binary_arguments(labels, margins, weight)
    total = float(margins.size) if weight is None else float(weight.sum(dtype=np.float64))
    loss = binary_cross_entropy_with_logits(**arguments)
    return float(loss) / total if total else math.nan
