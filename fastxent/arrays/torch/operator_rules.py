"""Implementation of the operators: results, shapes for fake tensors, and derivatives."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from fastxent import errors
from fastxent.arrays import views
from fastxent.arrays.torch import batches, gradients, maps, memory, refusals, second
from fastxent.arrays.torch.operator_arguments import OperatorArguments, check_device
from fastxent.functions import Arguments
from fastxent.records import LinearGrad
from fastxent.results import Type


class Operator(OperatorArguments):
    """The functions of one operator that are registered with torch.library."""

    def compute(self, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        """Compute the results."""
        return list(_flat(memory.detached(self.function, self.call(args, kwargs))))

    def compute_on_gpu(self, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        """Compute the results on CUDA tensors, by the cached launch plan if there is one.

        Kernels are launched on PyTorch's current stream. During stream capture labels are not
        checked and nothing synchronises, so the operators can be part of a CUDA graph.
        """
        arguments = self.call(args, kwargs)
        first = arguments[self.inputs[0]]
        results, key = None, None
        if memory.is_on_gpu(first):  # otherwise another argument is on a GPU, and is refused
            results, key = memory.gpu().run_cached(self.function, arguments, first)
        if results is None:
            results = memory.detached(self.function, arguments, key=key)
        return list(_flat(results))

    def call(self, args: Any, kwargs: Arguments) -> Arguments:
        """Convert the operator's arguments to those of the function."""
        arguments, with_grads = self.bound(args, kwargs)
        if with_grads:
            arguments = gradients.without_half(self.function, arguments) | {"return_grad": True}
        if "wrt" in arguments:
            arguments["wrt"] = tuple(arguments["wrt"].split(","))
        for name in self.lists:
            arguments[name] = LinearGrad(*arguments[name])
        return arguments

    def results(self, flat: list[Any], requested: list[str], arguments: Arguments) -> Any:
        """Convert the operator's list of results to the function's return value."""
        if self.is_product and len(self.inputs) > 1:
            by_name = dict(zip(self.differentiated(arguments), flat, strict=True))
            return LinearGrad(*map(by_name.get, self.inputs))
        if not requested:
            return flat[0]
        if requested[0] == "grad" and len(self.inputs) > 1:
            made = self.differentiated(arguments)
            parts = [flat[1 + made.index(n)] if n in made else None for n in self.inputs]
            flat = [flat[0], LinearGrad(*parts), *flat[len(made) + 1 :]]
        return tuple(flat)

    def differentiated(self, arguments: Arguments) -> list[str]:
        """The inputs that gradients are computed with respect to."""
        names = arguments["wrt"].split(",") if "wrt" in arguments else self.inputs
        return [name for name in self.inputs if name in names and arguments[name] is not None]

    def fake(self, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        """Make tensors of the results' shapes and types, without data."""
        arguments, with_grads = self.bound(args, kwargs)
        first = arguments[self.inputs[0]]
        for name in self.arrays:
            if arguments[name] is not None:
                check_device(name, arguments[name], first)
        shapes = self.shapes(arguments, with_grads)
        return [first.new_empty(shape, dtype=dtype) for shape, dtype in shapes]

    def shapes(self, arguments: Arguments, with_grads: bool) -> Iterator[Any]:
        """Yield shape and type of each result, from the description of the function."""
        function = self.function
        inputs = [arguments[name] for name in self.inputs]
        x, types = inputs[0], _types_of(inputs)
        how = {
            "axis": arguments.get("axis", -1), "reduction": arguments.get("reduction", "none"),
            "keepdims": arguments.get("keepdims", False),
        }  # fmt: skip
        for name in function.results:
            if name == "grad" or self.is_product:
                if self.is_product or with_grads or arguments["return_grad"]:
                    yield from self.gradient_shapes(arguments, with_grads)
            elif name == function.results[0] or not with_grads and arguments[f"return_{name}"]:
                yield function.shape(name, x.shape, **how), types[function.result(name).type]

    def gradient_shapes(self, arguments: Arguments, with_grads: bool) -> Iterator[Any]:
        """Yield shape and type of the gradient by each input that is differentiated."""
        for name in self.differentiated(arguments):
            tensor = arguments[name]
            half = with_grads and tensor.dtype == torch.float16
            yield tensor.shape, torch.float32 if half else _own_type(tensor)

    def setup_context(self, ctx: Any, inputs: Any, output: list[torch.Tensor]) -> None:
        """Save the tensors that the derivative needs."""
        ctx.arguments, ctx.with_grads = self.bound(inputs, {})
        names = self.differentiated(ctx.arguments)
        tensors = {n: ctx.arguments.pop(n) for n in self.arrays if ctx.arguments[n] is not None}
        if self.is_product:
            return
        for name in tensors.keys() - set(self.inputs):  # possible in a program exported earlier
            refusals.gradient(name, tensors[name])
        needed = [n for n in self.inputs if ctx.needs_input_grad[self.names.index(n)]]
        # For a second derivative: attributes, not saved tensors, as in an eager call.
        ctx.inputs, ctx.versions = tensors, tuple(batches.versions_of(tensors.values()))
        # A program may have been exported when other inputs required grad.
        ctx.with_grads = ctx.with_grads and set(needed) <= set(names)
        if ctx.with_grads:
            grads = dict(zip(names, output[1:], strict=True))
            tensors = {n: grads[n] for n in needed}
        elif not self.function.is_loss and maps.saves_result(self.function):
            tensors = {self.inputs[0]: output[0]}
        ctx.saved = list(tensors)
        ctx.save_for_backward(*tensors.values())

    def backward(self, ctx: Any, ups: list[Any]) -> tuple[Any, ...]:
        """Compute the gradients of the first result, in the order of the parameters."""
        if self.is_product:
            raise errors.no_third_derivative()
        arguments = dict.fromkeys(self.arrays) | ctx.arguments
        saved = dict(zip(ctx.saved, ctx.saved_tensors, strict=True))
        if self.function.is_loss and torch.is_grad_enabled():
            grads = self.differentiable(ctx, ups[0])
        elif self.function.is_loss:
            grads = self.loss_gradients(ctx, ups[0], arguments, saved)
        else:
            how = self.function, arguments["axis"], arguments.get("keepdims", False), ups[0]
            grads = {n: maps.map_gradient(*how, tensor) for n, tensor in saved.items()}
        return tuple(grads.get(n) for n in self.names)

    def differentiable(self, ctx: Any, up: Any) -> dict[str, Any]:
        """Compute the gradients of a loss in the graph for a second derivative."""
        arguments = gradients.without_requests(self.function, ctx.arguments | ctx.inputs)
        arguments.pop("wrt", None)
        call, tensors = batches.packed(self.function, arguments)
        versions = dict(zip(ctx.inputs, ctx.versions, strict=True))
        call.versions = tuple(versions[name] for name in call.names)
        needed = tuple(n for n in self.inputs if ctx.needs_input_grad[self.names.index(n)])
        grads = second.Gradient.apply(call, second.Derivative(needed), up, *tensors)
        return dict(zip(needed, grads, strict=True))

    def loss_gradients(
        self, ctx: Any, up: Any, arguments: Arguments, saved: Arguments
    ) -> dict[str, Any]:
        """Multiply the saved gradients of a loss, or newly computed ones, by the upstream one."""
        if not ctx.with_grads:
            call = arguments | saved | self.no_requests
            if "wrt" in arguments:
                needed = [ctx.needs_input_grad[self.names.index(n)] for n in self.inputs]
                call["wrt"] = ",".join(itertools.compress(self.inputs, needed))
            if self.sums_rows(arguments):
                call, up = gradients.weighted_rows(call, up), up.new_ones(())
            _, *grads = getattr(torch.ops.fastxent, self.function.name)(**call, with_grads=True)
            saved = dict(zip(self.differentiated(call), grads, strict=True))
        axis = None if not up.ndim else gradients.rows_axis(self.function, arguments)
        factor = up if axis is None else up.unsqueeze(axis)
        return {n: gradients.masked_product(grad, factor) for n, grad in saved.items()}


def _flat(result: Any) -> Iterator[torch.Tensor]:
    for part in views.parts(result):
        if isinstance(part, tuple):
            yield from _flat(part)
        elif part is not None:
            yield part


def _own_type(tensor: torch.Tensor) -> torch.dtype:
    return tensor.dtype if tensor.is_floating_point() else torch.float64


def _types_of(inputs: list[Any]) -> dict[Type, torch.dtype]:
    """The types of the results for these inputs."""
    own = {_own_type(tensor) for tensor in inputs if tensor is not None}
    loss = torch.float64 if torch.float64 in own else torch.float32
    return {Type.OWN: _own_type(inputs[0]), Type.LOSS: loss, Type.INDEX: torch.int64}
