"""What is asked of the CUDA driver: which GPU, launch, wait, and whether a stream is recorded."""

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from numba import types

from fastxent.cuda.jit import Kernel, machine_code
from fastxent.records import Place

_FORKED = (
    "CUDA cannot be used in a process that was forked after its first use: start processes by "
    "spawn or forkserver, or use CUDA in the child alone"
)
_was_used_before_fork = False


@functools.cache
def _bindings() -> Any:
    """CUDA's driver interface, initialised."""
    if _was_used_before_fork:
        raise RuntimeError(_FORKED)
    try:
        from cuda.bindings import driver

        (error,) = driver.cuInit(0)
    except Exception as missing:  # the bindings raise what they like where there is no library
        raise RuntimeError(
            f"there is no CUDA driver ({missing}): install NVIDIA's, and see that nvidia-smi "
            "lists the GPU"
        ) from missing
    if error == driver.CUresult.CUDA_ERROR_NOT_INITIALIZED:  # another library has used it
        raise RuntimeError(_FORKED)
    if error != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(
            f"the CUDA driver does not start ({error.name}): see that nvidia-smi lists the GPU, "
            "and that the driver is as new as the toolkit"
        )
    return driver


def _after_fork() -> None:
    global _was_used_before_fork
    _was_used_before_fork |= _bindings.cache_info().currsize > 0
    _bindings.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _checked(result: tuple[Any, ...]) -> Any:
    """What a call of the driver gives, or its error."""
    error, *values = result
    if error.value:
        raise RuntimeError(f"the CUDA driver reports {error.name}")
    return values[0] if len(values) == 1 else values


class Gpu(NamedTuple):
    """What is told of a GPU."""

    name: str
    capability: tuple[int, int]
    memory: int  # bytes


def gpus() -> list[Gpu]:
    """All that the driver shows to this process, asked without making a context on any."""
    driver = _bindings()
    kind = driver.CUdevice_attribute
    major = kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    minor = kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
    found = []
    for number in range(_checked(driver.cuDeviceGetCount())):
        device = _checked(driver.cuDeviceGet(number))
        name = _checked(driver.cuDeviceGetName(256, device)).rstrip(b"\0").decode()
        versions = [_checked(driver.cuDeviceGetAttribute(part, device)) for part in (major, minor)]
        found.append(Gpu(name, tuple(versions), _checked(driver.cuDeviceTotalMem(device))))
    return found


def version() -> tuple[int, int]:
    """The newest version of CUDA that the driver knows."""
    number = _checked(_bindings().cuDriverGetVersion())
    return number // 1000, number % 1000 // 10


@functools.cache
def capability(device: int) -> tuple[int, int]:
    """A GPU's compute capability."""
    from cuda.core import Device

    _bindings()
    major, minor = Device(device).compute_capability
    return major, minor


@functools.cache
def processors(device: int) -> int:
    """How many multiprocessors a GPU has."""
    from cuda.core import Device

    _bindings()
    return int(Device(device).properties.multiprocessor_count)


def device_of(address: int) -> int:
    """The number of the GPU that memory belongs to."""
    driver = _bindings()
    ordinal = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(_checked(driver.cuPointerGetAttribute(ordinal, address)))


def current(device: int) -> contextlib.AbstractContextManager[None]:
    """Make a GPU's primary context this thread's, and put back what was."""
    return _NOTHING if _is_current(device) else _pushed(device)


_NOTHING = contextlib.nullcontext()  # to be done where it is current, as it is most often


@contextlib.contextmanager
def _pushed(device: int) -> Iterator[None]:
    driver = _bindings()
    _checked(driver.cuCtxPushCurrent(_context(device)))
    try:
        yield
    finally:
        _checked(driver.cuCtxPopCurrent())


def _is_current(device: int) -> bool:
    return int(_checked(_bindings().cuCtxGetCurrent())) == int(_context(device))


@functools.cache
def _context(device: int) -> Any:
    driver = _bindings()
    return _checked(driver.cuDevicePrimaryCtxRetain(_checked(driver.cuDeviceGet(device))))


@functools.cache
def _loaded(kernel: Kernel, architecture: tuple[int, int]) -> Any:
    """A kernel as the driver launches it, on any GPU of an architecture."""
    from cuda.core import ObjectCode

    name, code = machine_code(kernel, architecture)
    ready = ObjectCode.from_cubin(code).get_kernel(name)
    return ready, _bindings().CUfunction(int(ready.handle))  # the first keeps the second loaded


@functools.lru_cache(maxsize=256)
def _stream(handle: int) -> Any:
    """A stream; no handle is the legacy default one, whatever the bindings were told to take."""
    return _bindings().CUstream(handle or 1)


class Call:
    """A kernel and its arguments, to be launched any number of times on GPUs of a kind.

    `values` are the arguments in eight bytes each; an address may be changed there.
    """

    def __init__(self, kernel: Kernel, grid: int, device: int, args: tuple[Any, ...]) -> None:
        values = (ctypes.c_uint64 * len(args))()
        for position, (kind, value) in enumerate(zip(kernel.types, args, strict=True)):
            if kind is types.float32:
                ctypes.c_float.from_buffer(values, 8 * position).value = value
            elif kind is types.float64:
                ctypes.c_double.from_buffer(values, 8 * position).value = value
            else:
                values[position] = value
        first = ctypes.addressof(values)
        pointers = (ctypes.c_void_p * len(args))(*range(first, first + 8 * len(args), 8))
        self.values, self._pointers, self._at = values, pointers, ctypes.addressof(pointers)
        self._driver, self._done = _bindings(), _bindings().CUresult.CUDA_SUCCESS
        self._function = _loaded(kernel, capability(device))[1]
        self._grid, self._block = grid, kernel.block

    def launch(self, stream: int) -> None:
        """Put it on a stream of the GPU whose context is current."""
        (error,) = self._driver.cuLaunchKernel(
            self._function, self._grid, 1, 1, self._block, 1, 1, 0, _stream(stream), self._at, 0
        )
        if error is not self._done:
            _checked((error,))


def launch(kernel: Kernel, grid: int, place: Place, *args: Any) -> Call:
    """Put a kernel on a stream."""
    call = Call(kernel, grid, place.device, args)
    with current(place.device):
        call.launch(place.stream)
    return call


def is_capturing(place: Place) -> bool:
    """Whether the stream is being recorded, for a graph: then nothing may wait for it."""
    if place.stream in (0, 1):
        return False  # the legacy stream cannot be recorded
    driver = _bindings()
    with current(place.device):
        status = _checked(driver.cuStreamIsCapturing(_stream(place.stream)))
    return bool(status != driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE)


def wait(place: Place) -> None:
    """Until all that is on the stream is done."""
    driver = _bindings()
    with current(place.device):
        _checked(driver.cuStreamSynchronize(_stream(place.stream)))


_own = threading.local()


def report(place: Place) -> Any:
    """Two int64 of this thread in host memory that a kernel can write to.

    They are kept for the next call, and not given back when the thread ends: another would have to
    wait for the GPU then.
    """
    found = getattr(_own, "report", None)
    if found is None:
        driver = _bindings()
        portable = driver.CU_MEMHOSTALLOC_PORTABLE
        with current(place.device):
            address = int(_checked(driver.cuMemHostAlloc(16, portable)))
        _own.report = found = (ctypes.c_int64 * 2).from_address(address)
    return found


def address_of(report: Any) -> int:
    """Where a kernel finds it."""
    return ctypes.addressof(report)


def follow(place: Place, stream: int) -> None:
    """Let the stream of `place` wait for what is on another one now."""
    driver = _bindings()
    with current(place.device):
        event = _checked(driver.cuEventCreate(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING))
        try:
            _checked(driver.cuEventRecord(event, _stream(stream)))
            _checked(driver.cuStreamWaitEvent(_stream(place.stream), event, 0))
        finally:
            _checked(driver.cuEventDestroy(event))
