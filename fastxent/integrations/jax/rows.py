"""cross_entropy and categorical_cross_entropy for JAX programs."""

from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from fastxent.functions import CATEGORICAL, CROSS_ENTROPY
from fastxent.integrations.jax import arguments, index_losses


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
    return_probs: bool = False,
    return_lse: bool = False,
    return_argmax: bool = False,
    return_entropy: bool = False,
) -> Any:
    r"""Compute the softmax cross-entropy of logits in a JAX program.

    Without options, for class indices y,

    .. math::
        l = \operatorname{lse}(x) - x_y, \qquad
        \frac{\partial L}{\partial x} = \frac{1}{D}\,(p - e_y)

    where D is the number of active rows for "mean", and 1 for "sum" and "none". The formulas with
    options, and for class probabilities, are those of `fastxent.cross_entropy`.

    Parameters
    ----------
    logits : jax.Array
        Logits of shape (N, C), or of any rank ≥ 1 with the classes along `axis`. float32 or
        float64; float16 and bfloat16 are computed in float32.
    target : jax.Array
        Class indices: integers of the shape of `logits` without `axis`, in 0 … C-1 or equal to
        `ignore_index`. Or class probabilities or one-hot rows of the shape of `logits`.
    axis : int
        The class axis. This and the other options are static: Python values, not traced ones.
    weight : jax.Array, shape (C,), optional
        Class weights. Only `logits` can be differentiated, not this or other arrays.
    sample_weight : jax.Array, optional
        Weights of the rows, with the shape of the unreduced loss. Bools act as a mask. Rows with
        weight 0 are ignored.
    ignore_index : int or None
        Rows with this class index are ignored: their loss and gradient are exactly 0, whatever
        their logits are. None ignores no row.
    label_smoothing : float
        ε between 0 and 1.
    z_loss : float
        Add z_loss·lse² to the loss of each active row.
    logit_scale : float
        Multiply the logits by this: x ← logit_scale·x.
    softcap : float, optional
        Then apply x ← softcap·tanh(x / softcap).
    reduction : {"mean", "sum", "none"}
        How the row losses are reduced.
    normalizer : scalar or 0-d jax.Array, optional
        Divisor that replaces D, with "mean" only. It may be traced.
    check_target : bool
        If True, raise for class indices out of range. If False, such a row is nan.
    return_probs, return_lse, return_argmax, return_entropy : bool
        Also return these, in this order, as `fastxent.cross_entropy` does. They are differentiable;
        `jax.value_and_grad(…, has_aux=True)` ignores their derivatives.

    Returns
    -------
    loss : jax.Array
        The loss, 0-d; with "none" one per row. float32 for half precision.
    probs, lse, argmax, entropy : jax.Array
        The requested results. If there are any, the result is a tuple that begins with the loss.
        argmax is int64 with jax_enable_x64, else int32.

    Raises
    ------
    TypeError
        If the logits are not floats, the target is neither integers nor class probabilities, or
        another array than `logits` is differentiated.
    ValueError
        If shapes do not match or an option is invalid.
    ValueError or jax.errors.JaxRuntimeError
        If a class index is out of range. It is detected when the program runs, and JAX raises one
        or the other.

    Notes
    -----
    The gradient is computed together with the loss if it is needed, and multiplied in the backward
    pass, where XLA removes a factor of 1. Forward mode multiplies it by the tangent. Second
    derivatives, in any order of the modes, are Hessian-vector products as by
    `fastxent.cross_entropy_hvp`; a matrix is made by `jax.hessian` only. Third and higher
    derivatives are available for class indices without weights, z-loss, scale and softcap, and
    raise an error otherwise.

    With class indices and no options other than `axis`, `ignore_index`, `label_smoothing`,
    `reduction` and `check_target`, XLA calls compiled code on its own threads. All other calls run
    fastxent in Python, on XLA's memory, with fastxent's threads. Under `jax.vmap` each loss is a
    group of rows of one call. Subnormal numbers may be treated as 0.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 4.3.4; B. A. Pearlmutter, "Fast exact
    multiplication by the Hessian", Neural Computation 6 (1994).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from fastxent.integrations.jax import cross_entropy
    >>> logits, target = jnp.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]]), jnp.array([1, 0])
    >>> loss, grad = jax.jit(jax.value_and_grad(cross_entropy))(logits, target)
    >>> round(float(loss), 4), (grad[0] * 1000).round().tolist()
    (2.0185, [330.0, -379.0, 49.0])
    >>> round(float(cross_entropy(logits, target, z_loss=0.1, weight=jnp.array([2.0, 1, 1]))), 4)
    2.6603
    """
    if (
        weight is None and sample_weight is None and softcap is None and normalizer is None
        and type(z_loss) is type(logit_scale) is float and z_loss == 0.0 and logit_scale == 1.0
        and return_probs is return_lse is return_argmax is return_entropy is False
        and type(check_target) is type(return_probs) and _has_indices(logits, target)
    ):  # fmt: skip
        return index_losses.cross_entropy(
            logits, target, axis, ignore_index, label_smoothing, reduction, check_target
        )
    return arguments.loss(CROSS_ENTROPY, locals())


def _has_indices(logits: Any, target: Any) -> bool:
    """Whether a target has the shape and type of class indices."""
    y = target if isinstance(target, jax.Array) else np.asarray(target)
    return y.ndim == jnp.ndim(logits) - 1 and bool(jnp.issubdtype(y.dtype, jnp.integer))


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
) -> Any:
    r"""Compute the categorical cross-entropy of probabilities in a JAX program.

    .. math::
        l = -u \sum_c w_c\, q_c \log p_c, \qquad
        \frac{\partial L}{\partial p_c} = -\frac{u}{D}\, \frac{w_c\, q_c}{p_c}

    with the notation of `fastxent.categorical_cross_entropy`.

    Parameters
    ----------
    probs : jax.Array
        Probabilities: floats of shape (N, C), or of any rank ≥ 1 with the classes along `axis`.
    target, axis, weight, sample_weight, ignore_index, reduction, check_target
        As for `cross_entropy`.
    eps : float, optional
        None (default): logarithms are at least -100, and the gradient is divided by max(p, 1e-12).
        A number between 0 and 0.5 clips p to [eps, 1 - eps], and the gradient is taken at the
        clipped values.

    Returns
    -------
    jax.Array
        The loss, 0-d; with "none" one per row. float32 for half precision.

    Raises
    ------
    TypeError, ValueError, jax.errors.JaxRuntimeError
        As for `cross_entropy`.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 4.3.4.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from fastxent.integrations.jax import categorical_cross_entropy
    >>> grad = jax.grad(categorical_cross_entropy)(jnp.array([0.25, 0.5, 0.25]), 1)
    >>> grad.tolist()  # -1/p at the class
    [0.0, -2.0, 0.0]
    """
    return arguments.loss(CATEGORICAL, locals())
