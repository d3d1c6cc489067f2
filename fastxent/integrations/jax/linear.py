"""linear_cross_entropy for JAX programs."""

from typing import Any

from fastxent.functions import LINEAR
from fastxent.integrations.jax import arguments


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
    return_lse: bool = False,
    return_argmax: bool = False,
    return_entropy: bool = False,
) -> Any:
    r"""Compute the cross-entropy of x @ linear_weight.T + linear_bias without storing all logits.

    With d the gradient of `cross_entropy` with respect to the logits,

    .. math::
        \frac{\partial L}{\partial x} = d\,W, \qquad
        \frac{\partial L}{\partial W} = d^\top x, \qquad
        \frac{\partial L}{\partial b} = \sum_i d_i

    Parameters
    ----------
    x : jax.Array
        Features: floats of shape (…, K).
    linear_weight : jax.Array, shape (C, K)
        Weights W of the linear map: floats, a row for each class.
    target : jax.Array
        Class indices of shape x.shape[:-1], or class probabilities of shape (…, C).
    linear_bias : jax.Array, shape (C,), optional
        Bias b of the linear map.
    weight, sample_weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap
        As for `cross_entropy`.
    reduction, normalizer, check_target
        As for `cross_entropy`.
    return_lse, return_argmax, return_entropy : bool
        Also return these, in this order. lse and entropy are not differentiable here: a program
        that needs their derivative raises an error.

    Returns
    -------
    loss : jax.Array
        The loss, 0-d; with "none" one per row.
    lse, argmax, entropy : jax.Array
        The requested results. If there are any, the result is a tuple that begins with the loss.

    Raises
    ------
    TypeError, ValueError, jax.errors.JaxRuntimeError
        As for `cross_entropy`.

    Notes
    -----
    Gradients are computed only for the inputs that are differentiated. Matrix products are NumPy's.
    Under `jax.vmap` the loss and the gradient by x are one call if W and b are not batched;
    gradients by W and b are one call for each item. Second derivatives are Hessian-vector products
    as by `fastxent.linear_cross_entropy_hvp`. With "none" they are available for a sum of the
    losses, with reverse mode applied first.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 4.3.4; E. Wijmans et al., "Cut your
    losses in large-vocabulary language models", arXiv:2411.09009, for not holding the logits.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from fastxent.integrations.jax import linear_cross_entropy
    >>> x, W = jnp.array([[1.0, 2.0]]), jnp.zeros((2, 2))
    >>> jax.grad(linear_cross_entropy, argnums=1)(x, W, jnp.array([0])).tolist()
    [[-0.5, -1.0], [0.5, 1.0]]
    """
    return arguments.loss(LINEAR, locals())
