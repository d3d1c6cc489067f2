"""Hessian-vector products of the linear map on the CPU, block by block as in `linear.py`.

Each block of rows has two arrays: the logits, which are replaced by their gradient G, and the
change of the logits along the vector, which is replaced by the change Ġ of that gradient.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent.cpu.blocks import Box, Operand, boxes
from fastxent.cpu.hvp import cross_entropy_hvp
from fastxent.cpu.launch import fill_losses
from fastxent.cpu.linear import (
    add_product,
    block_rows,
    call_of_block,
    class_chunks,
    fill_logits,
    ignored_rows,
    pieces,
    put_sums,
)
from fastxent.records import Call, LinearGrad, Outputs

Array = NDArray[Any]
DType = np.dtype[Any]


@np.errstate(all="ignore")  # no warnings of overflowing logits, or of products of nan and inf
def linear_cross_entropy_hvp(call: Call) -> None:
    """Fill the parts of the product that are not None."""
    assert call.linear is not None and call.linear.grads is not None
    x, compute, (weight, bias, _, _) = call.x, call.compute, call.linear
    bias, v_bias = (
        None if array is None else np.ascontiguousarray(array, compute)
        for array in (bias, call.vector.linear_bias)
    )
    # Two blocks of logits, where the loss has one.
    limit = block_rows(weight, compute, n_arrays=2)
    n = math.prod(x.shape[:-1])
    buffers = np.empty((2, min(limit, n), len(weight)), compute)
    rows = Operand(x, compute)
    v_rows = None if call.vector.x is None else Operand(call.vector.x, compute)
    sums = _ProductSums(call.linear.grads, call.vector, compute)
    for box in boxes(x.shape[:-1], limit) if n and call.divisor else ():
        x_block, v_block = rows.read(box), None if v_rows is None else v_rows.read(box)
        logits, moved = (buffer[: len(x_block)] for buffer in buffers)
        fill_logits(logits, x_block, weight, bias)
        _fill_moved(moved, x_block, v_block, weight, call.vector.linear_weight, v_bias)
        block = call_of_block(call, box, logits, True)
        change = moved.reshape(block.x.shape)
        cross_entropy_hvp(block._replace(outputs=Outputs(change), vector=change))
        if call.vector.linear_weight is not None or v_block is not None:
            fill_losses(block)  # the gradient over the logits
        ignored = ignored_rows(block)
        sums.add(box, (logits, moved), (x_block, v_block), weight, ignored)
    sums.finish()


def _fill_moved(
    moved: Array, x: Array, v_x: Array | None, weight: Array, v_weight: Array | None,
    v_bias: Array | None,
) -> None:  # fmt: skip
    """Moved = v_x @ weight.T + x @ v_weight.T + v_bias; what is None is 0."""
    fresh = True
    for rows, matrix in ((v_x, weight), (x, v_weight)):
        if rows is not None and matrix is not None:
            for classes, part in class_chunks(matrix, moved.dtype):
                add_product(moved[:, classes], rows, part.T, fresh)
            fresh = False
    if v_bias is not None:
        np.add(0 if fresh else moved, v_bias, out=moved)


class _ProductSums:
    """The parts of the product, summed block by block; those that are None are not computed."""

    def __init__(self, parts: LinearGrad, vector: LinearGrad, compute: DType) -> None:
        self.parts, self.vector = parts, vector
        self.x = None if parts.x is None else Operand(parts.x, compute)
        # Sums have the type of the arithmetic and do not overlap the vector, which is read later.
        self.weight = _accumulator(parts.linear_weight, vector.linear_weight, compute)
        self.bias = _accumulator(parts.linear_bias, vector.linear_bias, compute)
        self.fresh = True

    def add(
        self, box: Box, grads: tuple[Array, Array], rows: tuple[Array, Array | None],
        weight: Array, ignored: Array | None,
    ) -> None:  # fmt: skip
        """Add a block: Ġᵀ @ x + Gᵀ @ v_x to W's, Σ Ġ to the bias's, Ġ @ W + G @ v_W to x's.

        The sum for x is written last, as it may overlap v_x. Ignored rows have G = Ġ = 0, but 0·nan
        is nan: their x is taken as 0, and their rows of the product for x are 0.
        """
        g, change = grads
        x, v_x = rows
        if self.weight is not None:
            if ignored is not None:
                x = _without(x, ignored)
                v_x = None if v_x is None else _without(v_x, ignored)
            for piece in pieces(weight, g.dtype):
                add_product(self.weight[piece], change[:, piece].T, x, self.fresh)
                if v_x is not None:
                    add_product(self.weight[piece], g[:, piece].T, v_x, False)
        if self.bias is not None:
            add_product(self.bias, np.ones(len(g), g.dtype), change, self.fresh)
        if self.x is not None:
            out, fresh = self.x.block(box), True
            for d, matrix in ((change, weight), (g, self.vector.linear_weight)):
                if matrix is not None:
                    for classes, part in class_chunks(matrix, g.dtype):
                        add_product(out, d[:, classes], part, fresh, ignored)
                        fresh = False
            self.x.write(box, out)
        self.fresh = False

    def finish(self) -> None:
        """Round the sums into the user's arrays, where these are separate."""
        put_sums(self.parts, (self.parts.x, self.weight, self.bias), self.fresh)


def _without(rows: Array, ignored: Array) -> Array:
    """The rows, 0 where they are ignored."""
    return np.where(ignored[:, None], rows.dtype.type(0), rows)


def _accumulator(array: Array | None, vector: Array | None, compute: DType) -> Array | None:
    """Return the array, or a new one if its type differs or it overlaps the vector."""
    if array is None:
        return None
    lies_there = vector is not None and np.may_share_memory(array, vector)
    return array if array.dtype == compute and not lies_there else np.empty(array.shape, compute)
