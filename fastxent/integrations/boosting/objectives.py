"""Objectives for XGBoost and LightGBM: gradient and Hessian diagonal in one pass.

Each is a module-level function without state, so it can be pickled with a model. The native
interfaces call f(predictions, data), the scikit-learn interfaces f(labels, predictions[, weights]).
Every function accepts both.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastxent import binary_cross_entropy_with_logits, calls, checks
from fastxent.dispatch import backend_of
from fastxent.functions import CROSS_ENTROPY
from fastxent.integrations.boosting import rows
from fastxent.integrations.boosting.rows import Array
from fastxent.records import Outputs

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
        If a label is not in 0 … K-1.
    TypeError
        If labels or margins are not real numbers.
    ValueError
        If a label is not an integer, or shapes do not match.

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
    grad, hess = _softmax(*rows.arguments(y_true, y_pred, sample_weight), lambda n_classes: 2.0)
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
        Weights (N,). `scale_pos_weight` has no effect: weight the rows instead, or
        use `fastxent.integrations.xgboost.XGBClassifier`.

    Returns
    -------
    grad, hess : arrays
        Shaped as the margins.

    Raises
    ------
    TypeError
        If labels or margins are not real numbers.
    ValueError
        If a label is not in [0, 1], or shapes do not match.

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
    labels, margins, weight = rows.arguments(y_true, y_pred, sample_weight)
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
        In the type and layout of the scores. LightGBM's scores are float64 and column-major, so it
        needs no transpose.

    Raises
    ------
    IndexError
        If a label is not in 0 … K-1.
    TypeError
        If labels or scores are not real numbers.
    ValueError
        If a label is not an integer, shapes do not match, or there are fewer than two classes.

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
    return _softmax(*rows.arguments(y_true, y_pred, sample_weight), lambda n: n / (n - 1))


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
        Weights (N,). `scale_pos_weight` and `is_unbalance` have no effect: weight the rows, pass
        `class_weight`, or use `fastxent.integrations.lightgbm.LGBMClassifier`.

    Returns
    -------
    grad, hess : arrays, shape (N,)

    Raises
    ------
    TypeError
        If labels or scores are not real numbers.
    ValueError
        If a label is not in [0, 1], or shapes do not match.

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
    return _logistic(*rows.arguments(y_true, y_pred, sample_weight))


def _softmax(
    labels: Array, margins: Array, weight: Any, factor: Callable[[int], float]
) -> Gradients:
    """Compute w·(p - e_y) and factor(K)·w·p·(1 - p), in the type and layout of the margins.

    It calls the backend: the public `cross_entropy` returns row-major arrays, while LightGBM's
    margins are column-major, and the factor of the Hessian would need a second pass and a second
    rounding. If two splits are equally good, LightGBM decides by the last bit of a float32, so
    everything is computed in the float64 of its margins.
    """
    classes = rows.classes(labels, margins)
    grad, hess = _gradient_pair(margins, checks.precision(margins.dtype, "y_pred").own)
    call = calls.read_rows(CROSS_ENTROPY, CROSS_ENTROPY.defaults() | {
        "logits": margins, "target": classes, "ignore_index": None, "reduction": "sum",
        "sample_weight": rows.by_row(weight, "sample_weight", margins), "check_target": False,
    })  # fmt: skip
    call = call._replace(
        outputs=Outputs(grad=grad, hess=hess),
        options=call.options._replace(hess_factor=factor(margins.shape[1])),
    )
    backend_of(margins).cross_entropy(call)
    return grad, hess


def _gradient_pair(margins: Array, dtype: Any) -> Gradients:
    """Allocate two arrays in the layout of the margins, in one block of memory.

    glibc returns two blocks of several megabytes to the system after each round of boosting, and
    new pages cost as much time as filling them. One block of twice the size is reused in the next
    round.
    """
    if margins.flags.f_contiguous:
        grad, hess = np.empty((2, *margins.shape[::-1]), dtype)
        return grad.T, hess.T
    grad, hess = np.empty((2, *margins.shape), dtype)
    return grad, hess


def _logistic(labels: Array, margins: Array, weight: Any) -> Gradients:
    """Compute w·(σ(x) - y) and w·σ(x)·σ(-x)."""
    arguments = rows.binary_arguments(labels, margins, weight)
    arguments |= {"return_grad": True, "return_hess": True}
    _, grad, hess = binary_cross_entropy_with_logits(**arguments)
    return grad, hess
