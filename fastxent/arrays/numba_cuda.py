"""Numba's device arrays: Numba's own out, on the array's stream."""

from collections.abc import Callable
from typing import Any

from numba import cuda

from fastxent.arrays import device, interface, views
from fastxent.arrays.device import DeviceArray
from fastxent.terms import Place


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call `function` on views of the arrays; give back Numba's."""
    given = views.named(function, args, kwargs)
    return function(*args, **kwargs) if given is None else device.call(function, given, view)


def view(value: Any) -> DeviceArray | None:
    """What an array is: Numba describes its own as anybody's."""
    return interface.view(value, make)


def make(shape: tuple[int, ...], dtype: Any, place: Place) -> DeviceArray:
    """A new array of Numba's."""
    with cuda.gpus[place.device]:
        array = cuda.device_array(shape, dtype)
    address = array.__cuda_array_interface__["data"][0]
    return DeviceArray(array, address, shape, None, dtype, place, make)
