"""Hypothesis: shapes, layouts, values and options at random, against the reference."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fastxent as fx
from fastxent import reference

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=20)
VALUES = st.floats(-30, 30, width=32) | st.sampled_from([0.0, -np.inf, 1e7, -1e7])


@st.composite
def logits_of(draw, values=VALUES):
    """Logits of any rank, with a class axis, of either float type, perhaps strided or swapped."""
    dtype = draw(st.sampled_from(["f4", "f8", ">f4", ">f8"]))
    shape = draw(SHAPES)
    logits = draw(hnp.arrays(dtype, shape, elements=values))
    if draw(st.booleans()):
        logits = np.repeat(logits, 2, axis=-1)[..., ::2]
    if draw(st.booleans()):
        logits = logits.T.copy().T
    return logits, draw(st.integers(-len(shape), len(shape) - 1))


@st.composite
def calls(draw):
    """Logits, labels and any combination of options."""
    logits, axis = draw(logits_of())
    classes = logits.shape[axis]
    rows = np.delete(logits.shape, axis).tolist()
    label = st.integers(0, classes - 1) | st.just(-100)
    labels = draw(hnp.arrays(np.int64, tuple(rows), elements=label))
    # 1 / the mean's divisor shall be a float32, or coefficients are infinite that nothing else is.
    small = st.just(0.0) | st.floats(2.0**-20, 2, width=32)
    options = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "weight": hnp.arrays("f4", classes, elements=small),
                "sample_weight": hnp.arrays("f4", labels.shape, elements=small),
                "label_smoothing": st.sampled_from([0.0, 0.1, 1.0]),
                "z_loss": st.sampled_from([0.0, 1e-4, 0.5]),
                "logit_scale": st.sampled_from([1.0, 0.25, 2.0, -1.0]),
                "softcap": st.sampled_from([None, 1.0, 30.0]),
                "reduction": st.sampled_from(["mean", "sum", "none"]),
            },
        )
    )
    return logits, labels, options | {"axis": axis}


def tolerance(logits, factor=1.0):
    """Relative to the size of what is added up; 1e7 with a z-loss makes terms of 1e14."""
    return factor * (1e-4 if logits.dtype.itemsize == 4 else 1e-11)


def subnormal(result):
    """What is lost where a weight times a number is no normal number of its type."""
    return 4 * np.finfo(np.asarray(result).dtype).tiny


@given(calls())
def test_cross_entropy_is_the_reference(call):
    """Loss, gradient, probabilities, lse, Hessian and argmax, whatever the options."""
    logits, labels, options = call
    flags = ("grad", "probs", "lse", "hess", "argmax")
    asked = {f"return_{flag}": True for flag in flags}
    got = fx.cross_entropy(logits, labels, **options, **asked)
    exact = logits.astype(np.longdouble)
    if "weight" in options:
        options["weight"] = options["weight"].astype(np.longdouble)
    want = reference.cross_entropy(exact, labels, **options, **asked)
    # Logits that differ by less than their rounding have no certain order: compare what is there.
    at = np.expand_dims(got[-1], options["axis"])
    highest = np.take_along_axis(want[2], at, options["axis"])
    np.testing.assert_allclose(
        highest, want[2].max(options["axis"], keepdims=True), rtol=tolerance(logits)
    )
    for name, a, b in list(zip(("loss", *flags), got, want, strict=True))[:-1]:
        finite = np.abs(b[np.isfinite(b)], dtype=float)
        size = max(1.0, finite.max(initial=0))
        np.testing.assert_allclose(
            a, np.asarray(b, a.dtype), rtol=tolerance(logits), atol=tolerance(logits, size),
            err_msg=name,
        )  # fmt: skip


@given(logits_of())
def test_softmax_family_is_the_reference(given_logits):
    """Softmax, log_softmax and logsumexp over any axis."""
    logits, axis = given_logits
    exact = logits.astype(np.longdouble)
    for name in ("softmax", "log_softmax", "logsumexp"):
        a = getattr(fx, name)(logits, axis=axis)
        b = getattr(reference, name)(exact, axis=axis)
        assert a.dtype == logits.dtype.newbyteorder("=")
        np.testing.assert_allclose(a, np.asarray(b, a.dtype), rtol=tolerance(logits))


@given(logits_of(st.floats(-30, 30, width=32)))
def test_probabilities_sum_to_one(given_logits):
    """Softmax rows sum to 1, exp(log_softmax) is softmax, and a shift by lse normalises."""
    logits, axis = given_logits
    p = fx.softmax(logits, axis=axis)
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis), 1, rtol=1e-5)
    np.testing.assert_allclose(np.exp(fx.log_softmax(logits, axis=axis)), p, rtol=1e-4)
    lse = fx.logsumexp(logits, axis=axis, keepdims=True)
    np.testing.assert_allclose(np.exp(logits - lse), p, rtol=1e-4)


@given(calls())
def test_gradient_rows_sum_to_zero(call):
    """A shared offset changes no loss (without z-loss or softcap), so each row sums to 0."""
    logits, labels, options = call
    options = options | {"z_loss": 0.0, "softcap": None, "reduction": "sum"}
    grad = fx.cross_entropy(logits, labels, return_grad=True, **options)[1]
    sums = grad.sum(options["axis"], dtype=np.float64)
    terms = np.max(options.get("weight", 1.0)) * options.get("sample_weight", np.ones(labels.shape))
    good = np.isfinite(sums)
    assert (np.abs(sums) <= 1e-5 * terms * abs(options.get("logit_scale", 1.0)))[good].all()


@given(calls())
def test_weights_multiply(call):
    """A sample weight of 2 is the row twice: loss, gradient and divisor."""
    logits, labels, options = call
    axis = options.pop("axis")
    rows = np.moveaxis(logits, axis, -1).reshape(-1, logits.shape[axis])
    flat = labels.reshape(-1)
    options.pop("sample_weight", None)
    options = options | {"reduction": "sum"}
    one, grad = fx.cross_entropy(rows, flat, return_grad=True, **options)
    two, grad_two = fx.cross_entropy(
        rows, flat, sample_weight=np.full(len(flat), 2.0), return_grad=True, **options
    )
    np.testing.assert_allclose(two, 2 * one, rtol=1e-6)
    np.testing.assert_allclose(grad_two, 2 * grad, rtol=1e-5, atol=1e-30)
    repeated = fx.cross_entropy(np.repeat(rows, 2, 0), np.repeat(flat, 2), **options)
    np.testing.assert_allclose(two, repeated, rtol=1e-6)


@given(calls(), st.integers(1, 5))
def test_linear_is_cross_entropy_of_the_product(call, features):
    """linear_cross_entropy is cross_entropy carried through x @ W.T."""
    logits, labels, options = call
    axis = options.pop("axis")
    shape = np.moveaxis(logits, axis, -1).shape
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (*shape[:-1], features)).astype(float)
    w = rng.integers(-3, 4, (shape[-1], features)).astype(float)
    b = rng.integers(-3, 4, shape[-1]).astype(float)
    loss, grad = fx.linear_cross_entropy(x, w, labels, linear_bias=b, return_grad=True, **options)
    want, d = fx.cross_entropy(x @ w.T + b, labels, return_grad=True, **options)
    np.testing.assert_allclose(loss, want, rtol=1e-9)
    flat = d.reshape(-1, shape[-1])
    np.testing.assert_allclose(grad.x, d @ w, atol=1e-9)
    np.testing.assert_allclose(grad.linear_weight, flat.T @ x.reshape(-1, features), atol=1e-9)
    np.testing.assert_allclose(grad.linear_bias, flat.sum(0), atol=1e-9)


@st.composite
def soft_calls(draw):
    """As `calls`, with probabilities of any size and sign as target."""
    logits, labels, options = draw(calls())
    kind = draw(st.sampled_from(["f2", "f4", ">f8"]))
    numbers = st.floats(0, 2, width=16) | st.sampled_from([0.0, 1.0, -0.5])
    return logits, draw(hnp.arrays(kind, logits.shape, elements=numbers)), options


@given(soft_calls())
def test_probability_targets_are_the_reference(call):
    """Loss and gradient of soft rows, relative to the sum of the absolute terms."""
    logits, target, options = call
    flags = {"return_grad": True}
    got = fx.cross_entropy(logits, target, **options, **flags)
    want = reference.cross_entropy(logits.astype(np.longdouble), target, **options, **flags)
    # Terms of either sign cancel: a tolerance for the terms is one for the sum.
    size = 1 + np.abs(target).astype(float).sum() * 3e7 * (1 + options.get("z_loss", 0) * 3e7)
    small = np.abs(np.where(np.isfinite(logits), logits, 0)).max() <= 30
    for a, b in zip(got, want, strict=True):
        b = np.asarray(b, np.asarray(a).dtype)
        scale = np.abs(b[np.isfinite(b)]).max(initial=0)
        limit = tolerance(logits) * (scale + target.size if small else size)
        np.testing.assert_allclose(a, b, rtol=tolerance(logits), atol=limit)


@given(calls())
def test_one_hot_rows_are_their_indices(call):
    """One-hot rows give loss and gradient of the class indices, whatever else is asked for."""
    logits, labels, options = call
    axis = options["axis"]
    labels = np.maximum(labels, 0)
    if options.get("reduction", "mean") == "mean":
        options = options | {"reduction": "mean", "normalizer": 3.0}
    if options.get("label_smoothing") and "weight" in options:
        options = options | {"label_smoothing": 0.0}  # then w_y weighs the smoothing too
    one_hot = np.moveaxis(np.arange(logits.shape[axis]) == labels[..., None], -1, axis)
    got = fx.cross_entropy(logits, one_hot, return_grad=True, return_lse=True, **options)
    want = fx.cross_entropy(logits, labels, return_grad=True, return_lse=True, **options)
    for a, b in zip(got, want, strict=True):
        scale = np.abs(b[np.isfinite(b)]).max(initial=0)
        np.testing.assert_allclose(
            a, b, rtol=tolerance(logits), atol=tolerance(logits, 1e-2) * (scale + 1)
        )


@given(logits_of(), st.data())
def test_binary_losses_are_the_reference(given_logits, data):
    """Any shape, layout and labels; weights of any shape that broadcasts; all reductions."""
    logits, _ = given_logits
    shape = logits.shape
    target = data.draw(hnp.arrays("f4", shape, elements=st.sampled_from([0.0, 1.0, 0.5, 0.125])))
    broadcast = st.sampled_from([shape, shape[-1:], (*shape[:-1], 1), ()])
    positive = st.floats(0.125, 4, width=32) | st.just(0.0)
    options = {
        name: data.draw(hnp.arrays("f4", data.draw(broadcast), elements=positive))
        for name in ("weight", "pos_weight")
        if data.draw(st.booleans())
    }
    options["reduction"] = data.draw(st.sampled_from(["mean", "sum", "none"]))
    flags = {f"return_{name}": True for name in ("grad", "probs", "hess")}
    exact = logits.astype(np.longdouble)
    pairs = [
        (
            fx.binary_cross_entropy_with_logits(logits, target, **options, **flags),
            reference.binary_cross_entropy_with_logits(exact, target, **options, **flags),
        )
    ]
    options.pop("pos_weight", None)
    options["eps"] = data.draw(st.sampled_from([None, 1e-15, 0.01]))
    probs = pairs[0][0][2]
    pairs.append((fx.binary_cross_entropy(probs, target, return_grad=True, **options),
                  reference.binary_cross_entropy(probs.astype(np.longdouble), target,
                                                 return_grad=True, **options)))  # fmt: skip
    for got, want in pairs:
        for a, b in zip(got, want, strict=True):
            # Soft labels: the gradient is a difference, whose terms are of the size of 1/p.
            b = np.asarray(b, np.asarray(a).dtype)
            finite = np.abs(b[np.isfinite(b)])
            limit = 1e-6 if logits.dtype.itemsize == 4 else 1e-14
            least = limit * finite.max(initial=0) + subnormal(a)
            np.testing.assert_allclose(a, b, rtol=4 * limit, atol=least)


@given(soft_calls(), st.sampled_from([None, 1e-15, 0.01]))
def test_categorical_is_the_reference(call, eps):
    """Losses of probabilities under soft rows, any axis, layout and weights."""
    logits, target, options = call
    axis = options["axis"]
    probs = fx.softmax(logits, axis=axis)
    kept = {k: v for k, v in options.items()
            if k in ("axis", "weight", "sample_weight", "reduction")}  # fmt: skip
    got = fx.categorical_cross_entropy(probs, target, eps=eps, return_grad=True, **kept)
    want = reference.categorical_cross_entropy(
        probs.astype(np.longdouble), target, eps=eps, return_grad=True, **kept
    )
    for a, b in zip(got, want, strict=True):
        limit = 1e-6 if logits.dtype.itemsize == 4 else 1e-14
        b = np.asarray(b, np.asarray(a).dtype)
        size = 100 * np.abs(target).astype(float).sum() * limit if np.ndim(a) < logits.ndim else 0
        np.testing.assert_allclose(a, b, rtol=4 * limit, atol=4 * size + subnormal(a))
