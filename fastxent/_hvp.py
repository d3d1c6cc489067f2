"""The second derivatives of the losses of logits, times a vector."""

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
    r"""Hessian-vector product of `cross_entropy`: its second derivative times a vector.

    The Hessian of a row is :math:`A\,(\operatorname{diag}(p) - p p^{T})` without z-loss and
    softcap, with A the sum of the target's coefficients: (1-ε)·w_y + (ε/C)·Σw for class indices,
    Σ_c w_c·q'_c for class probabilities. Its product with v needs no matrix, only one more sum
    over the row, :math:`π = p^{T} v`:

    .. math::
        (H v)_j = \frac{u}{D}\, p_j \big[ (A + 2 z \operatorname{lse})\,(v_j - π) + 2 z\, π \big]

    Under `logit_scale` and `softcap`, with t the function of the logits r that they make and g
    the gradient of the loss by t(r):

    .. math:: H_r v = t' ∘ H (t' ∘ v) + g ∘ t'' ∘ v

    Parameters
    ----------
    logits, target
        As for `cross_entropy`.
    vector : array_like
        v, of the shape of `logits` and of any real type; it is converted to that of the arithmetic.
    axis, weight, sample_weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap
        As for `cross_entropy`.
    reduction, normalizer, check_target
        Likewise. With "none" the product is that of the Hessian of the sum of the row losses.
    out : array, optional
        A buffer for the result. It may be exactly `vector` or exactly `logits`.

    Returns
    -------
    array
        Of the shape and type of `logits`, C-contiguous unless `out` was given. 0 for ignored rows,
        nan where the gradient is.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `cross_entropy`; and for a `vector` of another shape, or of no real numbers.

    Notes
    -----
    v_j - π is computed as (v_j - v_m) - Σ_k p_k (v_k - v_m), m the largest logit, so that it keeps
    its digits where one class dominates. A class with p_j = 0 takes no part, whatever `vector`
    holds there.

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
    >>> (np.diag(p) - np.outer(p, p))[0].round(3)  # the same without a matrix
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
    r"""Hessian-vector product of `binary_cross_entropy_with_logits`, element by element.

    .. math:: (H v)_i = \frac{w}{D}\,(1 - y + w_{+} y)\,σ(x_i)\,σ(-x_i)\,v_i

    with :math:`w_{+}` the `pos_weight`: each loss depends on its own logit, so the Hessian is
    diagonal.

    Parameters
    ----------
    logits, target, weight, pos_weight, reduction
        As for `binary_cross_entropy_with_logits`.
    vector : array_like
        v, of the shape of `logits` and of any real type; it is converted to that of the arithmetic.
    out : array, optional
        A buffer for the result. It may be exactly `vector` or exactly `logits`.

    Returns
    -------
    array or scalar
        Of the shape and type of `logits`; exactly 0 where the Hessian is.

    Raises
    ------
    TypeError, ValueError
        As `binary_cross_entropy_with_logits`; and for a `vector` of another shape, or of no real
        numbers.

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
    r"""Hessian-vector product of `linear_cross_entropy`, whose N·C logits are never held.

    The vector :math:`(V_X, V_W, v_b)` moves the logits by
    :math:`\dot Z = V_X W^{T} + X V_W^{T} + v_b`, and their gradient G by :math:`\dot G`, the
    product of `cross_entropy_hvp` with that:

    .. math::
        (H v)_X = \dot G\, W + G\, V_W, \qquad
        (H v)_W = \dot G^{T} X + G^{T} V_X, \qquad
        (H v)_b = \sum_i \dot G_i

    Parameters
    ----------
    x, linear_weight, target
        As for `linear_cross_entropy`.
    vector : LinearGrad or tuple
        A part for each of x, linear_weight and linear_bias, shaped as that and of any real type;
        None counts as zeros, and not all may be None.
    linear_bias, weight, sample_weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap
        As for `linear_cross_entropy`.
    reduction, normalizer, check_target
        Likewise. With "none" the product is that of the Hessian of the sum of the row losses.
    wrt : str or tuple of str
        The parts of the product that are made; the others are None, and cost nothing.
    out : LinearGrad, optional
        Buffers for the parts. Each may be exactly its part of `vector`.

    Returns
    -------
    LinearGrad
        The parts of the product with the full Hessian in (x, linear_weight, linear_bias), each of
        the shape and type of its input; None where it is not in `wrt`, and for `linear_bias` if
        none was given.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `linear_cross_entropy`; and for a `vector` that does not fit, or has no part.

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
