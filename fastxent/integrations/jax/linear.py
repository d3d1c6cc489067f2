"""The loss of a linear map for JAX programs."""

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
    r"""Cross-entropy of x @ linear_weight.T + linear_bias, whose logits are never held whole.

    With d the gradient of `cross_entropy` by the logits,

    .. math::
        \frac{\partial L}{\partial x} = d\,W, \qquad
        \frac{\partial L}{\partial W} = d^\top x, \qquad
        \frac{\partial L}{\partial b} = \sum_i d_i

    Parameters
    ----------
    x : jax.Array
        Shape (…, K), of floats.
    linear_weight : jax.Array, shape (C, K)
        W, of floats; rows are classes.
    target : jax.Array
        Class indices of the shape of `x` without its last axis, or class probabilities (…, C).
    linear_bias : jax.Array, shape (C,), optional
        b.
    weight, sample_weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap
        As for `cross_entropy`.
    reduction, normalizer, check_target
        Likewise.
    return_lse, return_argmax, return_entropy : bool
        Return these too, in this order. lse and entropy have no derivative here: one that is
        needed is an error.

    Returns
    -------
    loss : jax.Array
        0-d or with "none" one per row.
    lse, argmax, entropy : jax.Array
        Those requested: then the result is a tuple that begins with the loss.

    Raises
    ------
    TypeError, ValueError, jax.errors.JaxRuntimeError
        As `cross_entropy`.

    Notes
    -----
    Gradients are made of those inputs alone that are differentiated. Matrix products are NumPy's.
    Under `jax.vmap` the loss and the gradient of x are one call if W and b are shared; gradients of
    W and b are one call for each group. Second derivatives are products as of
    `fastxent.linear_cross_entropy_hvp`; of losses by row they are there for a sum of these, with
    reverse mode inside.

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
