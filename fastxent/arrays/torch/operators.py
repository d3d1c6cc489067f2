"""The public functions as operators of torch.library, which PyTorch keeps in its graphs.

torch.compile, torch.export, make_fx, torch.jit.trace, functionalize and fake tensors see operators
alone. Elsewhere they are not used: an operator costs more than a node of autograd. An operator
takes what its function takes, but for buffers, and `held`: whether gradients come with the loss,
for autograd to multiply. Its results are a list, without what is None.
"""

import contextlib
import inspect
import itertools
import numbers
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch._library.autograd import Info, make_autograd_impl

from fastxent import words
from fastxent.arrays import foreign, views
from fastxent.arrays.torch import autograd, memory, refusals, storage
from fastxent.arrays.torch.memory import Function, Given
from fastxent.arrays.torch.storage import DTYPES
from fastxent.records import LinearGrad

_BUFFERS = (*views.BUFFERS, "accumulate")


def compiled(eager: Function, function: Function, *args: Any, **kwargs: Any) -> Any:
    """What eager(function, ...) gives, as operators in the graph that is being made."""
    known = _OPERATORS[function.__name__]
    given = dict(zip(known.positional, args, strict=False)) | kwargs
    buffers = [given.pop(name, None) for name in _BUFFERS if name in given]
    wrong = len(given) + len(buffers) != len(args) + len(kwargs)
    given = known.no_floats | given
    for name, number in known.floats.items():
        if name not in given:
            given[name] = float(number)
    if wrong or any(buffer is not None for buffer in buffers) or not known.takes(given):
        from fastxent.arrays.torch.outside import outside

        return outside(eager, function, *args, **kwargs)
    device = given[known.inputs[0]].device
    for name in known.arrays:
        value = given[name]
        if value is not None and not isinstance(value, torch.Tensor):
            given[name] = torch.as_tensor(np.asarray(value), device=device)
    return _called(known, given)


def traced(function: Function, given: Given) -> Any:
    """The results of a call whose tensors may have no numbers yet: fake ones, or a graph's."""
    known = _OPERATORS[function.__name__]
    for name in _BUFFERS:
        if given.get(name) is not None and given[name] is not False:
            raise ValueError(
                f"{name} must be None where PyTorch traces the call or has no numbers for it yet, "
                f"got {type(given[name]).__name__}: a graph has no buffers"
            )
    given = {name: value for name, value in given.items() if name not in _BUFFERS}
    if missing := [name for name in known.names[:-1] if name not in known.defaults | given]:
        raise TypeError(f"{function.__name__}() is missing {missing[0]!r}")
    if unknown := given.keys() - set(known.names):
        raise TypeError(f"{function.__name__}() has no argument {unknown.pop()!r}")
    if not isinstance(given[known.inputs[0]], torch.Tensor):
        return function(**given)  # which says what is wrong
    return _called(known, known.converted(known.defaults | given))


def _called(known: "_Operator", given: Given) -> Any:
    """The operator's results as the function gives them, for all of its arguments."""
    if "wrt" in given and not isinstance(given["wrt"], str):
        given["wrt"] = ",".join(given["wrt"])
    operator = getattr(torch.ops.fastxent, known.name)
    if known.name in autograd.GRADIENTS:
        return operator(**given, held=False)[0]
    asked = [extra for extra in memory.EXTRAS if given.get(f"return_{extra}")]
    needed = [n for n in known.inputs if given[n] is not None and given[n].requires_grad]
    if not torch.is_grad_enabled() or not needed:
        return known.results(operator(**given, held=False), asked, given)
    # What stands beside the loss is made apart from it, for it is not in the graph.
    alone = given | known.nothing_asked
    if "wrt" in given:
        alone["wrt"] = ",".join(needed)
    loss = operator(**alone, held=True)[0]
    if not asked:
        return loss
    apart = {n: given[n].detach() for n in known.inputs if given[n] is not None}
    _, *beside = known.results(operator(**given | apart, held=False), asked, given)
    return loss, *beside


def _constant(name: str, value: Any, first: torch.Tensor) -> torch.Tensor:
    """What is no tensor as one of the kind of the first argument, a copy that a graph may keep."""
    array = foreign.array(value, name)
    if not first.is_cpu and not refusals.is_virtual(first):
        raise TypeError(
            f"{name} is in host memory ({type(value).__name__}), expected an array on "
            f"{first.device}, where the first argument is"
        )
    if not array.size and name == "target" and not isinstance(value, np.ndarray):
        array = array.astype(np.int64)  # an empty list has no type of its own
    if array.dtype == np.longdouble or array.dtype.name == "bfloat16":
        array = array.astype(np.float64)  # which holds it, or is what it would be computed in
    try:
        tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    except TypeError:
        raise TypeError(f"{name} must hold real numbers, got {array.dtype}") from None
    return tensor.to(first.device)


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
    str | tuple[str, ...]: ("str", (str, tuple)),  # names, of which one text is made
}
# Of the first of those types: what else stands for one, and what makes one of it.
_STANDS_FOR: dict[type, tuple[Any, Callable[[Any], Any]]] = {
    int: (np.integer, int), float: (numbers.Real, float), bool: ((np.bool_, int, np.integer), bool),
    str: (str, str),
}  # fmt: skip


def _check_device(name: str, tensor: torch.Tensor, first: torch.Tensor) -> None:
    if tensor.device != first.device:
        raise TypeError(
            f"{name} is on {tensor.device}, expected a tensor on {first.device}, where the first "
            "argument is"
        )


class _Operator:
    """What torch.library asks of one: its results, their shapes, and its derivative."""

    def __init__(self, function: Function) -> None:
        self.name = function.__name__
        every = inspect.signature(function).parameters.values()
        self.parameters = [p for p in every if p.name not in _BUFFERS]
        self.names = [*(p.name for p in self.parameters), "held"]
        given = {p.name: p.default for p in self.parameters if p.default is not p.empty}
        self.defaults = {n: ",".join(v) if type(v) is tuple else v for n, v in given.items()}
        # As text: of a float that it finds in a dict torch.compile makes an input of the graph, if
        # shapes are dynamic, and traces once more when it sees that the operator wants a number.
        self.floats = {n: repr(v) for n, v in self.defaults.items() if type(v) is float}
        self.no_floats = {n: v for n, v in self.defaults.items() if n not in self.floats}
        self.types = {p.name: _TYPES[p.annotation][1] for p in self.parameters}
        self.arrays = tuple(name for name, types in self.types.items() if not types)
        self.function = function
        self.positional = views.positional(function)
        self.inputs = memory.inputs_of(function)
        self.nothing_asked = {n: False for n in self.types if n.startswith("return_")}

    def converted(self, given: Given) -> Given:
        """All arguments as the schema has them; raises for what is none of its kind."""
        first = given[self.inputs[0]]
        for name, types in self.types.items():
            value = given[name]
            if isinstance(value, torch.Tensor) and not types:
                self.check(name, value, first)
            elif not types:
                given[name] = None if value is None else _constant(name, value, first)
            elif name == "wrt":
                given[name] = self.parts(value)
            elif type(value) not in types:
                others, convert = _STANDS_FOR[types[0]]
                if not isinstance(value, others) or isinstance(value, np.timedelta64):
                    kind = type(value).__name__
                    raise TypeError(f"{name} must be {types[0].__name__}, got {kind}")
                given[name] = convert(value)
        if "axis" in given:
            self.check_axis(given["axis"], first)
        return given

    def parts(self, value: Any) -> str:
        """wrt as the text that the schema has."""
        if not isinstance(value, Iterable) or isinstance(value, bytes):
            raise TypeError(f"wrt must be a name or several, got {type(value).__name__}")
        names = value.split(",") if isinstance(value, str) else list(value)
        if not names:
            raise ValueError(words.none_named("wrt", self.inputs))
        for name in names:
            if name not in self.inputs:
                raise ValueError(words.not_among(name, "wrt", self.inputs))
        return ",".join(names)

    def check(self, name: str, tensor: torch.Tensor, first: torch.Tensor) -> None:
        """Raise for a tensor that no operator computes on, and for what it would drop."""
        with contextlib.suppress(refusals.Virtual):
            refusals.kind(name, tensor)
        if name not in self.inputs:
            refusals.gradient(name, tensor)
        elif tensor.is_complex():
            raise TypeError(words.no_precision(name, DTYPES[tensor.dtype]))
        _check_device(name, tensor, first)
        if refusals.may_have_tangents():
            refusals.tangent(name, tensor)

    def check_axis(self, axis: int, first: torch.Tensor) -> None:
        """Raise for an axis that the first argument does not have."""
        if not first.ndim:
            raise ValueError(words.no_class_axis(self.inputs[0]))
        if not -first.ndim <= axis < first.ndim:
            raise ValueError(words.bad_axis(axis, tuple(first.shape), self.inputs[0]))

    def takes(self, given: Given) -> bool:
        """Whether these arguments are all there are, and of kinds that the schema has.

        What it does not take is either wrong, or converted by the function itself.
        """
        if given.keys() != self.types.keys():
            return False
        if refusals.may_have_tangents() or memory.is_transforming():
            return False
        for name, types in self.types.items():
            value = given[name]
            if types:
                if type(value) not in types:
                    return False
            elif isinstance(value, torch.Tensor):
                if type(value) not in storage.ORDINARY or not value.is_cpu:
                    return False
                if value.layout != torch.strided:
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
        asked = given.pop("held") and self.name not in autograd.GRADIENTS
        return given, asked and not self.sums_rows(given)

    def sums_rows(self, given: Given) -> bool:
        """Whether gradients are sums over losses by row, and so wait for what is above these."""
        return len(self.inputs) > 1 and given["reduction"] == "none"

    def compute(self, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        """The results."""
        given, held = self.bound(args, kwargs)
        if held:
            given = autograd.without_half(given, self.inputs) | {"return_grad": True}
        if "wrt" in given:
            given["wrt"] = tuple(given["wrt"].split(","))
        return list(_flat(memory.detached(self.function, given)))

    def results(self, found: list[Any], asked: list[str], given: Given) -> Any:
        """What was computed, as the function gives it."""
        if not asked:
            return found[0]
        if asked[0] == "grad" and len(self.inputs) > 1:
            made = self.differentiated(given)
            parts = [found[1 + made.index(n)] if n in made else None for n in self.inputs]
            found = [found[0], LinearGrad(*parts), *found[len(made) + 1 :]]
        return tuple(found)

    def differentiated(self, given: Given) -> list[str]:
        """The inputs that gradients are made of, where they are."""
        names = given["wrt"].split(",") if "wrt" in given else self.inputs
        return [name for name in self.inputs if name in names and given[name] is not None]

    def fake(self, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        """Tensors of the results' shapes and types."""
        given, held = self.bound(args, kwargs)
        for name in self.arrays:
            if given[name] is not None:
                _check_device(name, given[name], given[self.inputs[0]])
        shapes = _shapes(self, given, held)
        return [given[self.inputs[0]].new_empty(shape, dtype=dtype) for shape, dtype in shapes]

    def setup_context(self, ctx: Any, inputs: Any, output: list[torch.Tensor]) -> None:
        """Keep what the derivative needs."""
        ctx.given, ctx.held = self.bound(inputs, {})
        names = self.differentiated(ctx.given)
        tensors = {n: ctx.given.pop(n) for n in self.arrays if ctx.given[n] is not None}
        for name in tensors.keys() - set(self.inputs):  # of a program that was made before
            refusals.gradient(name, tensors[name])
        needed = [n for n in self.inputs if ctx.needs_input_grad[self.names.index(n)]]
        # A program may have been exported when other inputs required grad.
        ctx.held = ctx.held and set(needed) <= set(names)
        if ctx.held:
            made = dict(zip(names, output[1:], strict=True))
            tensors = {n: made[n] for n in needed}
        elif self.name in ("softmax", "log_softmax"):
            tensors = {self.inputs[0]: output[0]}
        ctx.saved = list(tensors)
        ctx.save_for_backward(*tensors.values())

    def backward(self, ctx: Any, ups: list[Any]) -> tuple[Any, ...]:
        """The gradients of the first result, in the order of the parameters."""
        autograd.first_derivative_only()
        up, given = ups[0], dict.fromkeys(self.arrays) | ctx.given
        saved = dict(zip(ctx.saved, ctx.saved_tensors, strict=True))
        if self.name in autograd.GRADIENTS:
            how = self.name, given["axis"], given.get("keepdims", False), up
            saved = {n: autograd.map_gradient(*how, kept) for n, kept in saved.items()}
        else:
            if not ctx.held:  # made now
                operator = getattr(torch.ops.fastxent, self.name)
                call = given | saved | self.nothing_asked
                if "wrt" in given:
                    needed = [ctx.needs_input_grad[self.names.index(n)] for n in self.inputs]
                    call["wrt"] = ",".join(itertools.compress(self.inputs, needed))
                if self.sums_rows(given):
                    call, up = autograd.weighted_rows(call, up), torch.ones(())
                _, *grads = operator(**call, held=True)
                saved = dict(zip(self.differentiated(call), grads, strict=True))
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


def _shapes(known: _Operator, given: Given, held: bool) -> Iterator[Any]:
    """Shape and type of each result, as the contract has them."""
    inputs = [given[name] for name in known.inputs]
    x, loss_type = inputs[0], _loss_type(inputs)
    rows, axis = list(x.shape), given.get("axis", -1)
    if not known.name.startswith("binary"):
        del rows[axis]
    if known.name == "logsumexp":
        if given["keepdims"]:
            rows.insert(axis % x.ndim, 1)
        yield rows, _own_type(x)
        return
    if known.name in autograd.GRADIENTS:
        yield x.shape, _own_type(x)
        return
    yield rows if given["reduction"] == "none" else [], loss_type
    if held or given["return_grad"]:
        for tensor in [given[name] for name in known.differentiated(given)]:
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


def _refusing_tangents(known: _Operator, kernel: Function) -> Function:
    """The part of an operator that autograd calls, which would leave tangents out in silence."""

    def checked(keyset: Any, *args: Any) -> Any:
        if refusals.may_have_tangents():
            for name, value in zip(known.names, args, strict=False):
                if isinstance(value, torch.Tensor):
                    refusals.tangent(name, value)
        return kernel(keyset, *args)

    return checked


_LIBRARY = torch.library.Library("fastxent", "DEF")

for _name, _new in _OPERATORS.items():
    _LIBRARY.define(_name + _new.schema(), tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(_name, _new.compute, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastxent::{_name}", _new.fake, lib=_LIBRARY)
    # What torch.library.register_autograd makes: the one place where tangents can be seen.
    _kernel = make_autograd_impl(
        getattr(torch.ops.fastxent, _name).default, Info(_new.backward, _new.setup_context)
    )
    _LIBRARY.impl(_name, _refusing_tangents(_new, _kernel), "Autograd", with_keyset=True)
