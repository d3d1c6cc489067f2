"""Kernels for rows of few classes: each lane of a vector is a row, so that nothing is horizontal.

A group of as many rows as a vector has lanes is turned over into columns, one vector for each
class, that stay in the nearest cache. The options that move logits before the loss, and the outputs
besides loss and gradient, are left to `kernels.py`; both follow the same formulas.
"""

import math

import numpy as np

from fastxent.cpu.jit import inlined, subroutine
from fastxent.cpu.kernels import counted_row, lse_base
from fastxent.cpu.lanes import (
    columns_at_once,
    gather_lanes,
    lane,
    lanes_of,
    load,
    load_column,
    load_wide,
    maximum,
    narrow,
    prefetch,
    prefetch_to_write,
    read_columns,
    row,
    splat,
    store,
    store_column,
    store_part,
    where_equal,
    where_less,
    widen,
    write_columns,
    zero_where_zero,
    zeros,
)
from fastxent.cpu.row import add_block, fill_row, mixed, rounded
from fastxent.cpu.vector_math import log, log1p, shifted_exp
from fastxent.formulas import grad_at_target, row_loss, shared_pull

# --- groups of rows -------------------------------------------------------------------------


@subroutine
def _copy_rows(source, at, out, to, count):
    """Copy `count` rows of one array into another."""
    for i in range(count):
        for j in range(source.shape[1]):
            out[to + i, j] = source[at + i, j]


@subroutine
def _read_group(array, first, count, pad, columns):
    """The rows from `first` on as columns; a group cut short is filled up with what `pad` holds."""
    n = array.shape[1]
    x, stride = row(array, first), array.strides[0] // array.itemsize
    if count < lanes_of(x):
        _copy_rows(array, first, pad, 0, count)
        x, stride = row(pad, 0), n
    block = columns_at_once(x)
    for k in range(n // block):
        read_columns(x, stride, k * block, columns)
    if n >= block:
        read_columns(x, stride, n - block, columns)  # the last block may overlap the one before
    else:
        for j in range(n):
            store(columns, j * lanes_of(x), load_column(x, stride, j))


@subroutine
def _write_group(columns, array, first, count, pad):
    """Write the columns to the rows from `first` on, by way of `pad` if they are not all."""
    n = array.shape[1]
    out, stride = row(array, first), array.strides[0] // array.itemsize
    if count < lanes_of(out):
        out, stride = row(pad, 0), n
    block = columns_at_once(out)
    for k in range(n // block):
        write_columns(out, stride, k * block, columns)
    if n >= block:
        write_columns(out, stride, n - block, columns)
    else:
        for j in range(n):
            store_column(out, stride, j, load(columns, j * lanes_of(out)))
    if count < lanes_of(out):
        _copy_rows(pad, 0, array, first, count)


@subroutine
def _max_column(columns, n):
    """m = max_j x_j. A nan may be lost here; it comes back in the sum of exponentials."""
    m = load(columns, 0)
    for j in range(1, n):
        m = maximum(m, load(columns, j * lanes_of(columns)))
    return m


@subroutine
def _find_column(columns, value, n, spare, labels):
    """The first column that equals `value`, for each row; 0 if none does, as in a row of nan."""
    at = zeros(columns)
    for j in range(n - 1, -1, -1):
        at = where_equal(load(columns, j * lanes_of(columns)), value, float(j), at)
    store(spare, 0, at)
    for k in range(lanes_of(columns)):
        labels[k] = int(spare[k])


@subroutine
def _set_apart(columns, labels, fill):
    """The elements of the classes `labels`, in whose places the columns then hold `fill`.

    What is summed then is the rest: s - e_y would have lost the small terms.
    """
    apart = gather_lanes(columns, labels)
    for k in range(lanes_of(columns)):
        columns[labels[k] * lanes_of(columns) + k] = fill
    return apart


@subroutine
def _sum_columns(term, args, n):
    """Σ_j term(args, j) in float64, for j in 0..n; eight are added up before they are widened."""
    total = widen(zeros(args[0]))
    for first in range(0, n, 8):
        block = zeros(args[0])
        for j in range(first, min(first + 8, n)):
            block = block + term(args, j)
        total = total + widen(block)
    return total


@subroutine
def _exp_term(args, j):
    """exp(x_j - m), stored in out where that is not None.

    As many elements of the next group are asked for meanwhile, to be read and to be written.
    """
    columns, m, out, next_x, next_out = args
    at = j * lanes_of(columns)
    prefetch(next_x, at)
    prefetch_to_write(next_out, at)
    e = shifted_exp(load(columns, at) - m)
    store(out, at, e)
    return e


@subroutine
def _share_term(args, j):
    return load(args[0], j * lanes_of(args[0]))


@subroutine
def _below_term(args, j):
    """a_j·(m - x_j): exactly 0 without a_j, also where x_j is -inf."""
    columns, m, shares = args
    a = load(shares, j * lanes_of(shares))
    return zero_where_zero(a, a * (m - load(columns, j * lanes_of(columns))))


@inlined
def _log_sum(rest, e_y, like):
    """`formulas.log_sum` by lanes: log1p of the rest where the class set apart is the maximum."""
    r = narrow(rest, like)
    log_s = log(narrow(rest + widen(e_y), like))
    return where_equal(e_y, 1.0, where_less(r, 1.0, log1p(r), log_s), log_s)


# --- softmax and its logarithms -------------------------------------------------------------


# logits (N, C) IN, out (N, C) OUT
def narrow_softmax_rows(logits, out, lo, hi):
    n, width = logits.shape[1], lanes_of(row(logits, lo))
    scratch, pad = np.empty((n, width), logits.dtype), np.zeros((width, n), logits.dtype)
    for first in range(lo, hi, width):
        columns, count = row(scratch, 0), min(hi - first, width)
        _read_group(logits, first, count, pad, columns)
        soon = row(logits, first + width), row(out, first + width)
        s = _sum_columns(_exp_term, (columns, _max_column(columns, n), columns, *soon), n)
        inverse = narrow(1.0 / s, columns)
        for j in range(n):
            store(columns, j * width, load(columns, j * width) * inverse)
        _write_group(columns, out, first, count, pad)


@subroutine
def _rest_of_max(columns, m, n, spare, labels, soon):
    """Σ exp(x_j - m) over all but the first maximum, which the columns keep."""
    _find_column(columns, m, n, spare, labels)
    top = _set_apart(columns, labels, -math.inf)
    rest = _sum_columns(_exp_term, (columns, m, None, *soon), n)
    for k in range(lanes_of(columns)):
        columns[labels[k] * lanes_of(columns) + k] = lane(top, k)
    return rest, shifted_exp(top - m)


# logits (N, C) IN, out (N, C) OUT
def narrow_log_softmax_rows(logits, out, lo, hi):
    n, width = logits.shape[1], lanes_of(row(logits, lo))
    scratch, pad = np.empty((n + 1, width), logits.dtype), np.zeros((width, n), logits.dtype)
    labels = np.empty((1, width), np.int64)
    for first in range(lo, hi, width):
        columns, count = row(scratch, 0), min(hi - first, width)
        _read_group(logits, first, count, pad, columns)
        m = _max_column(columns, n)
        soon = row(logits, first + width), row(out, first + width)
        rest, one = _rest_of_max(columns, m, n, row(scratch, n), row(labels, 0), soon)
        log_s = _log_sum(rest, one, columns)
        for j in range(n):
            store(columns, j * width, (load(columns, j * width) - m) - log_s)
        _write_group(columns, out, first, count, pad)


# logits (N, C) IN, out (N,) OUT
def narrow_logsumexp_rows(logits, out, lo, hi):
    n, width = logits.shape[1], lanes_of(row(logits, lo))
    scratch, pad = np.empty((n + 1, width), logits.dtype), np.zeros((width, n), logits.dtype)
    labels = np.empty((1, width), np.int64)
    for first in range(lo, hi, width):
        columns, count = row(scratch, 0), min(hi - first, width)
        _read_group(logits, first, count, pad, columns)
        m = _max_column(columns, n)
        soon = row(logits, first + width), None
        rest, one = _rest_of_max(columns, m, n, row(scratch, n), row(labels, 0), soon)
        lse = m + _log_sum(rest, one, columns)
        for k in range(count):
            base = float(lane(m, k))
            if math.isfinite(base):
                out[first + k] = lane(lse, k)
            else:
                out[first + k] = lse_base(base, row(logits, first + k), n)


# --- cross-entropy --------------------------------------------------------------------------


@subroutine
def _read_labels(target, ignoring, ignore_index, n, first, count, labels):
    """The classes of a group's rows, 0 where there is none; how many rows have none."""
    idle = 0
    for k in range(count):
        # Read once: another thread may write into target, and only a checked label may be used.
        y = target[first + k] if target.ndim == 1 else 0
        good = y >= 0 and y < n and not (ignoring and y == ignore_index)
        labels[k] = y if good else 0
        idle += not good
    return idle


@subroutine
def _read_weights(
    target, labels, class_weight, sample_weight, ignoring, ignore_index, n, first, count, width,
    us, ws,
):  # fmt: skip
    """The weights u, w of a group's rows; u is 0 of rows that do not count, nan of bad ones."""
    for k in range(width):
        u = 0.0
        if k < count:
            _, u, counted, value = counted_row(
                target, sample_weight, ignoring, ignore_index, n, first + k
            )
            if not counted:
                u = value
        us[k] = u
        ws[k] = class_weight[labels[k]] if class_weight.size else 1.0


@subroutine
def _read_shares(target, lane_weight, keep, spread, first, count, pad, shares):
    """The a_j of a group as columns: see formulas.py."""
    if target.ndim == 2:
        _read_group(target, first, count, pad, shares)
    for j in range(lane_weight.size):
        at = j * lanes_of(shares)
        a = splat(shares, lane_weight[j])
        store(shares, at, mixed(load(shares, at), a, keep, spread) if target.ndim == 2 else a)


@subroutine
def _scale(columns, shares, factor, push, n):
    """d_j = factor·e_j - push·a_j in place of e_j; shares None: without the second term."""
    for j in range(n):
        at = j * lanes_of(columns)
        d = load(columns, at) * factor
        if shares is not None:
            d = d - load(shares, at) * push
        store(columns, at, d)


@subroutine
def _write_losses(loss, first, count, value):
    if loss.size:
        store_part(row(loss, 0), first, count, narrow(value, row(loss, 0)))


@subroutine
def _mend_rows(grad, first, count, labels, at_target, us, idle):
    """The gradient at the targets, and the zeros of rows that do not count."""
    d, stride = row(grad, first), grad.strides[0] // grad.itemsize
    for k in range(count):
        d[k * stride + labels[k]] = at_target[k]
    if idle:
        for k in range(count):
            if us[k] == 0.0:
                fill_row(row(grad, first + k), grad.shape[1], 0.0)


# logits (N, C) IN; target (N,) labels or (N, C) probabilities IN; class_weight (C,),
# sample_weight (N,) IN or empty; lane_weight as for `kernels.cross_entropy_rows`; loss (N,) OUT or
# empty; grad (N, C) OUT or None. lo < hi. Returns Σ losses.
def narrow_cross_entropy_rows(
    logits, target, class_weight, lane_weight, sample_weight, total_weight,
    ignoring, ignore_index, keep, spread, divisor, loss, grad, lo, hi,
):  # fmt: skip
    n, width = logits.shape[1], lanes_of(row(logits, lo))
    sharing = target.ndim == 2 or spread != 0.0
    scratch = np.empty((n * (2 if sharing else 1) + 1, width), logits.dtype)
    pad = np.zeros((width, n), logits.dtype)
    places, weights = np.zeros((1, width), np.int64), np.empty((2, width))
    weighted = class_weight.size > 0 or sample_weight.size > 0
    total = lost = widen(zeros(row(scratch, 0)))
    for first in range(lo, hi, width):
        count = min(hi - first, width)
        # Pointers are taken here: an array is freed after its last use, whatever points into it.
        columns, spare, shares = row(scratch, 0), row(scratch, n), row(scratch, n + 1)
        labels, us, ws = row(places, 0), row(weights, 0), row(weights, 1)
        u = w = widen(splat(columns, 1.0))
        idle = _read_labels(target, ignoring, ignore_index, n, first, count, labels)
        if weighted or idle or count < width:
            _read_weights(
                target, labels, class_weight, sample_weight, ignoring, ignore_index, n, first,
                count, width, us, ws,
            )  # fmt: skip
            u, w = load_wide(us, columns), load_wide(ws, columns)
        _read_group(logits, first, count, pad, columns)
        m = _max_column(columns, n)
        nothing = widen(zeros(columns))
        apart, share, a_y, total_a = keep * w, spread, w, nothing + total_weight
        if sharing:
            _read_shares(target, lane_weight, keep, spread, first, count, pad, shares)
            below = _sum_columns(_below_term, (columns, m, shares), n)
        if target.ndim == 2:
            _find_column(columns, m, n, spare, labels)
            apart, share = widen(_set_apart(shares, labels, 0.0)), 1.0
            a_y, total_a = nothing, _sum_columns(_share_term, (shares,), n)
        x_y = _set_apart(columns, labels, -math.inf)
        soon = row(logits, first + width), row(grad, first + width)
        rest, e_y = _sum_columns(_exp_term, (columns, m, columns, *soon), n), shifted_exp(x_y - m)
        log_s, inverse = widen(_log_sum(rest, e_y, columns)), 1.0 / (rest + widen(e_y))
        shared = below + total_a * log_s if sharing else log_s
        value = row_loss(apart, share, 0.0, widen(m - x_y), log_s, shared, 0.0, zero_where_zero)
        value = zero_where_zero(u, u * value)
        total, lost = add_block(total, lost, value)
        _write_losses(loss, first, count, value)
        if grad is not None:
            # d_j = up·[(apart + pull)·p_j - share·a_j], and d_y by its own formula
            up, pull = u / divisor, shared_pull(share, total_a, 0.0, 0.0)
            d_y = grad_at_target(apart, pull, share, a_y, rest, widen(e_y), inverse)
            store(spare, 0, narrow(up * d_y, columns))
            factor = narrow(up * (apart + pull) * inverse, columns)
            if sharing:
                _scale(columns, shares, factor, narrow(up * share, columns), n)
            else:
                _scale(columns, None, factor, factor, n)
            _write_group(columns, grad, first, count, pad)
            _mend_rows(grad, first, count, labels, spare, us, idle or weighted)
    return rounded(total, lost)
