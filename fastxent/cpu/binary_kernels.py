"""The kernels of the binary losses: loops over elements lo..hi of contiguous arrays.

Each is the sum of a term whose vectors also write what was asked for: an output that is None is
gone from the compiled variant, and so is what only it needs. A weight that is one number is one
vector of it, read with step 0 again and again.
"""

from fastxent.cpu.jit import subroutine
from fastxent.cpu.lanes import (
    fabs,
    flush_subnormals,
    load_part,
    restore_mode,
    row,
    store_part,
    where_less,
    zero_where_zero,
)
from fastxent.cpu.row import lane_costs, sum_of_losses
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
def _logit_term(args, j, part):
    logits, target, weight, step, pos_weight, pos_step, scale, each, loss, grad, probs, hess = args
    x, y = load_part(logits, j, part, 0.0), load_part(target, j, part, 0.0)
    w = load_part(weight, j * step, part, 0.0)
    pos_w = load_part(pos_weight, j * pos_step, part, 0.0)
    neg, pos = binary_weights(y, w, pos_w, 1.0, zero_where_zero)
    e = exp(-fabs(x))
    softplus, softplus_neg = softplus_pair(x, log1p(e), 0.0, where_less)
    sigma, sigma_neg = sigmoid_pair(x, e, 0.0, 1.0, where_less)
    value = binary_loss(neg, pos, softplus, softplus_neg, zero_where_zero)
    if each:
        store_part(loss, j, part, value)
    store_part(grad, j, part, binary_grad(neg, pos, sigma, sigma_neg, scale, zero_where_zero))
    store_part(probs, j, part, sigma)
    store_part(hess, j, part, binary_hess(neg, pos, sigma, sigma_neg, scale, zero_where_zero))
    return value


# logits, target (N,) IN; weight, pos_weight (N,) IN with step 1, or 64 bytes of one number with 0;
# scale 1/D; loss (N,) OUT or empty; grad, probs, hess (N,) OUT or None. Returns Σ losses.
def binary_logits(
    logits, target, weight, step, pos_weight, pos_step, scale, loss, grad, probs, hess, lo, hi
):  # fmt: skip
    args = (
        row(logits, lo), row(target, lo),
        row(weight, lo * step), step, row(pos_weight, lo * pos_step), pos_step, scale,
        loss.size > 0, row(loss, lo), row(grad, lo), row(probs, lo), row(hess, lo),
    )  # fmt: skip
    mode = flush_subnormals()
    total = sum_of_losses(_logit_term, args, hi - lo)
    restore_mode(mode)
    return total


@subroutine
def _prob_term(args, j, part):
    probs, target, weight, step, scale, clip, each, loss, grad = args
    bounds, most, floor = clip
    p, r = clipped_pair(load_part(probs, j, part, 0.5), bounds, 1.0, where_less)
    y, w = load_part(target, j, part, 0.0), load_part(weight, j * step, part, 0.0)
    cost_p, cost_r = lane_costs(p, r, most)
    value = binary_prob_loss(y, w, cost_p, cost_r, 1.0)
    if each:
        store_part(loss, j, part, value)
    store_part(grad, j, part, (w * scale) * binary_slope(y, p, r, floor, 1.0, where_less))
    return value


# probs, target (N,) IN; weight (N,) IN with step 1, or 64 bytes of one number with 0; scale 1/D;
# clip as terms.Clip; loss (N,) OUT or empty; grad (N,) OUT or None. Returns Σ losses.
def binary_probs(probs, target, weight, step, scale, clip, loss, grad, lo, hi):
    args = (
        row(probs, lo), row(target, lo), row(weight, lo * step), step, scale, clip,
        loss.size > 0, row(loss, lo), row(grad, lo),
    )  # fmt: skip
    return sum_of_losses(_prob_term, args, hi - lo)
