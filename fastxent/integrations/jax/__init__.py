"""The losses, softmax and entropy for JAX programs on the CPU, with derivatives.

They are XLA custom calls, and work with `jit`, `grad`, `jvp`, `hessian`, `vmap` and `shard_map`.
"""

from fastxent.integrations.jax.binary import binary_cross_entropy, binary_cross_entropy_with_logits
from fastxent.integrations.jax.linear import linear_cross_entropy
from fastxent.integrations.jax.maps import entropy, log_softmax, logsumexp, softmax
from fastxent.integrations.jax.rows import categorical_cross_entropy, cross_entropy

__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "categorical_cross_entropy",
    "cross_entropy", "entropy", "linear_cross_entropy", "log_softmax", "logsumexp", "softmax",
]  # fmt: skip
