"""Tensors as the functions see them, results as tensors again, and what may come."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.fx import _symbolic_trace

from fastxent.arrays import views
from fastxent.arrays.device import DeviceArray
from fastxent.arrays.torch import refusals, storage
from fastxent.cpu import threads

Function = Callable[..., Any]
Given = dict[str, Any]

# Where a gradient flows to more than the first parameter.
_LINEAR_INPUTS = "x", "linear_weight", "linear_bias"
# What may be asked for beside a loss.
EXTRAS = ("grad", "probs", "lse", "hess", "argmax")
ASKING = {*(f"return_{name}" for name in EXTRAS), *views.BUFFERS, "accumulate"}

# Looked up in every call, which is why they have names here.
_BUFFERS, _ORDINARY = frozenset(views.BUFFERS), storage.ORDINARY
_view, _NUMBERS, _Storage = storage.view, storage.NUMBERS, storage.Storage

# What PyTorch asks itself and does not publish; where one is gone, the answer is the careful one:
# whether torch.func transforms what is called, how many dispatch modes see it, what
# torch.jit.trace records it by, and the module that knows of torch.fx.symbolic_trace.
is_transforming = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_is_jit_tracing = getattr(torch._C, "_is_tracing", lambda: True)


def is_traced() -> bool:
    """Whether PyTorch wants to see operators: for make_fx, FakeTensorMode, jit.trace and others.

    Within torch.func, too, where new tensors may have no memory.
    """
    return (
        _modes() > 0
        or is_transforming()
        or _is_jit_tracing()
        or _symbolic_trace._is_fx_tracing_flag
    )


@functools.cache
def inputs_of(function: Function) -> tuple[str, ...]:
    """The parameters that a gradient flows to."""
    linear = function.__name__ == "linear_cross_entropy"
    return _LINEAR_INPUTS if linear else views.positional(function)[:1]


def read(given: Given, inputs: tuple[str, ...], on_gpu: bool) -> tuple[Given, bool]:
    """The arguments with tensors as NumPy's views, and whether an input requires grad.

    Raises for a tensor that is not in host memory (on a GPU), and where a gradient is asked for
    that there is not: of a target or a weight, or in forward mode. Raises Virtual for one without
    numbers.
    """
    arrays, connected = given.copy(), False
    careful = on_gpu or refusals.may_have_tangents()
    for name, value in given.items():
        if not isinstance(value, torch.Tensor) or name in _BUFFERS:
            continue
        if careful or type(value) not in _ORDINARY or not value.is_cpu:
            arrays[name] = _seen(name, value, on_gpu)
        else:  # as nearly all are
            try:
                arrays[name] = _view(name, value)
            except (KeyError, RuntimeError) as error:
                raise refusals.unreadable(name, value, error) from error
        if value.requires_grad:
            if name not in inputs:
                refusals.gradient(name, value)
            connected = True
    if not given.keys().isdisjoint(_BUFFERS):
        for name in given.keys() & _BUFFERS:
            arrays[name] = _buffer(name, given[name], given, arrays, on_gpu)
    return gpu().views_of(given) if on_gpu else arrays, connected


def is_on_gpu(tensor: torch.Tensor) -> bool:
    """Whether CUDA computes on it."""
    return bool(tensor.is_cuda)


@functools.cache
def gpu() -> Any:
    """What knows of CUDA, imported with the first tensor there."""
    from fastxent.arrays.torch import gpu

    return gpu


def _seen(name: str, tensor: torch.Tensor, on_gpu: bool) -> Any:
    """A tensor's numbers as an array; of one on a GPU itself, if they are there."""
    refusals.kind(name, tensor)
    if not (is_on_gpu(tensor) if on_gpu else tensor.is_cpu):
        raise refusals.elsewhere(name, tensor, on_gpu)
    if refusals.may_have_tangents():
        refusals.tangent(name, tensor)
    if on_gpu:
        if not storage.is_whole(tensor):
            raise storage.cut_off(name, tensor)
        return tensor
    try:
        return _view(name, tensor)
    except (KeyError, RuntimeError) as error:
        raise refusals.unreadable(name, tensor, error) from error


def beside_numpy(name: str, tensor: torch.Tensor) -> Any:
    """A tensor's numbers as an array, for a call on one of NumPy's."""
    try:
        array = _seen(name, tensor, False)
    except refusals.Virtual:
        raise TypeError(
            f"{name} must have numbers beside a NumPy array, got {type(tensor).__name__} on "
            f"{tensor.device}"
        ) from None
    refusals.gradient(name, tensor)
    return array


def _buffer(name: str, value: Any, given: Given, arrays: Given, on_gpu: bool) -> Any:
    """A buffer, or each of a tuple of them, as an array."""
    if isinstance(value, tuple):
        names = getattr(value, "_fields", range(len(value)))
        pairs = zip(names, value, strict=True)
        return views.like(
            value, [_buffer(f"{name}.{n}", part, given, arrays, on_gpu) for n, part in pairs]
        )
    if value is None:
        return None
    refusals.buffer(name, value)
    array = _seen(name, value, on_gpu)
    # The array of the same tensor: by that a call in place is known at once.
    places = (other for other, tensor in given.items() if tensor is value and other != name)
    return next((arrays[other] for other in places if other not in views.BUFFERS), array)


def computed(function: Function, arrays: Given, sight: Any = None) -> Any:
    """What a function makes of views: views, or tensors on a GPU, by which the call is `sight`."""
    for first in arrays.values():
        if type(first) is DeviceArray:
            return gpu().plans.computed(function, arrays, sight)
        break
    n = torch.get_num_threads()
    if n >= threads.CPUS or n >= threads.automatic():
        return function(**arrays)
    with threads.at_most(n):
        return function(**arrays)


def tensor_of(result: Any) -> Any:
    """A result as a tensor: the one whose memory it is, or a number in a new one."""
    kind = type(result)
    if kind is np.ndarray:
        memory = result.base
        # Of what is no tensor itself, as a shape is.
        return memory.owner if isinstance(memory, _Storage) else torch.from_numpy(result)
    if kind in _NUMBERS:
        return storage.tensor_of(result)
    return result.owner if kind is DeviceArray else result


def detached(
    function: Function, given: Given, arrays: Given | None = None, sight: Any = None
) -> Any:
    """The results of a call as tensors apart from any graph; `arrays` are views, if there are."""
    if arrays is None:
        first = next(iter(given.values()))
        on_gpu = isinstance(first, torch.Tensor) and is_on_gpu(first)
        arrays, _ = read(given, tuple(given), on_gpu)
    result = views.converted(computed(function, arrays, sight), tensor_of)
    tell_written(given)
    return result


def tell_written(given: Given) -> None:
    """Let autograd know which buffers have been written to."""
    for name in given.keys() & views.BUFFERS:
        for part in views.parts(given.get(name)):
            if part is not None and not part.is_inference():
                torch.autograd.graph.increment_version(part)
