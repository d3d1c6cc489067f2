"""Cache of prepared calls: repeated small calls of the losses skip most checks.

Calls are grouped by a key: types, number of classes, options, and which weights and results are
present. The first two calls with a key take the general path, `calls.py`; the second stores a
`PreparedCall`. Later calls check shapes and memory layout only, and run the kernel. Whenever a
check fails, the call takes the general path, which raises all errors.
"""

import functools
import math
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent import calls, checks
from fastxent.dispatch import backend_of, host_backend
from fastxent.functions import Arguments, Function
from fastxent.plain import LABELS, is_buffer
from fastxent.records import Call

_INT64, _DOUBLE = np.dtype(np.int64), np.dtype(np.float64)
_FLOATS = {np.dtype(np.float32), _DOUBLE}
# Type characters of inputs; only losses of rows are prepared for half precision.
_ROWS, _ELEMENTS = "fdeE", "fd"
# The cache is cleared when it has this many keys: a program with so many gains nothing from it.
_MOST_KINDS = 4096


class PreparedCall:
    """A call with everything decided but shapes and memory, and the backend's function for it."""

    def __init__(self, function: Function, arguments: Arguments, call: Call, run: Any) -> None:
        assert call.target is not None
        x = arguments[function.first]
        types = checks.precision(x.dtype, function.first)
        slots = [slot for slot in function.slots if call.results[slot.at] is not None]
        self._run, self._compute, self._of_rows = run, call.compute, function.has_rows
        self._axis = arguments["axis"] % x.ndim if function.has_rows else -1
        self._is_soft, self._divides = call.target.labels is None, call.results.loss is None
        # For each result, whether it is per class, and its type.
        self._results = [(slot.per_class, types[slot.type]) for slot in slots]
        # The index of the gradient among the results, for its buffer.
        self._buffer = 0 if self._divides else 1
        self._has_buffer = arguments["grad_out"] is not None
        self._classes = call.x.shape[-1:]
        self._is_last = not function.has_rows or self._axis == x.ndim - 1
        # Whether the backend takes all arrays without reshaping, and whether rows are copied.
        self._is_flat = x.ndim == (2 if function.has_rows else 1) and self._is_last
        self._copies = not self._is_last and self._axis > 0
        self._order = (*[k for k in range(x.ndim) if k != self._axis], self._axis)

    def answer(self, x: Any, target: Any, w: Any, u: Any, normalizer: Any, grad_out: Any) -> Any:
        """The result of a call; None, before anything is written, for the general path."""
        shape = rows = classes = x.shape
        if self._of_rows:
            rows, classes = shape[: self._axis] + shape[self._axis + 1 :], self._classes
        of_x, of_target, run = x.flags, target.flags, self._run
        if not (
            of_x.c_contiguous and of_x.aligned and of_target.c_contiguous and of_target.aligned
            and x.size <= run.max_size
            and target.shape == (shape if self._is_soft else rows)
            and (w is None or w.shape == classes) and (u is None or u.shape == rows)
            and (self._is_last or math.prod(shape[: self._axis] if self._copies else rows) > 1)
        ):  # fmt: skip
            return None
        results = [
            checks.new(x, shape if per_class else rows, dtype) for per_class, dtype in self._results
        ]
        if self._has_buffer:
            if not is_buffer(grad_out, x, target, w, u):
                return None
            results[self._buffer] = grad_out
        if w is not None:
            w = self._weight(w)
        if u is not None:
            u = self._weight(u)
        if self._is_flat:
            loss = run(x, target, w, u, normalizer, results)
        else:
            outputs = [self._flat(a, of[0]) for a, of in zip(results, self._results, strict=True)]
            target = self._flat(target, self._is_soft)
            loss = run(self._flat(x, True), target, w, u, normalizer, outputs)
            if self._copies and loss is not None:
                for array, of, rows_of in zip(results, self._results, outputs, strict=True):
                    if of[0]:
                        array.transpose(self._order)[:] = rows_of.reshape(*rows, -1)
        if loss is None:
            return None
        if not rows:
            results = [checks.result(array) for array in results]
        if not self._divides:
            return results[0] if len(results) == 1 else tuple(results)
        value = checks.scalar(loss, self._compute)
        return (value, *results) if results else value

    def _flat(self, array: Any, has_classes: bool) -> Any:
        """Reshape a contiguous array to (rows, classes), or to rows."""
        if not (has_classes and self._of_rows):
            return array.reshape(-1)
        if self._is_last:
            return array if array.ndim == 2 else array.reshape(-1, *self._classes)
        return array.transpose(self._order).reshape(-1, *self._classes) if self._copies else array.T

    def _weight(self, array: Any) -> Any:
        """Convert weights to the layout and type that a backend takes."""
        flat = array if array.ndim == 1 else array.reshape(-1)
        if self._of_rows:
            return flat.astype(_DOUBLE)
        flags = flat.flags
        return flat if flags.c_contiguous and flags.aligned else flat.copy()


# Per key: the prepared call, or whether the key is new, was used once, or is never prepared.
_NEW, _ONCE, _NEVER = "new", "seen", "never"
_kinds: dict[Any, PreparedCall | str] = {}


def answer(function: Function, arguments: Arguments) -> Any:
    """The result of a loss, for the arguments of its body."""
    reader = _reader(function)
    arrays = reader.arrays(arguments)
    key = reader.key(arguments, *arrays)
    try:
        kind = _kinds.get(key, _NEW)
    except Exception:  # an option that is not hashable may raise any exception
        key, kind = None, _NEW
    if type(kind) is PreparedCall and (result := kind.answer(*arrays)) is not None:
        return result
    call = reader.read(function, arguments)
    result = calls.answer(call, getattr(backend_of(call.x), function.name)(call))
    if key is not None and kind in (_NEW, _ONCE):
        if len(_kinds) >= _MOST_KINDS:
            _kinds.clear()
        _kinds[key] = _ONCE if kind == _NEW else _prepare(function, arguments, call)
    return result


class _Reader:
    """Splits the arguments of a function into arrays and options, and makes the key of a call."""

    def __init__(self, function: Function) -> None:
        self._name, self._has_rows = function.name, function.has_rows
        self._types = _ROWS if function.has_rows else _ELEMENTS
        self.read = calls.read_rows if function.has_rows else calls.read_elements
        second = "sample_weight" if function.has_rows else "pos_weight"
        self._first, self._second = function.first, second
        others = {*function.arrays, *function.buffers}
        self._options = operator.itemgetter(*[n for n in function.parameters if n not in others])

    def arrays(self, a: Arguments) -> tuple[Any, ...]:
        """The input, the target, both weights, the normalizer and the gradient's buffer."""
        if self._has_rows and type(a["target"]) is list:
            a["target"] = _labels_of(a["target"])
        others = a["weight"], a.get(self._second), a.get("normalizer"), a["grad_out"]
        return a[self._first], a["target"], *others

    def key(
        self, a: Arguments, x: Any, target: Any, w: Any, u: Any, normalizer: Any, grad_out: Any
    ) -> Any:
        """The key of a call; None for calls that are never prepared."""
        if type(x) is not np.ndarray or type(target) is not np.ndarray:
            return None
        dtype, shape = x.dtype, x.shape
        if (
            dtype.char not in self._types
            or not dtype.isnative
            or (w is not None and (type(w) is not np.ndarray or w.dtype not in _FLOATS))
            or (u is not None and (type(u) is not np.ndarray or u.dtype not in _FLOATS))
            or (normalizer is not None and type(normalizer) is not float)
        ):
            return None
        try:
            n_classes = shape[a["axis"]] if self._has_rows else 0
        except (TypeError, IndexError):
            return None
        options = self._options(a)
        return (
            self._name, dtype, len(shape), n_classes, target.dtype, target.ndim,
            w is None or w.dtype, u is None or u.dtype, normalizer is None,
            grad_out is None, a.get("probs_out") is None, options, *map(type, options),
        )  # fmt: skip


_reader = functools.cache(_Reader)


def _labels_of(target: list[Any]) -> Any:
    """Convert a list of ints that fit in int64 to an array; return others unchanged."""
    if set(map(type, target)) != {int}:
        return target
    labels = np.asarray(target)
    return labels if labels.dtype is _INT64 else target


def _prepare(function: Function, arguments: Arguments, call: Call) -> PreparedCall | str:
    """Prepare a call that has succeeded; `_NEVER` if it is not supported."""
    assert call.target is not None
    x, (labels, probs) = arguments[function.first], call.target
    weights = [array for array in call.weights if array is not None]
    fits = labels.dtype in LABELS if probs is None else probs.dtype in (call.compute, x.dtype)
    if function.has_rows:
        axis = arguments["axis"]  # an object with __index__ may return another number next time
        fits = fits and type(axis) is int and _has_rows(x, axis % x.ndim)
    else:
        fits = fits and all(w.dtype == x.dtype and w.shape == x.shape for w in weights)
    if (
        not (fits and x.flags.c_contiguous and x.size)
        or any(arguments[slot.buffer] is not None for slot in function.buffer_slots[1:])
        or call.options.logit_scale == 0.0  # 0.0 and -0.0 are equal keys with different results
    ):
        return _NEVER
    is_mean, check = arguments["reduction"] == "mean", arguments.get("check_target", True)
    run = host_backend().prepare(call, is_mean, check)
    return _NEVER if run is None else PreparedCall(function, arguments, call, run)


def _has_rows(x: NDArray[Any], axis: int) -> bool:
    """Whether classes are the last axis, or the layout has several rows on both sides of it."""
    rows = x.shape[:axis], x.shape[axis + 1 :]
    if axis == x.ndim - 1:
        return True
    return min(x.shape) > 1 if x.ndim == 2 else min(map(math.prod, rows)) > 1
