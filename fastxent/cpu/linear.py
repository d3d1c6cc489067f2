"""linear_cross_entropy on the CPU: the logits of one block of rows exist at a time.

Matrix products are NumPy's, with the threads of the BLAS library as the user has set them. Between
them the cross-entropy kernel replaces the block of logits by its gradient.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent.cpu.blocks import Box, Operand, boxes, for_each_chunk
from fastxent.cpu.conversion import put
from fastxent.cpu.launch import add_up, divided, fill_losses
from fastxent.records import Call, LinearGrad, Outputs, Target

Array = NDArray[Any]
DType = np.dtype[Any]

# A block of logits is several times as large as the weights, so that reading these and adding to
# their gradient takes a small part of the time. It is not larger, so that it is in a cache when it
# is read again; and the system clears new memory page by page.
_TIMES_WEIGHTS, _SMALLEST_BLOCK, BLOCK_BYTES = 8, 4 << 20, 32 << 20
# The size of a piece of the weights' gradient before it is added.
_PIECE_BYTES = 4 << 20
_GRAD = Outputs._fields.index("grad")


@np.errstate(all="ignore")  # no warnings of overflowing logits, or of products of nan and inf
def linear_cross_entropy(call: Call) -> float:
    """Fill outputs and gradients; return Σ of the row losses / divisor."""
    assert call.linear is not None
    x, compute, (weight, bias, grads, accumulate) = call.x, call.compute, call.linear
    n_classes = len(weight)
    if bias is not None:
        bias = np.ascontiguousarray(bias, compute)
    limit = block_rows(weight, compute)
    n = math.prod(x.shape[:-1])
    buffer = np.empty((min(limit, n), n_classes), compute)
    sums = None if grads is None else _Sums(grads, accumulate, compute)
    rows = Operand(x, compute)
    losses = []
    for box in boxes(x.shape[:-1], limit) if n else ():
        x_block = rows.read(box)
        logits = buffer[: len(x_block)]
        fill_logits(logits, x_block, weight, bias)
        block = call_of_block(call, box, logits, grads is not None)
        losses.append(fill_losses(block))
        if sums is not None and call.divisor:
            sums.add(box, logits, x_block, weight, ignored_rows(block))
    if sums is not None:
        sums.finish()
    return divided(add_up(losses), call.divisor)


def block_rows(weight: Array, compute: DType, n_arrays: int = 1) -> int:
    """Return the number of rows of a block with `n_arrays` arrays like the logits."""
    size = min(max(_TIMES_WEIGHTS * weight.size * compute.itemsize, _SMALLEST_BLOCK), BLOCK_BYTES)
    # Rows of x may have to be converted, too, and there may be more features than classes.
    return max(1, int(size // (n_arrays * max(weight.shape) * compute.itemsize)))


def call_of_block(call: Call, box: Box, logits: Array, has_grad: bool) -> Call:
    """Return the call of cross_entropy for a block of rows, with the gradient over the logits."""
    assert call.target is not None
    index, lo, hi = box
    x = logits.reshape((*call.x[index].shape[:-1], logits.shape[1]))  # as probabilities are
    labels, probs = call.target
    target = Target(None, probs[index]) if labels is None else Target(labels[lo:hi], None)
    weights = call.weights
    if weights.sample_weight is not None:
        weights = weights._replace(sample_weight=weights.sample_weight[lo:hi])
    outputs = [None if array is None else array[lo:hi] for array in call.outputs]
    outputs[_GRAD] = x if has_grad else None
    return call._replace(x=x, target=target, weights=weights, outputs=Outputs(*outputs))


def fill_logits(logits: Array, x: Array, weight: Array, bias: Array | None) -> None:
    """Logits = x @ weight.T + bias."""
    for classes, part in class_chunks(weight, logits.dtype):
        np.matmul(x, part.T, out=logits[:, classes])
    if bias is not None:
        for_each_chunk(lambda lo, hi: np.add(logits[lo:hi], bias, out=logits[lo:hi]), *logits.shape)


def class_chunks(weight: Array, compute: DType) -> Iterator[tuple[slice, Array]]:
    """Yield the classes and weights for BLAS: whole if possible, else in converted pieces."""
    direct = weight.dtype == compute and weight.dtype.isnative and weight.flags.aligned
    if direct and (weight.flags.c_contiguous or weight.flags.f_contiguous):
        yield slice(None), weight
        return
    for piece in pieces(weight, compute):
        yield piece, np.ascontiguousarray(weight[piece], compute)


def pieces(weight: Array, compute: DType) -> Iterator[slice]:
    """Yield the classes of pieces of the weights or of their gradient."""
    n_classes, features = weight.shape
    step = max(1, _PIECE_BYTES // (max(features, 1) * compute.itemsize))
    for first in range(0, n_classes, step):
        yield slice(first, min(first + step, n_classes))


def ignored_rows(call: Call) -> Array | None:
    """Return the mask of the rows that are ignored or without weight; None if there are none."""
    assert call.target is not None
    labels, ignore_index = call.target.labels, call.options.ignore_index
    ignored = None
    if labels is not None and ignore_index is not None:
        ignored = labels == ignore_index
    if call.weights.sample_weight is not None:
        weightless = call.weights.sample_weight == 0
        ignored = weightless if ignored is None else ignored | weightless
    return ignored if ignored is not None and ignored.any() else None


class _Sums:
    """The gradients, summed block by block; those that are None are not computed."""

    def __init__(self, grads: LinearGrad, accumulate: bool, compute: DType) -> None:
        self.grads = grads
        self.accumulate = accumulate
        self.x = None if grads.x is None else Operand(grads.x, compute)
        # Sums have the type of the arithmetic: half precision would lose small blocks.
        self.weight = _accumulator(grads.linear_weight, accumulate, compute)
        self.bias = _accumulator(grads.linear_bias, accumulate, compute)
        # Whether the sums are still uninitialised, so that the first block is stored, not added.
        self.fresh = not accumulate

    def add(self, box: Box, d: Array, x: Array, weight: Array, ignored: Array | None) -> None:
        """Add a block: d @ W to the gradient of x, dᵀ @ x to that of W, Σ d to that of the bias.

        Ignored rows have d = 0, but 0·nan is nan: their x is taken as 0, and so is d @ W.
        """
        if ignored is not None and self.weight is not None:
            x = np.where(ignored[:, None], x.dtype.type(0), x)
        if self.x is not None:
            self._add_to_x(self.x, box, d, weight, ignored)
        if self.weight is not None:
            for piece in pieces(weight, d.dtype):
                add_product(self.weight[piece], d[:, piece].T, x, self.fresh)
        if self.bias is not None:
            add_product(self.bias, np.ones(len(d), d.dtype), d, self.fresh)
        self.fresh = False

    def _add_to_x(
        self, x: Operand, box: Box, d: Array, weight: Array, ignored: Array | None
    ) -> None:
        target = x.read(box) if self.accumulate else x.block(box)
        fresh = not self.accumulate
        for classes, part in class_chunks(weight, d.dtype):
            add_product(target, d[:, classes], part, fresh, ignored)
            fresh = False
        x.write(box, target)

    def finish(self) -> None:
        """Round the sums into the user's arrays, where these have another type."""
        put_sums(self.grads, (self.grads.x, self.weight, self.bias), self.fresh)


def put_sums(arrays: LinearGrad, totals: tuple[Any, ...], fresh: bool) -> None:
    """Round sums into other arrays; write zeros where no block was added (`fresh`)."""
    for array, total in zip(arrays, totals, strict=True):
        if array is None:
            continue
        if fresh:
            array.fill(0)
        elif array is not total:
            put(array, total)


def add_product(out: Array, a: Array, b: Array, fresh: bool, ignored: Array | None = None) -> None:
    """Out += a @ b, or out = a @ b if `fresh`; the ignored rows of the product are 0."""
    if fresh and out.flags.c_contiguous:
        product = np.matmul(a, b, out=out)
    else:
        product = a @ b
    if ignored is not None:
        product[ignored] = 0
    if product is not out:
        np.add(0 if fresh else out, product, out=out)


def _accumulator(array: Array | None, accumulate: bool, compute: DType) -> Any:
    """Return the array, or a copy in the type of the arithmetic if it has another one."""
    if array is None or array.dtype == compute:
        return array
    return array.astype(compute) if accumulate else np.empty(array.shape, compute)
