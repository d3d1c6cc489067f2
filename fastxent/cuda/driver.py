"""What is asked of the CUDA driver: which GPU, launch, wait, and whether a stream is recorded."""

import contextlib
import ctypes
import functools
import threading
from collections.abc import Iterator
from typing import Any

from fastxent.cuda.jit import Kernel, machine_code
from fastxent.terms import Place


@functools.cache
def _bindings() -> Any:
    """CUDA's driver interface, initialised."""
    try:
        from cuda.bindings import driver

        (error,) = driver.cuInit(0)
    except Exception as missing:  # the bindings raise what they like where there is no library
        raise RuntimeError(
            f"there is no CUDA driver ({missing}): install NVIDIA's, and see that nvidia-smi "
            "lists the GPU"
        ) from missing
    if error != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(
            f"the CUDA driver does not start ({error.name}): see that nvidia-smi lists the GPU, "
            "and that the driver is as new as the toolkit"
        )
    return driver


def _checked(result: tuple[Any, ...]) -> Any:
    """What a call of the driver gives, or its error."""
    error, *values = result
    if error.value:
        raise RuntimeError(f"the CUDA driver reports {error.name}")
    return values[0] if len(values) == 1 else values


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


@contextlib.contextmanager
def current(device: int) -> Iterator[None]:
    """Make a GPU's primary context this thread's, and put back what was."""
    if _is_current(device):
        yield
        return
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
    from cuda.core import ObjectCode

    name, code = machine_code(kernel, architecture)
    return ObjectCode.from_cubin(code).get_kernel(name)


@functools.lru_cache(maxsize=256)
def _stream(handle: int) -> Any:
    from cuda.core import LEGACY_DEFAULT_STREAM, PER_THREAD_DEFAULT_STREAM, Stream

    known = {0: LEGACY_DEFAULT_STREAM, 1: LEGACY_DEFAULT_STREAM, 2: PER_THREAD_DEFAULT_STREAM}
    return known[handle] if handle in known else Stream.from_handle(handle)


@functools.lru_cache(maxsize=1024)
def _configuration(grid: int, block: int) -> Any:
    from cuda.core import LaunchConfig

    return LaunchConfig(grid=grid, block=block)


@functools.cache
def _launcher() -> Any:
    from cuda.core import launch

    return launch


def launch(kernel: Kernel, grid: int, place: Place, *args: Any) -> None:
    """Put a kernel on a stream; numbers of float32 come as `single`."""
    ready = _loaded(kernel, capability(place.device))
    configuration, stream = _configuration(grid, kernel.block), _stream(place.stream)
    if _is_current(place.device):  # as it is most often, and then nothing has to be put back
        _launcher()(stream, configuration, ready, *args)
    else:
        with current(place.device):
            _launcher()(stream, configuration, ready, *args)


single = ctypes.c_float


def is_capturing(place: Place) -> bool:
    """Whether the stream is being recorded, for a graph: then nothing may wait for it."""
    if place.stream in (0, 1):
        return False  # the legacy stream cannot be recorded
    driver = _bindings()
    with current(place.device):
        status = _checked(driver.cuStreamIsCapturing(driver.CUstream(place.stream)))
    return bool(status != driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE)


def wait(place: Place) -> None:
    """Until all that is on the stream is done."""
    driver = _bindings()
    with current(place.device):
        _checked(driver.cuStreamSynchronize(driver.CUstream(place.stream)))


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
            _checked(driver.cuEventRecord(event, driver.CUstream(stream)))
            _checked(driver.cuStreamWaitEvent(driver.CUstream(place.stream), event, 0))
        finally:
            _checked(driver.cuEventDestroy(event))
