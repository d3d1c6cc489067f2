"""NumPy as usually written, line by line from the formulas, with new arrays throughout."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

Call = Callable[[], Any]


def cross_entropy(logits: Any, target: Any, **options: Any) -> Call:
    """Mean loss and gradient; a separate function for each first option."""
    if options:
        return functools.partial(_WITH[next(iter(options))], logits, target, **options)
    if logits.ndim > 2:
        return lambda: _class_axis(logits, target, axis=1)
    if np.ndim(target) == 2:
        return lambda: _by_probabilities(logits, target)
    if logits.dtype == np.float16:
        return lambda: _by_float32(logits, target)
    return lambda: _cross_entropy(logits, target)


def _cross_entropy(logits: Any, target: Any) -> tuple[Any, Any]:
    rows = np.arange(len(target))
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs = exps / exps.sum(axis=1, keepdims=True)
    loss = -np.log(probs[rows, target]).mean()
    grad = probs.copy()
    grad[rows, target] -= 1
    return loss, grad / len(target)


def _class_axis(logits: Any, target: Any, *, axis: int) -> tuple[Any, Any]:
    labels = np.expand_dims(target, axis)
    exps = np.exp(logits - logits.max(axis=axis, keepdims=True))
    probs = exps / exps.sum(axis=axis, keepdims=True)
    picked = np.take_along_axis(probs, labels, axis=axis)
    grad = probs.copy()
    np.put_along_axis(grad, labels, picked - 1, axis=axis)
    return -np.log(picked).mean(), grad / target.size


def _by_float32(logits: Any, target: Any) -> tuple[Any, Any]:
    """Compute in float32: in float16 p below 6e-8 is 0, and the loss infinite."""
    loss, grad = _cross_entropy(logits.astype(np.float32), target)
    return loss, grad.astype(np.float16)


def hvp(logits: Any, target: Any, vector: Any) -> Call:
    """Hessian-vector product of the mean loss."""

    def call() -> Any:
        probs, _ = _probs_and_lse(logits)
        product = probs * vector
        return (product - probs * product.sum(axis=1, keepdims=True)) / len(target)

    return call


def entropy(logits: Any) -> Call:
    """Entropy of each row and gradient."""

    def call() -> Any:
        probs, _ = _probs_and_lse(logits)
        log_p = np.log(probs)
        rows = -(probs * log_p).sum(axis=1)
        return rows, -probs * (log_p + rows[:, None])

    return call


def _probs_and_lse(logits: Any) -> tuple[Any, Any]:
    peaks = logits.max(axis=1, keepdims=True)
    exps = np.exp(logits - peaks)
    sums = exps.sum(axis=1, keepdims=True)
    return exps / sums, (peaks + np.log(sums))[:, 0]


def _by_probabilities(logits: Any, target: Any) -> tuple[Any, Any]:
    probs, _ = _probs_and_lse(logits)
    loss = -(target * np.log(probs)).sum(axis=1).mean()
    return loss, (probs - target) / len(target)


def _smoothed(
    logits: Any, target: Any, *, label_smoothing: float, weight: Any = None
) -> tuple[Any, Any]:
    smooth = np.full_like(logits, label_smoothing / logits.shape[1])
    smooth[np.arange(len(target)), target] += 1 - label_smoothing
    if weight is None:
        return _by_probabilities(logits, smooth)
    smooth *= weight
    probs, _ = _probs_and_lse(logits)
    total = weight[target].sum()
    loss = -(smooth * np.log(probs)).sum() / total
    return loss, (smooth.sum(axis=1, keepdims=True) * probs - smooth) / total


def _by_row(logits: Any, target: Any) -> tuple[Any, Any]:
    rows = np.arange(len(target))
    probs, _ = _probs_and_lse(logits)
    grad = probs.copy()
    grad[rows, target] -= 1
    return -np.log(probs[rows, target]), grad


def _not_reduced(logits: Any, target: Any, *, reduction: str) -> tuple[Any, Any]:
    return _by_row(logits, target)


def _by_class_weight(logits: Any, target: Any, *, weight: Any) -> tuple[Any, Any]:
    return _by_sample_weight(logits, target, sample_weight=weight[target])


def _by_sample_weight(logits: Any, target: Any, *, sample_weight: Any) -> tuple[Any, Any]:
    losses, grad = _by_row(logits, target)
    normalised = sample_weight / sample_weight.sum()
    return (normalised * losses).sum(), normalised[:, None] * grad


def _z_loss(logits: Any, target: Any, *, z_loss: float) -> tuple[Any, Any]:
    rows = np.arange(len(target))
    probs, lse = _probs_and_lse(logits)
    loss = (z_loss * lse**2 - np.log(probs[rows, target])).mean()
    grad = (1 + 2 * z_loss * lse)[:, None] * probs
    grad[rows, target] -= 1
    return loss, grad / len(target)


def _all_results(
    logits: Any, target: Any, *, return_probs: bool, return_lse: bool
) -> tuple[Any, Any, Any, Any]:
    rows = np.arange(len(target))
    probs, lse = _probs_and_lse(logits)
    grad = probs.copy()
    grad[rows, target] -= 1
    return -np.log(probs[rows, target]).mean(), grad / len(target), probs, lse


_WITH: dict[str, Callable[..., Any]] = {
    "axis": _class_axis, "label_smoothing": _smoothed, "reduction": _not_reduced,
    "return_probs": _all_results, "sample_weight": _by_sample_weight, "weight": _by_class_weight,
    "z_loss": _z_loss,
}  # fmt: skip


def loss(logits: Any, target: Any) -> Call:
    """Mean loss only."""

    def call() -> Any:
        shifted = logits - logits.max(axis=1, keepdims=True)
        picked = shifted[np.arange(len(target)), target]
        return ((np.log(np.exp(shifted).sum(axis=1)) - picked).mean(),)

    return call


def categorical(probs: Any, target: Any, return_grad: bool = False) -> Call:
    """Mean loss of probabilities, and its gradient if requested."""
    if return_grad:
        return functools.partial(_soft_categorical if target.ndim == 2 else _categorical,
                                 probs, target)  # fmt: skip
    return lambda: (-np.log(probs[np.arange(len(target)), target]).mean(),)


def _categorical(probs: Any, target: Any) -> tuple[Any, Any]:
    rows = np.arange(len(target))
    picked = probs[rows, target]
    grad = np.zeros_like(probs)
    grad[rows, target] = -1 / (len(target) * picked)
    return -np.log(picked).mean(), grad


def _soft_categorical(probs: Any, target: Any) -> tuple[Any, Any]:
    loss = -(target * np.log(probs)).sum(axis=1).mean()
    return loss, -target / (len(target) * probs)


def binary(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""

    def call() -> Any:
        sizes = np.log1p(np.exp(-np.abs(logits)))
        loss = (np.maximum(logits, 0) - logits * target + sizes).mean()
        return loss, (1 / (1 + np.exp(-logits)) - target) / len(target)

    return call


def binary_probs(probs: Any, target: Any) -> Call:
    """Mean loss of probabilities and gradient."""

    def call() -> Any:
        loss = -(target * np.log(probs) + (1 - target) * np.log(1 - probs)).mean()
        return loss, (probs - target) / (probs * (1 - probs)) / len(target)

    return call


def linear(x: Any, weight: Any, target: Any) -> Call:
    """Mean loss and the gradients of x and of the weight, with all logits in memory."""

    def call() -> Any:
        loss, grad = _cross_entropy(x @ weight.T, target)
        return loss, grad @ weight, grad.T @ x

    return call
