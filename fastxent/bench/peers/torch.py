"""PyTorch, eager: forward, then backward into a new gradient."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

Call = Callable[[], Any]


def tensor(array: Any) -> Any:
    """A tensor in an array's memory; of bfloat16, which PyTorch does not accept, by its bits."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def loss_and_grads(function: Callable[..., Any], parameters: list[Any], target: Any) -> Call:
    """A loss of the parameters and its gradients, as in a training step."""
    leaves = [tensor(array).requires_grad_() for array in parameters]
    labels = tensor(target)

    def call() -> Any:
        for leaf in leaves:
            leaf.grad = None
        loss = function(*leaves, labels)
        loss.backward()
        return loss.detach(), *(leaf.grad for leaf in leaves)

    return call


def frozen_head(function: Callable[..., Any], x: Any, weight: Any, target: Any) -> Call:
    """A loss of x and weights that do not require grad, and the gradient of x."""
    leaf, fixed = tensor(x).requires_grad_(), tensor(weight)
    labels = tensor(target)

    def call() -> Any:
        leaf.grad = None
        loss = function(leaf, fixed, labels)
        loss.backward()
        return loss.detach(), leaf.grad

    return call


def loss_in_graph(function: Callable[..., Any], logits: Any, target: Any) -> Call:
    """A loss with its autograd graph, ready for backward."""
    leaf, labels = tensor(logits).requires_grad_(), tensor(target)
    return lambda: (function(leaf, labels).detach(),)


def cross_entropy(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""
    return loss_and_grads(F.cross_entropy, [logits], target)


def loss(logits: Any, target: Any) -> Call:
    """Mean loss alone, without a graph."""
    x, labels = tensor(logits), tensor(target)
    return lambda: (F.cross_entropy(x, labels),)


def softmax(logits: Any) -> Call:
    """Probabilities."""
    x = tensor(logits)
    return lambda: torch.softmax(x, dim=1)


def log_softmax(logits: Any) -> Call:
    """Their logarithms."""
    x = tensor(logits)
    return lambda: torch.log_softmax(x, dim=1)


def categorical(probs: Any, target: Any) -> Call:
    """Mean loss of probabilities alone."""
    p, labels = tensor(probs), tensor(target)
    return lambda: (log_and_pick(p, labels),)


def log_and_pick(p: Any, labels: Any) -> Any:
    """Mean loss of probabilities, of all of which PyTorch takes the logarithm."""
    return F.nll_loss(torch.log(p), labels)


def binary(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""
    return loss_and_grads(F.binary_cross_entropy_with_logits, [logits], target)


def linear(x: Any, weight: Any, target: Any) -> Call:
    """Mean loss and the gradients of x and of the weight, with all logits in memory."""
    return loss_and_grads(_linear_loss, [x, weight], target)


def frozen(x: Any, weight: Any, target: Any) -> Call:
    """Mean loss and the gradient of x, with all logits in memory."""
    return frozen_head(_linear_loss, x, weight, target)


def _linear_loss(x: Any, weight: Any, labels: Any) -> Any:
    return F.cross_entropy(F.linear(x, weight), labels)
