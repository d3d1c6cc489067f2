"""Tensors that are refused, each with the argument's name and what to call instead."""

from typing import Any

import torch
from torch.autograd import forward_ad

from fastxent.arrays.torch.storage import DTYPES

# Instead of what, by the name of its class, which need not be loaded.
_REMEDIES = {
    "DTensor": "call to_local() for this rank's part of it, full_tensor() for all of it",
    "MaskedTensor": "call get_data(), and ignore rows by ignore_index or sample_weight",
    "AsyncCollectiveTensor": "call wait()",
    "NestedTensor": "call to_padded_tensor() and ignore what pads, or give its parts one by one",
    "UninitializedParameter": "run the module that is to make it once",
    "UninitializedBuffer": "run the module that is to make it once",
}

_functorch = torch._C._functorch


class Virtual(Exception):
    """A tensor that stands for numbers which are not there: fake, meta or functional."""


def kind(name: str, tensor: torch.Tensor) -> None:
    """Raise for a tensor that has no plain numbers of its own, Virtual if none yet."""
    known = next((k.__name__ for k in type(tensor).__mro__ if k.__name__ in _REMEDIES), "")
    if tensor.is_nested and not known:
        known = "NestedTensor"
    if known:
        raise TypeError(f"{name} must be a plain tensor, got {known}: {_REMEDIES[known]}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {tensor.layout}: call to_dense()")
    transformed(name, tensor)
    if is_virtual(tensor):
        raise Virtual
    if tensor._is_zerotensor():
        raise TypeError(f"{name} must have memory, got zeros without any: call clone()")
    if tensor.is_quantized:
        raise TypeError(f"{name} must hold plain numbers, got {tensor.dtype}: call dequantize()")
    if tensor.dtype is not torch.bfloat16 and tensor.dtype not in DTYPES:
        remedy = ": call float()" if tensor.is_floating_point() else ""
        raise TypeError(f"{name} must hold NumPy's numbers, got {tensor.dtype}{remedy}")
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        raise TypeError(
            f"{name} must have memory of its own, got {type(tensor).__name__}: give the tensor "
            "that it wraps"
        )


def is_virtual(tensor: torch.Tensor) -> bool:
    """Whether only operators compute on a tensor, which has no numbers that can be read."""
    from torch._subclasses.fake_tensor import FakeTensor
    from torch._subclasses.functional_tensor import FunctionalTensor

    known = isinstance(tensor, (FakeTensor, FunctionalTensor))
    return known or tensor.is_meta or torch._is_functional_tensor(tensor)


def transformed(name: str, tensor: torch.Tensor) -> None:
    """Raise for a tensor that torch.func differentiates or maps; functionalize has operators."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if not _functorch.is_functionaltensor(tensor):
            raise TypeError(
                f"{name} must have numbers of its own, not be transformed by torch.func (grad, "
                "vmap, jvp), for which there are no rules: differentiate by backward() or "
                "torch.autograd.grad"
            )
        tensor = _functorch.get_unwrapped(tensor)


def elsewhere(name: str, tensor: torch.Tensor, on_gpu: bool) -> TypeError:
    """The error for a tensor on another device."""
    where = "on the GPU where the first argument is" if on_gpu else "in host memory here"
    return TypeError(f"{name} is on {tensor.device}, expected a tensor {where}")


def unreadable(name: str, tensor: torch.Tensor, error: Exception) -> TypeError:
    """The error for a tensor that NumPy could not be shown, if `kind` has none for it."""
    kind(name, tensor)
    return TypeError(f"{name} must be a tensor whose memory can be read: {error}")


def gradient(name: str, tensor: torch.Tensor) -> None:
    """Raise for a tensor, no input that gradients flow to, that requires grad."""
    if tensor.requires_grad:
        raise TypeError(f"{name} must not require grad: no gradient flows to it; detach it")


def tangent(name: str, tensor: torch.Tensor) -> None:
    """Raise for a tensor with a tangent, which would be dropped."""
    if tensor.is_floating_point() and forward_ad.unpack_dual(tensor).tangent is not None:
        raise TypeError(f"{name} must have no tangent: there is no derivative in forward mode")


def may_have_tangents() -> bool:
    """Whether this is forward mode; its level is not public, and without it the answer is yes."""
    level: int = getattr(forward_ad, "_current_level", 0)
    return level >= 0


def buffer(name: str, value: Any) -> None:
    """Raise for what cannot be written to."""
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.requires_grad:
        raise ValueError(f"{name} must not require grad")
    if value.is_neg():  # what is written to would be a copy
        raise ValueError(f"{name} must not be a view of negated numbers")
