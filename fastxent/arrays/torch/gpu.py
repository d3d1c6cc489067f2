"""CUDA tensors, on PyTorch's current stream of their GPU."""

import functools
from typing import Any

import torch

from fastxent import errors
from fastxent.arrays import device, interface, plans
from fastxent.arrays.plans import KeyedCall
from fastxent.arrays.torch import storage
from fastxent.device_array import BFLOAT16, DeviceArray, Library
from fastxent.functions import Arguments, Function
from fastxent.records import Place

_TYPES: dict[torch.dtype, Any] = storage.DTYPES | {torch.bfloat16: BFLOAT16}
_OWN = {dtype: own for own, dtype in _TYPES.items()}


def run_cached(
    function: Function, arguments: Arguments, first: torch.Tensor
) -> tuple[Any, KeyedCall | None]:
    """Run the cached plan of a call; return its results, None without a plan, and the keyed call.

    `first` is on a GPU, and is the only tensor that may require grad.
    """
    place = place_of(first)
    assert place is not None
    if first.requires_grad and sum(value is first for value in arguments.values()) > 1:
        return None, None  # it is also a target, a weight or a buffer, which must not require grad

    def describe(tensor: Any, number: int) -> tuple[int, tuple[int, ...], Any] | None:
        if (
            type(tensor) is torch.Tensor and number_of(tensor) == number
            and (tensor is first or not tensor.requires_grad)
            and tensor.layout is torch.strided and tensor.is_contiguous() and not tensor.is_neg()
            and storage.is_whole(tensor)
        ):  # fmt: skip
            return tensor.data_ptr(), tensor.shape, tensor.dtype
        return None

    call = plans.keyed(function, arguments, place.device, describe)
    return None if call is None else plans.run_cached(call, place, LIBRARY.new), call


def views_of(function: Function, arguments: Arguments) -> Arguments:
    """Replace the tensors among the arguments by views on one GPU."""
    return device.views_of(function, arguments, view)


def view(value: Any) -> DeviceArray | None:
    """A view of a tensor, or of another library's array; None for values in host memory."""
    if not isinstance(value, torch.Tensor):
        return interface.view(value)
    place = place_of(value)
    if place is None:
        return None
    if value.requires_grad:
        value = value.detach()
    if value.is_conj() or value.is_neg():  # a lazy view: memory holds other values
        value = value.resolve_conj().resolve_neg()
    dtype = _TYPES.get(value.dtype)
    if dtype is None:
        raise errors.not_real("a tensor", value.dtype)
    strides = None
    if not value.is_contiguous():
        strides = tuple(stride * dtype.itemsize for stride in value.stride())
    return DeviceArray(value, value.data_ptr(), tuple(value.shape), strides, dtype, place, LIBRARY)


def place_of(tensor: torch.Tensor) -> Place | None:
    """A tensor's GPU and the current stream of it; None for a tensor in host memory."""
    number = number_of(tensor)
    if number < 0:
        return None
    return Place(number, torch._C._cuda_getCurrentRawStream(number))


def number_of(tensor: torch.Tensor) -> int:
    """The number of the GPU that a tensor is on; -1 if it is on none."""
    return tensor.get_device() if tensor.is_cuda else -1


def scaled(grad: torch.Tensor, factor: torch.Tensor, in_place: bool) -> torch.Tensor:
    """Multiply a gradient by a 0-d factor, in new memory or in place.

    The factor is read on the GPU, without synchronisation. Zeros stay 0.
    """
    from fastxent.cuda.scale import scale

    out = grad if in_place else torch.empty_like(grad)
    compute = torch.float64 if grad.dtype == torch.float64 else torch.float32
    values, number, result = view(grad), view(factor.to(compute)), view(out)
    assert values is not None and number is not None and result is not None
    scale(values, number, result)
    return out


@functools.cache
def _device(number: int) -> torch.device:
    return torch.device("cuda", number)


def new(shape: tuple[int, ...], dtype: Any, place: Place) -> tuple[torch.Tensor, int]:
    """Allocate a tensor from PyTorch's pool; return it and its address."""
    tensor = torch.empty(shape, dtype=_OWN[dtype], device=_device(place.device))
    return tensor, tensor.data_ptr()


def _matmul(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    torch.matmul(a, b, out=out)


def _add_matmul(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    torch.addmm(out, a, b, out=out)


LIBRARY = Library(new, _matmul, _add_matmul)
