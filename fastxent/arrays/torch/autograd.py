"""The functions in autograd's graph of eager calls: one node for losses, one for losses by row.

Where a tensor requires grad, a loss makes its gradient in the forward pass and saves it for
`backward`, which multiplies it by the gradient of the loss. Nothing is computed twice, and the
graph saves one array shaped as the input, as it would save the probabilities otherwise. A graph
that is not retained returns that very array, so that a training step allocates no other. Where the
gradient cannot be multiplied afterwards, `backward` makes it, from the inputs. A `backward` that is
itself to be differentiated (create_graph=True) goes on to `second`.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from fastxent.arrays import views
from fastxent.arrays.torch import maps, memory, rebuilt_logits, refusals, second
from fastxent.arrays.torch.batches import PackedCall, packed, versions_of
from fastxent.arrays.torch.gradients import (
    gradients,
    is_float16,
    masked_product,
    product,
    rows_axis,
    with_gradients,
    without_half,
    without_requests,
)  # fmt: skip
from fastxent.functions import Arguments, Function, Kind


def connected(function: Function, arguments: Arguments, arrays: Arguments, key: Any = None) -> Any:
    """The results of a call some of whose inputs require grad; `arrays` are views.

    `key` is that of a training step on a GPU, with its gradient, among the launch plans.
    """
    x = arguments[function.first]
    if is_step(function, arguments, x):
        arrays["return_grad"] = True
        results = memory.computed(function, arrays, key)
        return step(results, rows_axis(function, arguments), function, arguments, x)
    if function.is_loss:
        return _connected_loss(function, arguments)
    if function.kind is Kind.MAP:
        return maps.connected(function, arguments, arrays, key)
    return memory.detached(function, arguments, arrays, key)


def is_step(function: Function, arguments: Arguments, x: torch.Tensor) -> bool:
    """Whether a call is that of a training step: losses of one input, with no other result.

    The Python code of this case costs as much as a small loss.
    """
    if not function.has_one_gradient or x.dtype is torch.float16:
        return False
    if len(arguments) == 2:  # input and target alone
        return True
    return arguments.keys().isdisjoint(function.requests)


def _apply(node: type[torch.autograd.Function]) -> Callable[..., Any]:
    """The node's `apply` without the layer for torch.func, a third of its cost.

    What torch.func transforms has nodes of its own, in `second`.
    """
    apply: Callable[..., Any] = super(torch.autograd.Function, node).apply
    return apply


def _requires_grad(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


# --- losses in the graph --------------------------------------------------------------------


class Record(NamedTuple):
    """The arguments of a loss, by reference, for its second derivative.

    `versions` are those of the tensors when they were read. Arrays and lists are copied, for nobody
    would notice if they were written to. Large logits that would be freed are not referred to
    where the gradient says enough: `has_anchor`.
    """

    function: Function
    arguments: Arguments
    versions: Sequence[int | None]
    has_anchor: bool

    def call(self, grad: torch.Tensor) -> tuple[PackedCall, list[torch.Tensor]]:
        """The call and its tensors, as the nodes of `second` take them; `grad` is what is saved."""
        arguments = self.arguments
        if self.has_anchor:
            first = self.function.first
            rebuilt = rebuilt_logits.Rebuilt.apply(arguments, grad, arguments[first])
            arguments = arguments | {first: rebuilt}
        call, tensors = packed(self.function, arguments)
        call.versions = tuple(self.versions)
        # Autograd saves no tensor of inference mode.
        return call, [tensor.clone() if tensor.is_inference() else tensor for tensor in tensors]


def _recorded(function: Function, arguments: Arguments) -> tuple[Any, ...]:
    """The fields of a record, of a call whose tensors are as they are when they are read."""
    x = arguments[function.first]
    has_anchor = not x.is_leaf and rebuilt_logits.can_rebuild(function, arguments, x)
    if has_anchor:
        arguments = arguments | {function.first: rebuilt_logits.Anchor.apply(x)}
    try:
        versions: Any = [value._version for value in arguments.values()]
    except (AttributeError, RuntimeError):  # not all are tensors, or one of inference mode
        versions = versions_of(a for a in arguments.values() if isinstance(a, torch.Tensor))
        arguments = {
            name: value if isinstance(value, torch.Tensor) else copy.deepcopy(value)
            for name, value in arguments.items()
        }
    return function, arguments, versions, has_anchor


def step(
    results: tuple[Any, ...], axis: int | None, function: Function, arguments: Arguments,
    x: torch.Tensor,
) -> Any:  # fmt: skip
    """The loss in the graph of x, from the results of a call that reads x as it still is."""
    return _apply_loss(results, axis, _recorded(function, arguments), x)


def _connected_loss(function: Function, arguments: Arguments) -> Any:
    """The results of a call, of which the loss is in the graph and the others are detached."""
    leaves = {name: arguments.get(name) for name in function.inputs}
    needed = tuple(name for name, leaf in leaves.items() if _requires_grad(leaf))
    requested = [n for n in function.results[1:] if function.is_requested(n, arguments)]
    if arguments.get("reduction") == "none" and len(leaves) > 1:
        return _connected_later(function, arguments, bool(requested))
    if _waits_for_factor(function, arguments):
        return _connected_later(function, arguments, False)
    record = _recorded(function, without_requests(function, arguments))
    others: list[Any] = []
    is_returned = False
    # Computed apart from the other results: gradients of float16, which would be 0 before the
    # factor by which AMP keeps them from that; where buffers are added to; and where the caller
    # chooses other parts. First, for a buffer may lie over the input.
    grad_requested = "grad" in requested
    separate = arguments.get("accumulate") or grad_requested and "wrt" in arguments
    if separate or any(map(is_float16, leaves.values())):
        alone = without_half(function, without_requests(function, arguments))
        loss, grads = memory.detached(function, with_gradients(function, alone, needed))
        if requested:
            others = list(memory.detached(function, arguments)[1:])
    elif grad_requested:
        loss, grads, *others = memory.detached(function, arguments | {"return_grad": True})
        others, is_returned = [grads, *others], True  # the caller may write to it
    else:
        call = with_gradients(function, arguments, needed)
        loss, grads, *others = memory.detached(function, call)
    pairs = zip(views.parts(grads), leaves.values(), strict=True)
    saved = [grad if _requires_grad(leaf) else None for grad, leaf in pairs]
    if is_returned:
        saved = [None if grad is None else grad.clone() for grad in saved]
    loss = _apply_loss((loss, *saved), rows_axis(function, arguments), record, *leaves.values())
    return (loss, *others) if others else loss


class _Loss(torch.autograd.Function):  # type: ignore[misc]
    """A loss with its gradients, saved until it has been differentiated."""

    @staticmethod
    def forward(
        ctx: Any, results: tuple[Any, ...], axis: int | None, record: tuple[Any, ...], *leaves: Any
    ) -> Any:
        # In a tuple, for autograd makes a view of an argument that is returned.
        loss, *grads = map(memory.tensor_of, results)
        ctx.save_for_backward(*grads)
        # The record is referred to, not saved: what is written to the logits is of no concern to
        # `backward`. Whether hooks see what is saved: then it is theirs.
        ctx.saved_call = axis, _hooks(True) is None, record
        return loss

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        (axis, is_owned, record), saved = ctx.saved_call, ctx.saved_tensors
        if torch.is_grad_enabled():
            ctx.saved_call = axis, False, record  # the second derivative reads what is saved
            return None, None, None, *_differentiable(Record(*record), up, saved)
        is_retained = _graph_is_retained()
        if not is_retained:
            ctx.saved_call = None
        factor = up if axis is None else up.unsqueeze(axis)
        # A batch of factors, whose values cannot be read, or a factor with a tangent.
        if _is_batch(up) or memory.is_transforming() or _may_have_tangents():
            grads = [None if g is None else masked_product(g, factor) for g in saved]
            return None, None, None, *grads
        in_place = is_owned and not is_retained
        # Autograd converts them to their inputs' types.
        if len(saved) == 1:
            return None, None, None, product(saved[0], factor, in_place)
        grads = [None if g is None else product(g, factor, in_place) for g in saved]
        return None, None, None, *grads


_apply_loss = _apply(_Loss)
# Looked up in every backward, which is why they have names here.
_is_batch, _may_have_tangents = second.is_batch, refusals.may_have_tangents

# Used by PyTorch's own modules, though not public; where one is gone, gradients are copied: whether
# another `backward` may come, and whether hooks keep or replace saved tensors.
_graph_is_retained = getattr(
    torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True
)  # fmt: skip
_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: True)


def _differentiable(record: Record, up: torch.Tensor, saved: tuple[Any, ...]) -> list[Any]:
    """The gradients of all inputs, in the graph of a second derivative."""
    call, tensors = record.call(saved[0])
    inputs = call.function.inputs
    wrt = tuple(name for name, grad in zip(inputs, saved, strict=True) if grad is not None)
    made = [grad for grad in saved if grad is not None]
    of = second.Derivative(wrt, made=made)
    gradients_by_up = second.for_each_in_batch(
        [up], lambda up: second.Gradient.apply(call, of, up, *tensors)
    )
    named = dict(zip(wrt, gradients_by_up, strict=True))
    return [named.get(name) for name in inputs]


def _waits_for_factor(function: Function, arguments: Arguments) -> bool:
    """Whether the gradient is that of float16 logits: alone, on the CPU.

    A gradient that is 0 in float16 need not be 0 times the factor by which AMP keeps it from that.
    """
    x = arguments[function.first]
    if not function.has_one_gradient or not is_float16(x) or memory.is_on_gpu(x):
        return False
    by_element = arguments.get("reduction") == "none" and not function.has_rows
    return not by_element and arguments.keys().isdisjoint(function.requests)


def _connected_later(function: Function, arguments: Arguments, requested: bool) -> Any:
    """The results of a call whose gradients `backward` makes, when it knows those of the losses.

    Gradients of a linear map, which are sums over losses by row; and those of `_waits_for_factor`.
    """
    result = memory.detached(function, arguments)
    loss, *others = result if requested else (result,)
    call, tensors = packed(function, without_requests(function, arguments))
    # Copied, for nobody would notice if arrays or lists were written to before `backward`.
    call.fixed = {name: copy.deepcopy(value) for name, value in call.fixed.items()}
    loss = _apply_later([loss], call, *tensors)
    return (loss, *others) if others else loss


class _Later(torch.autograd.Function):  # type: ignore[misc]
    """A loss, or losses by row, whose gradients are made in `backward`."""

    @staticmethod
    def forward(ctx: Any, result: list[Any], call: PackedCall, *tensors: Any) -> Any:
        ctx.save_for_backward(*tensors)
        ctx.call = call
        return result.pop()

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        call, tensors = ctx.call, ctx.saved_tensors
        needed = call.inputs_where(ctx.needs_input_grad[2:])

        def made(up: Any) -> Any:
            if torch.is_grad_enabled():
                return second.Gradient.apply(call, second.Derivative(needed), up, *tensors)
            how = call.function, call.arguments(tensors), up, needed
            if torch.compiler.is_dynamo_compiling():  # this backward, by compiled autograd
                from fastxent.arrays.torch.outside import outside

                return outside(gradients, *how)
            return gradients(*how)

        by_name = dict(zip(needed, second.for_each_in_batch([up], made), strict=True))
        return None, None, *(by_name.get(name) for name in call.names)


_apply_later = _apply(_Later)
