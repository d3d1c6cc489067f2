"""binary_cross_entropy and binary_cross_entropy_with_logits."""

from typing import Any

from fastxent import prepared
from fastxent.dispatch import public
from fastxent.functions import BINARY, BINARY_WITH_LOGITS


@public(BINARY)
def binary_cross_entropy(
    probs: Any,
    target: Any,
    *,
    weight: Any = None,
    eps: float | None = None,
    reduction: str = "mean",
    return_grad: bool = False,
    grad_out: Any = None,
) -> Any:
    r"""Compute the elementwise binary cross-entropy of probabilities, and its gradient.

    .. math::
        l = -w \big[ y \log p + (1-y) \log(1-p) \big], \qquad
        \frac{\partial L}{\partial p} = \frac{w}{D}\, \frac{p - y}{p (1-p)}

    where D is the number of elements for "mean" and 1 otherwise. If you have logits, use
    `binary_cross_entropy_with_logits`: it is accurate where probabilities round to 0 or 1.

    Parameters
    ----------
    probs : array_like
        Probabilities p of class 1, of any shape, including 0-d. Computed in float32 for float32,
        float16 and bfloat16, in float64 for float64, integers and bools.
    target : array_like
        Targets y of the same shape: 0 and 1, bools, or floats between 0 and 1.
    weight : array_like, optional
        Weights w of the elements. They broadcast to the shape of `probs`.
    eps : float, optional
        None (default) does as PyTorch: logarithms are at least -100, the gradient is divided by
        max(p·(1-p), 1e-12), and p outside [0, 1] gives nan. A number between 0 and 0.5 clips p and
        1 - p each to [eps, 1 - eps], and the gradient is taken at the clipped values. 1e-15 works
        in float32 too. It must be a normal number of the type of the computation.
    reduction : {"mean", "sum", "none"}
        How the losses are reduced. With "none" the gradient is that of their sum.
    return_grad : bool
        Also return the gradient with respect to `probs`.
    grad_out : array, optional
        Buffer for the gradient; implies `return_grad`. It may be `probs` itself.

    Returns
    -------
    loss : scalar or array
        The loss, 0-d; with "none" of the shape of `probs`. float32 for half precision.
    grad : array
        The gradient, of the shape and type of `probs`. If it is requested, the result is a tuple.

    Raises
    ------
    TypeError
        If an array does not hold real numbers or is on another device.
    ValueError
        If a shape, an option or a buffer is invalid, or an integer target holds other values than
        0 and 1.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 4.3.2.

    Examples
    --------
    >>> import numpy as np, fastxent as fx
    >>> probs = np.array([0.9, 0.1, 0.8, 0.2])
    >>> loss, grad = fx.binary_cross_entropy(probs, [1, 0, 1, 0], return_grad=True)
    >>> round(float(loss), 6)
    0.164252
    >>> grad.round(4)  # -y/p + (1-y)/(1-p), over 4
    array([-0.2778,  0.2778, -0.3125,  0.3125])
    """
    return prepared.answer(BINARY, locals())


@public(BINARY_WITH_LOGITS)
def binary_cross_entropy_with_logits(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    reduction: str = "mean",
    return_grad: bool = False,
    return_probs: bool = False,
    return_hess: bool = False,
    grad_out: Any = None,
) -> Any:
    r"""Compute the elementwise binary cross-entropy of logits, and its gradient.

    With σ(x) = 1/(1 + exp(-x)) and softplus(x) = log(1 + exp(x)):

    .. math::
        l = w \big[ (1-y) \operatorname{softplus}(x)
            + r\, y \operatorname{softplus}(-x) \big], \qquad
        \frac{\partial L}{\partial x} = \frac{w}{D} \big[ (1-y)\, σ(x) - r\, y\, σ(-x) \big]

    where r is `pos_weight` and D is the number of elements for "mean" and 1 otherwise. Without
    weights the gradient is (σ(x) - y)/D.

    Parameters
    ----------
    logits : array_like
        Logits x of any shape, including 0-d. Computed in float32 for float32, float16 and bfloat16,
        in float64 for float64, integers and bools.
    target : array_like
        Targets y of the same shape: 0 and 1, bools, or floats between 0 and 1.
    weight : array_like, optional
        Weights w of the elements. They broadcast to the shape of `logits`.
    pos_weight : array_like, optional
        Weights r of the positive class. They broadcast likewise. A term with weight 0 is exactly
        0, even for an infinite logit.
    reduction : {"mean", "sum", "none"}
        How the losses are reduced. With "none" the gradient is that of their sum.
    return_grad, return_probs, return_hess : bool
        Also return these, in this order, with the shape of `logits`: the gradient; σ(x); the second
        derivative w/D·(1-y + r·y)·σ(x)·σ(-x).
    grad_out : array, optional
        Buffer for the gradient; implies `return_grad`. It may be `logits` itself.

    Returns
    -------
    loss : scalar or array
        The loss, 0-d; with "none" of the shape of `logits`. float32 for half precision.
    grad, probs, hess : arrays
        The requested results. If there are any, the result is a tuple that begins with the loss.

    Raises
    ------
    TypeError
        If an array does not hold real numbers or is on another device.
    ValueError
        If a shape, an option or a buffer is invalid, or an integer target holds other values than
        0 and 1.

    Notes
    -----
    softplus(±x) is computed as max(±x, 0) + log1p(exp(-\|x\|)), and σ(±x) as a quotient. So small
    losses and small gradients lose no digits to cancellation. Subnormal results may be 0.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 4.3.2.

    Examples
    --------
    >>> import numpy as np, fastxent as fx
    >>> round(float(fx.binary_cross_entropy_with_logits(2.0, 1)), 6)
    0.126928
    >>> loss, grad = fx.binary_cross_entropy_with_logits(
    ...     np.array([-40.0, 0.5]), [0, 1], pos_weight=3, reduction="none", return_grad=True
    ... )
    >>> loss.tolist()  # softplus(-40) is not 0
    [4.248354255291589e-18, 1.42223095254032]
    """
    return prepared.answer(BINARY_WITH_LOGITS, locals())
