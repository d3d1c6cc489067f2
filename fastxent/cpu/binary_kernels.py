"""The kernels of the binary losses: loops over the elements lo..hi of contiguous arrays.

The loss is the sum of a term, one vector of elements, that also writes the outputs. An output that
is None is compiled away, with the code that only it needs.
"""

from fastxent.cpu.float_mode import flush_subnormals, restore_mode
from fastxent.cpu.jit import subroutine
from fastxent.cpu.lanes import fabs, where_less, zero_where_zero
from fastxent.cpu.memory import load_part, row, store_part
from fastxent.cpu.row import clipped_costs, sum_of_losses
from fastxent.cpu.vector_math import exp, log1p
from fastxent.formulas import (
    binary_grad,
    binary_hess,
    binary_loss,
    binary_prob_loss,
    binary_slope,
    binary_weights,
    clipped_pair,
    sigmoid_pair,
    softplus_pair,
)


@subroutine
def _logit_term(args, j, count):
    """Losses of the vector of elements j on; writes the outputs."""
    logits, target, weights, scale, has_loss, outputs = args
    (weight, step), (pos_weight, pos_step) = weights
    loss, grad, probs, hess = outputs
    x, y = load_part(logits, j, count, 0.0), load_part(target, j, count, 0.0)
    w = load_part(weight, j * step, count, 0.0)
    pos_w = load_part(pos_weight, j * pos_step, count, 0.0)
    neg, pos = binary_weights(y, w, pos_w, 1.0, zero_where_zero)
    e = exp(-fabs(x))
    softplus, softplus_neg = softplus_pair(x, log1p(e), 0.0, where_less)
    sigma, sigma_neg = sigmoid_pair(x, e, 0.0, 1.0, where_less)
    value = binary_loss(neg, pos, softplus, softplus_neg, zero_where_zero)
    if has_loss:
        store_part(loss, j, count, value)
    store_part(grad, j, count, binary_grad(neg, pos, sigma, sigma_neg, scale, zero_where_zero))
    store_part(probs, j, count, sigma)
    store_part(hess, j, count, binary_hess(neg, pos, sigma, sigma_neg, scale, zero_where_zero))
    return value


# logits, target (N,) IN; scale 1/D
def binary_logits(logits, target, weights, scale, outputs, lo, hi):
    """Σ losses."""
    weight = row(weights.weight, lo * weights.step), weights.step
    pos_weight = row(weights.pos_weight, lo * weights.pos_step), weights.pos_step
    arrays = (
        row(outputs.loss, lo), row(outputs.grad, lo), row(outputs.probs, lo), row(outputs.hess, lo)
    )  # fmt: skip
    args = (
        row(logits, lo), row(target, lo), (weight, pos_weight), scale, outputs.loss.size > 0, arrays
    )  # fmt: skip
    mode = flush_subnormals()
    total = sum_of_losses(_logit_term, args, hi - lo)
    restore_mode(mode)
    return total


@subroutine
def _prob_term(args, j, count):
    """Losses of the vector of elements j on; writes the outputs."""
    probs, target, (weight, step), scale, clip, has_loss, (loss, grad) = args
    p, r = clipped_pair(load_part(probs, j, count, 0.5), clip.bounds, 1.0, where_less)
    y, w = load_part(target, j, count, 0.0), load_part(weight, j * step, count, 0.0)
    cost_p, cost_r = clipped_costs(p, r, clip.most)
    value = binary_prob_loss(y, w, cost_p, cost_r, 1.0)
    if has_loss:
        store_part(loss, j, count, value)
    slope = binary_slope(y, p, r, clip.floor, 1.0, where_less)
    store_part(grad, j, count, (w * scale) * slope)
    return value


# probs, target (N,) IN; scale 1/D
def binary_probs(probs, target, weights, scale, clip, outputs, lo, hi):
    """Σ losses."""
    weight = row(weights.weight, lo * weights.step), weights.step
    arrays = row(outputs.loss, lo), row(outputs.grad, lo)
    args = row(probs, lo), row(target, lo), weight, scale, clip, outputs.loss.size > 0, arrays
    return sum_of_losses(_prob_term, args, hi - lo)
