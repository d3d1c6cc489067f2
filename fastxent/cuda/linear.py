"""linear_cross_entropy on the GPU: logits exist for one block of rows at a time.

Matrix products are the array library's own; between them the cross-entropy kernel replaces the
block of logits by their gradient, in place.
"""

import math
from collections.abc import Iterator
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
_NOTHING = LinearGrad(None, None, None)


def linear_cross_entropy(call: Call) -> DeviceArray | None:
    """Fill outputs and grads; return Σ of the row losses / divisor, unless they are requested."""
    check_products(call.x)
    return fill_and_reduce(_fill_blocks, call)


def check_products(x: DeviceArray) -> None:
    """Raise if the library has no matrix products."""
    if x.library.matmul is None:
        raise errors.no_matrix_products(x.owner)


def _fill_blocks(call: Call) -> None:
    assert call.linear is not None
    x, compute, (linear_weight, linear_bias, grads, accumulate) = call.x, call.compute, call.linear
    features, matrix = linear_weight.shape[1], matrix_of(linear_weight, compute)
    bias = None if linear_bias is None else as_numbers(linear_bias, compute)
    call = side_by_side(call)
    sums = None if grads is None else Sums(grads, accumulate, compute)
    for first, rows in blocks_of_rows(x, linear_weight, compute):
        x_block = block_of(x, first, rows, compute)
        logits = logits_of(x_block, matrix, bias)
        block = rows_of_call(call, logits, first, with_grad=sums is not None)
        fill_cross_entropy(block)
        if sums is None:
            continue
        if sums.weight is not None:
            clear(x_block, block)
        sums.add(logits, x_block)
        if sums.grads.x is not None:
            product = x.new(x_block.shape, compute)
            matmul(logits, matrix, product)
            clear(product, block)
            put(product, sums.grads.x, first * features, rows * features, accumulate)
    if sums is not None:
        sums.finish()


def side_by_side(call: Call) -> Call:
    """The call with contiguous labels and weights, of which blocks of rows are views."""
    assert call.target is not None
    labels, probs = call.target
    return call._replace(
        target=Target(None if labels is None else contiguous_labels(labels), probs),
        weights=converted_weights(call.weights, call.compute),
    )


def blocks_of_rows(
    x: DeviceArray, weight: DeviceArray, compute: Any, n_blocks: int = 1
) -> Iterator[tuple[int, int]]:
    """Yield the first row and number of rows of blocks; `n_blocks` are in memory at a time."""
    n, row = math.prod(x.shape[:-1]), max(weight.shape) * compute.itemsize * n_blocks
    limit = max(1, min(n, _BLOCK_BYTES // row))
    for first in range(0, n, limit):
        yield first, min(limit, n - first)


def block_of(array: DeviceArray, first: int, rows: int, compute: Any) -> DeviceArray:
    """Rows first … of an array (…, K), in the type of the arithmetic."""
    features = array.shape[-1]
    block = array.new((rows, features), compute)
    convert(array, compute, first * features, rows * features, block)
    return block


def logits_of(x_block: DeviceArray, matrix: DeviceArray, bias: DeviceArray | None) -> DeviceArray:
    """x @ weight.T + bias of a block of rows."""
    logits = x_block.new((x_block.shape[0], matrix.shape[0]), x_block.dtype)
    matmul(x_block, matrix, logits, transposed=True)
    if bias is not None:
        add_to_rows(bias, logits)
    return logits


def rows_of_call(call: Call, logits: DeviceArray, first: int, with_grad: bool) -> Call:
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


def clear(rows: DeviceArray, block: Call) -> None:
    """Write zeros to ignored rows: nan in them must not reach a product."""
    assert block.target is not None
    labels = block.target.labels
    clear_ignored(
        rows, None if labels is None else labels_of(labels, block.options.ignore_index),
        block.weights.sample_weight, inverse_of(block.divisor), block.x.shape[-1],
    )  # fmt: skip


# --- the library's own operations -------------------------------------------------------------


def own(array: DeviceArray) -> Any:
    """The library's array, for an operation that a cached plan could not repeat."""
    array.queue.not_cacheable()
    return array.owner


def matmul(a: DeviceArray, b: DeviceArray, out: DeviceArray, transposed: bool = False) -> None:
    """Out = a @ b, or a @ b.T."""
    assert a.library.matmul is not None
    a.library.matmul(own(a), own(b).T if transposed else own(b), own(out))


def add_matmul(a: Any, b: Any, out: Any, like: DeviceArray) -> None:
    """Out += a @ b, of the library's arrays."""
    assert like.library.add_matmul is not None
    like.library.add_matmul(a, b, out)


def fill(array: DeviceArray, value: int) -> None:
    """Write a number to all elements."""
    own(array)[...] = value


def _ones(like: DeviceArray, shape: tuple[int, ...]) -> DeviceArray:
    ones = like.new(shape, like.dtype)
    fill(ones, 1)
    return ones


def matrix_of(weight: DeviceArray, compute: Any) -> DeviceArray:
    """The weights in the type of the arithmetic."""
    if weight.dtype == compute:
        return weight
    matrix = weight.new(weight.shape, compute)
    convert(weight, compute, 0, weight.size, matrix)
    return matrix


def add_to_rows(bias: DeviceArray, logits: DeviceArray) -> None:
    """Add a number for each class to each row of logits."""
    ones = _ones(logits, (logits.shape[0], 1))
    add_matmul(own(ones), own(bias).reshape(1, -1), own(logits), logits)


class Sums:
    """The gradients of weights and bias, summed over the blocks in the type of the arithmetic.

    None where they are not requested. `read` are arrays that they may overlap, which are read until
    the last block is done.
    """

    def __init__(
        self, grads: LinearGrad, accumulate: bool, compute: Any, read: LinearGrad = _NOTHING
    ) -> None:
        self.grads = grads
        self.weight, self.bias = (
            None if grad is None else _accumulator(grad, accumulate, compute, of)
            for grad, of in zip(grads[1:], read[1:], strict=True)
        )

    def add(self, d: DeviceArray, x: DeviceArray) -> None:
        """Add dᵀ @ x to the weights' gradient and Σ d to the bias's."""
        if self.weight is not None:
            add_matmul(own(d).T, own(x), own(self.weight), x)
        if self.bias is not None:
            ones = _ones(d, (1, d.shape[0]))
            add_matmul(own(ones), own(d), own(self.bias).reshape(1, -1), x)

    def finish(self) -> None:
        """Round the sums into the user's arrays, where these are separate."""
        pairs = ((self.grads.linear_weight, self.weight), (self.grads.linear_bias, self.bias))
        for array, total in pairs:
            if total is not None and total is not array:
                put(total, array, 0, array.size)


def _accumulator(
    array: DeviceArray, accumulate: bool, compute: Any, read: DeviceArray | None
) -> DeviceArray:
    """The array itself if sums can be added in it, else a copy in which they can."""
    is_free = read is None or read.address != array.address
    if array.dtype == compute and array.is_contiguous and is_free:
        if not accumulate:
            fill(array, 0)
        return array
    total = array.new(array.shape, compute)
    if accumulate:
        convert(array, compute, 0, array.size, total)
    else:
        fill(total, 0)
    return total
