"""Kernels in Numba's CUDA simulator: what it lacks, and a driver that launches in it.

A process that imports this first runs every kernel as Python, a thread for each of the GPU's, on
arrays in host memory. Each access is checked to lie within an array and to be aligned. What it
cannot show: races, the order of memory, how exact ex2 is, and speed.
"""

import contextlib
import ctypes
import os
import sys
import threading
import types

os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
os.environ["NUMBA_DISABLE_JIT"] = "1"

import numpy as np
from numba import cuda
from numba.cuda.simulator import kernel as simulated
from numba.cuda.simulator.kernelapi import FakeCUDAModule

# --- threads --------------------------------------------------------------------------------

# The simulator asks its threads in turns whether they wait at a barrier, and puts a lock around
# each call of a device function: nearly all of the time of small kernels. So a block has a real
# barrier here, device functions are plain ones, and `cuda` stands for whatever runs.
_PATIENCE = 60  # seconds until a thread that others wait for has taken another branch


def _run_block(self, grid_point, *args):
    size = int(np.prod(self._block_dim))
    self.barrier = threading.Barrier(size)
    self.warps = [
        ([None] * min(32, size - first), threading.Barrier(min(32, size - first)))
        for first in range(0, size, 32)
    ]
    threads = [
        simulated.BlockThread(lambda: self._f(*args), self, grid_point, point, self._debug)
        for point in np.ndindex(*self._block_dim)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failed = [thread.exception for thread in threads if thread.exception]
    for error, trace in sorted(failed, key=lambda f: isinstance(f[0], threading.BrokenBarrierError)):
        raise error.with_traceback(trace)


def _run_thread(self):
    try:
        with np.errstate(all="ignore"):
            threading.Thread.run(self)
    except Exception as error:
        self.exception = error, error.__traceback__
        self._manager.barrier.abort()
        for _, barrier in self._manager.warps:
            barrier.abort()


simulated.BlockManager.run = _run_block
simulated.BlockThread.run = _run_thread
simulated.BlockThread.syncthreads = lambda self: self._manager.barrier.wait(_PATIENCE)


class _Current:
    def __getattr__(self, name):
        return getattr(simulated._kernel_context or cuda, name)


_jit = cuda.jit
cuda.jit = lambda *args, device=False, **kwargs: (
    (lambda function: function) if device and not args else _jit(*args, device=device, **kwargs)
)

# --- warps ----------------------------------------------------------------------------------


def _shuffle_xor(self, mask, value, offset):
    """The value of another thread of the warp, all of whose threads take part."""
    assert mask == 0xFFFFFFFF
    thread = threading.current_thread()
    number, lane = divmod(thread.thread_id, 32)
    places, barrier = thread._manager.warps[number]
    places[lane] = value
    barrier.wait(_PATIENCE)
    found = places[lane ^ int(offset)]
    barrier.wait(_PATIENCE)
    return found


FakeCUDAModule.shfl_xor_sync = _shuffle_xor

# --- memory ---------------------------------------------------------------------------------

_arrays: list[tuple[int, int]] = []  # where arrays begin and end


def allocate(shape, dtype, misaligned=0):
    """An array that kernels may touch, poisoned, its first byte `misaligned` from 16."""
    dtype = np.dtype(dtype)
    n = int(np.prod(shape)) * dtype.itemsize
    memory = np.full(n + 64, 0xA7, np.uint8)
    offset = -memory.ctypes.data % 16 + misaligned
    array = memory[offset : offset + n].view(dtype).reshape(shape)
    _arrays.append((array.ctypes.data, array.ctypes.data + n))
    return array


def forget():
    """Arrays of before are no longer there."""
    _arrays.clear()


def _checked(address, size):
    address = int(address)
    assert address % size == 0, f"an access to {size} bytes that is not aligned"
    assert any(low <= address and address + size <= high for low, high in _arrays), (
        f"an access to {size} bytes outside of every array"
    )
    return address


def _load_of(kind):
    def load(address):
        n = ctypes.sizeof(kind)
        return np.frombuffer((kind * 1).from_address(_checked(address, n)), kind)[0]

    return load


def _store_of(kind):
    def store(address, value):
        n = ctypes.sizeof(kind)
        np.frombuffer((kind * 1).from_address(_checked(address, n)), kind)[0] = value

    return store


def _words(address, words):
    n = 16 // words.itemsize
    kind = np.ctypeslib.as_ctypes_type(words.dtype)
    return np.frombuffer((kind * n).from_address(_checked(address, 16)), words.dtype)


def _load_vector(address, words, at):
    whole = _words(address, words)
    words[at : at + len(whole)] = whole


def _store_vector(address, words, at):
    whole = _words(address, words)
    whole[:] = words[at : at + len(whole)]


# --- arithmetic -----------------------------------------------------------------------------


def _f32(bits):
    return np.uint32(bits).view(np.float32)


def _to_bfloat16(x):
    """The upper half of float32's bits, rounded to even."""
    bits = int(np.float32(x).view(np.uint32))
    if x != x:
        return 0x7FFF
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 & 0xFFFF


def _to_float16(x):
    with np.errstate(over="ignore"):
        return int(np.float16(x).view(np.uint16))


def _from_float16(bits):
    return np.float32(np.uint16(bits).view(np.float16))


_SCALARS = {
    "f32": ctypes.c_float, "f64": ctypes.c_double, "u8": ctypes.c_uint8, "u16": ctypes.c_uint16,
    "u32": ctypes.c_uint32, "i64": ctypes.c_int64,
}  # fmt: skip

intrinsics = types.ModuleType("fastxent.cuda.intrinsics")
for _name, _kind in _SCALARS.items():
    setattr(intrinsics, f"load_{_name}", _load_of(_kind))
    setattr(intrinsics, f"store_{_name}", _store_of(_kind))
intrinsics.load_vector, intrinsics.store_vector = _load_vector, _store_vector
intrinsics.exp2_f32 = lambda x: np.exp2(np.float32(x))
intrinsics.max_f32 = lambda a, b: np.fmax(np.float32(a), np.float32(b))
intrinsics.max_f64 = lambda a, b: np.fmax(np.float64(a), np.float64(b))
intrinsics.low_bfloat16 = lambda bits: _f32((int(bits) & 0xFFFF) << 16)
intrinsics.high_bfloat16 = lambda bits: _f32(int(bits) & 0xFFFF0000)
intrinsics.low_float16 = lambda bits: _from_float16(int(bits) & 0xFFFF)
intrinsics.high_float16 = lambda bits: _from_float16(int(bits) >> 16)
intrinsics.pack_bfloat16 = lambda a, b: np.uint32(_to_bfloat16(a) | _to_bfloat16(b) << 16)
intrinsics.pack_float16 = lambda a, b: np.uint32(_to_float16(a) | _to_float16(b) << 16)
sys.modules["fastxent.cuda.intrinsics"] = intrinsics

# --- a driver that launches here ------------------------------------------------------------

from fastxent import formulas  # noqa: E402
from fastxent.cuda import (  # noqa: E402 - after the intrinsics
    array_kernels,
    binary_kernels,
    driver,
    elements,
    groups,
    kernels,
    rows,
)

# A GPU's functions have the type of their argument, and raise nothing.
_MATH = types.SimpleNamespace(
    log=np.log, log1p=np.log1p, exp=np.exp, expm1=np.expm1, copysign=np.copysign,
    inf=np.inf, nan=np.nan,
)  # fmt: skip
for _module in (array_kernels, binary_kernels, elements, groups, kernels, rows):
    _module.cuda = _Current()
for _module in (array_kernels, binary_kernels, elements, kernels, rows, formulas):
    _module.math = _MATH

launched: list[str] = []  # the names of kernels, in order
waited: list[object] = []
_CASTS = {"float32": np.float32, "float64": np.float64, "int64": np.int64, "uint64": np.uint64}


def _launch(kernel, grid, place, *args):
    launched.append(kernel.name)
    assert len(args) == len(kernel.types), kernel.name
    values = [
        _CASTS[str(kind)](getattr(arg, "value", arg))
        for kind, arg in zip(kernel.types, args, strict=True)
    ]
    _jit(kernel.source)[grid, kernel.block](*values)


def _report():
    array = allocate(2, np.int64)
    return array


driver.launch = _launch
driver.report = _report
driver.address_of = lambda report: report.ctypes.data
driver.wait = waited.append
driver.is_capturing = lambda place: place.stream == 77
driver.current = lambda device: contextlib.nullcontext()
driver.device_of = lambda address: 0
driver.capability = lambda device: (9, 0)
driver.processors = lambda device: 4


# --- an array library -----------------------------------------------------------------------


class Array:
    """A library's array, with nothing but CUDA's array interface; its memory is the host's."""

    def __init__(self, array, stream=None):
        self.array = array
        self.stream = stream

    @property
    def __cuda_array_interface__(self):
        a = self.array
        return {
            "shape": a.shape, "typestr": a.dtype.str, "version": 3, "strides": a.strides,
            "data": (a.ctypes.data, not a.flags.writeable), "stream": self.stream,
        }  # fmt: skip

    @property
    def device(self):
        return "gpu:0"

    def __array_namespace__(self):
        return Library


class Library:
    """The library's functions."""

    float16, float32, float64, int64 = np.float16, np.float32, np.float64, np.int64

    @staticmethod
    def empty(shape, *, dtype, device):
        """Poisoned memory."""
        assert device == "gpu:0"
        return Array(allocate(shape, dtype))


def on_gpu(values, misaligned=0):
    """A copy there."""
    values = np.asarray(values)
    array = allocate(values.shape, values.dtype, misaligned)
    array[...] = values
    return Array(array)


def host(value):
    """What an array of the library holds."""
    return value.array
