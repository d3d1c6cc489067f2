"""Rows whose classes lie in one chunk: each block of rows goes to the function itself.

The divisor of a mean depends on all blocks: a sum over labels and weights, computed first and
passed to every block, so that gradients are returned divided.
"""

import functools
from typing import Any

import dask.array as da
import numpy as np

from fastxent.arrays.dask import blocks, labels
from fastxent.arrays.dask.blocks import CLASSES, Layout, only
from fastxent.arrays.dask.request import Request
from fastxent.functions import Arguments, Function, Kind
from fastxent.results import Extent


def results(call: Request) -> list[Any]:
    """The function's results for x, chunked by rows."""
    call = call.in_one_chunk()
    rows, whole = call.rows, call.whole
    if not call.function.is_loss:
        return [_map(call)]
    operands = [call.x, whole, *target_operands(call)]
    task = functools.partial(_losses, call.function, options(call))
    # Results per class have the class axis; among those for no rows there is one axis more.
    rank = len(rows) + (0 if call.unbatched else 1)
    layouts = [loss_layout(call)]
    layouts += [Layout(whole if a.ndim > rank else rows, a.dtype) for a in call.like[1:]]
    loss, *others = blocks.several(task, whole, operands, layouts)
    return [reduced(call, loss), *others]


def _map(call: Request) -> Any:
    """softmax or one of its logarithms."""
    function, whole = call.function, call.whole
    layout = Layout(whole, call.like[0].dtype)
    arguments = {"axis": call.axis, **call.options}
    if function.result("out").extent is Extent.PER_ROW:
        keepdims = bool(call.options.get("keepdims", False))
        layout = Layout(
            whole if keepdims else call.rows, layout.dtype, (call.axis,) if keepdims else ()
        )
    task = functools.partial(_mapped, function=function, arguments=arguments)
    return blocks.single(task, layout, (call.x, whole))


def _mapped(x: Any, *, function: Function, arguments: Arguments) -> Any:
    return blocks.compute(function, only(x), **arguments)


# --- losses -------------------------------------------------------------------------------------


def loss_layout(call: Request) -> Layout:
    """The loss as blocks return it: by rows, or one number each."""
    if call.reduction == "none":
        return Layout(call.rows, call.like[0].dtype)
    return Layout(call.rows, np.float64, single=call.rows)


def reduced(call: Request, loss: Any) -> Any:
    """The loss of all blocks."""
    if call.reduction == "none":
        return loss
    return blocks.total(loss, call.like[0].dtype, tuple(range(loss.ndim)))


def options(call: Request) -> Arguments:
    """The arguments of a block beside arrays; labels have been checked before."""
    own = call.options | {"check_target": False}
    return own | {"axis": call.axis} if "axis" in call.function.parameters else own


def target_operands(call: Request) -> list[Any]:
    """Target, weights and divisor, each with its index; a literal None for those not given."""
    rows, arrays = call.rows, call.arrays
    linear = call.function.kind is Kind.LINEAR
    classes = (CLASSES,) if linear else (call.axis,)
    index = rows if call.is_index else (rows + classes if linear else call.whole)
    return blocks.operands(
        (arrays["target"], index), (arrays.get("sample_weight"), rows),
        (arrays.get("weight"), classes), (labels.divisor(call), ()),
    )  # fmt: skip


def _losses(
    function: Function, options: Arguments, x: Any, target: Any, u: Any, w: Any, divisor: Any
) -> Any:
    return block_results(function, options, (x,), only(target), u, only(w), divisor)


def block_results(
    function: Function, options: Arguments, inputs: tuple[Any, ...], target: Any, u: Any, w: Any,
    divisor: Any, **arrays: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """A block's results of a loss of rows, the loss in an array with as many axes as rows have."""
    options, empty = dict(options), False
    if divisor is not None and options.get("reduction", "mean") == "mean":
        if "normalizer" in function.parameters:
            options["normalizer"] = float(divisor)
        else:  # by weights of rows
            empty = bool(divisor == 0)
            rows = function.rows(inputs[0].shape, options["axis"])
            u = _divided(np.ones(rows) if u is None else u, divisor)
            options["reduction"] = "sum"
    results = blocks.compute(
        function, *inputs, target, weight=w, sample_weight=u, **options, **arrays
    )
    loss, *others = _with_axes(results, options, inputs[0].ndim - 1)
    return np.full_like(loss, np.nan) if empty else loss, *others


def _with_axes(results: Any, options: Arguments, rank: int) -> tuple[Any, ...]:
    """A block's results, with a loss that is one number in an array with so many axes."""
    loss, *others = results if type(results) is tuple else (results,)
    if options.get("reduction", "mean") != "none":
        loss = np.full((1,) * rank, loss, np.float64)
    return loss, *others


@np.errstate(all="ignore")
def _divided(u: Any, divisor: Any) -> Any:
    """u / D; 0 where D is."""
    return np.where(divisor == 0, 0.0, u / divisor)


# --- losses of elements ---------------------------------------------------------------------------


def elements(call: Request) -> list[Any]:
    """A binary loss. The mean is a sum with weights that are divided by the number of elements."""
    own, whole, size = dict(call.options), call.whole, call.x.size
    w = call.arrays.get("weight")
    if call.is_mean and size:
        own["reduction"] = "sum"
        w = (da.asarray(1.0) if w is None else w.astype(np.float64)) / size
    operands = [call.x, whole, labels.checked_elements(call), whole]
    for array in (w, call.arrays.get("pos_weight")):
        # A block broadcasts them over its elements.
        operands += [array, None if array is None else whole[len(whole) - array.ndim :]]
    task = functools.partial(_elements, call.function, own)
    layouts = [loss_layout(call._replace(axis=-1))]
    layouts += [Layout(whole, a.dtype) for a in call.like[1:]]
    loss, *others = blocks.several(task, whole, operands, layouts)
    return [reduced(call, loss), *others]


def _elements(
    function: Function, options: Arguments, x: Any, target: Any, w: Any, pos_weight: Any
) -> Any:
    if pos_weight is not None:
        options = options | {"pos_weight": pos_weight}
    return _with_axes(blocks.compute(function, x, target, weight=w, **options), options, x.ndim)
