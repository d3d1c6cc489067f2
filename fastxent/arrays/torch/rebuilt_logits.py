"""Rebuild logits from the saved gradient, for a second derivative, instead of saving them.

With class indices, and without smoothing, z-loss and softcap, a row's gradient is κA·(p - e_y). It
determines p, and log p are logits with the same loss. So the logits can be freed; an anchor of one
element replaces them in the graph.
"""

from typing import Any

import torch

from fastxent.functions import CROSS_ENTROPY, Arguments, Function

# Logits of fewer bytes are referenced instead, which takes no time.
LEAST = 1 << 20
# The options that change the formula of the gradient, for which logits are not rebuilt.
_OTHERS = {"label_smoothing", "z_loss", "softcap", "logit_scale"}


def can_rebuild(function: Function, arguments: Arguments, x: torch.Tensor) -> bool:
    """Whether logits would be freed if they were not referenced, and can be rebuilt.

    Leaves are referenced by the graph. Half precision is not accurate enough for p.
    """
    if x.nbytes < LEAST or x.is_leaf or function is not CROSS_ENTROPY:
        return False
    target = arguments.get("target")
    return (
        x.dtype in (torch.float32, torch.float64)
        and isinstance(target, torch.Tensor)
        and target.ndim == x.ndim - 1
        and _OTHERS.isdisjoint(arguments)
    )


class Anchor(torch.autograd.Function):  # type: ignore[misc]
    """A tensor that replaces another in the graph, with its shape but the memory of one element."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Expand one element to the shape."""
        return x.new_zeros(()).expand(x.shape)

    @staticmethod
    def backward(ctx: Any, up: torch.Tensor) -> torch.Tensor:
        """The gradient by the logits."""
        return up


class Rebuilt(torch.autograd.Function):  # type: ignore[misc]
    """Logits with the same probabilities; gradients pass through to the original logits."""

    @staticmethod
    def forward(ctx: Any, arguments: Arguments, grad: torch.Tensor, anchor: Any) -> torch.Tensor:
        """Compute log p."""
        return _log_probs(arguments, grad)

    @staticmethod
    def backward(ctx: Any, up: torch.Tensor) -> Any:
        """The gradient by the logits."""
        return None, None, up


def _log_probs(arguments: Arguments, grad: torch.Tensor) -> torch.Tensor:
    """log p from the gradient: g_j/κA is p_j, or p_y - 1 at the target. Rows with κA = 0 give 0."""
    axis = int(arguments.get("axis", -1))
    labels = arguments["target"].long()
    ignored, weight = arguments.get("ignore_index", -100), arguments.get("weight")
    u, n_classes = arguments.get("sample_weight"), grad.shape[axis]
    labels = labels if ignored is None else labels.masked_fill(labels == ignored, -1)
    active, y = labels >= 0, labels.clamp(min=0)
    scale = active.double()
    if weight is not None:
        scale = scale * torch.as_tensor(weight, device=grad.device).double()[y]
    if u is not None:
        u = torch.as_tensor(u, device=grad.device)
        scale = (scale * u).masked_fill_(u == 0, 0.0)
    if arguments.get("reduction", "mean") == "mean":
        divisor = arguments.get("normalizer")
        scale = scale / (scale.sum() if divisor is None else divisor)
    scale, y = scale.to(grad.dtype).unsqueeze(axis), y.unsqueeze(axis)
    p = grad / scale
    of_target = torch.log1p(p.gather(axis, y)) if n_classes else p
    return p.log_().scatter_(axis, y, of_target).masked_fill(scale == 0, 0.0)
