"""Small calls of losses, prepared once a kind.

A kind of call is its types, the number of classes, its options, and which weights and results there
are. The second call of a kind takes the long way, `calls.py`, like the first, and leaves what was
decided; later ones look at shapes and memory alone, and run. Where anything is not as it was, a
call takes the long way again: all errors are raised there.
"""

import functools
import operator
from typing import Any

import numpy as np

from fastxent import calls, checks
from fastxent.dispatch import backend_of, host_backend
from fastxent.functions import Arguments, Function
from fastxent.plain import LABELS, is_buffer
from fastxent.records import Call

_INT64 = np.dtype(np.int64)
_FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}
# More kinds than this are forgotten together: a program that has them gains nothing.
_MOST_KINDS = 4096


class Kind:
    """What calls of one kind have in common, and the backend's part of it."""

    def __init__(self, function: Function, arguments: Arguments, call: Call, run: Any) -> None:
        assert call.target is not None
        types = checks.precision(call.x.dtype, function.first)
        slots = [slot for slot in function.slots if call.results[slot.at] is not None]
        self._run, self._compute, self._first = run, call.compute, function.first
        self._weights, self._of_rows = _weights_of(function), function.has_rows
        self._is_soft, self._divides = call.target.labels is None, call.results.loss is None
        self._classes_last = _classes_last(function, arguments)
        # Of each result whether it is one per class, and its type.
        self._results = [(slot.per_class, types[slot.type]) for slot in slots]
        # The place of the gradient among them, where that has a buffer.
        self._buffer = 0 if self._divides else 1
        self._has_buffer = arguments["grad_out"] is not None

    def answer(self, a: Arguments) -> Any:
        """The result of a call; None, before anything is written, if it takes the long way."""
        x, target = a[self._first], a["target"]
        first_weight, second_weight = (a.get(name) for name in self._weights)
        shape = rows = classes = x.shape
        if self._of_rows:
            rows, classes = shape[:-1], shape[-1:]
            if not self._classes_last:
                rows, classes = shape[1:], shape[:1]
        if not (
            _is_plain(x) and _is_plain(target) and x.size <= self._run.max_size
            and (self._classes_last or shape[1] > 1)
            and target.shape == (shape if self._is_soft else rows)
            and (first_weight is None or first_weight.shape == classes)
            and (second_weight is None or second_weight.shape == rows)
        ):  # fmt: skip
            return None
        results = [checks.new(x, shape if of[0] else rows, of[1]) for of in self._results]
        if self._has_buffer:
            if not is_buffer(a["grad_out"], x, target, first_weight, second_weight):
                return None
            results[self._buffer] = a["grad_out"]
        loss = self._run(
            self._flat(x, True), self._flat(target, self._is_soft), self._weight(first_weight),
            self._weight(second_weight), a.get("normalizer"),
            [self._flat(array, of[0]) for array, of in zip(results, self._results, strict=True)],
        )  # fmt: skip
        if loss is None:
            return None
        answers = [array if array.ndim else checks.result(array) for array in results]
        if self._divides:
            answers.insert(0, checks.scalar(loss, self._compute))
        return answers[0] if len(answers) == 1 else tuple(answers)

    def _flat(self, array: Any, has_classes: bool) -> Any:
        """A contiguous array as (rows, classes), or as rows."""
        if not (has_classes and self._of_rows):
            return array if array.ndim == 1 else array.reshape(-1)
        if not self._classes_last:
            return array.T
        return array if array.ndim == 2 else array.reshape(-1, array.shape[-1])

    def _weight(self, array: Any) -> Any:
        """Weights as a backend takes them."""
        if array is None:
            return None
        flat = array if array.ndim == 1 else array.reshape(-1)
        if self._of_rows:
            return flat.astype(np.float64)
        return flat if _is_plain(flat) else flat.copy()


def _is_plain(array: Any) -> bool:
    """Whether an array is contiguous and aligned."""
    flags = array.flags
    return bool(flags.c_contiguous and flags.aligned)


# By their keys: those that are prepared, that were seen once, or that never are prepared.
_NEW, _SEEN, _NEVER = "new", "seen", "never"
_kinds: dict[Any, Kind | str] = {}


def answer(function: Function, arguments: Arguments) -> Any:
    """The result of a loss, for the arguments of its body."""
    key = _key(function, arguments)
    try:
        kind = _kinds.get(key, _NEW)
    except Exception:  # of whatever kind the hash of an option raises that is none
        key, kind = None, _NEW
    if type(kind) is Kind and (found := kind.answer(arguments)) is not None:
        return found
    call = _READERS[function.has_rows](function, arguments)
    result = calls.answer(call, getattr(backend_of(call.x), function.name)(call))
    if key is not None and kind in (_NEW, _SEEN):
        if len(_kinds) >= _MOST_KINDS:
            _kinds.clear()
        _kinds[key] = _SEEN if kind == _NEW else _prepare(function, arguments, call)
    return result


_READERS = {True: calls.read_rows, False: calls.read_elements}


@functools.cache
def _options_of(function: Function) -> Any:
    """From the arguments, those that are neither arrays nor buffers."""
    arrays = {*function.arrays, *function.buffers}
    return operator.itemgetter(*[name for name in function.parameters if name not in arrays])


@functools.cache
def _weights_of(function: Function) -> tuple[str, str]:
    """The names of the weights: of classes and rows, or of elements."""
    return ("weight", "sample_weight") if function.has_rows else ("weight", "pos_weight")


def _classes_last(function: Function, a: Arguments) -> bool:
    return not function.has_rows or a["axis"] in (-1, a[function.first].ndim - 1)


def _key(function: Function, a: Arguments) -> Any:
    """The kind of a call; None for calls that are never prepared."""
    x, target, normalizer = a[function.first], a["target"], a.get("normalizer")
    if type(target) is list and function.has_rows:
        a["target"] = target = _labels_of(target)
    if type(x) is not np.ndarray or type(target) is not np.ndarray or x.dtype not in _FLOATS:
        return None
    given: list[Any] = []
    for name in _weights_of(function):
        weights = a.get(name)
        if weights is not None:
            if type(weights) is not np.ndarray or weights.dtype not in _FLOATS:
                return None
            given += name, weights.dtype
    if normalizer is not None and type(normalizer) is not float:
        return None
    try:
        n_classes = x.shape[a["axis"]] if function.has_rows else 0
    except (TypeError, IndexError):
        return None
    options = _options_of(function)(a)
    return (
        function.name, x.dtype, x.ndim, n_classes, target.dtype, target.ndim, *given,
        normalizer is None, *[a[slot.buffer] is None for slot in function.buffer_slots], options,
        *map(type, options),
    )  # fmt: skip


def _labels_of(target: list[Any]) -> Any:
    """A list of ints as an array, if int64 holds them; else as it is."""
    if set(map(type, target)) != {int}:
        return target
    found = np.asarray(target)
    return found if found.dtype is _INT64 else target


def _prepare(function: Function, arguments: Arguments, call: Call) -> Kind | str:
    """The kind of a call that has succeeded."""
    assert call.target is not None
    x, (labels, probs) = arguments[function.first], call.target
    given = [array for array in call.weights if array is not None]
    if (
        not x.flags.c_contiguous
        or not x.size
        or (labels.dtype not in LABELS if probs is None else probs.dtype != call.compute)
        or any(arguments[slot.buffer] is not None for slot in function.buffer_slots[1:])
        or (not function.has_rows and any(w.dtype != x.dtype or w.shape != x.shape for w in given))
        or (not _classes_last(function, arguments) and not _is_matrix_by_columns(x, arguments))
        or call.options.logit_scale == 0.0  # equal numbers are one kind, but -0.0 is not 0.0
    ):
        return _NEVER
    is_mean, check = arguments["reduction"] == "mean", arguments.get("check_target", True)
    run = host_backend().prepare(call, is_mean, check)
    return _NEVER if run is None else Kind(function, arguments, call, run)


def _is_matrix_by_columns(x: Any, arguments: Arguments) -> bool:
    """Whether classes come first in a matrix of several rows and classes."""
    return x.ndim == 2 and arguments["axis"] in (0, -2) and min(x.shape) > 1
