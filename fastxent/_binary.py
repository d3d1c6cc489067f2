"""The two binary losses."""

from typing import Any

from fastxent._dispatch import dispatched


@dispatched
def binary_cross_entropy(
    probs: Any,
    target: Any,
    *,
    weight: Any = None,
    eps: float | None = None,
    reduction: str = "mean",
    return_grad: bool = False,
    grad_out: Any = None,
) -> Any:
    """Binary cross-entropy of probabilities. Not implemented yet."""
    raise NotImplementedError("binary_cross_entropy is not implemented yet")


@dispatched
def binary_cross_entropy_with_logits(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    reduction: str = "mean",
    return_grad: bool = False,
    return_probs: bool = False,
    return_hess: bool = False,
    grad_out: Any = None,
) -> Any:
    """Binary cross-entropy of logits. Not implemented yet."""
    raise NotImplementedError("binary_cross_entropy_with_logits is not implemented yet")
