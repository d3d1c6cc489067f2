"""linear_cross_entropy: loss and gradients of multinomial logistic regression."""

from typing import Any

from fastxent import calls
from fastxent.dispatch import backend_of, public
from fastxent.functions import LINEAR
from fastxent.records import LinearGrad


@public(LINEAR)
def linear_cross_entropy(
    x: Any,
    linear_weight: Any,
    target: Any,
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
    wrt: str | tuple[str, ...] = LINEAR.inputs,
    return_grad: bool = False,
    return_lse: bool = False,
    return_argmax: bool = False,
    return_entropy: bool = False,
    grad_out: LinearGrad | None = None,
    accumulate: bool = False,
) -> Any:
    r"""Compute the cross-entropy of `x @ linear_weight.T + linear_bias` without storing all logits.

    The N·C logits are computed block by block. With d = ∂L/∂logits as in `cross_entropy`:

    .. math:: \frac{\partial L}{\partial X} = d\,W, \qquad
              \frac{\partial L}{\partial W} = d^{T} X, \qquad
              \frac{\partial L}{\partial b} = \sum_i d_i

    Parameters
    ----------
    x : array_like, shape (…, K)
        Features, of any type that logits may have.
    linear_weight : array_like, shape (C, K)
        Weights W of the linear map.
    target : array_like, shape x.shape[:-1] or (…, C)
        Class indices: integers in 0 … C-1 or equal to `ignore_index`. Or class probabilities for
        each row of x.
    linear_bias : array_like, shape (C,), optional
        Bias b of the linear map.
    weight, sample_weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap
        As for `cross_entropy`.
    reduction, normalizer, check_target
        As for `cross_entropy`. With "none" the gradients are those of the sum of the row losses.
    wrt : str or tuple of str
        The inputs to differentiate with respect to, among "x", "linear_weight" and "linear_bias".
        The gradients of the others are None and not computed, which saves a matrix product each for
        "x" and "linear_weight", and memory of the input's size.
    return_grad, return_lse, return_argmax, return_entropy : bool
        Also return these, in this order.
    grad_out : LinearGrad, optional
        Buffers for the gradients, None for inputs that are not in `wrt`; implies `return_grad`.
    accumulate : bool
        Add the gradients to the buffers in `grad_out` instead of overwriting them.

    Returns
    -------
    loss : scalar or array
        The loss, 0-d; with "none" one per row.
    grad : LinearGrad
        The gradients, of the shapes and types of the inputs; None for inputs that are not in `wrt`
        and for a missing `linear_bias`.
    lse, argmax, entropy : arrays
        The requested results. If there are any, the result is a tuple that begins with the loss.

    Raises
    ------
    IndexError, TypeError
        As for `cross_entropy`.
    ValueError
        As for `cross_entropy`; and if `wrt` is empty or names no input, or a buffer is passed for
        an input that is not in `wrt`.

    Notes
    -----
    An ignored row adds nothing to the gradients, even if its x holds nan. Matrix products are
    NumPy's: they have the rounding error of a dot product, and use the threads of the BLAS library.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 4.3.4; E. Wijmans et al., "Cut your
    losses in large-vocabulary language models", arXiv:2411.09009, for not holding the logits.

    Examples
    --------
    >>> import numpy as np, fastxent as fx
    >>> x = np.array([[1.0, 2.0], [3.0, -1.0]])
    >>> loss, grad = fx.linear_cross_entropy(x, np.zeros((3, 2)), [0, 2], return_grad=True)
    >>> round(float(loss), 4)  # log 3
    1.0986
    >>> grad.linear_weight.round(3)
    array([[ 0.167, -0.833],
           [ 0.667,  0.167],
           [-0.833,  0.667]])
    """
    call = calls.read_linear(LINEAR, locals())
    return calls.answer(call, backend_of(call.x).linear_cross_entropy(call))
