"""Unusual arrays and array-like objects, made from ordinary arrays."""

import ctypes
import enum
import tempfile

import ml_dtypes  # noqa: F401 - registers its types with NumPy
import numpy as np
from numpy.lib.stride_tricks import as_strided


class OnGpu:
    """An object with the interface of a GPU array."""

    __cuda_array_interface__ = {"shape": (4,)}


class Arrayed:
    """An object whose `__array__` returns an array or something else."""

    def __init__(self, found):
        self.found = found

    def __array__(self, dtype=None, copy=None):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


class Described:
    """An array by `__array_interface__`."""

    def __init__(self, said, found=None):
        self.__array_interface__ = said
        self.found = found


class Exported:
    """An object whose `__dlpack__` returns an array or something else."""

    def __init__(self, found, device=(1, 0)):
        self.found, self.device = found, device

    def __dlpack__(self, **how):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found.__dlpack__(**how) if isinstance(self.found, np.ndarray) else self.found

    def __dlpack_device__(self):
        return self.device


class HalfExported:
    """DLPack without a device."""

    def __dlpack__(self, **how):
        raise AssertionError("nobody may ask, not knowing where the memory is")


class Mine(np.ndarray):
    """A subclass."""


class Index:
    """An integer by `__index__`."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


class Floating:
    """An object with `__float__` that is not a real number."""

    def __float__(self):
        return 0.1


class Unclear:
    """An object without a truth value."""

    def __bool__(self):
        raise ValueError("unclear")


class Share(float):
    """A subclass of float."""


class How(str, enum.Enum):  # noqa: UP042 - what users of Python 3.10 write
    """Strings by name."""

    MEAN = "mean"


class Kind(enum.Enum):
    """No strings."""

    MEAN = "mean"


class Animal(enum.IntEnum):
    """Labels by name."""

    CAT, DOG, EEL = range(3)


class Text(str):
    """A subclass of str."""


def to(kind):
    """An array as another type."""
    return lambda a: np.asarray(a).astype(kind)


def always(value):
    """The same, whatever the good value is."""
    return lambda _: value


def structured(a):
    return np.zeros(np.shape(a), [("a", float)])


def read_only(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


def read_only_view(a):
    view = a[...]
    view.flags.writeable = False
    return view


def unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    raw[...] = a
    return raw


def on_disk(mode):
    def mapped(a):
        with tempfile.NamedTemporaryFile() as file:
            file.write(np.ascontiguousarray(a).tobytes())
            file.flush()
            return np.memmap(file.name, a.dtype, mode, shape=a.shape)

    return mapped


def every_other(a, step=2):
    wide = np.full((*a.shape[:-1], step * a.shape[-1]), 7, a.dtype)
    wide[..., ::step] = a
    return wide[..., ::step]


def every_other_row(a):
    wide = np.full((2 * a.shape[0], *a.shape[1:]), 7, a.dtype)
    wide[::2] = a
    return wide[::2]


def inside(a):
    wide = np.full([n + 4 for n in a.shape], 7, a.dtype)
    part = wide[tuple(slice(2, -2) for _ in a.shape)]
    part[...] = a
    return part


def backwards(a):
    return np.ascontiguousarray(np.flip(a))[tuple(slice(None, None, -1) for _ in a.shape)]


def swapped(a):
    return a.astype(a.dtype.newbyteorder())


def first_row(a):
    return np.broadcast_to(a[:1], a.shape)


def first_class(a):
    return np.broadcast_to(a[..., :1], a.shape)


def windows(a):
    """Rows that share elements of one memory."""
    line = np.resize(a, sum(a.shape) - 1)
    return as_strided(line, a.shape, (line.itemsize, line.itemsize), writeable=False)


def released(a):
    view = memoryview(np.ascontiguousarray(a))
    view.release()
    return view


def listed(a):
    return np.asarray(a, np.float64 if np.asarray(a).dtype.kind == "f" else None).tolist()


def ctypes_array(a):
    """Memory that C code would own."""
    kind = ctypes.c_float if a.itemsize == 4 else ctypes.c_double
    return (kind * a.shape[1] * a.shape[0]).from_buffer_copy(np.ascontiguousarray(a))


def bytes_of(a):
    return np.frombuffer(bytearray(a.nbytes), a.dtype).reshape(a.shape)


def to_labels(kind):
    return lambda _: np.array([0, 2, 1, 2]).astype(kind)


def with_row(*values):
    """The second row holds these values over and over."""

    def filled(a):
        a = a.copy()
        a[1] = np.resize(np.array(values), a[1].shape)
        return a

    return filled


def label(position, value, kind=np.int64):
    """Labels of a type, one of them the value; none is ignored."""

    def labels(_):
        found = np.array([0, 2, 1, 2], kind)
        found[position] = value
        return found

    return labels


def double(a):
    return np.asarray(a).astype(np.float64)


def same(a):
    return a


def part(line, start, shape, step=1):
    """Some of a line, in a shape."""
    count = int(np.prod(shape))
    return line[start : start + count * step : step].reshape(shape)
