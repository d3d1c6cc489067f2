"""Rows whose classes lie in one chunk: each block of rows goes to the function itself.

What is more than a block's own is the divisor of a mean: a sum over labels and weights, made first
and given to every block, so that gradients come out divided.
"""

import functools
from typing import Any

import dask.array as da
import numpy as np

from fastxent.arrays.dask import blocks, labels
from fastxent.arrays.dask.blocks import CLASSES, Part, only
from fastxent.arrays.dask.request import Request


def results(asked: Request) -> list[Any]:
    """What the function gives for x, chunked by rows."""
    asked = asked.in_one_chunk()
    rows, whole = asked.rows, asked.whole
    like = asked.like
    if asked.name in ("softmax", "log_softmax"):
        task = functools.partial(_same_shape, name=asked.name, axis=asked.axis)
        return [blocks.single(task, Part(whole, like[0].dtype), (asked.x, whole))]
    if asked.name == "logsumexp":
        keepdims = bool(asked.options.get("keepdims", False))
        task = functools.partial(_logsumexp, axis=asked.axis, keepdims=keepdims)
        part = Part(whole if keepdims else rows, like[0].dtype, (asked.axis,) if keepdims else ())
        return [blocks.single(task, part, (asked.x, whole))]
    operands, task = target_operands(asked), functools.partial(_losses, options(asked))
    # Beside the loss: what is shaped as x has the axis of the classes.
    parts = [loss_part(asked), *(Part(whole if a.ndim > _like_rank(asked) else rows, a.dtype)
                                 for a in like[1:])]  # fmt: skip
    loss, *others = blocks.several(task, whole, [asked.x, whole, *operands], parts)
    return [reduced(asked, loss), *others]


def _like_rank(asked: Request) -> int:
    """The number of dimensions of a result by rows among those for no rows."""
    return len(asked.rows) + (0 if asked.unbatched else 1)


def _same_shape(x: Any, *, name: str, axis: int) -> Any:
    return blocks.compute(name, x, axis=axis)


def _logsumexp(x: Any, *, axis: int, keepdims: bool) -> Any:
    return blocks.compute("logsumexp", only(x), axis=axis, keepdims=keepdims)


# --- losses -------------------------------------------------------------------------------------


def loss_part(asked: Request) -> Part:
    """The loss as blocks give it: by rows, or one number each."""
    if asked.options.get("reduction", "mean") == "none":
        return Part(asked.rows, asked.like[0].dtype)
    return Part(asked.rows, np.float64, once=asked.rows)


def reduced(asked: Request, loss: Any) -> Any:
    """The loss of all blocks."""
    if asked.options.get("reduction", "mean") == "none":
        return loss
    return blocks.total(loss, asked.like[0].dtype, tuple(range(loss.ndim)))


def options(asked: Request) -> dict[str, Any]:
    """What a block is told beside arrays; labels are looked at before."""
    told = asked.options | {"check_target": False, "name": asked.name}
    return told if asked.name == "linear_cross_entropy" else told | {"axis": asked.axis}


def target_operands(asked: Request) -> list[Any]:
    """Target, weights and divisor, each with its index; a literal None for what there is not."""
    rows, arrays = asked.rows, asked.arrays
    classes = (CLASSES,) if asked.name == "linear_cross_entropy" else (asked.axis,)
    target = arrays["target"]
    index = rows if asked.is_index else (asked.whole if classes != (CLASSES,) else rows + classes)
    operands = [target, index]
    for array, index in (
        (arrays.get("sample_weight"), rows), (arrays.get("weight"), classes),
        (labels.divisor(asked), ()),
    ):  # fmt: skip
        operands += [array, None if array is None else index]
    return operands


def _losses(options: dict[str, Any], x: Any, target: Any, u: Any, w: Any, divisor: Any) -> Any:
    return reduce_block(options, (x,), only(target), u, None if w is None else only(w), divisor)


def reduce_block(
    options: dict[str, Any], inputs: tuple[Any, ...], target: Any, u: Any, w: Any, divisor: Any,
    **arrays: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """A block's results of a loss of rows, the loss in an array of as many dimensions as rows."""
    options = dict(options)
    name, empty = options.pop("name"), False
    if divisor is not None and options.get("reduction", "mean") == "mean":
        if name == "categorical_cross_entropy":  # which takes no divisor, but weights of rows
            empty = bool(divisor == 0)
            u = _divided(np.ones(_rows_of(inputs[0], options["axis"])) if u is None else u, divisor)
            options["reduction"] = "sum"
        else:
            options["normalizer"] = float(divisor)
    results = blocks.compute(name, *inputs, target, weight=w, sample_weight=u, **options, **arrays)
    loss, *others = results if type(results) is tuple else (results,)
    if options.get("reduction", "mean") != "none":
        rank = inputs[0].ndim - 1
        loss = np.full((1,) * rank, np.nan if empty else loss, np.float64)
    return loss, *others


def _rows_of(x: Any, axis: int) -> tuple[int, ...]:
    return (*x.shape[:axis], *x.shape[axis + 1 :])


@np.errstate(all="ignore")
def _divided(u: Any, divisor: Any) -> Any:
    """u / D; 0 where D is."""
    return np.where(divisor == 0, 0.0, u / divisor)


# --- element by element -------------------------------------------------------------------------


def elements(asked: Request) -> list[Any]:
    """A binary loss. The mean is a sum with weights that are divided by the number of elements."""
    told = asked.options | {"name": asked.name}
    mean = told.get("reduction", "mean") == "mean"
    whole, size = asked.whole, asked.x.size
    w = asked.arrays.get("weight")
    if mean and size:
        told["reduction"] = "sum"
        w = (da.asarray(1.0) if w is None else w.astype(np.float64)) / size
    operands = [asked.x, whole, labels.looked_at(asked), whole]
    for array in (w, asked.arrays.get("pos_weight")):
        # A block spreads them over its elements.
        operands += [array, None if array is None else whole[len(whole) - array.ndim :]]
    task = functools.partial(_elements, told)
    parts = [loss_part(asked._replace(axis=-1)), *(Part(whole, a.dtype) for a in asked.like[1:])]
    loss, *others = blocks.several(task, whole, operands, parts)
    return [reduced(asked, loss), *others]


def _elements(options: dict[str, Any], x: Any, target: Any, w: Any, pos_weight: Any) -> Any:
    options = dict(options)
    if pos_weight is not None:
        options["pos_weight"] = pos_weight
    results = blocks.compute(options.pop("name"), x, target, weight=w, **options)
    loss, *others = results if type(results) is tuple else (results,)
    if options.get("reduction", "mean") != "none":
        loss = np.full((1,) * x.ndim, loss, np.float64)
    return loss, *others
