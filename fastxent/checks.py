"""Checks of arrays, targets, weights and buffers, made before anything is written."""

import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastxent import errors, options
from fastxent.arrays import foreign
from fastxent.arrays.borrowed import Borrowed
from fastxent.device_array import DeviceArray
from fastxent.records import LinearGrad

Array = NDArray[Any]
Shape = tuple[int, ...]
Named = tuple[str, Any]  # an argument's name and the array

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


class Precision(NamedTuple):
    """The types of a call's results, in the order of `fastxent.results.Type`.

    `compute` is the type of the computation and of losses, `own` that of arrays shaped as the
    input, `integer` that of class indices.
    """

    compute: "np.dtype[Any]"
    own: "np.dtype[Any]"
    integer: "np.dtype[Any]" = np.dtype(np.int64)


_SINGLE, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
_PRECISION: dict[Any, Precision] = {
    _SINGLE: Precision(_SINGLE, _SINGLE),
    _DOUBLE: Precision(_DOUBLE, _DOUBLE),
}


# --- arrays ---------------------------------------------------------------------------------


def array(value: Any, name: str) -> Any:
    """Convert a value to a NumPy array, without a copy if possible; keep a `DeviceArray`."""
    if type(value) is np.ndarray or type(value) is DeviceArray:
        return value
    return foreign.array(value, name)


def new(like: Any, shape: Shape, dtype: Any) -> Any:
    """Allocate an uninitialised result, by the library and on the device of `like`."""
    if type(like) is DeviceArray:
        return like.new(shape, dtype)
    memory = like.base
    if memory is None or not isinstance(memory, Borrowed):
        return np.empty(shape, dtype)
    return memory.new(like, shape, dtype)


def precision(dtype: "np.dtype[Any]", name: str) -> Precision:
    """The types of the computation and of the results for an input's type."""
    try:
        return _PRECISION[dtype]
    except KeyError:
        pass
    if dtype.kind in "biu":
        return _PRECISION[_DOUBLE]
    if dtype.kind == "f" and dtype.itemsize in (4, 8):  # the other byte order
        return _PRECISION[dtype.newbyteorder("=")]
    if dtype.kind == "f" and dtype.itemsize == 2 or dtype.name == "bfloat16":
        return Precision(_SINGLE, dtype.newbyteorder("="))
    raise errors.no_precision(name, dtype)


def wider(computes: list["np.dtype[Any]"]) -> "np.dtype[Any]":
    """The wider of some types of computation."""
    return _DOUBLE if _DOUBLE in computes else _SINGLE


def class_axis(axis: Any, shape: Shape, name: str, *, empty: bool = False) -> int:
    """Check the class axis and return it as a non-negative int; only `empty` allows length 0."""
    if type(axis) is not int:
        axis = options.integer(axis, "axis")
    position: int = axis
    if not shape:
        raise errors.no_class_axis(name)
    if not -len(shape) <= position < len(shape):
        raise errors.no_such_axis(position, shape, name)
    position %= len(shape)
    if not shape[position] and not empty:
        raise errors.no_classes(name, shape, position)
    return position


def classes_last(view: Any, axis: int) -> Any:
    """A view as a base-class array, with the class axis moved to the end."""
    if type(view) is DeviceArray:
        return view.classes_last(axis)
    plain = view if type(view) is np.ndarray else view.view(np.ndarray)
    return plain if axis == plain.ndim - 1 else np.moveaxis(plain, axis, -1)


def real_numbers(values: Array, name: str) -> None:
    """Raise unless an array holds integers, bools or floats of any width."""
    if values.dtype.kind not in "fbiu" and values.dtype.name != "bfloat16":
        raise errors.not_real(name, values.dtype)


# --- targets --------------------------------------------------------------------------------


def target(value: Any, shape: Shape, axis: int, of: str) -> Any:
    """Check a target: class indices, or class probabilities of the shape of the logits."""
    checked = array(value, "target")
    indices = (*shape[:axis], *shape[axis + 1 :])
    if not checked.size and not isinstance(value, (np.ndarray, DeviceArray)):
        checked = checked.astype(np.int64)  # an empty list has no type of its own
    if checked.shape == shape:
        real_numbers(checked, "target")
    elif checked.shape != indices:
        raise errors.target_shape(indices, shape, of, axis, checked.shape)
    elif checked.dtype.kind not in "iu":
        raise errors.indices_not_integer(checked.dtype, shape)
    return checked


def element_target(value: Any, shape: Shape, of: str) -> Any:
    """Check a binary target, which has the shape of the input."""
    checked = array(value, "target")
    real_numbers(checked, "target")
    if checked.shape != shape:
        raise errors.wrong_shape("target", shape, f"that of {of}", checked.shape)
    return checked


def flat_labels(labels: Any, ignore_index: int | None) -> tuple[Any, int | None]:
    """Return flat labels as kernels take them, and the ignore_index to compare them with.

    Labels are compared as integers and never wrap around: a uint64 label beyond int64's range is
    replaced by a number that is not a class, and equals ignore_index only if the label did. Labels
    on a GPU are returned unchanged. Labels in another byte order, or not aligned, are copied.
    """
    if type(labels) is DeviceArray:
        return labels, ignore_index
    if labels.dtype.kind == "u" and labels.dtype.itemsize == 8:  # of either byte order
        large = labels > np.uint64(_INT64_MAX)
        if large.any():
            ignored = labels == ignore_index if ignore_index is not None else False
            mapped = np.where(large, np.uint64(0), labels).astype(np.int64)
            mapped[large] = _INT64_MIN
            mapped[ignored] = _INT64_MIN + 1
            return mapped.reshape(-1), _INT64_MIN + 1
    if ignore_index is not None and not _INT64_MIN <= ignore_index <= _INT64_MAX:
        ignore_index = None  # equal to no label
    flat, size = labels.reshape(-1), labels.itemsize
    if not (flat.dtype.isnative and flat.flags.aligned) or flat.strides[0] % size:
        flat = flat.astype(np.int64)
    return flat, ignore_index


def bad_label(
    labels: Any, row: int, label: int, n_classes: int, ignore_index: int | None,
    name: str = "target",
) -> IndexError:  # fmt: skip
    """The error for a label out of range; `label` is its value for labels on a GPU."""
    place = np.unravel_index(row, labels.shape) if labels.ndim else ()
    if type(labels) is not DeviceArray:
        label = labels.reshape(-1)[row]
    return errors.bad_label(place, label, n_classes, ignore_index, name)


def one_hot(backend: Any, integers: Any, of: str, indices: Shape | None = None) -> None:
    """Raise for an integer target with values other than 0 and 1: they may be class indices.

    `indices` is the shape of class indices, for the message; None for a binary loss.
    """
    if integers.dtype.kind in "iu" and integers.size:
        at, value = backend.first_beyond_one(integers)
        if at >= 0:
            place = np.unravel_index(at, integers.shape) if integers.ndim else ()
            raise errors.not_one_hot(place, value, of, indices)


# --- weights --------------------------------------------------------------------------------


def weights(values: Any, name: str, shape: Shape, meaning: str) -> Any:
    """Check weights of exactly this shape; return contiguous float64, or on a GPU the array."""
    real_numbers(values, name)
    if values.shape != shape:
        raise errors.wrong_shape(name, shape, meaning, values.shape)
    if type(values) is DeviceArray:
        return values
    with np.errstate(all="ignore"):  # a longdouble may overflow float64
        return np.ascontiguousarray(values, np.float64)


def broadcast(value: Any, name: str, shape: Shape) -> Any:
    """Check weights that must broadcast to a shape without enlarging it."""
    if value is None:
        return None
    values = array(value, name)
    real_numbers(values, name)
    ends = zip(reversed(values.shape), reversed(shape), strict=False)
    # np.broadcast_shapes supports 32 dimensions only, arrays have up to 64.
    if values.ndim > len(shape) or any(n not in (1, whole) for n, whole in ends):
        raise errors.not_broadcastable(name, shape, values.shape)
    return values


def normalizer(value: Any, reduction: str) -> Any:
    """Check the divisor of the mean: a real number, or on a GPU a 0-d array."""
    if value is None:
        return None
    if reduction != "mean":
        raise errors.normalizer_without_mean(reduction)
    if not isinstance(value, options.NOT_NUMBERS) and isinstance(value, numbers.Real):
        return options.to_float(value, "normalizer")
    divisor = foreign.array(value, "normalizer", number=True)
    if divisor.ndim:
        raise errors.normalizer_shape(divisor.shape)
    if divisor.dtype.kind not in "fiu" and divisor.dtype.name != "bfloat16":
        raise errors.not_of_type("normalizer", "a real number", divisor.dtype)
    return divisor if type(divisor) is DeviceArray else float(divisor)


def vector(value: Any, name: str, shape: Shape, of: str) -> Any:
    """Check the vector of a Hessian-vector product: real numbers of the shape of the input `of`."""
    checked = array(value, name)
    real_numbers(checked, name)
    if checked.shape != shape:
        raise errors.wrong_shape(name, shape, f"that of {of}", checked.shape)
    return checked


def linear_vector(value: Any, names: tuple[str, ...], inputs: Sequence[Any]) -> LinearGrad:
    """Check the vector for a linear map: a part for each input; None stands for zeros."""
    if not isinstance(value, tuple) or len(value) != len(names):
        raise errors.vector_kind(names, value)
    parts: list[Any] = []
    for part, name, of in zip(value, names, inputs, strict=True):
        if part is None:
            parts.append(None)
        elif of is None:
            raise errors.wrong_value(f"vector.{name}", f"None without {name}", "an array")
        else:
            parts.append(vector(part, f"vector.{name}", of.shape, name))
    if all(part is None for part in parts):
        raise errors.no_vector(names)
    return LinearGrad(*parts)


def linear_map(x: Array, linear_weight: Array, linear_bias: Array | None) -> None:
    """Raise unless the operands of x @ linear_weight.T + linear_bias fit together."""
    matrix = linear_weight.shape
    if linear_weight.ndim != 2 or not matrix[0]:
        raise errors.weight_shape(matrix)
    n_classes, features = matrix
    if not x.ndim or x.shape[-1] != features:
        raise errors.linear_shape("x", f"(..., {features})", matrix, x.shape)
    if linear_bias is not None and linear_bias.shape != (n_classes,):
        raise errors.linear_shape("linear_bias", f"({n_classes},)", matrix, linear_bias.shape)


# --- buffers --------------------------------------------------------------------------------


def buffer(
    value: Any, name: str, shape: Shape, dtype: "np.dtype[Any]", others: list[Named],
    over: Sequence[Named] = (),
) -> Any:  # fmt: skip
    """Check a buffer: its class, shape, type and layout, and that it overlaps none of `others`.

    It may be exactly the memory of one of the arrays `over`.
    """
    if type(value) not in (np.ndarray, np.memmap, DeviceArray):
        raise errors.buffer_kind(name, "a numpy.ndarray", value)
    if value.shape != shape:
        raise errors.buffer_shape(name, shape, value.shape)
    if value.dtype != dtype or not value.dtype.isnative:
        raise errors.buffer_type(name, dtype, value.dtype)
    out = _layout(value)
    if not out.flags.writeable:
        raise errors.buffer_read_only(name)
    if _overlaps_itself(out):
        raise errors.buffer_overlaps_itself(name, out.strides)
    for named in over:
        if value is not named[1]:
            layout = _layout(named[1])
            if np.may_share_memory(out, layout) and _place(out) != _place(layout):
                others = [*others, named]
    for other_name, other in others:
        if isinstance(other, (np.ndarray, DeviceArray)) and np.shares_memory(out, _layout(other)):
            raise errors.buffer_overlaps(name, other_name, [of for of, _ in over])
    return value


def linear_buffers(value: Any, name: str, accumulate: bool) -> Any:
    """Check the buffers for the derivatives of a linear map: a tuple of three, or None."""
    if value is None:
        if accumulate:
            raise errors.accumulate_without_buffers()
        return None
    if not isinstance(value, tuple) or len(value) != 3:
        kind = "a LinearGrad of buffers (x, linear_weight, linear_bias)"
        raise errors.buffer_kind(name, kind, value)
    return value


def _layout(array: Any) -> Array:
    """A NumPy array with the address and strides of this one, for comparison only."""
    return array.shadow() if type(array) is DeviceArray else array


def _place(a: Array) -> tuple[Any, ...]:
    """Address and layout, equal for arrays that share exactly the same memory."""
    return a.ctypes.data, a.shape, a.strides, a.dtype


def _overlaps_itself(a: Array) -> bool:
    if a.flags.c_contiguous or not a.size:
        return False
    reach = a.itemsize
    for stride, n in sorted(zip(map(abs, a.strides), a.shape, strict=True)):
        if n > 1:
            if stride < reach:
                return True
            reach += stride * (n - 1)
    return False


# --- return values --------------------------------------------------------------------------


def result(array: Any) -> Any:
    """A filled array as it is returned: a 0-d NumPy array becomes a NumPy scalar.

    Arrays in another library's memory are returned unchanged.
    """
    if type(array) is not np.ndarray or array.ndim or isinstance(array.base, Borrowed):
        return array
    return array[()]


def scalar(value: Any, dtype: "np.dtype[Any]") -> Any:
    """Convert a reduced loss to its type; overflow gives inf without a warning.

    A scalar in GPU memory is returned unchanged.
    """
    # Well within the range of both types errstate is not needed, which costs as much as a kernel.
    if type(value) is float and 1e-30 < value < 1e30:
        return dtype.type(value)
    if isinstance(value, DeviceArray):
        return value
    with np.errstate(all="ignore"):
        return dtype.type(value)
