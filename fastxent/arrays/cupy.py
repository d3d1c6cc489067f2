"""CuPy's arrays: CuPy's own out, on its current stream."""

from typing import Any

import cupy
import numpy as np

from fastxent.arrays import device, interface, replay, views
from fastxent.arrays.device import BFLOAT16, DeviceArray, Library
from fastxent.functions import Function
from fastxent.records import Place

# How much of a product is held before it is added.
_PRODUCT_BYTES = 64 << 20


def call(function: Function, *args: Any, **kwargs: Any) -> Any:
    """Call `function` on views of the arrays; give back CuPy's."""
    given = views.by_name(function, args, kwargs)
    if given is None:
        return function(*args, **kwargs)
    first = given[function.first]
    place = _place_of(first)
    sight = replay.sight_of(function, given, place.device, _look)
    results = None if sight is None else replay.again(sight, place, new)
    if results is not None:
        return results
    with first.device:  # where CuPy's own products are computed too
        return replay.computed(function, device.looked_at(function, given, view), sight)


def _look(array: Any, number: int) -> tuple[int, tuple[int, ...], Any] | None:
    if type(array) is not cupy.ndarray or array.device.id != number:
        return None
    return (array.data.ptr, array.shape, array.dtype) if array.flags.c_contiguous else None


def _place_of(array: Any) -> Place:
    number = array.device.id
    return Place(number, cupy.cuda.get_current_stream(number).ptr)


def view(value: Any) -> DeviceArray | None:
    """What a CuPy array is, or another library's."""
    if not isinstance(value, cupy.ndarray):
        return interface.view(value)
    place = _place_of(value)
    dtype: Any = BFLOAT16 if value.dtype.name == "bfloat16" else value.dtype
    return DeviceArray(value, value.data.ptr, value.shape, value.strides, dtype, place, LIBRARY)


def new(shape: tuple[int, ...], dtype: Any, place: Place) -> tuple[Any, int]:
    """A new array from CuPy's pool, and its address."""
    with cupy.cuda.Device(place.device):
        array = cupy.empty(shape, "bfloat16" if dtype is BFLOAT16 else np.dtype(dtype))
    return array, array.data.ptr


def _matmul(a: Any, b: Any, out: Any) -> None:
    cupy.matmul(a, b, out=out)


def _add_matmul(a: Any, b: Any, out: Any) -> None:
    """A few rows at a time: there is no product that adds."""
    step = max(1, _PRODUCT_BYTES // max(1, out[:1].nbytes))
    for first in range(0, len(out), step):
        out[first : first + step] += a[first : first + step] @ b


LIBRARY = Library(new, _matmul, _add_matmul)
