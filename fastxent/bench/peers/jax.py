"""JAX: the losses of optax and their gradients, compiled by jit."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax import numpy as jnp

jax.config.update("jax_enable_x64", True)

Call = Callable[[], Any]


def _mean_loss(x: Any, labels: Any) -> Any:
    axis = 1 if x.ndim > 2 else -1
    return optax.softmax_cross_entropy_with_integer_labels(x, labels, axis=axis).mean()


def ready(function: Any, logits: Any, target: Any) -> Call:
    """Make a call of a compiled function that waits for its results."""
    # int32 labels are JAX's default without 64-bit types.
    return _compiled(function, logits, target.astype(np.int32))


def _compiled(function: Any, *arrays: Any) -> Call:
    compiled, on_device = jax.jit(function), [jnp.asarray(array) for array in arrays]
    return lambda: jax.block_until_ready(compiled(*on_device))


def cross_entropy(logits: Any, target: Any, **options: Any) -> Call:
    """Mean loss and gradient, with options."""
    if target.ndim == 2:
        return _compiled(jax.value_and_grad(_mean_soft_loss), logits, target)
    if options:
        return _with_options(logits, target, options)
    return ready(jax.value_and_grad(_mean_loss), logits, target)


def _mean_soft_loss(x: Any, target: Any) -> Any:
    return optax.softmax_cross_entropy(x, target).mean()


def _with_options(logits: Any, target: Any, options: dict[str, Any]) -> Call:
    """Make a program of the logits, the labels and the array options; other options are static."""
    names = [name for name, value in options.items() if isinstance(value, np.ndarray)]
    static = {name: value for name, value in options.items() if name not in names}

    def program(x: Any, labels: Any, *arrays: Any) -> Any:
        function = functools.partial(_loss, **static, **dict(zip(names, arrays, strict=True)))
        (_, (loss, *others)), grad = jax.value_and_grad(function, has_aux=True)(x, labels)
        return loss, grad, *others

    arrays = (options[name] for name in names)
    return _compiled(program, logits, target.astype(np.int32), *arrays)


def _loss(
    x: Any, labels: Any, *, axis: int = -1, weight: Any = None, sample_weight: Any = None,
    label_smoothing: float = 0.0, z_loss: float = 0.0, reduction: str = "mean",
    return_probs: bool = False, return_lse: bool = False,
) -> Any:  # fmt: skip
    """Return the scalar to differentiate, and the results: the loss, and probs and lse."""
    if label_smoothing:
        one_hot = jax.nn.one_hot(labels, x.shape[-1], dtype=x.dtype)
        smooth = optax.smooth_labels(one_hot, label_smoothing)
        losses = optax.softmax_cross_entropy(x, smooth if weight is None else smooth * weight)
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(x, labels, axis=axis)
        losses = losses if weight is None else losses * weight[labels]
    if z_loss:
        losses += z_loss * jax.nn.logsumexp(x, axis=-1) ** 2
    if reduction == "none":
        return losses.sum(), (losses,)
    by_row = sample_weight if weight is None else weight[labels]
    losses = losses if sample_weight is None else losses * sample_weight
    loss = losses.mean() if by_row is None else losses.sum() / by_row.sum()
    more = (jax.nn.softmax(x), jax.nn.logsumexp(x, axis=-1)) if return_probs else ()
    return loss, (loss, *more)


def loss(logits: Any, target: Any) -> Call:
    """Mean loss only."""
    return ready(lambda x, labels: (_mean_loss(x, labels),), logits, target)


def categorical(probs: Any, target: Any, return_grad: bool = False) -> Call:
    """Mean loss of probabilities, and its gradient if requested."""
    if return_grad and target.ndim == 2:
        return _compiled(jax.value_and_grad(_log_and_multiply), probs, target)
    if return_grad:
        return ready(jax.value_and_grad(_log_and_pick), probs, target)
    return ready(lambda p, labels: (_log_and_pick(p, labels),), probs, target)


def _log_and_pick(p: Any, labels: Any) -> Any:
    return -jnp.log(p[np.arange(len(labels)), labels]).mean()


def _log_and_multiply(p: Any, target: Any) -> Any:
    return -(target * jnp.log(p)).sum(axis=-1).mean()


def product(function: Callable[..., Any], logits: Any, target: Any, vector: Any) -> Call:
    """Hessian-vector product of a loss: forward over reverse."""

    def program(x: Any, labels: Any, v: Any) -> Any:
        return jax.jvp(lambda x: jax.grad(function)(x, labels), (x,), (v,))[1]

    return _compiled(program, logits, target.astype(np.int32), vector)


def hvp(logits: Any, target: Any, vector: Any) -> Call:
    """Hessian-vector product of the mean loss."""
    return product(_mean_loss, logits, target, vector)


def entropy(logits: Any) -> Call:
    """Entropy of each row and gradient."""

    def total(x: Any) -> tuple[Any, Any]:
        log_p = jax.nn.log_softmax(x)
        rows = -(jnp.exp(log_p) * log_p).sum(axis=-1)
        return rows.sum(), rows

    def program(x: Any) -> Any:
        (_, rows), grad = jax.value_and_grad(total, has_aux=True)(x)
        return rows, grad

    return _compiled(program, logits)


def binary(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""
    return _compiled(jax.value_and_grad(_mean_binary_loss), logits, target)


def binary_probs(probs: Any, target: Any) -> Call:
    """Mean loss of probabilities and gradient."""
    return _compiled(jax.value_and_grad(_mean_binary_loss_of_probs), probs, target)


def _mean_binary_loss_of_probs(p: Any, y: Any) -> Any:
    return -(y * jnp.log(p) + (1 - y) * jnp.log1p(-p)).mean()


def _mean_binary_loss(x: Any, y: Any) -> Any:
    return optax.sigmoid_binary_cross_entropy(x, y).mean()
