"""Hessian-vector products of rows of any number of classes.

As in `kernels.py`, the logits and the vector of a row are read from memory once and the product is
written once. The row's exponentials are kept in scratch memory, as the result may overlap either
input.
"""

from fastxent.cpu.float_mode import flush_subnormals, restore_mode
from fastxent.cpu.jit import inlined, inlined_by_llvm, subroutine
from fastxent.cpu.kernels import (
    MAX_PREFETCHED_OUTPUT,
    coefficients_of_row,
    fill_grad,
    lse_base,
    lse_of_row,
    target_of_row,
    transform_row,
)
from fastxent.cpu.lanes import where_equal
from fastxent.cpu.memory import element, row, unless_half
from fastxent.cpu.row import (
    capped_row,
    exp_sum,
    fill_row,
    find,
    map_row,
    map_rows,
    product,
    product_sum,
    row_max_of,
    scale_element,
)
from fastxent.cpu.scratch import release, reserve, view, whole_lines
from fastxent.formulas import hvp_element, prob_coefficient, softcap_curvature


@inlined
def _reserve_rows(logits):
    """Scratch rows: transformed logits, t′, coefficients, exponentials, gradient, t′∘v."""
    size = whole_lines(logits, logits.shape[1])
    rows = reserve(logits, 6 * size)
    return (
        rows, view(rows, size, rows), view(rows, 2 * size, rows), view(rows, 3 * size, rows),
        view(rows, 4 * size, rows), view(rows, 5 * size, rows),
    )  # fmt: skip


@subroutine
def hvp_of_exp(e, v, a, b):
    """The product from e_j and v_j, for a = (1 / s, v_m, mean), b = (factor, z_loss_coef, fill).

    The product of a class with e_j = 0 is `fill`, whatever its v_j: 0, or nan in rows of nan.
    """
    (inverse, v_m, mean), (factor, z_loss_coef, fill) = a, b
    value = hvp_element(e * inverse, v - v_m, mean, factor, z_loss_coef)
    return where_equal(e, 0.0, fill, value)


@inlined_by_llvm
def _fill_product(out, e, v, m_at, s, curvature, up, z_loss, n, next_v):
    """up·H·v for the logits whose exponentials are e, the largest at m_at; out may be e."""
    v_m, inverse = element(v, m_at), 1.0 / s
    mean = product_sum(e, v, v_m, n, next_v) * inverse
    factor, z_loss_coef = up * curvature, 0.0
    if z_loss:
        # π directly: v_m + mean would have lost its digits where v_m is large and p_m is not.
        z_loss_coef = up * (z_loss + z_loss) * (product_sum(e, v, 0.0, n, None) * inverse)
    fill = (factor + z_loss_coef) * inverse * 0.0
    map_rows(hvp_of_exp, e, v, out, n, (inverse, v_m, mean), (factor, z_loss_coef, fill))


@subroutine
def _fill_capped(out, v, y, m_at, sums, coefs, of_a, up, z_loss, scratch, cap, n):
    """The same for the logits before a softcap: t′∘H(t′∘v) + g∘t″∘v."""
    (z, slope, _, e, grad, moved), (scale, bend) = scratch, cap
    (target_coef, prob_coef, _), (rest, e_y, _) = coefs, sums
    fill_grad(grad, e, n, y, up, coefs, *of_a, sums)
    map_rows(product, slope, v, moved, n, 0.0, 0.0)
    map_row(scale_element, moved, moved, n, scale, 0.0)
    curvature = target_coef + prob_coef
    _fill_product(e, e, moved, m_at, rest + e_y, curvature, up, z_loss, n, None)
    capped_row(e, v, slope, z, grad, out, n, scale, bend)


# logits, vector (N, C) IN; target (N,) labels or (N, C) probabilities IN; out (N, C) OUT
def hvp_rows(logits, target, vector, weights, options, divisor, out, lo, hi):
    n, scale, softcap = logits.shape[1], options.logit_scale, options.softcap
    transforming, z_loss = softcap > 0.0 or scale != 1.0, options.z_loss
    scratch, is_short = _reserve_rows(logits), n <= MAX_PREFETCHED_OUTPUT
    e, mode = scratch[3], flush_subnormals()
    for i in range(lo, hi):
        y, u, counted, value = target_of_row(target, weights.sample_weight, options, n, i)
        if not counted:  # 0 for ignored rows, whatever their logits are, nan for bad labels
            fill_row(row(out, i), n, value)
            continue
        x, v = row(logits, i), row(vector, i)
        if transforming:
            z, m, base, _ = transform_row(x, scratch[:2], scale, softcap, n, False)
        else:
            z = unless_half(logits, x, scratch[0])
            m = row_max_of(x, z, n)
            base = lse_base(float(m), z, n)
        y, target_coef, other_coef, a, a_y, a_sum = coefficients_of_row(
            target, weights, options, scratch[2], z, m, y, i
        )
        m_at = find(z, m, n)
        # rest = Σ_{j≠y} exp(x_j - m), s = rest + exp(x_y - m)
        next_rows = row(logits, i + 1), row(out, i + is_short)
        rest, e_y = exp_sum(z, m, e, n, y, next_rows)
        s = rest + e_y
        lse = lse_of_row(base, z, m, e, n, s) if z_loss else 0.0
        prob_coef = prob_coefficient(other_coef, a_sum, z_loss, lse)
        up = u / divisor
        if softcap > 0.0:
            coefs, sums = (target_coef, prob_coef, other_coef), (rest, e_y, 1.0 / s)
            cap = scale, softcap_curvature(scale, softcap)
            _fill_capped(
                row(out, i), v, y, m_at, sums, coefs, (a, a_y), up, z_loss, scratch, cap, n
            )
        else:
            # z = ±scale·x + a constant, so that the scale is a factor of the product, squared.
            curvature, next_v = target_coef + prob_coef, row(vector, i + is_short)
            up *= scale * scale
            _fill_product(row(out, i), e, v, m_at, s, curvature, up, z_loss, n, next_v)
    restore_mode(mode)
    release(scratch[0])
