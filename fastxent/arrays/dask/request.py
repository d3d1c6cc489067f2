"""A call's arguments: which arrays and options came, whether they fit, what comes back.

The words of errors are those of the function itself. It is called with arrays that have no rows,
which shows what is wrong with types and options, and the types of the results; and where shapes do
not fit, with arrays of these shapes that hold one number, for it looks at shapes first.
"""

import inspect
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array

from fastxent.arrays import foreign, views
from fastxent.arrays.device import ARRAYS
from fastxent.records import LinearGrad

Given = dict[str, Any]
_READ = ARRAYS - set(views.BUFFERS)


class Request(NamedTuple):
    """A call of the function `name` on an array x that fits.

    `arrays` are the others, all of Dask: those of rows chunked as x is, those of classes in one
    chunk, weights of elements as they came, chunked as the axes of x that they have. `target` among
    them holds class indices if `is_index`. `options` is the rest. `like` is what the function gives
    for no rows: of the types, and as many, as its results. `unbatched` is whether x came without a
    batch.
    """

    name: str
    x: Any
    axis: int
    is_index: bool
    arrays: Given
    options: Given
    like: tuple[Any, ...]
    unbatched: bool = False

    @property
    def rows(self) -> tuple[int, ...]:
        """The axes of x that are not that of the classes (of features), as an index."""
        return tuple(k for k in range(self.x.ndim) if k != self.axis)

    @property
    def whole(self) -> tuple[int, ...]:
        """The axes of x as an index."""
        return tuple(range(self.x.ndim))

    @property
    def n_classes(self) -> int:
        """C."""
        matrix = self.arrays.get("linear_weight")
        return int(self.x.shape[self.axis] if matrix is None else matrix.shape[0])

    @property
    def said_of_integers(self) -> tuple[str, tuple[int, ...] | None, int]:
        """Of integers that are no one-hot rows: what has their shape, and that of class indices.

        And how many axes are in front that x came without.
        """
        if self.is_binary:
            return self.first, None, 0
        skipped = int(self.unbatched)
        of = "x @ linear_weight.T" if "linear_weight" in self.arrays else self.first
        return of, tuple(self.x.shape[k] for k in self.rows)[skipped:], skipped

    @property
    def is_binary(self) -> bool:
        """Whether it is a loss of elements."""
        return self.name.startswith("binary")

    @property
    def first(self) -> str:
        """The name of x."""
        return views.positional(views.body(self.name))[0]

    @property
    def is_mean(self) -> bool:
        """Whether rows are divided by something."""
        return bool(self.options.get("reduction", "mean") == "mean")

    @property
    def ignore_index(self) -> int | None:
        """The label that is ignored."""
        index = self.options.get("ignore_index", -100)
        return None if index is None or not self.is_index else operator.index(index)

    def batched(self) -> "Request":
        """With one row for what has no batch."""
        if self.x.ndim > 1:
            return self
        arrays = self.arrays | {
            name: self.arrays[name][None]
            for name in ("target", "sample_weight") if self.arrays.get(name) is not None
        }  # fmt: skip
        return self._replace(x=self.x[None], axis=1, arrays=arrays, unbatched=True)

    def in_one_chunk(self) -> "Request":
        """With all classes of a row in one chunk."""
        arrays = dict(self.arrays)
        if "target" in arrays and not self.is_index:
            arrays["target"] = arrays["target"].rechunk({self.axis: -1})
        return self._replace(x=self.x.rechunk({self.axis: -1}), arrays=arrays)

    def answer(self, results: list[Any]) -> Any:
        """The results as the function gives them."""
        if self.unbatched:
            results = [self._one(result) for result in results]
        return tuple(results) if len(results) > 1 else results[0]

    def _one(self, result: Any) -> Any:
        if isinstance(result, LinearGrad):
            return result if result.x is None else result._replace(x=result.x[0])
        return result[0] if result.ndim else result


# --- what came ----------------------------------------------------------------------------------


def read(function: Callable[..., Any], given: Given) -> Request:
    """The call, if all of it fits."""
    first = function.first
    for name in views.BUFFERS:
        if given.get(name) is not None:
            kind = type(given[name]).__name__
            raise ValueError(f"{name} must be None, for Dask arrays are not written to, got {kind}")
    missing = [name for name in views.positional(function) if name not in given]
    if missing:
        function(**given)
    name = function.__name__
    if not isinstance(given[first], da.Array):
        kind = type(given[first]).__name__
        raise TypeError(f"{first} must be a dask.array.Array, got {kind}")
    arrays = {key: _seen(key, given[key]) for key in given if key == first or key in _READ}
    options = {key: value for key, value in given.items() if key not in arrays}
    x = arrays.pop(first)
    if "linear_weight" in arrays or name.startswith("binary"):
        axis: int | None = max(0, x.ndim - 1)  # of features; of nothing
    else:
        axis = _axis(options.pop("axis", -1), x)
    odd = "axis" if axis is None else _odd(name, first, x, axis, arrays)
    if axis is None or odd is not None:
        _misfit(function, given, x, axis, arrays, odd)
    like = _like(function, first, x, axis, arrays, options)
    if x.ndim and x.shape[axis]:  # classes in no empty chunks
        x = _without_empty(x, axis)
    lazy = {key: _lazy(key, value, x, axis, name) for key, value in arrays.items()}
    is_index = "target" in arrays and arrays["target"].ndim < x.ndim
    return Request(name, x, axis, is_index, lazy, options, like)


def _misfit(
    function: Callable[..., Any], given: Given, x: Any, axis: int | None, arrays: Given, odd: Any
) -> NoReturn:  # fmt: skip
    """Let the function say what does not fit, of arrays of one number.

    It gets a buffer (logsumexp a flag) that it refuses after a look at shapes: should it find
    nothing wrong with them it must not begin to compute, for they may be large.
    """
    shapes = {key: _full(value) for key, value in arrays.items()}
    if axis is not None and "target" in arrays and _target_fits(function.__name__, x, axis, arrays):
        # Not what is wrong: probabilities take no memory, as labels do.
        whole = (*_rows(x, axis), _classes(x, axis, arrays))
        shapes["target"] = np.broadcast_to(0.0, whole if "linear_weight" in arrays else x.shape)
    if "axis" in given:
        shapes["axis"] = given["axis"]
    parameters = inspect.signature(function).parameters
    stop = next(name for name in ("grad_out", "out", "keepdims") if name in parameters)
    first = next(iter(given))
    try:
        function(**{first: _full(x), stop: "nothing"}, **shapes)
    except (TypeError, ValueError) as error:
        if not str(error).startswith(f"{stop} "):
            raise
    raise ValueError(
        f"{odd} must be an array that fits {first} of shape {x.shape}, "
        f"got {type(given.get(odd)).__name__}"
    )


def _seen(name: str, value: Any) -> Any:
    """A Dask array whose chunks are known and NumPy's; or a NumPy array; or what is neither."""
    if isinstance(value, da.Array):
        meta = meta_from_array(value)
        if type(meta) is not np.ndarray:
            kind = f"{type(meta).__module__}.{type(meta).__qualname__}"
            raise TypeError(f"{name} must be a Dask array of NumPy arrays, got one of {kind}")
        if any(np.isnan(n) for n in value.shape):
            raise ValueError(
                f"{name} must have chunks of known sizes (compute_chunk_sizes() finds them), "
                f"got shape {value.shape}"
            )
        return value
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        return value.view(np.ndarray)
    if value is None or isinstance(value, np.ndarray) or name == "normalizer":
        return value
    try:
        found = foreign.array(value, name)
    except (TypeError, ValueError):  # the function itself says what it is
        return value
    # An empty list has no type of its own.
    return found if found.size or name != "target" else found.astype(np.int64)


def _axis(axis: Any, x: Any) -> Any:
    """The class axis counted from the front; None where the function says what is wrong."""
    try:
        position = operator.index(axis)
    except TypeError:
        return None
    if isinstance(axis, (bool, np.bool_)) or not -x.ndim <= position < x.ndim:
        return None
    return position % x.ndim


def _rows(x: Any, axis: int) -> tuple[int, ...]:
    return (*x.shape[:axis], *x.shape[axis + 1 :])


def _classes(x: Any, axis: int, arrays: Given) -> int:
    return int(arrays["linear_weight"].shape[0] if "linear_weight" in arrays else x.shape[axis])


def _is_array(value: Any) -> bool:
    return isinstance(value, da.Array) or type(value) is np.ndarray


def _odd(name: str, first: str, x: Any, axis: int, arrays: Given) -> str | None:
    """The argument whose shape does not fit, or is none where an error would name a shape."""
    for key, value in arrays.items():
        if key != "normalizer" and value is not None and not _is_array(value):
            return key
    if name.startswith("binary"):
        if arrays["target"] is None or arrays["target"].shape != x.shape:
            return "target"
        weights = (key for key in ("weight", "pos_weight") if arrays.get(key) is not None)
        return next((key for key in weights if not _spreads(arrays[key].shape, x.shape)), None)
    if "linear_weight" in arrays:
        matrix, bias = arrays["linear_weight"], arrays.get("linear_bias")
        if matrix is None or matrix.ndim != 2 or not matrix.shape[0]:
            return "linear_weight"
        if not x.ndim or x.shape[-1] != matrix.shape[1]:
            return first
        if bias is not None and bias.shape != matrix.shape[:1]:
            return "linear_bias"
    elif not x.shape[axis] and "target" in arrays:
        return first
    if "target" not in arrays:
        return None
    if not _target_fits(name, x, axis, arrays):
        return "target"
    expected = {"weight": (_classes(x, axis, arrays),), "sample_weight": _rows(x, axis)}
    weights = (key for key in expected if arrays.get(key) is not None)
    return next((key for key in weights if arrays[key].shape != expected[key]), None)


def _spreads(shape: tuple[int, ...], over: tuple[int, ...]) -> bool:
    ends = zip(reversed(shape), reversed(over), strict=False)
    return len(shape) <= len(over) and all(n in (1, whole) for n, whole in ends)


def _target_fits(name: str, x: Any, axis: int, arrays: Given) -> bool:
    target, rows = arrays["target"], _rows(x, axis)
    if name.startswith("binary") or not _is_array(target):
        return False
    if "linear_weight" in arrays:
        matrix = arrays["linear_weight"]
        if getattr(matrix, "ndim", 0) != 2:
            return False
        whole = (*rows, matrix.shape[0])
    else:
        whole = x.shape
    return target.shape == whole or target.shape == rows and target.dtype.kind in "iu"


def _full(value: Any) -> Any:
    """An array of the same shape and type, of one number."""
    if isinstance(value, da.Array):
        return np.broadcast_to(np.zeros((), value.dtype), value.shape)
    return value


def _like(
    function: Callable[..., Any], first: str, x: Any, axis: int, arrays: Given, options: Given
) -> tuple[Any, ...]:
    """The function's results for no rows, which also raises what is wrong with types and options.

    There is an axis of no rows in front of all; and no features of a linear map, whose weights may
    be large.
    """
    binary, linear = function.__name__.startswith("binary"), "linear_weight" in arrays
    rank = x.ndim - (0 if binary else 1)

    def few(name: str, value: Any) -> Any:
        if value is None or name == "normalizer" and not isinstance(value, da.Array):
            return value
        shape = (0, *(0,) * rank)
        if name == first and linear:
            shape = (*shape, 0)
        elif name == first and not binary:
            shape = (*shape, x.shape[axis])
        elif name == "target" and not binary:
            shape = shape if value.ndim == rank else (*shape, _classes(x, axis, arrays))
        elif name == "linear_weight":
            shape = (value.shape[0], 0)
        elif name in ("weight", "linear_bias") and not binary:
            shape = value.shape
        elif name in ("weight", "pos_weight"):
            shape = ()
        elif name == "normalizer":
            shape = value.shape
        return np.broadcast_to(np.zeros((), value.dtype), shape)

    seen = {name: few(name, value) for name, value in arrays.items()}
    results = function(**{first: few(first, x)}, **seen, **options)
    return results if type(results) is tuple else (results,)


def _lazy(name: str, value: Any, x: Any, axis: int, function: str) -> Any:
    """An argument as a Dask array, chunked as x is where it speaks of rows, whole where not."""
    if value is None:
        return None
    if name == "normalizer":
        return value.astype(np.float64) if isinstance(value, da.Array) else da.asarray(float(value))
    if function.startswith("binary"):
        ends = x.chunks[x.ndim - value.ndim :]
        if name != "target":  # weights, which may be spread over axes
            ends = tuple((1,) if n == 1 else c for n, c in zip(value.shape, ends, strict=True))
        return _chunked(value, ends)
    if name in ("target", "sample_weight"):
        rows = (*x.chunks[:axis], *x.chunks[axis + 1 :])
        if value.ndim == len(rows):
            return _chunked(value, rows)
        return _chunked(value, x.chunks if function != "linear_cross_entropy" else (*rows, -1))
    if name in ("weight", "linear_bias"):
        return _chunked(value, -1)
    return _without_empty(value, 0) if isinstance(value, da.Array) else _chunked(value, -1)


def _without_empty(array: Any, axis: int) -> Any:
    return array.rechunk({axis: tuple(filter(None, array.chunks[axis]))})


def _chunked(value: Any, chunks: Any) -> Any:
    if isinstance(value, da.Array):
        return value.rechunk(chunks)
    return da.from_array(value, chunks=chunks)
