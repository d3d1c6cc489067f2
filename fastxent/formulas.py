"""Formulas that the CPU and the CUDA kernels share.

Notation, as in `reference.py`: x the logits of the row, m their maximum, `e_j = exp(x_j - m)`, y
the target class, `rest = Σ_{j≠y} e_j`, `s = rest + e_y`, `lse = m + log s`, `p_j = e_j / s`.

The coefficient of -log p_j is split into `target_coef·[j = y] + other_coef·a_j`:

  - class index y, class weights w, smoothing ε: target_coef = (1-ε)·w_y, other_coef = ε/C, a = w;
  - probabilities q, w, ε: y the most probable class, target_coef = w_y·((1-ε)·q_y + ε/C),
    other_coef = 1, a_j = w_j·((1-ε)·q_j + ε/C) but a_y = 0.

So for both kinds of target the class whose p can round to 1 has separate formulas. `a_sum` is
Σ_j a_j; `up` is the factor of the row's gradient, κ·logit_scale with κ = sample_weight / divisor.

Losses of probabilities and binary losses: p a probability, `one_minus_p` = 1 - p,
e = exp(-|x|), y the target, `neg = w·(1 - y)` and `pos = w·pos_weight·y` the weights of the two
classes.

All functions take scalars; the elementwise formulas also take vectors. The caller passes the
operations that differ between the backends:

  - `where_less(a, b, c, d)`: c where a < b, else d;
  - `zero_where_zero(c, v)`: v, but exactly 0 where the coefficient c is 0, so that a term with
    coefficient 0 adds exactly 0, also if v is inf or nan;
  - the logarithms.

Expressions contain no literal constants: a bare 1 or 2.0 would promote a float32 kernel to float64.
`if c` tests c ≠ 0 in the type of c.
"""

import math

from numba import njit

# --- one row of logits ----------------------------------------------------------------------


@njit(inline="always")
def log_sum(rest, e_y, one):
    """Log s = log(e_y + rest), for 0 <= e_y <= 1 = max_j e_j.

    Where the target is the maximum, e_y is exactly 1 and log1p keeps the rest of a confident row
    (p_y = 1 - 1e-26) that 1 + rest would round away.
    """
    return math.log1p(rest) if e_y == one else math.log(rest + e_y)


@njit(inline="always")
def row_loss(target_coef, other_coef, z_loss, margin, log_s, other_loss, lse, zero_where_zero):
    """target_coef·(lse - x_y) + other_coef·other_loss + z_loss·lse², before sample weights.

    `other_loss` is Σ_j a_j·(lse - x_j). lse - x_y is computed as margin + log s with
    margin = m - x_y, so a common offset of the row cancels. A term with coefficient 0 is exactly 0,
    also if its logit is -inf. A nan row gives nan because log s is nan.
    """
    loss = target_coef * (zero_where_zero(target_coef, margin) + log_s)
    if other_coef:
        loss = loss + other_coef * other_loss
    if z_loss:
        loss = loss + z_loss * lse * lse
    return loss


@njit(inline="always")
def loss_element(a_j, cost_j, zero_where_zero):
    """a_j·cost_j, the loss of one class, for cost_j = m - x_j (without log s) or -log p_j."""
    return zero_where_zero(a_j, a_j * cost_j)


@njit(inline="always")
def coefficient(q_j, w_j, one_minus_eps, eps_over_c, zero_where_zero):
    """a_j = w_j·((1-ε)·q_j + ε/C); 0 where the second factor is: w_j may be inf in float32."""
    smoothed = q_j * one_minus_eps + eps_over_c
    return zero_where_zero(smoothed, smoothed * w_j)


@njit(inline="always")
def prob_coefficient(other_coef, a_sum, z_loss, lse):
    """other_coef·Σ_j a_j + 2·z_loss·lse: with target_coef the coefficient of p in the gradient.

    As an argument it is called `prob_coef`.
    """
    prob_coef = other_coef * a_sum
    if z_loss:  # lse may be infinite
        prob_coef = prob_coef + (z_loss + z_loss) * lse
    return prob_coef


@njit(inline="always")
def grad_at_target(target_coef, prob_coef, other_coef, a_y, rest, e_y, inverse):
    """The gradient ∂loss/∂x_y = target_coef·(p_y - 1) + prob_coef·p_y - other_coef·a_y.

    p_y - 1 is computed as -rest / s: the subtraction is 0 in float32 for a confident row.
    `inverse` is 1 / s.
    """
    return prob_coef * (e_y * inverse) - target_coef * (rest * inverse) - other_coef * a_y


@njit(inline="always")
def grad_scale(up, target_coef, prob_coef, inverse):
    """up·(target_coef + prob_coef) / s, the factor of e_j in the gradient; `inverse` is 1 / s."""
    return up * (target_coef + prob_coef) * inverse


@njit(inline="always")
def grad_element(e_j, scale, a_j, other):
    """The gradient up·∂loss/∂x_j for j ≠ y: scale·e_j - other·a_j.

    `scale` is `grad_scale`, `other` up·other_coef.
    """
    return e_j * scale - a_j * other


# --- second derivatives of a row of logits --------------------------------------------------
#
# By x, H = curvature·(diag(p) - p·pᵀ) + 2·z_loss·p·pᵀ, with curvature = Σ_j a_j + 2·z_loss·lse:
# target_coef + prob_coef.


@njit(inline="always")
def hess_element(p, one_minus_p, factor):
    """∂²loss/∂x_j² = factor·p·(1 - p).

    1 - p of a class that dominates its row has to be computed from the sum of the others.
    """
    return (p * one_minus_p) * factor


@njit(inline="always")
def hess_with_z_loss(p, one_minus_p, factor, z_loss_coef):
    """∂²loss/∂x_j² = p·(factor·(1 - p) + z_loss_coef·p), z_loss_coef = up·2·z_loss."""
    return p * (one_minus_p * factor + p * z_loss_coef)


@njit(inline="always")
def hvp_element(p_j, u_j, mean, factor, z_loss_coef):
    """(H v)_j = p_j·(factor·(v_j - π) + z_loss_coef), π = Σ_k p_k·v_k, z_loss_coef = up·2·z_loss·π.

    u_j = v_j - v_m with m the class of the largest logit, and `mean` = Σ_k p_k·u_k: u_j - mean
    equals v_j - π without cancellation where p_m is close to 1.
    """
    return p_j * ((u_j - mean) * factor + z_loss_coef)


@njit(inline="always")
def softcap_curvature(scale, softcap):
    """-2·logit_scale²/softcap²: `bend` in `softcap_bend`."""
    ratio = scale / softcap
    return -(ratio + ratio) * ratio


@njit(inline="always")
def softcap_bend(z_j, slope_j, bend):
    """t″_j, the second derivative of x_j by its logit: z_j·(1 - tanh²)·bend.

    z_j is softcap·tanh, `bend` is `softcap_curvature`.
    """
    return (z_j * slope_j) * bend


@njit(inline="always")
def capped_product(h_j, t1_j, grad_j, t2_j, v_j, zero_where_zero):
    """t′_j·h_j + grad_j·t″_j·v_j: by the logit, for h = H(t′∘v) and grad by x."""
    c = grad_j * t2_j
    return h_j * t1_j + zero_where_zero(c, c * v_j)


# --- entropy --------------------------------------------------------------------------------


@njit(inline="always")
def entropy_term(e_j, depth_j, zero_where_zero):
    """e_j·depth_j with depth_j = m - x_j; exactly 0 where e_j is, also for x_j = -inf.

    H = log s + Σ_j p_j·depth_j, a sum of terms of one sign.
    """
    return zero_where_zero(e_j, e_j * depth_j)


@njit(inline="always")
def entropy_grad_element(p_j, depth_j, mean, zero_where_zero):
    """∂H/∂x_j = -p_j·(log p_j + H) = p_j·(depth_j - mean), `mean` being Σ_k p_k·depth_k."""
    return zero_where_zero(p_j, p_j * (depth_j - mean))


@njit(inline="always")
def softcap_parts(e, expm1, one):
    """-|tanh a| and 1 - tanh² a from e = exp(-2|a|) and expm1(-2|a|).

    |tanh a| = (1 - e)/(1 + e) and 1 - tanh² a = 4e/(1 + e)². Neither loses digits to cancellation,
    for small and for large a.
    """
    denominator = e + one
    return expm1 / denominator, ((e + e) / denominator) * ((one + one) / denominator)


# --- losses of probabilities ----------------------------------------------------------------


@njit(inline="always")
def clipped(p, bounds, where_less):
    """Clip p to `bounds` = (low, high, below, above): `below` if p < low, `above` if p > high."""
    low, high, below, above = bounds
    return where_less(p, low, below, where_less(high, p, above, p))


@njit(inline="always")
def clipped_pair(p, bounds, one, where_less):
    """Clip p and 1 - p separately: 1 - clip(p) would lose a bound below the rounding of 1."""
    return clipped(p, bounds, where_less), clipped(one - p, bounds, where_less)


@njit(inline="always")
def costs(p, one_minus_p, most, log, log1m, where_less):
    """-log p and -log(1 - p), at most `most` each: both from the smaller of p and 1 - p.

    The smaller one is exact. log1m(x) is -log(1 - x).
    """
    smaller = where_less(p, one_minus_p, p, one_minus_p)
    high, low = -log(smaller), log1m(smaller)
    high = where_less(most, high, most, high)
    return where_less(p, one_minus_p, high, low), where_less(p, one_minus_p, low, high)


@njit(inline="always")
def cost(p, one_minus_p, most, log_of, where_less):
    """-log p, at most `most`: the first of `costs`.

    log_of(p, 1 - p) is log p, from 1 - p where p is close to 1.
    """
    value = -log_of(p, one_minus_p)
    return where_less(most, value, most, value)


@njit(inline="always")
def at_least(p, floor, where_less):
    """max(p, floor), or nan if p is nan: the divisor of the gradient."""
    return where_less(p, floor, floor, p)


@njit(inline="always")
def prob_grad_element(a_j, p_j, scale, floor, where_less, zero_where_zero):
    """scale·a_j / max(p_j, floor), the gradient of a loss of probabilities; scale is -κ."""
    return zero_where_zero(a_j, (a_j * scale) / at_least(p_j, floor, where_less))


# --- binary losses --------------------------------------------------------------------------


@njit(inline="always")
def binary_prob_loss(y, w, cost_p, cost_one_minus_p, one):
    """w·(y·(-log p) + (1-y)·(-log(1-p)))."""
    return w * (y * cost_p + (one - y) * cost_one_minus_p)


@njit(inline="always")
def binary_slope(y, p, one_minus_p, floor, one, where_less):
    """(p - y) / max(p·(1-p), floor).

    p - y is computed as (1-y)·p - y·(1-p), which is accurate where p is close to y.
    """
    return ((one - y) * p - y * one_minus_p) / at_least(p * one_minus_p, floor, where_less)


@njit(inline="always")
def binary_weights(y, w, pos_weight, one, zero_where_zero):
    """neg = w·(1 - y) and pos = w·pos_weight·y, exactly 0 if the factor of the label is 0.

    This holds also if the weight overflows float32.
    """
    not_y, heavy_y = one - y, zero_where_zero(y, pos_weight * y)
    return zero_where_zero(not_y, w * not_y), zero_where_zero(heavy_y, w * heavy_y)


@njit(inline="always")
def sigmoid_pair(x, e, zero, one, where_less):
    """σ(x) and σ(-x): 1/(1+e) and e/(1+e), the larger on the side of x."""
    larger = one / (one + e)
    smaller = e * larger
    return where_less(x, zero, smaller, larger), where_less(x, zero, larger, smaller)


@njit(inline="always")
def binary_sides(x, neg, pos, zero, where_less):
    """The coefficients of σ(|x|) and σ(-|x|) in the gradient: neg and -pos, swapped if x < 0.

    The first is also the coefficient of x in the loss: log(1 + exp(±x)) is max(±x, 0) + log(1+e),
    and one of max(x, 0) and max(-x, 0) is 0.
    """
    return where_less(x, zero, -pos, neg), where_less(x, zero, neg, -pos)


@njit(inline="always")
def product(a, b, zero_where_zero):
    """a·b, but exactly 0 where either is 0, whatever the other holds."""
    return zero_where_zero(b, zero_where_zero(a, a * b))


@njit(inline="always")
def binary_loss(outer, x, log_part, times):
    """neg·log(1 + exp(x)) + pos·log(1 + exp(-x)), for log_part = (neg + pos)·log(1+e).

    times(a, b) is `product`: a coefficient of 0 adds exactly 0, also for x = ±inf, and an infinite
    coefficient does not give nan for x = 0.
    """
    return times(outer, x) + log_part


@njit(inline="always")
def binary_grad(outer, inner, e, scale, one, zero_where_zero):
    """scale·∂loss/∂x = scale·(neg·σ(x) - pos·σ(-x)) = scale·(outer + inner·e)/(1+e).

    Weights of 0 give 0, also if x is inf or nan.
    """
    slope = outer + zero_where_zero(inner, inner * e)
    return zero_where_zero(slope, slope * (scale / (one + e)))


@njit(inline="always")
def binary_hess(both, sigma, sigma_neg, scale, zero_where_zero):
    """scale·∂²loss/∂x² = scale·(neg + pos)·σ(x)·σ(-x)."""
    return zero_where_zero(both, both * (sigma * sigma_neg) * scale)
