"""PyTorch's module, as a training script uses it."""

from collections.abc import Callable
from typing import Any

import torch

from fastxent.bench.peers.torch import loss_and_grads, loss_in_graph

Call = Callable[[], Any]


def cross_entropy(logits: Any, target: Any) -> Call:
    """Mean loss and gradient: forward, then backward."""
    return loss_and_grads(torch.nn.CrossEntropyLoss(), [logits], target)


def forward(logits: Any, target: Any) -> Call:
    """Mean loss, ready for a backward pass."""
    return loss_in_graph(torch.nn.CrossEntropyLoss(), logits, target)
