"""The kernel of the categorical loss of class indices, which reads one number per row.

A block of rows is gathered into scratch memory, so that the loads of many rows overlap; then its
losses are computed as vectors. With probabilities as target: `kernels.categorical_rows`.
"""

import math

import numpy as np

from fastxent.cpu.jit import inlined_by_llvm, subroutine
from fastxent.cpu.kernels import target_of_row
from fastxent.cpu.labels import copy_labels
from fastxent.cpu.lanes import round_to, smaller, where_less, widen, zero_where_zero
from fastxent.cpu.memory import (
    advance,
    class_step,
    element,
    element_strides,
    if_requested,
    is_requested,
    lanes_of,
    load,
    load_widened,
    row,
    set_element,
    splat,
    store,
    store_part,
    zeros,
)
from fastxent.cpu.row import add_block, clipped_cost, fill_row, rounded
from fastxent.cpu.scratch import release, reserve, view
from fastxent.formulas import clipped_pair, loss_element, prob_grad_element

# Rows of a block: whole vectors, and few enough that their losses are added plainly; the sums of
# blocks are added with compensation.
BLOCK = 128


@subroutine
def _read_labels(labels, mask, first, classes, n_classes, count):
    """Copy labels, each read once; return whether any is out of range."""
    copy_labels(labels, first, count, mask, classes)
    end, outside = np.uint64(n_classes), False
    for k in range(count):
        outside |= np.uint64(classes[k]) >= end
    return outside


@subroutine
def _read_rows(labels, weights, options, n_classes, first, count, block):
    """Class and coefficient u·w_y of each row: 0 if it is ignored, nan if its label is bad.

    Returns the number of bad labels, whose rows are listed in the block. A row without a class
    takes class 0, which may be read.
    """
    coefs, classes, bad_rows = block
    bad = 0
    for k in range(count):
        y, u, counted, value = target_of_row(
            labels, weights.sample_weight, options, n_classes, first + k
        )
        if counted:
            value = u * weights.class_weight[y] if weights.class_weight.size else u
        elif value != value:
            bad_rows[bad] = k
            bad += 1
        coefs[k] = value
        classes[k] = y if counted else 0
    return bad


@inlined_by_llvm
def _gather(probs, first, classes, p, count):
    """The probability of each row's class; up to a whole vector those of no row."""
    x, (step, _), between = row(probs, first), element_strides(probs), class_step(probs)
    for k in range(count):
        p[k] = element(x, k * step + classes[k] * between)


@inlined_by_llvm
def _write_slopes(grad, first, classes, slopes, count, bad_rows, bad):
    """The slope at each row's class, 0 elsewhere; nan in the rows of bad labels."""
    n, (step, _), between = grad.shape[1], element_strides(grad), class_step(grad)
    out = row(grad, first)
    if between != 1:  # column-major
        for j in range(n):
            fill_row(advance(out, j * between), count, 0.0)
    elif step == n:
        fill_row(out, count * n, 0.0)
    else:
        for k in range(count):
            fill_row(advance(out, k * step), n, 0.0)
    for k in range(count):
        set_element(out, k * step + classes[k] * between, slopes[k])
    for k in range(bad):
        for j in range(n):
            set_element(out, bad_rows[k] * step + j * between, math.nan)


# probs (N, C) IN; labels (N,) IN
def categorical_label_rows(probs, labels, weights, options, clip, divisor, outputs, lo, hi):
    """Σ losses."""
    n, grad = probs.shape[1], outputs.grad
    coefs = reserve(np.float64, 4 * BLOCK)
    classes, bad_rows = view(coefs, BLOCK, np.int64), view(coefs, 2 * BLOCK, np.int64)
    p = view(coefs, 3 * BLOCK, probs)
    width = lanes_of(p)
    # The common case, in which every label is a class and all coefficients are 1.
    common = not weights.class_weight.size and not weights.sample_weight.size
    common = common and not (options.ignoring and 0 <= options.ignore_index < n)
    are_ones, scale = False, -1.0 / divisor
    total = lost = widen(zeros(p))
    for first in range(lo, hi, BLOCK):
        count, bad = smaller(hi - first, BLOCK), 0
        if not common or _read_labels(labels, options.label_mask, first, classes, n, count):
            block = coefs, classes, bad_rows
            bad, are_ones = _read_rows(labels, weights, options, n, first, count, block), False
        elif not are_ones:
            fill_row(coefs, BLOCK, 1.0)
            are_ones = True
        _gather(probs, first, classes, p, count)
        for k in range(count, -(-count // width) * width):  # the rest of the last vector
            p[k], coefs[k] = 1.0, 0.0
        costs, losses = zeros(p), widen(zeros(p))  # of plain blocks and of others
        for j in range(0, count, width):
            p_y, r = clipped_pair(load(p, j), clip.bounds, 1.0, where_less)
            value, up = clipped_cost(p_y, r, clip.most), splat(p, scale)
            if are_ones and count == BLOCK:  # the rest of a vector has no coefficients of 1
                costs = costs + value
            else:
                a = load_widened(view(coefs, j, np.float64), p)
                loss = loss_element(a, widen(value), zero_where_zero)
                losses = losses + loss
                value, up = round_to(loss, p), round_to(a * scale, p)
            if outputs.loss.size:
                store_part(row(outputs.loss, first), j, count - j, value)
            if is_requested(grad):
                slope = prob_grad_element(up, p_y, 1.0, clip.floor, where_less, zero_where_zero)
                store(p, j, slope)
        total, lost = add_block(total, lost, widen(costs) + losses)
        if_requested(grad, _write_slopes, (first, classes, p, count, bad_rows, bad))
    release(coefs)
    return rounded(total, lost)
