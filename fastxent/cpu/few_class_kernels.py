"""Kernels for rows of few classes: each lane of a vector is a row, no operation is horizontal.

A group of as many rows as a vector has lanes is transposed into columns, one vector per class, in
scratch memory that stays in the nearest cache. Column-major (N, C) arrays, as LightGBM has them,
are columns already. `tiles` is None where all arrays are rows, else any integer; kernels are
compiled for both. Other options and outputs are computed by `kernels.py`, with the same formulas.
"""

import math

import numpy as np

from fastxent.cpu.columns import find_places, gather_lanes, scatter_lanes
from fastxent.cpu.float_mode import flush_subnormals, restore_mode
from fastxent.cpu.groups import group_at, read_group, reserve, write_group
from fastxent.cpu.jit import inlined, inlined_by_llvm, never_inlined, optimised, subroutine
from fastxent.cpu.kernels import target_of_row
from fastxent.cpu.labels import are_int64s, copy_labels, labels_from
from fastxent.cpu.lanes import (
    has_avx512,
    horizontal_sum,
    lane,
    round_to,
    smaller,
    where_equal,
    where_less,
    widen,
    zero_where_zero,
)
from fastxent.cpu.memory import (
    advance,
    either,
    if_requested,
    is_requested,
    itemsize,
    lanes_of,
    load,
    load_widened,
    prefetch,
    prefetch_to_write,
    row,
    splat,
    store,
    store_part,
    zeros,
)
from fastxent.cpu.row import add_block, fill_row, rounded, smoothed
from fastxent.cpu.scratch import release, view
from fastxent.cpu.tiles import (
    aligned_row,
    first_group,
    has_columns,
    lines_of_group,
    read_ahead,
    read_line,
    set_size,
    write_behind,
    write_line,
    write_rest,
)
from fastxent.cpu.vector_math import log_above_one, shifted_exp
from fastxent.formulas import (
    entropy_term,
    grad_at_target,
    grad_element,
    grad_scale,
    hess_element,
    loss_element,
    prob_coefficient,
    row_loss,
)

# A loop over the classes of a group needs all registers; inlined, it gets those that are left. As a
# function of its own it takes 0.9 of the time for 100 classes. But the call takes as long as one
# class of float32, so up to this number of float32 classes the loop is inlined. Without AVX-512 the
# arguments of the call would go through memory, so the loop is always inlined.
_FEW_TO_INLINE, _HAS_AVX512 = 24, has_avx512()

# Up to so many terms of float64 are added without compensation for their rounding.
PLAIN_SUM = 128


@subroutine
def find_column(columns, value, n, places):
    """Find the places of each lane's first element equal to `value`; column 0 if none is (nan)."""
    at = zeros(columns)
    for j in range(n - 1, -1, -1):
        at = where_equal(load(columns, j * lanes_of(columns)), value, float(j), at)
    for k in range(lanes_of(columns)):
        places[k] = int(lane(at, k)) * lanes_of(columns) + k


@subroutine
def _take_out(columns, places, fill):
    """Replace the elements at `places` by `fill`; return them.

    A sum of the columns is then that of the others: s - e_y would have lost the small terms.
    """
    elements = gather_lanes(columns, places)
    scatter_lanes(columns, places, splat(columns, fill))
    return elements


@inlined
def _add_terms(total, lost, terms, columns, n):
    """A sum of n terms in float64 and its rounding error, with a vector of them added.

    The error is followed for many terms of float64: what float32 ones lose there does not count.
    """
    if itemsize(columns) == 8 and n > PLAIN_SUM:
        return add_block(total, lost, widen(terms))
    return total + widen(terms), lost


@inlined
def _corrected(total, lost):
    """The sum less its rounding error, unless it is infinite: then the error is nan."""
    return total - where_equal(lost, lost, lost, 0.0)


def _sum_of_terms(term, args, n):
    """Σ_j term(args, j) in float64 for j in 0..n; eight terms are added before they are widened."""
    total, lost = widen(zeros(args[0])), widen(zeros(args[0]))
    for first in range(0, n, 8):
        block = zeros(args[0])
        for j in range(first, smaller(first + 8, n)):
            block = block + term(args, j)
        total, lost = _add_terms(total, lost, block, args[0], n)
    return _corrected(total, lost)


_sum_inlined, _sum_not_inlined = optimised(_sum_of_terms), never_inlined(_sum_of_terms)


@inlined
def sum_columns(term, args, n):
    """`_sum_of_terms`, inlined or not."""
    if _HAS_AVX512 and (itemsize(args[0]) == 8 or n > _FEW_TO_INLINE):
        return _sum_not_inlined(term, args, n)
    return _sum_inlined(term, args, n)


@inlined_by_llvm
def _next_rows(logits, out, n, columns, group):
    first = group[0] + lanes_of(columns)
    return None, row(logits, first), row(out, first)


@inlined
def memory_of_group(logits, out, n, columns, group):
    """The memory of other groups, read and written while a group is computed; see `_access`."""
    return either(group[3], lines_of_group, _next_rows, (logits, out, n, columns, group))


@subroutine
def _prefetch_rows(memory, columns, j):
    _, next_x, next_out = memory
    prefetch(next_x, j * lanes_of(columns))
    prefetch_to_write(next_out, j * lanes_of(columns))


@subroutine
def _move_lines(memory, columns, j):
    portion, ahead, behind = memory
    write_line(behind, portion, j)
    read_line(ahead, portion, j)


@inlined
def _access(memory, columns, j):
    """Prefetch a line of the next rows and of their results, or move two lines of tiles."""
    either(memory[0], _move_lines, _prefetch_rows, (memory, columns, j))


@subroutine
def exp_term(args, j):
    """exp(x_j - m), which replaces x_j."""
    columns, m, memory = args
    _access(memory, columns, j)
    e = shifted_exp(load(columns, j * lanes_of(columns)) - m)
    store(columns, j * lanes_of(columns), e)
    return e


@subroutine
def load_term(args, j):
    """a_j."""
    return load(args[0], j * lanes_of(args[0]))


@inlined
def _below_one(e):
    """e, but 0 where it is 1."""
    return where_equal(e, 1.0, 0.0, e)


@subroutine
def _below_one_term(args, j):
    """e_j, but 0 where it is 1."""
    return _below_one(load(args[0], j * lanes_of(args[0])))


@subroutine
def _below_term(args, j):
    """a_j·(m - x_j): exactly 0 where a_j is, also for x_j = -inf."""
    columns, m, a_columns = args
    a = load(a_columns, j * lanes_of(a_columns))
    return loss_element(a, m - load(columns, j * lanes_of(columns)), zero_where_zero)


@inlined
def _log_sum(rest, e_y, like):
    """`formulas.log_sum` for vectors, and 1 / s: both in float64.

    log s is the logarithm of s rounded to the element type, plus the rounding error over s: for
    e_y = 1 and a small rest the error is all of log s. The second term is nan where s is, the first
    is not.
    """
    exact = rest + widen(e_y)
    s, inverse = round_to(exact, like), 1.0 / exact
    return widen(log_above_one(s)) + ((widen(e_y) - widen(s)) + rest) * inverse, inverse


# --- softmax and its logarithms -------------------------------------------------------------


# logits (N, C) IN, out (N, C) OUT
def softmax_rows(logits, out, tiles, lo, hi):
    n, width = logits.shape[1], lanes_of(row(logits, lo))
    memory, layout, pad, _ = reserve(logits, n, 1, tiles)
    rows = lo, hi, aligned_row(out, lo)
    for begin in range(first_group(rows, width), hi, width):
        at, group = group_at(begin, rows, width, layout, pad)
        columns = view(memory, at, memory)
        m = read_group(logits, columns, group)
        beside = memory_of_group(logits, out, n, columns, group)
        s = sum_columns(exp_term, (columns, m, beside), n)
        write_group(columns, round_to(1.0 / s, columns), None, (None, None), out, group)
        write_rest(out, columns, group)
    release(memory)


@(never_inlined if _HAS_AVX512 else optimised)
def _rest_of_max(columns, m, n, memory):
    """Σ exp(x_j - m) over all but one maximum: those below 1, and the number of other ones."""
    below, lost, ones = widen(zeros(columns)), widen(zeros(columns)), zeros(columns)
    for first in range(0, n, 8):
        block = zeros(columns)
        for j in range(first, smaller(first + 8, n)):
            _access(memory, columns, j)
            e = shifted_exp(load(columns, j * lanes_of(columns)) - m)
            block = block + _below_one(e)
            ones = ones + where_equal(e, 1.0, 1.0, 0.0)
        below, lost = _add_terms(below, lost, block, columns, n)
    return _corrected(below, lost) + (widen(ones) - 1.0)


# logits (N, C) IN, out (N, C) OUT
def log_softmax_rows(logits, out, tiles, lo, hi):
    n, width = logits.shape[1], lanes_of(row(logits, lo))
    memory, layout, pad, _ = reserve(logits, n, 1, tiles)
    rows = lo, hi, aligned_row(out, lo)
    for begin in range(first_group(rows, width), hi, width):
        at, group = group_at(begin, rows, width, layout, pad)
        columns = view(memory, at, memory)
        m = read_group(logits, columns, group)
        rest = _rest_of_max(columns, m, n, memory_of_group(logits, out, n, columns, group))
        one = splat(columns, 1.0)
        log_s = round_to(_log_sum(rest, one, columns)[0], columns)
        for j in range(n):
            store(columns, j * width, (load(columns, j * width) - m) - log_s)
        write_group(columns, None, None, (None, None), out, group)
        write_rest(out, columns, group)
    release(memory)


@subroutine
def _has_nan(columns, k, n):
    """Whether any element of lane k is nan."""
    for j in range(n):
        value = columns[j * lanes_of(columns) + k]
        if value != value:
            return True
    return False


# logits (N, C) IN, out (N,) OUT
def logsumexp_rows(logits, out, tiles, lo, hi):
    n, width = logits.shape[1], lanes_of(row(logits, lo))
    memory, layout, pad, _ = reserve(logits, n, 1, tiles)
    rows = lo, hi, lo
    for begin in range(lo, hi, width):
        at, group = group_at(begin, rows, width, layout, pad)
        columns, first, count = view(memory, at, memory), group[0], group[1]
        m = read_group(logits, columns, group)
        rest = _rest_of_max(columns, m, n, memory_of_group(logits, None, n, columns, group))
        one = splat(columns, 1.0)
        store_part(
            row(out, 0), first, count, m + round_to(_log_sum(rest, one, columns)[0], columns)
        )
        if horizontal_sum(m - m) == 0.0:  # nan where a maximum is infinite
            continue
        for i in range(count):
            base = float(lane(m, i))
            if not math.isfinite(base):
                # As SciPy has it: nan if the row has one, whatever its maximum is.
                out[first + i] = math.nan if _has_nan(columns, i, n) else base
    release(memory)


# --- cross-entropy --------------------------------------------------------------------------


@inlined
def find_targets(target, options, first, count, label_buffer, n, columns, places):
    """Find the places of a group's classes; return the number of rows without one.

    Labels other than a vector of int64 are copied to `label_buffer`; unused entries are
    uninitialised.
    """
    labels = label_buffer
    if count == lanes_of(columns) and are_int64s(target):
        labels = labels_from(target, first)
    else:
        copy_labels(target, first, count, options.label_mask, label_buffer)
    ignored_label = options.ignore_index if options.ignoring else -1
    # Another thread may write into target: only the classes that are checked here may be used.
    return find_places(labels, n, ignored_label, columns, places)


@inlined_by_llvm
def load_weights(target, weights, options, n, first, count, columns, u_buffer, w_buffer):
    """The weights u and w_y of a group's rows; u is 0 for ignored rows, nan for bad labels."""
    for k in range(lanes_of(columns)):
        u_buffer[k], w_buffer[k] = 0.0, 1.0
        if k < count:
            y, u, counted, value = target_of_row(
                target, weights.sample_weight, options, n, first + k
            )
            u_buffer[k] = u if counted else value
            if counted and weights.class_weight.size:
                w_buffer[k] = weights.class_weight[y]
    return load_widened(u_buffer, columns), load_widened(w_buffer, columns)


@inlined_by_llvm
def load_coefficients(target, weights, options, group, a):
    """Load the a_j of a group, as in formulas.py, into columns."""
    if target.ndim == 2:
        read_group(target, a, group)
    for j in range(weights.row_weight.size):
        at = j * lanes_of(a)
        w = splat(a, weights.row_weight[j])
        if target.ndim == 2:
            w = smoothed(load(a, at), w, options.one_minus_eps, options.eps_over_c)
        store(a, at, w)


@subroutine
def _grad_columns(columns, scale, a, other, n):
    """scale·e_j - other·a_j, which replaces e_j."""
    for j in range(n):
        at = j * lanes_of(columns)
        store(columns, at, grad_element(load(columns, at), scale, load(a, at), other))


@inlined
def _add_losses(total, lost, value, pending, columns, rows):
    """Add a group's losses to the sums, in blocks of a vector's length counted from row lo.

    The first row of a group depends on the address of an output; the bits of the sum must not.
    `pending` holds the losses of an incomplete block, then zeros.
    """
    (first, count, lo, hi), width = rows, lanes_of(columns)
    filled = (first - lo) & (width - 1)
    if filled == 0 and (count == width or first + count == hi):  # the common case
        return add_block(total, lost, value)
    store(pending, filled, value)
    if filled + count < width and first + count < hi:
        return total, lost
    total, lost = add_block(total, lost, load_widened(pending, columns))
    rest = load_widened(advance(pending, width), columns)
    store(pending, 0, rest)
    store(pending, width, widen(zeros(columns)))
    return add_block(total, lost, rest) if first + count == hi else (total, lost)


@subroutine
def _write_losses(loss, first, count, value):
    """Write a group's losses, unless that output is absent."""
    if loss.size:
        store_part(row(loss, 0), first, count, round_to(value, row(loss, 0)))


@inlined
def _sum_exps(logits, grad, columns, m, n, places, group):
    """m - x_y, and (log s, rest = Σ_{j≠y} e_j, e_y, 1 / s), in float64. e_j replaces x_j."""
    x_y = _take_out(columns, places, -math.inf)
    beside = memory_of_group(logits, grad, n, columns, group)
    rest = sum_columns(exp_term, (columns, m, beside), n)
    e_y = shifted_exp(x_y - m)
    log_s, inverse = _log_sum(rest, e_y, columns)
    return widen(m - x_y), (log_s, rest, widen(e_y), inverse)


@inlined
def _loss_and_grad(
    u, target_coef, other_coef, a_y, a_sum, margin, other_loss, sums, divisor, zero_where_zero
):  # fmt: skip
    """The loss without u, the scale of e_j in the gradient, and the gradient of y."""
    log_s, rest, e_y, inverse = sums
    value = row_loss(target_coef, other_coef, 0.0, margin, log_s, other_loss, 0.0, zero_where_zero)
    up, prob_coef = u / divisor, prob_coefficient(other_coef, a_sum, 0.0, 0.0)
    grad_y = up * grad_at_target(target_coef, prob_coef, other_coef, a_y, rest, e_y, inverse)
    return value, grad_scale(up, target_coef, prob_coef, inverse), grad_y


@inlined
def _value_alone(coefficient, value):
    """`zero_where_zero` where no coefficient is 0."""
    return value


@inlined
def _plain_loss_and_grad(margin, sums, divisor):
    """`_loss_and_grad` of rows without weights and smoothing."""
    return _loss_and_grad(1.0, 1.0, 0.0, 0.0, 0.0, margin, 0.0, sums, divisor, _value_alone)


@inlined
def _weighted_loss_and_grad(
    columns, target, weights, options, u, coefs, below, margin, sums, divisor
):  # fmt: skip
    """`_loss_and_grad` with the weights u and, in `coefs`, w_y; and the factor of the other a_j."""
    target_coef, other_coef, a_y, a_sum = coefs
    if target.ndim == 2:
        a_y = widen(zeros(columns))
    else:
        target_coef, a_sum = options.one_minus_eps * a_y, a_sum + weights.total_weight
    value, scale, grad_y = _loss_and_grad(
        u, target_coef, other_coef, a_y, a_sum, margin, below + a_sum * sums[0], sums, divisor,
        zero_where_zero,
    )  # fmt: skip
    return zero_where_zero(u, u * value), scale, grad_y, u / divisor * other_coef


@inlined_by_llvm
def _write_grad(grad, columns, a, has_others, parts, places, group):
    """scale·e_j - other·a_j of a group's rows, and the gradient of y at its place."""
    scale, grad_y, other, rest = parts
    scale, grad_y = round_to(scale, columns), round_to(grad_y, columns)
    over_scale = round_to(-rest, columns)
    if has_others:  # else the gradient of y is -scale·rest
        _grad_columns(columns, scale, a, round_to(other, columns), grad.shape[1])
        scale, over_scale = splat(columns, 1.0), grad_y
    write_group(columns, scale, places, (grad_y, over_scale), grad, group)


@inlined
def _probability_coefficients(columns, m, places, a, n):
    """For probabilities: target_coef, that of the row's maximum, and Σ of the other a_j."""
    find_column(columns, m, n, places)
    target_coef = widen(_take_out(a, places, 0.0))
    return target_coef, sum_columns(load_term, (a,), n)


@inlined
def _variance(e, others, s, inverse, factor):
    """factor·p·(1 - p) for p = e / s; 1 - p of the maximum (e = 1) is others / s."""
    one_minus_p = where_equal(e, 1.0, others, s - e) * inverse
    return hess_element(e * inverse, one_minus_p, factor)


@inlined_by_llvm
def _write_hess(hess, columns, sums, factor, variances, places, group):
    """factor·p_j·(1 - p_j) of a group's rows; in `columns` e_y is 0.

    s - e_j would lose 1 - p of a dominant class.
    """
    n, (_, rest, e_y, inverse) = hess.shape[1], sums
    exact = rest + e_y
    others = round_to(rest_of_stored_max(columns, e_y, exact, n), columns)
    e_y, factor = round_to(e_y, columns), round_to(factor, columns)
    s, inverse = round_to(exact, columns), round_to(inverse, columns)
    for j in range(n):
        at = j * lanes_of(columns)
        store(variances, at, _variance(load(columns, at), others, s, inverse, factor))
    hess_y = _variance(e_y, others, s, inverse, factor)
    write_group(variances, None, places, (hess_y, hess_y), hess, group)
    write_behind(hess, variances, group)


@subroutine
def _zero_ignored_rows(output, columns, group, u_buffer):
    for k in range(group[1]):
        if u_buffer[k] == 0.0:
            fill_row(row(output, group[0] + k), output.shape[1], 0.0)


@subroutine
def _zero_ignored_of_tile(output, columns, group, u_buffer):
    if not has_columns(output):
        _zero_ignored_rows(output, columns, group, u_buffer)
        return
    for k in range(group[1]):
        if u_buffer[k] == 0.0:
            for j in range(output.shape[1] + 2):  # not written yet; the factor may be nan
                columns[j * lanes_of(columns) + k] = 0.0


@inlined_by_llvm
def end_group(output, columns, group, has_ignored, u_buffer):
    """Write zeros for ignored rows, whatever their logits are, then call `write_rest`."""
    if has_ignored:
        arguments = output, columns, group, u_buffer
        either(group[3], _zero_ignored_of_tile, _zero_ignored_rows, arguments)
    write_rest(output, columns, group)


@inlined
def row_buffers(places, width):
    """Memory after the places: the labels of a group, its u, its w_y, and pending losses."""
    label_buffer = view(places, width, np.int64)
    u_buffer = view(label_buffer, width, np.float64)
    w_buffer = view(u_buffer, width, np.float64)
    pending = view(w_buffer, width, np.float64)
    fill_row(pending, 2 * width, 0.0)
    return label_buffer, u_buffer, w_buffer, pending


@inlined
def _sets_of_group(memory, at, n, has_others, has_hess):
    """The sets of columns of a group: e_j, a_j if there are any, the variances, the logits."""
    columns, size = view(memory, at, memory), set_size(memory, n)
    a = view(columns, size, columns)
    variances = view(a, has_others * size, columns)
    return columns, a, variances, view(variances, has_hess * size, columns)


@inlined_by_llvm
def _copy_logits(entropy, copy, columns, n):
    copy_columns(copy, columns, n)


@subroutine
def copy_columns(copy, columns, n):
    """Copy n columns."""
    for j in range(n):
        store(copy, j * lanes_of(columns), load(columns, j * lanes_of(columns)))


@subroutine
def _product_term(args, j):
    """e_j·(v_j - c): exactly 0 where e_j is."""
    columns, v, c = args
    e = load(columns, j * lanes_of(columns))
    return loss_element(e, load(v, j * lanes_of(columns)) - c, zero_where_zero)


@inlined
def product_sum(columns, v, c, n):
    """Σ_j e_j·(v_j - c), in float64."""
    return sum_columns(_product_term, (columns, v, c), n)


@inlined
def rest_of_stored_max(columns, e_y, exact, n):
    """Σ e_j over all but one maximum, in float64: of the columns and e_y, whose sum is `exact`.

    The maximum is alone if that is less than 2: then it is the sum of the elements below 1.
    """
    below = sum_columns(_below_one_term, (columns,), n) + _below_one(e_y)
    return where_less(exact, 2.0, below, exact - 1.0)


@inlined_by_llvm
def write_entropy(entropy, columns, copy, m, y_part, exact, n, group):
    """H = log s + Σ_j p_j·(m - x_j) of a group; return the second term.

    `y_part` are e_y, which is 0 in `columns`, and m - x_y.
    """
    e_y, margin = y_part
    rest = rest_of_stored_max(columns, e_y, exact, n)
    log_s, inverse = _log_sum(rest, splat(columns, 1.0), columns)
    below = entropy_term(e_y, margin, zero_where_zero) - product_sum(columns, copy, m, n)
    mean = below * inverse
    store_part(row(entropy, 0), group[0], group[1], round_to(log_s + mean, columns))
    return mean


@inlined_by_llvm
def _write_entropy(entropy, columns, copy, m, margin, sums, n, group):
    _, rest, e_y, _ = sums
    write_entropy(entropy, columns, copy, m, (e_y, margin), rest + e_y, n, group)


@inlined
def curvature(weights, options, w_y):
    """Σ_j a_j of class indices, w_y·(1-ε) + ε/C·Σ_j w_j: the factor of diag(p) - p·pᵀ."""
    return options.one_minus_eps * w_y + options.eps_over_c * weights.total_weight


# logits (N, C) IN; target (N,) labels or (N, C) probabilities IN. lo < hi.
def cross_entropy_rows(logits, target, weights, options, tiles, divisor, outputs, lo, hi):
    """Σ losses."""
    n, width = logits.shape[1], lanes_of(row(logits, lo))
    grad, hess, entropy = outputs.grad, outputs.hess, outputs.entropy
    other_coef = options.eps_over_c if target.ndim == 1 else 1.0
    has_others = other_coef != 0.0
    sets = 1 + has_others + is_requested(hess) + is_requested(entropy)
    memory, layout, pad, places = reserve(logits, n, sets, tiles)
    label_buffer, u_buffer, w_buffer, pending = row_buffers(places, width)
    weighted = weights.class_weight.size > 0 or weights.sample_weight.size > 0
    mode, total, lost = flush_subnormals(), widen(zeros(memory)), widen(zeros(memory))
    rows = lo, hi, aligned_row(grad, lo)
    for begin in range(first_group(rows, width), hi, width):
        at, group = group_at(begin, rows, width, layout, pad)
        columns, a, variances, copy = _sets_of_group(memory, at, n, has_others, is_requested(hess))
        first, count, without_class = group[0], group[1], 0
        if target.ndim == 1:
            without_class = find_targets(
                target, options, first, count, label_buffer, n, columns, places
            )
        m = read_group(logits, columns, group)
        target_coef = a_sum = below = widen(zeros(columns))
        if has_others:
            load_coefficients(target, weights, options, group, a)
            below = sum_columns(_below_term, (columns, m, a), n)
        if target.ndim == 2:
            target_coef, a_sum = _probability_coefficients(columns, m, places, a, n)
        if_requested(entropy, _copy_logits, (copy, columns, n))
        margin, sums = _sum_exps(logits, grad, columns, m, n, places, group)
        other = u = a_y = widen(splat(columns, 1.0))
        has_weights = weighted or without_class or count < width
        if has_weights:
            u, a_y = load_weights(
                target, weights, options, n, first, count, columns, u_buffer, w_buffer
            )
        if has_weights or has_others:
            coefs = target_coef, other_coef, a_y, a_sum
            value, scale, grad_y, other = _weighted_loss_and_grad(
                columns, target, weights, options, u, coefs, below, margin, sums, divisor
            )
        else:
            value, scale, grad_y = _plain_loss_and_grad(margin, sums, divisor)
        total, lost = _add_losses(total, lost, value, pending, columns, (first, count, lo, hi))
        _write_losses(outputs.loss, first, count, value)
        if_requested(entropy, _write_entropy, (columns, copy, m, margin, sums, n, group))
        factor = u * curvature(weights, options, a_y) / divisor * options.hess_factor
        if_requested(hess, _write_hess, (columns, sums, factor, variances, places, group))
        parts, has_ignored = (scale, grad_y, other, sums[1]), without_class or weighted
        if_requested(grad, _write_grad, (columns, a, has_others, parts, places, group))
        if_requested(grad, end_group, (columns, group, has_ignored, u_buffer))
        if_requested(hess, end_group, (variances, group, has_ignored, u_buffer))
        if target.ndim == 2:
            read_ahead(target, a, group)
    restore_mode(mode)
    release(memory)
    return rounded(total, lost)
