"""What is accepted, and the words of every error.

Everything is checked before anything is written. Each message names the argument, says what was
expected and what came.
"""

import math
import numbers
import operator
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastxent import words
from fastxent.arrays import foreign
from fastxent.arrays.borrowed import Borrowed
from fastxent.arrays.device import DeviceArray
from fastxent.terms import Clip

Array = NDArray[Any]

REDUCTIONS = ("none", "mean", "sum")
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
# Python's abstract numbers count bools and times among them.
_NO_NUMBERS = (bool, np.bool_, np.timedelta64)
_FLAGS = (int, np.bool_, np.integer)
INDEX = np.dtype(np.int64)  # of argmax


class Precision(NamedTuple):
    """The types of one call: of the arithmetic, of arrays shaped as the input, of the loss."""

    compute: "np.dtype[Any]"
    own: "np.dtype[Any]"
    loss: "np.dtype[Any]"


_SINGLE, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
_PRECISION: dict[Any, Precision] = {
    _SINGLE: Precision(_SINGLE, _SINGLE, _SINGLE),
    _DOUBLE: Precision(_DOUBLE, _DOUBLE, _DOUBLE),
}


# --- arrays ---------------------------------------------------------------------------------


def array(value: Any, name: str) -> Any:
    """The value as a NumPy array, sharing its memory where it is one; a GPU's as it is."""
    if type(value) is np.ndarray or type(value) is DeviceArray:
        return value
    return foreign.array(value, name)


def new(like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Memory for a result, where the input is."""
    if type(like) is DeviceArray:
        return like.new(shape, dtype)
    memory = like.base
    if memory is None or not isinstance(memory, Borrowed):
        return np.empty(shape, dtype)
    return memory.new(like, shape, dtype)


def result(array: Any) -> Any:
    """A filled array as it is returned: NumPy's without dimensions as a NumPy scalar; None as None.

    Another library's stays in that library's memory.
    """
    if type(array) is not np.ndarray or array.ndim or isinstance(array.base, Borrowed):
        return array
    return array[()]


def precision(dtype: "np.dtype[Any]", name: str) -> Precision:
    """The types that go with an input's type."""
    try:
        return _PRECISION[dtype]
    except KeyError:
        pass
    if dtype.kind in "biu":
        return _PRECISION[_DOUBLE]
    if dtype.kind == "f" and dtype.itemsize in (4, 8):  # the other byte order
        return _PRECISION[dtype.newbyteorder("=")]
    if dtype.kind == "f" and dtype.itemsize == 2 or dtype.name == "bfloat16":
        return Precision(_SINGLE, dtype.newbyteorder("="), _SINGLE)
    raise TypeError(words.no_precision(name, dtype))


def compute_type(name: Any) -> str:
    """The name of a type that is computed in."""
    try:
        found = "" if name is None else np.dtype(name).name
    except TypeError:
        found = ""
    if found not in ("float32", "float64"):
        raise ValueError(f"dtypes must hold 'float32' or 'float64', got {name!r}")
    return str(found)


def names(value: Any, argument: str, single: tuple[type, ...]) -> list[Any]:
    """One name, or several, as a list."""
    if isinstance(value, single):
        return [value]
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{argument} must be a name or several, got {type(value).__name__}")
    return list(value)


def called(value: Any, argument: str) -> None:
    """What is to be called, or None."""
    if value is not None and not callable(value):
        raise TypeError(f"{argument} must be callable, got {type(value).__name__}")


def one_of(name: Any, argument: str, names: Iterable[str]) -> str:
    """A name that is among those there are."""
    if not isinstance(name, str) or name not in names:
        raise ValueError(words.not_among(name, argument, names))
    return name


def parts(value: Any, argument: str, names_there_are: tuple[str, ...]) -> tuple[str, ...]:
    """One or several of the names that there are."""
    chosen = names(value, argument, (str,))
    if not chosen:
        raise ValueError(words.none_named(argument, names_there_are))
    return tuple(one_of(name, argument, names_there_are) for name in chosen)


def class_axis(axis: Any, shape: tuple[int, ...], name: str, *, empty: bool = False) -> int:
    """The class axis counted from the front; it must exist and, unless `empty`, hold a class."""
    if type(axis) is not int:
        axis = integer(axis, "axis")
    position: int = axis
    if not shape:
        raise ValueError(words.no_class_axis(name))
    if not -len(shape) <= position < len(shape):
        raise ValueError(words.bad_axis(position, shape, name))
    position %= len(shape)
    if not shape[position] and not empty:
        raise ValueError(
            f"{name} must have at least one class, got shape {shape} with axis={position}"
        )
    return position


def target(value: Any, shape: tuple[int, ...], axis: int, of: str) -> Any:
    """Class indices or, of the whole shape, class probabilities; or the reason why neither."""
    found = array(value, "target")
    expected = (*shape[:axis], *shape[axis + 1 :])
    if not found.size and not isinstance(value, (np.ndarray, DeviceArray)):
        found = found.astype(np.int64)  # an empty list has no type of its own
    if found.shape == shape:
        real_numbers(found, "target")
    elif found.shape != expected:
        raise ValueError(
            f"target must have shape {expected} (class indices) or {shape} (class probabilities) "
            f"for {of} of shape {shape} with axis={axis}, got {found.shape}"
        )
    elif found.dtype.kind not in "iu":
        raise TypeError(
            f"target must hold integer class indices, got {found.dtype}: cast to int, or give "
            f"probabilities of shape {shape}"
        )
    return found


def nothing_ignored(ignore_index: int | None) -> None:
    """Class probabilities have no index that could be ignored."""
    if ignore_index != -100:
        raise ValueError(
            "ignore_index must be left at -100 with class probabilities as target (ignore rows by "
            f"sample_weight), got {ignore_index}"
        )


def flat_labels(labels: Any, ignore_index: int | None) -> tuple[Any, int | None]:
    """Labels as contiguous int64, and the ignore_index to compare them with.

    Compared as integers, never wrapped: an unsigned label above int64's range becomes a number
    that is no class, and equals ignore_index only where it did before. A GPU compares them as they
    come.
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
    return np.ascontiguousarray(labels, np.int64).reshape(-1), ignore_index


def bad_label(
    labels: Any, row: int, label: int, n_classes: int, ignore_index: int | None,
    name: str = "target",
) -> IndexError:  # fmt: skip
    """The error for the first label that is no class; `label` is it, where NumPy cannot look."""
    place = np.unravel_index(row, labels.shape) if labels.ndim else ()
    if type(labels) is not DeviceArray:
        label = labels.reshape(-1)[row]
    return IndexError(words.bad_label(place, label, n_classes, ignore_index, name))


def no_one_hot_row(
    target: Any, at: int, value: int, of: str, indices: tuple[int, ...] | None
) -> ValueError:
    """The error for the first integer, at a place in C order, that is neither 0 nor 1."""
    place = np.unravel_index(at, target.shape) if target.ndim else ()
    return ValueError(words.no_one_hot_row(place, value, of, indices))


def classes_last(view: Any, axis: int) -> Any:
    """The same memory as a plain array with the class axis moved to the end; None of None."""
    if view is None:
        return None
    if type(view) is DeviceArray:
        return view.classes_last(axis)
    plain = view if type(view) is np.ndarray else view.view(np.ndarray)
    return plain if axis == plain.ndim - 1 else np.moveaxis(plain, axis, -1)


def real_numbers(found: Array, name: str) -> None:
    """Integers, bools or floats of any width."""
    if found.dtype.kind not in "fbiu" and found.dtype.name != "bfloat16":
        raise TypeError(f"{name} must hold real numbers, got {found.dtype}")


def weights(value: Any, name: str, shape: tuple[int, ...], of: str) -> Any:
    """Real weights of exactly the given shape, as contiguous float64; on a GPU as they come."""
    if value is None:
        return None
    found = array(value, name)
    real_numbers(found, name)
    if found.shape != shape:
        raise ValueError(f"{name} must have shape {shape} ({of}), got {found.shape}")
    if type(found) is DeviceArray:
        return found
    with np.errstate(all="ignore"):  # float64 may not hold a longdouble
        return np.ascontiguousarray(found, np.float64)


def same_shape(value: Any, shape: tuple[int, ...], of: str) -> Any:
    """A binary target: one number for each element."""
    found = array(value, "target")
    real_numbers(found, "target")
    if found.shape != shape:
        raise ValueError(f"target must have shape {shape} (that of {of}), got {found.shape}")
    return found


def spread_over(value: Any, name: str, shape: tuple[int, ...]) -> Any:
    """Weights that broadcast against a shape without enlarging it."""
    if value is None:
        return None
    found = array(value, name)
    real_numbers(found, name)
    ends = zip(reversed(found.shape), reversed(shape), strict=False)
    # np.broadcast_shapes knows 32 dimensions only, arrays have up to 64.
    if found.ndim > len(shape) or any(n not in (1, whole) for n, whole in ends):
        raise ValueError(f"{name} must broadcast to shape {shape}, got {found.shape}")
    return found


def linear_map(x: Array, linear_weight: Array, linear_bias: Array | None) -> None:
    """Whether the operands of x @ linear_weight.T + linear_bias fit together."""
    if linear_weight.ndim != 2 or not linear_weight.shape[0]:
        raise ValueError(
            "linear_weight must have shape (C, K) with at least one class, "
            f"got {linear_weight.shape}"
        )
    n_classes, features = linear_weight.shape
    if not x.ndim or x.shape[-1] != features:
        raise ValueError(
            f"x must have shape (..., {features}) for linear_weight of shape "
            f"{linear_weight.shape}, got {x.shape}"
        )
    if linear_bias is not None and linear_bias.shape != (n_classes,):
        raise ValueError(
            f"linear_bias must have shape ({n_classes},) for linear_weight of shape "
            f"{linear_weight.shape}, got {linear_bias.shape}"
        )


def linear_buffers(value: Any, accumulate: bool) -> Any:
    """grad_out of the linear map: three buffers, or None."""
    if value is None:
        if accumulate:
            raise ValueError("accumulate=True needs buffers in grad_out to add to, got None")
        return None
    if not isinstance(value, tuple) or len(value) != 3:
        raise ValueError(
            "grad_out must be a LinearGrad of buffers (x, linear_weight, linear_bias), "
            f"got {type(value).__name__}"
        )
    return value


# --- buffers --------------------------------------------------------------------------------


def buffer(
    value: Any,
    name: str,
    shape: tuple[int, ...],
    dtype: "np.dtype[Any]",
    others: list[tuple[str, Any]],
    over: tuple[str, Array] | None = None,
) -> Any:
    """A buffer that may be written: right in kind, shape and type, and apart from all `others`.

    It may lie exactly over the array `over`.
    """
    if type(value) not in (np.ndarray, np.memmap, DeviceArray):
        raise ValueError(f"{name} must be a numpy.ndarray, got {type(value).__name__}")
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {value.shape}")
    if value.dtype != dtype or not value.dtype.isnative:
        raise ValueError(
            f"{name} must have dtype {dtype} in native byte order, got {value.dtype!r}"
        )
    out = _layout(value)
    if not out.flags.writeable:
        raise ValueError(f"{name} must be writeable, got a read-only array")
    if _overlaps_itself(out):
        raise ValueError(
            f"{name} must have an element of its own for each result, got a broadcast or "
            f"overlapping view with strides {out.strides}"
        )
    if over is not None and value is not over[1]:
        lies = _layout(over[1])
        if np.may_share_memory(out, lies) and not _same_place(out, lies):
            others = [*others, over]
    for other_name, other in others:
        if isinstance(other, (np.ndarray, DeviceArray)) and _overlap(out, _layout(other)):
            may = f" (it may lie exactly over {over[0]})" if over else ""
            raise ValueError(f"{name} must not overlap {other_name}{may}")
    return value


def _layout(array: Any) -> Array:
    """What says where an array's elements lie: not to be read."""
    return array.shadow() if type(array) is DeviceArray else array


def no_buffer(value: Any, name: str, why: str) -> None:
    """The place of a buffer that has nothing to hold."""
    if value is not None:
        raise ValueError(f"{name} must be None {why}, got {type(value).__name__}")


def _same_place(a: Array, b: Array) -> bool:
    return (
        a.ctypes.data == b.ctypes.data
        and a.shape == b.shape
        and a.strides == b.strides
        and a.dtype == b.dtype
    )


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


def _overlap(a: Array, b: Array) -> bool:
    if not np.may_share_memory(a, b):
        return False
    return np.shares_memory(a, b)


# --- options --------------------------------------------------------------------------------


def flags(**given: Any) -> None:
    """Whether they are True or False, or ints for that."""
    for name, value in given.items():
        if value is True or value is False:
            continue
        if not isinstance(value, _FLAGS) or isinstance(value, np.timedelta64):
            raise TypeError(f"{name} must be True or False, got {type(value).__name__}")


def integer(value: Any, name: str) -> int:
    """An int, or something that stands for one; not a bool."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an int, got bool")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {type(value).__name__}") from None


def real(value: Any, name: str) -> float:
    """A finite number as a float."""
    if type(value) is not float:
        if isinstance(value, _NO_NUMBERS) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name} must be a real number, got {type(value).__name__}")
        value = _to_float(value, name)
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def _to_float(value: Any, name: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a number that float64 holds, got {value}") from None


def held(value: float, name: str, dtype: "np.dtype[Any]") -> float:
    """A number that is 0 or within the normal range of the type it will be multiplied in."""
    if value not in (0.0, 1.0):
        limits = np.finfo(dtype)
        if not float(limits.tiny) <= abs(value) <= float(limits.max):
            raise ValueError(f"{name} must be a number that {dtype} holds, got {value}")
    return value


def smoothing(value: Any) -> float:
    """label_smoothing."""
    epsilon = real(value, "label_smoothing")
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"label_smoothing must be in 0 .. 1, got {epsilon}")
    return epsilon


def cap(value: Any, dtype: "np.dtype[Any]") -> float | None:
    """Softcap."""
    if value is None:
        return None
    bound = real(value, "softcap")
    if bound <= 0.0:
        raise ValueError(f"softcap must be greater than 0, got {bound}")
    return held(bound, "softcap", dtype)


def clip(value: Any, dtype: "np.dtype[Any]") -> Clip:
    """Eps, the distance that probabilities keep from 0 and 1."""
    if value is None:
        return Clip.of(None)
    eps = real(value, "eps")
    if not 0.0 < eps < 0.5:
        raise ValueError(f"eps must be None or a number between 0 and 0.5, got {eps}")
    return Clip.of(held(eps, "eps", dtype))


def reduction(value: Any) -> str:
    """One of the three reductions."""
    if not isinstance(value, str) or value not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {REDUCTIONS}, got {value!r}")
    return value


def normalizer(value: Any, how: str) -> Any:
    """What replaces the divisor of the mean: a number or an array without dimensions.

    An array on a GPU stays there.
    """
    if value is None:
        return None
    if how != "mean":
        raise ValueError(f"normalizer goes with reduction='mean' only, got reduction={how!r}")
    if isinstance(value, numbers.Real) and not isinstance(value, _NO_NUMBERS):
        return _to_float(value, "normalizer")
    found = foreign.array(value, "normalizer", number=True)
    if found.ndim:
        raise ValueError(f"normalizer must be a scalar or 0-d array, got shape {found.shape}")
    if found.dtype.kind not in "fiu" and found.dtype.name != "bfloat16":
        raise TypeError(f"normalizer must be a real number, got {found.dtype}")
    return found if type(found) is DeviceArray else float(found)
