"""Arguments of operators: the schema, and the conversion of a call's arguments to it.

An operator has the parameters of its function, without buffers, and `with_grads`.
"""

import contextlib
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fastxent import errors, options
from fastxent.arrays import foreign
from fastxent.arrays.torch import refusals, storage
from fastxent.arrays.torch.storage import DTYPES
from fastxent.functions import NUMBERS, Arguments, Function, Role
from fastxent.records import LinearGrad

# Annotation of a parameter other than arrays -> its type in a schema, and the Python types that an
# operator accepts.
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
# The first of those types -> other types that are accepted, and the conversion from them.
_STANDS_FOR: dict[type, tuple[Any, Callable[[Any], Any]]] = {
    int: (np.integer, int), float: (numbers.Real, float), bool: ((np.bool_, int, np.integer), bool),
    str: (str, str),
}  # fmt: skip


def check_device(name: str, tensor: torch.Tensor, first: torch.Tensor) -> None:
    """Raise for a tensor on another device than the first argument."""
    if tensor.device != first.device:
        raise errors.on_another_device(name, tensor.device, first.device)


def filled(value: Any, first: torch.Tensor) -> torch.Tensor:
    """A 0-d tensor on the first argument's device, filled with a number: nothing is copied."""
    return torch.full((), float(value), dtype=torch.float64, device=first.device)


def _constant(name: str, value: Any, first: torch.Tensor, role: Role) -> torch.Tensor:
    """Convert a value other than a tensor to one on the first argument's device, by a copy."""
    if first.is_cuda and role in NUMBERS and isinstance(value, numbers.Real):
        return filled(value, first)
    array = foreign.array(value, name)
    if first.is_cuda or not (first.is_cpu or refusals.is_virtual(first)):
        raise errors.host_value_with_tensors(name, value, first.device)
    if not array.size and role is Role.TARGET and not isinstance(value, np.ndarray):
        array = array.astype(np.int64)  # an empty list has no type of its own
    if array.dtype == np.longdouble or array.dtype.name == "bfloat16":
        array = array.astype(np.float64)  # PyTorch has no longdouble; bfloat16 is exact in float64
    try:
        tensor = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    except TypeError:
        raise errors.not_real(name, array.dtype) from None
    return tensor.to(first.device)


class OperatorArguments:
    """The arguments of one operator, by names of the function's parameters."""

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
        # As text: with dynamic shapes torch.compile makes a float from a dict an input of the
        # graph, and traces again because the operator needs a constant.
        self.float_defaults = {n: repr(v) for n, v in self.defaults.items() if type(v) is float}
        self.other_defaults = {
            n: v for n, v in self.defaults.items() if n not in self.float_defaults
        }
        self.types = {name: types for name, (_, types) in self.kinds.items()}
        self.inputs = function.inputs
        # Whether the result is a Hessian-vector product, which has no derivative.
        self.is_product = function.out is not None and function.out.is_derivative
        self.positional = function.positional
        self.no_requests = dict.fromkeys(function.with_role(Role.REQUEST), False)

    def converted(self, arguments: Arguments) -> Arguments:
        """Convert all arguments to the types of the schema; raise for invalid values."""
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
                arguments[name] = ",".join(options.checked_names(names, name, self.inputs))
            elif type(value) not in types:
                others, convert = _STANDS_FOR[types[0]]
                if not isinstance(value, others) or isinstance(value, np.timedelta64):
                    raise errors.wrong_type(name, types[0].__name__, value)
                arguments[name] = convert(value)
        if "axis" in arguments:
            self.check_axis(arguments["axis"], first)
        return arguments

    def parts(self, name: str, value: Any, first: torch.Tensor) -> list[torch.Tensor | None]:
        """Convert a tuple with a part for each input to tensors or None."""
        if not isinstance(value, tuple) or len(value) != len(self.inputs):
            raise errors.vector_kind(self.inputs, value)
        tensors: list[torch.Tensor | None] = []
        for of, part in zip(self.inputs, value, strict=True):
            part_name = f"{name}.{of}"
            if isinstance(part, torch.Tensor):
                self.check(part_name, part, first)
            elif part is not None:
                part = _constant(part_name, part, first, self.function.roles[name])
            tensors.append(part)
        return tensors

    def check(self, name: str, tensor: torch.Tensor, first: torch.Tensor) -> None:
        """Raise for an unsupported tensor, and for one whose gradient would be dropped."""
        with contextlib.suppress(refusals.Virtual):
            refusals.kind(name, tensor)
        if name not in self.inputs:
            refusals.gradient(name, tensor)
        elif tensor.is_complex():
            raise errors.no_precision(name, DTYPES[tensor.dtype])
        check_device(name, tensor, first)
        if refusals.may_have_tangents():
            refusals.tangent(name, tensor)

    def check_axis(self, axis: int, first: torch.Tensor) -> None:
        """Raise for an axis that the first argument does not have."""
        if not first.ndim:
            raise errors.no_class_axis(self.inputs[0])
        if not -first.ndim <= axis < first.ndim:
            raise errors.no_such_axis(axis, tuple(first.shape), self.inputs[0])

    def takes(self, arguments: Arguments) -> bool:
        """Whether these are all arguments, of types that the schema accepts.

        If not, they are invalid, or the function itself converts them.
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
        """Whether a number is accepted in place of an array on a GPU."""
        return self.function.roles[name] in NUMBERS and type(value) in (int, float)

    def schema(self) -> str:
        """The operator's schema for torch.library.

        It has no defaults: PyTorch omits arguments equal to defaults, and then miscounts gradients.
        """
        described = (f"{schema} {name}" for name, (schema, _) in self.kinds.items())
        return f"({', '.join(described)}, bool with_grads) -> Tensor[]"

    def bound(self, args: Any, kwargs: Arguments) -> tuple[Arguments, bool]:
        """The arguments by name, and whether gradients are returned with the loss."""
        arguments = dict(zip(self.names, args, strict=False)) | kwargs
        with_grads = arguments.pop("with_grads") and self.function.is_loss
        return arguments, with_grads and not self.sums_rows(arguments)

    def sums_rows(self, arguments: Arguments) -> bool:
        """Whether gradients are sums over unreduced losses, which need the upstream gradients."""
        return len(self.inputs) > 1 and arguments["reduction"] == "none"
