"""Calls within torch.func's transforms and in forward mode, as nodes with rules for both."""

from typing import Any

import torch

from fastxent import errors
from fastxent.arrays import views
from fastxent.arrays.torch import batches, gradients, maps, second
from fastxent.arrays.torch.batches import PackedCall
from fastxent.functions import Arguments, Function, Kind, Role


def call(function: Function, arguments: Arguments) -> Any:
    """Compute a call with tensors that are transformed or have tangents."""
    is_plain = arguments.keys().isdisjoint(function.requests)
    if not is_plain:
        left_out = function.with_role(Role.BUFFER, Role.BUFFER_FLAG)
        for name in left_out:
            if arguments.get(name) is not None and arguments[name] is not False:
                raise errors.buffer_in_graph(name, arguments[name])
        arguments = {name: value for name, value in arguments.items() if name not in left_out}
    if function.kind is Kind.MAP:
        return maps.call(function, arguments)
    if not function.is_loss:
        return _detached(function, arguments)
    plain = arguments if is_plain else gradients.without_requests(function, arguments)
    packed, tensors = batches.packed(function, plain)
    if function.has_one_gradient and second.needs_gradient(arguments[function.first]):
        loss, _ = second.LossAndGradient.apply(packed, second.Derivative(), *tensors)
    else:
        loss = second.Loss.apply(packed, second.Derivative(), *tensors)
    if is_plain or not any(function.is_requested(n, arguments) for n in function.results[1:]):
        return loss
    return loss, *_detached(function, arguments)[1:]


def _detached(function: Function, arguments: Arguments) -> Any:
    """Compute a call without derivatives."""
    packed, tensors = batches.packed(function, arguments)
    structure = _Structure()
    results = _Detached.apply(packed, structure, *tensors)
    remaining = iter(results)

    def filled(part: Any) -> Any:
        if isinstance(part, tuple):
            return views.like(part, map(filled, part))
        return next(remaining) if part else None

    return filled(structure.of)


class _Structure:
    """The nested tuple of the results: True for each result, None for missing ones."""

    of: Any = None


class _Detached(torch.autograd.Function):  # type: ignore[misc]
    """All results of a call, flat; `form` is written."""

    @staticmethod
    def forward(call: PackedCall, structure: _Structure, *tensors: torch.Tensor) -> Any:
        result = gradients.run(call.function, call.arguments(tensors))
        flat: list[Any] = []

        def structure_of(part: Any) -> Any:
            if isinstance(part, tuple):
                return views.like(part, list(map(structure_of, part)))
            if part is not None:
                flat.append(part)
            return part is not None

        structure.of = structure_of(result)
        return tuple(flat)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Raise for derivatives that are not implemented, such as those of a product."""
        ctx.call = inputs[0]
        needs = ctx.needs_input_grad[2:]
        ctx.call.refuse_gradients(needs)
        if any(needs) and not ctx.call.function.is_loss:
            raise errors.no_third_derivative()
        ctx.n = len(output)
        ctx.mark_non_differentiable(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *ups: Any) -> Any:
        return (None,) * len(ctx.needs_input_grad)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        for name, tangent in zip(ctx.call.names, tangents[2:], strict=True):
            if tangent is None:
                continue
            if name not in ctx.call.function.inputs:
                raise errors.no_forward_mode(name.partition(".")[0])
            if not ctx.call.function.is_loss:
                raise errors.no_third_derivative()
        return (None,) * ctx.n

    @staticmethod
    def vmap(info: Any, dims: Any, call: PackedCall, structure: _Structure, *tensors: Any) -> Any:
        batch = batches.folded(call, info.batch_size, dims[2:], tensors)
        if batch is None or call.function.kind is Kind.LINEAR:
            return batches.one_by_one(_Detached, info.batch_size, dims, call, structure, *tensors)
        results = list(_Detached.apply(batch.call, structure, *batch.tensors))
        if call.function.is_loss:
            results[0] = batch.reduced(results[0], True)
        return tuple(results), (0,) * len(results)
