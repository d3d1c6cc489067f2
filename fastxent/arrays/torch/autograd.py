"""The functions in autograd's graph: one node each for losses, losses by row, and softmax.

Where a tensor requires grad, a loss makes its gradient in the forward pass and saves it for
`backward`, which multiplies it by the gradient of the loss. Nothing is computed twice, and the
graph saves one array shaped as the input, as it would save the probabilities otherwise. A graph
that is not retained returns that very array, so that a training step allocates no other. Where the
gradient cannot be multiplied afterwards, `backward` makes it, from the inputs.
"""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from fastxent import errors
from fastxent.arrays import views
from fastxent.arrays.torch import memory
from fastxent.functions import LOG_SOFTMAX, LOGSUMEXP, SOFTMAX, Arguments, Function
from fastxent.results import Extent


def connected(function: Function, arguments: Arguments, arrays: Arguments, key: Any = None) -> Any:
    """The results of a call some of whose inputs require grad; `arrays` are views.

    `key` is that of a training step on a GPU, with its gradient, among the launch plans.
    """
    x = arguments[function.first]
    if is_step(function, arguments, x):
        arrays["return_grad"] = True
        results = memory.computed(function, arrays, key)
        return apply_loss(results, rows_axis(function, arguments), x)
    if function.is_loss:
        return _connected_loss(function, arguments)
    if arguments.get("out") is not None:
        raise errors.out_in_graph()
    out = memory.detached(function, arguments, arrays, key)
    keepdims = bool(arguments.get("keepdims"))
    return _apply_map([out], function, int(arguments.get("axis", -1)), keepdims, x)


def is_step(function: Function, arguments: Arguments, x: torch.Tensor) -> bool:
    """Whether a call is that of a training step: losses of one input, with no other result.

    The Python code of this case costs as much as a small loss.
    """
    if not function.has_one_gradient or x.dtype is torch.float16:
        return False
    if len(arguments) == 2:  # input and target alone
        return True
    return arguments.keys().isdisjoint(function.requests)


def first_derivative_only() -> None:
    """Refuse a graph of the gradient: in it, what depends on the input by way of us is missing.

    `once_differentiable` says nothing where such a gradient is one of several parts of a loss.
    """
    if torch.is_grad_enabled():
        raise errors.no_second_derivative()


def _apply(node: type[torch.autograd.Function]) -> Callable[..., Any]:
    """The node's `apply` without the layer for torch.func, a third of its cost.

    What torch.func transforms is refused before, for it has no memory to read.
    """
    apply: Callable[..., Any] = super(torch.autograd.Function, node).apply
    return apply


def _requires_grad(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


# --- losses in the graph --------------------------------------------------------------------


def _connected_loss(function: Function, arguments: Arguments) -> Any:
    """The results of a call, of which the loss is in the graph and the others are detached."""
    leaves = {name: arguments.get(name) for name in function.inputs}
    needed = tuple(name for name, leaf in leaves.items() if _requires_grad(leaf))
    requested = [n for n in function.results[1:] if function.is_requested(n, arguments)]
    if arguments.get("reduction") == "none" and len(leaves) > 1:
        return _connected_later(function, arguments, bool(requested))
    if _waits_for_factor(function, arguments):
        return _connected_later(function, arguments, False)
    others: list[Any] = []
    shared = False
    # Computed apart from the other results: gradients of float16, which would be 0 before the
    # factor by which AMP keeps them from that; where buffers are added to; and where the caller
    # chooses other parts. First, for a buffer may lie over the input.
    grad_requested = "grad" in requested
    apart = arguments.get("accumulate") or grad_requested and "wrt" in arguments
    if apart or any(map(_is_float16, leaves.values())):
        alone = without_half(function, without_requests(function, arguments))
        loss, grads = memory.detached(function, with_gradients(function, alone, needed))
        if requested:
            others = list(memory.detached(function, arguments)[1:])
    elif grad_requested:
        loss, grads, *others = memory.detached(function, arguments | {"return_grad": True})
        others, shared = [grads, *others], True  # the caller may write to it
    else:
        call = with_gradients(function, arguments, needed)
        loss, grads, *others = memory.detached(function, call)
    pairs = zip(views.parts(grads), leaves.values(), strict=True)
    saved = [grad if _requires_grad(leaf) else None for grad, leaf in pairs]
    if shared:
        saved = [None if grad is None else grad.clone() for grad in saved]
    loss = apply_loss((loss, *saved), rows_axis(function, arguments), *leaves.values())
    return (loss, *others) if others else loss


def with_gradients(function: Function, arguments: Arguments, needed: tuple[str, ...]) -> Arguments:
    """The call with gradients of those of its inputs that need one."""
    requested = arguments | {"return_grad": True}
    if len(function.inputs) == 1:
        return requested
    if "wrt" in arguments:
        own = arguments["wrt"]
        if not isinstance(own, Iterable) or isinstance(own, bytes) or not (own := tuple(own)):
            return requested  # which the function refuses
        names = (arguments["wrt"],) if isinstance(arguments["wrt"], str) else own
        # Unknown names too: the function refuses them.
        needed = *needed, *(name for name in names if name not in function.inputs)
    return requested | {"wrt": needed}


def rows_axis(function: Function, arguments: Arguments) -> int | None:
    """The axis that losses lack and gradients have."""
    if "reduction" not in arguments:  # as in a small call
        return None
    if arguments["reduction"] != "none" or not function.has_rows:
        return None
    return int(arguments.get("axis", -1))


def _is_float16(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float16


def without_requests(function: Function, arguments: Arguments) -> Arguments:
    """The arguments of a call that returns the loss alone."""
    return {name: value for name, value in arguments.items() if name not in function.requests}


def without_half(function: Function, arguments: Arguments) -> Arguments:
    """The arguments with float16 inputs as float32."""
    half = [name for name in function.inputs if _is_float16(arguments.get(name))]
    return arguments | {name: arguments[name].detach().float() for name in half}


class _Loss(torch.autograd.Function):  # type: ignore[misc]
    """A loss with its gradients, saved until it has been differentiated."""

    @staticmethod
    def forward(ctx: Any, results: tuple[Any, ...], axis: int | None, *leaves: Any) -> Any:
        # In a tuple, for autograd makes a view of an argument that is returned.
        loss, *grads = map(memory.tensor_of, results)
        ctx.save_for_backward(*grads)
        ctx.axis, ctx.owned = axis, not _is_packed()
        return loss

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        first_derivative_only()
        axis, saved = ctx.axis, ctx.saved_tensors
        factor = up if axis is None else up.unsqueeze(axis)
        # A batch of factors, whose values cannot be read.
        if _is_batch(up) or memory.is_transforming():
            return None, None, *[None if g is None else masked_product(g, factor) for g in saved]
        in_place = ctx.owned and not _graph_is_retained()
        # Autograd converts them to their inputs' types.
        if len(saved) == 1:
            return None, None, _product(saved[0], factor, in_place)
        return None, None, *[None if g is None else _product(g, factor, in_place) for g in saved]


apply_loss = _apply(_Loss)

# Used by PyTorch's own modules, though not public; where one is gone, gradients are copied: whether
# another `backward` may come, whether hooks keep or replace saved tensors, and whether `backward`
# runs for a batch of factors at once.
_graph_is_retained = getattr(
    torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True
)  # fmt: skip
_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: True)
_is_batch = getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda _: True)


def _is_packed() -> bool:
    """Whether hooks see what is saved."""
    return _hooks(True) is not None


def _product(grad: Any, factor: Any, in_place: bool) -> Any:
    """A saved gradient times the gradient of its loss.

    In new memory unless `in_place`: the receiver may write to it, and `backward` may run again.
    """
    if memory.is_on_gpu(grad):  # where reading the factor would wait
        if factor.ndim:
            return masked_product(grad, factor)
        return memory.gpu().scaled(grad, factor, in_place)
    # A sum that is finite has finite terms: one operation instead of the several of a test of each.
    number = factor.sum().item() if factor.ndim else factor.item()
    if not math.isfinite(number):
        return masked_product(grad, factor)
    if not in_place:
        return grad * factor
    return grad if number == 1.0 and not factor.ndim else grad.mul_(factor)


def masked_product(grad: Any, factor: Any) -> Any:
    """The same in new memory, but 0 where the gradient is 0, as in ignored rows.

    A factor of inf or nan would make these nan.
    """
    return torch.where(grad == 0, 0.0, grad * factor)


def _waits_for_factor(function: Function, arguments: Arguments) -> bool:
    """Whether the gradient is that of float16 logits: alone, on the CPU.

    A gradient that is 0 in float16 need not be 0 times the factor by which AMP keeps it from that.
    """
    x = arguments[function.first]
    if not function.has_one_gradient or not _is_float16(x) or memory.is_on_gpu(x):
        return False
    by_element = arguments.get("reduction") == "none" and not function.has_rows
    return not by_element and arguments.keys().isdisjoint(function.requests)


def _connected_later(function: Function, arguments: Arguments, requested: bool) -> Any:
    """The results of a call whose gradients `backward` makes, when it knows those of the losses.

    Gradients of a linear map, which are sums over losses by row; and those of `_waits_for_factor`.
    """
    result = memory.detached(function, arguments)
    loss, *others = result if requested else (result,)
    rest = without_requests(function, arguments)
    tensors = {name: value for name, value in rest.items() if isinstance(value, torch.Tensor)}
    # Copied, for nobody would notice if arrays or lists were written to before `backward`.
    fixed = {name: copy.deepcopy(a) for name, a in rest.items() if name not in tensors}
    loss = _apply_later([loss], function, fixed, tuple(tensors), *tensors.values())
    return (loss, *others) if others else loss


class _Later(torch.autograd.Function):  # type: ignore[misc]
    """A loss, or losses by row, whose gradients are made in `backward`."""

    @staticmethod
    def forward(
        ctx: Any, result: list[Any], function: Function, fixed: Arguments, names: Any,
        *tensors: Any,
    ) -> Any:  # fmt: skip
        ctx.save_for_backward(*tensors)
        ctx.call = function, fixed, names
        return result.pop()

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        first_derivative_only()
        function, fixed, names = ctx.call
        arguments = fixed | dict(zip(names, ctx.saved_tensors, strict=True))
        needs = dict(zip(names, ctx.needs_input_grad[4:], strict=True))
        needed = tuple(name for name in function.inputs if needs.get(name))

        def gradients(up: Any) -> list[Any]:
            if torch.compiler.is_dynamo_compiling():  # this backward, by compiled autograd
                from fastxent.arrays.torch.outside import outside

                made: list[torch.Tensor] = outside(_gradients, function, arguments, up, needed)
                return made
            return _gradients(function, arguments, up, needed)

        made = _each_of(up, gradients) if _is_batch(up) else gradients(up)
        by_name = dict(zip(needed, made, strict=True))
        return None, None, None, None, *(by_name.get(name) for name in names)


_apply_later = _apply(_Later)


def _gradients(
    function: Function, arguments: Arguments, up: torch.Tensor, needed: tuple[str, ...]
) -> list[torch.Tensor]:
    """Gradients of the needed inputs, `up` being the gradient of the loss or losses."""
    if up.ndim:  # those of a sum that is weighted by them
        call = with_gradients(function, weighted_rows(arguments, up), needed)
        _, grads = memory.detached(function, call)
        return [grad for grad in views.parts(grads) if grad is not None]
    factor = up.item()
    if factor and math.isfinite(factor):
        return [memory.scaled_gradient(function, arguments, factor)]
    call = with_gradients(function, without_half(function, arguments), needed)
    _, grad = memory.detached(function, call)
    return [masked_product(grad, up)]


def _each_of(ups: Any, gradients: Callable[[Any], list[Any]]) -> list[Any]:
    """Gradients for each of a batch of factors, as PyTorch's first vmap has a batch: a level of it.

    Its rules are those of PyTorch's own operators, so the factors are taken out one by one.
    """
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    plain = torch._remove_batch_dim(ups, level, 0, 0)
    each = zip(*map(gradients, plain), strict=True)
    return [torch._add_batch_dim(torch.stack(grads), 0, level) for grads in each]


def weighted_rows(arguments: Arguments, up: torch.Tensor) -> Arguments:
    """The call whose loss is the sum of these losses by row, each times its gradient."""
    weight, own = up.double(), arguments.get("sample_weight")
    if own is not None:
        own = own if isinstance(own, torch.Tensor) else torch.from_numpy(np.array(own, float))
        weight = torch.where(own == 0, 0.0, weight * own)  # ignored, whatever the gradient
    return arguments | {"sample_weight": weight, "reduction": "sum"}


# --- softmax and its logarithms in the graph ------------------------------------------------


class _Map(torch.autograd.Function):  # type: ignore[misc]
    """Softmax, log-softmax or logsumexp, with the tensor that its derivative is computed from."""

    @staticmethod
    def forward(
        ctx: Any, result: list[Any], function: Function, axis: int, keepdims: bool, x: Any
    ) -> Any:
        out = result.pop()
        ctx.call = function, axis, keepdims
        ctx.save_for_backward(out if saves_result(function) else x)
        return out

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        first_derivative_only()
        function, axis, keepdims = ctx.call
        (saved,) = ctx.saved_tensors
        return None, None, None, None, map_gradient(function, axis, keepdims, up, saved)


_apply_map = _apply(_Map)


def saves_result(function: Function) -> bool:
    """Whether a derivative is computed from the result; that of logsumexp from the input."""
    return function.result("out").extent is Extent.PER_CLASS


def map_gradient(function: Function, axis: int, keepdims: bool, up: Any, saved: Any) -> Any:
    """The gradient of softmax or a logarithm of it; of half precision in float32.

    Autograd converts it to its input's type.
    """
    if not saves_result(function) and not keepdims:
        up = up.unsqueeze(axis)
    return _GRADIENTS[function](_widened(up), _widened(saved), axis)


def _widened(tensor: Any) -> Any:
    """Half precision as float32, in which differences of sums are computed."""
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if half else tensor


_GRADIENTS: dict[Function, Callable[[Any, Any, int], Any]] = {
    # p·(g - Σ p·g)
    SOFTMAX: lambda up, p, axis: p * (up - (p * up).sum(axis, keepdim=True)),
    # g - p·Σ g
    LOG_SOFTMAX: lambda up, log_p, axis: up - log_p.exp() * up.sum(axis, keepdim=True),
    # g·p, of x: the result has been rounded, and exp would make that a factor.
    LOGSUMEXP: lambda up, x, axis: up * torch.softmax(x, axis),
}
