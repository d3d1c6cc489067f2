"""The functions of the CPU backend; the CUDA backend has the same names and signatures."""

from fastxent.cpu.binary import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_hvp,
)
from fastxent.cpu.entropy import entropy
from fastxent.cpu.hvp import cross_entropy_hvp
from fastxent.cpu.launch import (
    categorical_cross_entropy,
    cross_entropy,
    first_beyond_one,
    log_softmax,
    logsumexp,
    plain_cross_entropy,
    scan_labels,
    softmax,
    total,
)
from fastxent.cpu.linear import linear_cross_entropy
from fastxent.cpu.linear_hvp import linear_cross_entropy_hvp
from fastxent.cpu.prepared import prepare

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_hvp",
    "categorical_cross_entropy",
    "cross_entropy",
    "cross_entropy_hvp",
    "entropy",
    "first_beyond_one",
    "linear_cross_entropy",
    "linear_cross_entropy_hvp",
    "log_softmax",
    "logsumexp",
    "plain_cross_entropy",
    "prepare",
    "scan_labels",
    "softmax",
    "total",
]
