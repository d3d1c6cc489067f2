"""fastxent, with newly allocated results."""

import functools
from collections.abc import Callable
from typing import Any

import fastxent as fx

Call = Callable[[], Any]


def cross_entropy(logits: Any, target: Any, **options: Any) -> Call:
    """Mean loss and gradient, with options."""
    if options:  # a partial costs no more than literal keywords
        return functools.partial(fx.cross_entropy, logits, target, return_grad=True, **options)
    if logits.ndim > 2:
        return lambda: fx.cross_entropy(logits, target, axis=1, return_grad=True)
    return lambda: fx.cross_entropy(logits, target, return_grad=True)


def forward(logits: Any, target: Any) -> Call:
    """Mean loss; the gradient is computed too."""
    return lambda: fx.cross_entropy(logits, target, return_grad=True)[:1]


def loss(logits: Any, target: Any, **options: Any) -> Call:
    """Mean loss only, or with the results that the options request."""
    if options:
        return functools.partial(fx.cross_entropy, logits, target, **options)
    return lambda: (fx.cross_entropy(logits, target),)


def softmax(logits: Any) -> Call:
    """Probabilities."""
    return lambda: fx.softmax(logits)


def log_softmax(logits: Any) -> Call:
    """Log-probabilities."""
    return lambda: fx.log_softmax(logits)


def categorical(probs: Any, target: Any, **options: Any) -> Call:
    """Mean loss of probabilities, with options."""
    if options:
        return functools.partial(fx.categorical_cross_entropy, probs, target, **options)
    return lambda: (fx.categorical_cross_entropy(probs, target),)


def binary(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""
    return lambda: fx.binary_cross_entropy_with_logits(logits, target, return_grad=True)


def binary_probs(probs: Any, target: Any) -> Call:
    """Mean loss of probabilities and gradient."""
    return lambda: fx.binary_cross_entropy(probs, target, return_grad=True)


def hvp(logits: Any, target: Any, vector: Any) -> Call:
    """Hessian-vector product of the mean loss."""
    return lambda: fx.cross_entropy_hvp(logits, target, vector)


def entropy(logits: Any) -> Call:
    """Entropy of each row and gradient."""
    return lambda: fx.entropy(logits, return_grad=True)


def linear(x: Any, weight: Any, target: Any) -> Call:
    """Mean loss and the gradients of x and of the weight."""

    def call() -> Any:
        loss, grad = fx.linear_cross_entropy(x, weight, target, return_grad=True)
        return loss, grad.x, grad.linear_weight

    return call
