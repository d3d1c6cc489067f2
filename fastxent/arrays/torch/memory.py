"""Tensors as NumPy views, and results as tensors again."""

import functools
from typing import Any

import numpy as np
import torch
from torch.fx import _symbolic_trace

from fastxent import errors
from fastxent.arrays import views
from fastxent.arrays.torch import refusals, storage
from fastxent.cpu import threads
from fastxent.device_array import DeviceArray
from fastxent.functions import Arguments, Function

# Looked up in every call, which is why they have names here.
_ORDINARY = storage.ORDINARY
_view, _NUMBERS, _Storage = storage.view, storage.NUMBERS, storage.Storage

# Private names that PyTorch's own code uses; where one is gone, the cautious answer is taken:
# whether torch.func transforms the call, how many dispatch modes are active, whether
# torch.jit.trace is recording, and the module that knows of torch.fx.symbolic_trace.
is_transforming = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_is_jit_tracing = getattr(torch._C, "_is_tracing", lambda: True)


def is_traced() -> bool:
    """Whether PyTorch has to see operators.

    Within torch.func, too, where new tensors may have no memory.
    """
    return (  # not is_recorded(), for every call is asked
        _modes() > 0
        or is_transforming()
        or _is_jit_tracing()
        or _symbolic_trace._is_fx_tracing_flag
    )


def is_recorded() -> bool:
    """Whether PyTorch records operators: for make_fx, FakeTensorMode, jit.trace and others."""
    return _modes() > 0 or _is_jit_tracing() or _symbolic_trace._is_fx_tracing_flag


def read(
    function: Function, arguments: Arguments, inputs: tuple[str, ...], on_gpu: bool
) -> tuple[Arguments, bool]:
    """The arguments with tensors as NumPy views, and whether one of the `inputs` requires grad.

    Raises for a tensor that is not in host memory (or, `on_gpu`, not on a GPU), and for a gradient
    that would be dropped. Raises Virtual for a tensor without numbers, Dual for one with a tangent.
    """
    arrays, connected = arguments.copy(), False
    has_tangents = refusals.may_have_tangents()
    if has_tangents and any(map(refusals.has_rules, arguments.values())):
        raise refusals.Dual
    careful = on_gpu or has_tangents
    buffers = function.buffers
    for name, value in arguments.items():
        if not isinstance(value, torch.Tensor) or name in buffers:
            continue
        if careful or type(value) not in _ORDINARY or not value.is_cpu:
            arrays[name] = _checked_view(name, value, on_gpu)
        else:  # the common case
            try:
                arrays[name] = _view(name, value)
            except (KeyError, RuntimeError) as error:
                raise refusals.unreadable(name, value, error) from error
        if value.requires_grad:
            if name not in inputs:
                refusals.gradient(name, value)
            connected = True
    if not arguments.keys().isdisjoint(buffers):
        for name in arguments.keys() & buffers:
            arrays[name] = _buffer(function, name, arguments[name], arguments, arrays, on_gpu)
    return gpu().views_of(function, arguments) if on_gpu else arrays, connected


def is_virtual(tensor: torch.Tensor) -> bool:
    """Whether it has no numbers to be read, so that operators compute on it."""
    if type(tensor) in _ORDINARY:
        return bool(tensor.is_meta or torch._is_functional_tensor(tensor))
    return refusals.is_virtual(tensor)


def is_on_gpu(tensor: torch.Tensor) -> bool:
    """Whether CUDA computes on it."""
    return bool(tensor.is_cuda)


@functools.cache
def gpu() -> Any:
    """The module for tensors on a GPU, imported with the first of them."""
    from fastxent.arrays.torch import gpu

    return gpu


def _checked_view(name: str, tensor: torch.Tensor, on_gpu: bool) -> Any:
    """A NumPy view of a tensor, after all checks; a tensor on a GPU itself."""
    refusals.kind(name, tensor)
    if not (is_on_gpu(tensor) if on_gpu else tensor.is_cpu):
        raise errors.on_other_device(name, tensor.device, on_gpu)
    if refusals.may_have_tangents():
        refusals.tangent(name, tensor)
    if on_gpu:
        if not storage.is_whole(tensor):
            raise storage.too_small(name, tensor)
        return tensor
    try:
        return _view(name, tensor)
    except (KeyError, RuntimeError) as error:
        raise refusals.unreadable(name, tensor, error) from error


def beside_numpy(name: str, tensor: torch.Tensor) -> Any:
    """A NumPy view of a tensor, for a call whose first argument is a NumPy array."""
    try:
        array = _checked_view(name, tensor, False)
    except refusals.Virtual:
        raise errors.no_data(name, tensor) from None
    refusals.gradient(name, tensor)
    return array


def _buffer(
    function: Function, name: str, value: Any, arguments: Arguments, arrays: Arguments,
    on_gpu: bool,
) -> Any:  # fmt: skip
    """A buffer, or each of a tuple of them, as an array."""
    if isinstance(value, tuple):
        names = getattr(value, "_fields", range(len(value)))
        return views.like(value, [
            _buffer(function, f"{name}.{part}", buffer, arguments, arrays, on_gpu)
            for part, buffer in zip(names, value, strict=True)
        ])  # fmt: skip
    if value is None:
        return None
    refusals.buffer(name, value)
    array = _checked_view(name, value, on_gpu)
    # The view of the same tensor: a call in place is known by its identity.
    places = (other for other, tensor in arguments.items() if tensor is value and other != name)
    return next((arrays[other] for other in places if other not in function.buffers), array)


def computed(function: Function, arrays: Arguments, key: Any = None) -> Any:
    """The results of a call on views: views, or on a GPU tensors; `key` is that of its plan."""
    for first in arrays.values():
        if type(first) is DeviceArray:
            return gpu().plans.computed(function, arrays, key)
        break
    if function.has_one_gradient:
        x = arrays.get(function.first)
        if type(x) is np.ndarray and x.size <= threads.ONE_THREAD_SIZE:
            return function.body(**arrays)
    n = torch.get_num_threads()
    if n >= threads.CPUS or n >= threads.automatic():
        return function.body(**arrays)
    with threads.at_most(n):
        return function.body(**arrays)


def scaled_gradient(function: Function, arguments: Arguments, factor: float) -> torch.Tensor:
    """The gradient of a reduced loss on the CPU, times `factor`, without a graph."""
    arrays, _ = read(function, arguments, tuple(arguments), False)
    with threads.at_most(torch.get_num_threads()):
        tensor: torch.Tensor = tensor_of(function.scaled_gradient(arrays, factor))
    return tensor


def tensor_of(result: Any) -> Any:
    """A result as a tensor: the one whose memory it is, or a number in a new one."""
    kind = type(result)
    if kind is np.ndarray:
        memory = result.base
        # An array that is not in a tensor's memory.
        return memory.owner if isinstance(memory, _Storage) else torch.from_numpy(result)
    if kind in _NUMBERS:
        return storage.tensor_of(result)
    return result.owner if kind is DeviceArray else result


def detached(
    function: Function, arguments: Arguments, arrays: Arguments | None = None, key: Any = None
) -> Any:
    """The results of a call as tensors without a graph; `arrays` are its views, if there are."""
    if arrays is None:
        first = next(iter(arguments.values()))
        on_gpu = isinstance(first, torch.Tensor) and is_on_gpu(first)
        arrays, _ = read(function, arguments, tuple(arguments), on_gpu)
    result = views.converted(computed(function, arrays, key), tensor_of)
    mark_written(function, arguments)
    return result


def mark_written(function: Function, arguments: Arguments) -> None:
    """Tell autograd which buffers have been written to."""
    for name in arguments.keys() & function.buffers:
        for part in views.parts(arguments.get(name)):
            if part is not None and not part.is_inference():
                torch.autograd.graph.increment_version(part)
