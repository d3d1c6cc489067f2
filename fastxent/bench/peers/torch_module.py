"""PyTorch's module, as a training script uses it."""

from collections.abc import Callable
from typing import Any

import torch

from fastxent.bench.peers.torch import loss_in_graph, with_options

Call = Callable[[], Any]


def cross_entropy(logits: Any, target: Any, **options: Any) -> Call:
    """Loss and gradient: forward, then backward."""
    return with_options(torch.nn.CrossEntropyLoss, logits, target, options)


def forward(logits: Any, target: Any) -> Call:
    """Mean loss, ready for a backward pass."""
    return loss_in_graph(torch.nn.CrossEntropyLoss(), logits, target)
