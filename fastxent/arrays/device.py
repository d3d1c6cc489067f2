"""Arrays in a GPU's memory as the public functions see them: an address, a shape, a place.

A `DeviceArray` answers what is asked of a NumPy array before a kernel starts, and its memory is
never touched from here. What depends on the library - how more memory is had - is its
`library`.
"""

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastxent.arrays import views
from fastxent.functions import ARRAYS, NUMBERS, Function, Role
from fastxent.records import Place

Given = dict[str, Any]

# Columns are counted in 32 bits, with room for those beyond the last.
LONGEST = 2**31 - 2**17



_HOLD_ARRAYS = ARRAYS | {Role.BUFFER}


class BFloat16:
    """bfloat16, which NumPy does not know, with what is asked of a NumPy type here."""

    name, kind, itemsize, isnative, char = "bfloat16", "V", 2, True, "E"

    def newbyteorder(self, order: str) -> "BFloat16":
        """The same: GPU arrays have the GPU's byte order."""
        return self

    def __repr__(self) -> str:
        return self.name

    __str__ = __repr__


BFLOAT16 = BFloat16()


class Library(NamedTuple):
    """What is asked of the library that an array comes from; matrices are its own arrays.

    new(shape, dtype, place) is a new contiguous array there and its address; its memory is in order
    with the place's stream. matmul(a, b, out) is out = a @ b, add_matmul(a, b, out) is
    out += a @ b, None where nobody knows how.
    """

    new: Callable[[tuple[int, ...], Any, Place], tuple[Any, int]]
    matmul: Callable[[Any, Any, Any], Any] | None = None
    add_matmul: Callable[[Any, Any, Any], Any] | None = None


class DeviceArray:
    """An array of a library as its address, shape, strides in bytes, dtype and place.

    Its address is an int, or one that belongs to a recording: see `fastxent.arrays.replay`.
    """

    __slots__ = ("_owner", "address", "dtype", "library", "place", "shape", "strides", "writeable")

    def __init__(
        self, owner: Any, address: Any, shape: tuple[int, ...], strides: tuple[int, ...] | None,
        dtype: Any, place: Place, library: Library, writeable: bool = True,
    ) -> None:  # fmt: skip
        self._owner, self.address, self.shape, self.dtype = owner, address, shape, dtype
        self.strides = contiguous(shape, dtype.itemsize) if strides is None else strides
        self.place, self.library, self.writeable = place, library, writeable

    @property
    def owner(self) -> Any:
        """The library's own array, which keeps the memory; what is done with it is not recorded."""
        if type(self.address) is not int:
            self.address.recording.miss()
        return self._owner

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
        """Whether strides are those of an array in C order, and the address one of an element's."""
        size = self.dtype.itemsize
        return self.strides == contiguous(self.shape, size) and not self.address % size

    @property
    def is_contiguous(self) -> bool:
        """Whether elements lie side by side in C order."""
        expected = contiguous(self.shape, self.dtype.itemsize)
        pairs = zip(self.shape, self.strides, expected, strict=True)
        return all(n == 1 or have == want for n, have, want in pairs) or not self.size

    def new(self, shape: tuple[int, ...], dtype: Any) -> "DeviceArray":
        """Memory of the same library at the same place."""
        owner, address = self.library.new(shape, dtype, self.place)
        made = DeviceArray(owner, address, shape, None, dtype, self.place, self.library)
        if type(self.address) is not int:
            self.address.recording.make(made)
        return made

    def part(self, first: int, shape: tuple[int, ...]) -> "DeviceArray":
        """A contiguous array's elements from number `first` on, in a shape.

        Its owner is the whole array, which keeps the memory; there is no library's array of it.
        """
        address = self.address + first * self.dtype.itemsize
        return DeviceArray(
            self._owner, address, shape, None, self.dtype, self.place, self.library, self.writeable
        )

    def classes_last(self, axis: int) -> "DeviceArray":
        """The same memory with an axis moved to the end."""
        if axis == self.ndim - 1:
            return self

        def moved(of: tuple[int, ...]) -> tuple[int, ...]:
            return (*of[:axis], *of[axis + 1 :], of[axis])

        return DeviceArray(
            self._owner, self.address, moved(self.shape), moved(self.strides), self.dtype,
            self.place, self.library, self.writeable,
        )  # fmt: skip

    def reshape(self, *shape: Any) -> "DeviceArray":
        """A new array in its only other shape here: flat."""
        return DeviceArray(
            self._owner, self.address, (self.size,), None, self.dtype, self.place, self.library
        )

    def spread(self, shape: tuple[int, ...]) -> "DeviceArray":
        """The same memory broadcast to a shape."""
        missing = len(shape) - self.ndim
        pairs = zip(shape[missing:], self.shape, self.strides, strict=True)
        kept = (stride if have == n else 0 for n, have, stride in pairs)
        return DeviceArray(
            self._owner, self.address, shape, ((0,) * missing + tuple(kept)), self.dtype,
            self.place, self.library, False,
        )  # fmt: skip

    def shadow(self) -> "np.ndarray[Any, Any]":
        """A NumPy array of the same layout, to ask where memory overlaps; never to be read."""
        kind = f"|V{self.dtype.itemsize}"
        return np.asarray(_Interface({
            "data": (self.address, not self.writeable), "shape": self.shape, "typestr": kind,
            "strides": self.strides, "version": 3,
        }))  # fmt: skip


class _Interface:
    def __init__(self, interface: Given) -> None:
        self.__array_interface__ = interface


@functools.lru_cache(maxsize=256)
def contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The strides of elements that lie side by side in C order."""
    strides = []
    for n in reversed(shape):
        strides.append(itemsize)
        itemsize *= n
    return tuple(reversed(strides))


def looked_at(
    function: Function, given: Given, view: Callable[[Any], DeviceArray | None]
) -> Given:
    """The arguments with views of the arrays, which are all on one GPU.

    view(value) is None for what is no array on a GPU.
    """
    place = None
    seen: Given = {}
    for name, value in given.items():
        if place is None:  # the first argument, which decides
            array = _seen(name, value, view)
            place, seen[name] = array.place, array
        elif value is None or function.role(name) not in _HOLD_ARRAYS:
            seen[name] = value
        elif isinstance(value, tuple) and name in function.buffers:
            parts = [part if part is None else _seen(name, part, view, place) for part in value]
            seen[name] = views.like(value, parts)
        elif function.role(name) in NUMBERS and isinstance(value, numbers.Real):
            seen[name] = value
        else:
            seen[name] = _seen(name, value, view, place)
    return seen


def _follow(place: Place, stream: int) -> None:
    from fastxent.cuda.driver import follow

    follow(place, stream)


def _seen(
    name: str, value: Any, view: Callable[[Any], DeviceArray | None], place: Place | None = None
) -> DeviceArray:
    """A view of what has to be an array on a GPU, at a place if one is given."""
    array = view(value)
    if array is None:
        where = "a GPU" if place is None else f"GPU {place.device}"
        raise TypeError(
            f"{name} is in host memory ({type(value).__name__}), expected an array on {where}, "
            "where the first argument is: nothing is copied between them unasked"
        )
    if not array.address and array.size:
        raise TypeError(f"{name} has no memory that can be read ({type(value).__name__})")
    if not array.is_plain:
        size = array.dtype.itemsize
        if array.address % size or any(step % size for step in array.strides):
            raise ValueError(f"{name} must have its elements at multiples of their {size} bytes")
    if array.shape and max(array.shape) > LONGEST:
        raise ValueError(f"{name} must have at most {LONGEST} elements along an axis here")
    if place is not None and array.place != place:
        if array.place.device != place.device and array.size:
            raise TypeError(
                f"{name} is on GPU {array.place.device}, expected it on GPU {place.device}"
            )
        if array.place.stream not in (0, place.stream):  # what is still written there
            _follow(place, array.place.stream)
        array.place = place
    return array
