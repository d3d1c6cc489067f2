"""fastxent's PyTorch module instead of PyTorch's own."""

from collections.abc import Callable
from typing import Any

import fastxent as fx
from fastxent.bench.peers.torch import (
    frozen_head,
    loss_in_graph,
    make_per_sample_gradient,
    product,
    with_options,
)
from fastxent.integrations.torch import CrossEntropyLoss

Call = Callable[[], Any]


def cross_entropy(logits: Any, target: Any, **options: Any) -> Call:
    """Loss and gradient: forward, then backward."""
    return with_options(CrossEntropyLoss, logits, target, options)


def forward(logits: Any, target: Any) -> Call:
    """Mean loss, ready for a backward pass."""
    return loss_in_graph(CrossEntropyLoss(), logits, target)


def hvp(logits: Any, target: Any, vector: Any) -> Call:
    """Hessian-vector product of the mean loss, by double backward."""
    return product(fx.cross_entropy, logits, target, vector)


def per_sample(logits: Any, target: Any) -> Call:
    """The gradient of each row's loss."""
    return make_per_sample_gradient(fx.cross_entropy, logits, target)


def frozen(x: Any, weight: Any, target: Any) -> Call:
    """Mean loss and the gradient of x; the weights do not require grad."""
    return frozen_head(fx.linear_cross_entropy, x, weight, target)
