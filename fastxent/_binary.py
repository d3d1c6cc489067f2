"""The two binary losses."""

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
    r"""Binary cross-entropy of probabilities, element by element, with its gradient.

    .. math::
        l = -w \big[ y \log p + (1-y) \log(1-p) \big], \qquad
        \frac{\partial L}{\partial p} = \frac{w}{D}\, \frac{p - y}{p (1-p)}

    where D is the number of elements for "mean", else 1. From logits,
    `binary_cross_entropy_with_logits` needs no probabilities, and keeps the digits that they lose.

    Parameters
    ----------
    probs : array_like
        Probabilities p of the class 1, of any shape, also none. float32 and float64 are kept,
        float16 and bfloat16 compute in float32, integers and bools in float64.
    target : array_like
        y of the same shape: 0 and 1, bools, or floats between.
    weight : array_like, optional
        w; broadcasts against `probs` without enlarging it.
    eps : float, optional
        None: as PyTorch has it, logarithms are not less than -100, the gradient is divided by
        max(p·(1-p), 1e-12), and p outside 0 … 1 is nan. Between 0 and 0.5: p and 1 - p are each
        clipped to [eps, 1 - eps], and the gradient is taken there; 1e-15 works in float32 too.
        It must be a normal number of the type that is computed in.
    reduction : {"mean", "sum", "none"}
        Of the losses. With "none" the gradient is that of their sum.
    return_grad : bool
        Return the gradient with respect to `probs` too.
    grad_out : array, optional
        A buffer for it; implies `return_grad`. It may be `probs` itself.

    Returns
    -------
    loss : scalar or array
        0-d, or with "none" of the shape of `probs`; float32 for half precision.
    grad : array
        Of the shape and type of `probs`, if requested: then the result is a tuple.

    Raises
    ------
    TypeError
        An array of no real numbers; an array on another device.
    ValueError
        A shape, an option or a buffer that does not fit; a target of integers other than 0 and 1.

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
    r"""Binary cross-entropy of logits, element by element, with its gradient and more.

    With σ(x) = 1/(1 + exp(-x)) and softplus(x) = log(1 + exp(x)):

    .. math::
        l = w \big[ (1-y) \operatorname{softplus}(x)
            + r\, y \operatorname{softplus}(-x) \big], \qquad
        \frac{\partial L}{\partial x} = \frac{w}{D} \big[ (1-y)\, σ(x) - r\, y\, σ(-x) \big]

    where r is `pos_weight` and D the number of elements for "mean", else 1. Without weights the
    gradient is σ(x) - y.

    Parameters
    ----------
    logits : array_like
        x, of any shape, also none. float32 and float64 are kept, float16 and bfloat16
        compute in float32, integers and bools in float64.
    target : array_like
        y of the same shape: 0 and 1, bools, or floats between.
    weight : array_like, optional
        w; broadcasts against `logits` without enlarging it.
    pos_weight : array_like, optional
        r, what the positive class weighs; likewise. A weight that is 0 adds exactly 0, even to an
        infinite logit.
    reduction : {"mean", "sum", "none"}
        Of the losses. With "none" the gradient is that of their sum.
    return_grad, return_probs, return_hess : bool
        Return these too, in this order, shaped as `logits`: the gradient; σ(x); the second
        derivative w/D·(1-y + r·y)·σ(x)·σ(-x).
    grad_out : array, optional
        A buffer for the gradient; implies `return_grad`. It may be `logits` itself.

    Returns
    -------
    loss : scalar or array
        0-d, or with "none" of the shape of `logits`; float32 for half precision.
    grad, probs, hess : arrays
        Those requested: then the result is a tuple that begins with the loss.

    Raises
    ------
    TypeError
        An array of no real numbers; an array on another device.
    ValueError
        A shape, an option or a buffer that does not fit; a target of integers other than 0 and 1.

    Notes
    -----
    softplus(±x) = max(±x, 0) + log1p(exp(-\|x\|)), and σ of either sign is a quotient: so neither a
    small loss nor a small gradient is the difference of two large numbers. A number too small for
    its type's normal range may come out as 0.

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
