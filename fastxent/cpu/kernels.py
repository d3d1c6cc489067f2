"""The row kernels: softmax and its logarithms, labels, cross-entropy, losses of probabilities.

A kernel loops over the rows lo..hi of row-strided arrays; weights, options and outputs are the
named tuples of `arguments.py`. An output that is None is compiled away. What costs nothing per
element (options, per-row outputs) is decided at run time. The result of a row depends on that row
alone, so rows can be split among any number of threads with the same bits.
"""

import math

import numpy as np

from fastxent.cpu.float_mode import flush_subnormals, restore_mode
from fastxent.cpu.jit import inlined, inlined_by_llvm, never_inlined, subroutine
from fastxent.cpu.labels import are_int64s, copy_labels, labels_from, read_label
from fastxent.cpu.lanes import smaller
from fastxent.cpu.memory import (
    either,
    element,
    first_requested,
    if_requested,
    is_half,
    is_requested,
    row,
    set_element,
    unless_half,
)
from fastxent.cpu.row import (
    below_max_sum,
    capped_row,
    cost_sum,
    exp_and_depth_sums,
    exp_sum,
    fill_row,
    find,
    first_max,
    grad_of_exp,
    has_nan,
    hess_of_exp,
    log_prob_element,
    lowest,
    map_row,
    map_rows,
    product,
    rest_of_max,
    row_max,
    row_max_of,
    scale_element,
    shift_and_scale,
    smoothed,
    softcap_row,
    sum_without,
)
from fastxent.cpu.scratch import release, reserve, view, whole_lines
from fastxent.formulas import (
    grad_at_target,
    grad_scale,
    hess_with_z_loss,
    log_sum,
    prob_coefficient,
    row_loss,
    softcap_curvature,
)

# Output rows of at most this many classes are prefetched one row ahead; longer ones would evict
# the rows in use.
MAX_PREFETCHED_OUTPUT = 8192
# Labels of other types are counted in pieces of this length, converted to int64 in the L1 cache.
_COUNTED_LABELS = 512


@inlined
def exact_log_sum(x, m, e, n, s):
    """log s; where one class dominates (s < 2), by a sum of the others."""
    if s < 2.0:
        return log_sum(rest_of_max(x, m, e, n), 1.0, 1.0)
    return log_sum(s, 0.0, 1.0)


@inlined
def lse_base(m, x, n):
    """The m of lse = m + log s: nan if m is infinite and the row has a nan, as in SciPy.

    It must be computed before the row is overwritten.
    """
    return math.nan if not math.isfinite(m) and has_nan(x, n) else m


@inlined
def lse_of_row(base, x, m, e, n, s):
    """m + log s to an ulp of the larger of the two: log s may be rounded where |m| >= 1."""
    if not math.isfinite(base):
        return base
    if abs(base) < 1.0:
        return base + exact_log_sum(x, m, e, n, s)
    return base + log_sum(s, 0.0, 1.0)


@inlined
def _reserve_exps(exps, n):
    """Scratch memory for a row's exponentials, if the output is of half precision."""
    return reserve(exps, n if is_half(exps) else 0)


# logits (N, C) IN, out (N, C) OUT
def softmax_rows(logits, out, lo, hi):
    n = logits.shape[1]
    scratch = _reserve_exps(out, n)
    for i in range(lo, hi):
        x = row(logits, i)
        m = row_max(x, n)
        # p_j = exp(x_j - m) / Σ exp(x_c - m)
        next_rows = row(logits, i + 1), row(out, i + (n <= MAX_PREFETCHED_OUTPUT))
        e = unless_half(out, row(out, i), scratch)
        s, _ = exp_sum(x, m, e, n, n, next_rows)
        map_row(scale_element, e, row(out, i), n, 1.0 / s, 0.0)
    release(scratch)


# logits (N, C) IN, out (N, C) OUT
def log_softmax_rows(logits, out, lo, hi):
    n = logits.shape[1]
    for i in range(lo, hi):
        x = row(logits, i)
        m = row_max(x, n)
        # log p_j = (x_j - m) - log s, where log s has its own relative accuracy
        s, _ = exp_sum(x, m, None, n, n, (row(logits, i + 1), row(out, i)))
        map_row(log_prob_element, x, row(out, i), n, m, exact_log_sum(x, m, None, n, s))


# logits (N, C) IN, out (N,) OUT
def logsumexp_rows(logits, out, lo, hi):
    n = logits.shape[1]
    for i in range(lo, hi):
        x = row(logits, i)
        m = row_max(x, n)
        s, _ = exp_sum(x, m, None, n, n, (row(logits, i + 1), None))
        out[i] = lse_of_row(lse_base(float(m), x, n), x, m, None, n, s)


@inlined
def _add(total, lost, value):
    """total + value, and the accumulated rounding error: a step of Neumaier's sum."""
    larger = total + value
    if abs(total) >= abs(value):
        return larger, lost + ((total - larger) + value)
    return larger, lost + ((value - larger) + total)


@inlined
def _sum(total, lost):
    """The sum, corrected by the rounding error unless it is infinite."""
    return total + lost if math.isfinite(lost) else total


@never_inlined  # called at two places: its vectorised loops would be compiled for each
def _count_labels(labels, n_classes, options, n):
    """The number of labels that are not ignored, and the number of these that are out of range."""
    ignoring, ignore_index = options.ignoring, options.ignore_index
    counted = bad = 0
    if not (ignoring and 0 <= ignore_index < n_classes):
        # The common case, in a third of the time: all labels are classes, so none is ignored.
        classes, outside = np.uint64(n_classes), False
        for i in range(n):
            outside |= np.uint64(labels[i]) >= classes
        if not outside:
            return n, 0
    for i in range(n):
        y = labels[i]
        active = (y != ignore_index) | (not ignoring)
        counted += active
        bad += active & ((y < 0) | (y >= n_classes))
    return counted, bad


@subroutine
def _count_all(labels, n_classes, options, lo, hi):
    """Return the counts of `_count_labels` for the labels lo..hi of any width."""
    if are_int64s(labels):
        return _count_labels(labels_from(labels, lo), n_classes, options, hi - lo)
    buffer, counted, bad = reserve(np.int64, _COUNTED_LABELS), 0, 0
    for first in range(lo, hi, _COUNTED_LABELS):
        n = smaller(hi - first, _COUNTED_LABELS)
        copy_labels(labels, first, n, options.label_mask, buffer)
        more, more_bad = _count_labels(buffer, n_classes, options, n)
        counted, bad = counted + more, bad + more_bad
    release(buffer)
    return counted, bad


# labels (N,) IN
def scan_labels(labels, n_classes, weights, options, lo, hi):
    """Σ u·w_y over the active rows, and the first row whose label is out of range, or -1."""
    class_weight, sample_weight = weights.class_weight, weights.sample_weight
    total = lost = 0.0
    first_bad = -1
    if not class_weight.size and not sample_weight.size:
        counted, bad = _count_all(labels, n_classes, options, lo, hi)
        if not bad:
            return float(counted), first_bad
    for i in range(lo, hi):
        y = read_label(labels, i, options.label_mask)
        if options.ignoring and y == options.ignore_index:
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
def _store_number(out, i, value):
    """Write a row's number to an output, unless that is absent."""
    if out.size:
        out[i] = value


@inlined
def _store_numbers(outputs, i, lse, top):
    _store_number(outputs.lse, i, lse)
    _store_number(outputs.argmax, i, top)


@inlined
def _zero_where_zero(coefficient, value):
    """`value`, but exactly 0 under a coefficient of 0."""
    return value if coefficient else 0.0


@inlined_by_llvm
def _fill_hess(hess, e, n, sums, factor, z_loss_coef):
    """p_j·(factor·(1 - p_j) + z_loss_coef·p_j); 1 - p of a dominant class is the sum of the others.

    `hess` may be e.
    """
    rest, e_y, inverse = sums
    s, top = rest + e_y, find(e, 1.0, n)
    others = rest if e_y == 1.0 else rest_of_max(e, 0.0, e, n)
    largest = element(e, top)
    map_row(hess_of_exp, e, hess, n, inverse, (factor, z_loss_coef))
    if s < 2.0:
        set_element(hess, top, hess_with_z_loss(largest / s, others / s, factor, z_loss_coef))


@subroutine
def _fill_capped_hess(hess, e, n, of_grad, of_z, scratch, cap):
    """The same for the logits before a softcap: t′²·∂²loss/∂z² + ∂loss/∂z·t″."""
    (z, slope, _, _, grad, h, ones), (scale, bend) = scratch, cap
    fill_grad(grad, e, n, *of_grad)
    _fill_hess(h, e, n, *of_z)
    map_rows(product, h, slope, h, n, 0.0, 0.0)
    map_row(scale_element, h, h, n, scale, 0.0)
    fill_row(ones, n, 1.0)
    capped_row(h, ones, slope, z, grad, hess, n, scale, bend)


@inlined_by_llvm
def _write_hess(hess, e, n, y, up, coefs, a, a_y, sums, scratch, options):
    """The diagonal of the Hessian of a row with respect to its logits."""
    (target_coef, prob_coef, _), z_loss = coefs, options.z_loss
    scale, softcap, up = options.logit_scale, options.softcap, up * options.hess_factor
    factor, z_loss_coef = up * (target_coef + prob_coef), up * (z_loss + z_loss)
    if softcap > 0.0:
        of_grad, of_z = (y, up, coefs, a, a_y, sums), (sums, factor, z_loss_coef)
        cap = scale, softcap_curvature(scale, softcap)
        _fill_capped_hess(hess, e, n, of_grad, of_z, scratch, cap)
    else:
        _fill_hess(hess, e, n, sums, factor * scale * scale, z_loss_coef * scale * scale)


@inlined_by_llvm
def _write_probs(probs, e, n, inverse):
    """p_j = e_j / s."""
    map_row(scale_element, e, probs, n, inverse, 0.0)


@inlined_by_llvm
def fill_grad(grad, e, n, y, up, coefs, a, a_y, sums):
    """up·[(target_coef + prob_coef)·p_j - other_coef·a_j], that of y by its own formula."""
    target_coef, prob_coef, other_coef = coefs
    rest, e_y, inverse = sums
    scale = grad_scale(up, target_coef, prob_coef, inverse)
    if other_coef:
        map_rows(grad_of_exp, e, a, grad, n, scale, up * other_coef)
    else:
        map_row(scale_element, e, grad, n, scale, 0.0)
    grad_y = up * grad_at_target(target_coef, prob_coef, other_coef, a_y, rest, e_y, inverse)
    set_element(grad, y, grad_y)


@subroutine
def _fill_capped_grad(grad, e, n, y, up, coefs, a, a_y, sums, slope):
    """The gradient times the derivative of the softcap; rounded once, so it is formed in e."""
    fill_grad(e, e, n, y, up, coefs, a, a_y, sums)
    map_rows(product, e, slope, grad, n, 0.0, 0.0)


@inlined_by_llvm
def _write_grad(grad, e, n, y, up, coefs, a, a_y, sums, softcap_slope):
    """The gradient of the logits of a row."""
    slope, is_capped = softcap_slope
    if is_capped:
        _fill_capped_grad(grad, e, n, y, up, coefs, a, a_y, sums, slope)
    else:
        fill_grad(grad, e, n, y, up, coefs, a, a_y, sums)


@inlined_by_llvm
def target_of_row(target, sample_weight, options, n, i):
    """The class y (0 for probabilities) and weight u of row i, whether it is active, its fill.

    A row is active unless it is ignored, its weight is 0 or its label is bad. The loss and gradient
    of an inactive row are its fill: 0, or nan for a bad label.
    """
    u = sample_weight[i] if sample_weight.size else 1.0
    if target.ndim == 2:
        return 0, u, u != 0.0, 0.0
    # Read once: another thread may write into target, and only a checked label may be used.
    y = read_label(target, i, options.label_mask)
    ignored = (options.ignoring and y == options.ignore_index) or u == 0.0
    valid = y >= 0 and y < n
    return y, u, valid and not ignored, 0.0 if valid or ignored else math.nan


@inlined_by_llvm
def _may_count(target, options, i):
    """Whether row i may be active, to save work; `target_of_row` reads the label that is used."""
    if target.ndim == 2 or not options.ignoring:
        return True
    return read_label(target, i, options.label_mask) != options.ignore_index


@inlined_by_llvm
def coefficients_of_row(target, weights, options, buffer, z, m, y, i):
    """y, target_coef, other_coef, a, a_y, Σ a as in formulas.py.

    `buffer` takes the a_j of probabilities that are weighted, smoothed or of half precision.
    """
    if target.ndim == 1:
        w = weights.class_weight[y] if weights.class_weight.size else 1.0
        a = row(weights.row_weight, 0)
        return y, options.one_minus_eps * w, options.eps_over_c, a, w, weights.total_weight
    n, q = target.shape[1], row(target, i)
    a = unless_half(target, q, buffer)
    if weights.row_weight.size:
        w = row(weights.row_weight, 0)
        map_rows(smoothed, q, w, buffer, n, options.one_minus_eps, options.eps_over_c)
        a = buffer
    elif is_half(target):
        map_row(scale_element, q, buffer, n, 1.0, 0.0)
    y = find(z, m, n)
    # a still contains a_y. It adds nothing: m - x_y is 0, and the gradient of y is overwritten.
    others, target_coef = sum_without(a, n, y)
    return y, float(target_coef), 1.0, a, 0.0, others


@inlined
def _fill_derivatives(grad, hess, i, n, value):
    """Fill the derivatives of an inactive row: 0, whatever its logits are; nan for a bad label."""
    if_requested(row(grad, i), fill_row, (n, value))
    if_requested(row(hess, i), fill_row, (n, value))


@inlined
def _reserve_rows(logits, target, weights, transforming, outputs):
    """Scratch rows: transformed logits, derivative of the softcap, coefficients, exponentials.

    The last, for half precision, holds the logits first. Then there are three rows for the second
    derivative of a softcap.
    """
    size = whole_lines(logits, logits.shape[1])
    needs_three = transforming or weights.row_weight.size > 0 or is_half(target)
    three = 3 * size if needs_three else 0
    last = three + (size if is_half(logits) else 0)
    rows = reserve(logits, last + (3 * size if is_requested(outputs.hess) else 0))
    first = rows, view(rows, size, rows), view(rows, 2 * size, rows), view(rows, three, rows)
    more = view(rows, last, rows), view(rows, last + size, rows), view(rows, last + 2 * size, rows)
    return (*first, *more)


@inlined_by_llvm
def _sums_alone(x, m, e, n, skip, next_rows):
    return (*exp_sum(x, m, e, n, skip, next_rows), 0.0)


@inlined_by_llvm
def _write_entropy(entropy, i, e, z, m, n, sums, log_s, below):
    """H = log s + Σ_j p_j·(m - z_j); log_s has lost digits if another class than y dominates."""
    _, e_y, inverse = sums
    if inverse > 0.5 and e_y != 1.0:
        log_s = log_sum(rest_of_max(z, m, e, n), 1.0, 1.0)
    entropy[i] = log_s - below * inverse


@inlined
def transform_row(x, scratch, logit_scale, softcap, n, needs_argmax):
    """The row z after scale and softcap, its maximum, the m of m + log s, and the argmax."""
    z, slope = scratch
    if softcap > 0.0:
        softcap_row(x, logit_scale, softcap, z, slope, n)
    else:
        # A negative scale is a positive one of -x, a scale of 0 one of 0·x.
        map_row(scale_element, x, z, n, np.sign(logit_scale), 0.0)
    top = first_max(z, n) if needs_argmax else 0
    m = row_max(z, n)
    if softcap > 0.0:
        return z, m, lse_base(float(m), z, n), top
    # The maximum is subtracted before the scaling, so that rounding errors scale with |z_j - m|.
    base = lse_base(float(m) * abs(logit_scale), z, n)
    map_row(shift_and_scale, z, z, n, m, abs(logit_scale))
    return z, row_max(z, n), base, top


# logits (N, C) IN; target (N,) labels or (N, C) probabilities IN. lo < hi.
def cross_entropy_rows(logits, target, weights, options, divisor, outputs, lo, hi):
    """Σ losses."""
    grad, probs, hess, entropy = outputs.grad, outputs.probs, outputs.hess, outputs.entropy
    n, scale, softcap = logits.shape[1], options.logit_scale, options.softcap
    transforming = softcap > 0.0 or scale != 1.0
    exps = first_requested(outputs)  # holds the exponentials between two scans
    scratch = _reserve_rows(logits, target, weights, transforming, outputs)
    needs_lse, needs_argmax = outputs.lse.size > 0, outputs.argmax.size > 0
    every_row = is_requested(probs) or needs_lse or needs_argmax or is_requested(entropy)
    mode, total, lost = flush_subnormals(), 0.0, 0.0
    ahead, ahead_of = lowest(row(logits, lo)), -1
    may_look_ahead = not (transforming or is_half(logits))
    for i in range(lo, hi):
        y, u, counted, value = target_of_row(target, weights.sample_weight, options, n, i)
        if counted or every_row:
            x, e = row(logits, i), unless_half(exps, row(exps, i), scratch[3])
            if transforming:
                z, m, base, top = transform_row(x, scratch[:2], scale, softcap, n, needs_argmax)
            else:
                z = unless_half(logits, x, scratch[3])
                m = ahead if ahead_of == i else row_max_of(x, z, n)
                base, top = lse_base(float(m), z, n), first_max(z, n) if needs_argmax else 0
            # All else is read from x before the exponentials, which may overwrite it.
            y, target_coef, other_coef, a, a_y, a_sum = coefficients_of_row(
                target, weights, options, scratch[2], z, m, y if counted else 0, i
            )
            margin = float(m) - float(element(z, y))
            below = below_max_sum(z, m, a, n) if other_coef else 0.0
            # rest = Σ_{j≠y} exp(x_j - m), s = rest + exp(x_y - m)
            next_rows = row(logits, i + 1), row(exps, i + (n <= MAX_PREFETCHED_OUTPUT))
            args = z, m, e, n, y if counted else n, next_rows
            rest, e_y, depths = either(entropy, exp_and_depth_sums, _sums_alone, args)
            s, inverse, log_s = rest + e_y, 1.0 / (rest + e_y), log_sum(rest, e_y, 1.0)
            lse = lse_of_row(base, z, m, e, n, s) if needs_lse or options.z_loss else 0.0
            # The next row's maximum now: its loads overlap with the sums of this row.
            if i + 1 < hi and may_look_ahead and _may_count(target, options, i + 1):
                ahead, ahead_of = row_max(row(logits, i + 1), n), i + 1
            _store_numbers(outputs, i, lse, top)
            prob_coef = prob_coefficient(other_coef, a_sum, options.z_loss, lse)
            coefs, sums = (target_coef, prob_coef, other_coef), (rest, e_y, inverse)
            if_requested(entropy, _write_entropy, (i, e, z, m, n, sums, log_s, depths))
            # Each output may overwrite e, so the one that holds it, the first, comes last.
            if counted:
                of = u / divisor, coefs, a, a_y, sums
                if_requested(row(hess, i), _write_hess, (e, n, y, *of, scratch, options))
            if_requested(row(probs, i), _write_probs, (e, n, inverse))
        if counted:
            value = u * row_loss(
                target_coef, other_coef, options.z_loss, margin, log_s, below + a_sum * log_s, lse,
                _zero_where_zero,
            )  # fmt: skip
            up, slope = u * scale / divisor, (scratch[1], softcap > 0.0)
            if_requested(row(grad, i), _write_grad, (e, n, y, up, coefs, a, a_y, sums, slope))
        else:
            _fill_derivatives(grad, hess, i, n, value)
        total, lost = _add(total, lost, value)
        _store_number(outputs.loss, i, value)
    restore_mode(mode)
    release(scratch[0])
    return _sum(total, lost)


# probs, target (N, C) IN
def categorical_rows(probs, target, weights, options, clip, divisor, outputs, lo, hi):
    """Σ losses, of probabilities as target."""
    n, sample_weight, grad = probs.shape[1], weights.sample_weight, outputs.grad
    total = lost = 0.0
    for i in range(lo, hi):
        u, value = sample_weight[i] if sample_weight.size else 1.0, 0.0
        if u == 0.0:
            if_requested(row(grad, i), fill_row, (n, value))
        else:
            # l = u·Σ_j a_j·(-log p_j), ∂L/∂p_j = -(u/D)·a_j / p_j
            value = u * cost_sum(
                row(probs, i), row(target, i), row(weights.row_weight, 0),
                weights.row_weight_step, row(grad, i), -u / divisor, clip, n,
            )  # fmt: skip
        total, lost = _add(total, lost, value)
        _store_number(outputs.loss, i, value)
    return _sum(total, lost)
