"""linear_cross_entropy: the multinomial logistic pipeline, from features to gradients."""

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from fastxent import _inputs as inputs
from fastxent._dispatch import backend_of, dispatched
from fastxent._targets import answer, read_target, scalar
from fastxent.terms import LinearGrad, Outputs

_No = Literal[False]
INPUTS = LinearGrad._fields


@overload
def linear_cross_entropy(
    x: ArrayLike, linear_weight: ArrayLike, target: ArrayLike, *,
    linear_bias: ArrayLike | None = None, weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None, ignore_index: int | None = -100,
    label_smoothing: float = 0.0, z_loss: float = 0.0, logit_scale: float = 1.0,
    softcap: float | None = None, reduction: Literal["none", "mean", "sum"] = "mean",
    normalizer: Any = None, check_target: bool = True, wrt: str | tuple[str, ...] = INPUTS,
    return_grad: _No = False,
    return_lse: _No = False, return_argmax: _No = False, grad_out: None = None,
    accumulate: _No = False,
) -> Any: ...  # fmt: skip
@overload
def linear_cross_entropy(
    x: ArrayLike, linear_weight: ArrayLike, target: ArrayLike, *,
    linear_bias: ArrayLike | None = None, weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None, ignore_index: int | None = -100,
    label_smoothing: float = 0.0, z_loss: float = 0.0, logit_scale: float = 1.0,
    softcap: float | None = None, reduction: Literal["none", "mean", "sum"] = "mean",
    normalizer: Any = None, check_target: bool = True, wrt: str | tuple[str, ...] = INPUTS,
    return_grad: Literal[True],
    return_lse: _No = False, return_argmax: _No = False, grad_out: LinearGrad | None = None,
    accumulate: bool = False,
) -> tuple[Any, LinearGrad]: ...  # fmt: skip
@overload
def linear_cross_entropy(
    x: ArrayLike, linear_weight: ArrayLike, target: ArrayLike, *,
    linear_bias: ArrayLike | None = None, weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None, ignore_index: int | None = -100,
    label_smoothing: float = 0.0, z_loss: float = 0.0, logit_scale: float = 1.0,
    softcap: float | None = None, reduction: Literal["none", "mean", "sum"] = "mean",
    normalizer: Any = None, check_target: bool = True, wrt: str | tuple[str, ...] = INPUTS,
    return_grad: bool = False,
    return_lse: bool = False, return_argmax: bool = False, grad_out: LinearGrad | None = None,
    accumulate: bool = False,
) -> Any: ...  # fmt: skip
@dispatched
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
    wrt: str | tuple[str, ...] = INPUTS,
    return_grad: bool = False,
    return_lse: bool = False,
    return_argmax: bool = False,
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
    return_grad, return_lse, return_argmax : bool
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
    lse, argmax : arrays
        Those that were asked for: then the result is a tuple that begins with the loss.

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
    features = inputs.array(x, "x")
    matrix = inputs.array(linear_weight, "linear_weight")
    bias = None if linear_bias is None else inputs.array(linear_bias, "linear_bias")
    named = (("x", features), ("linear_weight", matrix), ("linear_bias", bias))
    own = [None if a is None else inputs.precision(a.dtype, name) for name, a in named]
    inputs.linear_map(features, matrix, bias)
    compute = np.result_type(*(types.compute for types in own if types is not None))
    shape = (*features.shape[:-1], matrix.shape[0])
    aim = read_target(
        target, "x @ linear_weight.T", shape, len(shape) - 1, compute,
        weight=weight, sample_weight=sample_weight, ignore_index=ignore_index,
        label_smoothing=label_smoothing, z_loss=z_loss, logit_scale=logit_scale, softcap=softcap,
        reduction=reduction, normalizer=normalizer,
    )  # fmt: skip
    inputs.flags(
        check_target=check_target, return_grad=return_grad, return_lse=return_lse,
        return_argmax=return_argmax, accumulate=accumulate,
    )  # fmt: skip
    parts_made = inputs.parts(wrt, "wrt", INPUTS)
    buffers = inputs.linear_buffers(grad_out, accumulate)
    kept = [*named, *aim.given]
    grads = None
    if return_grad or buffers is not None:
        parts: list[Any] = []
        for (name, a), types, given in zip(named, own, buffers or (None,) * 3, strict=True):
            if a is None or types is None or name not in parts_made:
                why = f"without {name}" + (" in wrt" if name not in parts_made else "")
                inputs.no_buffer(given, f"grad_out.{name}", why)
                parts.append(None)
            elif buffers is None:
                parts.append(inputs.new(features, a.shape, types.own))
            else:
                out = inputs.buffer(given, f"grad_out.{name}", a.shape, types.own, kept)
                kept.append((f"grad_out.{name}", out))
                parts.append(out)
        grads = LinearGrad(*parts)
    backend = backend_of(features)
    divisor = aim.scan(backend, shape[-1], check_target, compute)

    rows = aim.rows
    loss = inputs.new(features, rows, compute) if aim.per_row else None
    lse = inputs.new(features, rows, compute) if return_lse else None
    argmax = inputs.new(features, rows, inputs.INDEX) if return_argmax else None
    outputs = Outputs.flat(loss, lse, argmax)
    reduced = backend.linear_cross_entropy(
        features, matrix, bias, aim.target,
        aim.terms, divisor, outputs, grads, accumulate, compute,
    )  # fmt: skip
    first = scalar(reduced, compute) if loss is None else inputs.result(loss)
    return answer(first, grads, inputs.result(lse), inputs.result(argmax))
