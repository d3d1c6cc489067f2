"""JAX programs: every loss and the softmax family with all options, in all transforms."""

import functools
import inspect

import numpy as np
import pytest

import fastxent as fx
from fastxent import reference

jax = pytest.importorskip("jax", reason="JAX is optional: pip install jax")
from jax_cases import C, K, N, close, drawn, product  # noqa: E402 - wants JAX

from fastxent.integrations import jax as fj  # noqa: E402 - wants JAX

jnp = jax.numpy

# Options of the losses of rows; "weight" and "sample_weight" stand for arrays.
OPTIONS = [
    {"weight": True}, {"sample_weight": True}, {"z_loss": 0.1},
    {"logit_scale": 1.5, "softcap": 3.0},
    {"label_smoothing": 0.2, "weight": True, "sample_weight": True, "z_loss": 0.01, "softcap": 5.0},
]  # fmt: skip


def weighted(rng, how, shape):
    """The options with numbers for the weights: of the rows, one is 0."""
    u = rng.uniform(0.5, 2, shape[:-1]).astype(np.float32)
    u[..., 0] = 0
    arrays = {"weight": rng.uniform(0.5, 2, shape[-1]).astype(np.float32), "sample_weight": u}
    return {name: arrays.get(name, value) for name, value in how.items()}


@pytest.mark.parametrize("name", fj.__all__)
def test_parameters(name):
    """Those of NumPy's function, but for buffers and what JAX's own transforms give."""
    left_out = {
        "out", "grad_out", "probs_out", "accumulate", "wrt", "return_grad", "return_hess",
    }  # fmt: skip
    theirs = inspect.signature(getattr(fx, name)).parameters.values()
    ours = inspect.signature(getattr(fj, name)).parameters.values()
    of_theirs = [(p.name, p.default, p.kind) for p in theirs if p.name not in left_out]
    assert [(p.name, p.default, p.kind) for p in ours] == of_theirs


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", ["index", "probs"])
def test_options(rng, kind, reduction):
    """Loss, gradient, slope and Hessian-vector product are the reference's."""
    x, target = drawn(rng, kind=kind)
    v = rng.normal(size=x.shape).astype(np.float32)
    for how in [*OPTIONS, {"normalizer": 3.0, "axis": 0}] if reduction == "mean" else OPTIONS:
        how = weighted(rng, how, x.shape) | {"reduction": reduction}
        if "axis" in how:
            target = np.arange(C) % N if kind == "index" else target
        value, grad = reference.cross_entropy(x, target, return_grad=True, **how)

        @jax.jit
        def derived(x, v, how=how, target=target):
            def loss(x):
                return fj.cross_entropy(x, target, **how)

            first = jax.jvp(loss, (x,), (v,))
            return *first, *jax.jvp(jax.grad(lambda x: loss(x).sum()), (x,), (v,))

        got, slope, *others = derived(x, v)
        close(got, value)
        close(slope, (grad * v).sum(-1 if reduction == "none" else None), 40)
        close(others[0], grad)
        close(others[1], reference.cross_entropy_hvp(x, target, v, **how), 16)


@pytest.mark.parametrize("kind", ["index", "probs"])
def test_groups_of_vmap(rng, kind):
    """Rows of a group have a divisor of their own: one call; with own class weights, one each."""
    x, target = drawn(rng, (3, N, C), kind)
    v = rng.normal(size=x.shape).astype(np.float32)
    how = weighted(rng, OPTIONS[-1], x.shape)
    u = how.pop("sample_weight")
    u[2] = 0

    def loss(x, target, u, w, reduction="mean"):
        options = how | {"weight": w, "sample_weight": u, "reduction": reduction}
        return fj.cross_entropy(x, target, **options).sum()

    for reduction in ("mean", "sum"):
        run = functools.partial(loss, reduction=reduction)
        shared = how["weight"]
        own = np.stack([shared, shared * 2, shared + 1])
        for w, axis in ((shared, None), (own, 0)):
            in_axes = (0, 0, 0, axis)
            values, grads = jax.jit(jax.vmap(jax.value_and_grad(run), in_axes))(x, target, u, w)
            along = jax.vmap(
                lambda x, t, u, w, v, run=run: product(lambda x: run(x, t, u, w), x, v),
                (*in_axes, 0),
            )(x, target, u, w, v)
            for k in range(3):
                options = how | {"weight": w if axis is None else w[k], "sample_weight": u[k]}
                options["reduction"] = reduction
                with np.errstate(invalid="ignore"):
                    want = reference.cross_entropy(x[k], target[k], return_grad=True, **options)
                np.testing.assert_allclose(values[k], want[0], rtol=1e-6)
                close(grads[k], want[1])
                close(along[k], reference.cross_entropy_hvp(x[k], target[k], v[k], **options), 16)
    losses = jax.vmap(
        lambda d: jax.vmap(lambda x, t: fj.cross_entropy(x, t, z_loss=0.1, normalizer=d))(x, target)
    )(jnp.array([1.0, 0.0]))
    want = [
        reference.cross_entropy(a, t, z_loss=0.1, reduction="sum")
        for a, t in zip(x, target, strict=True)
    ]
    close(losses[0], want)
    assert np.isnan(losses[1]).all()


def test_scan_and_checkpoint(rng):
    """Steps of a scan, remade or not, are those of a loop."""
    x, y = drawn(rng, (3, N, C))

    def total(x):
        def step(s, a):
            return s + fj.cross_entropy(a[0], a[1], z_loss=0.1) + fj.entropy(a[0]).sum(), None

        return jax.lax.scan(step, 0.0, (x, y))[0]

    want = [
        reference.cross_entropy(a, b, z_loss=0.1, return_grad=True)
        for a, b in zip(x, y, strict=True)
    ]
    entropies = [reference.entropy(a, return_grad=True) for a in x]
    pairs = list(zip(want, entropies, strict=True))
    grads = np.array([w[1] + e[1] for w, e in pairs])
    close(jax.jit(total)(x), sum(w[0] + e[0].sum() for w, e in pairs))
    for run in (total, jax.checkpoint(total)):
        close(jax.grad(run)(x), grads)


# --- the other functions --------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_linear(rng, reduction):
    """Losses, gradients and products are those of cross_entropy with the logits held."""
    x, y = drawn(rng, (2, N, K))[0], drawn(rng, (2, N, C))[1]
    inputs = x, rng.normal(size=(C, K)).astype(np.float32), rng.normal(size=C).astype(np.float32)
    how = {"z_loss": 0.1, "softcap": 4.0, "reduction": reduction}
    up = jnp.asarray(rng.uniform(1, 2, y.shape if reduction == "none" else ()), jnp.float32)

    def ours(x, w, b, y=y):
        return fj.linear_cross_entropy(x, w, y, linear_bias=b, **how)

    def theirs(x, w, b, y=y):
        return fj.cross_entropy(x @ w.T + b, y, **how)

    def derived(f, *inputs):
        def total(*a):
            return (f(*a) * up).sum()

        by_group = (0, None, None, 0)
        return (
            jax.value_and_grad(total, (0, 1, 2))(*inputs),
            jax.jvp(f, inputs, inputs),
            jax.jvp(jax.grad(total, (0, 1, 2)), inputs, inputs)[1],
            jax.hessian(lambda b: total(*inputs[:2], b))(inputs[2]),
            jax.jacrev(jax.jacrev(lambda b: total(*inputs[:2], b)))(inputs[2]),
            jax.vmap(jax.grad(lambda *a: f(*a).sum(), (0, 1)), by_group)(*inputs, y),
            jax.grad(lambda *a: jax.vmap(f, by_group)(*a, y).sum(), (0, 1))(*inputs),
            jax.hessian(lambda b: jax.vmap(f, by_group)(*inputs[:2], b, y).sum())(inputs[2]),
        )

    found = [
        jax.tree.leaves(jax.jit(derived, static_argnums=0)(f, *inputs)) for f in (ours, theirs)
    ]
    for got, want in zip(*found, strict=True):
        close(got, want, 100)


def test_no_logits_of_a_linear_map(rng):
    """A program of the loss and its gradients has no array of the logits' shape."""
    x, w, y = np.ones((40, K), np.float32), np.ones((50, K), np.float32), np.arange(40)
    program = jax.jit(jax.value_and_grad(fj.linear_cross_entropy, (0, 1)))
    assert "[40,50]" not in program.lower(x, w, y).compile().as_text()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_elements_and_probabilities(rng, reduction):
    """The losses in terms of JAX: values, gradients, products, and groups."""
    x, q = drawn(rng, kind="probs")
    y = rng.uniform(0.1, 0.9, x.shape).astype(np.float32)
    w, r = (rng.uniform(0.5, 2, C).astype(np.float32) for _ in range(2))
    u = rng.uniform(0.5, 2, N).astype(np.float32)
    p = np.asarray(jax.nn.softmax(x))
    divisor = u.sum() if reduction == "mean" else 1
    cases = [
        (
            x,
            lambda x: fj.binary_cross_entropy_with_logits(
                x, y, weight=w, pos_weight=r, reduction=reduction
            ),
            lambda x: w * ((1 - y) * jax.nn.softplus(x) + r * y * jax.nn.softplus(-x)),
            x.size if reduction == "mean" else 1,
        ),
        (
            p,
            lambda p: fj.binary_cross_entropy(p, y, weight=w, reduction=reduction),
            lambda p: -w * (y * jnp.log(p) + (1 - y) * jnp.log(1 - p)),
            x.size if reduction == "mean" else 1,
        ),
        (
            p,
            lambda p: fj.binary_cross_entropy(p, y, eps=1e-6, reduction=reduction),
            lambda p: -(y * jnp.log(p) + (1 - y) * jnp.log(1 - p)),
            x.size if reduction == "mean" else 1,
        ),
        (
            p,
            lambda p: fj.categorical_cross_entropy(
                p, q, weight=w, sample_weight=u, reduction=reduction
            ),
            lambda p: -u * (q * w * jnp.log(p)).sum(-1),
            divisor,
        ),
    ]
    for at, ours, losses, of in cases:

        def theirs(a, losses=losses, of=of):
            return losses(a) if reduction == "none" else losses(a).sum() / of

        def derived(a, f):
            def total(a):
                return f(a).sum()

            groups = jnp.stack([a, a[::-1]])
            return f(a), jax.grad(total)(a), product(total, a, x), jax.vmap(jax.grad(total))(groups)

        for got, want in zip(
            *(jax.jit(derived, static_argnums=1)(at, f) for f in (ours, theirs)), strict=True
        ):
            close(got, want, 100)


def test_groups_of_elements(rng):
    """Weights with and without groups, which broadcast within them."""
    x = rng.normal(size=(2, N, C)).astype(np.float32)
    y = (x > 0).astype(np.float32)
    w = rng.uniform(0.5, 2, (2, C)).astype(np.float32)

    def loss(x, y, w):
        return fj.binary_cross_entropy_with_logits(x, y, weight=w, pos_weight=2.0)

    values, grads = jax.vmap(jax.value_and_grad(loss))(x, y, w)
    shared = jax.vmap(loss, (0, 0, None))(x, y, w[0])
    for k in range(2):
        how = {"weight": w[k], "pos_weight": 2.0, "return_grad": True}
        want = reference.binary_cross_entropy_with_logits(x[k], y[k], **how)
        close(values[k], want[0])
        close(grads[k], want[1])
    close(shared[0], values[0])


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "entropy"])
def test_softmax(rng, name):
    """Values and derivatives up to the third, along any axis, and in groups."""

    def entropy(x, axis):
        p = jax.nn.softmax(x, axis)
        return -(p * jax.nn.log_softmax(x, axis)).sum(axis)

    ours, theirs = getattr(fj, name), {"entropy": entropy}.get(name) or getattr(jax.nn, name)
    x = rng.normal(size=(3, N, C)).astype(np.float32)

    def derived(x, f):
        def cosine(x):
            return jnp.cos(f(x, axis=0)).sum()

        one = x[0, 0]
        third = jax.grad(lambda x: (jax.hessian(cosine)(x) * jnp.outer(one, one)).sum())
        return (
            f(x, axis=-1), f(x, axis=1), jax.vmap(jax.vmap(lambda x: f(x, axis=-1), 1))(x),
            jax.grad(lambda x: jnp.cos(f(x, axis=1)).sum())(x),
            third(one) if name == "logsumexp" else jax.hessian(cosine)(one),
        )  # fmt: skip

    for got, want in zip(
        *(jax.jit(derived, static_argnums=1)(x, f) for f in (ours, theirs)), strict=True
    ):
        close(got, want, 50)


def test_results_beside_a_loss(rng):
    """They are those of NumPy's function, and have derivatives, or an error in their place."""
    x, y = drawn(rng)
    flags = dict.fromkeys(("return_probs", "return_lse", "return_argmax", "return_entropy"), True)
    how = {"logit_scale": 1.5, "softcap": 3.0}
    got, want = (
        fj.cross_entropy(x, y, **how, **flags),
        reference.cross_entropy(x, y, **how, **flags),
    )
    for a, b in zip(got, want, strict=True):
        close(a, b)

    def total(x):
        loss, probs, lse, _, entropy = fj.cross_entropy(x, y, **how, **flags)
        return loss + (probs * x).sum() + (lse**2).sum() + entropy.sum()

    def plain(x):
        z = 3 * jnp.tanh(1.5 * x / 3)
        p, lse = jax.nn.softmax(z), jax.nn.logsumexp(z, -1)
        return fj.cross_entropy(z, y) + (p * x).sum() + (lse**2).sum() - (p * jnp.log(p)).sum()

    close(*(jax.jit(jax.grad(f))(x) for f in (total, plain)), 16)

    def linear(x):
        how = {"return_lse": True, "return_argmax": True}
        loss, *others = fj.linear_cross_entropy(x, x, y % 5, **how)
        return loss, others

    (_, (lse, best)), grad = jax.value_and_grad(linear, has_aux=True)(x[:, :5])
    close(lse, jax.nn.logsumexp(x[:, :5] @ x[:, :5].T, -1))
    assert grad.shape == best.shape + (5,)
    with pytest.raises(NotImplementedError, match="lse of linear_cross_entropy has no deriv"):
        jax.grad(lambda x: linear(x)[1][0].sum())(x[:, :5])
    logits, probs = fj.binary_cross_entropy_with_logits(x, x > 0, return_probs=True)
    close(probs, jax.nn.sigmoid(x))


@pytest.mark.parametrize("kind", ["float64", "bfloat16", "float16"])
def test_types(rng, kind):
    """float64 where JAX has it; half precision is computed in float32 and rounded once."""
    with jax.enable_x64(kind == "float64"):
        x, y = drawn(rng)
        x = jnp.asarray(x, kind)
        wide, how = np.asarray(x, np.float64), {"z_loss": 0.1, "reduction": "sum"}
        loss, grad = jax.value_and_grad(fj.cross_entropy)(x, y, **how)
        want = reference.cross_entropy(wide, y, return_grad=True, **how)
        eps = float(jnp.finfo(kind).eps)
        assert loss.dtype == jnp.promote_types(kind, jnp.float32)
        np.testing.assert_allclose(loss, want[0], rtol=8 * float(jnp.finfo(loss.dtype).eps))
        found = [
            (grad, want[1]), (fj.softmax(x), reference.softmax(wide)),
            (fj.logsumexp(x), reference.logsumexp(wide)),
            (jax.grad(lambda x: fj.entropy(x).sum())(x),
             reference.entropy(wide, return_grad=True)[1]),
            (fj.cross_entropy(x, y, return_probs=True)[1], reference.softmax(wide)),
            (fj.binary_cross_entropy_with_logits(x, x > 0, return_probs=True)[1],
             1 / (1 + np.exp(-wide))),
        ]  # fmt: skip
        for got, of in found:
            assert got.dtype == kind
            atol = 8 * eps if kind == "float64" else 2e-6
            np.testing.assert_allclose(np.asarray(got, np.float64), of, rtol=eps, atol=atol)


def test_integers_beside_a_target(rng):
    """Weights and divisors that do not fit in 32 bits are numbers, not what is left of them."""
    x, y = drawn(rng)
    w = np.array([2**31, 1, 2**33, 5, 1, 1, 2], np.int64)
    u = np.arange(N, dtype=np.int64) * 2**31
    for how in (
        {"weight": w}, {"sample_weight": u}, {"weight": w.tolist(), "sample_weight": u},
        {"normalizer": np.int64(3_000_000_000)}, {"normalizer": 3_000_000_000},
    ):  # fmt: skip
        want = reference.cross_entropy(x, y, return_grad=True, **how)
        got = jax.value_and_grad(functools.partial(fj.cross_entropy, target=y, **how))(x)
        np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
        np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-6 * np.abs(want[1]).max())
    how = {"weight": w, "pos_weight": 3_000_000_000}
    got = fj.binary_cross_entropy_with_logits(x, x > 0, **how)
    want = reference.binary_cross_entropy_with_logits(x, x > 0, **how)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    got = fj.cross_entropy(x, y % C, z_loss=0.1, ignore_index=jnp.int32(1))
    close(got, reference.cross_entropy(x, y % C, z_loss=0.1, ignore_index=1))


def test_ignored_rows_of_a_linear_map(rng):
    """Whatever an ignored row holds, its slope is 0."""
    x, y = drawn(rng)
    y[2] = -100
    x[2], w, v = np.inf, rng.normal(size=(C, C)).astype(np.float32), np.ones_like(x)

    def losses(x):
        return fj.linear_cross_entropy(x, w, y, reduction="none")

    slopes = jax.jvp(losses, (x,), (v,))[1]
    _, grad = reference.cross_entropy(
        np.where(np.isinf(x), 0, x) @ w.T, y, reduction="none", return_grad=True
    )
    close(slopes, (grad * (v @ w.T)).sum(-1), 40)


def test_divisors_of_groups(rng):
    """They are those of calls without groups, whatever labels and weights of no effect hold."""
    x, y = drawn(rng, (2, N, C))
    u, w = np.ones((2, N), np.float32), rng.uniform(0.5, 2, C).astype(np.float32)
    for change in ("label", "weight"):
        if change == "label":  # it has no class weight
            y[0, 0], y[1, 2] = C, -1
        else:
            y[:] = np.array([0, -100, 3, 1, 2])
            u[:, 2], w[3] = 0, np.nan

        def loss(x, y, u, w=w):
            how = {"weight": w, "sample_weight": u, "check_target": False}
            return fj.cross_entropy(x, y, **how)

        values, grads = jax.vmap(jax.value_and_grad(loss))(x, y, u)
        for k in range(2):
            how = {"weight": w, "sample_weight": u[k], "check_target": False}
            want = reference.cross_entropy(x[k], y[k], return_grad=True, **how)
            for got, of in zip((values[k], grads[k]), want, strict=True):
                np.testing.assert_allclose(got, of, rtol=1e-5, atol=1e-6)


# --- beside optax ---------------------------------------------------------------------------


def test_names_of_optax(rng):
    """The calls in the table of docs/integrations.md give the values and gradients of optax's."""
    optax = pytest.importorskip("optax", reason="optax is optional: pip install optax")
    x, q = drawn(rng, kind="probs")
    y, where = np.arange(N) % C, rng.random((N, C)) < 0.7
    where[np.arange(N), y] = True
    none = {"reduction": "none"}
    pairs = (
        (
            lambda x: fj.cross_entropy(x, y, **none),
            lambda x: optax.softmax_cross_entropy_with_integer_labels(x, y),
        ),
        (lambda x: fj.cross_entropy(x, q, **none), lambda x: optax.softmax_cross_entropy(x, q)),
        (
            lambda x: fj.cross_entropy(x.T, q.T, axis=0, **none),
            lambda x: optax.softmax_cross_entropy(x.T, q.T, axis=0),
        ),
        (
            lambda x: fj.cross_entropy(
                jnp.where(where, x, -jnp.inf), np.where(where, q, 0), **none
            ),
            lambda x: optax.softmax_cross_entropy(x, q, where=where),
        ),
        (
            lambda x: fj.cross_entropy(x, y, label_smoothing=0.1, **none),
            lambda x: optax.softmax_cross_entropy(
                x, optax.smooth_labels(jax.nn.one_hot(y, C), 0.1)
            ),
        ),
        (
            lambda x: fj.binary_cross_entropy_with_logits(x, q, **none),
            lambda x: optax.sigmoid_binary_cross_entropy(x, q),
        ),
    )

    def derived(x, side):
        found = [pair[side] for pair in pairs]
        return [(f(x), jax.grad(lambda x, f=f: f(x).sum())(x)) for f in found]

    for got, want in zip(*(jax.jit(derived, static_argnums=1)(x, k) for k in (0, 1)), strict=True):
        close(got[0], want[0])
        close(got[1], want[1])
