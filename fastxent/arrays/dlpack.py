"""Arrays of other libraries with DLPack, in host memory.

Results are made by the library's array-API namespace. Arrays on a GPU are passed to `interface`.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from fastxent import errors
from fastxent.arrays import views
from fastxent.functions import Function

_CPU = 1  # kDLCPU in dlpack.h


@runtime_checkable
class Exporter(Protocol):
    """An array that exports its memory."""

    def __dlpack__(self, **how: Any) -> Any:
        """A capsule that describes the memory."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """The kind of device and its number."""


def call(function: Function, *args: Any, **kwargs: Any) -> Any:
    """Call `function` on NumPy views of the arrays; return arrays of the first one's library."""
    arguments = views.by_name(function, args, kwargs)
    if arguments is None:
        return function(*args, **kwargs)
    first = function.first
    if _device(first, arguments[first])[0] in views.ON_GPU:
        from fastxent.arrays import interface

        return interface.call(function, **arguments)
    names = {id(part): name for name, value in arguments.items() for part in views.parts(value)}

    def view(part: Any) -> Any:
        return _view(names.get(id(part), "a part of a buffer"), part)

    namespace = _namespace(arguments[first])

    def back(result: Any) -> Any:
        array = np.asarray(result)
        if hasattr(namespace, "from_dlpack"):
            return namespace.from_dlpack(array)
        return array if namespace is None else namespace.asarray(array)

    return views.call(function, arguments, Exporter, view, back)


def _device(name: str, value: Exporter) -> tuple[int, int]:
    """The kind of an array's device and its number."""
    try:
        kind, number = value.__dlpack_device__()
        return int(kind), number
    except MemoryError:
        raise
    except Exception as error:
        raise errors.unreadable_export(name, value, error) from error


def _view(name: str, value: Any) -> Any:
    """A NumPy view of an argument's memory."""
    if isinstance(value, np.ndarray):
        return value
    device, number = _device(name, value)
    if device != _CPU:
        raise errors.not_in_host_memory(name, f"DLPack's device {device}:{number}")
    try:
        return np.from_dlpack(value)
    except MemoryError:
        raise
    except Exception as error:
        raise errors.unreadable_export(name, value, error) from error


def _namespace(value: Any) -> Any:
    """The library's array-API namespace, if it has one."""
    name = getattr(value, "__array_namespace__", None)
    return None if name is None else name()
