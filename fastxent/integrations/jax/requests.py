"""What one call inside a JAX program computes: names and options, which are constants of it."""

import json
import operator
from typing import Any, NamedTuple

import numpy as np

from fastxent.functions import FUNCTIONS, Function


class Request(NamedTuple):
    """A function, which of its arguments are arrays, and which results are made.

    `arrays` are the names of the operands in order; after them come the parts of a `vector` by the
    inputs in `vectors`. `wrt` are the inputs that derivatives are made with respect to, `extras`
    the results beside the loss. Under `jax.vmap` there is a call for each of `groups`, the lengths
    of axes in front; `grouped` says of each operand whether it has them. `weighted` says that the
    weights of the rows are their cotangents.
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
        """An option by its name."""
        return dict(self.options).get(name, default)

    @property
    def is_reduced(self) -> bool:
        """Whether the loss is a number for each group."""
        return bool(self.description.is_loss and self.option("reduction", "mean") != "none")

    def with_options(self, **options: Any) -> "Request":
        """The same with other options."""
        return self._replace(options=tuple(sorted((dict(self.options) | options).items())))

    def text(self) -> str:
        """All of it as an attribute of a program, which another process can read."""
        return json.dumps(self._asdict(), default=_plain)


def read(text: bytes) -> Request:
    """The request of a text."""
    fields: dict[str, Any] = json.loads(text)
    fields["options"] = [(name, value) for name, value in fields["options"]]
    for name, value in fields.items():
        fields[name] = tuple(value) if isinstance(value, list) else value
    return Request(**fields)


def _plain(value: Any) -> Any:
    """A checked option as one of Python's own numbers."""
    if isinstance(value, np.generic):
        return value.item()
    try:
        return operator.index(value)
    except TypeError:
        return float(value)
