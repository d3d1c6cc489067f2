"""A drop-in replacement for `torch.nn.functional`, with cross-entropy and softmax by fastxent.

Use it as ``import fastxent.integrations.torch.functional as F``. Six functions are fastxent's, with
PyTorch's signatures and result types; all other names are PyTorch's own objects. Calls that
fastxent does not support, and invalid calls, are passed to PyTorch's own functions.
"""

from collections.abc import Callable as _Callable
from typing import Any
from typing import TypeVar as _TypeVar

import torch as _torch
from torch.nn import _reduction

import fastxent as _fastxent
from fastxent import errors as _errors
from fastxent.integrations.torch import arguments as _arguments
from fastxent.integrations.torch import eligible as _eligible

_theirs: Any = _torch.nn.functional
_F = _TypeVar("_F", bound=_Callable[..., Any])

__all__ = [name for name in dir(_theirs) if not name.startswith("_")]


def __getattr__(name: str) -> Any:
    return getattr(_theirs, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_theirs)})


def _scriptable(function: _F) -> _F:
    """Let TorchScript, which cannot use fastxent's operators, compile PyTorch's own function."""
    function.__prepare_scriptable__ = lambda: getattr(_theirs, function.__name__)  # type: ignore[attr-defined]
    return function


def _no_deprecated(size_average: Any, reduce: Any) -> None:
    """Raise for the deprecated arguments that `reduction` replaces."""
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce, emit_warning=False)
        raise _errors.deprecated_reduction(reduction)


def _in_type(loss: Any, dtype: _torch.dtype) -> Any:
    return loss if loss.dtype == dtype else loss.to(dtype)


@_scriptable
def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    r"""Compute `torch.nn.functional.cross_entropy`, with loss and gradient in one pass.

    .. math::
        l = w_y\,(\operatorname{lse}(x) - x_y), \qquad
        \frac{\partial L}{\partial x} = \frac{w_y}{D}\,(p - e_y)

    With label smoothing, or probabilities as target, as in `fastxent.cross_entropy`.

    Parameters
    ----------
    input : tensor (C,), (N, C) or (N, C, d1, …)
        Logits.
    target : tensor (), (N,) or (N, d1, …) of integers, or of the shape of `input`
        Class indices or probabilities.
    weight : tensor (C,), optional
        Class weights.
    ignore_index, reduction, label_smoothing
        As for `torch.nn.functional.cross_entropy`.
    size_average, reduce
        Must be None. They are deprecated in PyTorch in favour of `reduction`.

    Returns
    -------
    tensor
        The loss, in PyTorch's type: half precision for such logits, except under autocast.

    Raises
    ------
    ValueError
        If `size_average` or `reduce` is passed, or `reduction` is invalid.
    IndexError
        If a class index is out of range.

    Examples
    --------
    >>> import torch
    >>> import fastxent.integrations.torch.functional as F
    >>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], requires_grad=True)
    >>> F.cross_entropy(logits, torch.tensor([1, 0])).backward()
    >>> logits.grad.mul(1000).round().tolist()
    [[330.0, -379.0, 49.0], [-464.0, 243.0, 220.0]]
    """
    _no_deprecated(size_average, reduce)
    options = ignore_index, reduction, label_smoothing
    dtype = _eligible.cross_entropy(input, target, weight, *options)
    if dtype is None:
        return _theirs.cross_entropy(
            input, target, weight, ignore_index=ignore_index, reduction=reduction,
            label_smoothing=label_smoothing,
        )  # fmt: skip
    converted = _arguments.of_logits(input, target, weight, *options)
    return _in_type(_fastxent.cross_entropy(input, target, **converted), dtype)


@_scriptable
def linear_cross_entropy(
    input: Any,
    linear_weight: Any,
    target: Any,
    *,
    linear_bias: Any = None,
    weight: Any = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> Any:
    r"""Compute `torch.nn.functional.linear_cross_entropy` without storing all logits.

    With z = x·Wᵀ + b and d = ∂L/∂z, the gradients are d·W, dᵀ·x and the sum of d over rows.

    Parameters
    ----------
    input : tensor (K,) or (N, K)
        Features x.
    linear_weight : tensor (C, K), or (C, d1, …, K)
        Weights W. With more than two dimensions PyTorch computes the loss.
    target : tensor () or (N,) of integers, or (C,) or (N, C)
        Class indices or probabilities.
    linear_bias : tensor (C,), optional
        Bias b.
    weight : tensor (C,), optional
        Class weights.
    reduction, ignore_index, label_smoothing
        As for `torch.nn.functional.linear_cross_entropy`.
    options : torch.nn.LinearCrossEntropyOptions, optional
        PyTorch's chunk sizes. They have no effect on fastxent, which chooses its own.

    Returns
    -------
    tensor
        The loss, in PyTorch's type.

    Raises
    ------
    RuntimeError
        If shapes do not match.
    IndexError
        If a class index is out of range.

    Examples
    --------
    >>> import torch
    >>> import fastxent.integrations.torch.functional as F
    >>> loss = F.linear_cross_entropy(torch.zeros(2, 4), torch.ones(3, 4), torch.tensor([0, 2]))
    >>> round(loss.item(), 4)  # log 3
    1.0986
    """
    x, w, b = _eligible.autocast_linear(options, input, linear_weight, linear_bias)
    dtype = _eligible.linear_cross_entropy(
        x, w, b, target, weight, ignore_index, reduction, label_smoothing, options
    )
    if dtype is None:
        return _theirs.linear_cross_entropy(
            input, linear_weight, target, linear_bias=linear_bias, weight=weight,
            reduction=reduction, ignore_index=ignore_index, label_smoothing=label_smoothing,
            options=options,
        )  # fmt: skip
    converted = _arguments.of_rows(x, target, weight, ignore_index, reduction, label_smoothing)
    return _in_type(_fastxent.linear_cross_entropy(x, w, target, linear_bias=b, **converted), dtype)


@_scriptable
def binary_cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    r"""Compute `torch.nn.functional.binary_cross_entropy`, with loss and gradient in one pass.

    .. math::
        l = -w\,[y\log p + (1 - y)\log(1 - p)], \qquad
        \frac{\partial l}{\partial p} = w\,\frac{p - y}{\max(p\,(1 - p), 10^{-12})}

    Each logarithm is at least -100.

    Parameters
    ----------
    input : tensor of any shape
        Probabilities p.
    target : tensor of the same shape and type
        Targets y, from 0 to 1.
    weight : tensor that broadcasts to the shape, optional
        Weights of the elements.
    reduction
        As for `torch.nn.functional.binary_cross_entropy`.
    size_average, reduce
        Must be None. They are deprecated in PyTorch in favour of `reduction`.

    Returns
    -------
    tensor
        The loss, in PyTorch's type.

    Raises
    ------
    ValueError
        If `size_average` or `reduce` is passed, `reduction` is invalid, or the shapes differ.
    RuntimeError
        If a probability is not in [0, 1], on the CPU and not in compiled or traced programs.

    Examples
    --------
    >>> import torch
    >>> import fastxent.integrations.torch.functional as F
    >>> loss = F.binary_cross_entropy(torch.tensor([0.5, 0.9]), torch.tensor([1.0, 0.0]))
    >>> round(loss.item(), 4)
    1.4979
    """
    _no_deprecated(size_average, reduce)
    dtype = _eligible.binary_cross_entropy(input, target, weight, reduction)
    if dtype is not None:
        loss = _fastxent.binary_cross_entropy(input, target, weight=weight, reduction=reduction)
        # A probability out of range gives nan; PyTorch raises its error for it below.
        if not _eligible.is_nan(loss):
            return _in_type(loss, dtype)
    return _theirs.binary_cross_entropy(input, target, weight, reduction=reduction)


@_scriptable
def binary_cross_entropy_with_logits(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Any:
    r"""Compute `torch.nn.functional.binary_cross_entropy_with_logits`, and its gradient.

    .. math::
        l = w\,[(1 - y)\operatorname{softplus}(x) + \mathrm{pos\_weight}\,
            y\operatorname{softplus}(-x)], \qquad
        \frac{\partial l}{\partial x} = w\,[(1 - y)\,\sigma(x)
            - \mathrm{pos\_weight}\,y\,\sigma(-x)]

    Parameters
    ----------
    input : tensor of any shape
        Logits x.
    target : tensor of the same shape
        Targets y, from 0 to 1.
    weight, pos_weight : tensors that broadcast to the shape, optional
        Weights of the elements, and of positive targets.
    reduction
        As for `torch.nn.functional.binary_cross_entropy_with_logits`.
    size_average, reduce
        Must be None. They are deprecated in PyTorch in favour of `reduction`.

    Returns
    -------
    tensor
        The loss, in PyTorch's type, which is that of `target`.

    Raises
    ------
    ValueError
        If `size_average` or `reduce` is passed, `reduction` is invalid, or the shapes differ.

    Examples
    --------
    >>> import torch
    >>> import fastxent.integrations.torch.functional as F
    >>> logits, target = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])
    >>> round(F.binary_cross_entropy_with_logits(logits, target).item(), 4)
    1.41
    """
    _no_deprecated(size_average, reduce)
    dtype = _eligible.binary_cross_entropy_with_logits(input, target, weight, reduction, pos_weight)
    how = {"weight": weight, "pos_weight": pos_weight, "reduction": reduction}
    if dtype is None:
        return _theirs.binary_cross_entropy_with_logits(input, target, **how)
    return _in_type(_fastxent.binary_cross_entropy_with_logits(input, target, **how), dtype)


@_scriptable
def softmax(input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    r"""Compute `torch.nn.functional.softmax`.

    .. math::
        p_i = \frac{e^{x_i}}{\sum_j e^{x_j}}, \qquad
        \frac{\partial p_i}{\partial x_k} = p_i\,([i = k] - p_k)

    Parameters
    ----------
    input : tensor of one dimension or more
        Logits x.
    dim : int, optional
        The class axis. By default PyTorch's implicit axis, with its warning.
    dtype : torch.dtype, optional
        The type to which `input` is converted first, which is also the result's type.

    Returns
    -------
    tensor
        Probabilities, shaped as `input`.

    Raises
    ------
    IndexError
        If `dim` is out of range.

    Examples
    --------
    >>> import torch
    >>> import fastxent.integrations.torch.functional as F
    >>> F.softmax(torch.tensor([1, 2, 3]), dim=0, dtype=torch.float32).mul(1000).round().tolist()
    [90.0, 245.0, 665.0]
    """
    result_type = _eligible.softmax(input, dim, dtype)
    if result_type is None:
        return _theirs.softmax(input, dim, _stacklevel + 1, dtype)
    if dim is None:
        dim = _theirs._get_softmax_dim("softmax", input.ndim, _stacklevel)
    return _fastxent.softmax(_in_type(input, result_type), axis=dim)


@_scriptable
def log_softmax(input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    r"""Compute `torch.nn.functional.log_softmax`.

    .. math::
        l_i = x_i - \operatorname{lse}(x), \qquad
        \frac{\partial l_i}{\partial x_k} = [i = k] - p_k

    Parameters
    ----------
    input, dim, dtype
        As for `softmax`.

    Returns
    -------
    tensor
        Logarithms of probabilities, shaped as `input`.

    Raises
    ------
    IndexError
        If `dim` is out of range.

    Examples
    --------
    >>> import torch
    >>> import fastxent.integrations.torch.functional as F
    >>> F.log_softmax(torch.zeros(2), dim=0).mul(1000).round().tolist()  # -log 2
    [-693.0, -693.0]
    """
    result_type = _eligible.softmax(input, dim, dtype)
    if result_type is None:
        return _theirs.log_softmax(input, dim, _stacklevel + 1, dtype)
    if dim is None:
        dim = _theirs._get_softmax_dim("log_softmax", input.ndim, _stacklevel)
    return _fastxent.log_softmax(_in_type(input, result_type), axis=dim)
