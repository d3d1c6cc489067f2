"""Kernels for rows of few classes: each lane of a vector is a row, so that nothing is horizontal.

A group of as many rows as a vector has lanes is turned over into columns, one vector for each
class, that stay in the nearest cache. Of arrays with one class behind the other, as LightGBM has
them, they are columns already; `cross_entropy` takes these too. The options that move logits before
the loss, and outputs other than gradient and Hessian, are left to `kernels.py`; both follow the
same formulas.
"""

import math

import numpy as np

from fastxent.cpu.jit import inlined, subroutine
from fastxent.cpu.kernels import counted_row, lse_base
from fastxent.cpu.lanes import (
    columns_at_once,
    flush_subnormals,
    gather_lanes,
    horizontal_sum,
    lane,
    lanes_of,
    load,
    load_column,
    load_wide,
    maximum,
    narrow,
    place_labels,
    prefetch,
    prefetch_to_write,
    read_columns,
    restore_mode,
    row,
    scaled,
    scatter_lanes,
    splat,
    steps,
    store,
    store_column,
    store_part,
    where_equal,
    where_less,
    widen,
    write_at_places,
    write_columns,
    zero_where_zero,
    zeros,
)
from fastxent.cpu.row import add_block, fill_row, mixed, rounded
from fastxent.cpu.scratch import part, release, reserve
from fastxent.cpu.vector_math import log_above_one, shifted_exp
from fastxent.formulas import (
    grad_at_target,
    grad_element,
    grad_scale,
    hess_element,
    loss_element,
    prob_coefficient,
    row_loss,
)

# --- groups of rows -------------------------------------------------------------------------


@inlined
def _has_columns(array):
    """Whether a class of all rows lies in one piece, and not a row."""
    return array.shape[1] > 1 and steps(array)[1] != 1


@subroutine
def _copy_rows(source, source_steps, out, out_steps, n, count):
    """Copy `count` rows of n elements, which lie `source_steps` apart, to `out_steps` apart."""
    a, b = source_steps
    c, d = out_steps
    for i in range(count):
        for j in range(n):
            out[i * c + j * d] = source[i * a + j * b]


@inlined
def _reserve_group(like, n, sets):
    """Scratch: `sets` of n columns one behind the other; the rows of a group; its places.

    Behind the places there is room for three more numbers of eight bytes for each row: at most
    eight vectors with the places.
    """
    width = lanes_of(row(like, 0))
    columns = reserve(like, ((sets + 1) * n + 8) * width)
    pad = part(columns, sets * n * width, like)
    fill_row(pad, n * width, 0.0)
    return columns, pad, part(pad, n * width, np.int64)


@inlined
def _group(array, first, count, pad):
    """The first row of a group and the step to the next: in `pad` if there are not enough rows."""
    if count == lanes_of(pad):
        return row(array, first), steps(array)[0]
    return pad, array.shape[1]


@subroutine
def _turn(x, step, n, columns):
    """Turn the rows of a group over into columns; their maximum.

    m = max_j x_j. A nan may be lost here; it comes back in the sum of exponentials.
    """
    block, m = columns_at_once(x), splat(columns, -math.inf)
    for k in range(n // block):
        m = read_columns(x, step, k * block, columns, m)
    if n >= block:
        if n % block:  # one that overlaps the last
            m = read_columns(x, step, n - block, columns, m)
    else:
        for j in range(n):
            column = load_column(x, step, j)
            store(columns, j * lanes_of(x), column)
            m = maximum(m, column)
    return m


@subroutine
def _turn_back(columns, factor, out, step, n):
    """Turn columns over into the rows of a group, times `factor`."""
    block = columns_at_once(out)
    for k in range(n // block):
        write_columns(out, step, k * block, columns, factor)
    if n >= block:
        if n % block:
            write_columns(out, step, n - block, columns, factor)
    else:
        for j in range(n):
            store_column(out, step, j, scaled(load(columns, j * lanes_of(out)), factor))


@subroutine
def _take_columns(x, step, n, columns):
    """Copy the columns of a group, which begin a step apart; their maximum."""
    m = splat(columns, -math.inf)
    for j in range(n):
        column = load(x, j * step)
        store(columns, j * lanes_of(x), column)
        m = maximum(m, column)
    return m


@subroutine
def _give_columns(columns, factor, out, step, n):
    """The same back, times `factor`."""
    for j in range(n):
        store(out, j * step, scaled(load(columns, j * lanes_of(out)), factor))


@inlined
def _read_group(array, first, count, pad, columns):
    """The rows from `first` on as columns, and their maximum; what `pad` holds fills a group up."""
    n = array.shape[1]
    x, step = _group(array, first, count, pad)
    if count < lanes_of(columns):
        _copy_rows(row(array, first), steps(array), x, (n, 1), n, count)
    elif _has_columns(array):
        return _take_columns(x, steps(array)[1], n, columns)
    return _turn(x, step, n, columns)


@inlined
def _write_group(columns, factor, places, special, array, first, count, pad):
    """Write the columns, times `factor`, to the rows from `first` on; `special` at its places.

    By way of `pad` if a group is cut short. factor and special may be None. Single elements are
    written last: a vector that is read behind them would have to wait for them.
    """
    n = array.shape[1]
    out, step = _group(array, first, count, pad)
    if count == lanes_of(columns) and _has_columns(array):
        class_step = steps(array)[1]
        _give_columns(columns, factor, out, class_step, n)
        write_at_places(out, 1, class_step, places, special)
        return
    _turn_back(columns, factor, out, step, n)
    write_at_places(out, step, 1, places, special)
    if count < lanes_of(columns):
        _copy_rows(out, (n, 1), row(array, first), steps(array), n, count)


@subroutine
def _find_column(columns, value, n, places):
    """The places of the first element that equals `value`, of column 0 if none does (of nan)."""
    at = zeros(columns)
    for j in range(n - 1, -1, -1):
        at = where_equal(load(columns, j * lanes_of(columns)), value, float(j), at)
    for k in range(lanes_of(columns)):
        places[k] = int(lane(at, k)) * lanes_of(columns) + k


@subroutine
def _take_out(columns, places, fill):
    """The elements at `places`, which `fill` replaces in the columns.

    A sum of the columns is then that of the rest: s - e_y would have lost the small terms.
    """
    elements = gather_lanes(columns, places)
    scatter_lanes(columns, places, splat(columns, fill))
    return elements


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
    """exp(x_j - m), in place of x_j.

    As many elements of the next group are asked for meanwhile, to be read and to be written.
    """
    columns, m, next_x, next_out = args
    at = j * lanes_of(columns)
    prefetch(next_x, at)
    prefetch_to_write(next_out, at)
    e = shifted_exp(load(columns, at) - m)
    store(columns, at, e)
    return e


@subroutine
def _load_term(args, j):
    return load(args[0], j * lanes_of(args[0]))


@inlined
def _below_one(e):
    return where_equal(e, 1.0, 0.0, e)


@subroutine
def _below_one_term(args, j):
    return _below_one(load(args[0], j * lanes_of(args[0])))


@subroutine
def _below_term(args, j):
    """a_j·(m - x_j): exactly 0 without a_j, also where x_j is -inf."""
    columns, m, a_columns = args
    a = load(a_columns, j * lanes_of(a_columns))
    return loss_element(a, m - load(columns, j * lanes_of(columns)), zero_where_zero)


@inlined
def _log_sum(rest, e_y, like):
    """`formulas.log_sum` by lanes, and 1 / s: both in float64.

    log s is the logarithm of s rounded to the precision of the lanes, and what the rounding lost,
    over s: beside e_y = 1 that is all there is of a small rest. It is nan where s is, unlike the
    first logarithm.
    """
    wide = rest + widen(e_y)
    s, inverse = narrow(wide, like), 1.0 / wide
    return widen(log_above_one(s)) + ((widen(e_y) - widen(s)) + rest) * inverse, inverse


# --- softmax and its logarithms -------------------------------------------------------------


# logits (N, C) IN, out (N, C) OUT
def narrow_softmax_rows(logits, out, lo, hi):
    n, width = logits.shape[1], lanes_of(row(logits, lo))
    columns, pad, _ = _reserve_group(logits, n, 1)
    for first in range(lo, hi, width):
        count = min(hi - first, width)
        m = _read_group(logits, first, count, pad, columns)
        soon = row(logits, first + width), row(out, first + width)
        s = _sum_columns(_exp_term, (columns, m, *soon), n)
        inverse = narrow(1.0 / s, columns)
        _write_group(columns, inverse, None, None, out, first, count, pad)
    release(columns)


@subroutine
def _rest_of_max(columns, m, n, soon):
    """Σ exp(x_j - m) over all but one maximum: over what is below 1, and the others that are 1."""
    next_x, next_out = soon
    below, ones = widen(zeros(columns)), zeros(columns)
    for first in range(0, n, 8):
        block = zeros(columns)
        for j in range(first, min(first + 8, n)):
            at = j * lanes_of(columns)
            prefetch(next_x, at)
            prefetch_to_write(next_out, at)
            e = shifted_exp(load(columns, at) - m)
            block = block + _below_one(e)
            ones = ones + where_equal(e, 1.0, 1.0, 0.0)
        below = below + widen(block)
    return below + (widen(ones) - 1.0)


# logits (N, C) IN, out (N, C) OUT
def narrow_log_softmax_rows(logits, out, lo, hi):
    n, width = logits.shape[1], lanes_of(row(logits, lo))
    columns, pad, _ = _reserve_group(logits, n, 1)
    for first in range(lo, hi, width):
        count = min(hi - first, width)
        m = _read_group(logits, first, count, pad, columns)
        soon = row(logits, first + width), row(out, first + width)
        rest, one = _rest_of_max(columns, m, n, soon), splat(columns, 1.0)
        log_s = narrow(_log_sum(rest, one, columns)[0], columns)
        for j in range(n):
            store(columns, j * width, (load(columns, j * width) - m) - log_s)
        _write_group(columns, None, None, None, out, first, count, pad)
    release(columns)


# logits (N, C) IN, out (N,) OUT
def narrow_logsumexp_rows(logits, out, lo, hi):
    n, width = logits.shape[1], lanes_of(row(logits, lo))
    columns, pad, _ = _reserve_group(logits, n, 1)
    for first in range(lo, hi, width):
        count = min(hi - first, width)
        m = _read_group(logits, first, count, pad, columns)
        soon = row(logits, first + width), None
        rest, one = _rest_of_max(columns, m, n, soon), splat(columns, 1.0)
        lse = m + narrow(_log_sum(rest, one, columns)[0], columns)
        store_part(row(out, 0), first, count, lse)
        if horizontal_sum(m - m) == 0.0:  # nan where a maximum is infinite
            continue
        for k in range(count):
            base = float(lane(m, k))
            if not math.isfinite(base):
                out[first + k] = lse_base(base, row(logits, first + k), n)
    release(columns)


# --- cross-entropy --------------------------------------------------------------------------


@inlined
def _place_classes(target, first, count, some, n, ignored, columns, places):
    """The places of a group's classes, of the first where there is none; how many have none.

    Labels that do not lie beside each other go by way of `some`, in which the rest is anything.
    """
    labels = some
    if count == lanes_of(columns) and target.strides[0] == target.itemsize:
        labels = row(target, first)
    else:
        for k in range(count):
            some[k] = target[first + k]
    # Another thread may write into target: only what is checked here may be used.
    return place_labels(labels, n, ignored, columns, places)


@subroutine
def _read_weights(target, rule, n, first, count, columns, us, ws):
    """The weights u, w of a group's rows; u is 0 of rows that do not count, nan of bad ones."""
    class_weight, sample_weight, ignoring, ignore_index = rule
    for k in range(lanes_of(columns)):
        us[k], ws[k] = 0.0, 1.0
        if k < count:
            y, u, counted, value = counted_row(
                target, sample_weight, ignoring, ignore_index, n, first + k
            )
            us[k] = u if counted else value
            if counted and class_weight.size:
                ws[k] = class_weight[y]
    return load_wide(us, columns), load_wide(ws, columns)


@subroutine
def _read_coefficients(target, lane_weight, one_minus_eps, eps_over_c, first, count, pad, a):
    """The a_j of a group as columns: see formulas.py."""
    if target.ndim == 2:
        _read_group(target, first, count, pad, a)
    for j in range(lane_weight.size):
        at = j * lanes_of(a)
        w = splat(a, lane_weight[j])
        if target.ndim == 2:
            store(a, at, mixed(load(a, at), w, one_minus_eps, eps_over_c))
        else:
            store(a, at, w)


@subroutine
def _grad_columns(columns, scale, a, other, n):
    """d_j = scale·e_j - other·a_j in place of e_j."""
    for j in range(n):
        at = j * lanes_of(columns)
        store(columns, at, grad_element(load(columns, at), scale, load(a, at), other))


@subroutine
def _write_losses(loss, first, count, value):
    if loss.size:
        store_part(row(loss, 0), first, count, narrow(value, row(loss, 0)))


@inlined
def _exp_sums(columns, m, n, places, soon):
    """m - x_y; log s, rest = Σ_{j≠y} e_j, e_y, 1 / s: in float64. The columns then hold e."""
    x_y = _take_out(columns, places, -math.inf)
    rest, e_y = _sum_columns(_exp_term, (columns, m, *soon), n), shifted_exp(x_y - m)
    log_s, inverse = _log_sum(rest, e_y, columns)
    return widen(m - x_y), (log_s, rest, widen(e_y), inverse)


@inlined
def _outcome(u, target_coef, other_coef, a_y, a_sum, margin, other_loss, sums, divisor, times):
    """The loss before u, and of d_j = scale·e_j - (u/D)·other_coef·a_j the scale, and d_y."""
    log_s, rest, e_y, inverse = sums
    value = row_loss(target_coef, other_coef, 0.0, margin, log_s, other_loss, 0.0, times)
    up, prob_coef = u / divisor, prob_coefficient(other_coef, a_sum, 0.0, 0.0)
    d_y = up * grad_at_target(target_coef, prob_coef, other_coef, a_y, rest, e_y, inverse)
    return value, grad_scale(up, target_coef, prob_coef, inverse), d_y


@inlined
def _value_alone(coefficient, value):
    """In place of `zero_where_zero` where no coefficient is 0."""
    return value


@inlined
def _write_grad(columns, a, has_others, parts, places, grad, first, count, pad):
    """d_j = scale·e_j - other·a_j of a group's rows, and d_y in its place."""
    scale, d_y, other = parts
    scale, d_y = narrow(scale, columns), narrow(d_y, columns)
    if has_others:
        _grad_columns(columns, scale, a, narrow(other, columns), grad.shape[1])
        _write_group(columns, None, places, d_y, grad, first, count, pad)
    else:
        _write_group(columns, scale, places, d_y, grad, first, count, pad)


@inlined
def _plain_outcome(margin, sums, divisor):
    """The same of rows without weights and smoothing."""
    return _outcome(1.0, 1.0, 0.0, 0.0, 0.0, margin, 0.0, sums, divisor, _value_alone)


@inlined
def _probability_coefficients(columns, m, places, a, n):
    """Of class probabilities: target_coef, that of the maximum, and Σ of the other a_j."""
    _find_column(columns, m, n, places)
    target_coef = widen(_take_out(a, places, 0.0))
    return target_coef, _sum_columns(_load_term, (a,), n)


@inlined
def _variance(e, others, s, inverse, factor):
    """factor·p·(1 - p) of p = e / s, where e = 1 leaves `others`."""
    one_minus_p = where_equal(e, 1.0, others, s - e) * inverse
    return hess_element(e * inverse, one_minus_p, factor)


@subroutine
def _fill_variances(columns, sums, factor, out, n):
    """factor·p_j·(1 - p_j) of a group's rows, as columns that have 0 for y; and that of y.

    s - e_j would lose what a dominant class leaves: 1 - p of the maximum, which is alone if s < 2,
    is the sum of what is less.
    """
    _, rest, e_y, inverse = sums
    e_y_, factor = narrow(e_y, columns), narrow(factor, columns)
    s, inverse = narrow(rest + e_y, columns), narrow(inverse, columns)
    below = _sum_columns(_below_one_term, (columns,), n) + widen(_below_one(e_y_))
    others = where_less(s, 2.0, narrow(below, columns), s - 1.0)
    for j in range(n):
        at = j * lanes_of(columns)
        store(out, at, _variance(load(columns, at), others, s, inverse, factor))
    return _variance(e_y_, others, s, inverse, factor)


@subroutine
def _clear_rows(out, first, count, us):
    """Zeros for the rows that do not count, whatever their logits hold; for None, nothing."""
    if out is None:
        return
    for k in range(count):
        if us[k] == 0.0:
            if _has_columns(out):
                out[first + k] = 0.0
            else:
                fill_row(row(out, first + k), out.shape[1], 0.0)


# logits (N, C) IN; target (N,) labels or (N, C) probabilities IN; class_weight (C,),
# sample_weight (N,) IN or empty; lane_weight as for `kernels.cross_entropy_rows`; loss (N,) OUT or
# empty; grad, hess (N, C) OUT or None, hess with labels alone. lo < hi. Returns Σ losses.
def narrow_cross_entropy_rows(
    logits, target, class_weight, lane_weight, sample_weight, total_weight,
    ignoring, ignore_index, one_minus_eps, eps_over_c, divisor, hess_factor,
    loss, grad, hess, lo, hi,
):  # fmt: skip
    n, width = logits.shape[1], lanes_of(row(logits, lo))
    other_coef = eps_over_c if target.ndim == 1 else 1.0
    has_others = other_coef != 0.0
    columns, pad, places = _reserve_group(logits, n, 1 + has_others + (hess is not None))
    a = part(columns, n * width, logits)
    variances = part(a, has_others * n * width, logits)
    some = part(places, width, np.int64)
    us, ws = part(some, width, np.float64), part(some, 2 * width, np.float64)
    weighted = class_weight.size > 0 or sample_weight.size > 0
    rule = class_weight, sample_weight, ignoring, ignore_index
    ignored, mode = ignore_index if ignoring else -1, flush_subnormals()
    total = lost = widen(zeros(columns))
    for first in range(lo, hi, width):
        count, idle = min(hi - first, width), 0
        if target.ndim == 1:
            idle = _place_classes(target, first, count, some, n, ignored, columns, places)
        m = _read_group(logits, first, count, pad, columns)
        target_coef = a_sum = below = widen(zeros(columns))
        if has_others:
            _read_coefficients(target, lane_weight, one_minus_eps, eps_over_c, first, count, pad, a)
            below = _sum_columns(_below_term, (columns, m, a), n)
        if target.ndim == 2:
            target_coef, a_sum = _probability_coefficients(columns, m, places, a, n)
        soon = row(logits, first + width), row(grad, first + width)
        margin, sums = _exp_sums(columns, m, n, places, soon)
        other = u = a_y = widen(splat(columns, 1.0))
        special = weighted or idle or count < width
        if special:
            u, a_y = _read_weights(target, rule, n, first, count, columns, us, ws)
        if special or has_others:
            if target.ndim == 2:
                a_y = widen(zeros(columns))
            else:
                target_coef, a_sum = one_minus_eps * a_y, a_sum + total_weight
            value, scale, d_y = _outcome(
                u, target_coef, other_coef, a_y, a_sum, margin, below + a_sum * sums[0], sums,
                divisor, zero_where_zero,
            )  # fmt: skip
            value, other = zero_where_zero(u, u * value), u / divisor * other_coef
        else:
            value, scale, d_y = _plain_outcome(margin, sums, divisor)
        total, lost = add_block(total, lost, value)
        _write_losses(loss, first, count, value)
        if hess is not None:
            h_y = _fill_variances(columns, sums, u * a_y / divisor * hess_factor, variances, n)
            _write_group(variances, None, places, h_y, hess, first, count, pad)
        if grad is not None:
            parts = scale, d_y, other
            _write_grad(columns, a, has_others, parts, places, grad, first, count, pad)
        if idle or weighted:
            _clear_rows(grad, first, count, us)
            _clear_rows(hess, first, count, us)
    restore_mode(mode)
    release(columns)
    return rounded(total, lost)
