"""Tuned NumPy: preallocated buffers and as few passes over the logits as possible."""

from collections.abc import Callable
from typing import Any

import numpy as np

Call = Callable[[], Any]


def cross_entropy(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""
    rows, n = np.arange(len(target)), logits.dtype.type(len(target))
    grad = np.empty_like(logits)
    peak, total = np.empty((2, len(target), 1), logits.dtype)

    def call() -> Any:
        np.max(logits, axis=1, keepdims=True, out=peak)
        np.subtract(logits, peak, out=grad)
        picked = grad[rows, target]
        np.exp(grad, out=grad)
        np.sum(grad, axis=1, keepdims=True, out=total)
        loss = (np.log(total[:, 0]) - picked).mean()
        np.multiply(total, n, out=total)
        np.divide(grad, total, out=grad)
        grad[rows, target] -= 1 / n
        return loss, grad

    return call


def binary(logits: Any, target: Any) -> Call:
    """Mean loss and gradient; the sigmoid is computed with tanh."""
    half, n = logits.dtype.type(0.5), logits.dtype.type(len(logits))
    grad = np.empty_like(logits)

    def call() -> Any:
        np.abs(logits, out=grad)
        np.negative(grad, out=grad)
        np.exp(grad, out=grad)
        np.log1p(grad, out=grad)
        total = grad.sum(dtype=np.float64)
        np.maximum(logits, 0, out=grad)
        total += grad.sum(dtype=np.float64) - np.dot(logits, target)
        np.multiply(logits, half, out=grad)
        np.tanh(grad, out=grad)
        np.add(grad, 1, out=grad)
        np.multiply(grad, half, out=grad)
        np.subtract(grad, target, out=grad)
        np.divide(grad, n, out=grad)
        return total / len(logits), grad

    return call
