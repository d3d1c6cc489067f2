"""Helpers of the families: bind arguments by name, make views, convert results back."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fastxent.functions import Arguments, Function
from fastxent.records import LinearGrad

Convert = Callable[[Any], Any]

ON_GPU = (2, 13)  # kDLCUDA and kDLCUDAManaged in dlpack.h


def by_name(function: Function, args: tuple[Any, ...], kwargs: Arguments) -> Arguments | None:
    """Bind arguments by name; None if the function itself raises Python's own error.

    The first parameter, which selects the backend, comes first.
    """
    names = function.positional
    if not kwargs and 0 < len(args) <= len(names):
        return dict(zip(names, args))  # noqa: B905 - strict=False doubles the time
    arguments = dict(zip(names, args, strict=False)) | kwargs
    # Fewer names than arguments: one too many by position, or one passed twice.
    if len(arguments) != len(args) + len(kwargs):
        return None
    first = function.first
    return arguments if args or first not in arguments else {first: arguments[first]} | arguments


def parts(value: Any) -> Iterator[Any]:
    """Yield the value, or the items of a tuple."""
    if isinstance(value, tuple):
        yield from value
    else:
        yield value


def call(function: Function, arguments: Arguments, kind: Any, view: Convert, back: Convert) -> Any:
    """Call with view(a) for each array a of this kind; convert results by `back`, not buffers."""
    if arguments.keys().isdisjoint(function.compound):  # the common case: no tuples, no buffers
        plain = {name: view(a) if isinstance(a, kind) else a for name, a in arguments.items()}
        return converted(function.body(**plain), back)
    views: dict[int, Any] = {}
    buffers: dict[int, Any] = {}

    def look(value: Any) -> Any:
        if isinstance(value, tuple):
            return like(value, map(look, value))
        if not isinstance(value, kind):
            return value
        if id(value) not in views:  # one view per object, which identifies a call in place
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
    """Convert a result, or each item of a tuple of results, by `back`."""
    if not isinstance(result, tuple):
        return None if result is None else back(result)
    return like(result, [converted(part, back) for part in result])


def like(value: tuple[Any, ...], parts: Iterable[Any]) -> tuple[Any, ...]:
    """A tuple of the same class with these items."""
    return LinearGrad(*parts) if isinstance(value, LinearGrad) else tuple(parts)
