"""Read the arguments of a call: arrays, options, and the types of the results.

Errors are raised by the function itself. It is called with arrays without rows, which checks types
and options and gives the types of the results. `shapes` checks shapes.
"""

import operator
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array

from fastxent import errors
from fastxent.arrays import foreign
from fastxent.arrays.dask import shapes
from fastxent.functions import Arguments, Function, Kind, Role
from fastxent.records import LinearGrad


class DaskRequest(NamedTuple):
    """A checked call of a function on an array x.

    `arrays` are the other arrays, as Dask arrays: arrays per row are chunked as x, arrays per class
    are in one chunk, arrays that broadcast are chunked as the axes of x that they have. `target`
    holds class indices if `is_index`; `vector` is a LinearGrad for a linear map. `options` are the
    other arguments. `like` are the function's results for zero rows, which have the types of the
    results. `unbatched` tells whether x was passed without a batch axis.
    """

    function: Function
    x: Any
    axis: int
    is_index: bool
    arrays: Arguments
    options: Arguments
    like: tuple[Any, ...]
    unbatched: bool = False

    @property
    def rows(self) -> tuple[int, ...]:
        """The axes of x other than the class axis (feature axis), as an index."""
        return tuple(k for k in range(self.x.ndim) if k != self.axis)

    @property
    def whole(self) -> tuple[int, ...]:
        """The axes of x as an index."""
        return tuple(range(self.x.ndim))

    @property
    def n_classes(self) -> int:
        """The number of classes C."""
        return shapes.count_classes(self.function, self.x, self.axis, self.arrays)

    @property
    def reduction(self) -> str:
        """How the losses are reduced."""
        return str(self.options.get("reduction", "mean"))

    @property
    def is_mean(self) -> bool:
        """Whether losses are divided by a divisor."""
        return self.reduction == "mean"

    @property
    def not_one_hot(self) -> tuple[str, tuple[int, ...] | None, int]:
        """Arguments for `errors.not_one_hot`.

        The name of the array whose shape the target has, the shape of class indices, and the number
        of leading axes that were added to the arguments.
        """
        function = self.function
        if function.kind is Kind.ELEMENTS:
            return function.first, None, 0
        skipped = int(self.unbatched)
        of = function.first
        if function.kind is Kind.LINEAR:
            of = f"x @ {function.inputs[1]}.T"
        return of, tuple(self.x.shape[k] for k in self.rows)[skipped:], skipped

    @property
    def ignore_index(self) -> int | None:
        """The label that is ignored."""
        index = self.options.get("ignore_index", -100)
        return None if index is None or not self.is_index else operator.index(index)

    def batched(self) -> "DaskRequest":
        """Add a batch axis of length 1 if x has none."""
        if self.x.ndim > 1:
            return self
        per_row = self.function.with_role(Role.TARGET, Role.PER_ROW, Role.VECTOR)
        arrays = self.arrays | {name: _with_batch(self.arrays.get(name)) for name in per_row}
        return self._replace(x=self.x[None], axis=1, arrays=arrays, unbatched=True)

    def in_one_chunk(self) -> "DaskRequest":
        """Rechunk so that the classes are in one chunk."""
        arrays = dict(self.arrays)
        for name in self.function.with_role(Role.TARGET, Role.VECTOR):
            if arrays[name].ndim == self.x.ndim:
                arrays[name] = arrays[name].rechunk({self.axis: -1})
        return self._replace(x=self.x.rechunk({self.axis: -1}), arrays=arrays)

    def answer(self, results: list[Any]) -> Any:
        """The return value of the function, from its results."""
        if self.unbatched:
            results = [self._without_batch(result) for result in results]
        return tuple(results) if len(results) > 1 else results[0]

    def _without_batch(self, result: Any) -> Any:
        if isinstance(result, LinearGrad):
            return result if result.x is None else result._replace(x=result.x[0])
        return result[0] if result.ndim else result


def _with_batch(value: Any) -> Any:
    """Add a batch axis to an array or to the parts of a vector; None for None."""
    if isinstance(value, LinearGrad):
        return value._replace(x=_with_batch(value.x))
    return None if value is None else value[None]


# --- reading --------------------------------------------------------------------------------


def read(function: Function, arguments: Arguments) -> DaskRequest:
    """Read and check a call."""
    first = function.first
    for name in function.with_role(Role.BUFFER):
        if arguments.get(name) is not None:
            reason = f"are not written to, got {errors.type_name(arguments[name])}"
            raise errors.unwritable_buffer(name, "Dask", reason)
    if any(name not in arguments for name in function.positional):
        function(**arguments)  # which raises Python's own error
    if not isinstance(arguments[first], da.Array):
        raise errors.wrong_type(first, "a dask.array.Array", arguments[first])
    arrays = {n: _array(function, n, arguments[n]) for n in arguments if n in function.arrays}
    options = {n: value for n, value in arguments.items() if n not in arrays}
    x = arrays.pop(first)
    if function.kind in (Kind.LINEAR, Kind.ELEMENTS):
        axis: int | None = max(0, x.ndim - 1)  # of features; of no meaning
    else:
        axis = _axis(options.pop("axis", -1), x)
    wrong = "axis" if axis is None else shapes.misfit(function, x, axis, arrays)
    if axis is None or wrong is not None:
        shapes.raise_misfit(function, arguments, x, axis, arrays, wrong)
    like = _like(function, x, axis, arrays, options)
    if x.ndim and x.shape[axis]:  # classes in no empty chunks
        x = _without_empty(x, axis)
    lazy = {name: _lazy(function, name, value, x, axis) for name, value in arrays.items()}
    is_index = "target" in arrays and arrays["target"].ndim < x.ndim
    return DaskRequest(function, x, axis, is_index, lazy, options, like)


def _array(function: Function, name: str, value: Any) -> Any:
    """Check that a Dask array has NumPy blocks of known sizes; convert other values to NumPy.

    Values that cannot be converted are returned unchanged; the function raises the error for them.
    The parts of a vector of a linear map are converted separately.
    """
    parts = function.inputs
    if isinstance(value, tuple) and name in function.compound and len(value) == len(parts):
        named = zip(parts, value, strict=True)
        return LinearGrad(*(_array(function, f"{name}.{part}", a) for part, a in named))
    if isinstance(value, da.Array):
        meta = meta_from_array(value)
        if type(meta) is not np.ndarray:
            kind = f"{type(meta).__module__}.{type(meta).__qualname__}"
            raise errors.dask_meta(name, kind)
        if any(np.isnan(n) for n in value.shape):
            raise errors.unknown_chunks(name, value.shape)
        return value
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        return value.view(np.ndarray)
    role = function.roles.get(name)
    if value is None or isinstance(value, np.ndarray) or role is Role.SCALAR:
        return value
    try:
        converted = foreign.array(value, name)
    except (TypeError, ValueError):  # the function itself raises the error
        return value
    # An empty list has no type of its own.
    return converted if converted.size or role is not Role.TARGET else converted.astype(np.int64)


def _axis(axis: Any, x: Any) -> Any:
    """The class axis as a non-negative int; None if the function raises an error for it."""
    try:
        position = operator.index(axis)
    except TypeError:
        return None
    if isinstance(axis, (bool, np.bool_)) or not -x.ndim <= position < x.ndim:
        return None
    return position % x.ndim


# --- types of the results, chunks of the arguments --------------------------------------------


def _like(
    function: Function, x: Any, axis: int, arrays: Arguments, options: Arguments
) -> tuple[Any, ...]:
    """Call the function with zero rows: this gives the types of the results, and raises errors.

    All arrays get a leading axis of length 0. A linear map gets zero features, because its weights
    may be large.
    """
    elements, linear = function.kind is Kind.ELEMENTS, function.kind is Kind.LINEAR
    rank = x.ndim - (0 if elements else 1)
    rows = (0, *(0,) * rank)

    def shape(role: Role | None, value: Any) -> tuple[int, ...]:
        if role in (Role.INPUT, Role.VECTOR):
            return rows if elements else (*rows, 0 if linear else x.shape[axis])
        if role is Role.TARGET and not elements and value.ndim != rank:
            return (*rows, shapes.count_classes(function, x, axis, arrays))
        if role is Role.MATRIX:
            return value.shape[0], 0
        if role is Role.BROADCAST:
            return ()
        return value.shape if role in (Role.PER_CLASS, Role.SCALAR) else rows

    def empty(name: str, value: Any) -> Any:
        role = function.roles.get(name)
        if isinstance(value, LinearGrad):
            return LinearGrad(*map(empty, function.inputs, value))
        if value is None or role is Role.SCALAR and not isinstance(value, da.Array):
            return value
        return np.broadcast_to(np.zeros((), value.dtype), shape(role, value))

    views = {name: empty(name, value) for name, value in arrays.items()}
    results = function(**{function.first: empty(function.first, x)}, **views, **options)
    return results if type(results) is tuple else (results,)


def _lazy(function: Function, name: str, value: Any, x: Any, axis: int) -> Any:
    """Convert an argument to a Dask array, chunked as x along rows, in one chunk along classes."""
    role = function.roles.get(name)
    if value is None:
        return None
    if isinstance(value, LinearGrad):
        named = zip(function.inputs, value, strict=True)
        return LinearGrad(*(_lazy(function, part, a, x, axis) for part, a in named))
    if role is Role.SCALAR:
        return value.astype(np.float64) if isinstance(value, da.Array) else da.asarray(float(value))
    if function.kind is Kind.ELEMENTS:
        ends = x.chunks[x.ndim - value.ndim :]
        if role is Role.BROADCAST:
            ends = tuple((1,) if n == 1 else c for n, c in zip(value.shape, ends, strict=True))
        return _chunked(value, ends)
    if role in (Role.TARGET, Role.PER_ROW):
        rows = (*x.chunks[:axis], *x.chunks[axis + 1 :])
        if value.ndim == len(rows):
            return _chunked(value, rows)
        return _chunked(value, (*rows, -1) if function.kind is Kind.LINEAR else x.chunks)
    if role in (Role.INPUT, Role.VECTOR):
        return _chunked(value, x.chunks)
    if role is Role.PER_CLASS:
        return _chunked(value, -1)
    return _without_empty(value, 0) if isinstance(value, da.Array) else _chunked(value, -1)


def _without_empty(array: Any, axis: int) -> Any:
    return array.rechunk({axis: tuple(filter(None, array.chunks[axis]))})


def _chunked(value: Any, chunks: Any) -> Any:
    if isinstance(value, da.Array):
        return value.rechunk(chunks)
    return da.from_array(value, chunks=chunks)
