"""softmax, log_softmax, logsumexp and entropy for JAX programs, with derivatives of any order.

Their derivatives are composed of their results by JAX's own operations.
"""

import functools
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from fastxent.functions import ENTROPY, LOG_SOFTMAX, LOGSUMEXP, SOFTMAX, Function
from fastxent.integrations.jax import arguments, primitives
from fastxent.integrations.jax.requests import Request


def softmax(logits: Any, *, axis: int = -1) -> Any:
    r"""Compute the softmax along an axis in a JAX program.

    .. math:: p_j = \frac{e^{x_j - m}}{\sum_c e^{x_c - m}}, \qquad m = \max_c x_c,
              \qquad \frac{\partial p_j}{\partial x_i} = p_j (δ_{ij} - p_i)

    Parameters
    ----------
    logits : jax.Array
        Logits: floats of any rank ≥ 1. float16 and bfloat16 are computed in float32.
    axis : int
        The class axis. It is static: a Python int, not a traced value.

    Returns
    -------
    jax.Array
        Probabilities of the shape and type of `logits`; corner cases as for `fastxent.softmax`.

    Raises
    ------
    TypeError
        If the logits are not floats, or `axis` is not an int.
    ValueError
        If there is no such axis.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham, IMA J. Numer. Anal. 41 (2021).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from fastxent.integrations.jax import softmax
    >>> softmax(jnp.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    return _softmax(*_checked(SOFTMAX, logits, axis))


def log_softmax(logits: Any, *, axis: int = -1) -> Any:
    r"""Compute the logarithm of the softmax along an axis in a JAX program.

    .. math:: \log p_j = (x_j - m) - \log \sum_c e^{x_c - m}, \qquad
              \frac{\partial \log p_j}{\partial x_i} = δ_{ij} - p_i

    Parameters
    ----------
    logits, axis
        As for `softmax`.

    Returns
    -------
    jax.Array
        Log-probabilities of the shape and type of `logits`; accurate also for p close to 1.

    Raises
    ------
    TypeError, ValueError
        As for `softmax`.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham, IMA J. Numer. Anal. 41 (2021).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from fastxent.integrations.jax import log_softmax
    >>> round(float(log_softmax(jnp.array([0.0, -60.0]))[0] * 1e27), 4)
    -8.7565
    """
    return _log_softmax(*_checked(LOG_SOFTMAX, logits, axis))


def logsumexp(logits: Any, *, axis: int = -1, keepdims: bool = False) -> Any:
    r"""Compute the logarithm of the sum of exponentials along an axis in a JAX program.

    .. math:: \operatorname{lse} = m + \log \sum_c e^{x_c - m}, \qquad
              \frac{\partial \operatorname{lse}}{\partial x_j} = p_j

    Parameters
    ----------
    logits, axis
        As for `softmax`.
    keepdims : bool
        Keep the axis with length 1; static.

    Returns
    -------
    jax.Array
        The logsumexp, with the shape of `logits` without `axis` and their type.

    Raises
    ------
    TypeError, ValueError
        As for `softmax`.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham, IMA J. Numer. Anal. 41 (2021).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from fastxent.integrations.jax import logsumexp
    >>> jax.grad(logsumexp)(jnp.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    lse = _logsumexp(*_checked(LOGSUMEXP, logits, axis, keepdims=keepdims))
    return jnp.expand_dims(lse, axis) if keepdims else lse


def entropy(logits: Any, *, axis: int = -1) -> Any:
    r"""Compute the entropy of the softmax along an axis, in nats, in a JAX program.

    .. math:: H = -\sum_j p_j \log p_j, \qquad
              \frac{\partial H}{\partial x_j} = -p_j (\log p_j + H)

    Parameters
    ----------
    logits, axis
        As for `softmax`.

    Returns
    -------
    jax.Array
        The entropy, with the shape of `logits` without `axis`. float32 for half precision.

    Raises
    ------
    TypeError, ValueError
        As for `softmax`; and if the axis is empty.

    References
    ----------
    C. E. Shannon, "A mathematical theory of communication", Bell System Technical Journal 27
    (1948).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from fastxent.integrations.jax import entropy
    >>> round(float(entropy(jnp.zeros(4))), 4)  # log 4
    1.3863
    """
    return _entropy(*_checked(ENTROPY, logits, axis))


def _checked(function: Function, logits: Any, axis: int, **options: Any) -> tuple[Any, int]:
    """Check the arguments; return the logits as an array, and the axis counted from the end."""
    x = arguments.floats(logits, "logits")
    arguments.check(function, {"logits": x, "axis": axis, **options})
    return x, int(axis) % x.ndim - x.ndim


def _run(function: Function, x: Any, axis: int, **request: Any) -> Any:
    """Compute the results by the handler."""
    return primitives.call(Request(function.name, ("logits",), (("axis", axis),), **request), [x])


def _widened(a: Any) -> Any:
    """Convert half precision to float32, for differences of sums."""
    return a.astype(jnp.promote_types(a.dtype, np.float32))


def _along(p: Any, t: Any) -> Any:
    """The tangent in float32 or float64, 0 for classes with p = 0."""
    return jnp.where(p == 0, 0, _widened(t))


# A decorator for functions with a static axis, which is the first argument of their jvp rules.
_function = functools.partial(jax.custom_jvp, nondiff_argnums=(1,))


@_function
def _softmax(x: Any, axis: int) -> Any:
    return _run(SOFTMAX, x, axis)[0]


@_softmax.defjvp  # type: ignore[untyped-decorator]
def _softmax_along(axis: int, primals: Any, tangents: Any) -> Any:
    p = _softmax(*primals, axis)
    t, widened = _along(p, *tangents), _widened(p)
    return p, (widened * (t - (widened * t).sum(axis, keepdims=True))).astype(p.dtype)


@_function
def _log_softmax(x: Any, axis: int) -> Any:
    return _run(LOG_SOFTMAX, x, axis)[0]


@_log_softmax.defjvp  # type: ignore[untyped-decorator]
def _log_softmax_along(axis: int, primals: Any, tangents: Any) -> Any:
    log_p = _log_softmax(*primals, axis)
    p = jnp.exp(_widened(log_p))
    total = (p * _along(p, *tangents)).sum(axis, keepdims=True)
    return log_p, (_widened(tangents[0]) - total).astype(log_p.dtype)


@_function
def _logsumexp(x: Any, axis: int) -> Any:
    return _run(LOGSUMEXP, x, axis)[0]


@_logsumexp.defjvp  # type: ignore[untyped-decorator]
def _logsumexp_along(axis: int, primals: Any, tangents: Any) -> Any:
    lse, p = _logsumexp(*primals, axis), _softmax(*primals, axis)
    return lse, (_widened(p) * _along(p, *tangents)).sum(axis).astype(lse.dtype)


@_function
def _entropy(x: Any, axis: int) -> Any:
    return _run(ENTROPY, x, axis)[0]


@_entropy.defjvp  # type: ignore[untyped-decorator]
def _entropy_along(axis: int, primals: Any, tangents: Any) -> Any:
    value, grad = _entropy_pair(*primals, axis)
    return value, (_widened(grad) * _along(grad, *tangents)).sum(axis).astype(value.dtype)


@_function
def _entropy_pair(x: Any, axis: int) -> Any:
    """Compute the entropy and its gradient."""
    return _run(ENTROPY, x, axis, wrt=("logits",))


@_entropy_pair.defjvp  # type: ignore[untyped-decorator]
def _entropy_pair_along(axis: int, primals: Any, tangents: Any) -> Any:
    value, grad = _entropy_pair(*primals, axis)
    along = (_widened(grad) * _along(grad, *tangents)).sum(axis).astype(value.dtype)

    def gradient(x: Any) -> Any:
        """p·(d - Σ p·d) with d = m - x, which equals -p·(log p + H)."""
        p = _softmax(_widened(x), axis)
        d = jnp.where(p == 0, 0, jax.lax.stop_gradient(x.max(axis, keepdims=True)) - x)
        return (p * (d - (p * d).sum(axis, keepdims=True))).astype(grad.dtype)

    return [value, grad], [along, jax.jvp(gradient, primals, tangents)[1]]
