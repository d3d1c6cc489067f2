"""The functions of `fastxent.backend` for CUDA; `normalizer` and `scale` exist only here."""

from fastxent.cuda.binary import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_hvp,
)
from fastxent.cuda.cross_entropy import categorical_cross_entropy, cross_entropy
from fastxent.cuda.divisors import normalizer, total
from fastxent.cuda.hvp import cross_entropy_hvp
from fastxent.cuda.labels import first_beyond_one, scan_labels
from fastxent.cuda.linear import linear_cross_entropy
from fastxent.cuda.linear_hvp import linear_cross_entropy_hvp
from fastxent.cuda.scale import scale
from fastxent.cuda.softmax import entropy, log_softmax, logsumexp, softmax

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
    "normalizer",
    "scale",
    "scan_labels",
    "softmax",
    "total",
]
