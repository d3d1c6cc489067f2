"""The kernels of the binary losses: loops over the elements lo..hi of contiguous arrays.

The loss is the sum of a term, one vector of elements, that also writes the outputs. An output that
is None is compiled away, with the code that only it needs; so are the weights of logits.
"""

import math

from numba import types

from fastxent.cpu.float_mode import flush_subnormals, restore_mode
from fastxent.cpu.jit import inlined, overload, subroutine
from fastxent.cpu.lanes import fabs, where_less, zero_where_zero
from fastxent.cpu.memory import lanes_of, load_part, row, store_part
from fastxent.cpu.row import clipped_costs, sum_of_losses
from fastxent.cpu.vector_math import exp, log1p
from fastxent.formulas import (
    binary_grad,
    binary_hess,
    binary_loss,
    binary_prob_loss,
    binary_sides,
    binary_slope,
    binary_weights,
    clipped_pair,
    hess_element,
    loss_element,
    product,
    sigmoid_pair,
)


def _of_weights(weights, unweighted, weighted):
    """Choose at compile time: `unweighted` if the weights are None."""
    return unweighted if isinstance(weights, types.NoneType) else weighted


def _weight_pointers(weights, lo):
    """Pointers and steps of both weights, from element lo on; None for None."""
    raise NotImplementedError("exists in compiled code only")


@overload(_weight_pointers)
def _choose_pointers(weights, lo):
    def weighted(weights, lo):
        weight = row(weights.weight, lo * weights.step), weights.step
        return weight, (row(weights.pos_weight, lo * weights.pos_step), weights.pos_step)

    return _of_weights(weights, lambda weights, lo: None, weighted)


def _coefficients(weights, y, j, count):
    """neg, pos and neg + pos of a vector of labels; None for the sum, 1, without weights."""
    raise NotImplementedError("exists in compiled code only")


@overload(_coefficients)
def _choose_coefficients(weights, y, j, count):
    def weighted(weights, y, j, count):
        (weight, step), (pos_weight, pos_step) = weights
        w = load_part(weight, j * step, count, 0.0)
        pos_w = load_part(pos_weight, j * pos_step, count, 0.0)
        neg, pos = binary_weights(y, w, pos_w, 1.0, zero_where_zero)
        return neg, pos, neg + pos

    return _of_weights(weights, lambda weights, y, j, count: (1.0 - y, y, None), weighted)


@inlined
def _times(a, b):
    return product(a, b, zero_where_zero)


@inlined
def _finite_times(a, b):
    """The product where a is finite."""
    return loss_element(a, b, zero_where_zero)


def _loss(both, outer, x, log1p_e):
    """The loss."""
    raise NotImplementedError("exists in compiled code only")


@overload(_loss)
def _choose_loss(both, outer, x, log1p_e):
    def unweighted(both, outer, x, log1p_e):
        return binary_loss(outer, x, log1p_e, _finite_times)

    def weighted(both, outer, x, log1p_e):
        return binary_loss(outer, x, _times(both, log1p_e), _times)

    return _of_weights(both, unweighted, weighted)


@inlined
def _unguarded(coefficient, value):
    """`value`, unguarded: without weights at most one coefficient of an element is 0."""
    return value


def _grad(both, outer, inner, e, scale):
    """The gradient."""
    raise NotImplementedError("exists in compiled code only")


@overload(_grad)
def _choose_grad(both, outer, inner, e, scale):
    def unweighted(both, outer, inner, e, scale):
        return binary_grad(outer, inner, e, scale, 1.0, _unguarded)

    def weighted(both, outer, inner, e, scale):
        return binary_grad(outer, inner, e, scale, 1.0, zero_where_zero)

    return _of_weights(both, unweighted, weighted)


def _hess(both, sigma, sigma_neg, scale):
    """The second derivative."""
    raise NotImplementedError("exists in compiled code only")


@overload(_hess)
def _choose_hess(both, sigma, sigma_neg, scale):
    def unweighted(both, sigma, sigma_neg, scale):
        return hess_element(sigma, sigma_neg, scale)

    def weighted(both, sigma, sigma_neg, scale):
        return binary_hess(both, sigma, sigma_neg, scale, zero_where_zero)

    return _of_weights(both, unweighted, weighted)


@subroutine
def _logit_term(args, j, count):
    """Losses of the vector of elements j on; writes the outputs."""
    logits, target, weights, scale, has_loss, outputs = args
    loss, grad, probs, hess = outputs
    # Lanes after the end have logit -inf and label 0, so their loss is 0.
    x, y = load_part(logits, j, count, -math.inf), load_part(target, j, count, 0.0)
    neg, pos, both = _coefficients(weights, y, j, count)
    e = exp(-fabs(x))
    sigma, sigma_neg = sigmoid_pair(x, e, 0.0, 1.0, where_less)
    outer, inner = binary_sides(x, neg, pos, 0.0, where_less)
    value = _loss(both, outer, x, log1p(e))
    if has_loss:
        store_part(loss, j, count, value)
    store_part(grad, j, count, _grad(both, outer, inner, e, scale))
    store_part(probs, j, count, sigma)
    store_part(hess, j, count, _hess(both, sigma, sigma_neg, scale))
    return value


# logits, target (N,) IN; weights a named tuple or None; scale 1/D
def binary_logits(logits, target, weights, scale, outputs, lo, hi):
    """Σ losses."""
    arrays = (
        row(outputs.loss, lo), row(outputs.grad, lo), row(outputs.probs, lo), row(outputs.hess, lo)
    )  # fmt: skip
    args = (
        row(logits, lo), row(target, lo), _weight_pointers(weights, lo),
        scale, outputs.loss.size > 0, arrays,
    )  # fmt: skip
    mode = flush_subnormals()
    total = sum_of_losses(_logit_term, args, hi - lo)
    restore_mode(mode)
    return total


@subroutine
def _write_product(logits, target, vector, weights, scale, out, j, count):
    """Second derivatives of the vector of elements j on, times those of `vector`."""
    x, y = load_part(logits, j, count, 0.0), load_part(target, j, count, 0.0)
    _, _, both = _coefficients(weights, y, j, count)
    sigma, sigma_neg = sigmoid_pair(x, exp(-fabs(x)), 0.0, 1.0, where_less)
    hess = _hess(both, sigma, sigma_neg, scale)
    store_part(out, j, count, loss_element(hess, load_part(vector, j, count, 0.0), zero_where_zero))


# logits, target, vector (N,) IN; weights a named tuple or None; scale 1/D; out (N,) OUT
def binary_hvp(logits, target, vector, weights, scale, out, lo, hi):
    arrays = row(logits, lo), row(target, lo), row(vector, lo), _weight_pointers(weights, lo), scale
    n, width, mode = hi - lo, lanes_of(row(out, lo)), flush_subnormals()
    whole = n & -width
    for j in range(0, whole, width):
        _write_product(*arrays, row(out, lo), j, None)
    if whole < n:
        _write_product(*arrays, row(out, lo), whole, n - whole)
    restore_mode(mode)


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
