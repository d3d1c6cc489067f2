"""Array type -> family and backend, by the type alone; imports nothing that is not loaded already.

The body of a public function is written for views: NumPy arrays (and, on a GPU, an object with
the same attributes). A family turns a user's arrays into views, calls that body, and turns the
results back. It sees the call whole, so that it may also record a gradient or build a lazy graph.
"""

import functools
import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol, TypeVar, cast

import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])


class Family(Protocol):
    """What a module in `fastxent.arrays` offers."""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `function` on views of the arrays among the arguments; give back the same kind."""


# The top-level module that a type comes from -> the module with its family. A class of one's own
# joins by `register`.
_FAMILIES: dict[str, str] = {
    "torch": "fastxent.arrays.torch",
    "jax": "fastxent.arrays.jax",
    "jaxlib": "fastxent.arrays.jax",
}
# The family of arrays from elsewhere that describe their memory to whoever asks.
_ANY = "fastxent.arrays.dlpack"
_found: dict[type, Family | None] = {}
_known: dict[type, Family | None] = {np.ndarray: None}


def register(root: str, module: str) -> None:
    """Let the module `module` serve arrays whose type (or a base of it) is defined in `root`."""
    _FAMILIES[root] = module
    _known.clear()
    _known[np.ndarray] = None


def family_of(array: object) -> Family | None:
    """The family of an array; None for NumPy's own and for what NumPy turns into an array."""
    kind = type(array)
    if kind not in _known:
        _find(kind)
        _known[kind] = _found[kind]
    return _known[kind]


def _find(kind: type) -> None:
    """Note the family of a type, imported with the first one of it."""
    roots = (base.__module__.partition(".")[0] for base in kind.__mro__)
    foreign = hasattr(kind, "__dlpack__") and not issubclass(kind, np.ndarray)
    anyone = _ANY if foreign else None
    module = next((_FAMILIES[root] for root in roots if root in _FAMILIES), anyone)
    _found[kind] = None if module is None else cast(Family, importlib.import_module(module))


# torch.compile cannot trace an import: it calls this while it traces the rest, which is why there
# are two tables, and the one read first is not written here.
_find._dynamo_marked_constant = True  # type: ignore[attr-defined]


def dispatched(function: Function) -> Function:
    """Make a function of views a function of every family's arrays, chosen by the first one."""
    first = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def public(*args: Any, **kwargs: Any) -> Any:
        family = family_of(args[0] if args else kwargs.get(first))
        if family is None:
            return function(*args, **kwargs)
        return family.call(function, *args, **kwargs)

    return cast(Function, public)


@functools.cache
def cpu() -> ModuleType:
    """The CPU backend, loaded with the first call rather than with the package."""
    return importlib.import_module("fastxent.cpu.backend")


def backend_of(view: object) -> ModuleType:
    """The backend that computes on this view."""
    return cpu()
