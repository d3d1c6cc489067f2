"""fastxent in a JAX program, compiled by jit."""

from collections.abc import Callable
from typing import Any

import jax

from fastxent.bench.peers.jax import product, ready
from fastxent.integrations.jax import cross_entropy as mean_loss

Call = Callable[[], Any]


def cross_entropy(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""
    return ready(jax.value_and_grad(mean_loss), logits, target)


def hvp(logits: Any, target: Any, vector: Any) -> Call:
    """Hessian-vector product of the mean loss: forward over reverse."""
    return product(mean_loss, logits, target, vector)


def loss(logits: Any, target: Any) -> Call:
    """Mean loss only."""
    return ready(lambda x, labels: (mean_loss(x, labels),), logits, target)
