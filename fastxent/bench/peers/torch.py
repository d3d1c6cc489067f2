"""PyTorch, eager: forward, then backward into a new gradient."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

Call = Callable[[], Any]


def tensor(array: Any) -> Any:
    """Make a tensor of an array without a copy; bfloat16 arrays by their bits."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def loss_and_grads(function: Callable[..., Any], parameters: list[Any], target: Any) -> Call:
    """Make a call of a loss and its gradients, as in a training step."""
    leaves = [tensor(array).requires_grad_() for array in parameters]
    labels = tensor(target)

    def call() -> Any:
        for leaf in leaves:
            leaf.grad = None
        loss = function(*leaves, labels)
        loss.backward()
        return loss.detach(), *(leaf.grad for leaf in leaves)

    return call


def losses_and_grad(function: Callable[..., Any], logits: Any, target: Any) -> Call:
    """Make a call of the losses of all rows and the gradient of their sum."""
    leaf, labels = tensor(logits).requires_grad_(), tensor(target)

    def call() -> Any:
        leaf.grad = None
        losses = function(leaf, labels)
        losses.sum().backward()
        return losses.detach(), leaf.grad

    return call


def with_options(make: Callable[..., Any], logits: Any, target: Any, options: Any) -> Call:
    """Make a call of the loss that `make` returns for the options, and its gradient."""
    function = make(**{k: tensor(v) if isinstance(v, np.ndarray) else v
                       for k, v in options.items()})  # fmt: skip
    if "reduction" in options:
        return losses_and_grad(function, logits, target)
    return loss_and_grads(function, [logits], target)


def frozen_head(function: Callable[..., Any], x: Any, weight: Any, target: Any) -> Call:
    """Make a call of a loss and the gradient of x; the weights do not require grad."""
    leaf, fixed = tensor(x).requires_grad_(), tensor(weight)
    labels = tensor(target)

    def call() -> Any:
        leaf.grad = None
        loss = function(leaf, fixed, labels)
        loss.backward()
        return loss.detach(), leaf.grad

    return call


def loss_in_graph(function: Callable[..., Any], logits: Any, target: Any) -> Call:
    """Make a call of a loss with its autograd graph, ready for backward."""
    leaf, labels = tensor(logits).requires_grad_(), tensor(target)
    return lambda: (function(leaf, labels).detach(),)


def cross_entropy(logits: Any, target: Any, **options: Any) -> Call:
    """Mean loss and gradient, with options."""
    if "return_probs" in options:
        return _all_results(logits, target)
    return with_options(_loss_function, logits, target, options)


def _loss_function(
    axis: int = 1, sample_weight: Any = None, z_loss: float = 0.0, **options: Any
) -> Callable[..., Any]:
    """F.cross_entropy, with additional code for options that it does not have."""
    if axis == 0:
        return lambda x, labels: F.cross_entropy(x.T, labels)
    if sample_weight is not None:
        return functools.partial(_by_sample_weight, sample_weight)
    if z_loss:
        return lambda x, labels: (
            F.cross_entropy(x, labels) + z_loss * torch.logsumexp(x, dim=1).square().mean()
        )
    return functools.partial(F.cross_entropy, **options) if options else F.cross_entropy


def _by_sample_weight(weight: Any, x: Any, labels: Any) -> Any:
    losses = F.cross_entropy(x, labels, reduction="none")
    return (weight * losses).sum() / weight.sum()


def _all_results(logits: Any, target: Any) -> Call:
    mean, x = loss_and_grads(F.cross_entropy, [logits], target), tensor(logits)
    return lambda: (*mean(), torch.softmax(x, dim=1), torch.logsumexp(x, dim=1))


def forward(logits: Any, target: Any) -> Call:
    """Mean loss, ready for a backward pass."""
    return loss_in_graph(F.cross_entropy, logits, target)


def loss(logits: Any, target: Any) -> Call:
    """Mean loss only, without a graph."""
    x, labels = tensor(logits), tensor(target)
    return lambda: (F.cross_entropy(x, labels),)


def softmax(logits: Any) -> Call:
    """Probabilities."""
    x = tensor(logits)
    return lambda: torch.softmax(x, dim=1)


def log_softmax(logits: Any) -> Call:
    """Log-probabilities."""
    x = tensor(logits)
    return lambda: torch.log_softmax(x, dim=1)


def categorical(probs: Any, target: Any, return_grad: bool = False) -> Call:
    """Mean loss of probabilities, and its gradient if requested."""
    if return_grad:
        by = log_and_multiply if target.ndim == 2 else log_and_pick
        return loss_and_grads(by, [probs], target)
    p, labels = tensor(probs), tensor(target)
    return lambda: (log_and_pick(p, labels),)


def log_and_pick(p: Any, labels: Any) -> Any:
    """Mean loss of probabilities; PyTorch computes the logarithm of all of them."""
    return F.nll_loss(torch.log(p), labels)


def log_and_multiply(p: Any, target: Any) -> Any:
    """Mean loss of probabilities against probabilities."""
    return -(target * torch.log(p)).sum(dim=1).mean()


def product(function: Callable[..., Any], logits: Any, target: Any, vector: Any) -> Call:
    """Hessian-vector product of a loss."""
    x, labels, v = tensor(logits), tensor(target), tensor(vector)
    return lambda: torch.autograd.functional.hvp(lambda x: function(x, labels), x, v)[1]


def make_per_sample_gradient(function: Callable[..., Any], logits: Any, target: Any) -> Call:
    """The gradient of each row's loss, by torch.func."""
    x, labels = tensor(logits), tensor(target)
    gradients = torch.func.vmap(torch.func.grad(function))
    return lambda: gradients(x, labels)


def hvp(logits: Any, target: Any, vector: Any) -> Call:
    """Hessian-vector product of the mean loss."""
    return product(F.cross_entropy, logits, target, vector)


def per_sample(logits: Any, target: Any) -> Call:
    """The gradient of each row's loss."""
    return make_per_sample_gradient(F.cross_entropy, logits, target)


def entropy(logits: Any) -> Call:
    """Entropy of each row and gradient."""
    leaf = tensor(logits).requires_grad_()

    def call() -> Any:
        leaf.grad = None
        log_p = torch.log_softmax(leaf, dim=1)
        rows = -(log_p.exp() * log_p).sum(dim=1)
        rows.sum().backward()
        return rows.detach(), leaf.grad

    return call


def binary_probs(probs: Any, target: Any) -> Call:
    """Mean loss of probabilities and gradient."""
    return loss_and_grads(F.binary_cross_entropy, [probs], target)


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
