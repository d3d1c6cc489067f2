"""The names that the public functions find on a backend; the CPU offers the same signatures."""

from fastxent.cuda.binary import binary_logits, binary_probs
from fastxent.cuda.launch import (
    categorical_cross_entropy,
    cross_entropy,
    log_softmax,
    logsumexp,
    normalizer,
    scan_labels,
    softmax,
    total,
)

__all__ = [
    "binary_logits",
    "binary_probs",
    "categorical_cross_entropy",
    "cross_entropy",
    "log_softmax",
    "logsumexp",
    "normalizer",
    "scan_labels",
    "softmax",
    "total",
]
