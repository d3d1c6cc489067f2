"""Compute requests by fastxent's functions, on NumPy arrays over XLA's memory.

Under `jax.vmap` there are groups of rows, each with its own reduction. One call computes all groups
if only arrays per row differ between them: with κ = u/D as sample weights, D the divisor of a row's
group, the loss of a group is the sum of its row losses, and the gradients are those of the sum of
all losses.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent.functions import CROSS_ENTROPY, Arguments, Function, Kind, Role
from fastxent.integrations.jax.requests import Request
from fastxent.records import LinearGrad

Array = NDArray[Any]
# The roles of arrays with the input's leading dimensions, to which groups can be added.
PER_ROW = {Role.INPUT, Role.TARGET, Role.PER_ROW, Role.VECTOR, Role.BROADCAST}
_BLOCK = 1 << 22  # logits per block


def run(request: Request, arrays: list[Array], results: list[Array]) -> None:
    """Fill the results."""
    if not request.groups:
        _fill(request, _arguments(request, arrays), results)
    elif _can_be_folded(request):
        _fold(request, _arguments(request, arrays), results)
    else:
        for group in np.ndindex(*request.groups):
            of = [a[group] if has else a for a, has in zip(arrays, request.grouped, strict=True)]
            one = request._replace(groups=(), grouped=())
            run(one, of, [result[(*group, ...)] for result in results])


def _arguments(request: Request, arrays: list[Array]) -> Arguments:
    """Bind the arguments of the function by name."""
    arguments = {**dict(request.options), **dict(zip(request.arrays, arrays, strict=False))}
    if request.vectors:
        vectors = dict(zip(request.vectors, arrays[len(request.arrays) :], strict=True))
        if request.description.kind is Kind.LINEAR:
            arguments["vector"] = LinearGrad(*map(vectors.get, request.description.inputs))
        else:
            (arguments["vector"],) = vectors.values()
    return arguments


# --- one call -----------------------------------------------------------------------------------


def _fill(request: Request, arguments: Arguments, results: list[Array]) -> None:
    """Fill the results of one call."""
    function = request.description
    if function.is_loss and request.vectors:  # the derivative of a loss along tangents
        results[0][...] = _slopes(function, arguments)
        return
    left = dict(zip(names_of(request), results, strict=True))
    arguments = arguments | _requests(request)
    if function.kind is Kind.LINEAR and request.wrt:
        arguments["out" if function.out else "grad_out"] = LinearGrad(
            *(left.pop(name, None) for name in function.inputs)
        )
    for slot in function.buffer_slots:
        if slot.name in left and slot.buffer not in arguments:
            arguments[slot.buffer] = left.pop(slot.name)
    returned = function.body(**arguments)
    if left:
        made = returned if type(returned) is tuple else (returned,)
        names = [function.results[0], *_requested(request)]
        for name, value in zip(names, made, strict=True):
            if name in left:
                left[name][...] = value


def names_of(request: Request) -> list[str]:
    """The names of the results in the order of the program.

    They are the first result, the gradient (for a linear map one for each input), and the extras.
    """
    function = request.description
    if function.kind is not Kind.LINEAR:
        names = [function.results[0], *(["grad"] if request.wrt and not request.vectors else [])]
    else:
        names = [*([] if function.out else ["loss"]), *request.wrt]
    return [*names, *request.extras]


def _requested(request: Request) -> Iterable[str]:
    """The names of the results after the first, in the function's order."""
    chosen = {*request.extras, *(["grad"] if request.wrt else [])}
    return (name for name in request.description.results[1:] if name in chosen)


def _requests(request: Request) -> Arguments:
    """The arguments that request the results."""
    flags: Arguments = {f"return_{name}": True for name in _requested(request)}
    if request.description.kind is Kind.LINEAR and request.wrt:
        flags["wrt"] = request.wrt
    return flags


@np.errstate(all="ignore")  # ignored rows may hold anything
def _slopes(function: Function, arguments: Arguments) -> Array:
    """Compute the derivatives of unreduced losses of a linear map along a vector, by blocks."""
    arguments = dict(arguments)
    vector = arguments.pop("vector")
    x, matrix, bias = (arguments.pop(name, None) for name in function.inputs)
    shape, kind = x.shape[:-1], np.float64 if np.float64 in (x.dtype, matrix.dtype) else np.float32
    rows = {n: arguments.pop(n) for n in ("target", "sample_weight") if n in arguments}
    rows = {n: a.reshape(-1, *a.shape[len(shape) :]) for n, a in rows.items()}
    x = x.reshape(-1, x.shape[-1])
    dx = None if vector.x is None else vector.x.reshape(x.shape)
    slopes, step = np.empty(len(x), kind), max(1, _BLOCK // matrix.shape[0])
    weight = matrix.astype(kind, copy=False)
    for k in range(0, len(x), step):
        part = x[k : k + step].astype(kind, copy=False)
        logits, along = part @ weight.T, np.zeros((), kind)
        if bias is not None:
            logits += bias
        if dx is not None:
            along = along + dx[k : k + step].astype(kind, copy=False) @ weight.T
        if vector.linear_weight is not None:
            along = along + part @ vector.linear_weight.astype(kind, copy=False).T
        if vector.linear_bias is not None:
            along = along + vector.linear_bias.astype(kind, copy=False)
        block = {n: a[k : k + step] for n, a in rows.items()}
        _, grad = CROSS_ENTROPY.body(logits, **arguments, **block, return_grad=True)
        # 0 where the gradient is 0, as in ignored rows, even if the tangent is inf or nan.
        slopes[k : k + step] = np.where(grad == 0, 0, grad * along).sum(-1)
    return slopes.reshape(shape)


# --- groups -------------------------------------------------------------------------------------


def _can_be_folded(request: Request) -> bool:
    """Whether one call computes all groups."""
    function = request.description
    roles = [function.roles[name] for name in request.arrays] + [Role.VECTOR] * len(request.vectors)
    own = dict(zip(request.arrays, request.grouped, strict=False))
    per_group = [
        has for role, has in zip(roles, request.grouped, strict=True)
        if role not in PER_ROW and role is not Role.SCALAR
    ]  # fmt: skip
    if any(per_group) or not own[function.first]:
        return False
    if function.kind is Kind.LINEAR:  # gradients by W and b would be one for each group
        grouped = all(h for r, h in zip(roles, request.grouped, strict=True) if r in PER_ROW)
        return not request.vectors and grouped and {*request.wrt} <= {function.first}
    return True


def _fold(request: Request, arguments: Arguments, results: list[Array]) -> None:
    """Fill the results of all groups by one call."""
    function, n_axes = request.description, len(request.groups)
    one = request._replace(groups=(), grouped=())
    x = arguments[function.first]
    for name, has in zip(request.arrays, request.grouped, strict=False):
        if has and function.roles[name] is Role.BROADCAST:
            arguments[name] = _aligned(arguments[name], n_axes, x.ndim)
    how = request.option("reduction")
    if how is None or how == "none":
        _fill(one, arguments, results)
        return
    if function.has_rows:
        divisors = _weigh_rows(request, arguments, x)
    else:
        divisors = np.full(request.groups, float(math.prod(x.shape[n_axes:])))
        if how == "mean":
            w = arguments.get("weight")
            of = max(divisors.flat[0], 1.0) if divisors.size else 1.0
            arguments["weight"] = 1.0 / of if w is None else np.asarray(w, np.float64) / of
    if not function.is_loss:
        arguments["reduction"] = "sum"
        _fill(one, arguments, results)
        return
    arguments["reduction"] = "none"
    rows = function.rows(x.shape, request.option("axis", -1))
    losses = np.empty(rows, results[0].dtype)
    _fill(one, arguments, [losses, *results[1:]])
    sums = losses.sum(tuple(range(n_axes, len(rows))), np.float64)
    results[0][...] = np.where(divisors == 0, np.nan, sums) if how == "mean" else sums


def _aligned(a: Array, n_axes: int, rank: int) -> Array:
    """Add axes after the groups, so that the array broadcasts to the input."""
    own = a.shape[n_axes:]
    return a.reshape(*a.shape[:n_axes], *(1,) * (rank - n_axes - len(own)), *own)


@np.errstate(all="ignore")
def _weigh_rows(request: Request, arguments: Arguments, x: Array) -> Any:
    """Set the sample weights to κ; return the divisor of each group."""
    how, n_axes = arguments["reduction"], len(request.groups)
    normalizer = arguments.pop("normalizer", None)
    if how != "mean":
        return 1.0
    u = arguments.get("sample_weight")
    rows = request.description.rows(x.shape, request.option("axis", -1))
    over = tuple(range(n_axes, len(rows)))
    if normalizer is not None:
        divisors = np.broadcast_to(np.asarray(normalizer, np.float64), request.groups)
    else:
        w_y = np.broadcast_to(_row_weights(arguments, rows), rows)
        divisors = (w_y if u is None else np.where(u == 0, 0.0, u * w_y)).sum(over)
    inverses = np.where(divisors == 0, 0.0, 1.0 / divisors)
    inverses = inverses.reshape(*inverses.shape, *(1,) * len(over))
    if u is None:
        arguments["sample_weight"] = np.broadcast_to(inverses, rows)
    else:  # a row of weight 0 stays ignored, even if the divisor is 0
        arguments["sample_weight"] = np.where(u == 0, 0.0, u * inverses)
    return divisors


def _row_weights(arguments: Arguments, rows: tuple[int, ...]) -> Any:
    """The term of each row in the divisor without its sample weight: w_y, or 0 if ignored."""
    y, w = arguments["target"], arguments.get("weight")
    if y.shape != rows:  # class probabilities
        return 1.0
    active = y != arguments.get("ignore_index", -100)
    if arguments.get("ignore_index", -100) is None:
        active = np.ones(rows, bool)
    if w is None:
        return active.astype(np.float64)
    w_y = np.take(np.asarray(w, np.float64), y, mode="clip")
    in_range = (y >= 0) & (y < len(w))  # a label out of range has no class weight
    return np.where(active, np.where(in_range, w_y, 1.0), 0.0)
