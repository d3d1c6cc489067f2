"""torch.compile: forward and backward in one graph, compiled for the shape."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

Call = Callable[[], Any]


def cross_entropy(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""
    torch.compiler.reset()  # else sizes become dynamic at the second shape
    compiled = torch.compile(torch.func.grad_and_value(F.cross_entropy), dynamic=False)
    x, labels = torch.from_numpy(logits), torch.from_numpy(target)

    def call() -> Any:
        grad, loss = compiled(x, labels)
        return loss, grad

    return call


def loss(logits: Any, target: Any) -> Call:
    """Mean loss alone."""
    torch.compiler.reset()
    compiled = torch.compile(F.cross_entropy, dynamic=False)
    x, labels = torch.from_numpy(logits), torch.from_numpy(target)
    return lambda: (compiled(x, labels),)
