"""The two binary losses for JAX programs."""

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
    r"""Binary cross-entropy of probabilities, element by element, as part of a JAX program.

    .. math::
        l = -w \big[ y \log p + (1-y) \log(1-p) \big], \qquad
        \frac{\partial L}{\partial p} = \frac{w}{D}\, \frac{p - y}{p (1-p)}

    where D is the number of elements for "mean", else 1.

    Parameters
    ----------
    probs : jax.Array
        Probabilities p of the class 1, of any shape, of floats.
    target : jax.Array
        y of the same shape: 0 and 1, bools, or floats between.
    weight : jax.Array, optional
        w; broadcasts against `probs` without enlarging it.
    eps : float, optional
        As for `categorical_cross_entropy`, of p and 1 - p.
    reduction : {"mean", "sum", "none"}
        Of the losses.

    Returns
    -------
    jax.Array
        The loss, 0-d or with "none" of the shape of `probs`; float32 for half precision.

    Raises
    ------
    TypeError
        Probabilities that are not floats; a derivative by another array.
    ValueError
        A shape or an option that does not fit.
    ValueError or jax.errors.JaxRuntimeError
        A target of integers other than 0 and 1, when the program runs.

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
    r"""Binary cross-entropy of logits, element by element, as part of a JAX program.

    .. math::
        l = w \big[ (1-y) \operatorname{softplus}(x)
            + r\, y \operatorname{softplus}(-x) \big], \qquad
        \frac{\partial L}{\partial x} = \frac{w}{D} \big[ (1-y)\, σ(x) - r\, y\, σ(-x) \big]

    where r is `pos_weight` and D the number of elements for "mean", else 1.

    Parameters
    ----------
    logits : jax.Array
        x, of any shape, of floats.
    target : jax.Array
        y of the same shape: 0 and 1, bools, or floats between.
    weight, pos_weight : jax.Array, optional
        w and r; they broadcast against `logits` without enlarging them.
    reduction : {"mean", "sum", "none"}
        Of the losses.
    return_probs : bool
        Return σ(x) too, which has a derivative of its own.

    Returns
    -------
    loss : jax.Array
        0-d or with "none" of the shape of `logits`; float32 for half precision.
    probs : jax.Array
        If requested: then the result is a tuple.

    Raises
    ------
    TypeError, ValueError, jax.errors.JaxRuntimeError
        As `binary_cross_entropy`.

    Notes
    -----
    A second derivative is a product as of `fastxent.binary_cross_entropy_with_logits_hvp`; a third
    one is an error.

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
