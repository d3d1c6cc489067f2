"""The description of a call in a JAX program: names and options, constants of the program."""

import json
import operator
from typing import Any, NamedTuple

import numpy as np

from fastxent.functions import FUNCTIONS, Function


class Request(NamedTuple):
    """A function, the names of its operands, its options, and the results to compute.

    `arrays` are the names of the operands in order; they are followed by the parts of a `vector`
    for the inputs in `vectors`. `wrt` are the inputs of the derivatives, `extras` the results
    besides loss and gradient. Under `jax.vmap` `groups` are the lengths of the batch axes in front,
    and `grouped` tells for each operand whether it has them. `weighted` tells that the sample
    weights are cotangents.
    """

    function: str
    arrays: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()
    wrt: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    vectors: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    grouped: tuple[bool, ...] = ()
    weighted: bool = False

    @property
    def description(self) -> Function:
        """The description of the function."""
        return FUNCTIONS[self.function]

    def option(self, name: str, default: Any = None) -> Any:
        """The value of an option."""
        return dict(self.options).get(name, default)

    @property
    def is_reduced(self) -> bool:
        """Whether the loss is a number for each group."""
        return bool(self.description.is_loss and self.option("reduction", "mean") != "none")

    def with_options(self, **options: Any) -> "Request":
        """Replace some options."""
        return self._replace(options=tuple(sorted((dict(self.options) | options).items())))

    def text(self) -> str:
        """The request as JSON: an attribute of a program, valid in other processes."""
        return json.dumps(self._asdict(), default=_plain)


def read(text: bytes) -> Request:
    """Read a request from JSON."""
    fields: dict[str, Any] = json.loads(text)
    fields["options"] = [(name, value) for name, value in fields["options"]]
    for name, value in fields.items():
        fields[name] = tuple(value) if isinstance(value, list) else value
    return Request(**fields)


def _plain(value: Any) -> Any:
    """Convert a checked option to a Python number, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    try:
        return operator.index(value)
    except TypeError:
        return float(value)
