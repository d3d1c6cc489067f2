"""Drop-in replacements for the cross-entropy losses of `torch.nn`: only the import changes.

Constructors, parameters, buffers and saved states are those of PyTorch.
"""

from typing import Any

import numpy as np
import torch

import fastxent.arrays.torch.operators  # noqa: F401 - registers the operators for saved programs
from fastxent import binary_cross_entropy_with_logits, cross_entropy, linear_cross_entropy

__all__ = ["BCEWithLogitsLoss", "CrossEntropyLoss", "LinearCrossEntropyLoss"]


def _options(loss: Any, input: Any, target: Any) -> dict[str, Any]:
    """A module's arguments for fastxent that are no defaults, which a small call need not read.

    With probabilities a negative ignore_index is unused.
    """
    options: dict[str, Any] = {}
    # Not `loss.weight`: PyTorch finds buffers by a function in Python.
    buffers = loss._buffers
    weight = buffers["weight"] if "weight" in buffers else loss.weight
    if weight is not None:
        options["weight"] = weight
    if loss.reduction != "mean":
        options["reduction"] = loss.reduction
    if loss.label_smoothing:
        options["label_smoothing"] = loss.label_smoothing
    index = loss.ignore_index
    if index is not None and index != -100:
        rank = target.ndim if isinstance(target, torch.Tensor) else np.ndim(target)
        if index >= 0 or rank != input.ndim:
            options["ignore_index"] = index
    return options


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):  # type: ignore[misc]
    r"""`torch.nn.CrossEntropyLoss`, with loss and gradient computed in one pass.

    .. math::
        l = w_y\,(\operatorname{lse}(x) - x_y), \qquad
        \frac{\partial L}{\partial x} = \frac{w_y}{D}\,(p - e_y)

    With label smoothing, or probabilities as target, as in `fastxent.cross_entropy`.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        As for `torch.nn.CrossEntropyLoss`.

    Raises
    ------
    IndexError
        A class index out of range.
    TypeError
        A target that requires grad; a tensor that is not in host memory.

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

    def forward(self, input: Any, target: Any) -> Any:
        """The loss of logits (N, C, …) or (C,), against class indices or probabilities."""
        options = _options(self, input, target)
        if input.ndim > 2:
            options["axis"] = 1
        return cross_entropy(input, target, **options)


class BCEWithLogitsLoss(torch.nn.BCEWithLogitsLoss):  # type: ignore[misc]
    r"""`torch.nn.BCEWithLogitsLoss`, with loss and gradient computed in one pass.

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
        A target that requires grad; a tensor that is not in host memory.

    Examples
    --------
    >>> import torch
    >>> from fastxent.integrations.torch import BCEWithLogitsLoss
    >>> round(BCEWithLogitsLoss()(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])).item(), 4)
    1.41
    """

    def forward(self, input: Any, target: Any) -> Any:
        """The loss of logits of any shape, against targets of the same."""
        return binary_cross_entropy_with_logits(
            input, target, weight=self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )


class LinearCrossEntropyLoss(torch.nn.LinearCrossEntropyLoss):  # type: ignore[misc]
    r"""`torch.nn.LinearCrossEntropyLoss` without all logits in memory.

    With z = x·Wᵀ + b and d = ∂L/∂z, the gradients are d·W, dᵀ·x and the sum of d over rows.

    Parameters
    ----------
    in_features, num_classes, bias, device, dtype, reduction, weight, ignore_index, label_smoothing
        As for `torch.nn.LinearCrossEntropyLoss`.
    out_features, options
        Likewise; with `out_features` PyTorch computes the loss, and `options` has no effect.

    Raises
    ------
    IndexError
        A class index out of range.
    TypeError
        A target that requires grad; a tensor that is not in host memory.

    Examples
    --------
    >>> import torch
    >>> from fastxent.integrations.torch import LinearCrossEntropyLoss
    >>> head = LinearCrossEntropyLoss(4, 3)
    >>> loss = head(torch.zeros(2, 4), torch.tensor([0, 2]))
    >>> round(loss.item(), 4)  # log 3
    1.0986
    """

    def forward(self, input: Any, target: Any) -> Any:
        """The loss of features (N, in_features) or (in_features,)."""
        if self.out_features:
            return super().forward(input, target)
        return linear_cross_entropy(
            input, self.linear.weight, target, linear_bias=self.linear.bias,
            **_options(self, input, target),
        )  # fmt: skip
