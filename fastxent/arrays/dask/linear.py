"""linear_cross_entropy: by rows with all of the weights, or with weights chunked along classes."""

import functools
from typing import Any

import dask.array as da
import numpy as np

from fastxent.arrays.dask import blocks, classes, rows
from fastxent.arrays.dask.blocks import CLASSES, Part, only
from fastxent.arrays.dask.request import Request
from fastxent.records import LinearGrad

_FEATURES = -2  # an index beside CLASSES


def results(asked: Request) -> list[Any]:
    """Loss, gradient and what else was asked for."""
    if asked.arrays["linear_weight"].numblocks[0] > 1:
        return _by_classes(asked)
    return _by_rows(asked)


def _by_rows(asked: Request) -> list[Any]:
    """Each block of rows goes to the function; gradients of the weights are summed by a tree."""
    x = asked.x.rechunk({asked.axis: -1})
    matrix, bias = asked.arrays["linear_weight"].rechunk(-1), asked.arrays.get("linear_bias")
    row, whole = asked.rows, asked.whole
    operands = [
        x, whole, matrix, (CLASSES, _FEATURES),
        bias, None if bias is None else (CLASSES,), *rows.target_operands(asked),
    ]  # fmt: skip
    parts = [rows.loss_part(asked)]
    grad = next(filter(_is_grad, asked.like), None)
    if grad is not None:
        # Chunks of the weights' gradient: one a block, to be summed.
        n_classes, features = matrix.shape
        sums = np.result_type(*(a.dtype for a in grad if a is not None), np.float32)
        new = {CLASSES: n_classes, _FEATURES: features}
        made = LinearGrad(
            Part(whole, asked.x.dtype if grad.x is None else grad.x.dtype),
            Part((*row, CLASSES, _FEATURES), sums, row, new),
            Part((*row, CLASSES), sums, row, {CLASSES: n_classes}),
        )
        parts += [part for part, a in zip(made, grad, strict=True) if a is not None]
    parts += [Part(row, a.dtype) for a in asked.like[1:] if not _is_grad(a)]
    task = functools.partial(_block, rows.options(asked))
    loss, *others = blocks.several(task, whole, operands, parts)
    answer = [rows.reduced(asked, loss)]
    if grad is not None:
        axes = tuple(range(len(row)))
        by_x = None if grad.x is None else others.pop(0)
        weights, biases = (
            None if a is None else blocks.total(others.pop(0), a.dtype, axes) for a in grad[1:]
        )
        answer.append(LinearGrad(by_x, weights, biases))
    return answer + others


def _is_grad(result: Any) -> bool:
    return isinstance(result, LinearGrad)


def _wide(array: Any) -> Any:
    """An operand whose gradient is to be summed: half precision as what it computes in."""
    return array.astype(np.float32) if blocks.is_half(array.dtype) else array


def _block(
    options: dict[str, Any], x: Any, matrix: Any, bias: Any,
    target: Any, u: Any, w: Any, divisor: Any,
) -> tuple[Any, ...]:  # fmt: skip
    arrays = {} if bias is None else {"linear_bias": _wide(only(bias))}
    found = rows.reduce_block(
        options, (x, _wide(only(matrix))), only(target), u, None if w is None else only(w), divisor,
        **arrays,
    )  # fmt: skip
    flat: list[Any] = []
    for result in found:
        if _is_grad(result):
            lead = (None,) * (x.ndim - 1)
            flat += [] if result.x is None else [result.x]
            flat += [part[lead] for part in result[1:] if part is not None]
        else:
            flat.append(result)
    return tuple(flat)


def _by_classes(asked: Request) -> list[Any]:
    """Products of chunks, and the loss of logits that are chunked along classes."""
    arrays, dtype = asked.arrays, asked.like[0].dtype
    matrix, bias = arrays["linear_weight"].astype(dtype), arrays.get("linear_bias")
    x = asked.x.astype(dtype)
    logits = da.tensordot(x, matrix, ((asked.axis,), (1,)))
    if bias is not None:
        logits = logits + bias.astype(dtype).rechunk((logits.chunks[-1],))
    target = arrays["target"]
    if not asked.is_index:
        target = target.rechunk(logits.chunks)
    grad = next(filter(_is_grad, asked.like), None)
    # Of the gradient by logits there is only the type to say.
    like = tuple(np.empty(0, dtype) if _is_grad(a) else a for a in asked.like)
    names = ("weight", "sample_weight", "normalizer")
    inner = asked._replace(
        name="cross_entropy", x=logits, axis=logits.ndim - 1, like=like,
        arrays={"target": target, **{name: arrays.get(name) for name in names}},
    )  # fmt: skip
    loss, *others = classes.cross_entropy(inner)
    if grad is None:
        return [loss, *others]
    d, *others = others
    row = tuple(range(d.ndim - 1))
    # A row that is not counted has d = 0, and adds nothing even where its x holds nan.
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
