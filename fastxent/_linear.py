"""linear_cross_entropy: the multinomial logistic pipeline, from features to gradients."""

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
    r"""Cross-entropy of `x @ linear_weight.T + linear_bias`, whose N·C logits are never held.

    With d = ∂L/∂logits as in `cross_entropy`:

    .. math:: \frac{\partial L}{\partial X} = d\,W, \qquad
              \frac{\partial L}{\partial W} = d^{T} X, \qquad
              \frac{\partial L}{\partial b} = \sum_i d_i

    Parameters
    ----------
    x : array_like, shape (…, K)
        Features; any type that logits may have.
    linear_weight : array_like, shape (C, K)
        The weights of the linear map.
    target : array_like, shape x.shape[:-1] or (…, C)
        Integers: class indices in 0 … C-1, or `ignore_index`. Or, for each row of x, the
        probabilities of all classes.
    linear_bias : array_like, shape (C,), optional
        The bias of the linear map.
    weight, sample_weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap
        As for `cross_entropy`.
    reduction, normalizer, check_target
        Likewise. With "none" the gradients are those of the sum of the row losses.
    wrt : str or tuple of str
        The inputs that gradients are made with respect to, of "x", "linear_weight" and
        "linear_bias". The parts of the others are None, and cost nothing: each of the first two is
        a matrix product, and has the size of its input.
    return_grad, return_lse, return_argmax, return_entropy : bool
        Return these too, in this order.
    grad_out : LinearGrad, optional
        Buffers for the gradients, None for parts that are not in `wrt`; implies `return_grad`.
    accumulate : bool
        Add to the buffers in `grad_out` instead of overwriting them.

    Returns
    -------
    loss : scalar or array
        0-d, or with "none" one a row.
    grad : LinearGrad
        Each part of the shape and type of its input; None where it is not in `wrt`, and for
        `linear_bias` if none was given.
    lse, argmax, entropy : arrays
        Those requested: then the result is a tuple that begins with the loss.

    Raises
    ------
    IndexError, TypeError
        As `cross_entropy`.
    ValueError
        Likewise; and a name in `wrt` that is no input, none at all, or a buffer for another part.

    Notes
    -----
    An ignored row adds nothing, even where its x holds nan. Products are NumPy's: they carry a
    dot product's error, and their threads are the BLAS library's.

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
