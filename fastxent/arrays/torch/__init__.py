"""PyTorch tensors: results are tensors, in autograd's graph or in that of torch.compile."""

import functools
from typing import Any

import torch
from torch._C._dynamo import eval_frame

from fastxent.arrays import views
from fastxent.arrays.torch import autograd, memory, refusals
from fastxent.functions import Arguments, Function

# After a graph break torch.compile compiles each frame that the caller runs. It would treat our
# checks of one tensor (no tangent, no memory) as constants. These functions are not public.
_watcher = getattr(eval_frame, "get_eval_frame_callback", lambda: None)
_watch = getattr(eval_frame, "set_eval_frame", lambda callback: None)


def call(function: Function, *args: Any, **kwargs: Any) -> Any:
    """Call `function` on views of the tensors; return tensors, with a graph if grad is required."""
    if torch.compiler.is_dynamo_compiling():
        from fastxent.arrays.torch import operators

        return operators.compiled(call, function, *args, **kwargs)
    if _watcher() is not None:
        before = _watch(None)
        try:
            return call(function, *args, **kwargs)
        finally:
            _watch(before)
    arguments = views.by_name(function, args, kwargs)
    if arguments is None:
        return function(*args, **kwargs)
    if memory.is_traced():
        for value in arguments.values():
            if isinstance(value, torch.fx.Proxy):  # symbolic_trace: a call is one node
                return value.tracer.create_proxy("call_function", function.public, args, kwargs)
        if memory.is_transforming() and any(map(refusals.has_rules, arguments.values())):
            return _functional().call(function, arguments)
        return _traced(function, arguments)
    first: Any = args[0] if args else next(iter(arguments.values()), None)
    key = None
    on_gpu = isinstance(first, torch.Tensor) and memory.is_on_gpu(first)
    if on_gpu and not refusals.may_have_tangents():
        in_graph = first.requires_grad and torch.is_grad_enabled()
        is_sum = arguments.get("reduction") != "none"
        if not in_graph or (is_sum and autograd.is_step(function, arguments, first)):
            planned = arguments | {"return_grad": True} if in_graph else arguments
            results, key = memory.gpu().run_cached(function, planned, first)
            if results is not None:
                memory.mark_written(function, arguments)
                if not in_graph:
                    return results
                return autograd.step(results, None, function, arguments, first)
    try:
        arrays, connected = memory.read(function, arguments, function.inputs, on_gpu)
    except refusals.Virtual:
        return _traced(function, arguments)
    except refusals.Dual:
        return _functional().call(function, arguments)
    if not connected or not torch.is_grad_enabled():
        return memory.detached(function, arguments, arrays, key)
    return autograd.connected(function, arguments, arrays, key)


@functools.cache
def _functional() -> Any:
    """The module for transforms and forward mode, imported at the first use."""
    from fastxent.arrays.torch import functional

    return functional


def _traced(function: Function, arguments: Arguments) -> Any:
    """Compute by operators, for tensors that may have no data."""
    from fastxent.arrays.torch import operators

    return operators.traced(function, arguments)
