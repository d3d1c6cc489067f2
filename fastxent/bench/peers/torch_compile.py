"""torch.compile: forward and backward in one graph, compiled for the shape."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from fastxent.bench.peers.torch import log_and_pick, tensor

Call = Callable[[], Any]


def cross_entropy(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""
    return _loss_and_grad(F.cross_entropy, logits, target)


def loss(logits: Any, target: Any) -> Call:
    """Mean loss only."""
    return _loss(F.cross_entropy, logits, target)


def categorical(probs: Any, target: Any) -> Call:
    """Mean loss of probabilities only."""
    return _loss(log_and_pick, probs, target)


def binary(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""
    return _loss_and_grad(F.binary_cross_entropy_with_logits, logits, target)


def _compiled(function: Any) -> Any:
    torch.compiler.reset()  # otherwise sizes become dynamic at the second shape
    return torch.compile(function, dynamic=False)


def _loss_and_grad(function: Any, logits: Any, target: Any) -> Call:
    compiled = _compiled(torch.func.grad_and_value(function))
    x, labels = tensor(logits), tensor(target)

    def call() -> Any:
        grad, loss = compiled(x, labels)
        return loss, grad

    return call


def _loss(function: Any, logits: Any, target: Any) -> Call:
    compiled = _compiled(function)
    x, labels = tensor(logits), tensor(target)
    return lambda: (compiled(x, labels),)
