"""The public functions as operators of torch.library, which torch.compile keeps in its graphs.

Only while it compiles: outside, an operator costs more than a node of autograd. An operator takes
what its function takes, but for buffers, and `held`: whether gradients come with the loss, for
autograd to multiply. Its results are a list, without what is None.
"""

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from fastxent.arrays import views
from fastxent.arrays.torch import autograd, memory
from fastxent.arrays.torch.memory import Function, Given
from fastxent.terms import LinearGrad

# The annotation of a parameter -> its type in an operator's schema.
_TYPES = {
    Any: "Tensor?", int: "int", int | None: "int?", float: "float", float | None: "float?",
    bool: "bool", str: "str",
}  # fmt: skip
_BUFFERS = (*views.BUFFERS, "accumulate")

# Of each function that there is an operator for: the parameters that are arrays, those of them that
# a gradient flows to, those that must be given, and the defaults of the others.
_defined: dict[str, tuple[tuple[str, ...], tuple[str, ...], set[str], Given]] = {}


def _define(function: Function) -> None:
    """See that there is an operator for the function."""
    name = function.__name__
    if name not in _defined:
        new = _Operator(function)
        operator = torch.library.custom_op(
            f"fastxent::{name}", new.compute, mutates_args=(), schema=new.schema()
        )
        operator.register_fake(new.fake)
        operator.register_autograd(new.backward, setup_context=new.setup_context)
        _defined[name] = new.arrays, new.inputs, new.required, new.defaults


# Not traced, but called with a constant while a graph is made.
_define._dynamo_marked_constant = True  # type: ignore[attr-defined]


def call(eager: Function, function: Function, *args: Any, **kwargs: Any) -> Any:
    """What eager(function, ...) gives, as operators in the graph that is being made."""
    _define(function)
    arrays, inputs, required, defaults = _defined[function.__name__]
    given = dict(zip(arrays, args, strict=False)) | kwargs
    buffers = [given.pop(name, None) for name in _BUFFERS]
    twice = len(args) > len(arrays) or any(name in kwargs for name in arrays[: len(args)])
    given = defaults | given
    wrong = twice or given.keys() != required | defaults.keys()
    if wrong or any(buffer is not None and buffer is not False for buffer in buffers):
        return _outside(eager, function, *args, **kwargs)
    for name in arrays:
        given[name] = _as_tensor(given[name])
    tensors = {name: given[name] for name in arrays if given[name] is not None}
    asking = [name for name, tensor in tensors.items() if tensor.requires_grad]
    if any(name not in inputs for name in asking):
        return _outside(eager, function, *args, **kwargs)
    operator = getattr(torch.ops.fastxent, function.__name__)
    if function.__name__ in autograd.GRADIENTS:
        return operator(**given, held=False)[0]
    asked = [extra for extra in memory.EXTRAS if given.get(f"return_{extra}")]
    if not asking or not torch.is_grad_enabled():
        return _results(operator(**given, held=False), asked, given, inputs)
    # What stands beside the loss is made apart from it, for it is not in the graph.
    loss = operator(**defaults | autograd.without_extras(given), held=True)[0]
    if not asked:
        return loss
    apart = {name: tensor.detach() for name, tensor in tensors.items()}
    _, *beside = _results(operator(**given | apart, held=False), asked, given, inputs)
    return loss, *beside


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _outside(eager: Function, function: Function, *args: Any, **kwargs: Any) -> Any:
    """A call with buffers, or one that is refused: not in a graph."""
    return eager(function, *args, **kwargs)


def _as_tensor(value: Any) -> torch.Tensor | None:
    if value is None or isinstance(value, torch.Tensor):
        return value
    return torch.as_tensor(np.asarray(value))


def _results(found: list[Any], asked: list[str], given: Given, inputs: Any) -> Any:
    """An operator's results as the function gives them."""
    if not asked:
        return found[0]
    if asked[0] == "grad" and len(inputs) > 1:
        n = len(inputs) - (given[inputs[-1]] is None)
        parts = [*found[1 : n + 1], None][: len(inputs)]
        found = [found[0], LinearGrad(*parts), *found[n + 1 :]]
    return tuple(found)


# --- operators ------------------------------------------------------------------------------


class _Operator:
    """What torch.library asks of one: its results, their shapes, and its derivative."""

    def __init__(self, function: Function) -> None:
        every = inspect.signature(function).parameters.values()
        self.parameters = [p for p in every if p.name not in _BUFFERS]
        self.names = [*(p.name for p in self.parameters), "held"]
        self.required = {p.name for p in self.parameters if p.default is p.empty}
        self.defaults = {p.name: p.default for p in self.parameters if p.name not in self.required}
        self.arrays = tuple(p.name for p in self.parameters if p.annotation is Any)
        self.function = function
        self.inputs = memory.inputs_of(function)

    def schema(self) -> str:
        """The function's own parameters, in torch.library's words.

        Without defaults: PyTorch leaves them out and then miscounts the gradients.
        """
        described = (f"{_TYPES[p.annotation]} {p.name}" for p in self.parameters)
        return f"({', '.join(described)}, bool held) -> Tensor[]"

    def bound(self, args: Any, kwargs: Given) -> tuple[Given, bool]:
        """The arguments by name, and whether gradients come with the loss.

        They do not with losses by row of a linear map: their gradients are sums over rows.
        """
        given = dict(zip(self.names, args, strict=False)) | kwargs
        held = given.pop("held")
        return given, held and (len(self.inputs) == 1 or given["reduction"] != "none")

    def compute(self, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        """The results."""
        given, held = self.bound(args, kwargs)
        if held:
            given = autograd.without_half(given, self.inputs) | {"return_grad": True}
        return list(_flat(memory.detached(self.function, given)))

    def fake(self, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        """Tensors of the results' shapes and types."""
        given, held = self.bound(args, kwargs)
        shapes = _shapes(self.function, [given[name] for name in self.inputs], given, held)
        return [given[self.inputs[0]].new_empty(shape, dtype=dtype) for shape, dtype in shapes]

    def setup_context(self, ctx: Any, inputs: Any, output: list[torch.Tensor]) -> None:
        """Keep what the derivative needs."""
        ctx.given, ctx.held = self.bound(inputs, {})
        tensors = {n: ctx.given.pop(n) for n in self.arrays if ctx.given[n] is not None}
        if ctx.held:
            made = dict(zip([n for n in self.inputs if n in tensors], output[1:], strict=True))
            tensors = {n: t for n, t in made.items() if ctx.needs_input_grad[self.names.index(n)]}
        elif self.function.__name__ in ("softmax", "log_softmax"):
            tensors = {self.inputs[0]: output[0]}
        ctx.saved = list(tensors)
        ctx.save_for_backward(*tensors.values())

    def backward(self, ctx: Any, ups: list[Any]) -> tuple[Any, ...]:
        """The gradients of the first result, in the order of the parameters."""
        autograd.first_derivative_only()
        up, given = ups[0], dict.fromkeys(self.arrays) | ctx.given
        saved = dict(zip(ctx.saved, ctx.saved_tensors, strict=True))
        if self.function.__name__ in autograd.GRADIENTS:
            how = self.function.__name__, given["axis"], given.get("keepdims", False), up
            saved = {n: autograd.map_gradient(*how, kept) for n, kept in saved.items()}
        elif ctx.held:
            axis = autograd.rows_axis(self.function, given)
            factor = up if axis is None else up.unsqueeze(axis)
            saved = {n: t * factor for n, t in saved.items()}
        else:  # losses by row of a linear map
            operator = getattr(torch.ops.fastxent, self.function.__name__)
            whole = autograd.weighted_rows(given | saved, up)
            _, *grads = operator(**whole, held=True)
            saved = dict(zip([n for n in self.inputs if n in saved], grads, strict=True))
        return tuple(saved.get(n) for n in self.names)


def _flat(result: Any) -> Iterator[torch.Tensor]:
    for part in views.parts(result):
        if isinstance(part, tuple):
            yield from _flat(part)
        elif part is not None:
            yield part


def _shapes(function: Any, inputs: list[Any], given: Given, held: bool) -> Iterator[Any]:
    """Shape and type of each result, as the contract has them."""
    x, loss_type = inputs[0], _loss_type(inputs)
    rows, axis = list(x.shape), given.get("axis", -1)
    if not function.__name__.startswith("binary"):
        del rows[axis]
    if function.__name__ == "logsumexp":
        if given["keepdims"]:
            rows.insert(axis % x.ndim, 1)
        yield rows, _own_type(x)
        return
    if function.__name__ in autograd.GRADIENTS:
        yield x.shape, _own_type(x)
        return
    yield rows if given["reduction"] == "none" else [], loss_type
    if held or given["return_grad"]:
        for tensor in inputs:
            if tensor is not None:
                half = held and tensor.dtype == torch.float16
                yield tensor.shape, torch.float32 if half else _own_type(tensor)
    beside = {"probs": (x.shape, _own_type(x)), "lse": (rows, loss_type)}
    beside |= {"hess": beside["probs"], "argmax": (rows, torch.int64)}
    for name, described in beside.items():
        if given.get(f"return_{name}") and not held:
            yield described


def _own_type(tensor: torch.Tensor) -> torch.dtype:
    return tensor.dtype if tensor.is_floating_point() else torch.float64


def _loss_type(inputs: list[Any]) -> torch.dtype:
    own = {_own_type(tensor) for tensor in inputs if tensor is not None}
    return torch.float64 if torch.float64 in own else torch.float32
