"""Tensors on a GPU, on PyTorch's current stream there."""

from typing import Any

import numpy as np
import torch

from fastxent.arrays import device, interface
from fastxent.arrays.device import BFLOAT16, DeviceArray, Library
from fastxent.terms import Place

_TYPES: dict[torch.dtype, Any] = {
    getattr(torch, name): np.dtype(name)
    for name in (
        "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
        "float16", "float32", "float64", "complex64", "complex128",
    )
}  # fmt: skip
_TYPES[torch.bfloat16] = BFLOAT16
_OWN = {dtype: own for own, dtype in _TYPES.items()}


def looked_at(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments with views of the tensors, which are all on one GPU."""
    return device.looked_at(given, view)


def view(value: Any) -> DeviceArray | None:
    """What a tensor is, or another library's array; None for what is in host memory."""
    if not isinstance(value, torch.Tensor):
        return interface.view(value)
    if value.requires_grad:
        value = value.detach()
    if value.is_conj() or value.is_neg():  # a view of other numbers than lie there
        value = value.resolve_conj().resolve_neg()
    place = place_of(value)
    if place is None:
        return None
    dtype = _TYPES.get(value.dtype)
    if dtype is None:
        raise TypeError(f"a tensor must hold real numbers, got {value.dtype}")
    step = dtype.itemsize
    strides = tuple(stride * step for stride in value.stride())
    return DeviceArray(value, value.data_ptr(), tuple(value.shape), strides, dtype, place, LIBRARY)


def place_of(tensor: torch.Tensor) -> Place | None:
    """A tensor's GPU and the stream that is current there; None in host memory."""
    if not tensor.is_cuda:
        return None
    number = tensor.device.index
    return Place(number, torch._C._cuda_getCurrentRawStream(number))


def scaled(grad: torch.Tensor, factor: torch.Tensor, mine: bool) -> torch.Tensor:
    """A gradient times the number above it, in its own memory if that is `mine` to give away.

    The number is read on the GPU: nothing waits for it. What is 0 stays 0.
    """
    from fastxent.cuda.launch import scale

    out = grad if mine else torch.empty_like(grad)
    scale(view(grad), view(factor.to(_compute(grad))), view(out))
    return out


def _compute(grad: torch.Tensor) -> torch.dtype:
    return torch.float64 if grad.dtype == torch.float64 else torch.float32


def new(shape: tuple[int, ...], dtype: Any, place: Place) -> DeviceArray:
    """A new tensor from PyTorch's pool."""
    tensor = torch.empty(shape, dtype=_OWN[dtype], device=f"cuda:{place.device}")
    return DeviceArray(tensor, tensor.data_ptr(), shape, None, dtype, place, LIBRARY)


def _matmul(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    torch.matmul(a, b, out=out)


def _add_matmul(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    torch.addmm(out, a, b, out=out)


LIBRARY = Library(new, _matmul, _add_matmul)
