"""NumPy as usually written, line by line from the formulas, with new arrays throughout."""

from collections.abc import Callable
from typing import Any

import numpy as np

Call = Callable[[], Any]


def cross_entropy(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""
    if logits.ndim > 2:
        return lambda: _class_axis_1(logits, target)
    if logits.dtype == np.float16:
        return lambda: _by_float32(logits, target)
    return lambda: _cross_entropy(logits, target)


def _cross_entropy(logits: Any, target: Any) -> tuple[Any, Any]:
    rows = np.arange(len(target))
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs = exps / exps.sum(axis=1, keepdims=True)
    loss = -np.log(probs[rows, target]).mean()
    grad = probs.copy()
    grad[rows, target] -= 1
    return loss, grad / len(target)


def _class_axis_1(logits: Any, target: Any) -> tuple[Any, Any]:
    labels = np.expand_dims(target, 1)
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs = exps / exps.sum(axis=1, keepdims=True)
    picked = np.take_along_axis(probs, labels, axis=1)
    grad = probs.copy()
    np.put_along_axis(grad, labels, picked - 1, axis=1)
    return -np.log(picked).mean(), grad / target.size


def _by_float32(logits: Any, target: Any) -> tuple[Any, Any]:
    """In float16 itself p below 6e-8 is 0, and the loss infinite."""
    loss, grad = _cross_entropy(logits.astype(np.float32), target)
    return loss, grad.astype(np.float16)


def loss(logits: Any, target: Any) -> Call:
    """Mean loss alone."""

    def call() -> Any:
        shifted = logits - logits.max(axis=1, keepdims=True)
        picked = shifted[np.arange(len(target)), target]
        return ((np.log(np.exp(shifted).sum(axis=1)) - picked).mean(),)

    return call


def categorical(probs: Any, target: Any) -> Call:
    """Mean loss of probabilities alone."""
    return lambda: (-np.log(probs[np.arange(len(target)), target]).mean(),)


def binary(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""

    def call() -> Any:
        sizes = np.log1p(np.exp(-np.abs(logits)))
        loss = (np.maximum(logits, 0) - logits * target + sizes).mean()
        return loss, (1 / (1 + np.exp(-logits)) - target) / len(target)

    return call


def linear(x: Any, weight: Any, target: Any) -> Call:
    """Mean loss and the gradients of x and of the weight, with all logits in memory."""

    def call() -> Any:
        loss, grad = _cross_entropy(x @ weight.T, target)
        return loss, grad @ weight, grad.T @ x

    return call
