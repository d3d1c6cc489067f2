"""PyTorch tensors on the CPU: their memory as NumPy sees it, and their place in autograd's graph.

Where a tensor requires grad, a loss makes its gradient with itself and holds it until `backward`,
which multiplies it by what comes from above. So nothing is computed twice, and the graph holds one
array shaped as the input, as it would hold the probabilities otherwise. A graph that is not kept
gives that very array away, so that a step of training makes no other.
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
_ASKING = {*(f"return_{name}" for name in _EXTRAS), *views.BUFFERS, "accumulate"}


def call(function: Function, *args: Any, **kwargs: Any) -> Any:
    """Call `function` on NumPy's views of the tensors; give back tensors, maybe in the graph."""
    given = views.named(function, args, kwargs)
    if given is None:
        return function(*args, **kwargs)
    name = function.__name__
    inputs = _INPUTS.get(name) or views.positional(function)[:1]
    arrays, connected = _read(given, inputs)
    if not connected or not torch.is_grad_enabled():
        return _detached(function, given)
    x = given[inputs[0]]
    if name in _GRADIENTS:
        return _connected_map(function, given, x)
    alone = len(inputs) == 1 and given.keys().isdisjoint(_ASKING)
    if not alone or given.get("reduction") == "none" or x.dtype is torch.float16:
        return _connected_loss(function, given, inputs)
    # A step of training: what Python does here costs as much as a small loss.
    loss, grad = function(**arrays, return_grad=True)
    return _apply_loss([_tensor(loss)], None, (_tensor(grad),), x)


# --- what may come --------------------------------------------------------------------------


def _read(given: Given, inputs: tuple[str, ...]) -> tuple[Given, bool]:
    """The arguments with tensors as NumPy's views, and whether a gradient is asked for.

    Not of what has none, and no tensor is from elsewhere.
    """
    arrays, connected = given.copy(), False
    for name, value in given.items():
        if name in views.BUFFERS:
            _check_buffer(name, value)
        elif isinstance(value, torch.Tensor):
            _check_memory(name, value)
            if value.requires_grad:
                if name not in inputs:
                    raise TypeError(
                        f"{name} must not require grad: no gradient flows to it; detach it"
                    )
                connected = True
            arrays[name] = _view(value)
    return arrays, connected


def _check_memory(name: str, tensor: torch.Tensor) -> None:
    if not tensor.is_cpu:
        raise TypeError(f"{name} is on {tensor.device}, expected a tensor in host memory here")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {tensor.layout}")
    if tensor.is_floating_point() and forward_ad.unpack_dual(tensor).tangent is not None:
        raise TypeError(f"{name} must have no tangent: there is no derivative in forward mode")


def _check_buffer(name: str, value: Any) -> None:
    for part in views.parts(value):
        if isinstance(part, torch.Tensor):
            _check_memory(name, part)
            if part.requires_grad:
                raise ValueError(f"{name} must not require grad")
        elif part is not None:
            raise ValueError(f"{name} must be a torch.Tensor, got {type(part).__name__}")


def _requires_grad(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


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
    try:
        if tensor.requires_grad:
            tensor = tensor.detach()
        if tensor.dtype is torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(_bfloat16())
        return tensor.numpy()
    except RuntimeError as error:
        raise TypeError(
            f"a tensor must have memory that can be read, not as inside torch.func: {error}"
        ) from error


def _tensor(array: Any) -> torch.Tensor:
    """NumPy's result as a tensor over the same memory; a number as one without dimensions."""
    if type(array) is not np.ndarray:
        array = np.asarray(array)
    if array.dtype.kind == "V":  # bfloat16, which NumPy does not know; asking for a name is slow
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _detached(function: Function, given: Given) -> Any:
    """The results of a call as tensors apart from any graph."""
    result = views.call(function, given, torch.Tensor, _view, _tensor)
    for name in given.keys() & views.BUFFERS:
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


def _apply(node: type[torch.autograd.Function]) -> Function:
    """The node's `apply` without the layer for torch.func, a third of its cost.

    What torch.func transforms is refused before, for it has no memory to read.
    """
    apply: Function = super(torch.autograd.Function, node).apply
    return apply


# --- losses in the graph --------------------------------------------------------------------


def _connected_loss(function: Function, given: Given, inputs: tuple[str, ...]) -> Any:
    """The results of a call, of which the loss is in the graph and the rest apart from it."""
    leaves = [given.get(name) for name in inputs]
    asked = [name for name in _EXTRAS if _is_asked(given, name)]
    by_row = given.get("reduction") == "none"
    if by_row and len(inputs) > 1:
        return _connected_rows(function, given, inputs, bool(asked))
    others: list[Any] = []
    shared = False
    # Made apart from what is asked for: of float16, whose gradient would be 0 before the factor
    # comes by which AMP keeps it from that, and where buffers hold something already. First, for
    # a buffer may lie over the input.
    if given.get("accumulate") or any(map(_is_float16, leaves)):
        loss, grads = _detached(function, _without_extras(given, inputs) | {"return_grad": True})
        if asked:
            others = list(_detached(function, given)[1:])
    else:
        loss, grads, *others = _detached(function, given | {"return_grad": True})
        if asked and asked[0] == "grad":
            others, shared = [grads, *others], True  # the caller may write to it
    by_element = function.__name__.startswith("binary")
    axis = int(given.get("axis", -1)) if by_row and not by_element else None
    pairs = zip(views.parts(grads), leaves, strict=True)
    held = [grad if _requires_grad(leaf) else None for grad, leaf in pairs]
    if shared:
        held = [None if grad is None else grad.clone() for grad in held]
    loss = _apply_loss([loss], axis, held, *leaves)
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
    def forward(ctx: Any, made: list[Any], axis: int | None, held: Any, *leaves: Any) -> Any:
        ctx.save_for_backward(*held)
        ctx.axis = axis
        return made.pop()  # in a list, for autograd makes a view of an argument that is returned

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        _first_derivative_only()
        factor = up if ctx.axis is None else up.unsqueeze(ctx.axis)
        times = _new_product if _graph_is_kept() else _product
        # Autograd turns them into their inputs' types.
        grads = [None if grad is None else times(grad, factor) for grad in ctx.saved_tensors]
        return None, None, None, *grads


_apply_loss = _apply(_Loss)

# Whether another `backward` may come. PyTorch's own compiled graphs ask it the same; it is not
# public, and where it is gone nothing is ever given away.
_graph_is_kept = getattr(
    torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True
)  # fmt: skip


def _new_product(grad: Any, factor: Any) -> Any:
    """In new memory: who gets it may write to it, and what is held may be asked for again."""
    return grad * factor


def _product(grad: Any, factor: Any) -> Any:
    """In the memory of what was held, which nobody asks for again."""
    return grad if not factor.ndim and factor.item() == 1.0 else grad.mul_(factor)


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
    loss = _apply_rows([loss], function, fixed, inputs, tuple(tensors), *tensors.values())
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


_apply_rows = _apply(_Rows)


# --- softmax and its logarithms in the graph ------------------------------------------------


def _connected_map(function: Function, given: Given, x: torch.Tensor) -> Any:
    if given.get("out") is not None:
        raise ValueError("out must be None where logits require grad")
    out = _detached(function, given)
    axis, keepdims = int(given.get("axis", -1)), bool(given.get("keepdims"))
    return _apply_map([out], function.__name__, axis, keepdims, x)


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


_apply_map = _apply(_Map)


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
