"""fastxent's module in the place of torch.nn.functional."""

from collections.abc import Callable
from typing import Any

import fastxent.integrations.torch.functional as F
from fastxent.bench.peers.torch import loss_and_grads, loss_in_graph

Call = Callable[[], Any]


def cross_entropy(logits: Any, target: Any) -> Call:
    """Mean loss and gradient: forward, then backward."""
    return loss_and_grads(F.cross_entropy, [logits], target)


def forward(logits: Any, target: Any) -> Call:
    """Mean loss, ready for a backward pass."""
    return loss_in_graph(F.cross_entropy, logits, target)
