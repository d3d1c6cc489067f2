"""Hessian-vector products of the losses of logits."""

from typing import Any

from fastxent import calls
from fastxent.dispatch import backend_of, public
from fastxent.functions import BINARY_HVP, CROSS_ENTROPY_HVP, LINEAR_HVP
from fastxent.records import LinearGrad


@public(CROSS_ENTROPY_HVP)
def cross_entropy_hvp(
    logits: Any,
    target: Any,
    vector: Any,
    *,
    axis: int = -1,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: str = "mean",
    normalizer: Any = None,
    check_target: bool = True,
    out: Any = None,
) -> Any:
    r"""Compute the Hessian-vector product of `cross_entropy`.

    The Hessian of a row is :math:`A\,(\operatorname{diag}(p) - p p^{T})` without z-loss and
    softcap, with A the sum of the target's coefficients: (1-ε)·w_y + (ε/C)·Σw for class indices,
    Σ_c w_c·q'_c for class probabilities. Its product with v is computed without the matrix, from
    one more sum over the row, :math:`π = p^{T} v`:

    .. math::
        (H v)_j = \frac{u}{D}\, p_j \big[ (A + 2 z \operatorname{lse})\,(v_j - π) + 2 z\, π \big]

    With `logit_scale` and `softcap`, which map the logits r to t(r), and with g the gradient of the
    loss with respect to t(r):

    .. math:: H_r v = t' ∘ H (t' ∘ v) + g ∘ t'' ∘ v

    Parameters
    ----------
    logits, target
        As for `cross_entropy`.
    vector : array_like
        The vector v, with the shape of `logits` and any real type. It is converted to the type of
        the computation.
    axis, weight, sample_weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap
        As for `cross_entropy`.
    reduction, normalizer, check_target
        As for `cross_entropy`. With "none" the Hessian is that of the sum of the row losses.
    out : array, optional
        Buffer for the result. It may be exactly `vector` or exactly `logits`.

    Returns
    -------
    array
        The product, of the shape and type of `logits`, C-contiguous unless `out` is passed. It is
        0 for ignored rows, and nan where the gradient is nan.

    Raises
    ------
    IndexError, TypeError, ValueError
        As for `cross_entropy`; and if `vector` has another shape or does not hold real numbers.

    Notes
    -----
    v_j - π is computed as (v_j - v_m) - Σ_k p_k (v_k - v_m), with m the class of the largest logit,
    which avoids cancellation where one class dominates. The product is exactly 0 where p_j = 0, and
    v_j is not used there.

    References
    ----------
    B. A. Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994);
    C. M. Bishop, "Pattern Recognition and Machine Learning", 4.3.4, for the Hessian.

    Examples
    --------
    >>> import numpy as np, fastxent as fx
    >>> logits = np.array([[2.0, 1.0, 0.1]])
    >>> fx.cross_entropy_hvp(logits, [0], np.array([[1.0, 0.0, 0.0]])).round(3)
    array([[ 0.225, -0.16 , -0.065]])
    >>> p = fx.softmax(logits[0])
    >>> (np.diag(p) - np.outer(p, p))[0].round(3)  # the same, with the matrix
    array([ 0.225, -0.16 , -0.065])
    """
    call = calls.read_rows(CROSS_ENTROPY_HVP, locals())
    backend_of(call.x).cross_entropy_hvp(call)
    return calls.answer(call)


@public(BINARY_HVP)
def binary_cross_entropy_with_logits_hvp(
    logits: Any,
    target: Any,
    vector: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    reduction: str = "mean",
    out: Any = None,
) -> Any:
    r"""Compute the Hessian-vector product of `binary_cross_entropy_with_logits`.

    .. math:: (H v)_i = \frac{w}{D}\,(1 - y + w_{+} y)\,σ(x_i)\,σ(-x_i)\,v_i

    with :math:`w_{+}` the `pos_weight`. Each loss depends on one logit, so the Hessian is diagonal.

    Parameters
    ----------
    logits, target, weight, pos_weight, reduction
        As for `binary_cross_entropy_with_logits`.
    vector : array_like
        The vector v, with the shape of `logits` and any real type. It is converted to the type of
        the computation.
    out : array, optional
        Buffer for the result. It may be exactly `vector` or exactly `logits`.

    Returns
    -------
    array or scalar
        The product, of the shape and type of `logits`; exactly 0 where the Hessian is 0.

    Raises
    ------
    TypeError, ValueError
        As for `binary_cross_entropy_with_logits`; and if `vector` has another shape or does not
        hold real numbers.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 4.3.3.

    Examples
    --------
    >>> import fastxent as fx
    >>> fx.binary_cross_entropy_with_logits_hvp([0.0, 2.0], [1, 0], [1.0, 1.0]).round(4).tolist()
    [0.125, 0.0525]
    """
    call = calls.read_elements(BINARY_HVP, locals())
    backend_of(call.x).binary_cross_entropy_with_logits_hvp(call)
    return calls.answer(call)


@public(LINEAR_HVP)
def linear_cross_entropy_hvp(
    x: Any,
    linear_weight: Any,
    target: Any,
    vector: Any,
    *,
    linear_bias: Any = None,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: str = "mean",
    normalizer: Any = None,
    check_target: bool = True,
    wrt: str | tuple[str, ...] = LINEAR_HVP.inputs,
    out: LinearGrad | None = None,
) -> Any:
    r"""Compute the Hessian-vector product of `linear_cross_entropy`, without storing all logits.

    Along the vector :math:`(V_X, V_W, v_b)` the derivative of the logits is
    :math:`\dot Z = V_X W^{T} + X V_W^{T} + v_b`, and that of their gradient G is :math:`\dot G`,
    the Hessian-vector product of `cross_entropy` with :math:`\dot Z`:

    .. math::
        (H v)_X = \dot G\, W + G\, V_W, \qquad
        (H v)_W = \dot G^{T} X + G^{T} V_X, \qquad
        (H v)_b = \sum_i \dot G_i

    Parameters
    ----------
    x, linear_weight, target
        As for `linear_cross_entropy`.
    vector : LinearGrad or tuple
        Vectors for x, linear_weight and linear_bias, with their shapes and any real type. None
        stands for zeros; at least one must not be None.
    linear_bias, weight, sample_weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap
        As for `linear_cross_entropy`.
    reduction, normalizer, check_target
        As for `cross_entropy`. With "none" the Hessian is that of the sum of the row losses.
    wrt : str or tuple of str
        The parts of the product to compute; the others are None and not computed.
    out : LinearGrad, optional
        Buffers for the parts. Each may be exactly the same part of `vector`.

    Returns
    -------
    LinearGrad
        The product with the full Hessian in (x, linear_weight, linear_bias): parts of the shapes
        and types of the inputs, None for those that are not in `wrt` and for a missing
        `linear_bias`.

    Raises
    ------
    IndexError, TypeError, ValueError
        As for `linear_cross_entropy`; and if `vector` is invalid or all its parts are None.

    References
    ----------
    B. A. Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994).

    Examples
    --------
    >>> import numpy as np, fastxent as fx
    >>> x, W = np.array([[1.0, 2.0], [3.0, -1.0]]), np.zeros((3, 2))
    >>> v = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    >>> fx.linear_cross_entropy_hvp(x, W, [0, 2], (None, v, None), wrt="linear_weight")[1].round(3)
    array([[ 1.111, -0.111],
           [-0.556,  0.056],
           [-0.556,  0.056]])
    """
    call = calls.read_linear(LINEAR_HVP, locals())
    backend_of(call.x).linear_cross_entropy_hvp(call)
    return calls.answer(call)
