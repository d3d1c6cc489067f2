"""linear_cross_entropy on the GPU: logits exist for one block of rows at a time.

Matrix products are the array library's own; between them the cross-entropy kernel turns the block
of logits into their gradient, in place.
"""

import math
from typing import Any

from fastxent.cuda.launch import (
    Array,
    Labels,
    as_numbers,
    clear_idle,
    converted,
    converted_weights,
    fill_cross_entropy,
    put,
    reduced,
)
from fastxent.records import Call, LinearGrad, Outputs, Target

# A block of logits: enough rows for products that fill the GPU.
_BLOCK_BYTES = 256 << 20


def linear_cross_entropy(call: Call) -> Array | None:
    """Fill outputs and grads; return Σ of the row losses / divisor, unless they are asked for."""
    assert call.linear is not None and call.target is not None
    linear_weight, linear_bias, grads, accumulate = call.linear
    x, target, divisor, compute = call.x, call.target, call.divisor, call.compute
    if x.library.matmul is None:
        raise TypeError(
            "linear_cross_entropy needs arrays of a library whose matrix products can be used "
            f"here, as CuPy's or PyTorch's, got {type(x.owner).__name__}"
        )
    n_classes, features = linear_weight.shape
    n = math.prod(x.shape[:-1])
    terms = converted_weights(call.weights, compute)
    weight = _matrix(linear_weight, compute)
    bias = None if linear_bias is None else as_numbers(linear_bias, compute)
    if target.labels is not None:  # side by side, and kept until the last block has read them
        target = Target(Labels.of(target.labels, None).kept, None)
    loss, lse, argmax = call.outputs.loss, call.outputs.lse, call.outputs.argmax
    losses = x.new((n,), compute) if loss is None else loss
    limit = max(1, min(n, _BLOCK_BYTES // (max(n_classes, features) * compute.itemsize)))
    sums = None if grads is None else _Sums(grads, weight, accumulate, compute)
    for first in range(0, n, limit):
        rows = min(limit, n - first)
        x_block, logits = x.new((rows, features), compute), x.new((rows, n_classes), compute)
        converted(x, compute, first * features, rows * features, x_block)
        x.library.matmul(x_block.owner, weight.owner.T, logits.owner)
        if bias is not None:
            _add_to_rows(bias, logits)
        own = terms
        if terms.sample_weight is not None:
            own = terms._replace(sample_weight=terms.sample_weight.part(first, (rows,)))
        wanted = _targets(target, first, rows, n_classes, compute)
        narrow = (None if a is None else a.part(first, (rows,)) for a in (losses, lse, argmax))
        filled = Outputs(
            **dict(zip(("loss", "lse", "argmax"), narrow, strict=True)),
            grad=None if sums is None else logits,
        )  # fmt: skip
        fill_cross_entropy(
            call._replace(x=logits, target=wanted, weights=own, outputs=filled)
        )
        if sums is not None:
            labels = None
            if wanted.labels is not None:
                labels = Labels.of(wanted.labels, call.options.ignore_index)
            if sums.weight is not None:
                clear_idle(x_block, labels, own, divisor, n_classes)
            sums.add(logits, x_block)
            if sums.grads.x is not None:
                product = sums.product(logits, x_block)
                clear_idle(product, labels, own, divisor, n_classes)
                put(product, sums.grads.x, first * features, rows * features, accumulate)
    if sums is not None:
        sums.finish()
    return None if loss is not None else reduced(losses, divisor)


def _matrix(weight: Array, compute: Any) -> Array:
    """The weights as the library multiplies them: of the type that is computed in."""
    if weight.dtype == compute:
        return weight
    matrix = weight.new(weight.shape, compute)
    converted(weight, compute, 0, weight.size, matrix)
    return matrix


def _ones(like: Array, shape: tuple[int, ...]) -> Array:
    """Ones, as what scales nothing and shifts by one: there is no other way to fill memory here."""
    ones = like.new(shape, like.dtype)
    ones.owner[...] = 1
    return ones


def _add_to_rows(bias: Array, logits: Array) -> None:
    ones = _ones(logits, (logits.shape[0], 1))
    logits.library.add_matmul(ones.owner, bias.owner.reshape(1, -1), logits.owner)


def _targets(target: Target, first: int, rows: int, n_classes: int, compute: Any) -> Target:
    """The targets of a block of rows."""
    if target.labels is not None:
        return Target(target.labels.part(first, (rows,)), None)
    if target.probs.dtype == compute and target.probs.is_contiguous:
        return Target(None, target.probs.part(first * n_classes, (rows, n_classes)))
    block = target.probs.new((rows, n_classes), compute)
    converted(target.probs, compute, first * n_classes, rows * n_classes, block)
    return Target(None, block)


class _Sums:
    """The gradients of weights and bias as they grow, in the type that is computed in.

    Those that are None are not made.
    """

    def __init__(self, grads: LinearGrad, matrix: Array, accumulate: bool, compute: Any) -> None:
        self.grads, self.matrix = grads, matrix
        self.weight, self.bias = (
            None if grad is None else _accumulator(grad, accumulate, compute)
            for grad in (grads.linear_weight, grads.linear_bias)
        )

    def add(self, d: Array, x: Array) -> None:
        """Add dᵀ @ x to the weights' gradient and Σ d to the bias's."""
        library = x.library
        if self.weight is not None:
            library.add_matmul(d.owner.T, x.owner, self.weight.owner)
        if self.bias is not None:
            ones = _ones(d, (1, d.shape[0]))
            library.add_matmul(ones.owner, d.owner, self.bias.owner.reshape(1, -1))

    def product(self, d: Array, x: Array) -> Array:
        """The gradient d @ W of the rows x."""
        product = x.new(x.shape, x.dtype)
        x.library.matmul(d.owner, self.matrix.owner, product.owner)
        return product

    def finish(self) -> None:
        """Round the sums into the user's arrays where they are others."""
        pairs = ((self.grads.linear_weight, self.weight), (self.grads.linear_bias, self.bias))
        for array, total in pairs:
            if array is not None and total is not array:
                put(total, array, 0, array.size)


def _accumulator(array: Array, accumulate: bool, compute: Any) -> Array:
    """The array itself where sums can be kept in it, else one that can, with what it holds."""
    if array.dtype == compute and array.is_contiguous:
        if not accumulate:
            array.owner[...] = 0
        return array
    total = array.new(array.shape, compute)
    if accumulate:
        converted(array, compute, 0, array.size, total)
    else:
        total.owner[...] = 0
    return total
