"""The formulas that the CPU and the CUDA kernels share, each once, on the scalars of one row.

Notation, here and in every kernel: x the logits of the row, m their maximum, `e_j = exp(x_j - m)`,
y the class set apart, `rest = Σ_{j≠y} e_j`, `s = rest + e_y`, `lse = m + log s`, p = e / s.

Every target is coefficients of -log p_j, taken as `apart·[j = y] + share·a_j`:
  - class index y, class weights w, smoothing ε: apart = (1-ε)·w_y, share = ε/C, a = w;
  - probabilities q, w, ε: y the likeliest class, share = 1, a_j = w_j·((1-ε)·q_j + ε/C) but
    a_y = 0, for apart is y's. So the one class that p may be as good as 1 of has formulas of its
    own under both.
`total` is Σ_j a_j.

Losses of probabilities and binary ones: p a probability, r = 1 - p, e = exp(-|x|), y the target,
`neg = w·(1 - y)` and `pos = w·pos_weight·y` the weights of the two classes. These are written for
scalars and for vectors, so the caller gives what differs: `where_less(a, b, c, d)`, c where a < b,
else d; `times(c, v)`, c·v but exactly 0 where c is 0; the logarithms.

No constant stands in an expression: a bare 1 or 2.0 would make float64 of a float32 kernel.
`if a` asks for a ≠ 0 in a's own type.
"""

import math

from numba import njit


@njit(inline="always")
def log_sum(rest, e_y, one):
    """Log s = log(e_y + rest), for 0 <= e_y <= 1 = max_j e_j.

    Where the target is the maximum, e_y is exactly 1 and log1p keeps the rest of a confident row
    (p_y = 1 - 1e-26) that 1 + rest would round away.
    """
    return math.log1p(rest) if e_y == one else math.log(rest + e_y)


@njit(inline="always")
def row_loss(apart, share, z_loss, margin, log_s, shared, lse, kept):
    """apart·(lse - x_y) + share·Σ_j a_j·(lse - x_j) + z_loss·lse², before sample weights.

    `shared` is the sum. lse - x_y is taken as (m - x_y) + log s: an offset shared by the row must
    not reach the result. A term without weight is exactly 0, also where its logit is -inf; a row
    that is nan stays nan, by log s.
    """
    loss = apart * (kept(apart, margin) + log_s)
    if share:
        loss = loss + share * shared
    if z_loss:
        loss = loss + z_loss * lse * lse
    return loss


@njit(inline="always")
def shared_pull(share, total, z_loss, lse):
    """The factor of p_j beside `apart` in the gradient: share·Σ a_j + 2·z_loss·lse."""
    pull = share * total
    if z_loss:  # lse may be infinite
        pull = pull + (z_loss + z_loss) * lse
    return pull


@njit(inline="always")
def grad_at_target(apart, pull, share, a_y, rest, e_y, inverse):
    """∂loss/∂x_y = apart·(p_y - 1) + pull·p_y - share·a_y, `inverse` being 1 / s.

    p_y - 1 is taken as -rest / s: the subtraction is 0 in float32 for a confident row.
    """
    return pull * (e_y * inverse) - apart * (rest * inverse) - share * a_y


@njit(inline="always")
def softcap_parts(e, expm1, one):
    """-|tanh a| and 1 - tanh² a from e = exp(-2|a|) and expm1(-2|a|), by scalars or vectors.

    |tanh a| = (1 - e)/(1 + e) and 1 - tanh² a = 4e/(1 + e)², where 1 - e (small a), e (large a)
    and 1 - tanh² a each keep their digits.
    """
    denominator = e + one
    return expm1 / denominator, ((e + e) / denominator) * ((one + one) / denominator)


@njit(inline="always")
def clipped(p, bounds, where_less):
    """P within `bounds` = (low, high, below, above): what lies outside becomes below or above."""
    low, high, below, above = bounds
    return where_less(p, low, below, where_less(high, p, above, p))


@njit(inline="always")
def costs(p, r, most, log, log1m, where_less):
    """-log p and -log r, at most `most` each: both from the smaller of the two, which is exact.

    log1m(x) is -log(1 - x).
    """
    smaller = where_less(p, r, p, r)
    high, low = -log(smaller), log1m(smaller)
    high = where_less(most, high, most, high)
    return where_less(p, r, high, low), where_less(p, r, low, high)


@njit(inline="always")
def at_least(p, floor, where_less):
    """max(p, floor), but nan of nan: what the gradient is divided by."""
    return where_less(p, floor, floor, p)


@njit(inline="always")
def binary_slope(y, p, r, floor, one, where_less):
    """(p - y) / max(p·r, floor); p - y as (1-y)·p - y·r, which holds where p rounds to y."""
    return ((one - y) * p - y * r) / at_least(p * r, floor, where_less)


@njit(inline="always")
def softplus_pair(x, log1p_e, zero, where_less):
    """log(1 + exp(x)) and log(1 + exp(-x)), each to its own accuracy: max(±x, 0) + log1p(e)."""
    return where_less(zero, x, x, zero) + log1p_e, where_less(x, zero, -x, zero) + log1p_e


@njit(inline="always")
def sigmoid_pair(x, e, zero, one, where_less):
    """σ(x) and σ(-x): 1/(1+e) and e/(1+e), the larger on the side of x."""
    larger = one / (one + e)
    smaller = e * larger
    return where_less(x, zero, smaller, larger), where_less(x, zero, larger, smaller)
