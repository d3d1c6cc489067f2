"""What families share: arguments by name, arrays as NumPy views, results converted back."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fastxent.functions import Arguments, Function
from fastxent.records import LinearGrad

Convert = Callable[[Any], Any]

ON_GPU = (2, 13)  # kDLCUDA and kDLCUDAManaged in dlpack.h


def by_name(function: Function, args: tuple[Any, ...], kwargs: Arguments) -> Arguments | None:
    """The arguments by name; None where the function itself raises Python's own error.

    The first parameter, which decides the backend, comes first.
    """
    names = function.positional
    if not kwargs and 0 < len(args) <= len(names):
        return dict(zip(names, args))  # noqa: B905 - to say strict=False takes as long again
    arguments = dict(zip(names, args, strict=False)) | kwargs
    # Fewer names than arguments: one too many by position, or one given twice.
    if len(arguments) != len(args) + len(kwargs):
        return None
    first = function.first
    return arguments if args or first not in arguments else {first: arguments[first]} | arguments


def parts(value: Any) -> Iterator[Any]:
    """The value, or the arrays of which it is a tuple."""
    if isinstance(value, tuple):
        yield from value
    else:
        yield value


def call(function: Function, arguments: Arguments, kind: Any, view: Convert, back: Convert) -> Any:
    """Call with view(a) for each array a of this kind; results go `back`, buffers as they are."""
    if arguments.keys().isdisjoint(function.compound):  # as in most calls: plain arguments
        plain = {name: view(a) if isinstance(a, kind) else a for name, a in arguments.items()}
        return converted(function.body(**plain), back)
    views: dict[int, Any] = {}
    buffers: dict[int, Any] = {}

    def look(value: Any) -> Any:
        if isinstance(value, tuple):
            return like(value, map(look, value))
        if not isinstance(value, kind):
            return value
        if id(value) not in views:  # one view of one object: a call in place is known by that
            views[id(value)] = view(value)
        return views[id(value)]

    def give(result: Any) -> Any:
        return buffers[id(result)] if id(result) in buffers else back(result)

    viewed = {name: look(value) for name, value in arguments.items()}
    for name in function.buffers:
        for part in parts(arguments.get(name)):
            if isinstance(part, kind):
                buffers[id(views[id(part)])] = part
    return converted(function.body(**viewed), give)


def converted(result: Any, back: Convert) -> Any:
    """A result, or the tuple of them, each of its parts converted by `back`."""
    if not isinstance(result, tuple):
        return None if result is None else back(result)
    return like(result, [converted(part, back) for part in result])


def like(value: tuple[Any, ...], parts: Iterable[Any]) -> tuple[Any, ...]:
    """Other parts in a tuple of the same kind."""
    return LinearGrad(*parts) if isinstance(value, LinearGrad) else tuple(parts)
