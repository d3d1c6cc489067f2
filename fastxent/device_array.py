"""Arrays in a GPU's memory as the package sees them: a pointer, a shape, and the queue of the call.

A `DeviceArray` has those attributes of a NumPy array that are needed before a kernel starts; its
elements are never read from Python. Kernels are given pointers, never bare addresses, so that a
`Queue` knows of each launch which arrays it reads and writes.
"""

import functools
import math
import types
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastxent.records import Place

# A call with more launches than this is not cached: its kernels take longer than Python does.
MAX_LAUNCHES = 16


class BFloat16:
    """bfloat16, which NumPy lacks, with the attributes of a NumPy dtype that are used here."""

    name, kind, itemsize, isnative, char = "bfloat16", "V", 2, True, "E"

    def newbyteorder(self, order: str) -> "BFloat16":
        """The same: GPU arrays have the GPU's byte order."""
        return self

    def __repr__(self) -> str:
        return self.name


BFLOAT16 = BFloat16()


class Library(NamedTuple):
    """Functions of the library that an array comes from; matrices are its own arrays.

    new(shape, dtype, place) returns a new contiguous array there and its address; its memory is
    ordered with the place's stream. matmul(a, b, out) is out = a @ b, add_matmul(a, b, out) is
    out += a @ b, None if the library has no such product.
    """

    new: Callable[[tuple[int, ...], Any, Place], tuple[Any, int]]
    matmul: Callable[[Any, Any, Any], Any] | None = None
    add_matmul: Callable[[Any, Any, Any], Any] | None = None


class Memory:
    """The memory of one array: its owner, which keeps it allocated, and its address."""

    __slots__ = ("address", "owner")

    def __init__(self, owner: Any, address: int) -> None:
        self.owner, self.address = owner, address


class Pointer(NamedTuple):
    """A byte of an array's memory."""

    memory: Memory
    offset: int

    @property
    def address(self) -> int:
        """The address, for its alignment; kernels are given the pointer."""
        return self.memory.address + self.offset

    def at(self, offset: int) -> "Pointer":
        """The pointer so many bytes further on."""
        return Pointer(self.memory, self.offset + offset)


class LaunchedCall(Protocol):
    """A kernel with its packed arguments, as `fastxent.cuda.driver` launches it."""

    values: Any

    def launch(self, stream: int) -> None:
        """Put it on a stream."""


class Launch(NamedTuple):
    """A launch, and which of its packed arguments point into which memory."""

    call: LaunchedCall
    pointers: list[tuple[int, Pointer]]


class NewArray(NamedTuple):
    """An array that a call has allocated."""

    memory: Memory
    shape: tuple[int, ...]
    dtype: Any


class Queue:
    """The work of one call: its GPU and stream, its launches so far and the arrays it allocated.

    All views of a call share one. While `is_cacheable`, the launches are all that the call has
    done: then it can be repeated with other arrays. `report` is the host memory in which a kernel
    reports a bad label, and `n_checked` how many launches came before the wait for that.
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
        """The call does something else than launch kernels: its launches are dropped."""
        self.is_cacheable = False
        self.launches.clear()  # they would keep its arrays allocated
        self.new_arrays.clear()

    def add_launch(self, call: LaunchedCall, pointers: list[tuple[int, Pointer]]) -> None:
        """Record a launch."""
        if self.is_cacheable:
            self.launches.append(Launch(call, pointers))
            if len(self.launches) > MAX_LAUNCHES:
                self.not_cacheable()

    def add_check(self) -> None:
        """Record that the call now waits for the report of a bad label, at most once in a call."""
        if self.n_checked is not None:
            self.not_cacheable()
        self.n_checked = len(self.launches)

    def add_array(self, array: NewArray) -> None:
        """Record an allocation."""
        if self.is_cacheable:
            self.new_arrays.append(array)


class DeviceArray:
    """An array of a library as its pointer, shape, strides in bytes, dtype and queue."""

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
        """The library's own array, which keeps the memory."""
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
        """The GPU and the stream."""
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
        """Whether it is in C order without gaps and aligned to its elements."""
        size = self.dtype.itemsize
        return self.strides == contiguous(self.shape, size) and not self.address % size

    @property
    def is_contiguous(self) -> bool:
        """Whether elements lie side by side in C order."""
        expected = contiguous(self.shape, self.dtype.itemsize)
        if self.strides == expected:
            return True
        pairs = zip(self.shape, self.strides, expected, strict=True)
        return all(n == 1 or have == want for n, have, want in pairs) or not self.size

    def at(self, index: int) -> Pointer:
        """A pointer to an element of a contiguous array."""
        return Pointer(self.memory, self.offset + index * int(self.dtype.itemsize))

    def new(self, shape: tuple[int, ...], dtype: Any) -> "DeviceArray":
        """A new array of the same library for the same call."""
        owner, address = self.library.new(shape, dtype, self.place)
        array = self._view(shape, contiguous(shape, dtype.itemsize))
        array.memory, array.offset, array.dtype = Memory(owner, address), 0, dtype
        array.writeable = True
        self.queue.add_array(NewArray(array.memory, shape, dtype))
        return array

    def _view(
        self, shape: tuple[int, ...], strides: tuple[int, ...] | None, offset: int = 0
    ) -> "DeviceArray":
        """The same memory in another shape."""
        view = DeviceArray.__new__(DeviceArray)
        view.memory, view.offset, view.shape = self.memory, self.offset + offset, shape
        view.strides = contiguous(shape, self.dtype.itemsize) if strides is None else strides
        view.dtype, view.queue, view.library = self.dtype, self.queue, self.library
        view.writeable = self.writeable
        return view

    def part(self, first: int, shape: tuple[int, ...]) -> "DeviceArray":
        """A contiguous array's elements from number `first` on, in a shape.

        Its owner is that of the whole array: there is no library's array of the part.
        """
        return self._view(shape, None, first * self.dtype.itemsize)

    def classes_last(self, axis: int) -> "DeviceArray":
        """The same memory with an axis moved to the end."""
        if axis == self.ndim - 1:
            return self

        def moved(values: tuple[int, ...]) -> tuple[int, ...]:
            return (*values[:axis], *values[axis + 1 :], values[axis])

        return self._view(moved(self.shape), moved(self.strides))

    def reshape(self, *shape: Any) -> "DeviceArray":
        """A contiguous array as a flat one, the only other shape that is used."""
        return self._view((self.size,), None)

    def broadcast_to(self, shape: tuple[int, ...]) -> "DeviceArray":
        """The same memory broadcast to a shape, read-only."""
        missing = len(shape) - self.ndim
        pairs = zip(shape[missing:], self.shape, self.strides, strict=True)
        strides = (stride if own == n else 0 for n, own, stride in pairs)
        view = self._view(shape, ((0,) * missing + tuple(strides)))
        view.writeable = False
        return view

    def shadow(self) -> "np.ndarray[Any, Any]":
        """A NumPy array of the same layout, to find overlaps of memory; never to be read."""
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
