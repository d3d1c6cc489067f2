"""The specification in code: every function of fastxent in plain float64 NumPy.

It shows what the fast functions compute; docs/specification.md has the same in words. Logits ``x``
have shape ``(…, C)`` once the class axis is moved to the end. For one row, with ``m = max_j x_j``
at class ``k``::

    rest = Σ_{j≠k} exp(x_j − m)        s    = 1 + rest          p_j = exp(x_j − m) / s
    log s = log1p(rest)                lse  = m + log s         −log p_j = log s − (x_j − m)

Both kinds of target, class weights ``w`` and label smoothing ε reduce to one coefficient ``a_j``
per class (`_index_target`, `_probability_target`), and with ``A = Σ_j a_j``::

    loss = Σ_j a_j·(−log p_j) + z_loss·lse²        ∂loss/∂x_j = A·p_j − a_j + 2·z_loss·lse·p_j

and its second derivative times a vector v, with ``π = Σ_k p_k·v_k``::

    (H v)_j = p_j·( (A + 2·z_loss·lse)·(v_j − π) + 2·z_loss·π )

Names, defaults, results and corner cases are those of fastxent, with these differences: there are
no buffers (``out``, ``grad_out``, ``probs_out``, ``accumulate``); inputs are checked only where the
result would be wrong; results are float64, or longdouble for longdouble inputs, which the tests use
as exact arithmetic. This code is not optimised.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "LinearGrad",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_hvp",
    "categorical_cross_entropy",
    "cross_entropy",
    "cross_entropy_hvp",
    "entropy",
    "linear_cross_entropy",
    "linear_cross_entropy_hvp",
    "log_softmax",
    "logsumexp",
    "softmax",
]

Array = NDArray[Any]

# Functions ignore floating-point errors: inf − inf, log 0 and 0·inf are intended where they occur.


class LinearGrad(NamedTuple):
    """A derivative of `linear_cross_entropy`, one array per input (None without a bias)."""

    x: Any
    linear_weight: Any
    linear_bias: Any


# ---- softmax: all of its numerics in one helper -------------------------------------------------


class _Softmax(NamedTuple):
    k: Array  # (…, 1) the first maximum, or the first nan
    d: Array  # (…, C) x − m
    log_s: Array  # (…, 1)
    lse: Array  # (…, 1)
    p: Array  # (…, C)
    one_minus_p: Array  # (…, C)


def _softmax(x: Array) -> _Softmax:
    k = x.argmax(-1, keepdims=True)
    m = np.take_along_axis(x, k, -1)
    is_max = np.arange(x.shape[-1]) == k
    # A maximum of nan, +inf or −inf (a row of −inf alone) makes the whole row nan.
    d = np.where(np.isfinite(m), x - m, np.nan)
    e = np.exp(d)
    # The exp of the maximum is 1. For a confident row log(1 + rest) would round to 0.
    rest = np.where(is_max, 0, e).sum(-1, keepdims=True)
    log_s = np.log1p(rest)
    lse = np.where(np.isfinite(m), m + log_s, m)
    p = e / (1 + rest)
    # Away from the maximum p ≤ 1/2, and 1 − p loses no digits.
    one_minus_p = np.where(is_max, rest / (1 + rest), 1 - p)
    return _Softmax(k, d, log_s, lse, p, one_minus_p)


@np.errstate(all="ignore")
def softmax(logits: ArrayLike, *, axis: int = -1) -> Array:
    """Return ``p_j = exp(x_j − m) / s`` along `axis`; an empty array if the axis is empty."""
    x = _axis_last(logits, axis)
    return _axis_back(_softmax(x).p if x.size else x, axis)


@np.errstate(all="ignore")
def log_softmax(logits: ArrayLike, *, axis: int = -1) -> Array:
    """Return ``log p_j = (x_j − m) − log s`` along `axis`; at the maximum, ``−log1p(rest)``."""
    x = _axis_last(logits, axis)
    if not x.size:
        return _axis_back(x, axis)
    f = _softmax(x)
    return _axis_back(f.d - f.log_s, axis)


@np.errstate(all="ignore")
def logsumexp(logits: ArrayLike, *, axis: int = -1, keepdims: bool = False) -> Any:
    """Return ``m + log s`` along `axis`; −inf if the axis is empty."""
    x = _axis_last(logits, axis)
    empty = x.shape[-1] == 0
    lse = np.full_like(x, -np.inf, shape=(*x.shape[:-1], 1)) if empty else _softmax(x).lse
    return _axis_back(lse, axis) if keepdims else lse[..., 0]


@np.errstate(all="ignore")
def entropy(logits: ArrayLike, *, axis: int = -1, return_grad: bool = False) -> Any:
    """Return ``H = Σ_j p_j·(log s − (x_j − m))`` along `axis`, and the gradient of ΣH.

    The gradient is ``−p_j·(log p_j + H) = p_j·((m − x_j) − Σ_k p_k·(m − x_k))``. Classes with
    p = 0 add 0 to both.
    """
    x = _axis_last(logits, axis)
    if x.shape[-1] == 0:
        raise ValueError("axis: expected at least one class, got an empty axis")
    f = _softmax(x)
    H = _entropy(f)
    grad = _times(f.p, -f.d - _times(f.p, -f.d).sum(-1, keepdims=True)) + 0.0  # never −0
    return _answer(H, (return_grad, _axis_back(grad, axis)))


def _entropy(f: _Softmax) -> Any:
    return _times(f.p, f.log_s - f.d).sum(-1)


# ---- targets, reductions ------------------------------------------------------------------------


class _Target(NamedTuple):
    a: Array  # (…, C) coefficient of −log p_j
    mean_weight: Array  # (…) the row's term in the divisor of the mean
    ignored: Array  # (…) the label is ignore_index
    bad: Array  # (…) the label is out of range: the row is nan


def _index_target(
    y: Array, w: Array, smoothing: Any, ignore_index: int | None, check_target: bool
) -> _Target:
    """``a_j = (1 − ε)·w_y·[j = y] + (ε/C)·w_j``."""
    C = len(w)
    ignored = np.zeros(y.shape, bool) if ignore_index is None else np.equal(y, ignore_index)
    bad = ((y < 0) | (y >= C)) & ~ignored
    if check_target and bad.any():
        row = tuple(int(i) for i in np.argwhere(bad)[0])
        raise IndexError(f"target: expected classes 0 … {C - 1}, got {y[row]} at row {row}")
    y = np.where(bad | ignored, 0, y).astype(np.int64)
    w_y = np.where(bad, 1, w[y])  # a label out of range has no class weight
    e_y = np.arange(C) == y[..., None]
    a = _times(e_y, (1 - smoothing) * w_y[..., None]) + _times(smoothing / C, w)
    return _Target(a, w_y, ignored, bad)


def _probability_target(q: Array, w: Array, smoothing: Any) -> _Target:
    """``a_j = w_j·q'_j`` with ``q' = (1 − ε)·q + ε/C``."""
    a = w * ((1 - smoothing) * q + smoothing / len(w))
    none = np.zeros(q.shape[:-1], bool)
    return _Target(a, np.ones(q.shape[:-1], q.dtype), none, none)


def _read_target(
    target: ArrayLike, x: Array, axis: int, weight: ArrayLike | None, smoothing: float,
    ignore_index: int | None, check_target: bool,
) -> _Target:
    if x.shape[-1] == 0:
        raise ValueError("axis: expected at least one class, got an empty axis")
    y = np.asarray(target)
    eps = x.dtype.type(smoothing)
    w = _or_ones(weight, x.shape[-1:], x.dtype)
    if y.shape == x.shape[:-1]:
        if y.size and not np.issubdtype(y.dtype, np.integer):
            raise TypeError(f"target: class indices must be integers, got {y.dtype}")
        return _index_target(y, w, eps, ignore_index, check_target)
    if y.ndim == x.ndim and np.moveaxis(y, axis, -1).shape == x.shape:
        return _probability_target(np.moveaxis(y, axis, -1).astype(x.dtype), w, eps)
    raise ValueError(f"target: expected the logits' shape, with or without axis, got {y.shape}")


def _reduce(rows: Array, reduction: str, divisor: Any) -> tuple[Any, Any]:
    """Return the loss and D, by which its gradient is divided."""
    if reduction == "none":
        return rows[()], 1
    if reduction == "sum":
        return rows.sum(), 1
    if reduction != "mean":
        raise ValueError(f"reduction: expected 'none', 'mean' or 'sum', got {reduction!r}")
    # The mean of no rows is nan and has zero gradient: it is divided by infinity.
    return (rows.sum() / divisor, divisor) if divisor != 0 else (rows.dtype.type(np.nan), np.inf)


def _reduce_rows(
    rows: Array, t: _Target, sample_weight: ArrayLike | None, reduction: str, normalizer: Any
) -> tuple[Any, Array]:
    """Return the loss, and ``u / D`` of each row, 0 for ignored rows, shape (…, 1)."""
    u = _or_ones(sample_weight, rows.shape, rows.dtype)
    active = ~t.ignored & (u != 0)
    divisor = np.where(active, u * t.mean_weight, 0).sum()
    if normalizer is not None:
        divisor = rows.dtype.type(normalizer)
    u = np.where(t.bad, np.nan, u)
    loss, by = _reduce(np.where(active, u * rows, 0), reduction, divisor)
    has_grad = active & (reduction != "mean" or divisor != 0)
    return loss, np.where(has_grad, u / by, 0)[..., None]


# ---- cross-entropy ------------------------------------------------------------------------------


@np.errstate(all="ignore")
def cross_entropy(
    logits: ArrayLike, target: ArrayLike, *, axis: int = -1, weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None, ignore_index: int | None = -100,
    label_smoothing: float = 0.0, z_loss: float = 0.0, logit_scale: float = 1.0,
    softcap: float | None = None, reduction: str = "mean", normalizer: Any = None,
    check_target: bool = True, return_grad: bool = False, return_probs: bool = False,
    return_lse: bool = False, return_hess: bool = False, return_argmax: bool = False,
    return_entropy: bool = False,
) -> Any:
    """Cross-entropy of logits ``(…, C)`` with class indices ``(…)`` or probabilities ``(…, C)``.

    With ``x = logit_scale·logits``, then ``x = softcap·tanh(x / softcap)``, and active =
    ``[y ≠ ignore_index and u ≠ 0]`` (other rows are ignored: loss and gradient exactly 0)::

        index y         a_j = (1−ε)·w_y·[j = y] + (ε/C)·w_j     D = Σ active·u·w_y
        probability q   a_j = w_j·((1−ε)·q_j + ε/C)             D = Σ u

        row loss  l = u·( Σ_j a_j·(log s − (x_j − m)) + z_loss·lse² ),   A = Σ_j a_j
        mean      Σ l / D, or Σ l / normalizer                  sum: Σ l, D = 1   none: l, D = 1
        gradient  (u/D)·( A·p_j − a_j + 2·z_loss·lse·p_j ) · (1 − tanh²) · logit_scale
        hess      the diagonal of the second derivative, of `cross_entropy_hvp`

    Returns
    -------
    loss, or a tuple (loss[, grad][, probs][, lse][, hess][, argmax][, entropy])
        probs, lse, argmax and entropy are those of ``x``, also for ignored rows.
    """
    r = _axis_last(logits, axis)
    rows = _read_rows(
        r, target, axis, weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap,
        check_target,
    )  # fmt: skip
    loss, scale = _reduce_rows(rows.loss, rows.target, sample_weight, reduction, normalizer)
    f, (slope, _) = rows.softmax, rows.slopes
    grad, hess = _times(scale, rows.grad * slope), _times(scale, _hess(rows, z_loss))
    return _answer(
        loss,
        (return_grad, _axis_back(grad, axis)),
        (return_probs, _axis_back(f.p, axis)),
        (return_lse, f.lse[..., 0]),
        (return_hess, _axis_back(hess, axis)),
        (return_argmax, f.k[..., 0].astype(np.int64)),
        (return_entropy, _entropy(f)),
    )


class _Rows(NamedTuple):
    target: _Target
    softmax: _Softmax  # of x, the logits after scale and softcap
    slopes: tuple[Any, Any]  # (…, C) first and second derivative of x by the logits
    loss: Array  # (…)
    grad: Array  # (…, C) by x


def _read_rows(
    r: Array, target: ArrayLike, axis: int, weight: ArrayLike | None, ignore_index: int | None,
    label_smoothing: float, z_loss: float, logit_scale: float, softcap: float | None,
    check_target: bool,
) -> _Rows:
    x, t1, t2 = logit_scale * r, np.full_like(r, logit_scale), np.zeros_like(r)
    if softcap is not None:
        a = x / softcap
        x = softcap * np.tanh(a)
        t1 = logit_scale / np.cosh(a) ** 2  # (1 − tanh)(1 + tanh) without cancellation
        t2 = -2 * logit_scale / softcap * np.tanh(a) * t1
    t = _read_target(target, x, axis, weight, label_smoothing, ignore_index, check_target)
    f = _softmax(x)
    # 0·lse is 0, or nan if lse is not finite: a nan row is nan even if every a_j is 0.
    loss = _times(t.a, f.log_s - f.d).sum(-1) + (z_loss * f.lse * f.lse + 0 * f.lse)[..., 0]
    # A·p − a as (A − a)·p − a·(1 − p): with p − 1 a confident row would lose its gradient.
    rest_of_a = t.a.sum(-1, keepdims=True) - t.a
    grad = rest_of_a * f.p - t.a * f.one_minus_p + 2 * z_loss * f.lse * f.p
    return _Rows(t, f, (t1, t2), loss, grad)


def _hess(rows: _Rows, z_loss: float) -> Array:
    """Return ``t′²·p·( (A + 2·z_loss·lse)·(1 − p) + 2·z_loss·p ) + ∂loss/∂x·t″``, shape (…, C)."""
    f, (t1, t2) = rows.softmax, rows.slopes
    factor = _curvature(rows, z_loss) * f.one_minus_p + 2 * z_loss * f.p
    hess: Array = t1 * t1 * f.p * factor + _times(t2, rows.grad)
    return hess


def _curvature(rows: _Rows, z_loss: float) -> Array:
    """Return ``A + 2·z_loss·lse``, shape (…, 1)."""
    curvature: Array = rows.target.a.sum(-1, keepdims=True)
    if z_loss:
        curvature = curvature + 2 * z_loss * rows.softmax.lse
    return curvature


@np.errstate(all="ignore")
def cross_entropy_hvp(
    logits: ArrayLike, target: ArrayLike, vector: ArrayLike, *, axis: int = -1,
    weight: ArrayLike | None = None, sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100, label_smoothing: float = 0.0, z_loss: float = 0.0,
    logit_scale: float = 1.0, softcap: float | None = None, reduction: str = "mean",
    normalizer: Any = None, check_target: bool = True,
) -> Array:
    """Return the second derivative of `cross_entropy` times `vector`, both ``(…, C)``.

    By ``x``, with ``κ = u / D`` and ``v_j − π = (v_j − v_k) − Σ_i p_i·(v_i − v_k)``, k the largest
    logit, which keeps its digits where p_k is close to 1::

        (H v)_j = κ·p_j·( (A + 2·z_loss·lse)·(v_j − π) + 2·z_loss·π ),   0 where p_j = 0

    By the logits ``r``, with ``t′`` and ``t″`` the derivatives of ``x`` by ``r``:
    ``t′·H(t′·v) + κ·∂loss/∂x·t″·v``.
    """
    r = _axis_last(logits, axis)
    v = _axis_last(vector, axis).astype(r.dtype)
    rows = _read_rows(
        r, target, axis, weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap,
        check_target,
    )  # fmt: skip
    _, scale = _reduce_rows(rows.loss, rows.target, sample_weight, reduction, normalizer)
    f, (t1, t2) = rows.softmax, rows.slopes
    u = t1 * v
    u = u - np.take_along_axis(u, f.k, -1)
    u = u - _times(f.p, u).sum(-1, keepdims=True)
    product = _curvature(rows, z_loss) * u
    if z_loss:
        product = product + 2 * z_loss * _times(f.p, t1 * v).sum(-1, keepdims=True)
    product = t1 * _times(f.p, product) + _times(rows.grad * t2, v)
    return _axis_back(_times(scale, product), axis)


@np.errstate(all="ignore")
def linear_cross_entropy(
    x: ArrayLike, linear_weight: ArrayLike, target: ArrayLike, *,
    linear_bias: ArrayLike | None = None, weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None, ignore_index: int | None = -100,
    label_smoothing: float = 0.0, z_loss: float = 0.0, logit_scale: float = 1.0,
    softcap: float | None = None, reduction: str = "mean", normalizer: Any = None,
    check_target: bool = True, wrt: str | tuple[str, ...] = LinearGrad._fields,
    return_grad: bool = False, return_lse: bool = False, return_argmax: bool = False,
    return_entropy: bool = False,
) -> Any:
    """Cross-entropy of the logits ``x @ linear_weight.T + linear_bias``.

    With ``G`` the gradient of `cross_entropy`, rows first: ``(G @ linear_weight, G.T @ x, Σ G)``.

    Returns
    -------
    loss, or a tuple (loss[, LinearGrad][, lse][, argmax][, entropy])
    """
    x, w, b = _linear_inputs(x, linear_weight, linear_bias)
    loss, g, lse, argmax, H = cross_entropy(
        _linear(x, w, b), target, weight=weight, sample_weight=sample_weight,
        ignore_index=ignore_index, label_smoothing=label_smoothing, z_loss=z_loss,
        logit_scale=logit_scale, softcap=softcap, reduction=reduction, normalizer=normalizer,
        check_target=check_target, return_grad=True, return_lse=True, return_argmax=True,
        return_entropy=True,
    )  # fmt: skip
    # An ignored row has g = 0 and adds nothing, even if its x has nan.
    live = g.any(-1, keepdims=True)
    rows = tuple(range(x.ndim - 1))
    grad = LinearGrad(
        np.where(live, g @ w, 0),
        np.tensordot(g, np.where(live, x, 0), (rows, rows)),
        None if b is None else g.sum(rows),
    )
    return _answer(
        loss, (return_grad, _only(wrt, grad)), (return_lse, lse), (return_argmax, argmax),
        (return_entropy, H),
    )  # fmt: skip


def _linear_inputs(
    x: ArrayLike, w: ArrayLike, b: ArrayLike | None
) -> tuple[Array, Array, Array | None]:
    x = _as_float(x)
    return x, np.asarray(w).astype(x.dtype), None if b is None else np.asarray(b).astype(x.dtype)


def _linear(x: Array, w: Array, b: Array | None) -> Array:
    return x @ w.T if b is None else x @ w.T + b


def _only(wrt: str | tuple[str, ...], parts: LinearGrad) -> LinearGrad:
    others = set(parts._fields) - {*((wrt,) if isinstance(wrt, str) else wrt)}
    return parts._replace(**dict.fromkeys(others))


@np.errstate(all="ignore")
def linear_cross_entropy_hvp(
    x: ArrayLike, linear_weight: ArrayLike, target: ArrayLike, vector: Any, *,
    linear_bias: ArrayLike | None = None, weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None, ignore_index: int | None = -100,
    label_smoothing: float = 0.0, z_loss: float = 0.0, logit_scale: float = 1.0,
    softcap: float | None = None, reduction: str = "mean", normalizer: Any = None,
    check_target: bool = True, wrt: str | tuple[str, ...] = LinearGrad._fields,
) -> LinearGrad:
    """Return the second derivative of `linear_cross_entropy` times `vector`, a part per input.

    Along ``vector = (v_x, v_W, v_b)``, None for 0, the derivative of the logits is
    ``v_x Wᵀ + x v_Wᵀ + v_b``, and that of their gradient ``G`` is ``Ġ``, its
    `cross_entropy_hvp`. Rows first::

        ( Ġ W + G v_W,   Ġᵀ x + Gᵀ v_x,   Σ Ġ )
    """
    x, w, b = _linear_inputs(x, linear_weight, linear_bias)
    shapes = x.shape, w.shape, w.shape[:1]
    v_x, v_w, v_b = (
        np.zeros(shape, x.dtype) if v is None else np.asarray(v).astype(x.dtype)
        for v, shape in zip(vector, shapes, strict=True)
    )
    options: dict[str, Any] = dict(
        weight=weight, sample_weight=sample_weight, ignore_index=ignore_index,
        label_smoothing=label_smoothing, z_loss=z_loss, logit_scale=logit_scale, softcap=softcap,
        reduction=reduction, normalizer=normalizer, check_target=check_target,
    )  # fmt: skip
    logits = _linear(x, w, b)
    _, g = cross_entropy(logits, target, return_grad=True, **options)
    moved = _linear(v_x, w, v_b) + x @ v_w.T
    dg = cross_entropy_hvp(logits, target, moved, **options)
    # An ignored row adds nothing, even if its x or its vector has nan.
    live = ((g != 0) | (dg != 0)).any(-1, keepdims=True)
    rows = tuple(range(x.ndim - 1))
    product = LinearGrad(
        np.where(live, dg @ w + g @ v_w, 0),
        np.tensordot(dg, np.where(live, x, 0), (rows, rows))
        + np.tensordot(g, np.where(live, v_x, 0), (rows, rows)),
        None if b is None else dg.sum(rows),
    )
    return _only(wrt, product)


# ---- losses of probabilities, and binary --------------------------------------------------------


def _clip(p: Array, eps: float | None) -> tuple[Array, Array, Array, Array, float]:
    """Return p, 1 − p, −log p, −log(1 − p), and the lower bound of the gradient's divisor."""
    if eps is None:
        p = np.where((p >= 0) & (p <= 1), p, np.nan)
        r, most, floor = 1 - p, 100.0, 1e-12
    else:
        e = p.dtype.type(eps)
        # p and 1 − p are clipped separately: 1 − clip(p) would lose an eps below the rounding of 1.
        p, r, most, floor = np.clip(p, e, 1 - e), np.clip(1 - p, e, 1 - e), np.inf, 0.0
    # Both logs are taken of the smaller of p and 1 − p, which is exact.
    small = p < r
    cost_p = -np.where(small, np.log(p), np.log1p(-r))
    cost_r = -np.where(small, np.log1p(-p), np.log(r))
    return p, r, np.minimum(cost_p, most), np.minimum(cost_r, most), floor


@np.errstate(all="ignore")
def categorical_cross_entropy(
    probs: ArrayLike, target: ArrayLike, *, axis: int = -1, weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None, ignore_index: int | None = -100,
    eps: float | None = None, reduction: str = "mean", check_target: bool = True,
    return_grad: bool = False,
) -> Any:
    """Cross-entropy of probabilities ``(…, C)``, with the targets and means of `cross_entropy`.

    Row loss ``−u·Σ_j a_j·log p_j``, gradient ``−(u/D)·a_j / p_j``, with ``a_j = w_j·q_j`` (``q``
    one-hot for an index). ``eps=None`` takes ``max(log p, −100)`` and ``max(p, 1e-12)``, and p
    outside [0, 1] is nan; else p is clipped to ``[eps, 1 − eps]`` first.
    """
    p = _axis_last(probs, axis)
    t = _read_target(target, p, axis, weight, 0.0, ignore_index, check_target)
    p, _, cost, _, floor = _clip(p, eps)
    loss, scale = _reduce_rows(_times(t.a, cost).sum(-1), t, sample_weight, reduction, None)
    grad = _times(-t.a, 1 / np.maximum(p, floor))
    return _answer(loss, (return_grad, _axis_back(_times(scale, grad), axis)))


@np.errstate(all="ignore")
def binary_cross_entropy(
    probs: ArrayLike, target: ArrayLike, *, weight: ArrayLike | None = None,
    eps: float | None = None, reduction: str = "mean", return_grad: bool = False,
) -> Any:
    """Binary cross-entropy of probabilities, any shape; the mean is over all elements.

    Loss ``−w·(y·log p + (1−y)·log(1−p))``, gradient ``w·(p − y) / (p(1−p))``. ``eps=None`` takes
    ``max(log, −100)`` and ``max(p(1−p), 1e-12)``, and p outside [0, 1] is nan; else p and 1 − p
    are each clipped to ``[eps, 1 − eps]`` first.
    """
    p = _as_float(probs)
    y = np.asarray(target).astype(p.dtype)
    w = _or_ones(weight, (), p.dtype)
    p, r, cost_p, cost_r, floor = _clip(p, eps)
    loss, divisor = _reduce(w * (y * cost_p + (1 - y) * cost_r), reduction, p.size)
    # p − y as (1−y)·p − y·(1−p), which keeps its digits where p is close to y = 1.
    grad = w * ((1 - y) * p - y * r) / np.maximum(p * r, floor)
    return _answer(loss, (return_grad, (grad / divisor)[()]))


@np.errstate(all="ignore")
def binary_cross_entropy_with_logits(
    logits: ArrayLike, target: ArrayLike, *, weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None, reduction: str = "mean", return_grad: bool = False,
    return_probs: bool = False, return_hess: bool = False,
) -> Any:
    """Binary cross-entropy of logits, any shape; the mean is over all elements.

    Loss ``w·((1−y)·softplus(x) + pos_weight·y·softplus(−x))``,
    gradient ``w·((1−y)·σ(x) − pos_weight·y·σ(−x))``,
    hess ``w·(1−y + pos_weight·y)·σ(x)·σ(−x)``. A zero coefficient adds exactly 0.

    Returns
    -------
    loss, or a tuple (loss[, grad][, probs][, hess]), probs being σ(x)
    """
    x = _as_float(logits)
    y = np.asarray(target).astype(x.dtype)
    w = _or_ones(weight, (), x.dtype)
    neg, pos = _times(1 - y, w), _times(_or_ones(pos_weight, (), x.dtype) * y, w)
    e = np.exp(-np.abs(x))  # at most 1, so neither σ(x) nor σ(−x) is a difference
    sigma, sigma_neg = np.where(x >= 0, 1, e) / (1 + e), np.where(x >= 0, e, 1) / (1 + e)
    softplus, softplus_neg = np.maximum(x, 0) + np.log1p(e), np.maximum(-x, 0) + np.log1p(e)
    rows = _times(neg, softplus) + _times(pos, softplus_neg)
    loss, divisor = _reduce(rows, reduction, x.size)
    grad = _times(neg, sigma) - _times(pos, sigma_neg)
    hess = _times(neg + pos, sigma * sigma_neg)
    return _answer(
        loss,
        (return_grad, (grad / divisor)[()]),
        (return_probs, sigma[()]),
        (return_hess, (hess / divisor)[()]),
    )


@np.errstate(all="ignore")
def binary_cross_entropy_with_logits_hvp(
    logits: ArrayLike, target: ArrayLike, vector: ArrayLike, *, weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None, reduction: str = "mean",
) -> Any:
    """Return the second derivative of `binary_cross_entropy_with_logits` times `vector`.

    It is ``hess·vector``, element by element, 0 where hess is 0.
    """
    _, hess = binary_cross_entropy_with_logits(
        logits, target, weight=weight, pos_weight=pos_weight, reduction=reduction, return_hess=True
    )
    return _times(hess, np.asarray(vector).astype(hess.dtype))[()]


# ---- arrays -------------------------------------------------------------------------------------


def _as_float(a: ArrayLike) -> Array:
    """Return `a` as float64, or as longdouble if it is longdouble."""
    a = np.asarray(a)
    return a.astype(np.result_type(a.dtype, np.float64))


def _or_ones(a: ArrayLike | None, shape: tuple[int, ...], dtype: Any) -> Array:
    return np.ones(shape, dtype) if a is None else np.asarray(a).astype(dtype)


def _axis_last(a: ArrayLike, axis: int) -> Array:
    return np.moveaxis(_as_float(a), axis, -1)


def _axis_back(a: Array, axis: int) -> Array:
    return np.ascontiguousarray(np.moveaxis(a, -1, axis))


def _times(c: Array, v: Array) -> Array:
    """Return ``c·v``, exactly 0 where the coefficient c is 0, even if v is infinite or nan."""
    return np.where(c == 0, 0, c * v)


def _answer(loss: Any, *optional: tuple[bool, Any]) -> Any:
    outputs = [value for requested, value in optional if requested]
    return (loss, *outputs) if outputs else loss
