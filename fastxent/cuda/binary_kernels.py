"""The kernels of the binary losses, on an array cut into rows, of which the last is shorter.

A block adds up its losses in the type that they have, keeping the rounding errors, so that float64
is needed only for the sum over blocks.
"""

import math
from typing import Any, NamedTuple

from numba import cuda, int32, uint32, uint64

from fastxent.cuda.elements import device, log1m, number_type, where_less, zero_where_zero
from fastxent.cuda.groups import WARP, add_exactly, make_exact_sum
from fastxent.cuda.parameters import Address, ClipLimits, ElementOutputs, Integer, Number, Weight
from fastxent.cuda.rows import make_row
from fastxent.cuda.scans import Pair, make_writer
from fastxent.formulas import (
    binary_grad,
    binary_hess,
    binary_loss,
    binary_prob_loss,
    binary_sides,
    binary_slope,
    binary_weights,
    clipped_pair,
    costs,
    product,
    sigmoid_pair,
)

_SLOTS = 2 * WARP  # shared memory for one exchange of two numbers


def make_weight(number):
    """weight_at(weight, index): the weight of an element, see `parameters.Weight`.

    So an array of some axes is broadcast over others without a copy.
    """
    load, size = number.load, number.size

    @device
    def weight_at(weight, index):
        if not weight.address:
            return weight.number
        at = index
        if weight.period:
            at = index // uint64(weight.inner) % uint64(weight.period)
            if weight.outer_period:
                outer = index // uint64(weight.outer_inner) % uint64(weight.outer_period)
                at += outer * uint64(weight.period)
        return load(weight.address + at * uint64(size))

    return weight_at


class BinaryWants(NamedTuple):
    """The outputs of a call; others are pruned. Without `loss` the kernel sums the losses."""

    loss: bool
    grad: bool
    probs: bool = False
    hess: bool = False


class LogitArgs(NamedTuple):
    """What the formulas of an element depend on besides its logit."""

    target: Any
    first: Any
    weight: Any
    pos_weight: Any
    scale: Any


def make_class_weights(element):
    """class_weights(column, args): w·(1 - y) and w·pos_weight·y of an element."""
    load, size, one = element.load, element.size, element.compute(1)
    weight_at = make_weight(number_type(element))

    @device
    def class_weights(column, args):
        index = args.first + uint64(uint32(column))
        y = load(args.target + index * uint64(size))
        w, pos_weight = weight_at(args.weight, index), weight_at(args.pos_weight, index)
        return binary_weights(y, w, pos_weight, one, zero_where_zero)

    return class_weights


def make_curvature(element):
    """curvature(x, column, args): the second derivative of an element's loss."""
    class_weights, zero, one = make_class_weights(element), element.compute(0), element.compute(1)

    @device
    def curvature(x, column, args):
        neg, pos = class_weights(column, args)
        sigma, sigma_neg = sigmoid_pair(x, math.exp(-abs(x)), zero, one, where_less)
        return binary_hess(neg + pos, sigma, sigma_neg, args.scale, zero_where_zero)

    return curvature


def make_binary_logits_kernel(element, plan, wants):
    """Binary cross-entropy of logits."""
    class_weights, hess_formula = make_class_weights(element), make_curvature(element)
    zero, one = element.compute(0), element.compute(1)

    @device
    def times(a, b):
        return product(a, b, zero_where_zero)

    @device
    def loss_formula(x, column, args):
        neg, pos = class_weights(column, args)
        outer, _ = binary_sides(x, neg, pos, zero, where_less)
        log_part = times(neg + pos, math.log1p(math.exp(-abs(x))))
        return binary_loss(outer, x, log_part, times)

    @device
    def grad_formula(x, column, args):
        neg, pos = class_weights(column, args)
        outer, inner = binary_sides(x, neg, pos, zero, where_less)
        return binary_grad(outer, inner, math.exp(-abs(x)), args.scale, one, zero_where_zero)

    @device
    def probs_formula(x, column, args):
        return sigmoid_pair(x, math.exp(-abs(x)), zero, one, where_less)[0]

    formulas = loss_formula, grad_formula, probs_formula, hess_formula
    finish = make_finish(element, plan, wants, formulas)

    # x, target (N,) IN; weights IN; scale 1 / D; outs (N,) OUT, or sums (blocks, 2): Σ losses and
    # its rounding error
    def kernel(
        x: Address, target: Address, weight: Weight, pos_weight: Weight, scale: Number, n: Integer,
        chunk: Integer, outs: ElementOutputs,
    ):  # fmt: skip
        first = uint64(cuda.blockIdx.x) * uint64(chunk)
        args = LogitArgs(target, first, weight, pos_weight, scale)
        finish(x, n, chunk, args, outs)

    return kernel


def make_binary_hvp_kernel(element, plan):
    """Second derivatives of binary cross-entropy of logits, times a vector."""
    row, size, curvature = make_row(element, plan), element.size, make_curvature(element)
    place, read, n_words, word = row.place, row.read, row.n_words, row.word

    @device
    def product(x, v, column, args):
        h = curvature(x, column, args)
        return zero_where_zero(h, h * v)

    write = make_writer(element, plan, product, paired=True)

    # x, target, vector (N,) IN; weights IN; scale 1 / D; out (N,), which may be x or vector, OUT
    def kernel(
        x: Address, target: Address, vector: Address, weight: Weight, pos_weight: Weight,
        scale: Number, n: Integer, chunk: Integer, out: Address,
    ):  # fmt: skip
        i, thread = place()
        buffer, others = cuda.local.array(n_words, word), cuda.local.array(n_words, word)
        first, count = uint64(i) * uint64(chunk), int32(min(chunk, n - i * chunk))
        offset = first * uint64(size)
        line = read(x + offset, count, thread, True, buffer)
        pair = Pair(line, read(vector + offset, count, thread, True, others))
        args = LogitArgs(target, first, weight, pos_weight, scale)
        write(out + offset, buffer, others, pair, thread, args)

    return kernel


class ProbArgs(NamedTuple):
    """What the formulas of an element depend on besides its probability."""

    target: Any
    first: Any
    weight: Any
    scale: Any
    limits: Any


def make_binary_probs_kernel(element, plan, wants):
    """Binary cross-entropy of probabilities."""
    compute, size = element.compute, element.size
    load, weight_at = element.load, make_weight(number_type(element))
    one = compute(1)

    @device
    def read_one(x, column, args):
        """p and 1 - p, each clipped by itself; y, w."""
        index = args.first + uint64(uint32(column))
        y, w = load(args.target + index * uint64(size)), weight_at(args.weight, index)
        limits = args.limits
        bounds = limits.low, limits.high, limits.below, limits.above
        p, one_minus_p = clipped_pair(x, bounds, one, where_less)
        return p, one_minus_p, y, w

    @device
    def loss_formula(x, column, args):
        p, one_minus_p, y, w = read_one(x, column, args)
        most = args.limits.most
        cost_p, cost_one_minus_p = costs(p, one_minus_p, most, math.log, log1m, where_less)
        return binary_prob_loss(y, w, cost_p, cost_one_minus_p, one)

    @device
    def grad_formula(x, column, args):
        p, one_minus_p, y, w = read_one(x, column, args)
        floor = args.limits.floor
        return (w * args.scale) * binary_slope(y, p, one_minus_p, floor, one, where_less)

    formulas = loss_formula, grad_formula, grad_formula, grad_formula
    finish = make_finish(element, plan, wants, formulas)

    # x, target (N,) IN; weight IN; scale 1 / D; outs as above OUT
    def kernel(
        x: Address, target: Address, weight: Weight, scale: Number, limits: ClipLimits, n: Integer,
        chunk: Integer, outs: ElementOutputs,
    ):  # fmt: skip
        first = uint64(cuda.blockIdx.x) * uint64(chunk)
        args = ProbArgs(target, first, weight, scale, limits)
        finish(x, n, chunk, args, outs)

    return kernel


def make_finish(element, plan, wants, formulas):
    """finish(...): the outputs of a block's part of an array.

    By the formulas of the loss, grad, probs and hess of an element.
    """
    row, compute, size = make_row(element, plan), element.compute, element.size
    place, read, n_words, word = row.place, row.read, row.n_words, row.word
    store_number, number_size = number_type(element).store, number_type(element).size
    with_loss, with_grad, with_probs, with_hess = wants
    total, zero = make_exact_sum(plan.threads), compute(0)
    loss_formula, grad_formula, probs_formula, hess_formula = formulas

    @device
    def exact_loss(x, column, args):
        return loss_formula(x, column, args), zero

    fold_losses, write_loss = row.make_fold(exact_loss, add_exactly), row.make_writer(loss_formula)
    write_grad, write_probs = row.make_writer(grad_formula), row.make_writer(probs_formula)
    write_hess = row.make_writer(hess_formula)

    @device
    def finish(x, n, chunk, args, outs):
        i, thread = place()
        shared = cuda.shared.array(_SLOTS, compute)
        buffer = cuda.local.array(n_words, word)
        offset = uint64(i) * uint64(chunk) * uint64(size)
        line = read(x + offset, int32(min(chunk, n - i * chunk)), thread, True, buffer)
        if with_loss:
            write_loss(outs.loss + offset, buffer, line, thread, args)
        else:
            block_sum, lost = fold_losses(buffer, line, thread, args, (zero, zero))
            block_sum, lost = total(block_sum, lost, shared, 0)
            if thread == 0:
                at = outs.sums + uint64(i) * uint64(2 * number_size)
                store_number(at, block_sum)
                # The rounding error of an infinite sum would be nan.
                is_finite = block_sum - block_sum == zero
                store_number(at + uint64(number_size), lost if is_finite else zero)
        if with_probs:
            write_probs(outs.probs + offset, buffer, line, thread, args)
        if with_hess:
            write_hess(outs.hess + offset, buffer, line, thread, args)
        if with_grad:
            write_grad(outs.grad + offset, buffer, line, thread, args)

    return finish
