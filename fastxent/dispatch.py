"""Array type -> family and backend, by the type alone; imports no library that is not loaded.

The body of a public function is written for views: NumPy arrays and, on a GPU, an object with
the same attributes. A family turns a user's arrays into views, calls that body, and turns the
results back. It gets the whole call, so that it can also record a gradient or build a lazy graph.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from fastxent import forks
from fastxent.backend import Backend, DeviceBackend, HostBackend
from fastxent.device_array import DeviceArray
from fastxent.functions import Function

F = TypeVar("F", bound=Callable[..., Any])


class Family(Protocol):
    """What a module in `fastxent.arrays` offers."""

    def call(self, function: Function, *args: Any, **kwargs: Any) -> Any:
        """Call `function` on views of the arrays among the arguments; return the same kind."""


# The top-level module that a type comes from -> the module with its family. A class of one's own
# joins by `register`.
_FAMILIES: dict[str, str] = {
    "torch": "fastxent.arrays.torch",
    "jax": "fastxent.arrays.jax",
    "jaxlib": "fastxent.arrays.jax",
    "cupy": "fastxent.arrays.cupy",
    "dask": "fastxent.arrays.dask",
}
# The families of arrays from elsewhere that describe their memory to whoever asks.
_ANY_ON_GPU, _ANY = "fastxent.arrays.interface", "fastxent.arrays.dlpack"
# Cache: array type -> module of its family ("" for NumPy); and the modules.
_named: dict[type, str] = {np.ndarray: ""}
_loaded: dict[str, Family | None] = {"": None}


def register(root: str, module: str) -> None:
    """Let the module `module` serve arrays whose type (or a base of it) is defined in `root`."""
    _FAMILIES[root] = module
    _loaded.pop(module, None)
    _named.clear()
    _named[np.ndarray] = ""


def family_of(array: object) -> Family | None:
    """The family of an array; None for NumPy's own and for what NumPy turns into an array."""
    return _loaded[_module_of(type(array))]


def _module_of(kind: type) -> str:
    """The name of the module with a type's family, imported with the first array of it."""
    try:
        return _named[kind]
    except KeyError:
        roots = (base.__module__.partition(".")[0] for base in kind.__mro__)
        speaks = hasattr(kind, "__dlpack__") and hasattr(kind, "__dlpack_device__")
        foreign = speaks and not issubclass(kind, np.ndarray)
        anyone = _ANY if foreign else ""
        if hasattr(kind, "__cuda_array_interface__"):
            anyone = _ANY_ON_GPU
        module = next((_FAMILIES[root] for root in roots if root in _FAMILIES), anyone)
        if module not in _loaded:
            with forks.loading:
                _loaded[module] = cast(Family, importlib.import_module(module))
        _named[kind] = module
        return module


# For torch.compile, which cannot trace an import: what depends on a type alone is a constant to it,
# asked for while it traces the rest, as by torch._dynamo.assume_constant_result.
_module_of._dynamo_marked_constant = True  # type: ignore[attr-defined]


def public(description: Function) -> Callable[[F], F]:
    """Make a function of views the public one, of every family's arrays, chosen by the first.

    It completes the function's description.
    """

    def decorate(body: F) -> F:
        first = description.first

        @functools.wraps(body)
        def function(*args: Any, **kwargs: Any) -> Any:
            array = args[0] if args else kwargs.get(first)
            # NumPy's own arrays are not looked up, which a small call would notice.
            if type(array) is np.ndarray or (family := family_of(array)) is None:
                return body(*args, **kwargs)
            return family.call(description, *args, **kwargs)

        description.complete(body, function)
        return cast(F, function)

    return decorate


@functools.cache
def _backend(name: str) -> Any:
    """A backend, loaded with the first call rather than with the package."""
    with forks.loading:
        return importlib.import_module(f"fastxent.{name}.backend")


def host_backend() -> HostBackend:
    """The backend of NumPy arrays."""
    backend: HostBackend = _backend("cpu")
    return backend


def device_backend() -> DeviceBackend:
    """The backend of arrays on a GPU."""
    backend: DeviceBackend = _backend("cuda")
    return backend


def backend_of(view: object) -> Backend:
    """The backend that computes on this view."""
    return device_backend() if type(view) is DeviceArray else host_backend()
