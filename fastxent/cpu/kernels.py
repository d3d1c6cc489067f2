"""The CPU kernels: loops over the rows lo..hi of row-strided arrays, written as their formulas.

One source per operation. What a call does not ask for is a literal None, and its code is gone
from the compiled variant; what costs nothing per element (options, lse, argmax) is decided at run
time, an absent array being an empty one. A row's bits depend on that row alone, so rows may be
given to any number of threads.
"""

import math

import numpy as np

from fastxent.cpu.jit import inlined, subroutine
from fastxent.cpu.lanes import VECTOR_BYTES, flush_subnormals, restore_mode, row
from fastxent.cpu.row import (
    below_max_sum,
    cost_sum,
    exp_sum,
    fill_row,
    find,
    first_max,
    has_nan,
    map_row,
    map_rows,
    minus_minus,
    minus_times,
    mixed,
    rest_of_max,
    row_max,
    softcap_row,
    sum_apart,
    times,
    times_lanes,
    times_minus,
    variance,
)
from fastxent.cpu.scratch import part, release, reserve, whole_lines
from fastxent.formulas import (
    clipped_pair,
    costs,
    grad_at_target,
    grad_scale,
    hess_element,
    log_sum,
    prob_coefficient,
    prob_grad_element,
    row_loss,
)

# How much is read of a weight that is one number, with step 0, at every place of a row.
CONSTANT_BYTES = VECTOR_BYTES
# Rows of up to so many classes are asked for before they are written; longer ones would only push
# others out of the caches.
WRITTEN_AHEAD = 8192


@inlined
def _small_log_sum(x, m, e, n, s):
    """log s; where one class dominates, s < 2, the row is summed again without it."""
    if s < 2.0:
        return log_sum(rest_of_max(x, m, e, n), 1.0, 1.0)
    return log_sum(s, 0.0, 1.0)


@inlined
def lse_base(peak, x, n):
    """The m of m + log s: as SciPy has it, m where m is not finite, but nan if the row holds one.

    To be taken before the row is overwritten.
    """
    return math.nan if not math.isfinite(peak) and has_nan(x, n) else peak


@inlined
def _lse(base, x, m, e, n, s):
    """m + log s to an ulp of the larger of the two: beside |m| >= 1 a tiny log s may be rounded."""
    if not math.isfinite(base):
        return base
    if abs(base) < 1.0:
        return base + _small_log_sum(x, m, e, n, s)
    return base + log_sum(s, 0.0, 1.0)


# logits (N, C) IN, out (N, C) OUT
def softmax_rows(logits, out, lo, hi):
    n = logits.shape[1]
    for i in range(lo, hi):
        x = row(logits, i)
        p = row(out, i)
        m = row_max(x, n)
        # p_j = exp(x_j - m) / Σ exp(x_c - m)
        s, _ = exp_sum(x, m, p, n, n, (row(logits, i + 1), row(out, i + (n <= WRITTEN_AHEAD))))
        map_row(times, p, p, n, 1.0 / s, 0.0)


# logits (N, C) IN, out (N, C) OUT
def log_softmax_rows(logits, out, lo, hi):
    n = logits.shape[1]
    for i in range(lo, hi):
        x = row(logits, i)
        m = row_max(x, n)
        # log p_j = (x_j - m) - log s, where log s has its own relative accuracy
        s, _ = exp_sum(x, m, None, n, n, (row(logits, i + 1), row(out, i)))
        map_row(minus_minus, x, row(out, i), n, m, _small_log_sum(x, m, None, n, s))


# logits (N, C) IN, out (N,) OUT
def logsumexp_rows(logits, out, lo, hi):
    n = logits.shape[1]
    for i in range(lo, hi):
        x = row(logits, i)
        m = row_max(x, n)
        s, _ = exp_sum(x, m, None, n, n, (row(logits, i + 1), None))
        out[i] = _lse(lse_base(float(m), x, n), x, m, None, n, s)


@inlined
def _add(total, lost, value):
    """total + value, and what rounding has lost so far: a step of Neumaier's sum."""
    larger = total + value
    if abs(total) >= abs(value):
        return larger, lost + ((total - larger) + value)
    return larger, lost + ((value - larger) + total)


@inlined
def _sum(total, lost):
    """What has been added up; an infinite sum has no rounding to give back."""
    return total + lost if math.isfinite(lost) else total


@subroutine
def _count_labels(labels, n_classes, ignoring, ignore_index, n):
    """How many of n labels are not ignored, and how many of these are no class, by vectors."""
    counted = bad = 0
    if not (ignoring and 0 <= ignore_index < n_classes):
        # The usual case in a third of the time: every label is a class, so none is the one ignored.
        classes, strange = np.uint64(n_classes), False
        for i in range(n):
            strange |= np.uint64(labels[i]) >= classes
        if not strange:
            return n, 0
    for i in range(n):
        y = labels[i]
        loud = (y != ignore_index) | (not ignoring)
        counted += loud
        bad += loud & ((y < 0) | (y >= n_classes))
    return counted, bad


# labels (N,) IN; class_weight (C,) or empty IN; sample_weight (N,) or empty IN
def scan_labels(
    labels, n_classes, class_weight, sample_weight, ignoring, ignore_index, lo, hi
):  # fmt: skip
    """Σ counted·u·w_y, and the first row whose label is no class, or -1."""
    total = lost = 0.0
    first_bad = -1
    if not class_weight.size and not sample_weight.size and labels.strides[0] == labels.itemsize:
        counted, bad = _count_labels(row(labels, lo), n_classes, ignoring, ignore_index, hi - lo)
        if not bad:
            return float(counted), first_bad
    for i in range(lo, hi):
        y = labels[i]
        if ignoring and y == ignore_index:
            continue
        valid = y >= 0 and y < n_classes
        if not valid and first_bad < 0:
            first_bad = i
        u = sample_weight[i] if sample_weight.size else 1.0
        w = class_weight[y] if valid and class_weight.size else 1.0
        if u != 0.0:
            total, lost = _add(total, lost, u * w)
    return _sum(total, lost), first_bad


@inlined
def _put(out, i, value):
    """Write one number of a row where it is asked for."""
    if out.size:
        out[i] = value


@inlined
def _zero_where_zero(coefficient, value):
    """`value`, but exactly 0 under a coefficient of 0."""
    return value if coefficient else 0.0


@inlined
def _write_hess(e, hess, n, s, rest, e_y, factor):
    """factor·p_j·(1 - p_j), where 1 - p of a dominant class is the sum of the others."""
    top = find(e, 1.0, n)
    others = rest if e_y == 1.0 else rest_of_max(e, 0.0, e, n)
    largest = e[top]
    map_row(variance, e, hess, n, 1.0 / s, factor)
    if s < 2.0:
        hess[top] = hess_element(factor * (largest / s), others / s, 1.0)


@inlined
def _write_grad(e, d, n, y, up, target_coef, prob_coef, other_coef, a, a_y, sums):
    """d_j = up·[(target_coef + prob_coef)·p_j - other_coef·a_j], and d_y by its own formula."""
    rest, e_y, inverse = sums
    scale = grad_scale(up, target_coef, prob_coef, inverse)
    if other_coef:
        map_rows(times_minus, e, a, d, n, scale, up * other_coef)
    else:
        map_row(times, e, d, n, scale, 0.0)
    d[y] = up * grad_at_target(target_coef, prob_coef, other_coef, a_y, rest, e_y, inverse)


@inlined
def _write_nothing(grad, hess, i, n, value):
    """Rows that do not count have no gradient, whatever their logits hold; bad labels give nan."""
    if grad is not None:
        fill_row(row(grad, i), n, value)
    if hess is not None:
        fill_row(row(hess, i), n, value)


@subroutine
def counted_row(target, sample_weight, ignoring, ignore_index, n, i):
    """A row's class y (0 of probabilities) and weight u, whether it counts, its loss if not."""
    u = sample_weight[i] if sample_weight.size else 1.0
    if target.ndim == 2:
        return 0, u, u != 0.0, 0.0
    # Read once: another thread may write into target, and only a checked label may be used.
    y = target[i]
    silent = (ignoring and y == ignore_index) or u == 0.0
    valid = y >= 0 and y < n
    return y, u, valid and not silent, 0.0 if valid or silent else math.nan


@subroutine
def _likely(target, ignoring, ignore_index, i):
    """Whether row i seems to count. A look ahead to save work: `counted_row` reads what is used."""
    return target.ndim == 2 or not ignoring or target[i] != ignore_index


@subroutine
def _coefficients(
    target, class_weight, lane_weight, total_weight, mix, one_minus_eps, eps_over_c, z, m, y, i
):  # fmt: skip
    """y, target_coef, other_coef, a, a_y, Σ a as in formulas.py; and the Hessian's weight."""
    if target.ndim == 1:
        w = class_weight[y] if class_weight.size else 1.0
        return y, one_minus_eps * w, eps_over_c, row(lane_weight, 0), w, total_weight, w
    n = target.shape[1]
    a = row(target, i)
    if lane_weight.size:
        # a_j = w_j·((1 - ε)·q_j + ε/C)
        map_rows(mixed, a, row(lane_weight, 0), mix, n, one_minus_eps, eps_over_c)
        a = mix
    y = find(z, m, n)
    # The row still holds a_y, where m - x_y is 0 and the gradient is written anew: it adds nothing.
    others, target_coef = sum_apart(a, n, y)
    return y, float(target_coef), 1.0, a, 0.0, others, others + target_coef


@inlined
def _reserve_rows(like, n):
    """Scratch: a transformed row, the derivative of its softcap, a mixed target."""
    size = whole_lines(like, n)
    rows = reserve(like, 3 * size)
    return rows, part(rows, size, like), part(rows, 2 * size, like)


@inlined
def _transformed(x, scratch, logit_scale, softcap, n, want_top):
    """The row z after scale and softcap, its maximum, the m of m + log s, and the argmax."""
    z, slope, _ = scratch
    scaled = softcap <= 0.0
    if scaled:
        # A negative scale is a positive one of -x, and a scale of 0 one of 0·x.
        map_row(times, x, z, n, np.sign(logit_scale), 0.0)
    else:
        softcap_row(x, logit_scale, softcap, z, slope, n)
    top = first_max(z, n) if want_top else 0
    m = row_max(z, n)
    if not scaled:
        return z, m, lse_base(float(m), z, n), top
    # The shift before the scale: rounding then sees |z_j - m| and not |z_j|.
    base = lse_base(float(m) * abs(logit_scale), z, n)
    map_row(minus_times, z, z, n, m, abs(logit_scale))
    return z, row_max(z, n), base, top


# logits (N, C) IN; target (N,) labels or (N, C) probabilities IN; class_weight (C,),
# sample_weight (N,) IN or empty; lane_weight the class weights in the logits' type (ones without
# any) for smoothing, and for probabilities with weights or smoothing, else empty; loss, lse,
# argmax (N,) OUT or empty; grad, probs, hess (N, C) OUT or None; exps the first of these that is
# asked for, where the exponentials wait between scans. lo < hi. Returns Σ losses.
def cross_entropy_rows(
    logits, target, class_weight, lane_weight, sample_weight, total_weight,
    ignoring, ignore_index, one_minus_eps, eps_over_c, z_loss, logit_scale, softcap, divisor,
    hess_factor, loss, lse, argmax, exps, grad, probs, hess, lo, hi,
):  # fmt: skip
    n = logits.shape[1]
    transforming = softcap > 0.0 or logit_scale != 1.0
    scratch = _reserve_rows(logits, n if transforming or lane_weight.size else 0)
    every_row = probs is not None or lse.size or argmax.size
    mode, total, lost = flush_subnormals(), 0.0, 0.0
    ahead, ahead_of = row_max(row(logits, lo), n), lo
    for i in range(lo, hi):
        y, u, counted, value = counted_row(target, sample_weight, ignoring, ignore_index, n, i)
        if counted or every_row:
            x = row(logits, i)
            if transforming:
                z, m, base, top = _transformed(x, scratch, logit_scale, softcap, n, argmax.size > 0)
            else:
                m = ahead if ahead_of == i else row_max(x, n)
                z, base, top = x, lse_base(float(m), x, n), first_max(x, n) if argmax.size else 0
            # All that is read of x besides its exponentials, for with grad over logits it is gone.
            y, target_coef, other_coef, a, a_y, a_sum, weight = _coefficients(
                target, class_weight, lane_weight, total_weight, scratch[2],
                one_minus_eps, eps_over_c, z, m, y if counted else 0, i,
            )  # fmt: skip
            margin = float(m) - float(z[y])
            below = below_max_sum(z, m, a, n) if other_coef else 0.0
            # rest = Σ_{j≠y} exp(x_j - m), s = rest + exp(x_y - m)
            e = row(exps, i)
            soon = row(logits, i + 1), row(exps, i + (n <= WRITTEN_AHEAD))
            rest, e_y = exp_sum(z, m, e, n, y if counted else n, soon)
            s, inverse = rest + e_y, 1.0 / (rest + e_y)
            row_lse = _lse(base, z, m, e, n, s) if lse.size or z_loss else 0.0
            # The next row's maximum now: its loads fill the time that this row's sums take.
            if i + 1 < hi and not transforming and _likely(target, ignoring, ignore_index, i + 1):
                ahead, ahead_of = row_max(row(logits, i + 1), n), i + 1
            _put(lse, i, row_lse)
            _put(argmax, i, top)
            # From here on each output may overwrite e, so the one that holds it comes last.
            if hess is not None and counted:
                _write_hess(e, row(hess, i), n, s, rest, e_y, u * weight / divisor * hess_factor)
            if probs is not None:
                map_row(times, e, row(probs, i), n, inverse, 0.0)
        if counted:
            log_s = log_sum(rest, e_y, 1.0)
            other_loss = below + a_sum * log_s
            value = u * row_loss(
                target_coef, other_coef, z_loss, margin, log_s, other_loss, row_lse,
                _zero_where_zero,
            )  # fmt: skip
            if grad is not None:
                d, up, sums = row(grad, i), u * logit_scale / divisor, (rest, e_y, inverse)
                prob_coef = prob_coefficient(other_coef, a_sum, z_loss, row_lse)
                _write_grad(e, d, n, y, up, target_coef, prob_coef, other_coef, a, a_y, sums)
                if softcap > 0.0:
                    map_rows(times_lanes, d, scratch[1], d, n, 0.0, 0.0)
        else:
            _write_nothing(grad, hess, i, n, value)
        total, lost = _add(total, lost, value)
        _put(loss, i, value)
    restore_mode(mode)
    release(scratch[0])
    return _sum(total, lost)


@inlined
def _where_less(x, y, a, b):
    return a if x < y else b


@inlined
def _log1m(x):
    return -math.log1p(-x)


@inlined
def _class_cost(p_y, w, scale, clip):
    """w·(-log p_y) and scale·w / p_y; a class without weight adds exactly 0."""
    if w == 0.0:
        return 0.0, 0.0
    bounds, most, floor = clip
    p, r = clipped_pair(p_y, bounds, 1.0, _where_less)
    value, _ = costs(p, r, most, math.log, _log1m, _where_less)
    return w * value, prob_grad_element(w, p, scale, floor, _where_less, _zero_where_zero)


# probs (N, C) IN; target (N,) labels or (N, C) probabilities IN; class_weight (C,), sample_weight
# (N,) IN or empty; lane_weight the class weights in the type of probs with step 1, or one vector of
# ones with step 0; clip as terms.Clip; loss (N,) OUT or empty; grad (N, C) OUT or None. Returns
# Σ losses.
def categorical_rows(
    probs, target, class_weight, lane_weight, step, sample_weight, ignoring, ignore_index,
    clip, divisor, loss, grad, lo, hi,
):  # fmt: skip
    n = probs.shape[1]
    total = lost = 0.0
    for i in range(lo, hi):
        y, u, counted, value = counted_row(target, sample_weight, ignoring, ignore_index, n, i)
        if not counted:
            _write_nothing(grad, None, i, n, value)
        elif target.ndim == 2:
            # l = u·Σ_j a_j·(-log p_j), ∂L/∂p_j = -(u/D)·a_j / p_j
            value = u * cost_sum(
                row(probs, i), row(target, i), row(lane_weight, 0), step, row(grad, i),
                -u / divisor, clip, n,
            )  # fmt: skip
        else:
            w = class_weight[y] if class_weight.size else 1.0
            value, slope = _class_cost(float(probs[i, y]), w, -u / divisor, clip)
            value *= u
            if grad is not None:
                fill_row(row(grad, i), n, 0.0)
                grad[i, y] = slope
        total, lost = _add(total, lost, value)
        _put(loss, i, value)
    return _sum(total, lost)


# bits (N,) of float32 IN, out (N,) of float16, as its bits, OUT
def round_to_half(bits, out):
    for i in range(bits.size):
        sign, x = (bits[i] >> 16) & 0x8000, bits[i] & 0x7FFFFFFF
        # In steps of float16, ties to even: half a step less one, one more if the result is odd.
        shift = 13 if x >= 0x38800000 else min(126 - (x >> 23), 25)  # else subnormal
        significand = x - 0x38000000 if x >= 0x38800000 else (x & 0x7FFFFF) | 0x800000
        odd = (significand >> shift) & 1
        rounded = (significand + (1 << (shift - 1)) - 1 + odd) >> shift
        if x >= 0x477FF000:  # 65520 and more
            rounded = 0x7E00 if x > 0x7F800000 else 0x7C00
        out[i] = sign | rounded
