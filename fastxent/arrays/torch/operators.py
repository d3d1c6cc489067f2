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

_BUFFERS = (*views.BUFFERS, "accumulate")


def call(eager: Function, function: Function, *args: Any, **kwargs: Any) -> Any:
    """What eager(function, ...) gives, as operators in the graph that is being made."""
    known = _OPERATORS[function.__name__]
    given = dict(zip(known.positional, args, strict=False)) | kwargs
    buffers = [given.pop(name, None) for name in _BUFFERS if name in given]
    wrong = len(given) + len(buffers) != len(args) + len(kwargs)
    given = known.defaults | given
    if wrong or any(buffer is not None for buffer in buffers) or not known.takes(given):
        from fastxent.arrays.torch.outside import outside

        return outside(eager, function, *args, **kwargs)
    for name in known.arrays:
        given[name] = _as_tensor(given[name])
    operator = getattr(torch.ops.fastxent, function.__name__)
    if function.__name__ in autograd.GRADIENTS:
        return operator(**given, held=False)[0]
    asked = [extra for extra in memory.EXTRAS if given.get(f"return_{extra}")]
    inputs = [given[name] for name in known.inputs if given[name] is not None]
    if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in inputs):
        return known.results(operator(**given, held=False), asked, given)
    # What stands beside the loss is made apart from it, for it is not in the graph.
    alone = known.defaults | autograd.without_extras(given)
    loss = operator(**alone, held=True)[0]
    if not asked:
        return loss
    apart = {n: given[n].detach() for n in known.inputs if given[n] is not None}
    _, *beside = known.results(operator(**given | apart, held=False), asked, given)
    return loss, *beside


def _as_tensor(value: Any) -> torch.Tensor | None:
    if value is None or isinstance(value, torch.Tensor):
        return value
    return torch.as_tensor(np.asarray(value))


# --- operators ------------------------------------------------------------------------------


# A parameter's annotation, which says what an operator takes for it -> its type in a schema, and
# the types of what is given. Any is an array.
_TYPES: dict[Any, tuple[str, tuple[type, ...]]] = {
    Any: ("Tensor?", ()),
    int: ("int", (int,)),
    int | None: ("int?", (int, type(None))),
    float: ("float", (float, int)),
    float | None: ("float?", (float, int, type(None))),
    bool: ("bool", (bool,)),
    str: ("str", (str,)),
}


class _Operator:
    """What torch.library asks of one: its results, their shapes, and its derivative."""

    def __init__(self, function: Function) -> None:
        every = inspect.signature(function).parameters.values()
        self.parameters = [p for p in every if p.name not in _BUFFERS]
        self.names = [*(p.name for p in self.parameters), "held"]
        self.defaults = {p.name: p.default for p in self.parameters if p.default is not p.empty}
        self.types = {p.name: _TYPES[p.annotation][1] for p in self.parameters}
        self.arrays = tuple(name for name, types in self.types.items() if not types)
        self.function = function
        self.positional = views.positional(function)
        self.inputs = memory.inputs_of(function)

    def takes(self, given: Given) -> bool:
        """Whether these arguments are all there are, and of kinds that the schema has.

        What it does not take is either wrong, or converted by the function itself.
        """
        if given.keys() != self.types.keys():
            return False
        if memory.may_have_tangents() or memory.is_transforming():
            return False
        for name, types in self.types.items():
            value = given[name]
            if types:
                if type(value) not in types:
                    return False
            elif isinstance(value, torch.Tensor):
                if not value.is_cpu or value.layout != torch.strided:
                    return False
                if value.requires_grad and name not in self.inputs:
                    return False
            elif isinstance(value, (list, tuple)) and not len(value):
                return False
        axis, rank = given.get("axis", -1), given[self.inputs[0]].ndim
        return bool(-rank <= axis < rank)

    def schema(self) -> str:
        """The function's own parameters, in torch.library's words.

        Without defaults: PyTorch leaves them out and then miscounts the gradients.
        """
        described = (f"{_TYPES[p.annotation][0]} {p.name}" for p in self.parameters)
        return f"({', '.join(described)}, bool held) -> Tensor[]"

    def bound(self, args: Any, kwargs: Given) -> tuple[Given, bool]:
        """The arguments by name, and whether gradients come with the loss."""
        given = dict(zip(self.names, args, strict=False)) | kwargs
        asked = given.pop("held") and self.function.__name__ not in autograd.GRADIENTS
        return given, asked and not self.sums_rows(given)

    def sums_rows(self, given: Given) -> bool:
        """Whether gradients are sums over losses by row, and so wait for what is above these."""
        return len(self.inputs) > 1 and given["reduction"] == "none"

    def compute(self, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        """The results."""
        given, held = self.bound(args, kwargs)
        if held:
            given = autograd.without_half(given, self.inputs) | {"return_grad": True}
        arrays, _ = memory.read(given, self.inputs)
        return [memory.tensor_of(array) for array in _flat(self.function(**arrays))]

    def results(self, found: list[Any], asked: list[str], given: Given) -> Any:
        """What was computed, as the function gives it."""
        if not asked:
            return found[0]
        if asked[0] == "grad" and len(self.inputs) > 1:
            n = len(self.inputs) - (given[self.inputs[-1]] is None)
            parts = [*found[1 : n + 1], None][: len(self.inputs)]
            found = [found[0], LinearGrad(*parts), *found[n + 1 :]]
        return tuple(found)

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
        else:
            if not ctx.held:  # made now
                operator = getattr(torch.ops.fastxent, self.function.__name__)
                call = self.defaults | autograd.without_extras(given | saved)
                if self.sums_rows(given):
                    call, up = autograd.weighted_rows(call, up), torch.ones(())
                _, *grads = operator(**call, held=True)
                saved = dict(zip([n for n in self.inputs if n in saved], grads, strict=True))
            axis = None if not up.ndim else autograd.rows_axis(self.function, given)
            factor = up if axis is None else up.unsqueeze(axis)
            saved = {n: autograd.masked_product(grad, factor) for n, grad in saved.items()}
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


_OPERATORS = {function.__name__: _Operator(function) for function in views.FUNCTIONS}

for _name, _new in _OPERATORS.items():
    _operator = torch.library.custom_op(
        f"fastxent::{_name}", _new.compute, mutates_args=(), schema=_new.schema()
    )
    _operator.register_fake(_new.fake)
    _operator.register_autograd(_new.backward, setup_context=_new.setup_context)
