"""Convert arguments to views on one GPU, and check them before any kernel is launched."""

import numbers
from collections.abc import Callable
from typing import Any

from fastxent import errors
from fastxent.arrays import views
from fastxent.cuda import driver
from fastxent.device_array import DeviceArray, Queue
from fastxent.functions import ARRAYS, NUMBERS, Arguments, Function, Role

# Kernels count columns in 32 bits, with room for a stride beyond the last, and elements in 64.
LONGEST = 2**31 - 2**17

_HOLD_ARRAYS = ARRAYS | {Role.BUFFER}
_HOLD_PARTS = {Role.BUFFER, Role.VECTOR}  # tuples for a linear map: an array for each input
View = Callable[[Any], DeviceArray | None]  # None for a value that is not an array on a GPU


def views_of(function: Function, arguments: Arguments, view: View) -> Arguments:
    """Replace the arrays among the arguments by views on the GPU of the first, with one queue."""
    queue = None
    result: Arguments = {}
    for name, value in arguments.items():
        if queue is None:  # the first argument selects the GPU
            array = _checked(name, value, view)
            queue, result[name] = array.queue, array
        elif value is None or function.roles.get(name) not in _HOLD_ARRAYS:
            result[name] = value
        elif isinstance(value, tuple) and function.roles.get(name) in _HOLD_PARTS:
            parts = [part if part is None else _checked(name, part, view, queue) for part in value]
            result[name] = views.like(value, parts)
        elif function.roles.get(name) in NUMBERS and isinstance(value, numbers.Real):
            result[name] = value
        else:
            result[name] = _checked(name, value, view, queue)
    if function.has_rows:
        _check_lengths(result)
    return result


def _check_lengths(arguments: Arguments) -> None:
    """Raise for an array with an axis too long for the kernels on rows."""
    for name, value in arguments.items():
        for array in views.parts(value):
            if isinstance(array, DeviceArray) and max(array.shape, default=0) > LONGEST:
                raise errors.too_long(name, LONGEST)


def _checked(name: str, value: Any, view: View, queue: Queue | None = None) -> DeviceArray:
    """A view of an array, which must be on a GPU; on that of the queue if there is one."""
    array = view(value)
    if array is None:
        device = None if queue is None else queue.place.device
        raise errors.in_host_memory(name, value, device)
    if not array.address and array.size:
        raise errors.no_device_memory(name, value)
    if not array.is_plain:
        size = array.dtype.itemsize
        if array.address % size or any(step % size for step in array.strides):
            raise errors.misaligned(name, size)
    if queue is not None:
        device, stream = queue.place
        if array.place.device != device and array.size:
            raise errors.on_other_gpu(name, array.place.device, device)
        if array.place.stream not in (0, stream):  # the array may still be written there
            driver.follow(queue.place, array.place.stream)
        array.queue = queue
    return array
