"""The kernels of the binary losses: an array is dealt out as rows, of which the last is shorter.

A block adds its losses up in the type that they have, with what rounding loses, so that float64 is
left to the sum over blocks.
"""

import math
from typing import NamedTuple

from numba import cuda, int32, uint32, uint64

from fastxent.cuda.elements import device, numbers
from fastxent.cuda.groups import WARP, add_exactly, exact_sum
from fastxent.cuda.kernels import kept, log1m, where_less
from fastxent.cuda.rows import row_of
from fastxent.formulas import binary_slope, clipped, costs, sigmoid_pair, softplus_pair

_PLACES = 2 * WARP  # for one exchange of two numbers


def weight_of(number):
    """A function of (address, number, inner, period): the weight of an element, by its index.

    That at (index // inner) % period of an array, at index itself for a period of 0; the number for
    an address of 0. So an array of one axis is spread over others without a copy.
    """
    load, size = number.load, number.size

    @device
    def weight(spread, index):
        address, alone, inner, period = spread
        if not address:
            return alone
        if period:
            index = index // inner % period
        return load(address + uint64(index) * uint64(size))

    return weight


class BinaryWants(NamedTuple):
    """What a call needs; the rest is gone from its kernel."""

    each: bool
    grad: bool
    probs: bool = False
    hess: bool = False


def binary_logits_kernel(element, plan, wants):
    """Binary cross-entropy of logits."""
    compute, size = element.compute, element.size
    load, weight_at = element.load, weight_of(numbers(element))
    zero, one = compute(0), compute(1)

    @device
    def weights(column, args):
        """w·(1 - y) and w·pos_weight·y, exactly 0 where the label is not that class."""
        target, first, weight, pos, _ = args
        index = first + uint64(uint32(column))
        y = load(target + index * uint64(size))
        w, p = weight_at(weight, index), weight_at(pos, index)
        not_y, heavy_y = one - y, kept(y, p * y)
        return kept(not_y, w * not_y), kept(heavy_y, w * heavy_y)

    @device
    def loss_of(x, column, args):
        neg, pos = weights(column, args)
        softplus, softplus_neg = softplus_pair(x, math.log1p(math.exp(-abs(x))), zero, where_less)
        return kept(neg, neg * softplus) + kept(pos, pos * softplus_neg), zero

    @device
    def each_loss(x, column, args):
        return loss_of(x, column, args)[0]

    @device
    def slope(x, column, args):
        neg, pos = weights(column, args)
        sigma, sigma_neg = sigmoid_pair(x, math.exp(-abs(x)), zero, one, where_less)
        return (kept(neg, neg * sigma) - kept(pos, pos * sigma_neg)) * args[4]

    @device
    def probability(x, column, args):
        return sigmoid_pair(x, math.exp(-abs(x)), zero, one, where_less)[0]

    @device
    def curvature(x, column, args):
        neg, pos = weights(column, args)
        sigma, sigma_neg = sigmoid_pair(x, math.exp(-abs(x)), zero, one, where_less)
        both = neg + pos
        return kept(both, both * (sigma * sigma_neg) * args[4])

    finish = _finish(element, plan, wants, loss_of, (slope, probability, curvature))

    # logits, target (N,) IN; weights as `weight_of` takes them IN; scale 1 / D; sums (blocks, 2):
    # Σ losses and what rounding lost OUT; loss, grad, probs, hess (N,) OUT
    def kernel(
        logits, target, weight, weight_number, weight_inner, weight_period, pos, pos_number,
        pos_inner, pos_period, scale, n, chunk, sums, loss, grad, probs, hess,
    ):  # fmt: skip
        first = uint64(cuda.blockIdx.x) * uint64(chunk)
        args = (
            target, first, (weight, weight_number, uint64(weight_inner), uint64(weight_period)),
            (pos, pos_number, uint64(pos_inner), uint64(pos_period)), scale,
        )  # fmt: skip
        finish(logits, n, chunk, args, sums, loss, grad, probs, hess)

    return kernel


def binary_probs_kernel(element, plan, wants):
    """Binary cross-entropy of probabilities."""
    compute, size = element.compute, element.size
    load, weight_at = element.load, weight_of(numbers(element))
    zero, one = compute(0), compute(1)

    @device
    def read_one(x, column, args):
        """p and 1 - p, each clipped by itself; y, w."""
        target, first, weight, _, bounds, _, _ = args
        index = first + uint64(uint32(column))
        y, w = load(target + index * uint64(size)), weight_at(weight, index)
        return clipped(x, bounds, where_less), clipped(one - x, bounds, where_less), y, w

    @device
    def loss_of(x, column, args):
        p, r, y, w = read_one(x, column, args)
        cost_p, cost_r = costs(p, r, args[5], math.log, log1m, where_less)
        return w * (y * cost_p + (one - y) * cost_r), zero

    @device
    def slope(x, column, args):
        p, r, y, w = read_one(x, column, args)
        return (w * args[3]) * binary_slope(y, p, r, args[6], one, where_less)

    finish = _finish(element, plan, wants, loss_of, (slope, slope, slope))

    # probs, target (N,) IN; weight as `weight_of` takes it IN; scale 1 / D; low … floor as
    # terms.Clip; sums (blocks, 2) as above OUT; loss, grad (N,) OUT
    def kernel(
        probs, target, weight, weight_number, weight_inner, weight_period, scale, low, high, below,
        above, most, floor, n, chunk, sums, loss, grad,
    ):  # fmt: skip
        first = uint64(cuda.blockIdx.x) * uint64(chunk)
        args = (
            target, first, (weight, weight_number, uint64(weight_inner), uint64(weight_period)),
            scale, (low, high, below, above), most, floor,
        )  # fmt: skip
        finish(probs, n, chunk, args, sums, loss, grad, uint64(0), uint64(0))

    return kernel


def _finish(element, plan, wants, loss_of, formulas):
    """What both do with a block's part of an array, by the formulas of grad, probs and hess."""
    row, compute, size = row_of(element, plan), element.compute, element.size
    place, read, _, _, held, word = row.parts()
    store_number, number_size = numbers(element).store, numbers(element).size
    each, sloped, with_probs, with_hess = wants
    total, zero = exact_sum(plan.threads), compute(0)

    @device
    def each_loss(x, column, args):
        return loss_of(x, column, args)[0]

    add_up, write_loss = row.fold(loss_of, add_exactly), row.writer(each_loss)
    write_slope, write_probs, write_hess = map(row.writer, formulas)

    @device
    def finish(x, n, chunk, args, sums, loss, grad, probs, hess):
        i, thread = place()
        shared = cuda.shared.array(_PLACES, compute)
        buffer = cuda.local.array(held, word)
        on = uint64(i) * uint64(chunk) * uint64(size)
        line = read(x + on, int32(min(chunk, n - i * chunk)), thread, True, buffer)
        if each:
            write_loss(loss + on, buffer, line, thread, args)
        else:
            found, lost = add_up(buffer, line, thread, args, (zero, zero))
            found, lost = total(found, lost, shared, 0)
            if thread == 0:
                at = sums + uint64(i) * uint64(2 * number_size)
                store_number(at, found)
                # An infinite sum has no rounding to give back.
                store_number(at + uint64(number_size), lost if found - found == zero else zero)
        if with_probs:
            write_probs(probs + on, buffer, line, thread, args)
        if with_hess:
            write_hess(hess + on, buffer, line, thread, args)
        if sloped:
            write_slope(grad + on, buffer, line, thread, args)

    return finish
