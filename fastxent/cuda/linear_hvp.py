"""linear_cross_entropy_hvp on the GPU, for one block of rows at a time.

Along the vector a block of logits changes by Ż, and its gradient G by Ġ, the Hessian of the
cross-entropy times Ż. The results are products of these by the array library.
"""

from fastxent.cuda.conversion import as_numbers, put
from fastxent.cuda.cross_entropy import fill_cross_entropy
from fastxent.cuda.hvp import cross_entropy_hvp
from fastxent.cuda.linear import (
    Sums,
    add_matmul,
    add_to_rows,
    block_of,
    blocks_of_rows,
    check_products,
    clear,
    fill,
    logits_of,
    matmul,
    matrix_of,
    own,
    rows_of_call,
    side_by_side,
)
from fastxent.device_array import DeviceArray
from fastxent.records import Call, Outputs


def linear_cross_entropy_hvp(call: Call) -> None:
    """Fill the parts of `linear` with the second derivative of the losses, times `vector`."""
    check_products(call.x)
    assert call.linear is not None
    x, compute, (weight, bias, grads, _), vector = call.x, call.compute, call.linear, call.vector
    assert grads is not None
    matrix, bias = matrix_of(weight, compute), None if bias is None else as_numbers(bias, compute)
    _, v_matrix, v_bias = vector
    v_matrix = None if v_matrix is None else matrix_of(v_matrix, compute)
    v_bias = None if v_bias is None else as_numbers(v_bias, compute)
    call, features = side_by_side(call)._replace(vector=None), x.shape[-1]
    sums = Sums(grads, False, compute, vector)
    has_grad = (grads.x is not None and v_matrix is not None) or (
        sums.weight is not None and vector.x is not None
    )
    for first, rows in blocks_of_rows(x, weight, compute, n_blocks=3 if has_grad else 2):
        x_block = block_of(x, first, rows, compute)
        v_block = None if vector.x is None else block_of(vector.x, first, rows, compute)
        logits, grad = logits_of(x_block, matrix, bias), None
        moved = _moved(logits, x_block, matrix, v_block, v_matrix, v_bias)
        block = rows_of_call(call, logits, first, with_grad=False)
        if has_grad:
            grad = x.new(logits.shape, compute)
            fill_cross_entropy(block._replace(outputs=Outputs(grad=grad)))
        cross_entropy_hvp(block._replace(vector=moved, outputs=Outputs(moved)))
        if sums.weight is not None:
            clear(x_block, block)
        sums.add(moved, x_block)
        if sums.weight is not None and v_block is not None and grad is not None:
            clear(v_block, block)
            add_matmul(own(grad).T, own(v_block), own(sums.weight), x)
        if grads.x is not None:
            product = x.new(x_block.shape, compute)
            matmul(moved, matrix, product)
            if v_matrix is not None and grad is not None:
                add_matmul(own(grad), own(v_matrix), own(product), x)
            clear(product, block)
            put(product, grads.x, first * features, rows * features)
    sums.finish()


def _moved(
    logits: DeviceArray, x: DeviceArray, matrix: DeviceArray, v_x: DeviceArray | None,
    v_matrix: DeviceArray | None, v_bias: DeviceArray | None,
) -> DeviceArray:  # fmt: skip
    """Ż of a block: v_x @ weight.T + x @ v_weight.T + v_bias."""
    moved = logits.new(logits.shape, logits.dtype)
    fill(moved, 0)
    for a, b in ((v_x, matrix), (x, v_matrix)):
        if a is not None and b is not None:
            add_matmul(own(a), own(b).T, own(moved), logits)
    if v_bias is not None:
        add_to_rows(v_bias, moved)
    return moved
