"""Gradients of the losses, multiplied by the upstream gradient.

`arguments` are the arguments of a loss by name, with tensors. `up` is the upstream gradient: of the
loss, or of the losses by row or element.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from fastxent.arrays import views
from fastxent.arrays.torch import memory
from fastxent.functions import Arguments, Function


def run(function: Function, arguments: Arguments) -> Any:
    """Compute the detached results of a call; by operators if it is traced or without data."""
    arguments = {n: _without_graph(value) for n, value in arguments.items()}
    if memory.is_traced() or memory.is_virtual(arguments[function.first]):
        from fastxent.arrays.torch import operators

        return operators.traced(function, arguments)
    return memory.detached(function, arguments)


def _without_graph(value: Any) -> Any:
    if isinstance(value, tuple):
        return views.like(value, map(_without_graph, value))
    return value.detach() if isinstance(value, torch.Tensor) else value


def with_gradients(function: Function, arguments: Arguments, needed: tuple[str, ...]) -> Arguments:
    """The arguments of the call with gradients for the inputs that need them."""
    requested = arguments | {"return_grad": True}
    if len(function.inputs) == 1:
        return requested
    if "wrt" in arguments:
        own = arguments["wrt"]
        if not isinstance(own, Iterable) or isinstance(own, bytes) or not (own := tuple(own)):
            return requested  # which the function refuses
        names = (arguments["wrt"],) if isinstance(arguments["wrt"], str) else own
        # Keep unknown names, so that the function raises the error.
        needed = *needed, *(name for name in names if name not in function.inputs)
    return requested | {"wrt": needed}


def rows_axis(function: Function, arguments: Arguments) -> int | None:
    """The class axis of the gradient if losses are returned by row, else None."""
    if "reduction" not in arguments:  # fast path for the default
        return None
    if arguments["reduction"] != "none" or not function.has_rows:
        return None
    return int(arguments.get("axis", -1))


def is_float16(value: Any) -> bool:
    """Whether a value is a float16 tensor, in which small gradients underflow."""
    return isinstance(value, torch.Tensor) and value.dtype == torch.float16


def without_requests(function: Function, arguments: Arguments) -> Arguments:
    """The arguments of a call that returns only the loss."""
    return {name: value for name, value in arguments.items() if name not in function.requests}


def without_half(function: Function, arguments: Arguments) -> Arguments:
    """The arguments with float16 inputs as float32."""
    half = [name for name in function.inputs if is_float16(arguments.get(name))]
    return arguments | {name: arguments[name].detach().float() for name in half}


def product(grad: Any, factor: Any, in_place: bool) -> Any:
    """Multiply a gradient by the gradient of its loss.

    In new memory unless `in_place`: the receiver may write to the result, and `backward` may run
    more than once.
    """
    if memory.is_on_gpu(grad):  # reading the factor would synchronise
        if factor.ndim:
            return masked_product(grad, factor)
        return memory.gpu().scaled(grad, factor, in_place)
    # If the sum is finite, all terms are: one operation instead of a test of each term.
    number = factor.sum().item() if factor.ndim else factor.item()
    if not math.isfinite(number):
        return masked_product(grad, factor)
    if not in_place:
        return grad * factor
    return grad if number == 1.0 and not factor.ndim else grad.mul_(factor)


def masked_product(grad: Any, factor: Any) -> Any:
    """The product in new memory, but 0 where the gradient is 0, as in ignored rows.

    A factor of inf or nan would give nan there. torch.where would copy its scalar to the GPU, which
    synchronises and cannot be captured; masked_fill_ passes it as a kernel argument.
    """
    return (grad * factor).masked_fill_(grad == 0, 0.0)


def gradients(
    function: Function, arguments: Arguments, up: torch.Tensor, needed: tuple[str, ...]
) -> list[torch.Tensor]:
    """Compute the gradients of the needed inputs, in new memory."""
    if up.ndim and function.has_rows:  # as gradients of the weighted sum of the losses
        call = with_gradients(function, weighted_rows(arguments, up), needed)
        _, grads = run(function, call)
        return [grad for grad in views.parts(grads) if grad is not None]
    half = any(is_float16(arguments.get(name)) for name in needed)
    has_value = not memory.is_traced() and not memory.is_virtual(up)
    on_cpu = has_value and not memory.is_on_gpu(up)
    if half and on_cpu and function.has_one_gradient and not up.ndim:
        factor = up.item()
        if factor and math.isfinite(factor):
            return [memory.scaled_gradient(function, arguments, factor)]
    call = with_gradients(function, without_half(function, arguments), needed)
    _, grads = run(function, call)
    made = [grad for grad in views.parts(grads) if grad is not None]
    return [product(g, up, True) if has_value else masked_product(g, up) for g in made]


def weighted_rows(arguments: Arguments, up: torch.Tensor) -> Arguments:
    """The arguments of the call whose loss is the sum of the row losses weighted by `up`."""
    weight, own = up.double(), arguments.get("sample_weight")
    if own is not None:
        own = own if isinstance(own, torch.Tensor) else torch.from_numpy(np.array(own, float))
        weight = (weight * own).masked_fill_(own == 0, 0.0)  # ignored rows stay 0
    return arguments | {"sample_weight": weight, "reduction": "sum"}
