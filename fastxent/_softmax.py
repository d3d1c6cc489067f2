"""softmax, log_softmax, logsumexp and entropy over one axis."""

from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastxent import calls
from fastxent.dispatch import backend_of, public
from fastxent.functions import ENTROPY, LOG_SOFTMAX, LOGSUMEXP, SOFTMAX

Floats = TypeVar("Floats", bound=NDArray[np.floating[Any]])


@overload
def softmax(logits: Floats, *, axis: int = -1, out: Floats | None = None) -> Floats: ...
@overload
def softmax(logits: ArrayLike, *, axis: int = -1, out: Any = None) -> Any: ...
@public(SOFTMAX)
def softmax(logits: Any, *, axis: int = -1, out: Any = None) -> Any:
    r"""Compute the softmax along an axis.

    .. math:: p_j = \frac{e^{x_j - m}}{\sum_c e^{x_c - m}}, \qquad m = \max_c x_c,
              \qquad \frac{\partial p_j}{\partial x_i} = p_j (δ_{ij} - p_i)

    Parameters
    ----------
    logits : array_like
        Logits of any rank ≥ 1. Computed in float32 for float32, float16 and bfloat16, in float64
        for float64, integers and bools.
    axis : int
        The class axis.
    out : array, optional
        Buffer of the result's shape and type. It may be `logits` itself.

    Returns
    -------
    array
        Probabilities of the shape and float type of `logits` (float64 for integers), C-contiguous
        unless `out` is passed. An empty axis gives an empty array. A row that is all -inf, or holds
        +inf or nan, is nan.

    Raises
    ------
    TypeError
        If the logits are complex, object, structured, masked or longdouble, or `axis` is not an
        int.
    ValueError
        If there is no such axis, or `out` is invalid.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and softmax
    functions", IMA J. Numer. Anal. 41 (2021), for the shift by the maximum.

    Examples
    --------
    >>> import numpy as np, fastxent as fx
    >>> fx.softmax(np.array([2.0, 1.0, 0.1])).round(3)
    array([0.659, 0.242, 0.099])
    """
    call = calls.read_map(SOFTMAX, locals())
    backend_of(call.x).softmax(call)
    return calls.answer(call)


@overload
def log_softmax(logits: Floats, *, axis: int = -1, out: Floats | None = None) -> Floats: ...
@overload
def log_softmax(logits: ArrayLike, *, axis: int = -1, out: Any = None) -> Any: ...
@public(LOG_SOFTMAX)
def log_softmax(logits: Any, *, axis: int = -1, out: Any = None) -> Any:
    r"""Compute the logarithm of the softmax along an axis.

    .. math:: \log p_j = (x_j - m) - \log \sum_c e^{x_c - m}, \qquad
              \frac{\partial \log p_j}{\partial x_i} = δ_{ij} - p_i

    The logarithm of the sum is computed as log1p of the terms other than the largest: log p of a
    class with p = 1 - 1e-26 is -1e-26, not 0.

    Parameters
    ----------
    logits : array_like
        Logits of any rank ≥ 1; types as for `softmax`.
    axis : int
        The class axis.
    out : array, optional
        Buffer of the result's shape and type. It may be `logits` itself.

    Returns
    -------
    array
        Log-probabilities of the shape of `logits`, C-contiguous unless `out` is passed. An empty
        axis gives an empty array.

    Raises
    ------
    TypeError, ValueError
        As for `softmax`.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham, IMA J. Numer. Anal. 41 (2021).

    Examples
    --------
    >>> import numpy as np, fastxent as fx
    >>> fx.log_softmax(np.array([0.0, -60.0])).tolist()
    [-8.75651076269652e-27, -60.0]
    """
    call = calls.read_map(LOG_SOFTMAX, locals())
    backend_of(call.x).log_softmax(call)
    return calls.answer(call)


@public(LOGSUMEXP)
def logsumexp(logits: Any, *, axis: int = -1, keepdims: bool = False) -> Any:
    r"""Compute the logarithm of the sum of exponentials along an axis.

    .. math:: \operatorname{lse} = m + \log \sum_c e^{x_c - m}, \qquad
              \frac{\partial \operatorname{lse}}{\partial x_j} = p_j

    Parameters
    ----------
    logits : array_like
        Logits of any rank ≥ 1; types as for `softmax`.
    axis : int
        The class axis.
    keepdims : bool
        Keep the axis with length 1.

    Returns
    -------
    array or scalar
        The logsumexp, with the shape of `logits` without `axis`. A row that is all -inf, or empty,
        gives -inf; a row with +inf gives +inf; a row with nan gives nan.

    Raises
    ------
    TypeError
        If the logits are complex, object, structured, masked or longdouble, or `axis` is not an
        int.
    ValueError
        If there is no such axis.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham, IMA J. Numer. Anal. 41 (2021).

    Examples
    --------
    >>> import numpy as np, fastxent as fx
    >>> float(fx.logsumexp(np.array([0.0, -40.0])))
    4.248354255291589e-18
    """
    call = calls.read_map(LOGSUMEXP, locals())
    backend_of(call.x).logsumexp(call)
    return calls.answer(call)


@public(ENTROPY)
def entropy(logits: Any, *, axis: int = -1, return_grad: bool = False, grad_out: Any = None) -> Any:
    r"""Compute the entropy of the softmax along an axis, in nats, and its gradient.

    .. math:: H = -\sum_j p_j \log p_j, \qquad
              \frac{\partial H}{\partial x_j} = -p_j (\log p_j + H)

    It is computed as :math:`\log s + \sum_j p_j (m - x_j)`, a sum of terms of one sign, which is
    accurate for confident rows too. A class with p = 0 adds exactly 0.

    Parameters
    ----------
    logits : array_like
        Logits of any rank ≥ 1; types as for `softmax`.
    axis : int
        The class axis.
    return_grad : bool
        Also return the gradient of the sum of all entropies.
    grad_out : array, optional
        Buffer for the gradient; implies `return_grad`. It may be `logits` itself.

    Returns
    -------
    entropy : array or scalar
        The entropy, between 0 and log C, with the shape of `logits` without `axis`. float32 for
        half precision. A row that is all -inf, or holds +inf or nan, is nan.
    grad : array
        The gradient, of the shape and type of `logits`. If it is requested, the result is a tuple.

    Raises
    ------
    TypeError
        If the logits are complex, object, structured, masked or longdouble, or `axis` is not an
        int.
    ValueError
        If there is no such axis or it is empty, or the buffer is invalid.

    References
    ----------
    C. E. Shannon, "A mathematical theory of communication", Bell System Technical Journal 27
    (1948).

    Examples
    --------
    >>> import numpy as np, fastxent as fx
    >>> round(float(fx.entropy(np.zeros(4))), 4)  # log 4
    1.3863
    >>> H, grad = fx.entropy(np.array([2.0, 1.0, 0.1]), return_grad=True)
    >>> round(float(H), 4), grad.round(4).tolist()
    (0.8467, [-0.2832, 0.1383, 0.1449])
    """
    call = calls.read_entropy(ENTROPY, locals())
    backend_of(call.x).entropy(call)
    return calls.answer(call)
