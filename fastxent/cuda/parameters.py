"""Kinds of kernel parameters, from which a kernel's signature and packed arguments are made.

A kernel annotates its parameters with these kinds, or with a NamedTuple whose fields are annotated
with them: such a record is one argument of the kernel. A launch passes arguments by name.
"""

import functools
import inspect
import math
import struct
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, get_type_hints

import numpy as np
from numba import types

from fastxent.device_array import DeviceArray, Pointer

Address = Annotated[Pointer | DeviceArray | None, "address"]  # of device memory; 0 for None
Step = Annotated[int, "step"]  # of addresses, in bytes
Integer = Annotated[int, "integer"]
Number = Annotated[float, "number"]  # of the type of the arithmetic
Double = Annotated[float, "double"]
_TYPES = {
    "address": types.uint64, "step": types.uint64, "integer": types.int64, "double": types.float64,
}  # fmt: skip
# Of each type how it is packed, in eight bytes.
_FORMATS = {types.uint64: "Q", types.int64: "q", types.float32: "f4x", types.float64: "d"}
_namedtuple: Any = types.NamedTuple


class Rows(NamedTuple):
    """Rows of a (N, C) array: the first one, and the bytes from one to the next.

    Their elements are contiguous; or, in columns, `step` bytes apart: then `inner` rows are
    contiguous, as in (N, C, H, W), and the next `inner` rows begin `outer_pitch` bytes after these.
    An absent array is passed as zeros.
    """

    address: Address
    pitch: Step
    step: Step = 0
    inner: Integer = 0
    outer_pitch: Step = 0


class Labels(NamedTuple):
    """Contiguous class indices, how they are stored, and which one is ignored, if any.

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

    At i itself for a period of 0; `number` where there is no array. With an outer_period, for
    weights of other axes before these, (i // outer_inner % outer_period) · period further on.
    """

    address: Address = None
    number: Number = 1.0
    inner: Integer = 1
    period: Integer = 0
    outer_inner: Integer = 1
    outer_period: Integer = 0


class Factor(NamedTuple):
    """A number, and its product with log2(e) in two parts for exponentials of float32.

    `low`, what is missing in the first part, is positive: times -inf it is -inf.
    """

    value: Number
    exponent: Number
    low: Number

    @classmethod
    @functools.lru_cache(maxsize=64)  # mostly of 1, at every call that is not repeated by a plan
    def of(cls, value: float) -> "Factor":
        """The Factor of a positive number; if float32 cannot hold it, only `value` is valid."""
        product, limits = value / math.log(2.0), np.finfo(np.float32)
        exponent = np.float32(min(product, float(limits.max)))
        if float(exponent) >= product:  # in float64: NumPy would round a float to float32 first
            exponent = np.nextafter(exponent, np.float32(0))
        low = max(product - float(exponent), float(limits.smallest_subnormal))
        return cls(value, float(exponent), low)


class Inverse(NamedTuple):
    """1 / D for the divisor D of a reduction, 0 if D is 0: on the GPU, or a number."""

    address: Address
    number: Number


class ClipLimits(NamedTuple):
    """The limits of `fastxent.options.Clip`."""

    low: Number
    high: Number
    below: Number
    above: Number
    most: Number
    floor: Number


class ElementOutputs(NamedTuple):
    """The outputs of a binary loss: sums (blocks, 2) of the losses, or one number an element."""

    sums: Address
    loss: Address
    grad: Address
    probs: Address
    hess: Address


class DivisorOutputs(NamedTuple):
    """A divisor, its inverse, and the report of the first bad row and its label, 0 without one."""

    divisor: Address
    inverse: Address
    report: Address


class Parameter(NamedTuple):
    """A kernel's parameter: its name, its record (None: one value), the kinds of its values.

    `addresses` are the positions of addresses among the values.
    """

    name: str
    record: type | None
    kinds: tuple[str, ...]
    addresses: tuple[int, ...]


class Signature(NamedTuple):
    """The parameters of a kernel, their Numba types, and the layout of the packed arguments."""

    parameters: tuple[Parameter, ...]
    names: frozenset[str]
    types: tuple[Any, ...]
    value_types: tuple[Any, ...]  # of the values, of which a record has several
    layout: struct.Struct

    def check(self, arguments: dict[str, Any]) -> None:
        """Raise unless the arguments have the names of the parameters."""
        if arguments.keys() != self.names:
            wrong = ", ".join(sorted(arguments.keys() ^ self.names))
            raise TypeError(f"a kernel is launched with arguments missing or unknown: {wrong}")

    def pack(self, arguments: dict[str, Any]) -> tuple[list[Any], list[tuple[int, Pointer]]]:
        """The values of all arguments in order, and the pointers among them by position.

        None is packed as zeros. Addresses are pointers or arrays, so that a cached plan can replace
        them.
        """
        values: list[Any] = []
        pointers: list[tuple[int, Pointer]] = []
        for name, record, kinds, addresses in self.parameters:
            argument, first = arguments[name], len(values)
            if argument is None:
                values += [0] * len(kinds)
                continue
            if record is None:
                values.append(argument)
            else:
                values += argument
            for position in addresses:
                value = values[first + position]
                pointer = value.pointer if type(value) is DeviceArray else value
                if type(pointer) is Pointer:
                    pointers.append((first + position, pointer))
                    values[first + position] = pointer.address
                elif pointer is None:
                    values[first + position] = 0
                else:
                    raise TypeError(f"{name} must be a pointer, got {value!r}")
        return values, pointers


def signature_of(kernel: Callable[..., Any], compute: Any) -> Signature:
    """The signature of a kernel that computes in this type."""
    types_of = {**_TYPES, "number": compute}
    parameters, argument_types, value_types = [], [], []
    for parameter in inspect.signature(kernel).parameters.values():
        record, kinds = _record_and_kinds(parameter.annotation)
        addresses = tuple(k for k, kind in enumerate(kinds) if kind == "address")
        parameters.append(Parameter(parameter.name, record, kinds, addresses))
        own = [types_of[kind] for kind in kinds]
        argument_types.append(own[0] if record is None else _namedtuple(own, record))
        value_types += own
    return Signature(
        tuple(parameters), frozenset(p.name for p in parameters), tuple(argument_types),
        tuple(value_types), struct.Struct("<" + "".join(_FORMATS[kind] for kind in value_types)),
    )  # fmt: skip


@functools.cache
def _record_and_kinds(annotation: Any) -> tuple[type | None, tuple[str, ...]]:
    if hasattr(annotation, "__metadata__"):
        return None, annotation.__metadata__
    hints = get_type_hints(annotation, include_extras=True)
    return annotation, tuple(hints[name].__metadata__[0] for name in annotation._fields)
