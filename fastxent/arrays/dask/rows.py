"""Classes in one chunk: the function is called for each block of rows.

The divisor of a mean is a sum over the labels and weights of all blocks. It is computed first and
passed to every block, so that each block returns divided gradients.
"""

import functools
from typing import Any

import dask.array as da
import numpy as np

from fastxent.arrays.dask import blocks, labels
from fastxent.arrays.dask.blocks import CLASSES, Layout, only
from fastxent.arrays.dask.request import DaskRequest
from fastxent.functions import Arguments, Function, Kind
from fastxent.results import Extent


def results(call: DaskRequest) -> list[Any]:
    """Compute the function's results, chunked by rows."""
    call = call.in_one_chunk()
    rows, whole = call.rows, call.whole
    if call.function.kind is Kind.MAP:
        return _map(call)
    vector = call.arrays.get("vector")
    operands = [call.x, whole, *target_operands(call), *blocks.operands((vector, whole))]
    task = functools.partial(_block, call.function, options(call))
    # Results per class have the class axis. The results in `like` have one more leading axis.
    rank = len(rows) + (0 if call.unbatched else 1)
    layouts = [Layout(whole if a.ndim > rank else rows, a.dtype) for a in call.like]
    return reduced_losses(call, task, operands, layouts)


def _map(call: DaskRequest) -> list[Any]:
    """Compute softmax, log_softmax, logsumexp, or entropy and its gradient."""
    function, whole = call.function, call.whole
    layout = Layout(whole, call.like[0].dtype)
    arguments = {"axis": call.axis, **call.options}
    if function.result("out").extent is Extent.PER_ROW:
        keepdims = bool(call.options.get("keepdims", False))
        layout = Layout(
            whole if keepdims else call.rows, layout.dtype, (call.axis,) if keepdims else ()
        )
    task = functools.partial(_mapped, function=function, arguments=arguments)
    if len(call.like) == 1:
        return [blocks.single(task, layout, (call.x, whole))]
    layouts = [layout, *(Layout(whole, a.dtype) for a in call.like[1:])]
    return blocks.several(task, whole, (call.x, whole), layouts)


def _mapped(x: Any, *, function: Function, arguments: Arguments) -> Any:
    return blocks.compute(function, only(x), **arguments)


# --- losses -------------------------------------------------------------------------------------


def loss_layout(call: DaskRequest) -> Layout:
    """The layout of the loss of blocks: one number per row, or one per block."""
    if call.reduction == "none":
        return Layout(call.rows, call.like[0].dtype)
    return Layout(call.rows, np.float64, single=call.rows)


def reduced_losses(call: DaskRequest, task: Any, operands: Any, layouts: list[Layout]) -> list[Any]:
    """The arrays of a task; the first result of a loss is reduced over the blocks."""
    if not call.function.is_loss:
        return blocks.several(task, call.whole, operands, layouts)
    layouts = [loss_layout(call), *layouts[1:]]
    loss, *others = blocks.several(task, call.whole, operands, layouts)
    return [reduced(call, loss), *others]


def reduced(call: DaskRequest, loss: Any) -> Any:
    """Reduce the losses of the blocks."""
    if call.reduction == "none":
        return loss
    return blocks.total(loss, call.like[0].dtype, tuple(range(loss.ndim)))


def options(call: DaskRequest) -> Arguments:
    """The options for a block; labels are checked before the blocks are computed."""
    own = call.options | {"check_target": False}
    return own | {"axis": call.axis} if "axis" in call.function.parameters else own


def target_operands(call: DaskRequest) -> list[Any]:
    """Target, weights and divisor, each with its index; None for missing arrays."""
    rows, arrays = call.rows, call.arrays
    linear = call.function.kind is Kind.LINEAR
    classes = (CLASSES,) if linear else (call.axis,)
    index = rows if call.is_index else (rows + classes if linear else call.whole)
    return blocks.operands(
        (arrays["target"], index), (arrays.get("sample_weight"), rows),
        (arrays.get("weight"), classes), (labels.divisor(call), ()),
    )  # fmt: skip


def _block(
    function: Function, options: Arguments, x: Any, target: Any, u: Any, w: Any, divisor: Any,
    vector: Any,
) -> Any:  # fmt: skip
    arrays = {} if vector is None else {"vector": vector}
    return block_results(function, options, (x,), only(target), u, only(w), divisor, **arrays)


def block_results(
    function: Function, options: Arguments, inputs: tuple[Any, ...], target: Any, u: Any, w: Any,
    divisor: Any, **arrays: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """Compute a block's results; a reduced loss has as many axes (of length 1) as the rows."""
    options, empty = dict(options), False
    if divisor is not None and options.get("reduction", "mean") == "mean":
        if "normalizer" in function.parameters:
            options["normalizer"] = float(divisor)
        else:  # divide the sample weights instead
            empty = bool(divisor == 0)
            rows = function.rows(inputs[0].shape, options["axis"])
            u = _divided(np.ones(rows) if u is None else u, divisor)
            options["reduction"] = "sum"
    results = blocks.compute(
        function, *inputs, target, weight=w, sample_weight=u, **options, **arrays
    )
    if not function.is_loss:
        return (results,)
    loss, *others = _with_axes(results, options, inputs[0].ndim - 1)
    return np.full_like(loss, np.nan) if empty else loss, *others


def _with_axes(results: Any, options: Arguments, rank: int) -> tuple[Any, ...]:
    """A block's results, with a reduced loss as an array of this rank."""
    loss, *others = results if type(results) is tuple else (results,)
    if options.get("reduction", "mean") != "none":
        loss = np.full((1,) * rank, loss, np.float64)
    return loss, *others


@np.errstate(all="ignore")
def _divided(u: Any, divisor: Any) -> Any:
    """u / D, or 0 where D is 0."""
    return np.where(divisor == 0, 0.0, u / divisor)


# --- elements -----------------------------------------------------------------------------------


def elements(call: DaskRequest) -> list[Any]:
    """Compute a binary loss or product; a mean is a sum with weights divided by the size."""
    own, whole, size = dict(call.options), call.whole, call.x.size
    w = call.arrays.get("weight")
    if call.is_mean and size:
        own["reduction"] = "sum"
        w = (da.asarray(1.0) if w is None else w.astype(np.float64)) / size
    operands = [call.x, whole, labels.checked_elements(call), whole]
    for array in (w, call.arrays.get("pos_weight")):
        # They are broadcast within each block.
        operands += [array, None if array is None else whole[len(whole) - array.ndim :]]
    operands += blocks.operands((call.arrays.get("vector"), whole))
    task = functools.partial(_elements, call.function, own)
    layouts = [Layout(whole, a.dtype) for a in call.like]
    return reduced_losses(call._replace(axis=-1), task, operands, layouts)


def _elements(
    function: Function, options: Arguments, x: Any, target: Any, w: Any, pos_weight: Any,
    vector: Any,
) -> Any:  # fmt: skip
    optional = (("pos_weight", pos_weight), ("vector", vector))
    options = options | {name: array for name, array in optional if array is not None}
    results = blocks.compute(function, x, target, weight=w, **options)
    return _with_axes(results, options, x.ndim) if function.is_loss else (np.asarray(results),)
