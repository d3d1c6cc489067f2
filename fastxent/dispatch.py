"""Dispatch by array type: select the family and the backend without importing other libraries.

The body of a public function works on views: NumPy arrays, or `DeviceArray` on a GPU. A family
converts a library's arrays to views, calls that body, and converts the results back. It receives
the whole call, so it can also record a gradient or build a lazy graph.
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
    """Interface of a module in `fastxent.arrays`."""

    def call(self, function: Function, *args: Any, **kwargs: Any) -> Any:
        """Call `function` on views of the arrays among the arguments; return the same kind."""


# Top-level module of an array type -> module of its family. `register` adds others.
_FAMILIES: dict[str, str] = {
    "torch": "fastxent.arrays.torch",
    "jax": "fastxent.arrays.jax",
    "jaxlib": "fastxent.arrays.jax",
    "cupy": "fastxent.arrays.cupy",
    "dask": "fastxent.arrays.dask",
}
# Families of other arrays: those with CUDA's array interface, and those with DLPack.
_ANY_ON_GPU, _ANY = "fastxent.arrays.interface", "fastxent.arrays.dlpack"
# Cache: array type -> module of its family ("" for NumPy); and the modules.
_named: dict[type, str] = {np.ndarray: ""}
_loaded: dict[str, Family | None] = {"": None}


def register(root: str, module: str) -> None:
    """Use the family in `module` for arrays whose type, or a base of it, is defined in `root`."""
    _FAMILIES[root] = module
    _loaded.pop(module, None)
    _named.clear()
    _named[np.ndarray] = ""


def family_of(array: object) -> Family | None:
    """The family of an array; None for NumPy arrays and for objects that NumPy converts."""
    return _loaded[_module_of(type(array))]


def _module_of(kind: type) -> str:
    """The name of the module of a type's family, which is imported at the first use."""
    try:
        return _named[kind]
    except KeyError:
        roots = (base.__module__.partition(".")[0] for base in kind.__mro__)
        has_dlpack = hasattr(kind, "__dlpack__") and hasattr(kind, "__dlpack_device__")
        foreign = has_dlpack and not issubclass(kind, np.ndarray)
        default = _ANY if foreign else ""
        if hasattr(kind, "__cuda_array_interface__"):
            default = _ANY_ON_GPU
        module = next((_FAMILIES[root] for root in roots if root in _FAMILIES), default)
        if module not in _loaded:
            with forks.loading:
                _loaded[module] = cast(Family, importlib.import_module(module))
        _named[kind] = module
        return module


# torch.compile cannot trace an import. This attribute, as set by assume_constant_result of
# torch._dynamo, makes it call the function while tracing: the result depends on the type only.
_module_of._dynamo_marked_constant = True  # type: ignore[attr-defined]


def public(description: Function) -> Callable[[F], F]:
    """Decorate a function of views, so that it takes every family's arrays.

    The first argument selects the family. The decorator also completes the description.
    """

    def decorate(body: F) -> F:
        first = description.first

        @functools.wraps(body)
        def function(*args: Any, **kwargs: Any) -> Any:
            array = args[0] if args else kwargs.get(first)
            # No look-up for NumPy arrays: it takes a measurable part of a small call.
            if type(array) is np.ndarray or (family := family_of(array)) is None:
                return body(*args, **kwargs)
            return family.call(description, *args, **kwargs)

        description.complete(body, function)
        return cast(F, function)

    return decorate


@functools.cache
def _backend(name: str) -> Any:
    """A backend, imported at the first call rather than with the package."""
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
