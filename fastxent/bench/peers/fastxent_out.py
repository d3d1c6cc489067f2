"""fastxent, with results in existing buffers."""

from collections.abc import Callable
from typing import Any

import numpy as np

import fastxent as fx

Call = Callable[[], Any]


def cross_entropy(logits: Any, target: Any) -> Call:
    """Mean loss and gradient, in the layout of the logits."""
    buffer = np.empty_like(logits)
    if logits.ndim > 2:
        return lambda: fx.cross_entropy(logits, target, axis=1, grad_out=buffer)
    return lambda: fx.cross_entropy(logits, target, grad_out=buffer)


def softmax(logits: Any) -> Call:
    """Probabilities."""
    buffer = np.empty_like(logits)
    return lambda: fx.softmax(logits, out=buffer)


def log_softmax(logits: Any) -> Call:
    """Log-probabilities."""
    buffer = np.empty_like(logits)
    return lambda: fx.log_softmax(logits, out=buffer)


def hvp(logits: Any, target: Any, vector: Any) -> Call:
    """Hessian-vector product of the mean loss."""
    buffer = np.empty_like(logits)
    return lambda: fx.cross_entropy_hvp(logits, target, vector, out=buffer)


def entropy(logits: Any) -> Call:
    """Entropy of each row and gradient."""
    buffer = np.empty_like(logits)
    return lambda: fx.entropy(logits, grad_out=buffer)


def binary(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""
    buffer = np.empty_like(logits)
    return lambda: fx.binary_cross_entropy_with_logits(logits, target, grad_out=buffer)
