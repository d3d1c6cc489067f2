"""Drop-in replacements for the cross-entropy losses of `torch.nn`."""

from typing import Any

import torch

import fastxent.arrays.torch.operators  # noqa: F401 - registers the operators for saved programs
from fastxent import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    linear_cross_entropy,
)
from fastxent.integrations.torch import arguments

# Where users import the classes from, and where saved modules look for them.
_PACKAGE = "fastxent.integrations.torch"


def _arguments(loss: Any, input: Any, target: Any) -> tuple[Any, ...]:
    """The arguments of a module's call, for the functions of `arguments`."""
    # `loss.weight` would call nn.Module.__getattr__, which is slow.
    buffers = loss._buffers
    weight = buffers["weight"] if "weight" in buffers else loss.weight
    return input, target, weight, loss.ignore_index, loss.reduction, loss.label_smoothing


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):  # type: ignore[misc]
    r"""A `torch.nn.CrossEntropyLoss` that computes loss and gradient in one pass.

    .. math::
        l = w_y\,(\operatorname{lse}(x) - x_y), \qquad
        \frac{\partial L}{\partial x} = \frac{w_y}{D}\,(p - e_y)

    With label smoothing, or probabilities as target, as in `fastxent.cross_entropy`.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        As for `torch.nn.CrossEntropyLoss`. The input has shape (C,), (N, C) or (N, C, d1, …).

    Raises
    ------
    IndexError
        If a class index is out of range.
    TypeError
        If the target requires grad, or tensors are on different devices.

    Notes
    -----
    The gradient is computed in the forward pass and saved until `backward`. It can be
    differentiated once more; a third derivative raises an error.

    Examples
    --------
    >>> import torch
    >>> from fastxent.integrations.torch import CrossEntropyLoss
    >>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], requires_grad=True)
    >>> loss = CrossEntropyLoss()(logits, torch.tensor([1, 0]))
    >>> loss.backward()
    >>> logits.grad.mul(1000).round().tolist()
    [[330.0, -379.0, 49.0], [-464.0, 243.0, 220.0]]
    """

    __module__ = _PACKAGE

    def forward(self, input: Any, target: Any) -> Any:
        """Compute the loss of logits (N, C, …) or (C,) for class indices or probabilities."""
        options = arguments.of_logits(*_arguments(self, input, target))
        return cross_entropy(input, target, **options)


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):  # type: ignore[misc]
    r"""A `torch.nn.BCEWithLogitsLoss` that computes loss and gradient in one pass.

    .. math::
        l = w\,[(1 - y)\operatorname{softplus}(x) + \mathrm{pos\_weight}\,
            y\operatorname{softplus}(-x)], \qquad
        \frac{\partial l}{\partial x} = w\,[(1 - y)\,\sigma(x)
            - \mathrm{pos\_weight}\,y\,\sigma(-x)]

    Parameters
    ----------
    weight, size_average, reduce, reduction, pos_weight
        As for `torch.nn.BCEWithLogitsLoss`.

    Raises
    ------
    TypeError
        If the target requires grad, or tensors are on different devices.

    Examples
    --------
    >>> import torch
    >>> from fastxent.integrations.torch import BCEWithLogitsLoss
    >>> round(BCEWithLogitsLoss()(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])).item(), 4)
    1.41
    """

    __module__ = _PACKAGE

    def forward(self, input: Any, target: Any) -> Any:
        """Compute the loss of logits of any shape for targets of the same shape."""
        return binary_cross_entropy_with_logits(
            input, target, weight=self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )


class BCELoss(torch.nn.BCELoss):  # type: ignore[misc]
    r"""A `torch.nn.BCELoss` that computes loss and gradient in one pass.

    .. math::
        l = -w\,[y\log p + (1 - y)\log(1 - p)], \qquad
        \frac{\partial l}{\partial p} = w\,\frac{p - y}{\max(p\,(1 - p), 10^{-12})}

    Each logarithm is at least -100.

    Parameters
    ----------
    weight, size_average, reduce, reduction
        As for `torch.nn.BCELoss`.

    Raises
    ------
    TypeError
        If the target requires grad, or tensors are on different devices.

    Notes
    -----
    A probability outside of [0, 1] gives nan; PyTorch raises an error for it on the CPU.

    Examples
    --------
    >>> import torch
    >>> from fastxent.integrations.torch import BCELoss
    >>> round(BCELoss()(torch.tensor([0.5, 0.9]), torch.tensor([1.0, 0.0])).item(), 4)
    1.4979
    """

    __module__ = _PACKAGE

    def forward(self, input: Any, target: Any) -> Any:
        """Compute the loss of probabilities of any shape for targets of the same shape."""
        return binary_cross_entropy(input, target, weight=self.weight, reduction=self.reduction)


class LinearCrossEntropyLoss(torch.nn.LinearCrossEntropyLoss):  # type: ignore[misc]
    r"""A `torch.nn.LinearCrossEntropyLoss` that does not store all logits.

    With z = x·Wᵀ + b and d = ∂L/∂z, the gradients are d·W, dᵀ·x and the sum of d over rows.

    Parameters
    ----------
    in_features, num_classes, bias, device, dtype, reduction, weight, ignore_index, label_smoothing
        As for `torch.nn.LinearCrossEntropyLoss`.
    out_features, options
        As for `torch.nn.LinearCrossEntropyLoss`. With `out_features` PyTorch computes the loss;
        otherwise `options` has no effect.

    Raises
    ------
    IndexError
        If a class index is out of range.
    TypeError
        If the target requires grad, or tensors are on different devices.

    Examples
    --------
    >>> import torch
    >>> from fastxent.integrations.torch import LinearCrossEntropyLoss
    >>> head = LinearCrossEntropyLoss(4, 3)
    >>> loss = head(torch.zeros(2, 4), torch.tensor([0, 2]))
    >>> round(loss.item(), 4)  # log 3
    1.0986
    """

    __module__ = _PACKAGE

    def forward(self, input: Any, target: Any) -> Any:
        """Compute the loss of features (N, in_features) or (in_features,)."""
        if self.out_features:
            return super().forward(input, target)
        options = arguments.of_rows(*_arguments(self, input, target))
        return linear_cross_entropy(
            input, self.linear.weight, target, linear_bias=self.linear.bias, **options
        )
