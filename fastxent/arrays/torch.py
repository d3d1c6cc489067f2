"""PyTorch tensors on the CPU: their memory as NumPy sees it, and their place in autograd's graph.

Where a tensor requires grad, a loss makes its gradient with itself and holds it until `backward`,
which multiplies it by what comes from above. So nothing is computed twice, and the graph holds one
array shaped as the input, as it would hold the probabilities otherwise.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fastxent.arrays import views
from fastxent.terms import LinearGrad

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
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _detached(function: Function, given: Given) -> Any:
    """The results of a call as tensors apart from any graph."""
    return views.call(function, given, torch.Tensor, _view, _tensor)


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
    # Made apart from what is asked for: of float16, whose gradient would be 0 before the factor
    # comes by which AMP keeps it from that, and where buffers hold something already.
    apart = given.get("accumulate") or any(_is_float16(given.get(name)) for name in inputs)
    by_row = given.get("reduction") == "none"
    if by_row and len(inputs) > 1:
        return _connected_rows(function, given, inputs, bool(asked))
    if asked and not apart:
        loss, grads, *others = _detached(function, given | {"return_grad": True})
        if asked[0] == "grad":
            others = [grads, *others]
            grads = _copied(grads)  # the caller may write to the other
    else:
        others = list(_detached(function, given)[1:]) if asked else []
        loss, grads = _detached(function, _without_extras(given, inputs) | {"return_grad": True})
    by_element = function.__name__.startswith("binary")
    axis = int(given.get("axis", -1)) if by_row and not by_element else None
    leaves = [given.get(name) for name in inputs]
    loss = _Loss.apply([loss], tuple(views.parts(grads)), axis, *leaves)
    return (loss, *others) if others else loss


def _is_asked(given: Given, name: str) -> bool:
    return bool(given.get(f"return_{name}")) or given.get(f"{name}_out") is not None


def _is_float16(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float16


def _copied(grads: Any) -> Any:
    parts = [None if part is None else part.clone() for part in views.parts(grads)]
    return LinearGrad(*parts) if isinstance(grads, LinearGrad) else parts[0]


def _without_extras(given: Given, inputs: tuple[str, ...]) -> Given:
    """The arguments but for what is asked for besides the loss; float16 inputs as float32."""
    extras = {"grad_out", "probs_out", "accumulate", *(f"return_{name}" for name in _EXTRAS)}
    left = {name: value for name, value in given.items() if name not in extras}
    for name in inputs:
        if _is_float16(left.get(name)):
            left[name] = left[name].detach().float()
    return left


class _Loss(torch.autograd.Function):  # type: ignore[misc]
    """A loss that holds the gradients made with it."""

    @staticmethod
    def forward(ctx: Any, made: list[Any], grads: Any, axis: int | None, *leaves: Any) -> Any:
        # Held as they are, not saved: what is saved comes back as another tensor over the same
        # memory, which autograd takes for the leaf's own gradient and adds the next one into.
        ctx.grads, ctx.axis = grads, axis
        ctx.dtypes = [leaf.dtype if isinstance(leaf, torch.Tensor) else None for leaf in leaves]
        return made.pop()  # in a list, for autograd makes a view of an argument that is returned

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        _first_derivative_only()
        needed = ctx.needs_input_grad[3:]
        return (
            None,
            None,
            None,
            *(
                _scaled(grad, up, ctx.axis).to(dtype) if asked else None
                for grad, dtype, asked in zip(ctx.grads, ctx.dtypes, needed, strict=True)
            ),
        )


def _scaled(grad: Any, up: Any, axis: int | None) -> Any:
    """A gradient by the one from above: a number, or with losses by row one for each of them."""
    if axis is not None:
        return grad * up.unsqueeze(axis)
    if not up.ndim and up.item() == 1.0:
        return grad
    return grad * up


def _connected_rows(function: Function, given: Given, inputs: tuple[str, ...], asked: bool) -> Any:
    """Losses by row of a linear map, whose gradients are sums over rows: they are made later."""
    result = _detached(function, given)
    loss, *others = result if asked else (result,)
    leaves = [given.get(name) for name in inputs]
    rest = _without_extras(given, ())
    rest = {name: value for name, value in rest.items() if name not in inputs}
    loss = _Rows.apply([loss], function, rest, inputs, *leaves)
    return (loss, *others) if others else loss


class _Rows(torch.autograd.Function):  # type: ignore[misc]
    """Losses by row, which are computed anew as a sum weighted by the gradient from above."""

    @staticmethod
    def forward(
        ctx: Any, made: list[Any], function: Function, rest: Given, inputs: Any, *leaves: Any
    ) -> Any:
        ctx.save_for_backward(*leaves)
        ctx.again = function, rest, inputs
        return made.pop()

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        _first_derivative_only()
        function, rest, inputs = ctx.again
        weight = up.double()
        if rest.get("sample_weight") is not None:
            weight = weight * torch.as_tensor(rest["sample_weight"])
        again = rest | dict(zip(inputs, ctx.saved_tensors, strict=True)) | {
            "sample_weight": weight, "reduction": "sum", "return_grad": True,
        }  # fmt: skip
        _, grads = _detached(function, again)
        needed = ctx.needs_input_grad[4:]
        parts = (grad if asked else None for grad, asked in zip(grads, needed, strict=True))
        return None, None, None, None, *parts


# --- softmax and its logarithms in the graph ------------------------------------------------


def _connected_map(function: Function, given: Given, x: torch.Tensor) -> Any:
    out = _detached(function, given)
    axis, keepdims = int(given.get("axis", -1)), bool(given.get("keepdims"))
    return _Map.apply([out], function.__name__, axis, keepdims, x)


class _Map(torch.autograd.Function):  # type: ignore[misc]
    """Softmax, log-softmax or logsumexp; the probabilities come from the result."""

    @staticmethod
    def forward(ctx: Any, made: list[Any], name: str, axis: int, keepdims: bool, x: Any) -> Any:
        out = made.pop()
        ctx.name, ctx.axis, ctx.keepdims, ctx.dtype = name, axis, keepdims, x.dtype
        ctx.save_for_backward(out, x if name == "logsumexp" else None)
        return out

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        _first_derivative_only()
        out, x = (_wide(tensor) for tensor in ctx.saved_tensors)
        up = _wide(up)
        if ctx.name == "logsumexp" and not ctx.keepdims:
            out, up = out.unsqueeze(ctx.axis), up.unsqueeze(ctx.axis)
        grad = _GRADIENTS[ctx.name](up, out, x, ctx.axis)
        return None, None, None, None, grad.to(ctx.dtype)


def _wide(tensor: Any) -> Any:
    """Half precision as float32: what is a difference of sums is computed there."""
    half = tensor is not None and tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if half else tensor


def _softmax_gradient(up: Any, p: Any, x: Any, axis: int) -> Any:
    """p·(g - Σ p·g)."""
    return p * (up - (p * up).sum(axis, keepdim=True))


def _log_softmax_gradient(up: Any, log_p: Any, x: Any, axis: int) -> Any:
    """g - p·Σ g."""
    return up - log_p.exp() * up.sum(axis, keepdim=True)


def _logsumexp_gradient(up: Any, lse: Any, x: Any, axis: int) -> Any:
    """g·p."""
    return up * (x - lse).exp()


_GRADIENTS = {
    "softmax": _softmax_gradient,
    "log_softmax": _log_softmax_gradient,
    "logsumexp": _logsumexp_gradient,
}
