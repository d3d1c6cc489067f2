"""Convert tensors to NumPy views, and results to tensors."""

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

# Module-level names, because they are looked up in every call.
_ORDINARY = storage.ORDINARY
_view, _NUMBERS, _Storage = storage.view, storage.NUMBERS, storage.Storage

# Whether torch.func transforms the call, how many dispatch modes are active, whether
# torch.jit.trace is recording; and, imported above, the module of torch.fx.symbolic_trace. These
# names are private, but used by PyTorch's own code. If one is missing, the slower path is taken.
is_transforming = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
_is_jit_tracing = getattr(torch._C, "_is_tracing", lambda: True)


def is_traced() -> bool:
    """Whether PyTorch needs operators: it records the call, or torch.func transforms it.

    Within torch.func new tensors may have no memory.
    """
    return (  # is_recorded() is inlined, because this runs in every call
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
    """Convert tensors to NumPy views; also return whether one of the `inputs` requires grad.

    Raises for a tensor that is not in host memory (with `on_gpu`, not on a GPU), and for a tensor
    that requires grad but is not an input. Raises Virtual for a tensor without data, Dual for one
    with a tangent.
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
    """Whether a tensor has no data that can be read, so that operators are used."""
    if type(tensor) in _ORDINARY:
        return bool(tensor.is_meta or torch._is_functional_tensor(tensor))
    return refusals.is_virtual(tensor)


def is_on_gpu(tensor: torch.Tensor) -> bool:
    """Whether a tensor is on a CUDA device."""
    return bool(tensor.is_cuda)


@functools.cache
def gpu() -> Any:
    """The module for tensors on a GPU, imported at the first use."""
    from fastxent.arrays.torch import gpu

    return gpu


def _checked_view(name: str, tensor: torch.Tensor, on_gpu: bool) -> Any:
    """Check a tensor; return a NumPy view of it, or the tensor itself if it is on a GPU."""
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
    """Convert a buffer, or each item of a tuple of buffers, to a view."""
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
    # Use the view of the same tensor, because a call in place is detected by identity.
    places = (other for other, tensor in arguments.items() if tensor is value and other != name)
    return next((arrays[other] for other in places if other not in function.buffers), array)


def computed(function: Function, arrays: Arguments, key: Any = None) -> Any:
    """Call a function on views; return views, or tensors on a GPU. `key` is the keyed call."""
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
    """Compute the gradient of a reduced loss on the CPU, times `factor`, without a graph."""
    arrays, _ = read(function, arguments, tuple(arguments), False)
    with threads.at_most(torch.get_num_threads()):
        tensor: torch.Tensor = tensor_of(function.scaled_gradient(arrays, factor))
    return tensor


def tensor_of(result: Any) -> Any:
    """Convert a result to a tensor: the tensor that owns its memory, or a new one for a scalar."""
    kind = type(result)
    if kind is np.ndarray:
        memory = result.base
        # from_numpy is for arrays that are not in a tensor's memory.
        return memory.owner if isinstance(memory, _Storage) else torch.from_numpy(result)
    if kind in _NUMBERS:
        return storage.tensor_of(result)
    return result.owner if kind is DeviceArray else result


def detached(
    function: Function, arguments: Arguments, arrays: Arguments | None = None, key: Any = None
) -> Any:
    """Compute a call without a graph; `arrays` are its views, if they have been made."""
    if arrays is None:
        first = next(iter(arguments.values()))
        on_gpu = isinstance(first, torch.Tensor) and is_on_gpu(first)
        arrays, _ = read(function, arguments, tuple(arguments), on_gpu)
    result = views.converted(computed(function, arrays, key), tensor_of)
    mark_written(function, arguments)
    return result


def mark_written(function: Function, arguments: Arguments) -> None:
    """Increment the versions of the buffers, which have been written to."""
    for name in arguments.keys() & function.buffers:
        for part in views.parts(arguments.get(name)):
            if part is not None and not part.is_inference():
                torch.autograd.graph.increment_version(part)
