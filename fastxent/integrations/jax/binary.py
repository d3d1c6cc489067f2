"""binary_cross_entropy and binary_cross_entropy_with_logits for JAX programs."""

from typing import Any

from fastxent.functions import BINARY, BINARY_WITH_LOGITS
from fastxent.integrations.jax import arguments


def binary_cross_entropy(
    probs: Any,
    target: Any,
    *,
    weight: Any = None,
    eps: float | None = None,
    reduction: str = "mean",
) -> Any:
    r"""Compute the elementwise binary cross-entropy of probabilities in a JAX program.

    .. math::
        l = -w \big[ y \log p + (1-y) \log(1-p) \big], \qquad
        \frac{\partial L}{\partial p} = \frac{w}{D}\, \frac{p - y}{p (1-p)}

    where D is the number of elements for "mean" and 1 otherwise.

    Parameters
    ----------
    probs : jax.Array
        Probabilities p of class 1: floats of any shape.
    target : jax.Array
        Targets y of the same shape: 0 and 1, bools, or floats between 0 and 1.
    weight : jax.Array, optional
        Weights w of the elements. They broadcast to the shape of `probs`.
    eps : float, optional
        As for `categorical_cross_entropy`, applied to p and to 1 - p.
    reduction : {"mean", "sum", "none"}
        How the losses are reduced.

    Returns
    -------
    jax.Array
        The loss, 0-d; with "none" of the shape of `probs`. float32 for half precision.

    Raises
    ------
    TypeError
        If the probabilities are not floats, or another array is differentiated.
    ValueError
        If a shape or an option is invalid.
    ValueError or jax.errors.JaxRuntimeError
        If an integer target holds other values than 0 and 1. Raised when the program runs.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 4.3.2.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from fastxent.integrations.jax import binary_cross_entropy
    >>> jax.grad(binary_cross_entropy)(jnp.array([0.5, 0.25]), jnp.array([0, 1])).tolist()
    [1.0, -2.0]
    """
    return arguments.loss(BINARY, locals())


def binary_cross_entropy_with_logits(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    reduction: str = "mean",
    return_probs: bool = False,
) -> Any:
    r"""Compute the elementwise binary cross-entropy of logits in a JAX program.

    .. math::
        l = w \big[ (1-y) \operatorname{softplus}(x)
            + r\, y \operatorname{softplus}(-x) \big], \qquad
        \frac{\partial L}{\partial x} = \frac{w}{D} \big[ (1-y)\, σ(x) - r\, y\, σ(-x) \big]

    where r is `pos_weight` and D is the number of elements for "mean" and 1 otherwise.

    Parameters
    ----------
    logits : jax.Array
        Logits x: floats of any shape.
    target : jax.Array
        Targets y of the same shape: 0 and 1, bools, or floats between 0 and 1.
    weight, pos_weight : jax.Array, optional
        Weights w of the elements, and r of the positive class. They broadcast to the shape of
        `logits`.
    reduction : {"mean", "sum", "none"}
        How the losses are reduced.
    return_probs : bool
        Also return σ(x), which is differentiable too.

    Returns
    -------
    loss : jax.Array
        The loss, 0-d; with "none" of the shape of `logits`. float32 for half precision.
    probs : jax.Array
        σ(x). If it is requested, the result is a tuple.

    Raises
    ------
    TypeError, ValueError, jax.errors.JaxRuntimeError
        As for `binary_cross_entropy`.

    Notes
    -----
    Second derivatives are computed as `fastxent.binary_cross_entropy_with_logits_hvp`; a third
    derivative raises an error.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 4.3.2.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from fastxent.integrations.jax import binary_cross_entropy_with_logits
    >>> jax.grad(binary_cross_entropy_with_logits)(jnp.zeros(2), jnp.array([0, 1])).tolist()
    [0.25, -0.25]
    """
    return arguments.loss(BINARY_WITH_LOGITS, locals())
