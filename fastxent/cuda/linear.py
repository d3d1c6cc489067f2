"""linear_cross_entropy on the GPU: logits exist for one block of rows at a time.

Matrix products are the array library's own; between them the cross-entropy kernel replaces the
block of logits by their gradient, in place.
"""

import math
from collections.abc import Callable
from typing import Any

from fastxent import errors
from fastxent.cuda.conversion import as_numbers, clear_ignored, convert, converted_weights, put
from fastxent.cuda.cross_entropy import fill_cross_entropy
from fastxent.cuda.divisors import inverse_of, reduced
from fastxent.cuda.labels import contiguous_labels, labels_of
from fastxent.device_array import DeviceArray
from fastxent.records import Call, LinearGrad, Outputs, Target

# A block of logits: enough rows for products that fill the GPU.
_BLOCK_BYTES = 256 << 20


def linear_cross_entropy(call: Call) -> DeviceArray | None:
    """Fill outputs and grads; return Σ of the row losses / divisor, unless they are requested."""
    assert call.linear is not None and call.target is not None
    x, compute, (linear_weight, linear_bias, grads, accumulate) = call.x, call.compute, call.linear
    if x.library.matmul is None:
        raise errors.no_matrix_products(x.owner)
    n_classes, features = linear_weight.shape
    n, reduces = math.prod(x.shape[:-1]), call.outputs.loss is None
    matrix = _matrix(linear_weight, compute)
    bias = None if linear_bias is None else as_numbers(linear_bias, compute)
    call = _prepared(call, n)
    limit = max(1, min(n, _BLOCK_BYTES // (max(n_classes, features) * compute.itemsize)))
    sums = None if grads is None else _Sums(grads, matrix, accumulate, compute)
    for first in range(0, n, limit):
        rows = min(limit, n - first)
        x_block, logits = x.new((rows, features), compute), x.new((rows, n_classes), compute)
        convert(x, compute, first * features, rows * features, x_block)
        _matmul(x_block, matrix, logits, transposed=True)
        if bias is not None:
            _add_to_rows(bias, logits)
        block = _rows_of_call(call, logits, first, with_grad=sums is not None)
        fill_cross_entropy(block)
        if sums is None:
            continue
        if sums.weight is not None:
            _clear(x_block, block)
        sums.add(logits, x_block)
        if sums.grads.x is not None:
            product = x.new(x_block.shape, compute)
            _matmul(logits, matrix, product)
            _clear(product, block)
            put(product, sums.grads.x, first * features, rows * features, accumulate)
    if sums is not None:
        sums.finish()
    return reduced(call.outputs.loss, call.divisor) if reduces else None


def _prepared(call: Call, n: int) -> Call:
    """The call with memory for its losses, and what its blocks are parts of side by side."""
    assert call.target is not None
    labels, probs = call.target
    outputs = call.outputs
    if outputs.loss is None:
        outputs = outputs._replace(loss=call.x.new((n,), call.compute))
    return call._replace(
        target=Target(None if labels is None else contiguous_labels(labels), probs),
        weights=converted_weights(call.weights, call.compute), outputs=outputs,
    )  # fmt: skip


def _rows_of_call(call: Call, logits: DeviceArray, first: int, with_grad: bool) -> Call:
    """The cross-entropy of a block of logits, which are rows first … of the call."""
    assert call.target is not None
    n_rows, n_classes = logits.shape
    labels, probs = call.target

    def part(array: DeviceArray | None) -> DeviceArray | None:
        return None if array is None else array.part(first, (n_rows,))

    if probs is not None:
        begin, shape = first * n_classes, (n_rows, n_classes)
        if probs.dtype == call.compute and probs.is_contiguous:
            probs = probs.part(begin, shape)
        else:
            block = probs.new(shape, call.compute)
            convert(probs, call.compute, begin, n_rows * n_classes, block)
            probs = block
    _, loss, _, _, lse, _, argmax = call.outputs
    return call._replace(
        x=logits, target=Target(part(labels), probs),
        weights=call.weights._replace(sample_weight=part(call.weights.sample_weight)),
        outputs=Outputs(
            loss=part(loss), lse=part(lse), argmax=part(argmax), grad=logits if with_grad else None
        ),
    )  # fmt: skip


def _clear(rows: DeviceArray, block: Call) -> None:
    """Write zeros to rows that are ignored: nan in them must not reach a product."""
    assert block.target is not None
    labels = block.target.labels
    clear_ignored(
        rows, None if labels is None else labels_of(labels, block.options.ignore_index),
        block.weights.sample_weight, inverse_of(block.divisor), block.x.shape[-1],
    )  # fmt: skip


# --- the library's own operations -------------------------------------------------------------


def _own(array: DeviceArray) -> Any:
    """The library's array, for an operation that a cached plan could not repeat."""
    array.queue.not_cacheable()
    return array.owner


def _matmul(a: DeviceArray, b: DeviceArray, out: DeviceArray, transposed: bool = False) -> None:
    """Out = a @ b, or a @ b.T."""
    product: Callable[..., Any] | None = a.library.matmul
    assert product is not None
    product(_own(a), _own(b).T if transposed else _own(b), _own(out))


def _add_matmul(a: Any, b: Any, out: Any, like: DeviceArray) -> None:
    """Out += a @ b, of the library's arrays."""
    product: Callable[..., Any] | None = like.library.add_matmul
    assert product is not None
    product(a, b, out)


def _fill(array: DeviceArray, value: int) -> None:
    _own(array)[...] = value


def _ones(like: DeviceArray, shape: tuple[int, ...]) -> DeviceArray:
    ones = like.new(shape, like.dtype)
    _fill(ones, 1)
    return ones


def _matrix(weight: DeviceArray, compute: Any) -> DeviceArray:
    """The weights in the type that is computed in."""
    if weight.dtype == compute:
        return weight
    matrix = weight.new(weight.shape, compute)
    convert(weight, compute, 0, weight.size, matrix)
    return matrix


def _add_to_rows(bias: DeviceArray, logits: DeviceArray) -> None:
    ones = _ones(logits, (logits.shape[0], 1))
    _add_matmul(_own(ones), _own(bias).reshape(1, -1), _own(logits), logits)


class _Sums:
    """The gradients of weights and bias, summed over the blocks in the type that is computed in.

    None where they are not requested.
    """

    def __init__(
        self, grads: LinearGrad, matrix: DeviceArray, accumulate: bool, compute: Any
    ) -> None:
        self.grads, self.matrix = grads, matrix
        self.weight, self.bias = (
            None if grad is None else _accumulator(grad, accumulate, compute)
            for grad in (grads.linear_weight, grads.linear_bias)
        )

    def add(self, d: DeviceArray, x: DeviceArray) -> None:
        """Add dᵀ @ x to the weights' gradient and Σ d to the bias's."""
        if self.weight is not None:
            _add_matmul(_own(d).T, _own(x), _own(self.weight), x)
        if self.bias is not None:
            ones = _ones(d, (1, d.shape[0]))
            _add_matmul(_own(ones), _own(d), _own(self.bias).reshape(1, -1), x)

    def finish(self) -> None:
        """Round the sums into the user's arrays, where they are not these."""
        pairs = ((self.grads.linear_weight, self.weight), (self.grads.linear_bias, self.bias))
        for array, total in pairs:
            if total is not None and total is not array:
                put(total, array, 0, array.size)


def _accumulator(array: DeviceArray, accumulate: bool, compute: Any) -> DeviceArray:
    """The array itself where sums can be kept in it, else one that can, with its contents."""
    if array.dtype == compute and array.is_contiguous:
        if not accumulate:
            _fill(array, 0)
        return array
    total = array.new(array.shape, compute)
    if accumulate:
        convert(array, compute, 0, array.size, total)
    else:
        _fill(total, 0)
    return total
