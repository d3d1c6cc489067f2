"""PyTorch's chunked linear cross-entropy, which does not store all logits."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from fastxent.bench.peers.torch import frozen_head, loss_and_grads


def linear(x: Any, weight: Any, target: Any) -> Callable[[], Any]:
    """Mean loss and the gradients of x and of the weight."""
    return loss_and_grads(_in_chunks(), [x, weight], target)


def frozen(x: Any, weight: Any, target: Any) -> Callable[[], Any]:
    """Mean loss and the gradient of x."""
    return frozen_head(_in_chunks(), x, weight, target)


def _in_chunks() -> Callable[..., Any]:
    return functools.partial(F.linear_cross_entropy, options=torch.nn.LinearCrossEntropyOptions())
