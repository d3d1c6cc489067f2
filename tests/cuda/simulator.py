"""Numba's CUDA simulator with what it lacks, and a driver that launches kernels in it.

A process that imports this first runs every kernel as Python, with a thread for each thread of the
GPU, on arrays in host memory. Each access is checked to lie within an array and to be aligned. It
cannot show races, the order of memory accesses, the accuracy of ex2, or speed.
"""

import collections
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
from numba.cuda.np import numpy_support
from numba.cuda.simulator import kernel as simulated
from numba.cuda.simulator.kernelapi import Dim3, FakeCUDALocal, FakeCUDAModule, FakeCUDAShared

# --- threads --------------------------------------------------------------------------------

# Numba's simulator polls its threads for whether they wait at a barrier, and locks each call of a
# device function: nearly all of the time of small kernels. Here one thread runs at a time, until it
# waits for others: all of a warp up to the block's barrier, then the next warp. So runs are
# deterministic, and a missing barrier has an effect: one warp is far ahead of another.
backwards = False  # whether the last warp and its last thread come first

# One processor for each test process: handing over to a thread on another one is slow.
_processors = sorted(os.sched_getaffinity(0))
_mine = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
os.sched_setaffinity(0, {_processors[_mine % len(_processors)]})


class _Over(BaseException):
    """Ends a thread that waits for one that has failed."""


class _Thread(threading.Thread):
    """A Python thread that runs one thread of a block after another."""

    def __init__(self):
        super().__init__(daemon=True)
        self.turn = _closed()
        self.start()

    def begin(self, block, number, grid_point, args):
        self.block, self.thread_id, self.args = block, number, args
        self.blockIdx, self.threadIdx = Dim3(*grid_point), Dim3(number, 0, 0)
        self.waits, self.error, self.shuffles = "its turn", None, 0
        self.met, self.arrived = 0, False  # barriers of the cluster it has passed, and arrived at

    def run(self):
        sys.settrace(None)  # coverage leaves out the kernels' files, but takes its time to do so
        with np.errstate(all="ignore"):
            while True:
                self.turn.acquire()
                try:
                    self.block._f(*self.args)
                except _Over:
                    pass
                except Exception as error:
                    self.error = error
                self.waits = "nothing"
                self.block.back.release()

    def wait(self, what):
        self.waits = what
        self.block.back.release()
        self.turn.acquire()
        if self.block.failed:
            raise _Over

    def syncthreads(self):
        self.wait("the barrier")


_threads: list[_Thread] = []


def _closed():
    lock = threading.Lock()
    lock.acquire()
    return lock


_cluster = 1  # the blocks of a cluster
_begun: list[tuple] = []  # the blocks of an incomplete cluster


def _run_block(self, grid_point, *args):
    """Run a cluster with its last block, one of its blocks after another up to its barrier."""
    _begun.append((self, grid_point))
    if len(_begun) < _cluster:
        return
    blocks = [block for block, _ in _begun]
    size, _, _ = self._block_dim
    while len(_threads) < size * _cluster:
        _threads.append(_Thread())
    for number, (block, point) in enumerate(_begun):
        block.shared, block.values = {}, [[None] * size, [None] * size]
        block.back, block.failed, block.cluster = _closed(), False, blocks
        block.threads = _threads[number * size : (number + 1) * size]
        for k, thread in enumerate(block.threads):
            thread.begin(block, k, point, args)
    _begun.clear()
    try:
        while blocks[0].threads[0].waits != "nothing":
            for block in reversed(blocks) if backwards else blocks:
                _run_to_cluster(block)
            _assert_together([block.threads[0] for block in blocks])
    finally:
        for block in blocks:
            block.failed = True
            for thread in block.threads:
                if thread.waits not in ("nothing", "its turn"):
                    thread.turn.release()
                    block.back.acquire()


def _run_to_cluster(block):
    threads = block.threads
    warps = [threads[first : first + 32] for first in range(0, len(threads), 32)]
    while True:
        for warp in reversed(warps) if backwards else warps:
            _run_warp(block, warp[::-1] if backwards else warp)
        _assert_together(threads)
        if threads[0].waits != "the barrier":
            return


def _run_warp(block, threads):
    while True:
        for thread in threads:
            thread.turn.release()
            block.back.acquire()
            if thread.error:
                raise thread.error
        _assert_together(threads)
        if threads[0].waits != "a shuffle":
            return


def _assert_together(threads):
    found = {thread.waits for thread in threads}
    assert len(found) == 1, f"threads wait for each other forever: {' or '.join(sorted(found))}"


simulated.BlockManager.run = _run_block


class _Current:
    def __getattr__(self, name):
        return getattr(simulated._kernel_context or cuda, name)


_jit = cuda.jit
cuda.jit = lambda *args, device=False, **kwargs: (
    (lambda function: function) if device and not args else _jit(*args, device=device, **kwargs)
)

# --- warps ----------------------------------------------------------------------------------


def _shuffle(mask, value, other_of):
    """The value of another thread of the warp, as all its threads take part."""
    assert mask == 0xFFFFFFFF
    thread = threading.current_thread()
    # Two sets of slots in turns: all threads have read one before any writes to it again.
    values = thread.block.values[thread.shuffles & 1]
    thread.shuffles += 1
    values[thread.thread_id] = value
    thread.wait("a shuffle")
    return values[other_of(thread.thread_id)]


FakeCUDAModule.shfl_xor_sync = lambda self, mask, value, offset: _shuffle(
    mask, value, lambda own: own ^ int(offset)
)
FakeCUDAModule.shfl_sync = lambda self, mask, value, lane: _shuffle(
    mask, value, lambda own: own & -32 | int(lane)
)
FakeCUDAModule.syncwarp = lambda self: threading.current_thread().wait("a shuffle")

# --- clusters -------------------------------------------------------------------------------


def _cluster_arrive():
    thread = threading.current_thread()
    assert not thread.arrived, "arrived at the cluster's barrier twice"
    thread.arrived = True


def _cluster_wait():
    thread = threading.current_thread()
    assert thread.arrived, "waits at the cluster's barrier without having arrived"
    thread.wait("the cluster")
    thread.arrived, thread.met = False, thread.met + 1


def _store_beside(array, at, value, block):
    thread = threading.current_thread()
    assert thread.met, "the other block may not have begun"
    assert not thread.arrived, "what is stored now is not behind the barrier"
    other, own = thread.block.cluster[block], thread.block.shared
    (place,) = (place for place, shared in own.items() if shared is array)
    assert other.threads[0].waits != "nothing", "the other block has ended"
    other.shared[place][at] = value


# --- memory ---------------------------------------------------------------------------------


def _unwritten(shape, dtype):
    """An array of nan, or of -1."""
    dtype = numpy_support.as_dtype(dtype)
    return np.full(shape * dtype.itemsize, 0xFF, np.uint8).view(dtype)


def _shared_array(self, shape, dtype):
    """The block's array of this line of code, unwritten when the block begins."""
    shared, frame = threading.current_thread().block.shared, sys._getframe(1)
    place = frame.f_code, frame.f_lineno
    if place not in shared:
        shared[place] = _unwritten(shape, dtype)
    return shared[place]


FakeCUDAShared.array = _shared_array
FakeCUDALocal.array = lambda self, shape, dtype: _unwritten(shape, dtype)

POISON = 0x4E
_arrays: list[tuple[int, int]] = []  # where arrays begin and end


def allocate(shape, dtype, misaligned=0):
    """An array that kernels may access, its first byte `misaligned` from 16.

    It is filled with numbers that are large in every type, so neither a result nor nan.
    """
    dtype = np.dtype(dtype)
    n = int(np.prod(shape)) * dtype.itemsize
    memory = np.full(n + 64, POISON, np.uint8)
    offset = -memory.ctypes.data % 16 + misaligned
    array = memory[offset : offset + n].view(dtype).reshape(shape)
    _arrays.append((array.ctypes.data, array.ctypes.data + n))
    return array


def forget():
    """Forget all arrays: accesses to them are errors."""
    for record in (_arrays, _reports, loaded, stored):
        record.clear()
    plans.clear()


# Bytes that were loaded and stored, each by where an array begins.
loaded: collections.Counter[int] = collections.Counter()
stored: collections.Counter[int] = collections.Counter()


def _checked(address, size, moved):
    address = int(address)
    assert address % size == 0, f"an access to {size} bytes that is not aligned"
    for low, high in _arrays:
        if low <= address and address + size <= high:
            moved[low] += size
            return address
    raise AssertionError(f"an access to {size} bytes outside of every array")


def _load_of(kind):
    def load(address):
        n = ctypes.sizeof(kind)
        return np.frombuffer((kind * 1).from_address(_checked(address, n, loaded)), kind)[0]

    return load


def _store_of(kind):
    def store(address, value):
        n = ctypes.sizeof(kind)
        np.frombuffer((kind * 1).from_address(_checked(address, n, stored)), kind)[0] = value

    return store


def _words(address, words, moved):
    n = 16 // words.itemsize
    kind = np.ctypeslib.as_ctypes_type(words.dtype)
    return np.frombuffer((kind * n).from_address(_checked(address, 16, moved)), words.dtype)


def _load_vector(address, words, at):
    whole = _words(address, words, loaded)
    words[at : at + len(whole)] = whole


def _store_vector(address, words, at):
    whole = _words(address, words, stored)
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


def _choose_bytes(a, b, selector):
    both = np.array([a, b], np.uint32).view(np.uint8)
    return both[[int(selector) >> 4 * k & 7 for k in range(4)]].view(np.uint32)[0]


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
intrinsics.fma_f32 = lambda a, b, c: np.float32(np.float64(a) * np.float64(b) + np.float64(c))
intrinsics.max_f32 = lambda a, b: np.fmax(np.float32(a), np.float32(b))
intrinsics.max_f64 = lambda a, b: np.fmax(np.float64(a), np.float64(b))
intrinsics.bits_f32 = lambda x: np.float32(x).view(np.uint32)
intrinsics.float16_bits = lambda x: np.uint16(_to_float16(x))
intrinsics.low_bfloat16 = lambda bits: _f32((int(bits) & 0xFFFF) << 16)
intrinsics.high_bfloat16 = lambda bits: _f32(int(bits) & 0xFFFF0000)
intrinsics.low_float16 = lambda bits: _from_float16(int(bits) & 0xFFFF)
intrinsics.high_float16 = lambda bits: _from_float16(int(bits) >> 16)
intrinsics.pack_bfloat16 = lambda a, b: np.uint32(_to_bfloat16(a) | _to_bfloat16(b) << 16)
intrinsics.pack_float16 = lambda a, b: np.uint32(_to_float16(a) | _to_float16(b) << 16)
intrinsics.choose_bytes = _choose_bytes
intrinsics.cluster_arrive, intrinsics.cluster_wait = _cluster_arrive, _cluster_wait
intrinsics.store_beside = _store_beside
sys.modules["fastxent.cuda.intrinsics"] = intrinsics

# --- a driver that launches here ------------------------------------------------------------

from fastxent import formulas  # noqa: E402
from fastxent.arrays import plans  # noqa: E402
from fastxent.cuda import (  # noqa: E402 - after the intrinsics
    access,
    binary_kernels,
    categorical_kernels,
    columns,
    conversion_kernels,
    driver,
    elements,
    groups,
    hvp_kernels,
    kernels,
    loss_terms,
    parts,
    reduction_kernels,
    rows,
    scans,
    sharing,
    softmax_kernels,
    split_kernels,
    targets,
    transposes,
)
from fastxent.records import Place  # noqa: E402

# As on a GPU: results have the type of the argument, and nothing is raised.
_MATH = types.SimpleNamespace(
    log=np.log, log1p=np.log1p, exp=np.exp, expm1=np.expm1, copysign=np.copysign,
    inf=np.inf, nan=np.nan,
)  # fmt: skip
for _module in (
    access, binary_kernels, categorical_kernels, columns, conversion_kernels, elements, formulas,
    groups, hvp_kernels, kernels, loss_terms, parts, reduction_kernels, rows, scans, sharing,
    softmax_kernels, split_kernels, targets, transposes,
):  # fmt: skip
    if hasattr(_module, "cuda"):
        _module.cuda = _Current()
    if hasattr(_module, "math"):
        _module.math = _MATH

launched: list[str] = []  # the names of kernels, in order
places: list[Place] = []  # the GPU and stream of each
waited: list[Place] = []
followed: list[tuple[Place, int]] = []  # streams that wait, and for which other
_CASTS = {"float32": np.float32, "float64": np.float64, "int64": np.int64, "uint64": np.uint64}


class _LaunchedKernel:
    """A kernel and its packed arguments, as the driver has them."""

    def __init__(self, kernel, grid, device, arguments):
        assert len(arguments) == len(kernel.signature.value_types), kernel.name
        self.kernel, self.grid, self.device = kernel, grid, device
        self.values = list(arguments)

    def launch(self, stream):
        global _cluster
        _cluster = self.kernel.cluster
        assert self.grid % _cluster == 0
        _begun.clear()
        launched.append(self.kernel.name)
        places.append(Place(self.device, stream))
        values = iter([
            _CASTS[str(kind)](value)
            for kind, value in zip(self.kernel.signature.value_types, self.values, strict=True)
        ])  # fmt: skip
        arguments = [
            parameter.record(*(next(values) for _ in parameter.kinds))
            if parameter.record else next(values)
            for parameter in self.kernel.signature.parameters
        ]  # fmt: skip
        _jit(self.kernel.source)[self.grid, self.kernel.block](*arguments)


_reports: dict[int, np.ndarray] = {}


def _report(place):
    """The report of the thread, until arrays are forgotten."""
    number = threading.get_ident()
    if number not in _reports:
        _reports[number] = allocate(2, np.int64)
    at = _reports[number].ctypes.data
    if (at, at + 16) not in _arrays:  # a test has replaced the list of arrays
        _arrays.append((at, at + 16))
    return _reports[number]


driver.LaunchedKernel = _LaunchedKernel
driver.report = _report
driver.address_of = lambda report: report.ctypes.data
driver.wait = waited.append
driver.follow = lambda place, stream: followed.append((place, stream))
driver.is_capturing = lambda place: place.stream == 77
driver.current = lambda device: contextlib.nullcontext()
driver.device_of = lambda address: 0
driver.capability = lambda device: (8, 0)
driver.processors = lambda device: 1


# --- an array library -----------------------------------------------------------------------


class Array:
    """An array in host memory, with nothing but CUDA's array interface."""

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

    float16, float32, float64 = np.float16, np.float32, np.float64
    uint8, int64, uint64 = np.uint8, np.int64, np.uint64

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
