"""The names that the public functions find on a backend; CUDA offers the same signatures."""

from fastxent.cpu.launch import cross_entropy, log_softmax, logsumexp, scan_labels, softmax
from fastxent.cpu.linear import linear_cross_entropy

__all__ = [
    "cross_entropy",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "scan_labels",
    "softmax",
]
