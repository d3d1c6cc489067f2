"""PyTorch tensors on the CPU: their memory as NumPy sees it, and their place in autograd's graph.

Where a tensor requires grad, a loss makes its gradient with itself and holds it until `backward`,
which multiplies it by what comes from above. So nothing is computed twice, and the graph holds one
array shaped as the input, as it would hold the probabilities otherwise.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.autograd import forward_ad

from fastxent.arrays import views

Function = Callable[..., Any]
Given = dict[str, Any]

# The parameters that a gradient flows to, where it is not the first one alone.
_INPUTS = {"linear_cross_entropy": ("x", "linear_weight", "linear_bias")}
_EXTRAS = ("grad", "probs", "lse", "hess", "argmax")


def call(function: Function, *args: Any, **kwargs: Any) -> Any:
    """Call `function` on NumPy's views of the tensors; give back tensors, maybe in the graph."""
    given = views.named(function, args, kwargs)
    if given is None:
        return function(*args, **kwargs)
    first = views.positional(function)[0]
    inputs = _INPUTS.get(function.__name__, (first,))
    _check(given, inputs)
    if torch.is_grad_enabled() and any(_requires_grad(given.get(name)) for name in inputs):
        if function.__name__ in _GRADIENTS:
            return _connected_map(function, given, given[first])
        return _connected_loss(function, given, inputs)
    return _detached(function, given)


# --- what may come --------------------------------------------------------------------------


def _requires_grad(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _check(given: Given, inputs: tuple[str, ...]) -> None:
    """No tensor from elsewhere, and no gradient asked for that would be dropped in silence."""
    for name, value in given.items():
        if name in views.BUFFERS:
            _check_buffer(name, value)
        elif isinstance(value, torch.Tensor):
            _check_memory(name, value)
            if value.requires_grad and name not in inputs:
                raise TypeError(f"{name} must not require grad: no gradient flows to it; detach it")


def _check_memory(name: str, tensor: torch.Tensor) -> None:
    if tensor.device.type != "cpu":
        raise TypeError(f"{name} is on {tensor.device}, expected a tensor in host memory here")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {tensor.layout}")
    if forward_ad.unpack_dual(tensor).tangent is not None:
        raise TypeError(f"{name} must have no tangent: there is no derivative in forward mode")


def _check_buffer(name: str, value: Any) -> None:
    for part in views.parts(value):
        if isinstance(part, torch.Tensor):
            _check_memory(name, part)
            if part.requires_grad:
                raise ValueError(f"{name} must not require grad")
        elif part is not None:
            raise ValueError(f"{name} must be a torch.Tensor, got {type(part).__name__}")


# --- memory ---------------------------------------------------------------------------------


def _bfloat16() -> Any:
    try:
        import ml_dtypes
    except ImportError:
        raise TypeError(
            "tensors of bfloat16 need the package ml_dtypes, for NumPy has no such type: "
            "pip install 'fastxent[torch]'"
        ) from None
    return np.dtype(ml_dtypes.bfloat16)


def _view(tensor: torch.Tensor) -> Any:
    """The tensor's memory as a NumPy array."""
    tensor = tensor.detach()
    try:
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(_bfloat16())
        return tensor.numpy()
    except RuntimeError as error:
        raise TypeError(
            f"a tensor must have memory that can be read, not as inside torch.func: {error}"
        ) from error


def _tensor(array: Any) -> torch.Tensor:
    """NumPy's result as a tensor over the same memory; a number as one without dimensions."""
    array = np.asarray(array)
    if array.dtype.kind == "V":  # bfloat16, which NumPy does not know; asking for a name is slow
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _detached(function: Function, given: Given) -> Any:
    """The results of a call as tensors apart from any graph."""
    result = views.call(function, given, torch.Tensor, _view, _tensor)
    for name in views.BUFFERS:
        for part in views.parts(given.get(name)):
            if part is not None and not part.is_inference():
                torch.autograd.graph.increment_version(part)  # written to: autograd must know
    return result


def _first_derivative_only() -> None:
    """Refuse a graph of the gradient: in it, what depends on the input by way of us is missing.

    `once_differentiable` says nothing where such a gradient is one of several parts of a loss.
    """
    if torch.is_grad_enabled():
        raise RuntimeError("fastxent's functions have no second derivative (create_graph=True)")


# --- losses in the graph --------------------------------------------------------------------


def _connected_loss(function: Function, given: Given, inputs: tuple[str, ...]) -> Any:
    """The results of a call, of which the loss is in the graph and the rest apart from it."""
    asked = [name for name in _EXTRAS if _is_asked(given, name)]
    by_row = given.get("reduction") == "none"
    if by_row and len(inputs) > 1:
        return _connected_rows(function, given, inputs, bool(asked))
    others: list[Any] = []
    shared = False
    # Made apart from what is asked for: of float16, whose gradient would be 0 before the factor
    # comes by which AMP keeps it from that, and where buffers hold something already. First, for
    # a buffer may lie over the input.
    if not asked or given.get("accumulate") or any(_is_float16(given.get(n)) for n in inputs):
        loss, grads = _detached(function, _without_extras(given, inputs) | {"return_grad": True})
        if asked or given.get("accumulate"):
            others = list(_detached(function, given)[1:])
    else:
        loss, grads, *others = _detached(function, given | {"return_grad": True})
        if asked[0] == "grad":
            others, shared = [grads, *others], True  # the caller may write to it
    by_element = function.__name__.startswith("binary")
    axis = int(given.get("axis", -1)) if by_row and not by_element else None
    leaves = [given.get(name) for name in inputs]
    pairs = zip(views.parts(grads), leaves, strict=True)
    held = [grad if _requires_grad(leaf) else None for grad, leaf in pairs]
    if shared:
        held = [None if grad is None else grad.clone() for grad in held]
    loss = _Loss.apply([loss], held, axis, *leaves)
    return (loss, *others) if others else loss


def _is_asked(given: Given, name: str) -> bool:
    return bool(given.get(f"return_{name}")) or given.get(f"{name}_out") is not None


def _is_float16(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float16


def _without_extras(given: Given, inputs: tuple[str, ...]) -> Given:
    """The arguments but for what is asked for besides the loss; float16 inputs as float32."""
    extras = {"grad_out", "probs_out", "accumulate", *(f"return_{name}" for name in _EXTRAS)}
    left = {name: value for name, value in given.items() if name not in extras}
    for name in inputs:
        if _is_float16(left.get(name)):
            left[name] = left[name].detach().float()
    return left


class _Loss(torch.autograd.Function):  # type: ignore[misc]
    """A loss that holds the gradients made with it, until it has been differentiated."""

    @staticmethod
    def forward(ctx: Any, made: list[Any], held: Any, axis: int | None, *leaves: Any) -> Any:
        ctx.save_for_backward(*held)
        ctx.axis = axis
        ctx.dtypes = [leaf.dtype if isinstance(leaf, torch.Tensor) else None for leaf in leaves]
        return made.pop()  # in a list, for autograd makes a view of an argument that is returned

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        _first_derivative_only()
        factor = up if ctx.axis is None else up.unsqueeze(ctx.axis)
        # Always a new tensor: who gets it may write to it, and what is held may be asked for again.
        pairs = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        grads = (None if grad is None else (grad * factor).to(dtype) for grad, dtype in pairs)
        return None, None, None, *grads


def _connected_rows(function: Function, given: Given, inputs: tuple[str, ...], asked: bool) -> Any:
    """Losses by row of a linear map, whose gradients are sums over rows: they are made later."""
    result = _detached(function, given)
    loss, *others = result if asked else (result,)
    rest = _without_extras(given, ())
    tensors = {name: value for name, value in rest.items() if isinstance(value, torch.Tensor)}
    # Arrays are copied, for nobody would notice if they were written to before `backward`.
    fixed = {
        name: value.copy() if isinstance(value, np.ndarray) else value
        for name, value in rest.items()
        if name not in tensors
    }
    loss = _Rows.apply([loss], function, fixed, inputs, tuple(tensors), *tensors.values())
    return (loss, *others) if others else loss


class _Rows(torch.autograd.Function):  # type: ignore[misc]
    """Losses by row, which are computed anew as a sum weighted by the gradient from above."""

    @staticmethod
    def forward(
        ctx: Any, made: list[Any], function: Function, fixed: Given, inputs: Any, names: Any,
        *tensors: Any,
    ) -> Any:  # fmt: skip
        ctx.save_for_backward(*tensors)
        ctx.again = function, fixed, inputs, names
        return made.pop()

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        _first_derivative_only()
        function, fixed, inputs, names = ctx.again
        given = fixed | dict(zip(names, ctx.saved_tensors, strict=True))
        weight, own = up.double(), given.get("sample_weight")
        if own is not None:
            own = own if isinstance(own, torch.Tensor) else torch.from_numpy(np.array(own, float))
            weight = weight * own
        given |= {"sample_weight": weight, "reduction": "sum", "return_grad": True}
        grads = dict(zip(inputs, _detached(function, given)[1], strict=True))
        needed = zip(names, ctx.needs_input_grad[5:], strict=True)
        parts = (grads[name] if asked else None for name, asked in needed)
        return None, None, None, None, None, *parts


# --- softmax and its logarithms in the graph ------------------------------------------------


def _connected_map(function: Function, given: Given, x: torch.Tensor) -> Any:
    if given.get("out") is not None:
        raise ValueError("out must be None where logits require grad")
    out = _detached(function, given)
    axis, keepdims = int(given.get("axis", -1)), bool(given.get("keepdims"))
    return _Map.apply([out], function.__name__, axis, keepdims, x)


class _Map(torch.autograd.Function):  # type: ignore[misc]
    """Softmax, log-softmax or logsumexp, with what the probabilities come from."""

    @staticmethod
    def forward(ctx: Any, made: list[Any], name: str, axis: int, keepdims: bool, x: Any) -> Any:
        out = made.pop()
        ctx.name, ctx.axis, ctx.keepdims, ctx.dtype = name, axis, keepdims, x.dtype
        ctx.save_for_backward(x if name == "logsumexp" else out)
        return out

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        _first_derivative_only()
        (saved,), up = ctx.saved_tensors, _wide(up)
        if ctx.name == "logsumexp" and not ctx.keepdims:
            up = up.unsqueeze(ctx.axis)
        grad = _GRADIENTS[ctx.name](up, _wide(saved), ctx.axis)
        return None, None, None, None, grad.to(ctx.dtype)


def _wide(tensor: Any) -> Any:
    """Half precision as float32: what is a difference of sums is computed there."""
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if half else tensor


def _softmax_gradient(up: Any, p: Any, axis: int) -> Any:
    """p·(g - Σ p·g)."""
    return p * (up - (p * up).sum(axis, keepdim=True))


def _log_softmax_gradient(up: Any, log_p: Any, axis: int) -> Any:
    """g - p·Σ g."""
    return up - log_p.exp() * up.sum(axis, keepdim=True)


def _logsumexp_gradient(up: Any, x: Any, axis: int) -> Any:
    """g·p, of x: the result has been rounded, and exp would make that a factor."""
    return up * torch.softmax(x, axis)


_GRADIENTS = {
    "softmax": _softmax_gradient,
    "log_softmax": _log_softmax_gradient,
    "logsumexp": _logsumexp_gradient,
}
