"""PyTorch tensors: the same kind out, in autograd's graph or in torch.compile's."""

from typing import Any

import torch

from fastxent.arrays import views
from fastxent.arrays.torch import autograd, memory


def call(function: memory.Function, *args: Any, **kwargs: Any) -> Any:
    """Call `function` on views of the tensors; give back tensors, maybe in the graph."""
    if torch.compiler.is_compiling():
        from fastxent.arrays.torch import operators

        return operators.call(call, function, *args, **kwargs)
    given = views.named(function, args, kwargs)
    if given is None:
        return function(*args, **kwargs)
    first, sight = next(iter(given.values()), None), None
    if (
        isinstance(first, torch.Tensor)
        and memory.is_on_gpu(first)
        and not memory.may_have_tangents()
    ):
        in_graph = first.requires_grad and torch.is_grad_enabled()
        if not in_graph or autograd.is_step(function, given, first):
            asked = given | {"return_grad": True} if in_graph else given
            results, sight = memory.gpu().again(function, asked, first)
            if results is not None:
                memory.tell_written(given)
                return autograd.apply_loss(results, None, first) if in_graph else results
    inputs = memory.inputs_of(function)
    arrays, connected = memory.read(given, inputs)
    if not connected or not torch.is_grad_enabled():
        if given.keys().isdisjoint(views.BUFFERS):
            return views.given_back(memory.computed(function, arrays, sight), memory.tensor_of)
        return memory.detached(function, given, arrays, sight)
    return autograd.connected(function, given, arrays, inputs, sight)
