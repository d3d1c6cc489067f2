"""Rows in chunks of classes: the statistics of each chunk, their merge, and the results.

For chunk k of a row, with z the logits after scale and softcap:

    m_k = max z      L_k = log Σ exp(z_c − m_k)      lse_k = m_k + L_k

and for each kind of coefficients a_c of the loss (at most two kinds),

    F_k = Σ a_c (lse_k − z_c)      A_k = Σ a_c

All are sums of positive terms, which the kernel computes with the accuracy of a whole row. The
merged values, with m the largest m_k, in chunk h, are:

    L = log1p(expm1(L_h) + Σ_{k≠h} exp(m_k − m + L_k))
    F = Σ_k F_k + A_k ((m − m_k) + (L − L_k))          A = Σ_k A_k

which has the same form, so merges can be nested in any tree. No formula subtracts z_c from lse, or
1 from a probability, so common offsets and confident rows lose no digits to cancellation. In the
second pass the softmax within chunk k is multiplied by the chunk's probability,
exp((m_k − m) + (L_k − L)); at the label p − 1 = expm1(log p), where log p = −F.
"""

from typing import Any, NamedTuple

import numpy as np

from fastxent.arrays.dask.blocks import compute, is_half
from fastxent.functions import CROSS_ENTROPY

# Indices in the last axis of statistics: the largest logit before scale and softcap, its class, L;
# then F and A of each kind of coefficients.
LARGEST, CLASS, LOG_S, KINDS = 0, 1, 2, 3


class Transform(NamedTuple):
    """The logits after scale and softcap, as functions of the logits."""

    logit_scale: float = 1.0
    softcap: float | None = None

    def of(self, x: Any) -> Any:
        """Logits after scale and softcap."""
        z = self.logit_scale * x
        return z if self.softcap is None else self.softcap * np.tanh(z / self.softcap)

    def below(self, x: Any, largest: Any) -> Any:
        """z(x) − z(largest), computed so that a common offset cancels."""
        if self.softcap is None:
            return self.logit_scale * (x - largest)
        return self.of(x) - self.of(largest)

    def slope(self, x: Any) -> Any:
        """The derivative of z."""
        if self.softcap is None:
            return self.logit_scale
        return self.logit_scale / np.cosh(self.logit_scale * x / self.softcap) ** 2

    def bend(self, x: Any) -> Any:
        """The second derivative of z."""
        if self.softcap is None:
            return 0.0
        tau = np.tanh(self.logit_scale * x / self.softcap)
        return -2 * self.logit_scale / self.softcap * tau * self.slope(x)


class RowLoss(NamedTuple):
    """The options of a loss that are needed for a chunk."""

    compute: Any  # the type of the computation
    transform: Transform
    n_classes: int  # of all chunks
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    ignore_index: int | None = None
    divided: bool = False  # whether there is a divisor


def times(c: Any, v: Any) -> Any:
    """c·v, exactly 0 where the coefficient c is 0, even if v is infinite."""
    return np.where(c == 0, 0.0, c * v)


# --- the first pass -----------------------------------------------------------------------------


def chunk_statistics(loss: RowLoss, x: Any, target: Any, w: Any, classes: Any) -> Any:
    """Compute the statistics (…, n) of a chunk x (…, c) of these class indices.

    `target` is labels (…), class probabilities (…, c), or None; `w` is (c,) or None.
    """
    options = {**loss.transform._asdict(), "reduction": "none", "check_target": False}
    here, local = _local(target, x, classes)
    lost, j = compute(CROSS_ENTROPY, x, local, return_argmax=True, **options)
    log_s = compute(CROSS_ENTROPY, x, j, **options).astype(np.float64)
    largest = np.take_along_axis(x, j[..., None], -1)[..., 0].astype(np.float64)
    # For a chunk of −inf alone the kernel returns nan, but the chunk adds 0 without coefficients.
    dead = loss.transform.of(largest) == -np.inf
    log_s[dead] = 0.0
    statistics = [largest, j + float(classes[0]), log_s]
    if target is None:
        return np.stack(statistics, -1)
    epsilon = loss.label_smoothing
    if target.ndim < x.ndim:
        statistics += [np.where(here, np.where(dead, np.inf, lost), 0.0), here.astype(np.float64)]
        if not epsilon:
            return np.stack(statistics, -1)
        f_all, a_all = np.zeros(here.shape), np.zeros(here.shape)
    else:
        f_all = compute(CROSS_ENTROPY, x, target, weight=w, **options).astype(np.float64)
        ones = np.ones(x.shape[-1]) if w is None else w.astype(np.float64)
        f_all = times(1 - epsilon, f_all)
        a_all = (1 - epsilon) * (target.astype(np.float64) @ ones)
    smoothing = epsilon / loss.n_classes
    if epsilon:
        n = x.shape[-1]
        uniform = compute(CROSS_ENTROPY, x, local, weight=w, label_smoothing=1.0, **options)
        f_all = f_all + smoothing * n * uniform.astype(np.float64)
        a_all = a_all + smoothing * (n if w is None else w.sum(dtype=np.float64))
    if dead.any():
        dead_target = None if target.ndim < x.ndim else target[dead]
        a = coefficients(loss, dead_target, w, (int(dead.sum()), x.shape[-1]))
        f_all[dead] = times(a, np.inf).sum(-1)
    return np.stack([*statistics, f_all, a_all], -1)


def _local(target: Any, x: Any, classes: Any) -> tuple[Any, Any]:
    """Which labels are in a chunk of these classes, and their indices in it (0 for others)."""
    if target is None or target.ndim == x.ndim:
        return None, np.zeros(x.shape[:-1], np.int64)
    here = (target >= classes[0]) & (target <= classes[-1])
    return here, np.where(here, target, classes[0]).astype(np.int64) - classes[0]


def coefficients(loss: RowLoss, target: Any, w: Any, shape: tuple[int, ...]) -> Any:
    """The coefficients a (…, c) of class probabilities, or of smoothing alone, for a chunk."""
    a = np.full(shape, loss.label_smoothing / loss.n_classes)
    if target is not None:
        a += (1 - loss.label_smoothing) * target.astype(np.float64)
    return a if w is None else a * w.astype(np.float64)


def merge(transform: Transform, statistics: Any) -> Any:
    """Merge the statistics (…, K, n) of K chunks to (…, n)."""
    largest, log_s = statistics[..., LARGEST], statistics[..., LOG_S]
    z = transform.of(largest)
    h = z.argmax(-1)[..., None]  # the first; or the first nan
    whole = np.take_along_axis(statistics, h[..., None], -2)[..., 0, :]
    below = transform.below(largest, whole[..., LARGEST, None])
    below[~np.isfinite(np.take_along_axis(z, h, -1)[..., 0])] = np.nan
    terms = np.exp(below + log_s)
    np.put_along_axis(terms, h, np.expm1(np.take_along_axis(log_s, h, -1)), -1)
    rest = terms.sum(-1)
    log_all = np.log1p(rest)
    # If all logits so far are −inf, they add 0 when merged with other chunks.
    whole[..., LOG_S] = np.where(transform.of(whole[..., LARGEST]) == -np.inf, 0.0, log_all)
    for at in range(KINDS, statistics.shape[-1], 2):
        lost, total = statistics[..., at], statistics[..., at + 1]
        # Where no chunk has a finite logit, F is unchanged.
        further = np.where(z == -np.inf, np.inf, whole[..., LOG_S, None] - log_s - below)
        whole[..., at] = (lost + times(total, further)).sum(-1)
        whole[..., at + 1] = total.sum(-1)
    return whole


# --- between them -------------------------------------------------------------------------------


class RowTerms(NamedTuple):
    """Terms of rows (…), computed from merged statistics; all float64."""

    largest: Any
    log_s: Any  # nan for a nan row
    lse: Any
    lost: Any  # the loss
    at_label: Any  # F and A of the label's class: −log p_y, and (1 − ε)·w_y
    by_label: Any
    a_all: Any  # A of the coefficients of all classes
    prob_coef: Any  # A + 2·z_loss·lse, the coefficient of p in the gradient by z
    scale: Any  # u / D; 0 for ignored rows


def softmax_rows(transform: Transform, whole: Any) -> tuple[Any, Any, Any]:
    """The largest logit, L (nan for a nan row), and lse of rows."""
    largest = whole[..., LARGEST]
    z = transform.of(largest)
    finite = np.isfinite(z)
    log_s = np.where(finite, whole[..., LOG_S], np.nan)
    return largest, log_s, np.where(finite, z + log_s, z)


def row_terms(
    loss: RowLoss, whole: Any, target: Any, u: Any, w_label: Any, divisor: Any
) -> RowTerms:
    """Compute terms of rows from merged statistics (…, n) and labels (…) or None.

    `w_label` are the class weights of the labels.
    """
    largest, log_s, lse = softmax_rows(loss.transform, whole)
    zero = np.zeros(lse.shape)
    f_all = a_all = zero
    if target is None or loss.label_smoothing:
        f_all, a_all = whole[..., -2], whole[..., -1]
    u = np.ones(lse.shape) if u is None else u.astype(np.float64)
    counted = u != 0
    if target is None:
        at_label, by_label = zero, zero
    else:
        at_label = whole[..., KINDS]
        by_label = (1 - loss.label_smoothing) * w_label
        bad = (target < 0) | (target >= loss.n_classes)
        if loss.ignore_index is not None:
            ignored = target == loss.ignore_index
            counted, bad = counted & ~ignored, bad & ~ignored
        u = np.where(bad, np.nan, u)
    lost = times(by_label, at_label) + f_all
    if loss.z_loss:
        lost = lost + loss.z_loss * lse * lse
    # A nan row has a nan loss even if all coefficients are 0.
    lost = np.where(counted, u * (lost + 0 * log_s), 0.0)
    scale = np.where(counted, u, 0.0)
    if loss.divided:
        scale = np.where(divisor == 0, 0.0, scale / divisor)
    prob_coef = a_all + by_label + (2 * loss.z_loss * lse if loss.z_loss else 0.0)
    return RowTerms(largest, log_s, lse, lost, at_label, by_label, a_all, prob_coef, scale)


# --- the second pass ----------------------------------------------------------------------------


def probabilities(loss: RowLoss, x: Any, statistics: Any, largest: Any, log_s: Any) -> Any:
    """Compute a chunk of softmax (…, c) from the statistics of the chunk and of the rows."""
    if is_half(x.dtype):
        x = x.astype(loss.compute)  # so that p is rounded once, at the end
    labels = np.zeros(x.shape[:-1], np.int64)
    options = {**loss.transform._asdict(), "reduction": "none"}
    _, p = compute(CROSS_ENTROPY, x, labels, return_probs=True, **options)
    below = loss.transform.below(statistics[..., LARGEST], largest)
    chunk_prob = np.exp(below + (statistics[..., LOG_S] - log_s))
    p *= chunk_prob[..., None].astype(loss.compute)
    dead = loss.transform.of(statistics[..., LARGEST]) == -np.inf
    p[dead & ~np.isnan(log_s)] = 0
    return p


def gradient_by_z(
    loss: RowLoss, p: Any, r: RowTerms, whole: Any, target: Any, w: Any, classes: Any
) -> Any:
    """Compute a chunk of the gradient (…, c) by the logits after scale and softcap."""
    prob_coef, is_index = r.prob_coef, target.ndim < p.ndim
    # Whole rows in the type of the computation, single elements in float64.
    if is_index and not loss.label_smoothing:
        grad = p * (r.scale * prob_coef)[..., None].astype(loss.compute)
    else:
        a = coefficients(loss, None if is_index else target, w, p.shape)
        grad = prob_coef[..., None] * p - a
        if not is_index:
            here, at = _largest_here(whole, classes)
            grad[at] = (prob_coef[here] - a[at]) * p[at] + a[at] * np.expm1(-r.log_s[here])
        grad *= r.scale[..., None]
        grad = grad.astype(loss.compute)
    if is_index:
        is_here, local = _local(target, p, classes)
        here = np.nonzero(is_here)
        at = (*here, local[here])
        rest = prob_coef - r.by_label
        element = rest[here] * p[at] + r.by_label[here] * np.expm1(-r.at_label[here])
        if loss.label_smoothing:
            element -= loss.label_smoothing / loss.n_classes * (1.0 if w is None else w[at[-1]])
        # A nan row is nan at the label too.
        grad[at] = r.scale[here] * (element + 0 * r.log_s[here])
    return grad


def gradient(loss: RowLoss, x: Any, r: RowTerms, by_z: Any) -> Any:
    """Compute a chunk of the gradient (…, c) by the logits."""
    grad = by_z
    if loss.transform != Transform():
        slope = loss.transform.slope(x.astype(np.float64) if loss.transform.softcap else x)
        grad = (by_z * slope).astype(loss.compute)
    grad[r.scale == 0] = 0
    return grad


def _largest_here(whole: Any, classes: Any) -> tuple[Any, Any]:
    """The rows whose largest logit is in a chunk, and its index: only there p may be close to 1.

    1 − p is −expm1(−L) there.
    """
    j = whole[..., CLASS]
    here = np.nonzero((j >= classes[0]) & (j <= classes[-1]))
    return here, (*here, j[here].astype(np.int64) - classes[0])


def hessian(
    loss: RowLoss, x: Any, p: Any, r: RowTerms, whole: Any, by_z: Any, classes: Any
) -> Any:  # fmt: skip
    """Compute a chunk of the Hessian's diagonal (…, c); `by_z` is needed for a softcap only."""
    one_minus_p = 1 - p.astype(np.float64)
    here, at = _largest_here(whole, classes)
    one_minus_p[at] = -np.expm1(-r.log_s[here])
    factor = r.prob_coef[..., None] * one_minus_p + 2 * loss.z_loss * p
    hess = r.scale[..., None] * p * factor
    if loss.transform.softcap is None:
        hess *= loss.transform.logit_scale**2
    else:
        x = x.astype(np.float64)
        hess = loss.transform.slope(x) ** 2 * hess + times(loss.transform.bend(x), by_z)
    hess[r.scale == 0] = 0
    return hess.astype(loss.compute)
