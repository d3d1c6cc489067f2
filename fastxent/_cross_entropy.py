"""cross_entropy and categorical_cross_entropy."""

from typing import Any

from fastxent import prepared
from fastxent.dispatch import public
from fastxent.functions import CATEGORICAL, CROSS_ENTROPY
from fastxent.options import AS_PYTORCH
from fastxent.plain import plain_cross_entropy


@public(CROSS_ENTROPY)
def cross_entropy(
    logits: Any,
    target: Any,
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
    return_grad: bool = False,
    return_probs: bool = False,
    return_lse: bool = False,
    return_hess: bool = False,
    return_argmax: bool = False,
    return_entropy: bool = False,
    grad_out: Any = None,
    probs_out: Any = None,
) -> Any:
    r"""Cross-entropy of logits against classes, with its gradient and more from the same pass.

    With :math:`x` the logits of a row (after scale and softcap), :math:`p` their softmax,
    :math:`\operatorname{lse}` their logsumexp, y the class, w the class weights, u the row's
    weight and ε the label smoothing, for class indices:

    .. math::
        l &= u \Big\{ (1-ε)\, w_y (\operatorname{lse} - x_y)
             + \frac{ε}{C} \sum_c w_c (\operatorname{lse} - x_c)
             + z\,\operatorname{lse}^2 \Big\} \\
        \frac{\partial L}{\partial x} &= \frac{u}{D} \Big[ (1-ε)\, w_y (p - e_y)
             + \frac{ε}{C} (W p - w) + 2 z \operatorname{lse}\, p \Big], \qquad W = \sum_c w_c

    where D is 1 for "sum" and "none", and for "mean" the sum of u·w_y over the active rows.
    Without options that is p - e_y, by which nobody has to hold p. For class probabilities q,
    with q' = (1-ε)·q + ε/C:

    .. math::
        l &= u \Big\{ \sum_c w_c q'_c (\operatorname{lse} - x_c)
             + z\,\operatorname{lse}^2 \Big\} \\
        \frac{\partial L}{\partial x} &= \frac{u}{D} \Big[ \Big(\sum_c w_c q'_c\Big) p - w q'
             + 2 z \operatorname{lse}\, p \Big]

    where D is the sum of u for "mean": of the rows' weights alone.

    Parameters
    ----------
    logits : array_like
        Shape (N, C), or any rank ≥ 1 with the classes along `axis`. float32 and float64 are kept,
        float16 and bfloat16 compute in float32, integers and bools in float64.
    target : array_like
        Integers of the shape of `logits` without `axis`: class indices in 0 … C-1, or
        `ignore_index`. Or of the same shape as `logits`: class probabilities q, or rows of 0 and 1
        of any numeric type. They are taken as they are, also where a row does not add up to 1.
    axis : int
        The class axis; `axis=1` for PyTorch's (N, C, d1, …).
    weight : array_like, shape (C,), optional
        Class weights w.
    sample_weight : array_like, optional
        Weights u of the rows, of the shape of the loss with "none". A row of weight 0 does not
        count.
    ignore_index : int or None
        Rows with this target do not count: loss and gradient are exactly 0, whatever their logits
        hold. None ignores nothing. With class probabilities it must be left as it is.
    label_smoothing : float
        ε in 0 … 1.
    z_loss : float
        Adds z_loss·lse² to each active row.
    logit_scale : float
        x ← logit_scale·x.
    softcap : float, optional
        Then x ← softcap·tanh(x / softcap); greater than 0.
    reduction : {"mean", "sum", "none"}
        Of the row losses. With "none" the gradient is that of their sum.
    normalizer : scalar, optional
        With "mean" only: replaces the divisor D, so that micro-batches add up.
    check_target : bool
        Raise for class indices out of range; if not, such a row is nan. Raise for integers other
        than 0 and 1 in a target of the shape of `logits`; if not, they are taken as they are.
    return_grad, return_probs, return_lse, return_hess, return_argmax, return_entropy : bool
        Return these too, in this order: the gradient and the probabilities, shaped as `logits`;
        logsumexp per row; the diagonal of the Hessian with all options, as `cross_entropy_hvp` has
        it: without z-loss, scale and softcap u/D·A·p(1-p), A the sum of the target's coefficients;
        the argmax per row, int64; the entropy of p per row, as `entropy` has it.
    grad_out, probs_out : array, optional
        Buffers for them; each implies its flag. `grad_out` may be `logits` itself. Where the
        system has to find new pages for each large gradient, a buffer saves that in a loop.

    Returns
    -------
    loss : scalar or array
        0-d, or with "none" one a row; float32 for half precision.
    grad, probs, lse, hess, argmax, entropy : arrays
        Those requested: then the result is a tuple that begins with the loss.

    Raises
    ------
    IndexError
        A class index out of range; nothing has been written.
    TypeError
        Logits or a target of an unsupported type; an array on another device.
    ValueError
        A shape, an option or a buffer that does not fit; an `ignore_index` with probabilities as
        target, integers other than 0 and 1 in place of them.

    Notes
    -----
    lse - x_y is taken as (m - x_y) + log s, so that an offset shared by a row is harmless, and
    p_y - 1 as minus the sum of the others, so that the gradient of a confident row is not 0. A
    number too small for its type's normal range may come out as 0.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 4.3.4, for the gradient.
    C. Szegedy et al., arXiv:1512.00567, for label smoothing; A. Chowdhery et al.,
    arXiv:2204.02311, for z-loss.

    Examples
    --------
    >>> import numpy as np, fastxent as fx
    >>> logits = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
    >>> loss, grad = fx.cross_entropy(logits, [1, 0], reduction="sum", return_grad=True)
    >>> round(float(loss), 4)
    4.037
    >>> grad.round(3)
    array([[ 0.659, -0.758,  0.099],
           [-0.927,  0.487,  0.44 ]])
    >>> round(float(fx.cross_entropy(logits, [[0.2, 0.8, 0], [1, 0, 0]])), 4)
    1.9185
    """
    if (
        weight is None and sample_weight is None and softcap is None and normalizer is None
        and probs_out is None and check_target is True and type(return_grad) is type(check_target)
        and return_probs is return_lse is return_hess is return_argmax is return_entropy is False
        and type(axis) is int and (axis == -1 or axis == 1)
        and type(label_smoothing) is type(z_loss) is type(logit_scale) is float
        and label_smoothing == z_loss == 0.0 and logit_scale == 1.0
        and type(reduction) is str and (reduction == "mean" or reduction == "sum")
    ):  # fmt: skip
        mean = reduction == "mean"
        answer = plain_cross_entropy(logits, target, ignore_index, mean, return_grad, grad_out)
        if answer is not None:
            return answer
    return prepared.answer(CROSS_ENTROPY, locals())


@public(CATEGORICAL)
def categorical_cross_entropy(
    probs: Any,
    target: Any,
    *,
    axis: int = -1,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    eps: float | None = None,
    reduction: str = "mean",
    check_target: bool = True,
    return_grad: bool = False,
    grad_out: Any = None,
) -> Any:
    r"""Cross-entropy of probabilities against classes, with its gradient.

    With p the probabilities of a row, q its target (one-hot for a class index y), w the class
    weights and u the row's weight:

    .. math::
        l = -u \sum_c w_c\, q_c \log p_c, \qquad
        \frac{\partial L}{\partial p_c} = -\frac{u}{D}\, \frac{w_c\, q_c}{p_c}

    where D is 1 for "sum" and "none", and for "mean" the sum of u·w_y over the active rows, of u
    where the target is probabilities. From logits, `cross_entropy` needs no probabilities, and
    keeps the digits that they lose.

    Parameters
    ----------
    probs : array_like
        Shape (N, C), or any rank ≥ 1 with the classes along `axis`; types as for `cross_entropy`.
        Rows need not add up to 1, and are not made to.
    target : array_like
        Integers of the shape of `probs` without `axis`: class indices in 0 … C-1, or
        `ignore_index`. Or of the same shape as `probs`: class probabilities or one-hot rows.
    axis : int
        The class axis.
    weight : array_like, shape (C,), optional
        Class weights w. A class of weight 0 adds exactly 0.
    sample_weight : array_like, optional
        Weights u of the rows, of the shape of the loss with "none". A row of weight 0 does not
        count.
    ignore_index : int or None
        Rows with this class index do not count: loss and gradient are exactly 0, whatever they
        hold. None ignores nothing.
    eps : float, optional
        None: as in PyTorch's BCELoss, logarithms are not less than -100, the gradient is divided
        by max(p, 1e-12), and p outside 0 … 1 is nan. Between 0 and 0.5: p is clipped to
        [eps, 1 - eps], and the gradient is taken there; 1e-15 works in float32 too. It must be a
        normal number of the type that is computed in.
    reduction : {"mean", "sum", "none"}
        Of the row losses. With "none" the gradient is that of their sum.
    check_target : bool
        Raise for class indices out of range; if not, such a row is nan. Raise for integers other
        than 0 and 1 in a target of the shape of `probs`; if not, they are taken as they are.
    return_grad : bool
        Return the gradient with respect to `probs` too.
    grad_out : array, optional
        A buffer for it; implies `return_grad`. It may be `probs` itself.

    Returns
    -------
    loss : scalar or array
        0-d, or with "none" one a row; float32 for half precision.
    grad : array
        Of the shape and type of `probs`, if requested: then the result is a tuple.

    Raises
    ------
    IndexError
        A class index out of range; nothing has been written.
    TypeError
        Probabilities or a target of an unsupported type; an array on another device.
    ValueError
        A shape, an option or a buffer that does not fit; an `ignore_index` with probabilities as
        target, integers other than 0 and 1 in place of them.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 4.3.4.

    Examples
    --------
    >>> import numpy as np, fastxent as fx
    >>> probs = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]])
    >>> round(float(fx.categorical_cross_entropy(probs, np.eye(3))), 6)
    0.424322
    >>> loss, grad = fx.categorical_cross_entropy([0.2, 0.7, 0.1], 1, return_grad=True)
    >>> round(float(loss), 6), grad.round(4).tolist()  # -1/p at the class
    (0.356675, [0.0, -1.4286, 0.0])
    """
    if (
        weight is None and sample_weight is None and eps is None
        and check_target is True and type(return_grad) is type(check_target)
        and type(axis) is int and (axis == -1 or axis == 1)
        and type(reduction) is str and (reduction == "mean" or reduction == "sum")
    ):  # fmt: skip
        mean = reduction == "mean"
        answer = plain_cross_entropy(
            probs, target, ignore_index, mean, return_grad, grad_out, AS_PYTORCH
        )
        if answer is not None:
            return answer
    return prepared.answer(CATEGORICAL, locals())
