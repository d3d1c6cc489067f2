"""JAX: optax's loss and its gradient, compiled by jit."""

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
    """A call of a compiled function that waits for its results."""
    # int32 labels, JAX's default without 64-bit types.
    return _compiled(function, logits, target.astype(np.int32))


def _compiled(function: Any, *arrays: Any) -> Call:
    compiled, on_device = jax.jit(function), [jnp.asarray(array) for array in arrays]
    return lambda: jax.block_until_ready(compiled(*on_device))


def cross_entropy(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""
    return ready(jax.value_and_grad(_mean_loss), logits, target)


def loss(logits: Any, target: Any) -> Call:
    """Mean loss alone."""
    return ready(lambda x, labels: (_mean_loss(x, labels),), logits, target)


def categorical(probs: Any, target: Any) -> Call:
    """Mean loss of probabilities alone."""
    rows = np.arange(len(target))
    return ready(lambda p, labels: (-jnp.log(p[rows, labels]).mean(),), probs, target)


def binary(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""
    return _compiled(jax.value_and_grad(_mean_binary_loss), logits, target)


def _mean_binary_loss(x: Any, y: Any) -> Any:
    return optax.sigmoid_binary_cross_entropy(x, y).mean()
