"""Classes in several chunks: two passes, with a tree reduction over the chunks between them.

`class_chunks` computes a chunk, with the classes as its last axis.
"""

import functools
from typing import Any

import dask.array as da
import numpy as np

from fastxent.arrays.dask import blocks, class_chunks, labels, rows
from fastxent.arrays.dask.blocks import CLASSES, Layout, only
from fastxent.arrays.dask.class_chunks import KINDS, RowLoss, Transform
from fastxent.arrays.dask.request import DaskRequest
from fastxent.functions import CROSS_ENTROPY, LOG_SOFTMAX, LOGSUMEXP, SOFTMAX, Function
from fastxent.results import Extent

_STATISTICS = -2  # an index of an axis that x does not have, like CLASSES
# How many neighbouring chunks are merged at once.
_SPLIT = 8


# The functions, options and results that are supported for several chunks of classes. For others,
# the classes are rechunked into one chunk.
_FUNCTIONS = {SOFTMAX, LOG_SOFTMAX, LOGSUMEXP, CROSS_ENTROPY}
_OPTIONS = {*RowLoss._fields, *Transform._fields}
_RESULTS = {"loss", "grad", "probs", "lse", "hess", "argmax"}


def merges(call: DaskRequest) -> bool:
    """Whether the chunks of a row can be merged for this call."""
    function, options = call.function, call.options
    defaults = function.defaults()
    others = (option.name for option in function.options if option.name not in _OPTIONS)
    return (
        function in _FUNCTIONS
        and all(options.get(n, defaults[n]) == defaults[n] for n in others)
        and not any(options.get(f"return_{n}") for n in {*function.results} - _RESULTS)
    )


def softmax(call: DaskRequest) -> list[Any]:
    """Compute softmax, log_softmax or logsumexp."""
    dtype = call.like[0].dtype
    loss = RowLoss(_compute(dtype), Transform(), call.n_classes)
    own, whole = _statistics(call, loss, None, None)
    index, row = call.whole, call.rows
    if call.function.result("out").extent is Extent.PER_ROW:
        keepdims = bool(call.options.get("keepdims", False))
        task = functools.partial(_lse, dtype=dtype)
        lse = blocks.single(task, Layout(row, dtype), (whole, (*row, _STATISTICS)))
        return [da.expand_dims(lse, call.axis) if keepdims else lse]
    task = functools.partial(_same_shape, call.function, loss, dtype, call.axis)
    operands = (call.x, index, own, (*index, _STATISTICS), whole, (*row, _STATISTICS))
    return [blocks.single(task, Layout(index, dtype), operands)]


def cross_entropy(call: DaskRequest) -> list[Any]:
    """Compute the loss and the other requested results."""
    options, index, row, function = call.options, call.whole, call.rows, call.function
    transform = Transform(float(options.get("logit_scale", 1.0)), options.get("softcap"))
    divisor = labels.divisor(call)
    loss = RowLoss(
        _compute(call.like[0].dtype), transform, call.n_classes,
        float(options.get("label_smoothing", 0.0)), float(options.get("z_loss", 0.0)),
        call.ignore_index, call.is_mean,
    )  # fmt: skip
    target, w = call.arrays["target"], call.arrays.get("weight")
    u = call.arrays.get("sample_weight")
    own, whole = _statistics(call, loss, target, w)
    # Labels are needed between and after the passes, probabilities after them.
    by_label, soft = (target, None) if call.is_index else (None, target)
    beside = blocks.operands(
        (whole, (*row, _STATISTICS)), (by_label, row), (u, row), (w, (CLASSES,)), (divisor, ())
    )
    names = ["loss", *(n for n in function.results[1:] if options.get(f"return_{n}"))]
    dtypes = {name: a.dtype for name, a in zip(names, call.like, strict=True)}
    per_class = [n for n in names if function.result(n).extent is Extent.PER_CLASS]
    per_row = [n for n in names if n not in per_class]
    layouts = [rows.loss_layout(call), *(Layout(row, dtypes[n]) for n in per_row[1:])]
    task = functools.partial(_by_row, loss, call.reduction, [(n, dtypes[n]) for n in per_row])
    made = dict(zip(per_row, blocks.several(task, row, beside, layouts), strict=True))
    made["loss"] = rows.reduced(call, made["loss"])
    if per_class:
        task = functools.partial(_by_class, loss, [(n, dtypes[n]) for n in per_class], call.axis)
        numbers = da.arange(call.n_classes, chunks=(call.x.chunks[call.axis],))
        operands = blocks.operands(
            (call.x, index), (own, (*index, _STATISTICS)), (numbers, (call.axis,)), (soft, index)
        )
        layouts = [Layout(index, dtypes[n]) for n in per_class]
        per_class_results = blocks.several(task, index, operands + beside, layouts)
        made |= zip(per_class, per_class_results, strict=True)
    return [made[name] for name in names]


def _compute(dtype: Any) -> Any:
    """The type of the computation for results of a type."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


# --- the first pass -----------------------------------------------------------------------------


def _statistics(call: DaskRequest, loss: RowLoss, target: Any, w: Any) -> tuple[Any, Any]:
    """The statistics of each chunk, with length 1 along the class axis, and those of rows."""
    index, axis = call.whole, call.axis
    numbers = da.arange(call.n_classes, chunks=(call.x.chunks[axis],))
    n = KINDS
    if target is not None:
        n += 4 if call.is_index and loss.label_smoothing else 2
    by = call.rows if call.is_index else index
    operands = blocks.operands((call.x, index), (target, by), (w, (CLASSES,)), (numbers, (axis,)))
    part = Layout((*index, _STATISTICS), np.float64, single=(axis,), new={_STATISTICS: n})
    own = blocks.single(functools.partial(_chunk_statistics, loss, axis), part, operands)
    whole = da.reduction(
        own, _identity, functools.partial(_merge, loss.transform), axis=axis,
        combine=functools.partial(_merge, loss.transform), split_every={axis: _SPLIT},
        dtype=np.float64, concatenate=True, meta=np.empty((0,) * len(index), np.float64),
    )  # fmt: skip
    return own, whole


def _last(array: Any, axis: int) -> Any:
    return None if array is None else np.moveaxis(array, axis, -1)


@np.errstate(all="ignore")
def _chunk_statistics(loss: RowLoss, axis: int, x: Any, target: Any, w: Any, classes: Any) -> Any:
    if target is not None and target.ndim == x.ndim:
        target = _last(target, axis)
    w = None if w is None else only(w)[classes[0] : classes[-1] + 1]
    return np.expand_dims(
        class_chunks.chunk_statistics(loss, _last(x, axis), target, w, classes), axis
    )


def _identity(statistics: Any, axis: Any, keepdims: bool) -> Any:
    return statistics


@np.errstate(all="ignore")
def _merge(transform: Transform, statistics: Any, axis: Any, keepdims: bool) -> Any:
    (axis,) = axis
    whole = class_chunks.merge(transform, np.moveaxis(statistics, axis, -2))
    return np.expand_dims(whole, axis) if keepdims else whole


# --- of rows ------------------------------------------------------------------------------------


@np.errstate(all="ignore")
def _lse(whole: Any, *, dtype: Any) -> Any:
    return class_chunks.softmax_rows(Transform(), only(whole))[2].astype(dtype)


def _rows(loss: RowLoss, whole: Any, y: Any, u: Any, w: Any, divisor: Any) -> Any:
    w_label = None if y is None else labels.weights_of(y, w, loss.n_classes)
    return class_chunks.row_terms(loss, whole, y, u, w_label, divisor)


@np.errstate(all="ignore")
def _by_row(
    loss: RowLoss, reduction: str, requested: list[tuple[str, Any]],
    whole: Any, y: Any, u: Any, w: Any, divisor: Any,
) -> tuple[Any, ...]:  # fmt: skip
    whole = only(whole)
    r = _rows(loss, whole, y, u, only(w), divisor)
    lost = r.lost
    if reduction != "none":
        total = lost.sum()
        if loss.divided:
            total = np.nan if divisor == 0 else total / divisor
        lost = np.full((1,) * lost.ndim, total)
    results = {"loss": lost, "lse": r.lse, "argmax": whole[..., class_chunks.CLASS]}
    kinds = dict(requested) | ({} if reduction == "none" else {"loss": np.float64})
    return tuple(results[name].astype(kinds[name]) for name, _ in requested)


# --- the second pass ----------------------------------------------------------------------------


@np.errstate(all="ignore")
def _same_shape(
    function: Function, loss: RowLoss, dtype: Any, axis: int, x: Any, own: Any, whole: Any
) -> Any:  # fmt: skip
    x, own = _last(x, axis), only(own).squeeze(axis)
    largest, log_s, _ = class_chunks.softmax_rows(loss.transform, only(whole))
    return _back(_MAPS[function](loss, x, own, largest, log_s), axis, dtype)


def _log_softmax(loss: RowLoss, x: Any, own: Any, largest: Any, log_s: Any) -> Any:
    result = np.subtract(x, largest[..., None], dtype=loss.compute, casting="unsafe")
    result -= log_s[..., None].astype(loss.compute)
    return result


_MAPS = {SOFTMAX: class_chunks.probabilities, LOG_SOFTMAX: _log_softmax}


def _back(result: Any, axis: int, dtype: Any) -> Any:
    return np.ascontiguousarray(np.moveaxis(result, -1, axis), dtype)


@np.errstate(all="ignore")
def _by_class(
    loss: RowLoss, requested: list[tuple[str, Any]], axis: int, x: Any, own: Any, classes: Any,
    soft: Any, whole: Any, y: Any, u: Any, w: Any, divisor: Any,
) -> tuple[Any, ...]:  # fmt: skip
    x, own, whole, w = _last(x, axis), only(own).squeeze(axis), only(whole), only(w)
    r = _rows(loss, whole, y, u, w, divisor)
    w = None if w is None else w[classes[0] : classes[-1] + 1]
    p = class_chunks.probabilities(loss, x, own, r.largest, r.log_s)
    results, by_z = {"probs": p}, None
    names = [name for name, _ in requested]
    if "grad" in names or "hess" in names and loss.transform.softcap is not None:
        target = _last(soft, axis) if y is None else y
        by_z = class_chunks.gradient_by_z(loss, p, r, whole, target, w, classes)
    if "hess" in names:
        results["hess"] = class_chunks.hessian(loss, x, p, r, whole, by_z, classes)
    if "grad" in names:  # may overwrite by_z
        results["grad"] = class_chunks.gradient(loss, x, r, by_z)
    return tuple(_back(results[name], axis, kind) for name, kind in requested)
