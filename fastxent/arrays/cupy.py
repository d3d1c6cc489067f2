"""CuPy arrays, on CuPy's current stream."""

from typing import Any

import cupy
import numpy as np

from fastxent.arrays import device, interface, plans, views
from fastxent.device_array import BFLOAT16, DeviceArray, Library
from fastxent.functions import Function
from fastxent.records import Place

# The size of a temporary product that is added to a matrix.
_PRODUCT_BYTES = 64 << 20


def call(function: Function, *args: Any, **kwargs: Any) -> Any:
    """Call `function` on views of the arrays; return CuPy arrays."""
    arguments = views.by_name(function, args, kwargs)
    if arguments is None:
        return function(*args, **kwargs)
    first = arguments[function.first]
    place = _place_of(first)
    call = plans.keyed(function, arguments, place.device, _describe)
    results = None if call is None else plans.run_cached(call, place, new)
    if results is not None:
        return results
    with first.device:  # also for matrix products, which CuPy computes
        return plans.computed(function, device.views_of(function, arguments, view), call)


def _describe(array: Any, number: int) -> tuple[int, tuple[int, ...], Any] | None:
    """The pointer, shape and dtype of an array for its key; None if it cannot be cached."""
    if type(array) is not cupy.ndarray or array.device.id != number:
        return None
    return (array.data.ptr, array.shape, array.dtype) if array.flags.c_contiguous else None


def _place_of(array: Any) -> Place:
    number = array.device.id
    return Place(number, cupy.cuda.get_current_stream(number).ptr)


def view(value: Any) -> DeviceArray | None:
    """A view of a CuPy array, or of another library's array on a GPU."""
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
    """Add a product block by block, because CuPy has no matrix product that accumulates."""
    step = max(1, _PRODUCT_BYTES // max(1, out[:1].nbytes))
    for first in range(0, len(out), step):
        out[first : first + step] += a[first : first + step] @ b


LIBRARY = Library(new, _matmul, _add_matmul)
