"""Cross-entropy kernels: loss, gradient and softmax in one pass over the logits.

This module holds the public names. Importing it does not import Numba.
"""

from fastxent._binary import binary_cross_entropy, binary_cross_entropy_with_logits
from fastxent._cross_entropy import categorical_cross_entropy, cross_entropy
from fastxent._hvp import (
    binary_cross_entropy_with_logits_hvp,
    cross_entropy_hvp,
    linear_cross_entropy_hvp,
)
from fastxent._linear import linear_cross_entropy
from fastxent._softmax import entropy, log_softmax, logsumexp, softmax
from fastxent._version import __version__
from fastxent._warmup import warmup
from fastxent.cpu.threads import get_num_threads, num_threads, set_num_threads
from fastxent.records import LinearGrad

__all__ = [
    "LinearGrad",
    "__version__",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_hvp",
    "categorical_cross_entropy",
    "cross_entropy",
    "cross_entropy_hvp",
    "entropy",
    "get_num_threads",
    "linear_cross_entropy",
    "linear_cross_entropy_hvp",
    "log_softmax",
    "logsumexp",
    "num_threads",
    "set_num_threads",
    "softmax",
    "warmup",
]
