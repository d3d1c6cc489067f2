"""Autograd nodes of eager calls: for losses, and for losses whose gradient is computed later.

If a tensor requires grad, a loss computes its gradient in the forward pass and saves it for
`backward`, which multiplies it by the gradient of the loss. Nothing is computed twice, and the
graph saves one array shaped as the input, instead of the probabilities. If the graph is not
retained, `backward` returns that array itself, so a training step allocates no other. If the
gradient cannot be multiplied afterwards, `backward` computes it from the inputs. With
create_graph=True `backward` uses the nodes of `second`.
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
    """Compute a call with inputs that require grad; `arrays` are views.

    `key` is the key of the launch plan of a training step on a GPU.
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
    """Whether a call is a plain training step: a loss of one input, with no other result.

    This case has a fast path, because its Python code costs as much as a small loss.
    """
    if not function.has_one_gradient or x.dtype is torch.float16:
        return False
    if len(arguments) == 2:  # input and target only
        return True
    return arguments.keys().isdisjoint(function.requests)


def _apply(node: type[torch.autograd.Function]) -> Callable[..., Any]:
    """The node's `apply` without the layer for torch.func, which is a third of its cost.

    Calls within torch.func use the nodes of `second`.
    """
    apply: Callable[..., Any] = super(torch.autograd.Function, node).apply
    return apply


def _requires_grad(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


# --- losses in the graph --------------------------------------------------------------------


class Record(NamedTuple):
    """The arguments of a loss, by reference, for its second derivative.

    `versions` are the versions of the tensors when they were read. Arrays and lists are copied,
    because writes to them could not be detected. With `has_anchor` the logits are not referenced:
    they are large, would otherwise be freed, and can be rebuilt from the gradient.
    """

    function: Function
    arguments: Arguments
    versions: Sequence[int | None]
    has_anchor: bool

    def call(self, grad: torch.Tensor) -> tuple[PackedCall, list[torch.Tensor]]:
        """The call and its tensors for the nodes of `second`; `grad` is the saved gradient."""
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
    """The fields of a `Record`; called before any tensor of the call is written to."""
    x = arguments[function.first]
    has_anchor = not x.is_leaf and rebuilt_logits.can_rebuild(function, arguments, x)
    if has_anchor:
        arguments = arguments | {function.first: rebuilt_logits.Anchor.apply(x)}
    try:
        versions: Any = [value._version for value in arguments.values()]
    except (AttributeError, RuntimeError):  # not all are tensors, or one is of inference mode
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
    """The loss in the graph of x, from the results of a call; x has not been written to since."""
    return _apply_loss(results, axis, _recorded(function, arguments), x)


def _connected_loss(function: Function, arguments: Arguments) -> Any:
    """Compute a call; the loss is in the graph, the other results are detached."""
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
    # The gradient for the graph is computed by a separate call if it is float16 (it would underflow
    # before AMP's loss scale is applied), if buffers accumulate, or if the caller requests other
    # parts. It is computed first, because a buffer may be the input.
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
    """A loss that saves its gradients for `backward`."""

    @staticmethod
    def forward(
        ctx: Any, results: tuple[Any, ...], axis: int | None, record: tuple[Any, ...], *leaves: Any
    ) -> Any:
        # Passed in a tuple, because autograd makes a view of an argument that is returned.
        loss, *grads = map(memory.tensor_of, results)
        ctx.save_for_backward(*grads)
        # The record is an attribute, not saved: `backward` need not fail if the logits were written
        # to. If saved-tensor hooks are active, they may own the saved gradient.
        ctx.saved_call = axis, _hooks(True) is None, record
        return loss

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        (axis, is_owned, record), saved = ctx.saved_call, ctx.saved_tensors
        if torch.is_grad_enabled():
            ctx.saved_call = axis, False, record  # the second derivative reads the saved gradient
            return None, None, None, *_differentiable(Record(*record), up, saved)
        is_retained = _graph_is_retained()
        if not is_retained:
            ctx.saved_call = None
        factor = up if axis is None else up.unsqueeze(axis)
        # For a batch of factors, whose values cannot be read, or a factor with a tangent.
        if _is_batch(up) or memory.is_transforming() or _may_have_tangents():
            grads = [None if g is None else masked_product(g, factor) for g in saved]
            return None, None, None, *grads
        in_place = is_owned and not is_retained
        # Autograd converts gradients to the types of the inputs.
        if len(saved) == 1:
            return None, None, None, product(saved[0], factor, in_place)
        grads = [None if g is None else product(g, factor, in_place) for g in saved]
        return None, None, None, *grads


_apply_loss = _apply(_Loss)
# Module-level names, because they are looked up in every backward.
_is_batch, _may_have_tangents = second.is_batch, refusals.may_have_tangents

# Whether the graph is retained for another `backward`, and the active saved-tensor hooks. They are
# not public, but used by PyTorch's own modules. If one is missing, gradients are copied.
_graph_is_retained = getattr(
    torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True
)  # fmt: skip
_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: True)


def _differentiable(record: Record, up: torch.Tensor, saved: tuple[Any, ...]) -> list[Any]:
    """The gradients of all inputs, in the graph for a second derivative."""
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
    """Whether the gradient of float16 logits on the CPU is computed in `backward`.

    It could underflow before it is multiplied by AMP's loss scale.
    """
    x = arguments[function.first]
    if not function.has_one_gradient or not is_float16(x) or memory.is_on_gpu(x):
        return False
    by_element = arguments.get("reduction") == "none" and not function.has_rows
    return not by_element and arguments.keys().isdisjoint(function.requests)


def _connected_later(function: Function, arguments: Arguments, requested: bool) -> Any:
    """Compute a call whose gradients are computed in `backward`.

    These are the gradients of unreduced losses of a linear map, which are sums over rows, and those
    of `_waits_for_factor`.
    """
    result = memory.detached(function, arguments)
    loss, *others = result if requested else (result,)
    call, tensors = packed(function, without_requests(function, arguments))
    # Copied, because writes to arrays or lists before `backward` could not be detected.
    call.fixed = {name: copy.deepcopy(value) for name, value in call.fixed.items()}
    loss = _apply_later([loss], call, *tensors)
    return (loss, *others) if others else loss


class _Later(torch.autograd.Function):  # type: ignore[misc]
    """A loss, or losses by row, whose gradients are computed in `backward`."""

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
            if torch.compiler.is_dynamo_compiling():  # compiled autograd traces this backward
                from fastxent.arrays.torch.outside import outside

                return outside(gradients, *how)
            return gradients(*how)

        by_name = dict(zip(needed, second.for_each_in_batch([up], made), strict=True))
        return None, None, *(by_name.get(name) for name in call.names)


_apply_later = _apply(_Later)
