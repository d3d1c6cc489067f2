"""Tensors as the functions see them, results as tensors again, and what may come."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from fastxent.arrays import views
from fastxent.arrays.device import DeviceArray

Function = Callable[..., Any]
Given = dict[str, Any]

# Where a gradient flows to more than the first parameter.
_LINEAR_INPUTS = "x", "linear_weight", "linear_bias"
# What may be asked for beside a loss.
EXTRAS = ("grad", "probs", "lse", "hess", "argmax")
ASKING = {*(f"return_{name}" for name in EXTRAS), *views.BUFFERS, "accumulate"}
# Whether torch.func transforms what is being called; not public, and without it the answer is yes.
is_transforming = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


@functools.cache
def inputs_of(function: Function) -> tuple[str, ...]:
    """The parameters that a gradient flows to."""
    linear = function.__name__ == "linear_cross_entropy"
    return _LINEAR_INPUTS if linear else views.positional(function)[:1]


def read(given: Given, inputs: tuple[str, ...]) -> tuple[Given, bool]:
    """The arguments with tensors as NumPy's views, and whether an input requires grad.

    Raises for a tensor that is not in host memory, and where a gradient is asked for that there is
    not: of a target or a weight, or in forward mode.
    """
    arrays, connected, first = given.copy(), False, next(iter(given.values()))
    on_gpu = isinstance(first, torch.Tensor) and is_on_gpu(first)
    for name, value in given.items():
        if isinstance(value, torch.Tensor) and name not in views.BUFFERS:
            _check_memory(name, value, on_gpu)
            if value.requires_grad:
                if name not in inputs:
                    raise TypeError(
                        f"{name} must not require grad: no gradient flows to it; detach it"
                    )
                connected = True
            if not on_gpu:
                arrays[name] = _view(value)
    for name in given.keys() & views.BUFFERS:
        _check_buffer(name, given[name], on_gpu)
    return gpu().looked_at(given) if on_gpu else arrays, connected


def is_on_gpu(tensor: torch.Tensor) -> bool:
    """Whether CUDA computes on it."""
    return bool(tensor.is_cuda)


@functools.cache
def gpu() -> Any:
    """What knows of CUDA, imported with the first tensor there."""
    from fastxent.arrays.torch import gpu

    return gpu


def _check_memory(name: str, tensor: torch.Tensor, on_gpu: bool) -> None:
    if not (is_on_gpu(tensor) if on_gpu else tensor.is_cpu):
        where = "on the GPU where the first argument is" if on_gpu else "in host memory here"
        raise TypeError(f"{name} is on {tensor.device}, expected a tensor {where}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {tensor.layout}")
    if may_have_tangents() and _has_tangent(tensor):
        raise TypeError(f"{name} must have no tangent: there is no derivative in forward mode")


def may_have_tangents() -> bool:
    """Whether this is forward mode; its level is not public, and without it the answer is yes."""
    level: int = getattr(forward_ad, "_current_level", 0)
    return level >= 0


def _has_tangent(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and forward_ad.unpack_dual(tensor).tangent is not None


def _check_buffer(name: str, value: Any, on_gpu: bool) -> None:
    for part in views.parts(value):
        if isinstance(part, torch.Tensor):
            _check_memory(name, part, on_gpu)
            if part.requires_grad:
                raise ValueError(f"{name} must not require grad")
            if part.is_neg():  # what is written to would be a copy
                raise ValueError(f"{name} must not be a view of negated numbers")
        elif part is not None:
            raise ValueError(f"{name} must be a torch.Tensor, got {type(part).__name__}")


def _bfloat16() -> Any:
    try:
        import ml_dtypes
    except ImportError:
        raise TypeError(
            "tensors of bfloat16 need the package ml_dtypes, for NumPy has no such type: "
            "pip install 'fastxent[torch]'"
        ) from None
    return np.dtype(ml_dtypes.bfloat16)


def _view(tensor: torch.Tensor) -> Any:
    """The tensor's memory as a NumPy array."""
    try:
        if tensor.requires_grad:
            tensor = tensor.detach()
        if tensor.dtype is torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(_bfloat16())
        return tensor.numpy()
    except RuntimeError as error:
        if tensor.is_neg():  # a view of negated numbers
            return _view(tensor.resolve_neg())
        raise TypeError(
            f"a tensor must have memory that can be read, not as inside torch.func: {error}"
        ) from error


def tensor_of(array: Any) -> Any:
    """NumPy's result as a tensor over the same memory; a number as one without dimensions."""
    if type(array) is not np.ndarray:
        if type(array) is DeviceArray:
            return array.owner
        if array is None or isinstance(array, torch.Tensor):
            return array
        array = np.asarray(array)
    if array.dtype.kind == "V":  # bfloat16, which NumPy does not know; asking for a name is slow
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def computed(function: Function, arrays: Given, sight: Any = None) -> Any:
    """What a function makes of views: views, or tensors on a GPU, by which the call is `sight`."""
    if type(next(iter(arrays.values()))) is DeviceArray:
        return gpu().replay.computed(function, arrays, sight)
    return function(**arrays)


def detached(
    function: Function, given: Given, arrays: Given | None = None, sight: Any = None
) -> Any:
    """The results of a call as tensors apart from any graph; `arrays` are views, if there are."""
    first = next(iter(given.values()))
    if isinstance(first, torch.Tensor) and is_on_gpu(first):
        seen = gpu().looked_at(given) if arrays is None else arrays
        result = views.given_back(computed(function, seen, sight), tensor_of)
    else:
        result = views.call(function, given, torch.Tensor, _view, tensor_of)
    tell_written(given)
    return result


def tell_written(given: Given) -> None:
    """Let autograd know which buffers have been written to."""
    for name in given.keys() & views.BUFFERS:
        for part in views.parts(given.get(name)):
            if part is not None and not part.is_inference():
                torch.autograd.graph.increment_version(part)
