"""GPU arrays of other libraries with CUDA's array interface or DLPack, and Numba device arrays.

Results are allocated by the library's array-API namespace if it has one, else by Numba.
"""

import functools
from typing import Any

import numpy as np
from numba import cuda

from fastxent import errors
from fastxent.arrays import device, plans, views
from fastxent.cuda import driver
from fastxent.device_array import BFLOAT16, DeviceArray, Library
from fastxent.functions import Function
from fastxent.records import Place


def call(function: Function, *args: Any, **kwargs: Any) -> Any:
    """Call `function` on views of the arrays; return arrays of the first one's library."""
    arguments = views.by_name(function, args, kwargs)
    if arguments is None:
        return function(*args, **kwargs)
    return plans.computed(function, device.views_of(function, arguments, view))


def view(value: Any) -> DeviceArray | None:
    """A view of an array in GPU memory; None for other values.

    CUDA's array interface has no stream before version 3. If the array also has DLPack, that is
    used in this case, because it synchronises with pending writes.
    """
    interface = getattr(value, "__cuda_array_interface__", None)
    if interface is not None and interface["version"] >= 3:
        return _described(value, interface)
    if hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] in views.ON_GPU:
        array = _exported(value)
        if interface is not None and interface["data"][1]:  # a capsule may lack the read-only flag
            array.writeable = False
        return array
    return None if interface is None else _described(value, interface)


def _described(value: Any, interface: dict[str, Any]) -> DeviceArray:
    """A view by CUDA's array interface, whose stream (version 3) is that of the last writes."""
    if interface.get("mask") is not None:
        raise errors.masked_on_gpu()
    dtype = np.dtype(interface["typestr"])
    if not dtype.isnative:
        raise errors.byte_order_on_gpu(dtype)
    address, read_only = interface["data"]
    number = driver.device_of(address) if address else 0
    place = Place(number, interface.get("stream") or 0)
    strides, shape = interface.get("strides"), tuple(interface["shape"])
    return DeviceArray(
        value, address, shape, None if strides is None else tuple(strides),
        dtype, place, _library_of(value), not read_only,
    )  # fmt: skip


def _exported(value: Any) -> DeviceArray:
    """A view by DLPack, synchronised with the legacy default stream."""
    from cuda.core.utils import StridedMemoryView

    place = Place(int(value.__dlpack_device__()[1]), 1)
    memory = StridedMemoryView.from_dlpack(value, stream_ptr=1)
    dtype: Any = BFLOAT16 if str(memory.dtype) == "bfloat16" else np.dtype(memory.dtype)
    strides = memory.strides
    return DeviceArray(
        value, memory.ptr, tuple(memory.shape),
        None if strides is None else tuple(step * dtype.itemsize for step in strides),
        dtype, place, _library_of(value), not memory.readonly,
    )  # fmt: skip


def _library_of(value: Any) -> Library:
    namespace = getattr(value, "__array_namespace__", None)
    if namespace is not None and hasattr(value, "device"):
        return Library(functools.partial(_new_by, namespace(), value.device))
    return Library(_new_by_numba)


def _new_by_numba(shape: tuple[int, ...], dtype: Any, place: Place) -> tuple[Any, int]:
    """Allocate a Numba device array; return it and its address."""
    if dtype is BFLOAT16:
        raise errors.no_numba_bfloat16()
    with cuda.gpus[place.device]:
        return _with_address(cuda.device_array(shape, dtype))


def _new_by(
    namespace: Any, where: Any, shape: tuple[int, ...], dtype: Any, place: Place
) -> tuple[Any, int]:
    """Allocate an array by the array API; return it and its address."""
    kind = getattr(namespace, dtype.name)
    return _with_address(namespace.empty(shape, dtype=kind, device=where))


def _with_address(array: Any) -> tuple[Any, int]:
    described = getattr(array, "__cuda_array_interface__", None)
    if described is not None:
        return array, described["data"][0]
    made = view(array)
    assert made is not None
    return array, made.address
