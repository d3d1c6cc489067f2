"""The losses and softmax for JAX programs on the CPU, with derivatives, as XLA custom calls."""

from fastxent.integrations.jax.binary import binary_cross_entropy, binary_cross_entropy_with_logits
from fastxent.integrations.jax.linear import linear_cross_entropy
from fastxent.integrations.jax.maps import entropy, log_softmax, logsumexp, softmax
from fastxent.integrations.jax.rows import categorical_cross_entropy, cross_entropy

__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "categorical_cross_entropy",
    "cross_entropy", "entropy", "linear_cross_entropy", "log_softmax", "logsumexp", "softmax",
]  # fmt: skip
