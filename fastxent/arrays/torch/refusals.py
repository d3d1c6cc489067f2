"""Errors for unsupported tensors; each names the argument and what to call instead."""

from typing import Any

import torch
from torch.autograd import forward_ad

from fastxent import errors
from fastxent.arrays.torch.storage import DTYPES

# What to call, by class name, because the class may not be imported.
_REMEDIES = {
    "DTensor": "call to_local() for this rank's part of it, full_tensor() for all of it",
    "MaskedTensor": "call get_data(), and ignore rows by ignore_index or sample_weight",
    "AsyncCollectiveTensor": "call wait()",
    "NestedTensor": "call to_padded_tensor() and ignore the padding, or pass its parts one by one",
    "UninitializedParameter": "run the module once to initialise it",
    "UninitializedBuffer": "run the module once to initialise it",
}

_functorch = torch._C._functorch


class Virtual(Exception):
    """Raised for a tensor without data: fake, meta or functional."""


class Dual(Exception):
    """Raised for a tensor with a tangent, which needs the nodes for forward mode."""


def kind(name: str, tensor: torch.Tensor) -> None:
    """Raise for an unsupported kind of tensor; raise Virtual if it has no data."""
    known = next((k.__name__ for k in type(tensor).__mro__ if k.__name__ in _REMEDIES), "")
    if tensor.is_nested and not known:
        known = "NestedTensor"
    if known:
        raise errors.no_plain_tensor(name, known, _REMEDIES[known])
    if tensor.layout != torch.strided:
        raise errors.no_dense_tensor(name, tensor.layout)
    transformed(name, tensor)
    if is_virtual(tensor):
        raise Virtual
    if tensor._is_zerotensor():
        raise errors.zero_tensor(name)
    if tensor.is_quantized:
        raise errors.quantised(name, tensor.dtype)
    if tensor.dtype is not torch.bfloat16 and tensor.dtype not in DTYPES:
        raise errors.not_numpys_type(name, tensor.dtype, tensor.is_floating_point())
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        raise errors.no_own_memory(name, tensor)


def is_virtual(tensor: torch.Tensor) -> bool:
    """Whether a tensor has no data that can be read, so that only operators can compute on it."""
    from torch._subclasses.fake_tensor import FakeTensor
    from torch._subclasses.functional_tensor import FunctionalTensor

    known = isinstance(tensor, (FakeTensor, FunctionalTensor))
    return known or tensor.is_meta or torch._is_functional_tensor(tensor)


def transformed(name: str, tensor: torch.Tensor) -> None:
    """Raise for a tensor that torch.func transforms, except by functionalize."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if not _functorch.is_functionaltensor(tensor):
            raise errors.under_transform(name)
        tensor = _functorch.get_unwrapped(tensor)


def unreadable(name: str, tensor: torch.Tensor, error: Exception) -> Exception:
    """Raise the error of `kind` for a tensor that NumPy cannot view, or return another."""
    kind(name, tensor)
    return errors.unreadable_tensor(name, error)


def gradient(name: str, tensor: torch.Tensor) -> None:
    """Raise for a tensor that requires grad but is not a differentiable input."""
    if tensor.requires_grad:
        raise errors.no_gradient(name)


def tangent(name: str, tensor: torch.Tensor) -> None:
    """Raise for a tensor with a tangent, which would be ignored."""
    if has_tangent(tensor):
        raise errors.no_forward_mode(name)


def has_tangent(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a tangent at the current level of forward mode.

    False in the kernel of an operator, which runs below forward mode.
    """
    if not may_have_tangents() or not tensor.is_floating_point():
        return False
    if torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.ADInplaceOrView):
        return False
    try:
        return forward_ad.unpack_dual(tensor).tangent is not None
    except (RuntimeError, TypeError, ValueError):
        return False  # a tensor without readable memory, which is refused elsewhere


def has_rules(value: Any) -> bool:
    """Whether a value is, or contains, a tensor that torch.func transforms or that has a tangent.

    Tensors that only functionalize wraps are computed by operators.
    """
    if isinstance(value, tuple):
        return any(map(has_rules, value))
    if not isinstance(value, torch.Tensor):
        return False
    tensor = value
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if not _functorch.is_functionaltensor(tensor):
            return True
        tensor = _functorch.get_unwrapped(tensor)
    return has_tangent(value)


def may_have_tangents() -> bool:
    """Whether forward mode is active; True if PyTorch's private level is missing."""
    level: int = getattr(forward_ad, "_current_level", 0)
    return level >= 0


def buffer(name: str, value: Any) -> None:
    """Raise for a value that cannot be a buffer."""
    if not isinstance(value, torch.Tensor):
        raise errors.buffer_kind(name, "a torch.Tensor", value)
    if value.requires_grad:
        raise errors.buffer_requires_grad(name)
    if value.is_neg():  # the view of it would be a copy
        raise errors.buffer_negated(name)
