"""Views of arrays in GPU memory: a pointer, a shape, strides, a type, and the queue of the call.

A `DeviceArray` has the attributes of a NumPy array that are needed before a kernel is launched; its
elements are never read from Python. Kernels take `Pointer` objects rather than addresses, so that a
`Queue` can record which arrays a launch reads and writes.
"""

import functools
import math
import types
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastxent.records import Place

# A call with more launches than this is not cached: its kernels take longer than its Python code.
MAX_LAUNCHES = 16


class BFloat16:
    """bfloat16, which NumPy lacks, with the attributes of a NumPy dtype that are used here."""

    name, kind, itemsize, isnative, char = "bfloat16", "V", 2, True, "E"

    def newbyteorder(self, order: str) -> "BFloat16":
        """Return self: GPU arrays have the GPU's byte order."""
        return self

    def __repr__(self) -> str:
        return self.name


BFLOAT16 = BFloat16()


class Library(NamedTuple):
    """Functions of the array library that an array comes from, on that library's own arrays.

    new(shape, dtype, place) returns a new contiguous array on that device and its address; its
    memory is ordered with the stream. matmul(a, b, out) computes out = a @ b, add_matmul(a, b, out)
    computes out += a @ b; both are None if the library has no matrix products.
    """

    new: Callable[[tuple[int, ...], Any, Place], tuple[Any, int]]
    matmul: Callable[[Any, Any, Any], Any] | None = None
    add_matmul: Callable[[Any, Any, Any], Any] | None = None


class Memory:
    """The memory of an array: its address, and the owner that keeps it allocated."""

    __slots__ = ("address", "owner")

    def __init__(self, owner: Any, address: int) -> None:
        self.owner, self.address = owner, address


class Pointer(NamedTuple):
    """A pointer into an array's memory: the memory and an offset in bytes."""

    memory: Memory
    offset: int

    @property
    def address(self) -> int:
        """The address, for checks of alignment; kernels take the pointer itself."""
        return self.memory.address + self.offset

    def at(self, offset: int) -> "Pointer":
        """The pointer moved by `offset` bytes."""
        return Pointer(self.memory, self.offset + offset)


class LaunchedCall(Protocol):
    """A kernel with its packed arguments, as `fastxent.cuda.driver` launches it."""

    values: Any

    def launch(self, stream: int) -> None:
        """Launch the kernel on a stream."""


class Launch(NamedTuple):
    """A kernel launch, and the index and pointer of each packed argument that is a pointer."""

    call: LaunchedCall
    pointers: list[tuple[int, Pointer]]


class NewArray(NamedTuple):
    """An array that a call has allocated."""

    memory: Memory
    shape: tuple[int, ...]
    dtype: Any


class Queue:
    """The recorded work of one call: GPU and stream, kernel launches, and allocated arrays.

    All views of a call share one queue. While `is_cacheable`, the call consists of the recorded
    launches and can be repeated with other arrays. `report` is the host memory where a kernel
    reports a bad label, and `n_checked` the number of launches before the wait for that report.
    """

    __slots__ = ("is_cacheable", "launches", "n_checked", "new_arrays", "place", "report")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.is_cacheable = True
        self.launches: list[Launch] = []
        self.new_arrays: list[NewArray] = []
        self.report: Memory | None = None
        self.n_checked: int | None = None

    def not_cacheable(self) -> None:
        """Mark the recording incomplete and drop it."""
        self.is_cacheable = False
        self.launches.clear()  # they keep arrays of the call allocated
        self.new_arrays.clear()

    def add_launch(self, call: LaunchedCall, pointers: list[tuple[int, Pointer]]) -> None:
        """Record a launch."""
        if self.is_cacheable:
            self.launches.append(Launch(call, pointers))
            if len(self.launches) > MAX_LAUNCHES:
                self.not_cacheable()

    def add_check(self) -> None:
        """Record the wait for the report of a bad label; a call with two is not cached."""
        if self.n_checked is not None:
            self.not_cacheable()
        self.n_checked = len(self.launches)

    def add_array(self, array: NewArray) -> None:
        """Record an allocation."""
        if self.is_cacheable:
            self.new_arrays.append(array)


class DeviceArray:
    """A view of a library's GPU array: pointer, shape, strides in bytes, dtype and queue."""

    __slots__ = ("dtype", "library", "memory", "offset", "queue", "shape", "strides", "writeable")

    def __init__(
        self, owner: Any, address: int, shape: tuple[int, ...], strides: tuple[int, ...] | None,
        dtype: Any, place: Place, library: Library, writeable: bool = True,
    ) -> None:  # fmt: skip
        self.memory, self.offset, self.shape, self.dtype = Memory(owner, address), 0, shape, dtype
        self.strides = contiguous(shape, dtype.itemsize) if strides is None else strides
        self.queue, self.library, self.writeable = Queue(place), library, writeable

    @property
    def owner(self) -> Any:
        """The library's own array, which keeps the memory allocated."""
        return self.memory.owner

    @property
    def address(self) -> int:
        """The address of the first element."""
        return self.memory.address + self.offset

    @property
    def pointer(self) -> Pointer:
        """A pointer to the first element."""
        return Pointer(self.memory, self.offset)

    @property
    def place(self) -> Place:
        """The GPU and the stream of the call."""
        return self.queue.place

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def is_plain(self) -> bool:
        """Whether the array is C-contiguous, by its strides, and aligned."""
        size = self.dtype.itemsize
        return self.strides == contiguous(self.shape, size) and not self.address % size

    @property
    def is_contiguous(self) -> bool:
        """Whether the array is C-contiguous, ignoring axes of length 1."""
        expected = contiguous(self.shape, self.dtype.itemsize)
        if self.strides == expected:
            return True
        pairs = zip(self.shape, self.strides, expected, strict=True)
        return all(n == 1 or have == want for n, have, want in pairs) or not self.size

    def at(self, index: int) -> Pointer:
        """A pointer to an element of a contiguous array."""
        return Pointer(self.memory, self.offset + index * int(self.dtype.itemsize))

    def new(self, shape: tuple[int, ...], dtype: Any) -> "DeviceArray":
        """Allocate an array of the same library, for the same call."""
        owner, address = self.library.new(shape, dtype, self.place)
        array = self._view(shape, contiguous(shape, dtype.itemsize))
        array.memory, array.offset, array.dtype = Memory(owner, address), 0, dtype
        array.writeable = True
        self.queue.add_array(NewArray(array.memory, shape, dtype))
        return array

    def _view(
        self, shape: tuple[int, ...], strides: tuple[int, ...] | None, offset: int = 0
    ) -> "DeviceArray":
        """A view of the same memory with another shape and strides."""
        view = DeviceArray.__new__(DeviceArray)
        view.memory, view.offset, view.shape = self.memory, self.offset + offset, shape
        view.strides = contiguous(shape, self.dtype.itemsize) if strides is None else strides
        view.dtype, view.queue, view.library = self.dtype, self.queue, self.library
        view.writeable = self.writeable
        return view

    def part(self, first: int, shape: tuple[int, ...]) -> "DeviceArray":
        """A view of a contiguous array from element `first` on, with this shape.

        Its owner is the library's whole array.
        """
        return self._view(shape, None, first * self.dtype.itemsize)

    def classes_last(self, axis: int) -> "DeviceArray":
        """A view with an axis moved to the end."""
        if axis == self.ndim - 1:
            return self

        def moved(values: tuple[int, ...]) -> tuple[int, ...]:
            return (*values[:axis], *values[axis + 1 :], values[axis])

        return self._view(moved(self.shape), moved(self.strides))

    def reshape(self, *shape: Any) -> "DeviceArray":
        """A flat view of a contiguous array; other shapes are not needed."""
        return self._view((self.size,), None)

    def broadcast_to(self, shape: tuple[int, ...]) -> "DeviceArray":
        """A read-only view broadcast to a shape."""
        missing = len(shape) - self.ndim
        pairs = zip(shape[missing:], self.shape, self.strides, strict=True)
        strides = (stride if own == n else 0 for n, own, stride in pairs)
        view = self._view(shape, ((0,) * missing + tuple(strides)))
        view.writeable = False
        return view

    def shadow(self) -> "np.ndarray[Any, Any]":
        """A NumPy array with the same address and strides, to detect overlaps; never read."""
        kind = f"|V{self.dtype.itemsize}"
        layout = {
            "data": (self.address, not self.writeable), "shape": self.shape, "typestr": kind,
            "strides": self.strides, "version": 3,
        }  # fmt: skip
        return np.asarray(types.SimpleNamespace(__array_interface__=layout))


@functools.lru_cache(maxsize=256)
def contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The strides of a contiguous array in C order."""
    strides = []
    for n in reversed(shape):
        strides.append(itemsize)
        itemsize *= n
    return tuple(reversed(strides))
