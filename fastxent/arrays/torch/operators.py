"""The public functions as operators of torch.library, which PyTorch keeps in its graphs.

torch.compile, torch.export, make_fx, torch.jit.trace, functionalize and fake tensors record
operators alone. Eager calls do not use them: an operator costs more than a node of autograd. An
operator takes what its function takes, without buffers, and `with_grads`: whether gradients come
with the loss, for autograd to multiply. It returns a list, without results that are None.
"""

import contextlib
import itertools
import numbers
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch._library.autograd import Info, make_autograd_impl

from fastxent import errors, options
from fastxent.arrays import foreign, views
from fastxent.arrays.torch import batches, gradients, maps, memory, refusals, second, storage
from fastxent.arrays.torch.storage import DTYPES
from fastxent.functions import FUNCTIONS, NUMBERS, Arguments, Function, Role
from fastxent.records import LinearGrad
from fastxent.results import Type


def compiled(eager: Callable[..., Any], function: Function, *args: Any, **kwargs: Any) -> Any:
    """The results of eager(function, ...), as operators in the graph that Dynamo is making."""
    operator = _OPERATORS[function.name]
    arguments = dict(zip(operator.positional, args, strict=False)) | kwargs
    if memory.is_transforming() and len(arguments) == len(args) + len(kwargs):
        return _transformed(function.name, tuple(arguments), *arguments.values())
    buffers = [arguments.pop(name, None) for name in operator.left_out if name in arguments]
    wrong = len(arguments) + len(buffers) != len(args) + len(kwargs)
    arguments = operator.other_defaults | arguments
    for name, number in operator.float_defaults.items():
        if name not in arguments:
            arguments[name] = float(number)
    if wrong or any(buffer is not None for buffer in buffers) or not operator.takes(arguments):
        from fastxent.arrays.torch.outside import outside

        return outside(eager, function, *args, **kwargs)
    first = arguments[operator.inputs[0]]
    for name in operator.arrays:
        value = arguments[name]
        if value is None or isinstance(value, torch.Tensor):
            continue
        if first.is_cuda:
            arguments[name] = _filled(value, first)
        else:
            arguments[name] = torch.as_tensor(np.asarray(value), device=first.device)
    return _called(operator, arguments)


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def _transformed(name: str, names: tuple[str, ...], *values: Any) -> Any:
    """A call within transforms of torch.func, which is one node of the graph that Dynamo makes.

    What follows Dynamo runs the transforms, and finds the nodes of `second` in them.
    """
    from fastxent.arrays.torch import functional

    return functional.call(FUNCTIONS[name], dict(zip(names, values, strict=True)))


def traced(function: Function, arguments: Arguments) -> Any:
    """The results of a call whose tensors may have no numbers yet: fake ones, or a graph's."""
    operator = _OPERATORS[function.name]
    for name in operator.left_out:
        if arguments.get(name) is not None and arguments[name] is not False:
            raise errors.buffer_in_graph(name, arguments[name])
    arguments = {n: value for n, value in arguments.items() if n not in operator.left_out}
    if missing := [n for n in operator.names[:-1] if n not in operator.defaults | arguments]:
        raise errors.missing_argument(function.name, missing[0])
    if unknown := arguments.keys() - set(operator.names):
        raise errors.unknown_argument(function.name, unknown.pop())
    if not isinstance(arguments[operator.inputs[0]], torch.Tensor):
        return function(**arguments)  # which raises the error for it
    return _called(operator, operator.converted(operator.defaults | arguments))


def _called(operator: "_Operator", arguments: Arguments) -> Any:
    """The operator's results as the function returns them; `arguments` are all of its own."""
    if "wrt" in arguments and not isinstance(arguments["wrt"], str):
        arguments["wrt"] = ",".join(arguments["wrt"])
    function, run = operator.function, getattr(torch.ops.fastxent, operator.function.name)
    requested = [n for n in function.results[1:] if arguments[f"return_{n}"]]
    inputs = {n: arguments[n] for n in operator.inputs if arguments[n] is not None}
    if operator.is_product:
        arguments = arguments | {name: tensor.detach() for name, tensor in inputs.items()}
        return operator.results(run(**arguments, with_grads=False), [], arguments)
    needed = [name for name, tensor in inputs.items() if tensor.requires_grad]
    if not torch.is_grad_enabled() or not needed:
        return operator.results(run(**arguments, with_grads=False), requested, arguments)
    # The other results are computed apart from the loss, for they are not in the graph.
    alone = arguments | operator.no_requests
    if "wrt" in arguments:
        alone["wrt"] = ",".join(needed)
    loss = run(**alone, with_grads=True)[0]
    if not requested:
        return loss
    detached = {name: tensor.detach() for name, tensor in inputs.items()}
    found = run(**arguments | detached, with_grads=False)
    _, *others = operator.results(found, requested, arguments)
    return loss, *others


def _filled(value: Any, first: torch.Tensor) -> torch.Tensor:
    """A number beside tensors on a GPU, which is written there: nothing is copied."""
    return torch.full((), float(value), dtype=torch.float64, device=first.device)


def _constant(name: str, value: Any, first: torch.Tensor, role: Role) -> torch.Tensor:
    """A value that is no tensor as one on the first argument's device, a copy for the graph."""
    if first.is_cuda and role in NUMBERS and isinstance(value, numbers.Real):
        return _filled(value, first)
    array = foreign.array(value, name)
    if first.is_cuda or not (first.is_cpu or refusals.is_virtual(first)):
        raise errors.host_value_beside(name, value, first.device)
    if not array.size and role is Role.TARGET and not isinstance(value, np.ndarray):
        array = array.astype(np.int64)  # an empty list has no type of its own
    if array.dtype == np.longdouble or array.dtype.name == "bfloat16":
        array = array.astype(np.float64)  # which holds it, or is what it would be computed in
    try:
        tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    except TypeError:
        raise errors.not_real(name, array.dtype) from None
    return tensor.to(first.device)


# --- operators ------------------------------------------------------------------------------


# The annotation of a parameter that holds no array -> its type in a schema, and the Python types
# that an operator takes for it.
_TYPES: dict[Any, tuple[str, tuple[type, ...]]] = {
    int: ("int", (int,)),
    int | None: ("int?", (int, type(None))),
    float: ("float", (float, int)),
    float | None: ("float?", (float, int, type(None))),
    bool: ("bool", (bool,)),
    str: ("str", (str,)),
    str | tuple[str, ...]: ("str", (str, tuple)),  # names, joined into one text
}
_TENSOR: tuple[str, tuple[type, ...]] = ("Tensor?", ())
_TENSORS: tuple[str, tuple[type, ...]] = ("Tensor?[]", (LinearGrad, tuple, list))
# The first of those types -> which other values stand for one, and the conversion to it.
_STANDS_FOR: dict[type, tuple[Any, Callable[[Any], Any]]] = {
    int: (np.integer, int), float: (numbers.Real, float), bool: ((np.bool_, int, np.integer), bool),
    str: (str, str),
}  # fmt: skip


def _check_device(name: str, tensor: torch.Tensor, first: torch.Tensor) -> None:
    if tensor.device != first.device:
        raise errors.not_beside(name, tensor.device, first.device)


class _Operator:
    """The parts of one operator that torch.library takes: results, their shapes, the derivative."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.left_out = function.with_role(Role.BUFFER, Role.BUFFER_FLAG)
        parameters = {n: p for n, p in function.parameters.items() if n not in self.left_out}
        self.lists = tuple(n for n in function.arrays if n in function.compound)
        self.arrays = tuple(n for n in function.arrays if n not in self.lists)
        self.names = [*parameters, "with_grads"]
        arrays = dict.fromkeys(self.arrays, _TENSOR) | dict.fromkeys(self.lists, _TENSORS)
        self.kinds = {
            name: arrays[name] if name in arrays else _TYPES[p.annotation]
            for name, p in parameters.items()
        }
        defaults = {n: v for n, v in function.defaults().items() if n not in self.left_out}
        self.defaults = {n: ",".join(v) if type(v) is tuple else v for n, v in defaults.items()}
        # As text: torch.compile makes a float that it finds in a dict an input of the graph, if
        # shapes are dynamic, and traces once more when the operator turns out to want a number.
        self.float_defaults = {n: repr(v) for n, v in self.defaults.items() if type(v) is float}
        self.other_defaults = {
            n: v for n, v in self.defaults.items() if n not in self.float_defaults
        }
        self.types = {name: types for name, (_, types) in self.kinds.items()}
        self.inputs = function.inputs
        # Whether its result is a derivative, that nothing flows through.
        self.is_product = function.out is not None and function.out.is_derivative
        self.positional = function.positional
        self.no_requests = dict.fromkeys(function.with_role(Role.REQUEST), False)

    def converted(self, arguments: Arguments) -> Arguments:
        """All arguments as the schema has them; raises for a value of another kind."""
        first = arguments[self.inputs[0]]
        for name, types in self.types.items():
            value = arguments[name]
            if isinstance(value, torch.Tensor) and not types:
                self.check(name, value, first)
            elif not types:
                role = self.function.roles[name]
                arguments[name] = None if value is None else _constant(name, value, first, role)
            elif name in self.lists:
                arguments[name] = self.parts(name, value, first)
            elif tuple in types:
                names = value.split(",") if isinstance(value, str) else value
                arguments[name] = ",".join(options.some_of(names, name, self.inputs))
            elif type(value) not in types:
                others, convert = _STANDS_FOR[types[0]]
                if not isinstance(value, others) or isinstance(value, np.timedelta64):
                    raise errors.wrong_type(name, types[0].__name__, value)
                arguments[name] = convert(value)
        if "axis" in arguments:
            self.check_axis(arguments["axis"], first)
        return arguments

    def parts(self, name: str, value: Any, first: torch.Tensor) -> list[torch.Tensor | None]:
        """A tuple with a part for each input, as tensors or None."""
        if not isinstance(value, tuple) or len(value) != len(self.inputs):
            raise errors.vector_kind(self.inputs, value)
        found: list[torch.Tensor | None] = []
        for of, part in zip(self.inputs, value, strict=True):
            part_name = f"{name}.{of}"
            if isinstance(part, torch.Tensor):
                self.check(part_name, part, first)
            elif part is not None:
                part = _constant(part_name, part, first, self.function.roles[name])
            found.append(part)
        return found

    def check(self, name: str, tensor: torch.Tensor, first: torch.Tensor) -> None:
        """Raise for a tensor that no operator computes on, and for a gradient it would drop."""
        with contextlib.suppress(refusals.Virtual):
            refusals.kind(name, tensor)
        if name not in self.inputs:
            refusals.gradient(name, tensor)
        elif tensor.is_complex():
            raise errors.no_precision(name, DTYPES[tensor.dtype])
        _check_device(name, tensor, first)
        if refusals.may_have_tangents():
            refusals.tangent(name, tensor)

    def check_axis(self, axis: int, first: torch.Tensor) -> None:
        """Raise for an axis that the first argument does not have."""
        if not first.ndim:
            raise errors.no_class_axis(self.inputs[0])
        if not -first.ndim <= axis < first.ndim:
            raise errors.no_such_axis(axis, tuple(first.shape), self.inputs[0])

    def takes(self, arguments: Arguments) -> bool:
        """Whether these are all arguments, and of kinds that the schema has.

        If not they are wrong, or the function itself converts them.
        """
        if arguments.keys() != self.types.keys():
            return False
        if refusals.may_have_tangents():
            return False
        first = arguments[self.inputs[0]]
        if not (first.is_cpu or first.is_cuda):
            return False
        for name, types in self.types.items():
            value = arguments[name]
            if name in self.lists:
                parts = value if isinstance(value, tuple) else (value,)
                tensors = [part for part in parts if isinstance(part, torch.Tensor)]
                n_missing = sum(part is None for part in parts)
                if len(parts) != len(self.inputs) or len(tensors) + n_missing != len(parts):
                    return False
                if any(t.requires_grad or t.device != first.device for t in tensors):
                    return False
            elif types:
                if type(value) not in types:
                    return False
            elif isinstance(value, torch.Tensor):
                if (
                    type(value) not in storage.ORDINARY or value.device != first.device
                    or value.layout != torch.strided
                    or value.requires_grad and name not in self.inputs
                ):  # fmt: skip
                    return False
            elif isinstance(value, (list, tuple)) and not len(value):
                return False
            elif value is not None and first.is_cuda and not self.takes_number(name, value):
                return False
        axis, rank = arguments.get("axis", -1), first.ndim
        return bool(-rank <= axis < rank)

    def takes_number(self, name: str, value: Any) -> bool:
        """Whether a value stands for an array beside arrays on a GPU: a number may."""
        return self.function.roles[name] in NUMBERS and type(value) in (int, float)

    def schema(self) -> str:
        """The parameters of the function, in the language of torch.library.

        Without defaults: PyTorch leaves them out and then miscounts the gradients.
        """
        described = (f"{schema} {name}" for name, (schema, _) in self.kinds.items())
        return f"({', '.join(described)}, bool with_grads) -> Tensor[]"

    def bound(self, args: Any, kwargs: Arguments) -> tuple[Arguments, bool]:
        """The arguments by name, and whether gradients come with the loss."""
        arguments = dict(zip(self.names, args, strict=False)) | kwargs
        with_grads = arguments.pop("with_grads") and self.function.is_loss
        return arguments, with_grads and not self.sums_rows(arguments)

    def sums_rows(self, arguments: Arguments) -> bool:
        """Whether gradients are sums over losses by row, and so wait for the losses' gradients."""
        return len(self.inputs) > 1 and arguments["reduction"] == "none"

    def compute(self, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        """The results."""
        return list(_flat(memory.detached(self.function, self.call(args, kwargs))))

    def compute_on_gpu(self, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        """The results on CUDA tensors: a launch plan of the call is run before views are made.

        On PyTorch's current stream, from this thread. While that is captured labels are not checked
        and nothing waits, so that the operators may stand in a CUDA graph.
        """
        arguments = self.call(args, kwargs)
        first = arguments[self.inputs[0]]
        results, key = memory.gpu().run_cached(self.function, arguments, first)
        if results is None:
            results = memory.detached(self.function, arguments, key=key)
        return list(_flat(results))

    def call(self, args: Any, kwargs: Arguments) -> Arguments:
        """The arguments of the function, from those of the operator."""
        arguments, with_grads = self.bound(args, kwargs)
        if with_grads:
            arguments = gradients.without_half(self.function, arguments) | {"return_grad": True}
        if "wrt" in arguments:
            arguments["wrt"] = tuple(arguments["wrt"].split(","))
        for name in self.lists:
            arguments[name] = LinearGrad(*arguments[name])
        return arguments

    def results(self, found: list[Any], requested: list[str], arguments: Arguments) -> Any:
        """The operator's results as the function returns them."""
        if self.is_product and len(self.inputs) > 1:
            by_name = dict(zip(self.differentiated(arguments), found, strict=True))
            return LinearGrad(*map(by_name.get, self.inputs))
        if not requested:
            return found[0]
        if requested[0] == "grad" and len(self.inputs) > 1:
            made = self.differentiated(arguments)
            parts = [found[1 + made.index(n)] if n in made else None for n in self.inputs]
            found = [found[0], LinearGrad(*parts), *found[len(made) + 1 :]]
        return tuple(found)

    def differentiated(self, arguments: Arguments) -> list[str]:
        """The inputs that gradients are made with respect to, if any are."""
        names = arguments["wrt"].split(",") if "wrt" in arguments else self.inputs
        return [name for name in self.inputs if name in names and arguments[name] is not None]

    def fake(self, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        """Tensors of the results' shapes and types."""
        arguments, with_grads = self.bound(args, kwargs)
        first = arguments[self.inputs[0]]
        for name in self.arrays:
            if arguments[name] is not None:
                _check_device(name, arguments[name], first)
        shapes = self.shapes(arguments, with_grads)
        return [first.new_empty(shape, dtype=dtype) for shape, dtype in shapes]

    def shapes(self, arguments: Arguments, with_grads: bool) -> Iterator[Any]:
        """Shape and type of each result, by the description of the function."""
        function = self.function
        inputs = [arguments[name] for name in self.inputs]
        x, types = inputs[0], _types_of(inputs)
        how = {
            "axis": arguments.get("axis", -1), "reduction": arguments.get("reduction", "none"),
            "keepdims": arguments.get("keepdims", False),
        }  # fmt: skip
        for name in function.results:
            if name == "grad" or self.is_product:
                if self.is_product or with_grads or arguments["return_grad"]:
                    yield from self.gradient_shapes(arguments, with_grads)
            elif name == function.results[0] or not with_grads and arguments[f"return_{name}"]:
                yield function.shape(name, x.shape, **how), types[function.result(name).type]

    def gradient_shapes(self, arguments: Arguments, with_grads: bool) -> Iterator[Any]:
        """Shape and type of the gradient, one for each input that it is made with respect to."""
        for name in self.differentiated(arguments):
            tensor = arguments[name]
            half = with_grads and tensor.dtype == torch.float16
            yield tensor.shape, torch.float32 if half else _own_type(tensor)

    def setup_context(self, ctx: Any, inputs: Any, output: list[torch.Tensor]) -> None:
        """Save what the derivative needs."""
        ctx.arguments, ctx.with_grads = self.bound(inputs, {})
        names = self.differentiated(ctx.arguments)
        tensors = {n: ctx.arguments.pop(n) for n in self.arrays if ctx.arguments[n] is not None}
        if self.is_product:
            return
        for name in tensors.keys() - set(self.inputs):  # of a program that was made before
            refusals.gradient(name, tensors[name])
        needed = [n for n in self.inputs if ctx.needs_input_grad[self.names.index(n)]]
        # For a second derivative: referred to, not saved, as in an eager call.
        ctx.inputs, ctx.versions = tensors, tuple(batches.versions_of(tensors.values()))
        # A program may have been exported when other inputs required grad.
        ctx.with_grads = ctx.with_grads and set(needed) <= set(names)
        if ctx.with_grads:
            grads = dict(zip(names, output[1:], strict=True))
            tensors = {n: grads[n] for n in needed}
        elif not self.function.is_loss and maps.saves_result(self.function):
            tensors = {self.inputs[0]: output[0]}
        ctx.saved = list(tensors)
        ctx.save_for_backward(*tensors.values())

    def backward(self, ctx: Any, ups: list[Any]) -> tuple[Any, ...]:
        """The gradients of the first result, in the order of the parameters."""
        if self.is_product:
            raise errors.no_third_derivative()
        arguments = dict.fromkeys(self.arrays) | ctx.arguments
        saved = dict(zip(ctx.saved, ctx.saved_tensors, strict=True))
        if self.function.is_loss and torch.is_grad_enabled():
            grads = self.differentiable(ctx, ups[0])
        elif self.function.is_loss:
            grads = self.loss_gradients(ctx, ups[0], arguments, saved)
        else:
            how = self.function, arguments["axis"], arguments.get("keepdims", False), ups[0]
            grads = {n: maps.map_gradient(*how, tensor) for n, tensor in saved.items()}
        return tuple(grads.get(n) for n in self.names)

    def differentiable(self, ctx: Any, up: Any) -> dict[str, Any]:
        """The gradients of a loss in the graph of a second derivative."""
        arguments = gradients.without_requests(self.function, ctx.arguments | ctx.inputs)
        arguments.pop("wrt", None)
        call, tensors = batches.packed(self.function, arguments)
        versions = dict(zip(ctx.inputs, ctx.versions, strict=True))
        call.versions = tuple(versions[name] for name in call.names)
        needed = tuple(n for n in self.inputs if ctx.needs_input_grad[self.names.index(n)])
        found = second.Gradient.apply(call, second.Of(needed), up, *tensors)
        return dict(zip(needed, found, strict=True))

    def loss_gradients(
        self, ctx: Any, up: Any, arguments: Arguments, saved: Arguments
    ) -> dict[str, Any]:
        """The saved gradients of a loss, or those made now, times the loss's own gradient."""
        if not ctx.with_grads:
            call = arguments | saved | self.no_requests
            if "wrt" in arguments:
                needed = [ctx.needs_input_grad[self.names.index(n)] for n in self.inputs]
                call["wrt"] = ",".join(itertools.compress(self.inputs, needed))
            if self.sums_rows(arguments):
                call, up = gradients.weighted_rows(call, up), up.new_ones(())
            _, *grads = getattr(torch.ops.fastxent, self.function.name)(**call, with_grads=True)
            saved = dict(zip(self.differentiated(call), grads, strict=True))
        axis = None if not up.ndim else gradients.rows_axis(self.function, arguments)
        factor = up if axis is None else up.unsqueeze(axis)
        return {n: gradients.masked_product(grad, factor) for n, grad in saved.items()}


def _flat(result: Any) -> Iterator[torch.Tensor]:
    for part in views.parts(result):
        if isinstance(part, tuple):
            yield from _flat(part)
        elif part is not None:
            yield part


def _own_type(tensor: torch.Tensor) -> torch.dtype:
    return tensor.dtype if tensor.is_floating_point() else torch.float64


def _types_of(inputs: list[Any]) -> dict[Type, torch.dtype]:
    """The types of results of these inputs."""
    own = {_own_type(tensor) for tensor in inputs if tensor is not None}
    loss = torch.float64 if torch.float64 in own else torch.float32
    return {Type.OWN: _own_type(inputs[0]), Type.LOSS: loss, Type.INDEX: torch.int64}


_OPERATORS = {name: _Operator(function) for name, function in FUNCTIONS.items()}


def _refusing_tangents(operator: _Operator, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The part of an operator that autograd calls, which would drop tangents silently."""

    def checked(keyset: Any, *args: Any) -> Any:
        if refusals.may_have_tangents():
            for name, value in zip(operator.names, args, strict=False):
                if isinstance(value, torch.Tensor):
                    refusals.tangent(name, value)
        return kernel(keyset, *args)

    return checked


_LIBRARY = torch.library.Library("fastxent", "DEF")

for _name, _new in _OPERATORS.items():
    _LIBRARY.define(_name + _new.schema(), tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(_name, _new.compute, "CompositeExplicitAutograd")
    _LIBRARY.impl(_name, _new.compute_on_gpu, "CUDA")
    torch.library.register_fake(f"fastxent::{_name}", _new.fake, lib=_LIBRARY)
    # As torch.library.register_autograd makes it: the only place where tangents can be seen.
    _kernel = make_autograd_impl(
        getattr(torch.ops.fastxent, _name).default, Info(_new.backward, _new.setup_context)
    )
    _LIBRARY.impl(_name, _refusing_tangents(_new, _kernel), "Autograd", with_keyset=True)
