"""The functions in autograd's graph: a node each for losses, losses by row, and softmax.

Where a tensor requires grad, a loss makes its gradient with itself and holds it until `backward`,
which multiplies it by what comes from above. So nothing is computed twice, and the graph holds one
array shaped as the input, as it would hold the probabilities otherwise. A graph that is not kept
gives that very array away, so that a step of training makes no other.
"""

import copy
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from fastxent.arrays import views
from fastxent.arrays.torch.memory import (
    ASKING,
    EXTRAS,
    Function,
    Given,
    computed,
    detached,
    gpu,
    inputs_of,
    is_on_gpu,
    is_transforming,
    tensor_of,
)


def connected(
    function: Function, given: Given, arrays: Given, inputs: tuple[str, ...], sight: Any = None
) -> Any:
    """The results of a call some of whose inputs require grad; `arrays` are views.

    On a GPU a step of training, with the gradient, has been seen as `sight`.
    """
    x = given[inputs[0]]
    if is_step(function, given, x):
        arrays["return_grad"] = True
        return apply_loss(computed(function, arrays, sight), None, x)
    if function.__name__ not in GRADIENTS:
        return _connected_loss(function, given, inputs)
    if given.get("out") is not None:
        raise ValueError("out must be None where logits require grad")
    made = detached(function, given, arrays, sight)
    return _apply_map([made], *map_options(function, given), x)


def is_step(function: Function, given: Given, x: torch.Tensor) -> bool:
    """Whether a call is one of a step of training: a loss of one input, and nothing beside it.

    What Python does there costs as much as a small loss.
    """
    if not _is_loss_of_one(function) or x.dtype is torch.float16:
        return False
    if len(given) == 2:  # input and target alone
        return True
    return given.keys().isdisjoint(ASKING) and given.get("reduction") != "none"


@functools.cache
def _is_loss_of_one(function: Function) -> bool:
    return len(inputs_of(function)) == 1 and function.__name__ not in GRADIENTS


def first_derivative_only() -> None:
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


def _requires_grad(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


# --- losses in the graph --------------------------------------------------------------------


def _connected_loss(function: Function, given: Given, inputs: tuple[str, ...]) -> Any:
    """The results of a call, of which the loss is in the graph and the rest apart from it."""
    leaves = [given.get(name) for name in inputs]
    needed = tuple(n for n, leaf in zip(inputs, leaves, strict=True) if _requires_grad(leaf))
    asked = [name for name in EXTRAS if _is_asked(given, name)]
    by_row = given.get("reduction") == "none"
    if by_row and len(inputs) > 1:
        return _connected_rows(function, given, inputs, bool(asked))
    others: list[Any] = []
    shared = False
    # Made apart from what is asked for: of float16, whose gradient would be 0 before the factor
    # comes by which AMP keeps it from that; where buffers hold something already; and where the
    # caller chooses other parts. First, for a buffer may lie over the input.
    grad_asked = "grad" in asked
    apart = given.get("accumulate") or grad_asked and "wrt" in given
    if apart or any(map(_is_float16, leaves)):
        alone = without_half(without_extras(given), inputs)
        loss, grads = detached(function, with_gradients(alone, inputs, needed))
        if asked:
            others = list(detached(function, given)[1:])
    elif grad_asked:
        loss, grads, *others = detached(function, given | {"return_grad": True})
        others, shared = [grads, *others], True  # the caller may write to it
    else:
        loss, grads, *others = detached(function, with_gradients(given, inputs, needed))
    pairs = zip(views.parts(grads), leaves, strict=True)
    held = [grad if _requires_grad(leaf) else None for grad, leaf in pairs]
    if shared:
        held = [None if grad is None else grad.clone() for grad in held]
    loss = apply_loss((loss, *held), rows_axis(function, given), *leaves)
    return (loss, *others) if others else loss


def with_gradients(given: Given, inputs: tuple[str, ...], needed: tuple[str, ...]) -> Given:
    """The call with gradients of those of its inputs that need one."""
    if len(inputs) == 1:
        return given | {"return_grad": True}
    asked = given | {"return_grad": True}
    if "wrt" in given:
        own = given["wrt"]
        if not isinstance(own, Iterable) or isinstance(own, bytes) or not (own := tuple(own)):
            return asked  # which the function refuses
        names = (given["wrt"],) if isinstance(given["wrt"], str) else own
        needed = *needed, *(name for name in names if name not in inputs)  # and these
    return asked | {"wrt": needed}


def rows_axis(function: Function, given: Given) -> int | None:
    """The axis that losses lack and gradients have."""
    if given.get("reduction") != "none" or function.__name__.startswith("binary"):
        return None
    return int(given.get("axis", -1))


def _is_asked(given: Given, name: str) -> bool:
    return bool(given.get(f"return_{name}")) or given.get(f"{name}_out") is not None


def _is_float16(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float16


def without_extras(given: Given) -> Given:
    """The arguments but for what is asked for besides the loss."""
    return {name: value for name, value in given.items() if name not in ASKING}


def without_half(given: Given, inputs: tuple[str, ...]) -> Given:
    """The arguments with float16 inputs as float32."""
    half = [name for name in inputs if _is_float16(given.get(name))]
    return given | {name: given[name].detach().float() for name in half}


class _Loss(torch.autograd.Function):  # type: ignore[misc]
    """A loss that holds the gradients made with it, until it has been differentiated."""

    @staticmethod
    def forward(ctx: Any, made: tuple[Any, ...], axis: int | None, *leaves: Any) -> Any:
        # In a tuple, for autograd makes a view of an argument that is returned.
        loss, *held = map(tensor_of, made)
        ctx.save_for_backward(*held)
        ctx.axis, ctx.owned = axis, not _is_packed()
        return loss

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        first_derivative_only()
        axis, held = ctx.axis, ctx.saved_tensors
        factor = up if axis is None else up.unsqueeze(axis)
        if _is_batch(up) or is_transforming():  # a batch of factors, of which nothing can be asked
            return None, None, *[None if g is None else masked_product(g, factor) for g in held]
        mine = ctx.owned and not _graph_is_kept()
        # Autograd turns them into their inputs' types.
        if len(held) == 1:
            return None, None, _product(held[0], factor, mine)
        return None, None, *[None if g is None else _product(g, factor, mine) for g in held]


apply_loss = _apply(_Loss)

# What PyTorch's own modules ask it, though it is not public; where one is gone, nothing is given
# away: whether another `backward` may come, whether somebody keeps or replaces what is saved for
# it, and whether it is computed for a batch of factors at once.
_graph_is_kept = getattr(
    torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True
)  # fmt: skip
_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: True)
_is_batch = getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda _: True)


def _is_packed() -> bool:
    """Whether hooks see what is saved."""
    return _hooks(True) is not None


def _product(grad: Any, factor: Any, mine: bool) -> Any:
    """A gradient times what is above it, in its own memory if that is `mine` to give away.

    Else in new memory: who gets it may write to it, and what is held may be asked for again.
    """
    if is_on_gpu(grad):  # where nobody asks for a number, for that would wait
        return masked_product(grad, factor) if factor.ndim else gpu().scaled(grad, factor, mine)
    if factor.ndim:
        number, finite = None, bool(torch.isfinite(factor).all())
    else:
        number = factor.item()
        finite = math.isfinite(number)
    if not finite:
        return masked_product(grad, factor)
    if not mine:
        return grad * factor
    return grad if number == 1.0 else grad.mul_(factor)


def masked_product(grad: Any, factor: Any) -> Any:
    """The same in new memory, 0 where the gradient is: as for rows that do not count.

    A factor that is inf or nan would make them nan.
    """
    return torch.where(grad == 0, 0.0, grad * factor)


def _connected_rows(function: Function, given: Given, inputs: tuple[str, ...], asked: bool) -> Any:
    """Losses by row of a linear map, whose gradients are sums over rows: they are made later."""
    result = detached(function, given)
    loss, *others = result if asked else (result,)
    rest = without_extras(given)
    tensors = {name: value for name, value in rest.items() if isinstance(value, torch.Tensor)}
    # Copied, for nobody would notice if arrays or lists were written to before `backward`.
    fixed = {name: copy.deepcopy(a) for name, a in rest.items() if name not in tensors}
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
        first_derivative_only()
        function, fixed, inputs, names = ctx.again
        given = fixed | dict(zip(names, ctx.saved_tensors, strict=True))
        needed = dict(zip(names, ctx.needs_input_grad[5:], strict=True))
        wanted = tuple(name for name in inputs if needed.get(name))

        def gradients(up: Any) -> list[Any]:
            call = with_gradients(weighted_rows(given, up), inputs, wanted)
            if torch.compiler.is_dynamo_compiling():  # this backward, by compiled autograd
                from fastxent.arrays.torch.outside import outside

                found = outside(detached, function, call)
            else:
                found = detached(function, call)
            return [grad for grad in found[1] if grad is not None]

        made = _each_of(up, gradients) if _is_batch(up) else gradients(up)
        grads = dict(zip(wanted, made, strict=True))
        return None, None, None, None, None, *(grads.get(name) for name in names)


_apply_rows = _apply(_Rows)


def _each_of(ups: Any, gradients: Callable[[Any], list[Any]]) -> list[Any]:
    """Gradients for each of a batch of factors, as PyTorch's first vmap has a batch: a level of it.

    Its rules are those of PyTorch's own operators, so the factors are taken out one by one.
    """
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    plain = torch._remove_batch_dim(ups, level, 0, 0)
    each = zip(*map(gradients, plain), strict=True)
    return [torch._add_batch_dim(torch.stack(grads), 0, level) for grads in each]


def weighted_rows(given: Given, up: torch.Tensor) -> Given:
    """The call whose loss is the sum of these losses by row, each times what is above it."""
    weight, own = up.double(), given.get("sample_weight")
    if own is not None:
        own = own if isinstance(own, torch.Tensor) else torch.from_numpy(np.array(own, float))
        weight = torch.where(own == 0, 0.0, weight * own)  # what does not count, whatever is above
    return given | {"sample_weight": weight, "reduction": "sum"}


# --- softmax and its logarithms in the graph ------------------------------------------------


def map_options(function: Function, given: Given) -> tuple[str, int, bool]:
    """What the derivative of softmax and its logarithms depends on beside arrays."""
    return function.__name__, int(given.get("axis", -1)), bool(given.get("keepdims"))


class _Map(torch.autograd.Function):  # type: ignore[misc]
    """Softmax, log-softmax or logsumexp, with what the probabilities come from."""

    @staticmethod
    def forward(ctx: Any, made: list[Any], name: str, axis: int, keepdims: bool, x: Any) -> Any:
        out = made.pop()
        ctx.how = name, axis, keepdims
        ctx.save_for_backward(x if name == "logsumexp" else out)
        return out

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        first_derivative_only()
        name, axis, keepdims = ctx.how
        (kept,) = ctx.saved_tensors
        return None, None, None, None, map_gradient(name, axis, keepdims, up, kept)


_apply_map = _apply(_Map)


def map_gradient(name: str, axis: int, keepdims: bool, up: Any, kept: Any) -> Any:
    """By the result, of logsumexp by the input; of half precision as float32.

    Autograd turns it into its input's type.
    """
    if name == "logsumexp" and not keepdims:
        up = up.unsqueeze(axis)
    return GRADIENTS[name](_wide(up), _wide(kept), axis)


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


GRADIENTS = {
    "softmax": _softmax_gradient,
    "log_softmax": _log_softmax_gradient,
    "logsumexp": _logsumexp_gradient,
}
