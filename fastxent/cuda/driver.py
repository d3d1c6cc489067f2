"""Calls of the CUDA driver: list GPUs, launch kernels, wait, ask whether a stream is captured."""

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

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
    except Exception as missing:  # the bindings raise errors of many types without a driver
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
    """The result of a driver call; raises for its error."""
    error, *values = result
    if error.value:
        raise RuntimeError(f"the CUDA driver reports {error.name}")
    return values[0] if len(values) == 1 else values


class Gpu(NamedTuple):
    """Name, compute capability and memory of a GPU."""

    name: str
    capability: tuple[int, int]
    memory: int  # bytes


def gpus() -> list[Gpu]:
    """The GPUs that this process sees; no context is created."""
    driver = _bindings()
    kind = driver.CUdevice_attribute
    major = kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    minor = kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
    result = []
    for number in range(_checked(driver.cuDeviceGetCount())):
        device = _checked(driver.cuDeviceGet(number))
        name = _checked(driver.cuDeviceGetName(256, device)).rstrip(b"\0").decode()
        versions = [_checked(driver.cuDeviceGetAttribute(part, device)) for part in (major, minor)]
        result.append(Gpu(name, tuple(versions), _checked(driver.cuDeviceTotalMem(device))))
    return result


def version() -> tuple[int, int]:
    """The newest version of CUDA that the driver supports."""
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
    """The number of the GPU that holds this address."""
    driver = _bindings()
    ordinal = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(_checked(driver.cuPointerGetAttribute(ordinal, address)))


def current(device: int) -> contextlib.AbstractContextManager[None]:
    """Make a GPU's primary context current in this thread, and restore the previous one."""
    return _UNCHANGED if _is_current(device) else _pushed(device)


_UNCHANGED = contextlib.nullcontext()  # used when it is already current (the common case)


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
    """A kernel loaded for all GPUs of an architecture, and its handle."""
    from cuda.core import ObjectCode

    name, code = machine_code(kernel, architecture)
    loaded = ObjectCode.from_cubin(code).get_kernel(name)
    return loaded, _bindings().CUfunction(int(loaded.handle))  # the first keeps the second loaded


@functools.lru_cache(maxsize=256)
def _stream(handle: int) -> Any:
    """A stream by its handle; 0 is the legacy default one, however the bindings are configured."""
    return _bindings().CUstream(handle or 1)


class LaunchedKernel:
    """A kernel with a grid and packed arguments, to be launched any number of times.

    `values` are the arguments in eight bytes each; a cached plan writes other addresses there.
    """

    def __init__(self, kernel: Kernel, grid: int, device: int, arguments: list[Any]) -> None:
        n = len(arguments)
        values = (ctypes.c_uint64 * n)()
        kernel.signature.layout.pack_into(values, 0, *arguments)
        first = ctypes.addressof(values)
        pointers = (ctypes.c_void_p * n)(*range(first, first + 8 * n, 8))
        self.values, self._pointers = values, pointers
        self._pointers_at = ctypes.addressof(pointers)
        self._driver, self._success = _bindings(), _bindings().CUresult.CUDA_SUCCESS
        self._function = _loaded(kernel, capability(device))[1]
        self._grid, self._block = grid, kernel.block

    def launch(self, stream: int) -> None:
        """Launch it on a stream of the GPU whose context is current."""
        (error,) = self._driver.cuLaunchKernel(
            self._function, self._grid, 1, 1, self._block, 1, 1, 0, _stream(stream),
            self._pointers_at, 0,
        )  # fmt: skip
        if error is not self._success:
            _checked((error,))


def launch(kernel: Kernel, grid: int, place: Place, arguments: list[Any]) -> LaunchedKernel:
    """Launch a kernel on a stream."""
    launched = LaunchedKernel(kernel, grid, place.device, arguments)
    with current(place.device):
        launched.launch(place.stream)
    return launched


def is_capturing(place: Place) -> bool:
    """Whether the stream is being captured into a CUDA graph: then nothing may wait for it."""
    if place.stream in (0, 1):
        return False  # the legacy stream cannot be captured
    driver = _bindings()
    with current(place.device):
        status = _checked(driver.cuStreamIsCapturing(_stream(place.stream)))
    return bool(status != driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE)


def wait(place: Place) -> None:
    """Wait until all work on the stream is done."""
    driver = _bindings()
    with current(place.device):
        _checked(driver.cuStreamSynchronize(_stream(place.stream)))


_thread = threading.local()


def report(place: Place) -> Any:
    """Two int64 of this thread in host memory that a kernel can write to.

    They are reused by the thread's next call and never freed: to free them when the thread ends
    would wait for the GPU.
    """
    numbers = getattr(_thread, "report", None)
    if numbers is None:
        driver = _bindings()
        portable = driver.CU_MEMHOSTALLOC_PORTABLE
        with current(place.device):
            address = int(_checked(driver.cuMemHostAlloc(16, portable)))
        _thread.report = numbers = (ctypes.c_int64 * 2).from_address(address)
    return numbers


def address_of(report: Any) -> int:
    """The address of a report, as a kernel sees it."""
    return ctypes.addressof(report)


def follow(place: Place, stream: int) -> None:
    """Let the stream of `place` wait for the work that another stream has now."""
    driver = _bindings()
    with current(place.device):
        event = _checked(driver.cuEventCreate(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING))
        try:
            _checked(driver.cuEventRecord(event, _stream(stream)))
            _checked(driver.cuStreamWaitEvent(_stream(place.stream), event, 0))
        finally:
            _checked(driver.cuEventDestroy(event))
