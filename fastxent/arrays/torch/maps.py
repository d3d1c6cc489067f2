"""softmax, log_softmax, logsumexp and entropy in autograd's graph and within transforms.

Their gradients are composed of PyTorch's own operations, so they have derivatives of any order.
"""

from collections.abc import Callable
from typing import Any

import torch

from fastxent import errors
from fastxent.arrays.torch import memory
from fastxent.arrays.torch.batches import in_front, versions_of, written
from fastxent.arrays.torch.gradients import run, without_half
from fastxent.functions import ENTROPY, LOG_SOFTMAX, LOGSUMEXP, SOFTMAX, Arguments, Function
from fastxent.results import Extent


def connected(function: Function, arguments: Arguments, arrays: Arguments, key: Any = None) -> Any:
    """Compute an eager call whose input requires grad; `arrays` are views."""
    x = arguments[function.first]
    axis = int(arguments.get("axis", -1))
    if function is ENTROPY:
        return _connected_entropy(arguments, axis, x)
    if arguments.get("out") is not None:
        raise errors.out_in_graph()
    out = memory.detached(function, arguments, arrays, key)
    return _apply_map([out], function, axis, bool(arguments.get("keepdims")), x)


def _connected_entropy(arguments: Arguments, axis: int, x: torch.Tensor) -> Any:
    """Compute the entropy with a graph, and its gradient without.

    The gradient for the graph is computed first, because the caller's buffer may be x.
    """
    separate = without_half(ENTROPY, {ENTROPY.first: x, "axis": arguments.get("axis", -1)})
    result, grad = memory.detached(ENTROPY, separate | {"return_grad": True})
    requested = ENTROPY.is_requested("grad", arguments)
    theirs = memory.detached(ENTROPY, arguments)[1] if requested else None
    entropy = _apply_entropy([result, grad], axis, x)
    return (entropy, theirs) if requested else entropy


class _Map(torch.autograd.Function):  # type: ignore[misc]
    """softmax, log_softmax or logsumexp; saves the tensor that its derivative is computed from."""

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
        function, axis, keepdims = ctx.call
        (saved,) = ctx.saved_tensors
        return None, None, None, None, map_gradient(function, axis, keepdims, up, saved)


class _Entropy(torch.autograd.Function):  # type: ignore[misc]
    """Entropy, with its gradient saved for `backward`."""

    @staticmethod
    def forward(ctx: Any, results: list[Any], axis: int, x: Any) -> Any:
        entropy, grad = results
        ctx.save_for_backward(grad)
        ctx.axis, ctx.x, ctx.versions = axis, x, versions_of([x])
        return entropy

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        if torch.is_grad_enabled():
            written(["logits"], [ctx.x], ctx.versions)
            return None, None, map_gradient(ENTROPY, ctx.axis, False, up, ctx.x)
        (grad,) = ctx.saved_tensors
        return None, None, grad * up.unsqueeze(ctx.axis)


# Without the layer for torch.func, which is a third of the cost of `apply`.
_apply_map: Callable[..., Any] = super(torch.autograd.Function, _Map).apply
_apply_entropy: Callable[..., Any] = super(torch.autograd.Function, _Entropy).apply


def saves_result(function: Function) -> bool:
    """Whether the derivative is computed from the result, rather than from the input."""
    return function.result("out").extent is Extent.PER_CLASS


def map_gradient(function: Function, axis: int, keepdims: bool, up: Any, saved: Any) -> Any:
    """Compute the gradient by the input, for half precision in float32.

    Autograd converts it to the input's type.
    """
    if not saves_result(function) and not keepdims:
        up = up.unsqueeze(axis)
    return _GRADIENTS[function](_widened(up), _widened(saved), axis)


def _widened(tensor: Any) -> Any:
    """Convert half precision to float32 for differences of sums, and integers to float64."""
    if not tensor.is_floating_point():
        return tensor.double()
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if half else tensor


def _entropy_gradient(x: torch.Tensor, axis: int) -> torch.Tensor:
    """p·(d - Σ p·d) with d = m - x, which equals -p·(log p + H); 0 where p = 0."""
    p = torch.softmax(x, axis)
    d = (x.detach().amax(axis, keepdim=True) - x).masked_fill(p == 0, 0.0)
    return p * (d - (p * d).sum(axis, keepdim=True))


_GRADIENTS: dict[Function, Callable[[Any, Any, int], Any]] = {
    # p·(g - Σ p·g)
    SOFTMAX: lambda up, p, axis: p * (up - (p * up).sum(axis, keepdim=True)),
    # g - p·Σ g
    LOG_SOFTMAX: lambda up, log_p, axis: up - log_p.exp() * up.sum(axis, keepdim=True),
    # g·p from x: exp of the rounded result would turn its absolute error into a relative one.
    LOGSUMEXP: lambda up, x, axis: up * torch.softmax(x, axis),
    ENTROPY: lambda up, x, axis: up * _entropy_gradient(x, axis),
}
# The derivative along t. Only the Jacobian of log_softmax is not symmetric.
_TANGENTS: dict[Function, Callable[[Any, Any, int], Any]] = {
    SOFTMAX: _GRADIENTS[SOFTMAX],
    LOG_SOFTMAX: lambda t, log_p, axis: t - (log_p.exp() * t).sum(axis, keepdim=True),
    LOGSUMEXP: lambda t, x, axis: (torch.softmax(x, axis) * t).sum(axis, keepdim=True),
    ENTROPY: lambda t, x, axis: (_entropy_gradient(x, axis) * t).sum(axis, keepdim=True),
}


# --- within transforms and in forward mode --------------------------------------------------


def call(function: Function, arguments: Arguments) -> Any:
    """Compute a call whose input is transformed or has a tangent."""
    x = arguments[function.first]
    rest = {name: value for name, value in arguments.items() if name != function.first}
    if function is not ENTROPY or not rest.pop("return_grad", False):
        return Map.apply(function, rest, x)
    entropy = Map.apply(function, rest, x)
    grad = _entropy_gradient(_widened(x.detach()), int(rest.get("axis", -1)))
    return entropy, grad.detach().to(x.dtype)


class Map(torch.autograd.Function):  # type: ignore[misc]
    """A node for a call of one of these functions."""

    @staticmethod
    def forward(function: Function, options: Arguments, x: torch.Tensor) -> torch.Tensor:
        """Compute the result."""
        out: torch.Tensor = run(function, {function.first: x, **options})
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save the tensor that the derivative is computed from."""
        ctx.function, ctx.options, x = inputs
        saved = output if saves_result(ctx.function) else x
        ctx.save_for_backward(saved)
        ctx.save_for_forward(saved)

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        """Compute the gradient by differentiable operations."""
        (saved,) = ctx.saved_tensors
        axis, keepdims = ctx.options.get("axis", -1), ctx.options.get("keepdims", False)
        return None, None, map_gradient(ctx.function, axis, keepdims, up, saved)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Compute the derivative along a tangent, by differentiable operations."""
        (saved,) = ctx.saved_tensors
        axis, keepdims = ctx.options.get("axis", -1), ctx.options.get("keepdims", False)
        slope = _TANGENTS[ctx.function](_widened(tangents[2]), _widened(saved), axis)
        if saves_result(ctx.function):
            return slope.to(saved.dtype)
        kind = _widened(saved).dtype if ctx.function is ENTROPY else saved.dtype
        return (slope if keepdims else slope.squeeze(axis)).to(kind)

    @staticmethod
    def vmap(info: Any, dims: Any, function: Function, options: Arguments, x: Any) -> Any:
        """Make one call with a batch axis in front."""
        x, axis = in_front(x, dims[2], info.batch_size), options.get("axis", -1)
        rank = x.ndim - 1
        if type(axis) is not int or not -rank <= axis < rank:  # the call raises
            return Map.apply(function, options, x[0]), None
        return Map.apply(function, options | {"axis": axis % rank + 1}, x), 0
