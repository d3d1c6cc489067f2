"""PyTorch's own linear cross-entropy in chunks, which never holds all logits."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from fastxent.bench.peers.torch import loss_and_grads


def linear(x: Any, weight: Any, target: Any) -> Callable[[], Any]:
    """Mean loss and the gradients of x and of the weight."""
    options = torch.nn.LinearCrossEntropyOptions()
    return loss_and_grads(
        lambda x, weight, labels: F.linear_cross_entropy(x, weight, labels, options=options),
        [x, weight],
        target,
    )
