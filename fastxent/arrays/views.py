"""What families share: arguments by name, arrays as NumPy sees them, results given back."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fastxent.terms import LinearGrad

Function = Callable[..., Any]
Given = dict[str, Any]

# The bodies of all public functions, for families that have to know them beforehand; and of each
# the function that a user calls.
FUNCTIONS: list[Function] = []
_PUBLIC: dict[Function, Function] = {}
BUFFERS = ("out", "grad_out", "probs_out")
ON_GPU = (2, 13)  # kDLCUDA and kDLCUDAManaged in dlpack.h


def join(function: Function, public: Function) -> None:
    """A public function, and its body, are there."""
    FUNCTIONS.append(function)
    _PUBLIC[function] = public


def public(function: Function) -> Function:
    """The public function of a body."""
    return _PUBLIC[function]


def body(name: str) -> Function:
    """The body of a public function by its name, under which any process finds it."""
    return next(function for function in FUNCTIONS if function.__name__ == name)


@functools.cache
def positional(function: Function) -> tuple[str, ...]:
    """The names of the parameters that may be given by position."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)


def named(function: Function, args: tuple[Any, ...], kwargs: Given) -> Given | None:
    """The arguments by name; None where the function itself has to say what is wrong with them.

    The function's first parameter comes first, for it decides.
    """
    names = positional(function)
    if not kwargs and 0 < len(args) <= len(names):
        return dict(zip(names, args))  # noqa: B905 - to say strict=False takes as long again
    given = dict(zip(names, args, strict=False)) | kwargs
    # Fewer than there were: one too many by position, or one given twice.
    if len(given) != len(args) + len(kwargs):
        return None
    return given if args or names[0] not in given else {names[0]: given[names[0]]} | given


def parts(value: Any) -> Iterator[Any]:
    """The value, or the arrays of which it is a tuple."""
    if isinstance(value, tuple):
        yield from value
    else:
        yield value


def call(function: Function, given: Given, kind: Any, view: Function, back: Function) -> Any:
    """Call with view(a) for each array a of this kind; results go `back`, buffers as they are."""
    if given.keys().isdisjoint(BUFFERS):  # as most calls are: views of plain arguments will do
        plain = {name: view(a) if isinstance(a, kind) else a for name, a in given.items()}
        return given_back(function(**plain), back)
    seen: dict[int, Any] = {}
    buffers: dict[int, Any] = {}

    def look(value: Any) -> Any:
        if isinstance(value, tuple):
            return like(value, map(look, value))
        if not isinstance(value, kind):
            return value
        if id(value) not in seen:  # the same object again: what is in place is known by that
            seen[id(value)] = view(value)
        return seen[id(value)]

    def give(result: Any) -> Any:
        return buffers[id(result)] if id(result) in buffers else back(result)

    views = {name: look(value) for name, value in given.items()}
    for name in BUFFERS:
        for part in parts(given.get(name)):
            if isinstance(part, kind):
                buffers[id(seen[id(part)])] = part
    return given_back(function(**views), give)


def given_back(result: Any, back: Function) -> Any:
    """A result, or the tuple of them, each of its parts sent `back`."""
    if not isinstance(result, tuple):
        return None if result is None else back(result)
    return like(result, [given_back(part, back) for part in result])


def like(value: tuple[Any, ...], parts: Iterable[Any]) -> tuple[Any, ...]:
    """Other parts in a tuple of the same kind."""
    return LinearGrad(*parts) if isinstance(value, LinearGrad) else tuple(parts)
