"""PyTorch tensors: the same kind out, in autograd's graph or in torch.compile's."""

from typing import Any

import torch
from torch._C._dynamo import eval_frame

from fastxent.arrays import views
from fastxent.arrays.torch import autograd, memory, refusals

# Where torch.compile has given up on a caller, it goes on to compile each frame that runs below,
# here by tensors without tangents and memory, which it takes to be so for ever. Not public.
_watcher = getattr(eval_frame, "get_eval_frame_callback", lambda: None)
_watch = getattr(eval_frame, "set_eval_frame", lambda callback: None)


def call(function: memory.Function, *args: Any, **kwargs: Any) -> Any:
    """Call `function` on views of the tensors; give back tensors, maybe in the graph."""
    if torch.compiler.is_dynamo_compiling():
        from fastxent.arrays.torch import operators

        return operators.compiled(call, function, *args, **kwargs)
    if _watcher() is not None:
        before = _watch(None)
        try:
            return call(function, *args, **kwargs)
        finally:
            _watch(before)
    given = views.by_name(function, args, kwargs)
    if given is None:
        return function(*args, **kwargs)
    if memory.is_traced():
        for value in given.values():
            if isinstance(value, torch.fx.Proxy):  # in whose graph a call is one node
                public = views.public(function)
                return value.tracer.create_proxy("call_function", public, args, kwargs)
        return _traced(function, given)
    first: Any = args[0] if args else next(iter(given.values()), None)
    sight = None
    on_gpu = isinstance(first, torch.Tensor) and memory.is_on_gpu(first)
    if on_gpu and not refusals.may_have_tangents():
        in_graph = first.requires_grad and torch.is_grad_enabled()
        if not in_graph or autograd.is_step(function, given, first):
            asked = given | {"return_grad": True} if in_graph else given
            results, sight = memory.gpu().run_cached(function, asked, first)
            if results is not None:
                memory.tell_written(given)
                return autograd.apply_loss(results, None, first) if in_graph else results
    inputs = memory.inputs_of(function)
    try:
        arrays, connected = memory.read(given, inputs, on_gpu)
    except refusals.Virtual:
        return _traced(function, given)
    if not connected or not torch.is_grad_enabled():
        return memory.detached(function, given, arrays, sight)
    return autograd.connected(function, given, arrays, inputs, sight)


def _traced(function: memory.Function, given: memory.Given) -> Any:
    """The results as operators give them, of tensors that may have no numbers yet."""
    from fastxent.arrays.torch import operators

    return operators.traced(function, given)
