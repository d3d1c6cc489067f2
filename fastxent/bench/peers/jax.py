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
    return optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()


def ready(function: Any, logits: Any, target: Any) -> Call:
    """A call of a compiled function that waits for its results."""
    # int32 labels, JAX's default without 64-bit types.
    x, labels = jnp.asarray(logits), jnp.asarray(target.astype(np.int32))
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(x, labels))


def cross_entropy(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""
    return ready(jax.value_and_grad(_mean_loss), logits, target)


def loss(logits: Any, target: Any) -> Call:
    """Mean loss alone."""
    return ready(lambda x, labels: (_mean_loss(x, labels),), logits, target)
