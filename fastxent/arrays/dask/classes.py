"""Classes in several chunks: two passes, with the chunks of a row merged by a tree between them.

`class_chunks` has the mathematics, of chunks whose classes stand last.
"""

import functools
from typing import Any

import dask.array as da
import numpy as np

from fastxent.arrays.dask import blocks, class_chunks, labels, rows
from fastxent.arrays.dask.blocks import CLASSES, Part, only
from fastxent.arrays.dask.class_chunks import KINDS, Loss, Transform
from fastxent.arrays.dask.request import Request

_STATISTICS = -2  # an index beside CLASSES
# How many neighbouring chunks are merged at once.
_SPLIT = 8


def softmax(asked: Request) -> list[Any]:
    """softmax, log_softmax or logsumexp."""
    dtype = asked.like[0].dtype
    loss = Loss(_compute(dtype), Transform(), asked.n_classes)
    own, whole = _statistics(asked, loss, None, None)
    index, row = asked.whole, asked.rows
    if asked.name == "logsumexp":
        keepdims = bool(asked.options.get("keepdims", False))
        task = functools.partial(_lse, dtype=dtype)
        lse = blocks.single(task, Part(row, dtype), (whole, (*row, _STATISTICS)))
        return [da.expand_dims(lse, asked.axis) if keepdims else lse]
    task = functools.partial(_same_shape, asked.name, loss, dtype, asked.axis)
    operands = (asked.x, index, own, (*index, _STATISTICS), whole, (*row, _STATISTICS))
    return [blocks.single(task, Part(index, dtype), operands)]


def cross_entropy(asked: Request) -> list[Any]:
    """The loss and what else was asked for."""
    options, index, row = asked.options, asked.whole, asked.rows
    like = asked.like
    transform = Transform(float(options.get("logit_scale", 1.0)), options.get("softcap"))
    divisor = labels.divisor(asked)
    loss = Loss(
        _compute(like[0].dtype), transform, asked.n_classes,
        float(options.get("label_smoothing", 0.0)), float(options.get("z_loss", 0.0)),
        asked.ignore_index, asked.is_mean,
    )  # fmt: skip
    target, w = asked.arrays["target"], asked.arrays.get("weight")
    u = asked.arrays.get("sample_weight")
    aim = row if asked.is_index else index
    own, whole = _statistics(asked, loss, (target, aim), w)
    # Labels are of use between and after the passes, other targets after them.
    by_label = [target, row] if asked.is_index else [None, None]
    beside = [
        whole, (*row, _STATISTICS), *by_label, u, None if u is None else row,
        w, None if w is None else (CLASSES,), divisor, None if divisor is None else (),
    ]  # fmt: skip
    names = ["return_grad", "return_probs", "return_lse", "return_hess", "return_argmax"]
    wanted = [name.removeprefix("return_") for name in names if options.get(name)]
    kinds = {name: a.dtype for name, a in zip(wanted, like[1:], strict=True)}
    reduction = options.get("reduction", "mean")
    by_row = ["loss", *(name for name in wanted if name in ("lse", "argmax"))]
    parts = [rows.loss_part(asked), *(Part(row, kinds[name]) for name in by_row[1:])]
    task = functools.partial(
        _by_row, loss, reduction, [(n, kinds.get(n, like[0].dtype)) for n in by_row]
    )
    found = dict(zip(by_row, blocks.several(task, row, beside, parts), strict=True))
    found["loss"] = rows.reduced(asked, found["loss"])
    by_class = [(name, kinds[name]) for name in wanted if name not in by_row]
    if by_class:
        task = functools.partial(_by_class, loss, by_class, asked.axis)
        numbers = da.arange(asked.n_classes, chunks=(asked.x.chunks[asked.axis],))
        soft = [None, None] if asked.is_index else [target, index]
        operands = [
            asked.x, index, own, (*index, _STATISTICS), numbers, (asked.axis,), *soft, *beside,
        ]  # fmt: skip
        parts = [Part(index, kind) for _, kind in by_class]
        made = blocks.several(task, index, operands, parts)
        found |= dict(zip((name for name, _ in by_class), made, strict=True))
    return [found[name] for name in ["loss", *wanted]]


def _compute(dtype: Any) -> Any:
    """The type of the arithmetic behind results of a type."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


# --- the first pass -----------------------------------------------------------------------------


def _statistics(asked: Request, loss: Loss, target: Any, w: Any) -> tuple[Any, Any]:
    """Statistics of each chunk, with one element along the classes' axis, and those of rows."""
    index, axis = asked.whole, asked.axis
    numbers = da.arange(asked.n_classes, chunks=(asked.x.chunks[axis],))
    n = KINDS
    if target is not None:
        n += 4 if asked.is_index and loss.label_smoothing else 2
    operands = [
        asked.x, index, *(target or (None, None)), w, None if w is None else (CLASSES,),
        numbers, (axis,),
    ]  # fmt: skip
    part = Part((*index, _STATISTICS), np.float64, once=(axis,), new={_STATISTICS: n})
    own = blocks.single(functools.partial(_known, loss, axis), part, operands)
    whole = da.reduction(
        own, _as_it_is, functools.partial(_merged, loss.transform), axis=axis,
        combine=functools.partial(_merged, loss.transform), split_every={axis: _SPLIT},
        dtype=np.float64, concatenate=True, meta=np.empty((0,) * len(index), np.float64),
    )  # fmt: skip
    return own, whole


def _last(array: Any, axis: int) -> Any:
    return None if array is None else np.moveaxis(array, axis, -1)


@np.errstate(all="ignore")
def _known(loss: Loss, axis: int, x: Any, target: Any, w: Any, classes: Any) -> Any:
    if target is not None and target.ndim == x.ndim:
        target = _last(target, axis)
    w = None if w is None else only(w)[classes[0] : classes[-1] + 1]
    return np.expand_dims(class_chunks.known(loss, _last(x, axis), target, w, classes), axis)


def _as_it_is(statistics: Any, axis: Any, keepdims: bool) -> Any:
    return statistics


@np.errstate(all="ignore")
def _merged(transform: Transform, statistics: Any, axis: Any, keepdims: bool) -> Any:
    (axis,) = axis
    whole = class_chunks.merged(transform, np.moveaxis(statistics, axis, -2))
    return np.expand_dims(whole, axis) if keepdims else whole


# --- of rows ------------------------------------------------------------------------------------


@np.errstate(all="ignore")
def _lse(whole: Any, *, dtype: Any) -> Any:
    return class_chunks.softmax_rows(Transform(), only(whole))[2].astype(dtype)


def _rows(loss: Loss, whole: Any, y: Any, u: Any, w: Any, divisor: Any) -> Any:
    w_label = None
    if y is not None:
        w_label = labels.weights_of(y, w, loss.n_classes)
    return class_chunks.rows(loss, whole, y, u, w_label, divisor)


@np.errstate(all="ignore")
def _by_row(
    loss: Loss, reduction: str, wanted: list[tuple[str, Any]],
    whole: Any, y: Any, u: Any, w: Any, divisor: Any,
) -> tuple[Any, ...]:  # fmt: skip
    whole = only(whole)
    r = _rows(loss, whole, y, u, None if w is None else only(w), divisor)
    lost = r.lost
    if reduction != "none":
        total = lost.sum()
        if loss.divided:
            total = np.nan if divisor == 0 else total / divisor
        lost = np.full((1,) * lost.ndim, total)
    found = {"loss": lost, "lse": r.lse, "argmax": whole[..., class_chunks.CLASS]}
    kinds = dict(wanted) | ({} if reduction == "none" else {"loss": np.float64})
    return tuple(found[name].astype(kinds[name]) for name, _ in wanted)


# --- the second pass ----------------------------------------------------------------------------


@np.errstate(all="ignore")
def _same_shape(
    name: str, loss: Loss, dtype: Any, axis: int, x: Any, own: Any, whole: Any
) -> Any:  # fmt: skip
    x, own = _last(x, axis), only(own).squeeze(axis)
    largest, log_s, _ = class_chunks.softmax_rows(loss.transform, only(whole))
    if name == "softmax":
        result = class_chunks.probabilities(loss, x, own, largest, log_s)
    else:
        result = np.subtract(x, largest[..., None], dtype=loss.compute, casting="unsafe")
        result -= log_s[..., None].astype(loss.compute)
    return _back(result, axis, dtype)


def _back(result: Any, axis: int, dtype: Any) -> Any:
    return np.ascontiguousarray(np.moveaxis(result, -1, axis), dtype)


@np.errstate(all="ignore")
def _by_class(
    loss: Loss, wanted: list[tuple[str, Any]], axis: int, x: Any, own: Any, classes: Any, soft: Any,
    whole: Any, y: Any, u: Any, w: Any, divisor: Any,
) -> tuple[Any, ...]:  # fmt: skip
    x, own, whole = _last(x, axis), only(own).squeeze(axis), only(whole)
    w = None if w is None else only(w)
    r = _rows(loss, whole, y, u, w, divisor)
    w = None if w is None else w[classes[0] : classes[-1] + 1]
    p = class_chunks.probabilities(loss, x, own, r.largest, r.log_s)
    found = {"probs": p}
    names = [name for name, _ in wanted]
    if "hess" in names:
        found["hess"] = class_chunks.hessian(loss, p, r, whole, classes)
    if "grad" in names:
        target = _last(soft, axis) if y is None else y
        found["grad"] = class_chunks.gradient(loss, x, p, r, whole, target, w, classes)
    return tuple(_back(found[name], axis, kind) for name, kind in wanted)
