"""Kinds of kernel parameters, by which a kernel's signature and packed arguments are made.

A kernel annotates its parameters with these kinds, or with a NamedTuple whose fields are annotated
with them: such a record is one argument of the kernel. A launch passes arguments by name.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, get_type_hints

from numba import types

from fastxent.device_array import DeviceArray, Pointer

Address = Annotated[Pointer | DeviceArray | None, "address"]  # of device memory; 0 for None
Step = Annotated[int, "step"]  # of addresses, in bytes
Integer = Annotated[int, "integer"]
Number = Annotated[float, "number"]  # of the type that is computed in
Double = Annotated[float, "double"]
_namedtuple: Any = types.NamedTuple
_TYPES = {
    "address": types.uint64, "step": types.uint64, "integer": types.int64, "double": types.float64,
}  # fmt: skip


class Rows(NamedTuple):
    """Rows of a (N, C) array whose elements lie side by side: the first one, and bytes to the next.

    A kernel is given zeros for an array that is absent.
    """

    address: Address
    pitch: Step


class Labels(NamedTuple):
    """Class indices side by side, how they are stored, and which one is ignored, if any.

    kind is 2·log2(bytes), and 1 more for unsigned ones. For targets that are probabilities, address
    and kind are the address and the pitch of their rows.
    """

    address: Address
    kind: Integer
    ignoring: Integer
    ignored: Integer


class Strided(NamedTuple):
    """An array of rank 4 of any type and layout: its kind, all sizes but the first, its strides."""

    address: Address
    kind: Integer
    size_1: Integer
    size_2: Integer
    size_3: Integer
    stride_0: Integer
    stride_1: Integer
    stride_2: Integer
    stride_3: Integer


class Weight(NamedTuple):
    """Weights that broadcast over an array: that of element i is at i // inner % period.

    At i itself for a period of 0; `number` where there is no array.
    """

    address: Address = None
    number: Number = 1.0
    inner: Integer = 1
    period: Integer = 0


class Inverse(NamedTuple):
    """1 / D for the divisor D of a reduction, 0 if D is 0: on the GPU, or a number."""

    address: Address
    number: Number


class ClipLimits(NamedTuple):
    """The limits of `fastxent.terms.Clip`."""

    low: Number
    high: Number
    below: Number
    above: Number
    most: Number
    floor: Number


class Parameter(NamedTuple):
    """A kernel's parameter: its name, its record (None: one value), the kinds of its values."""

    name: str
    record: type | None
    kinds: tuple[str, ...]

    def numba_type(self, compute: Any) -> Any:
        """Its type in a kernel that computes in this type."""
        value_types = self.value_types(compute)
        if self.record is None:
            return value_types[0]
        return _namedtuple(value_types, self.record)

    def value_types(self, compute: Any) -> tuple[Any, ...]:
        """The types of its values."""
        return tuple({**_TYPES, "number": compute}[kind] for kind in self.kinds)


def parameters_of(kernel: Callable[..., Any]) -> tuple[Parameter, ...]:
    """The parameters of a kernel."""
    return tuple(
        Parameter(p.name, *_record_and_kinds(p.annotation))
        for p in inspect.signature(kernel).parameters.values()
    )


@functools.cache
def _record_and_kinds(annotation: Any) -> tuple[type | None, tuple[str, ...]]:
    if hasattr(annotation, "__metadata__"):
        return None, annotation.__metadata__
    hints = get_type_hints(annotation, include_extras=True)
    return annotation, tuple(hints[name].__metadata__[0] for name in annotation._fields)


def packed(
    parameters: tuple[Parameter, ...], arguments: dict[str, Any]
) -> tuple[list[Any], list[tuple[int, Pointer]]]:
    """The values of arguments one behind the other, and the pointers among them by position.

    An argument of None is zeros. Addresses are given as pointers or arrays alone: a plan that is
    cached replaces them.
    """
    values: list[Any] = []
    pointers: list[tuple[int, Pointer]] = []
    for parameter in parameters:
        argument = arguments[parameter.name]
        if argument is None:
            values.extend([0] * len(parameter.kinds))
            continue
        for kind, value in zip(
            parameter.kinds, argument if parameter.record else (argument,), strict=True
        ):
            if kind == "address" and value is not None:
                pointer = value.pointer if type(value) is DeviceArray else value
                if type(pointer) is not Pointer:
                    raise TypeError(f"{parameter.name} must be a pointer, got {value!r}")
                pointers.append((len(values), pointer))
                values.append(pointer.address)
            else:
                values.append(0 if value is None else value)
    return values, pointers
