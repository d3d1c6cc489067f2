"""linear_cross_entropy on the GPU: logits exist for one block of rows at a time.

Matrix products are the array library's own; between them the cross-entropy kernel replaces the
block of logits by their gradient, in place.
"""

import math
from typing import Any

from fastxent import errors
from fastxent.cuda.conversion import as_numbers, clear_ignored, convert, converted_weights, put
from fastxent.cuda.cross_entropy import fill_and_reduce, fill_cross_entropy
from fastxent.cuda.divisors import inverse_of
from fastxent.cuda.kernels import PER_ROW
from fastxent.cuda.labels import contiguous_labels, labels_of
from fastxent.device_array import DeviceArray
from fastxent.records import Call, LinearGrad, Outputs, Target

# A block of logits: enough rows for products that fill the GPU.
_BLOCK_BYTES = 256 << 20


def linear_cross_entropy(call: Call) -> DeviceArray | None:
    """Fill outputs and grads; return Σ of the row losses / divisor, unless they are requested."""
    if call.x.library.matmul is None:
        raise errors.no_matrix_products(call.x.owner)
    return fill_and_reduce(_fill_blocks, call)


def _fill_blocks(call: Call) -> None:
    assert call.linear is not None and call.target is not None
    x, compute, (linear_weight, linear_bias, grads, accumulate) = call.x, call.compute, call.linear
    n_classes, features = linear_weight.shape
    n, matrix = math.prod(x.shape[:-1]), _matrix(linear_weight, compute)
    bias = None if linear_bias is None else as_numbers(linear_bias, compute)
    labels, probs = call.target
    call = call._replace(  # what blocks are parts of lies side by side
        target=Target(None if labels is None else contiguous_labels(labels), probs),
        weights=converted_weights(call.weights, compute),
    )
    limit = max(1, min(n, _BLOCK_BYTES // (max(n_classes, features) * compute.itemsize)))
    sums = None if grads is None else _Sums(grads, accumulate, compute)
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
    per_row = {name: part(getattr(call.outputs, name)) for name in PER_ROW}
    return call._replace(
        x=logits, target=Target(part(labels), probs),
        weights=call.weights._replace(sample_weight=part(call.weights.sample_weight)),
        outputs=Outputs(grad=logits if with_grad else None, **per_row),
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
    assert a.library.matmul is not None
    a.library.matmul(_own(a), _own(b).T if transposed else _own(b), _own(out))


def _add_matmul(a: Any, b: Any, out: Any, like: DeviceArray) -> None:
    """Out += a @ b, of the library's arrays."""
    assert like.library.add_matmul is not None
    like.library.add_matmul(a, b, out)


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

    def __init__(self, grads: LinearGrad, accumulate: bool, compute: Any) -> None:
        self.grads = grads
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
