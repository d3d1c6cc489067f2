"""Checks of a call's results: structure and types as documented, numbers as in the reference.

Sizes of errors are the specification's bounds (`Bounds`), each relative to the terms named there.
Where weights, smoothing or a z-loss add up terms of their own, roundings of these are granted too;
tests/test_accuracy.py holds each bound where it is tightest.
"""

import numpy as np
from conftest import Bounds
from drawn_calls import FLAGS, LOSSES, PARTS, PRODUCTS, as_array, own_type

import fastxent as fx
from fastxent import reference

EXACT = np.longdouble
ROUNDINGS = 6  # of weights, 1 - ε, ε/C, divisors, and their products


def named(call, result):
    """The results by name; AssertionError unless number and kinds are as documented."""
    parts = dict(zip(_names(call), _structure(call, result), strict=True))
    return {name: part for name, part in parts.items() if part is not None}


def check(call, found):
    """Raise AssertionError unless the results are the documented numbers."""
    if call.wild:
        return
    with np.errstate(all="ignore"):
        expected = _expected(call)
        for name, got in found.items():
            want, error = expected[name]
            _close(name, got, want, error)


# ---- structure ---------------------------------------------------------------------------------


def _names(call):
    """The results' names, in order."""
    if call.name == "linear_cross_entropy_hvp":
        return [f"out.{part}" for part in PARTS]
    asked = call.arguments
    names = ["loss" if call.name in LOSSES else call.name]
    for flag in FLAGS[call.name]:
        if asked.get(f"return_{flag}") or asked.get(f"{flag}_out") is not None:
            if call.name == "linear_cross_entropy" and flag == "grad":
                names += [f"grad.{part}" for part in PARTS]
            else:
                names.append(flag)
    return names


def _structure(call, result):
    """The arrays of a result, after checks of kind, shape, type and memory."""
    names = _names(call)
    if len(names) == 1:
        parts = [result]
    elif "out.x" in names:
        assert type(result) is fx.LinearGrad, type(result)
        parts = list(result)
    else:
        assert type(result) is tuple, type(result)
        parts = list(result)
        if "grad.x" in names:
            assert type(parts[1]) is fx.LinearGrad, type(parts[1])
            parts[1:2] = parts[1]
    assert len(parts) == len(names), f"{len(parts)} results, expected {names}"
    for name, part in zip(names, parts, strict=True):
        _form(call, name, part)
    return parts


def _form(call, name, part):
    a = call.arguments
    made, of = a.get("wrt", PARTS), name.partition(".")[2]
    if of and (of not in ((made,) if isinstance(made, str) else made) or a.get(of) is None):
        assert part is None
        return
    first = next(iter(a))
    per_class = name in ("softmax", "log_softmax", "grad", "probs", "hess", *PRODUCTS)
    own = own_type(a[of or first])
    shape = as_array(a[of or first]).shape
    if not (per_class or of):
        shape = _rows(call) if name != "loss" or a.get("reduction") == "none" else ()
        if name == "argmax":
            own = np.dtype(np.int64)
        elif name != "logsumexp":
            own = _compute(call)
    assert part.dtype == own and part.dtype.isnative, f"{name} has dtype {part.dtype!r}"
    assert part.shape == shape, f"{name} has shape {part.shape}, expected {shape}"
    given = call.buffers.get(_buffer(name))
    if given is not None:
        assert part is given, f"{name} is not the buffer"
        return
    assert type(part) is np.ndarray if shape else isinstance(part, np.generic), type(part)
    if shape:
        assert part.flags.c_contiguous and part.flags.writeable, f"{name} {part.flags}"
        for memory in call.memory:
            assert not np.may_share_memory(part, memory), f"{name} shares an argument's memory"


def _buffer(name):
    """The argument that holds a result's buffer."""
    if name in ("softmax", "log_softmax", *PRODUCTS):
        return "out"
    return {"grad": "grad_out", "probs": "probs_out"}.get(name, name.replace("grad.", "grad_out."))


def _rows(call):
    """The shape of results with one number per row or per element."""
    a = call.arguments
    if call.name.startswith("linear"):
        return as_array(a["x"]).shape[:-1]
    shape = as_array(next(iter(a.values()))).shape
    if call.name.startswith("binary"):
        return shape
    axis = a.get("axis", -1) % len(shape)
    return (*shape[:axis], *[1] * bool(a.get("keepdims")), *shape[axis + 1 :])


def _compute(call):
    """The type of the arithmetic."""
    names = ["x", "linear_weight", "linear_bias"]
    if not call.name.startswith("linear"):
        names = [next(iter(call.arguments))]
    given = [call.arguments[name] for name in names if call.arguments.get(name) is not None]
    return np.result_type(np.float32, *(own_type(a) for a in given))


# ---- numbers -----------------------------------------------------------------------------------


def _expected(call):
    """The exact results by name, each with its allowed error."""
    a = {k: v for k, v in call.arguments.items() if not k.endswith("out")}
    compute = _compute(call)
    if call.name == "linear_cross_entropy":
        return _linear(call, a, compute)
    if call.name == "linear_cross_entropy_hvp":
        return _linear_product(a, compute)
    first = next(iter(a))
    a[first] = as_array(a[first]).astype(EXACT)
    if call.name in ("softmax", "log_softmax", "logsumexp"):
        want = getattr(reference, call.name)(**a)
        return {call.name: (want, _softmax_error(call.name, a, want, compute))}
    if call.name == "entropy":
        return _entropy(a["logits"], a.get("axis", -1), compute)
    if call.name in ("cross_entropy", "cross_entropy_hvp"):
        axis, vector = a.get("axis", -1), a.pop("vector", None)
        vector = None if vector is None else as_array(vector)
        return _cross_entropy(a.pop("logits"), a.pop("target"), axis, a, compute, vector)
    if call.name == "binary_cross_entropy_with_logits_hvp":
        return _binary_product(a, compute)
    return _elementwise(call.name, a, compute)


def _bounds(z, compute, **options):
    """The bounds of rows of logits; those of nan rows are not used."""
    live = np.isfinite(z)
    low = np.where(live, z, np.inf).min(-1, keepdims=True)
    return Bounds(np.where(live, z, np.where(np.isfinite(low), low, 0)), compute, **options)


def _softmax_error(name, a, want, compute):
    tiny = np.finfo(compute).tiny
    x = np.moveaxis(a["logits"], a.get("axis", -1), -1)
    if not x.size:
        return 0
    bounds = _bounds(x, compute)
    if name == "logsumexp":
        m = x.max(-1, keepdims=True)
        error = bounds.lse() * np.maximum(np.abs(m), np.abs(reference.logsumexp(x)[..., None] - m))
        return np.moveaxis(error, -1, a.get("axis", -1)).reshape(want.shape) + 4 * tiny
    relative = bounds.probs() if name == "softmax" else bounds.log_probs()
    # A subnormal exp may come out as 0, and so may results that depend on it.
    return np.moveaxis(relative, -1, a.get("axis", -1)) * np.abs(want) + 4 * tiny * x.shape[-1]


def _entropy_error(bounds, p, costs, compute):
    """Relative to Σ p·|log p|; each subnormal exp may add 0 instead of its term."""
    log_tiny = -np.log(np.finfo(compute).tiny)
    relative = bounds.log_probs().max(-1) + 2 * np.finfo(compute).eps
    terms = np.where(p == 0, 0, p * costs)
    return relative * terms.sum(-1) + 2 * log_tiny * np.finfo(compute).tiny * p.shape[-1]


def _entropy(logits, axis, compute):
    want, want_grad = reference.entropy(logits, axis=axis, return_grad=True)
    x, tiny = np.moveaxis(logits, axis, -1), np.finfo(compute).tiny
    if not x.size:
        return {"entropy": (want, 0), "grad": (want_grad, 0)}
    bounds, p, costs = _bounds(x, compute), reference.softmax(x), -reference.log_softmax(x)
    error = _entropy_error(bounds, p, costs, compute)
    # Each element has its own share, and each term of H that of its class.
    H = np.where(p == 0, 0, p * costs).sum(-1, keepdims=True)
    shares = (bounds.probs() * p * 2 * bounds.below).sum(-1, keepdims=True)
    below = np.where(p == 0, -np.log(tiny), costs)
    grad = bounds.probs() * np.where(p == 0, 0, p * (costs + H)) + p * shares
    grad = grad + 4 * tiny * (below + H) + p * error[..., None]
    return {"entropy": (want, error), "grad": (want_grad, np.moveaxis(grad, -1, axis))}


def _cross_entropy(logits, target, axis, options, compute, vector=None):
    """The results of the loss; of a vector, also the product."""
    options = {k: v for k, v in options.items() if k != "vector"}
    flags = {f"return_{flag}": True for flag in FLAGS["cross_entropy"]}
    want = reference.cross_entropy(logits, target, **{**options, **flags})
    x, y = np.moveaxis(logits, axis, -1), np.asarray(target)
    ulp, tiny = np.finfo(compute).eps, np.finfo(compute).tiny
    classes = x.shape[-1]
    epsilon, z_loss = (float(options.get(k, 0)) for k in ("label_smoothing", "z_loss"))
    scale, cap = float(options.get("logit_scale", 1)), options.get("softcap")
    w = _number(options.get("weight"), classes)
    u = _number(options.get("sample_weight"), x.shape[:-1])

    z = x * EXACT(scale)
    capped = z if cap is None else cap * np.tanh(z / cap)
    if vector is not None:
        product = reference.cross_entropy_hvp(logits, target, vector, **options)
    if not x.size:
        errors = dict(zip(("loss", *FLAGS["cross_entropy"]), ((a, 0) for a in want), strict=True))
        return errors if vector is None else errors | {"cross_entropy_hvp": (product, 0)}
    bounds = _bounds(capped, compute, scaled=scale != 1, softcap=0.0 if cap is None else float(cap))
    p = reference.softmax(capped)
    costs = -reference.log_softmax(capped)
    q = -np.expm1(-costs)  # 1 - p, of a confident row too
    lse = reference.logsumexp(capped)
    m = capped.max(-1)
    reach = np.maximum(np.abs(m), np.abs(lse - m))

    index = y.shape == x.shape[:-1]
    if index:
        hit = np.arange(classes) == y[..., None].astype(object)
        a = hit * (1 - epsilon) * w + epsilon / classes * np.abs(w) * np.ones(x.shape)
        a = np.abs(a)
        label_weight = _label_weight(hit, w)
        counted = (y.astype(object) != options.get("ignore_index", -100)).astype(bool) & (u != 0)
    else:
        a = np.abs(w) * ((1 - epsilon) * np.abs(np.moveaxis(y, axis, -1).astype(EXACT))
                         + epsilon / classes)  # fmt: skip
        label_weight, counted = np.ones(x.shape[:-1]), u != 0
    a = a.astype(EXACT)
    divisor = 1.0
    if options.get("reduction", "mean") == "mean":
        divisor = options.get("normalizer")
        divisor = (u * label_weight)[counted].sum() if divisor is None else float(divisor)
    part = np.where(counted & (divisor != 0), np.abs(u / divisor), 0)[..., None]

    # Rows: relative to the sum of the absolute terms. A lone label's bound is that of its class.
    relative = bounds.log_probs()
    relative = np.where(a != 0, relative, 0).max(-1) + ROUNDINGS * ulp
    terms = np.where(a == 0, 0, a * costs).sum(-1) + abs(z_loss) * reach**2
    rows = np.abs(u) * ((relative + 2 * bounds.lse() * bool(z_loss)) * terms
                        + 4 * tiny * (1 + a.sum(-1)) * classes)  # fmt: skip
    if index and epsilon:
        # log s of a row that another class than its label dominates is as accurate as s. It shows
        # where that class alone has a weight: the label's own loss is much larger.
        others = epsilon / classes * np.abs(w).sum() * ~(hit & (capped == m[..., None])).any(-1)
        rows = rows + np.abs(u) * others * 2 * np.finfo(np.float64).eps
    rows = np.where(counted, rows, 0)
    loss = rows
    if options.get("reduction", "mean") != "none":
        loss = rows[np.isfinite(rows)].sum() / abs(divisor) if divisor else 0

    lone = index and not epsilon
    total = a.sum(-1, keepdims=True)
    sizes = (total - a) * p + a * q if lone else total * p + a
    sizes = sizes + 2 * abs(z_loss) * reach[..., None] * p
    relative = bounds.probs()
    if index:
        relative = np.where(hit, bounds.grad_at_target(), relative)
    relative = relative + (ROUNDINGS + 2) * ulp
    if z_loss:
        relative = relative + 2 * bounds.lse()
    chain, bend, of_chain = np.full(x.shape, EXACT(abs(scale))), 0 * x, np.zeros(1)
    if cap is not None:
        chain = chain * (1 / np.cosh(z / cap)) ** 2
        bend = np.abs(2 * scale / cap * np.tanh(z / cap)) * chain
        # (1 - t)(1 + t) of a rounded z/cap; 0 is exact.
        of_chain = np.where(chain == 0, 0, 4 * np.abs(z / cap) * ulp)
    relative = relative + of_chain
    least = 8 * tiny * (1 + part) * (1 + total + abs(z_loss) * reach[..., None]) * (1 + abs(scale))
    grad = part * relative * sizes * chain + least
    # The diagonal by the logits, of that by what scale and softcap make of them and its gradient.
    more = bounds.probs() + bounds.grad_at_target() + 8 * ulp + 2 * of_chain
    more = more + 2 * bounds.lse() * bool(z_loss)
    curvature = total + 2 * abs(z_loss) * reach[..., None]
    diagonal = p * (curvature * q + 2 * abs(z_loss) * p)
    bent = (relative + of_chain + 4 * ulp) * sizes * bend
    hess = part * (more * chain**2 * diagonal + bent)
    hess = hess + least * (1 + abs(scale))
    back = [np.moveaxis(e, -1, axis) for e in (grad, bounds.probs() * p + 4 * tiny, hess)]
    # Logits that differ by less than their rounding have no certain order.
    entropy = _entropy_error(bounds, p, costs, compute)
    errors = (loss, back[0], back[1], bounds.lse() * reach + 4 * tiny, back[2], None, entropy)
    results = dict(zip(("loss", *FLAGS["cross_entropy"]), zip(want, errors, strict=True),
                       strict=True))  # fmt: skip
    unsure = bounds.probs().max(-1)
    results["argmax"] = (results["argmax"][0], (capped, unsure))
    if vector is not None:
        v = np.moveaxis(vector, axis, -1).astype(EXACT)
        near = m[..., None] - capped <= (unsure * np.abs(m))[..., None]
        spread, pulled = _spread(chain * np.sign(scale) * v, near)
        moved = np.abs(chain * v)
        if cap is not None:  # differences of rounded products t′·v
            spread = spread + 4 * ulp / relative * (moved + pulled)
        terms = curvature * spread + 2 * abs(z_loss) * moved
        own = chain * p * (curvature * spread + (p * terms).sum(-1, keepdims=True))
        of_all = chain * p * (more * p * terms).sum(-1, keepdims=True)
        error = part * (more * own + of_all + bent * np.abs(v))
        error = error + least * (1 + abs(scale)) * (1 + np.abs(v).sum(-1, keepdims=True))
        results["cross_entropy_hvp"] = product, np.moveaxis(error, -1, axis)
    return results


def _spread(moved, near):
    """|v_j - v_m| and |v_m|, where m may be any of the largest logits, which are `near`."""
    low = np.where(near, moved, np.inf).min(-1, keepdims=True)
    high = np.where(near, moved, -np.inf).max(-1, keepdims=True)
    return np.maximum(np.abs(moved - low), np.abs(moved - high)), np.maximum(abs(low), abs(high))


def _linear(call, a, compute):
    x, w = (as_array(a.pop(name)).astype(EXACT) for name in ("x", "linear_weight"))
    bias = a.pop("linear_bias", None)
    b = np.zeros(len(w), EXACT) if bias is None else as_array(bias).astype(EXACT)
    accumulate = a.pop("accumulate", False)
    a.pop("wrt", None)  # parts that are not computed are not compared
    logits = x @ w.T + b
    rows = _cross_entropy(logits, a.pop("target"), -1, a, compute)
    want = reference.linear_cross_entropy(
        x, w, call.arguments["target"], linear_bias=b,
        **{k: v for k, v in a.items() if not k.startswith("return_")}, return_grad=True,
    )[1]  # fmt: skip
    ulp, n = np.finfo(compute).eps, int(np.prod(x.shape[:-1]))
    g, error = (np.abs(np.broadcast_to(part, logits.shape)).reshape(n, len(w))
                for part in rows["grad"])  # fmt: skip
    flat = np.abs(x).reshape(n, x.shape[-1])
    # A dot product's error: a rounding of each product and of each sum.
    long, wide = error + (n + 2) * ulp * g, error + (len(w) + 2) * ulp * g
    errors = fx.LinearGrad((wide @ np.abs(w)).reshape(x.shape), long.T @ flat, long.sum(0))
    for name, total, error in zip(fx.LinearGrad._fields, want, errors, strict=True):
        if accumulate:
            before = call.initial[f"grad_out.{name}"].astype(EXACT) if (
                f"grad_out.{name}" in call.initial) else 0  # fmt: skip
            total, error = total + before, error + 2 * ulp * (np.abs(before) + np.abs(total))
        rows[f"grad.{name}"] = total, error
    if bias is None:
        rows["grad.linear_bias"] = None, None
    return rows


def _linear_product(a, compute):
    x, w = (as_array(a.pop(name)).astype(EXACT) for name in ("x", "linear_weight"))
    bias, vector = a.pop("linear_bias", None), a.pop("vector")
    b = np.zeros(len(w), EXACT) if bias is None else as_array(bias).astype(EXACT)
    target, _ = a.pop("target"), a.pop("wrt", None)
    want = reference.linear_cross_entropy_hvp(x, w, target, vector, linear_bias=b, **a)
    v_x, v_w, v_b = (
        np.zeros(own.shape, EXACT) if part is None else as_array(part).astype(EXACT)
        for part, own in zip(vector, (x, w, b), strict=True)
    )
    # Of dyadic numbers the products of the linear map are exact.
    logits, moved = x @ w.T + b, v_x @ w.T + x @ v_w.T + v_b
    rows = _cross_entropy(logits, target, -1, a, compute, moved)
    ulp, n = np.finfo(compute).eps, int(np.prod(x.shape[:-1]))
    (g, e), (change, d) = (
        [np.abs(np.broadcast_to(part, logits.shape)).reshape(n, len(w)) for part in rows[name]]
        for name in ("grad", "cross_entropy_hvp")
    )
    flat, flat_v = (np.abs(array).reshape(n, x.shape[-1]) for array in (x, v_x))
    # A dot product's error: a rounding of each product and of each sum.
    (long, per_class), (long_d, per_class_d) = (
        [error + (2 * terms + 3) * ulp * size for terms in (n, len(w))]
        for size, error in ((g, e), (change, d))
    )
    errors = (
        (per_class_d @ np.abs(w) + per_class @ np.abs(v_w)).reshape(x.shape),
        long_d.T @ flat + long.T @ flat_v,
        long_d.sum(0),
    )
    results = {f"out.{name}": pair for name, *pair in zip(PARTS, want, errors, strict=True)}
    return results if bias is not None else results | {"out.linear_bias": (None, None)}


def _binary_product(a, compute):
    v = as_array(a.pop("vector")).astype(EXACT)
    hess, error = _elementwise("binary_cross_entropy_with_logits", dict(a), compute)["hess"]
    want = reference.binary_cross_entropy_with_logits_hvp(a.pop("logits"), a.pop("target"), v, **a)
    least = 32 * np.finfo(compute).tiny * (1 + np.abs(v))
    relative = 2 * np.finfo(compute).eps
    return {"binary_cross_entropy_with_logits_hvp":
            (want, (error + relative * np.abs(hess)) * np.abs(v) + least)}  # fmt: skip


def _elementwise(name, a, compute):
    """Losses with at most two terms per element, to which errors are relative."""
    first = next(iter(a))
    x, y = a.pop(first), a.pop("target")
    function = getattr(reference, name)
    ulp, tiny = np.finfo(compute).eps, np.finfo(compute).tiny
    asked = {f"return_{flag}": True for flag in FLAGS[name]}
    a = {**a, **asked}
    want = function(x, y, **a)
    positive = {k: np.abs(as_array(v).astype(EXACT)) for k, v in a.items() if "weight" in k}
    sure = a | positive
    if name == "categorical_cross_entropy":
        y = np.asarray(y)
        y = np.abs(y.astype(EXACT)) if y.shape == x.shape else y
        rows = function(x, y, **(sure | {"reduction": "none"}))[0]
        sizes = want
    else:
        y = np.asarray(y).astype(EXACT)
        ends = [function(x, np.full(x.shape, end, EXACT), **sure) for end in (0, 1)]
        # Beyond 0 … 1 a target's terms have opposite signs: each counts.
        parts = zip(*ends, strict=True)
        sizes = [np.abs(1 - y) * np.abs(low) + np.abs(y) * np.abs(high) for low, high in parts]
        rows = function(x, y, **(sure | {"reduction": "none"}))[0]
    relative, least = (4 + ROUNDINGS) * ulp, 32 * tiny
    errors = [relative * np.abs(size) + least for size in sizes]
    errors[0] = relative * np.abs(rows) + least
    if a.get("reduction", "mean") != "none":
        total = errors[0][np.isfinite(errors[0])].sum()
        if a.get("reduction", "mean") == "sum":
            errors[0] = total
        else:  # the divisor, by what a loss of 1 in each row or element would be
            scale = _mean_scale(name, x, y, a)
            errors[0] = total * scale + relative * np.abs(want[0])
            if name == "categorical_cross_entropy":
                errors[1] = errors[1] + least * scale
    return dict(zip(("loss", *FLAGS[name]), zip(want, errors, strict=True), strict=True))


def _mean_scale(name, x, y, a):
    if name.startswith("binary"):
        return 1 / max(x.size, 1)
    axis = a.get("axis", -1) % x.ndim
    u = _number(a.get("sample_weight"), np.delete(x.shape, axis))
    if y.shape == x.shape:
        divisor = u.sum()
    else:
        w = _number(a.get("weight"), x.shape[axis])
        hit = np.arange(x.shape[axis]) == y[..., None].astype(object)
        counted = (y.astype(object) != a.get("ignore_index", -100)).astype(bool)
        divisor = (u * _label_weight(hit, w))[counted].sum()
    return 1 / abs(divisor) if divisor else 0


def _label_weight(hit, w):
    """w_y of each row; 1 under a label that is no class and was not checked."""
    return np.where(hit.any(-1), np.where(hit, w, 0).sum(-1), 1)


def _number(value, shape):
    return np.ones(shape) if value is None else as_array(value).astype(np.float64)


def _close(name, got, want, error):
    """Nan and infinities where expected, all else within the error and a last rounding."""
    if want is None:
        return
    if name == "argmax":
        transformed, slack = error if error else (None, None)
        if transformed is not None:
            nan = np.isnan(transformed).any(-1)
            there = np.take_along_axis(transformed, np.asarray(got)[..., None], -1)[..., 0]
            best = transformed.max(-1)
            right = (got == want) | (~nan & (best - there <= slack * np.abs(best)))
            assert np.all(right), f"argmax: {got}, expected {want}"
        return
    got = np.asarray(got)
    limits = np.finfo(got.dtype)
    want = np.asarray(want, EXACT)
    error = np.broadcast_to(np.nan_to_num(np.asarray(error, EXACT)), want.shape)
    last = limits.eps / 2 * np.abs(want) + limits.smallest_subnormal
    got = got.astype(EXACT)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    near = np.abs(got - want) <= error + last
    # Values beyond the range of the type are infinite.
    beyond = np.isinf(got) & (np.sign(got) == np.sign(want))
    beyond &= np.abs(want) * (1 + 2 * limits.eps) + error >= EXACT(limits.max)
    bad = ~(same | near | beyond)
    if bad.any():
        at = tuple(np.argwhere(bad)[0])
        raise AssertionError(
            f"{name}{[int(i) for i in at]} is {got[at]!r}, expected {want[at]!r} ± {error[at]!r}"
        )
