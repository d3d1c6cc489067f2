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
    r"""Compute the softmax cross-entropy of logits, and its gradient in the same pass.

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
    Without options the gradient of a row is (p - e_y)/D. For class probabilities q, with
    q' = (1-ε)·q + ε/C:

    .. math::
        l &= u \Big\{ \sum_c w_c q'_c (\operatorname{lse} - x_c)
             + z\,\operatorname{lse}^2 \Big\} \\
        \frac{\partial L}{\partial x} &= \frac{u}{D} \Big[ \Big(\sum_c w_c q'_c\Big) p - w q'
             + 2 z \operatorname{lse}\, p \Big]

    where D is the sum of the sample weights u for "mean".

    Parameters
    ----------
    logits : array_like
        Logits of shape (N, C), or of any rank ≥ 1 with the classes along `axis`. Computed in
        float32 for float32, float16 and bfloat16, in float64 for float64, integers and bools.
    target : array_like
        Class indices: integers of the shape of `logits` without `axis`, in 0 … C-1 or equal to
        `ignore_index`. Or class probabilities q of the shape of `logits`: floats, or one-hot rows
        of any numeric type. They are not normalised.
    axis : int
        The class axis; `axis=1` for PyTorch's layout (N, C, d1, …).
    weight : array_like, shape (C,), optional
        Class weights w.
    sample_weight : array_like, optional
        Weights u of the rows, with the shape of the unreduced loss. Rows with weight 0 are ignored.
    ignore_index : int or None
        Rows with this class index are ignored: their loss and gradient are exactly 0, whatever
        their logits are. None ignores no row. Leave the default with class probabilities.
    label_smoothing : float
        ε between 0 and 1.
    z_loss : float
        Add z_loss·lse² to the loss of each active row.
    logit_scale : float
        Multiply the logits by this: x ← logit_scale·x.
    softcap : float, optional
        Then apply x ← softcap·tanh(x / softcap). Greater than 0.
    reduction : {"mean", "sum", "none"}
        How the row losses are reduced. With "none" the gradient is that of their sum.
    normalizer : scalar, optional
        Divisor that replaces D, with "mean" only, for example to sum the losses of micro-batches.
    check_target : bool
        If True, raise for class indices out of range, and for integers other than 0 and 1 in a
        target of the shape of `logits`. If False, a row with a bad index is nan, and such integers
        are used as coefficients.
    return_grad, return_probs, return_lse, return_hess, return_argmax, return_entropy : bool
        Also return these, in this order: the gradient and the probabilities, with the shape of
        `logits`; logsumexp per row; the diagonal of the Hessian of the loss with all options, which
        is u/D·A·p(1-p) without z-loss, scale and softcap (A as in `cross_entropy_hvp`); the argmax
        per row, int64; the entropy of p per row, as `entropy` computes it.
    grad_out, probs_out : array, optional
        Buffers for the gradient and the probabilities; each implies its flag. `grad_out` may be
        `logits` itself. Reusing a buffer in a loop avoids allocating a large gradient each time.

    Returns
    -------
    loss : scalar or array
        The loss, 0-d; with "none" one per row. float32 for half precision.
    grad, probs, lse, hess, argmax, entropy : arrays
        The requested results. If there are any, the result is a tuple that begins with the loss.

    Raises
    ------
    IndexError
        If a class index is out of range. Nothing has been written then.
    TypeError
        If the type of the logits or of the target is not supported, or an array is on another
        device.
    ValueError
        If a shape, an option or a buffer is invalid; if `ignore_index` is set with class
        probabilities; if an integer target of the shape of `logits` holds other values than 0 and
        1.

    Notes
    -----
    lse - x_y is computed as (m - x_y) + log s, so a common offset of a row cancels. p_y - 1 is
    computed as minus the sum of the other probabilities, so the gradient of a confident row does
    not round to 0. Subnormal results may be 0.

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
    r"""Compute the categorical cross-entropy of probabilities, and its gradient.

    With p the probabilities of a row, q its target (one-hot for a class index y), w the class
    weights and u the row's weight:

    .. math::
        l = -u \sum_c w_c\, q_c \log p_c, \qquad
        \frac{\partial L}{\partial p_c} = -\frac{u}{D}\, \frac{w_c\, q_c}{p_c}

    where D is 1 for "sum" and "none", and for "mean" the sum of u·w_y over the active rows (of u
    for class probabilities). If you have logits, use `cross_entropy`: it is accurate where
    probabilities round to 0 or 1.

    Parameters
    ----------
    probs : array_like
        Probabilities of shape (N, C), or of any rank ≥ 1 with the classes along `axis`; types as
        for `cross_entropy`. They are not normalised.
    target : array_like
        Class indices: integers of the shape of `probs` without `axis`, in 0 … C-1 or equal to
        `ignore_index`. Or class probabilities or one-hot rows of the shape of `probs`.
    axis : int
        The class axis.
    weight : array_like, shape (C,), optional
        Class weights w. A class with weight 0 adds exactly 0.
    sample_weight : array_like, optional
        Weights u of the rows, with the shape of the unreduced loss. Rows with weight 0 are ignored.
    ignore_index : int or None
        Rows with this class index are ignored: their loss and gradient are exactly 0, whatever
        they hold. None ignores no row.
    eps : float, optional
        None (default) does as PyTorch's BCELoss: logarithms are at least -100, the gradient is
        divided by max(p, 1e-12), and p outside [0, 1] gives nan. A number between 0 and 0.5 clips p
        to [eps, 1 - eps], and the gradient is taken at the clipped values. 1e-15 works in float32
        too. It must be a normal number of the type of the computation.
    reduction : {"mean", "sum", "none"}
        How the row losses are reduced. With "none" the gradient is that of their sum.
    check_target : bool
        If True, raise for class indices out of range, and for integers other than 0 and 1 in a
        target of the shape of `probs`. If False, a row with a bad index is nan, and such integers
        are used as coefficients.
    return_grad : bool
        Also return the gradient with respect to `probs`.
    grad_out : array, optional
        Buffer for the gradient; implies `return_grad`. It may be `probs` itself.

    Returns
    -------
    loss : scalar or array
        The loss, 0-d; with "none" one per row. float32 for half precision.
    grad : array
        The gradient, of the shape and type of `probs`. If it is requested, the result is a tuple.

    Raises
    ------
    IndexError
        If a class index is out of range. Nothing has been written then.
    TypeError
        If the type of the probabilities or of the target is not supported, or an array is on
        another device.
    ValueError
        If a shape, an option or a buffer is invalid; if `ignore_index` is set with class
        probabilities; if an integer target of the shape of `probs` holds other values than 0 and 1.

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
