"""Losses of a linear map: by rows with all weights, or with weights chunked along classes."""

import functools
from typing import Any

import dask.array as da
import numpy as np

from fastxent.arrays.dask import blocks, classes, rows
from fastxent.arrays.dask.blocks import CLASSES, Layout, only
from fastxent.arrays.dask.request import DaskRequest
from fastxent.functions import CROSS_ENTROPY, Arguments, Function
from fastxent.records import LinearGrad

_FEATURES = -2  # an index of an axis that x does not have, like CLASSES


def results(call: DaskRequest) -> list[Any]:
    """Compute the requested results: loss, gradient and others, or a Hessian-vector product."""
    by_classes = call.arrays["linear_weight"].numblocks[0] > 1 and call.function.is_loss
    if by_classes and classes.merges(call._replace(function=CROSS_ENTROPY)):
        return _by_classes(call)
    return _by_rows(call)


def _by_rows(call: DaskRequest) -> list[Any]:
    """Call the function for each block of rows; sum derivatives by the weights in a tree."""
    x = call.x.rechunk({call.axis: -1})
    matrix, bias = call.arrays["linear_weight"].rechunk(-1), call.arrays.get("linear_bias")
    row, whole, is_loss = call.rows, call.whole, call.function.is_loss
    inputs = whole, (CLASSES, _FEATURES), (CLASSES,)
    operands = blocks.operands(*zip((x, matrix, bias), inputs, strict=True))
    operands += rows.target_operands(call)
    if not is_loss:
        by_x, *others = call.arrays["vector"]
        vector = [by_x if by_x is None else by_x.rechunk(x.chunks), *map(_in_one_chunk, others)]
        operands += blocks.operands(*zip(vector, inputs, strict=True))
    layouts = [rows.loss_layout(call)] if is_loss else []
    grad = next(filter(_is_grad, call.like), None)
    if grad is not None:
        # The gradients of weights and bias: a chunk for each block of rows, to be summed.
        n_classes, features = matrix.shape
        sums = np.result_type(*(a.dtype for a in grad if a is not None), np.float32)
        new = {CLASSES: n_classes, _FEATURES: features}
        made = LinearGrad(
            Layout(whole, call.x.dtype if grad.x is None else grad.x.dtype),
            Layout((*row, CLASSES, _FEATURES), sums, row, new),
            Layout((*row, CLASSES), sums, row, {CLASSES: n_classes}),
        )
        layouts += [part for part, a in zip(made, grad, strict=True) if a is not None]
    layouts += [Layout(row, a.dtype) for a in call.like[1:] if not _is_grad(a)]
    task = functools.partial(_block, call.function, rows.options(call))
    others = blocks.several(task, whole, operands, layouts)
    answer = [rows.reduced(call, others.pop(0))] if is_loss else []
    if grad is not None:
        axes = tuple(range(len(row)))
        by_x = None if grad.x is None else others.pop(0)
        weights, biases = (
            None if a is None else blocks.total(others.pop(0), a.dtype, axes) for a in grad[1:]
        )
        answer.append(LinearGrad(by_x, weights, biases))
    return answer + others


def _in_one_chunk(array: Any) -> Any:
    return None if array is None else array.rechunk(-1)


def _is_grad(result: Any) -> bool:
    return isinstance(result, LinearGrad)


def _widened(array: Any) -> Any:
    """Convert an operand whose gradients are summed from half precision to float32."""
    return array.astype(np.float32) if blocks.is_half(array.dtype) else array


def _block(
    function: Function, options: Arguments, x: Any, matrix: Any, bias: Any,
    target: Any, u: Any, w: Any, divisor: Any, *vector: Any,
) -> tuple[Any, ...]:  # fmt: skip
    arrays: Arguments = {} if bias is None else {"linear_bias": _widened(only(bias))}
    if vector:
        arrays["vector"] = tuple(map(only, vector))
    inputs = x, _widened(only(matrix))
    results = rows.block_results(
        function, options, inputs, only(target), u, only(w), divisor, **arrays
    )
    flat: list[Any] = []
    for result in results:
        if _is_grad(result):
            lead = (None,) * (x.ndim - 1)
            flat += [] if result.x is None else [result.x]
            flat += [part[lead] for part in result[1:] if part is not None]
        else:
            flat.append(result)
    return tuple(flat)


def _by_classes(call: DaskRequest) -> list[Any]:
    """Compute the logits chunked along classes, and their loss."""
    arrays, dtype = call.arrays, call.like[0].dtype
    matrix, bias = arrays["linear_weight"].astype(dtype), arrays.get("linear_bias")
    x = call.x.astype(dtype)
    logits = da.tensordot(x, matrix, ((call.axis,), (1,)))
    if bias is not None:
        logits = logits + bias.astype(dtype).rechunk((logits.chunks[-1],))
    target = arrays["target"]
    if not call.is_index:
        target = target.rechunk(logits.chunks)
    grad = next(filter(_is_grad, call.like), None)
    # For the gradient with respect to the logits only the type is used.
    like = tuple(np.empty(0, dtype) if _is_grad(a) else a for a in call.like)
    names = ("weight", "sample_weight", "normalizer")
    inner = call._replace(
        function=CROSS_ENTROPY, x=logits, axis=logits.ndim - 1, like=like,
        arrays={"target": target, **{name: arrays.get(name) for name in names}},
    )  # fmt: skip
    loss, *others = classes.cross_entropy(inner)
    if grad is None:
        return [loss, *others]
    d, *others = others
    row = tuple(range(d.ndim - 1))
    # An ignored row has d = 0, and adds nothing even if its x holds nan.
    live = (d != 0).any(axis=-1, keepdims=True)
    by_x = by_matrix = by_bias = None
    if grad.x is not None:
        product = da.tensordot(d, matrix, ((d.ndim - 1,), (0,)))
        by_x = blocks.converted(da.where(live, product, dtype.type(0)), grad.x.dtype)
    if grad.linear_weight is not None:
        product = da.tensordot(d, da.where(live, x, dtype.type(0)), (row, row))
        by_matrix = blocks.converted(product, grad.linear_weight.dtype)
    if grad.linear_bias is not None:
        by_bias = blocks.total(d, grad.linear_bias.dtype, row)
    grads = LinearGrad(by_x, by_matrix, by_bias)
    return [loss, grads, *others]
