"""The names that the public functions find on a backend; the CPU offers the same signatures.

`normalizer` and `scale` are for numbers that stay on the GPU.
"""

from fastxent.cuda.binary import binary_cross_entropy, binary_cross_entropy_with_logits
from fastxent.cuda.launch import (
    categorical_cross_entropy,
    cross_entropy,
    first_beyond_one,
    log_softmax,
    logsumexp,
    normalizer,
    scale,
    scan_labels,
    softmax,
    total,
)
from fastxent.cuda.linear import linear_cross_entropy

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "categorical_cross_entropy",
    "cross_entropy",
    "first_beyond_one",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "normalizer",
    "scale",
    "scan_labels",
    "softmax",
    "total",
]
