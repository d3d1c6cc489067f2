"""JAX programs: loss, gradient and second derivatives by compiled handlers, in all transforms."""

import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastxent as fx
from fastxent import reference

jax = pytest.importorskip("jax", reason="JAX is optional: pip install jax")
from fastxent.integrations.jax import cross_entropy  # noqa: E402 - wants JAX

jnp = jax.numpy

# Narrow rows and wide ones have handlers of their own; one shape is shared among threads.
SHAPES = [(5, 7), (3, 400), (3000, 400)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
# What JAX makes of a program's error, before its call has returned or after.
REPORTED = (ValueError, jax.errors.JaxRuntimeError)
value_and_grad = jax.jit(
    jax.value_and_grad(cross_entropy),
    static_argnames=("axis", "ignore_index", "label_smoothing", "reduction", "check_target"),
)


def drawn(rng, shape, dtype=np.float32):
    """Logits, and labels of which some are ignored."""
    x = rng.normal(0, 3, shape).astype(dtype)
    y = rng.integers(0, shape[-1], shape[:-1], dtype=np.int32)
    return x, np.where(rng.random(y.shape) < 0.2, np.int32(-100), y)


def close(got, want, dtype=np.float32):
    """Equal to some ulp of the type, relative to the largest."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == dtype
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=8 * np.finfo(dtype).eps * np.abs(want).max())


@each_shape
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradient(rng, shape, reduction, smoothing):
    """Those of the reference; the loss alone is the same by another handler."""
    x, y = drawn(rng, shape)
    how = {"reduction": reduction, "label_smoothing": smoothing}
    want = reference.cross_entropy(x, y, return_grad=True, **how)
    loss, grad = value_and_grad(x, y, **how)
    close(loss, want[0])
    close(grad, want[1])
    close(cross_entropy(jnp.asarray(x), jnp.asarray(y), **how), want[0])


@each_shape
def test_losses_by_row(rng, shape):
    """Each is multiplied by what comes from above; an ignored row is exactly 0."""
    x, y = drawn(rng, shape)
    up = rng.normal(size=shape[0]).astype(np.float32)
    want, grad = reference.cross_entropy(x, y, reduction="none", return_grad=True)
    losses, back = jax.vjp(lambda x: cross_entropy(x, y, reduction="none"), jnp.asarray(x))
    close(losses, want)
    close(back(up)[0], up[:, None] * grad)
    assert not np.asarray(losses)[y == -100].any()
    assert not np.asarray(back(up)[0])[y == -100].any()


@pytest.mark.parametrize("shape", SHAPES[:1], ids=str)
def test_float64(rng, shape):
    """Where JAX was told to have it, with labels of 64 bits."""
    x, y = drawn(rng, shape, np.float64)
    with jax.enable_x64(True):
        want = reference.cross_entropy(x, y, return_grad=True)
        for labels in (y, y.astype(np.int64)):
            loss, grad = value_and_grad(jnp.asarray(x), jnp.asarray(labels))
            close(loss, want[0], np.float64)
            close(grad, want[1], np.float64)


@pytest.mark.parametrize("shape", [(5, 7), (9, 700)], ids=str)
@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_half_precision(rng, kind, shape):
    """Computed in float32; the gradient has the logits' type."""
    x, y = drawn(rng, shape)
    x = jnp.asarray(x, kind)
    loss, grad = value_and_grad(x, y)
    want = reference.cross_entropy(np.asarray(x, np.float32), y, return_grad=True)
    close(loss, want[0])
    assert grad.dtype == kind
    eps = float(jnp.finfo(kind).eps)
    np.testing.assert_allclose(np.asarray(grad, np.float64), want[1], rtol=eps, atol=1e-7)


def test_other_axes_and_leading_dimensions(rng):
    """Leading dimensions are rows; one sample without a batch has none."""
    x, y = drawn(rng, (2, 3, 7))
    want = reference.cross_entropy(x, y)
    close(cross_entropy(x, y), want)
    close(cross_entropy(np.moveaxis(x, -1, 1), y, axis=1), want)
    grad = jax.grad(cross_entropy)(np.moveaxis(x, -1, 0), y, axis=0)
    close(jnp.moveaxis(grad, 0, -1), reference.cross_entropy(x, y, return_grad=True)[1])
    close(cross_entropy(x[0, 0], 3), reference.cross_entropy(x[0, 0], 3))


def test_vmap(rng):
    """Each group has a mean, and so a divisor, of its own; also where rows are one sample."""
    x, y = drawn(rng, (4, 6, 7))
    y[2] = -100
    with np.errstate(invalid="ignore"):
        want = [reference.cross_entropy(a, b, return_grad=True) for a, b in zip(x, y, strict=True)]
    losses, grads = jax.jit(jax.vmap(jax.value_and_grad(cross_entropy)))(x, y)
    assert np.isnan(losses[2])
    np.testing.assert_allclose(losses, np.array([loss for loss, _ in want]), rtol=1e-6)
    close(grads, np.array([grad for _, grad in want]))
    by_sample = jax.vmap(jax.vmap(lambda a, b: cross_entropy(a, b, reduction="sum")))(x, y)
    close(by_sample, reference.cross_entropy(x, y, reduction="none"))
    same_logits = jax.vmap(cross_entropy, in_axes=(None, 0))(x[0], y[:2])
    close(same_logits, [reference.cross_entropy(x[0], b) for b in y[:2]])


def test_other_transforms(rng):
    """scan and checkpoint go through."""
    x, y = drawn(rng, (3, 6, 7))
    want = sum(reference.cross_entropy(a, b) for a, b in zip(x, y, strict=True))

    def total(x):
        return jax.lax.scan(lambda s, a: (s + cross_entropy(*a), None), 0.0, (x, y))[0]

    close(jax.jit(total)(x), want)
    scanned, remade = jax.grad(total)(x), jax.grad(jax.checkpoint(total))(x)
    close(scanned, remade)


def test_the_first_derivative_is_one_call(rng):
    """In a program of loss and gradient nothing else is done for each logit."""
    for how in ({}, {"reduction": "sum"}):
        text = value_and_grad.lower(*drawn(rng, (5, 7)), **how).compile().as_text()
        (entry,) = re.findall(r"ENTRY[^{]*{\n(.*?)\n}", text, re.DOTALL)
        found = re.findall(r"= .*? ([a-z-]+)\(", entry)
        assert [name for name in found if name != "get-tuple-element"] == [
            "parameter", "parameter", "custom-call",
        ]  # fmt: skip


# --- second derivatives ---------------------------------------------------------------------

OPTIONS = [
    {}, {"reduction": "sum"}, {"reduction": "none"}, {"label_smoothing": 0.1},
    {"ignore_index": 2, "label_smoothing": 1.0}, {"ignore_index": None}, {"axis": 0},
]  # fmt: skip


def product(loss, x, v):
    """The second derivative of a loss, times a vector."""
    return jax.jvp(jax.grad(loss), (x,), (v,))[1]


def summed(y, **how):
    """A loss of logits alone, the sum of those by row if it is not reduced."""
    return lambda x: cross_entropy(x, y, **how).sum()


@pytest.mark.parametrize("how", OPTIONS, ids=str)
def test_hessian(rng, how):
    """The reference's matrix, in whatever modes it is made."""
    x, y = drawn(rng, (4, 4))
    if "ignore_index" in how:
        y = abs(y) % 4
    basis = np.eye(16).reshape(16, 4, 4)
    want = np.array([reference.cross_entropy_hvp(x, y, v, **how) for v in basis])
    for outer in (jax.jacfwd, jax.jacrev):
        for inner in (jax.jacfwd, jax.jacrev):
            matrix = outer(inner(summed(y, **how)))(jnp.asarray(x))
            close(np.reshape(matrix, (16, 4, 4)), want)
    close(np.reshape(jax.hessian(summed(y, **how))(x), (16, 4, 4)), want)


@each_shape
@pytest.mark.parametrize("how", OPTIONS[:5], ids=str)
def test_forward_mode(rng, shape, how):
    """⟨g, v⟩ of loss and gradient, and the reference's Hessian-vector product."""
    x, y = drawn(rng, shape)
    if "ignore_index" in how:
        y = abs(y) % 4
    v = rng.normal(size=shape).astype(np.float32)
    value, grad = reference.cross_entropy(x, y, return_grad=True, **how)
    want = (grad * v).sum(-1 if how.get("reduction") == "none" else None)
    scale = 8 * np.finfo(np.float32).eps * np.abs(grad * v).sum()

    def loss(x):
        return cross_entropy(x, y, **how)

    got, along = jax.jit(lambda x, v: jax.jvp(loss, (x,), (v,)))(x, v)
    close(got, value)
    np.testing.assert_allclose(along, want, rtol=0, atol=scale)
    linear = jax.linearize(loss, jnp.asarray(x))[1]
    np.testing.assert_allclose(linear(v), want, rtol=0, atol=scale)
    want = reference.cross_entropy_hvp(x, y, v, **how)
    close(jax.jit(lambda x, v: product(summed(y, **how), x, v))(x, v), want)
    close(jax.linearize(jax.grad(summed(y, **how)), jnp.asarray(x))[1](v), want)


@pytest.mark.parametrize("shape", [(5, 7), (9, 700)], ids=str)
@pytest.mark.parametrize("kind", ["float64", "bfloat16", "float16"])
def test_second_derivatives_of_other_types(rng, kind, shape):
    """float64 where JAX has it; half precision is computed in float32 and rounded once."""
    with jax.enable_x64(kind == "float64"):
        x, y = drawn(rng, shape)
        x, v = jnp.asarray(x, kind), jnp.asarray(rng.normal(size=shape), kind)
        got = jax.jit(lambda x, v: product(lambda x: cross_entropy(x, y), x, v))(x, v)
        assert got.dtype == kind
        want = reference.cross_entropy_hvp(np.asarray(x, np.float64), y, np.asarray(v, np.float64))
        eps = float(jnp.finfo(kind).eps)
        atol = 8 * eps * np.abs(want).max() if kind == "float64" else 1e-7
        np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=eps, atol=atol)
        value, along = jax.jvp(lambda x: cross_entropy(x, y), (x,), (v,))
        assert along.dtype == value.dtype == jnp.promote_types(kind, jnp.float32)


def test_a_penalty_on_the_gradient(rng):
    """The gradient of its squared norm, 2 H g, in programs and in groups, which have own means."""
    x, y = drawn(rng, (4, 6, 7))
    y[2] = -100

    def penalty(x, y):
        return (jax.grad(cross_entropy)(x, y) ** 2).sum()

    def doubled(x, y):
        _, grad = reference.cross_entropy(x, y, return_grad=True)
        return reference.cross_entropy_hvp(x, y, 2 * grad)

    def scanned(x):
        return jax.lax.scan(lambda s, a: (s + penalty(*a), None), 0.0, (x, y))[0]

    with np.errstate(invalid="ignore"):
        want = np.array([doubled(a, b) for a, b in zip(x, y, strict=True)])
    close(jax.vmap(jax.grad(penalty))(x, y), want)
    close(jax.jit(jax.vmap(jax.grad(penalty)))(x, y), want)
    close(jax.jit(jax.grad(scanned))(x), want)
    close(jax.grad(jax.checkpoint(scanned))(jnp.asarray(x)), want)


def test_vmap_of_products(rng):
    """Over vectors, over samples, and over both; each group is divided by its own count."""
    x, y = drawn(rng, (3, 6, 7))
    v = rng.normal(size=(2, 6, 7)).astype(np.float32)

    def hvp(x, y, v):
        return product(lambda x: cross_entropy(x, y), x, v)

    both = jax.vmap(jax.vmap(hvp, (None, None, 0)), (0, 0, None))(x, y, v)
    want = [[reference.cross_entropy_hvp(a, b, c) for c in v] for a, b in zip(x, y, strict=True)]
    close(both, want)
    close(jax.jit(jax.vmap(hvp, (None, None, 0)))(x[0], y[0], v), want[0])


def test_third_derivatives(rng):
    """And further ones: those of the same loss in terms of JAX, which they take in float64."""
    x, y = drawn(rng, (3, 4))
    y[0], y[1] = -100, 2

    def plain(x):
        log_p = jnp.take_along_axis(jax.nn.log_softmax(x), jnp.maximum(y, 0)[:, None], 1)[:, 0]
        return -jnp.where(y < 0, 0, log_p).sum() / (y >= 0).sum()

    with jax.enable_x64(True):
        third = jax.jacfwd(jax.hessian(plain))(x.astype(np.float64))
        fourth = jax.hessian(jax.hessian(plain))(x.astype(np.float64))
    for outer in (jax.jacfwd, jax.jacrev):
        got = outer(jax.hessian(lambda x: cross_entropy(x, y)))(jnp.asarray(x))
        close(got, third)
    close(jax.hessian(jax.hessian(lambda x: cross_entropy(x, y)))(jnp.asarray(x)), fourth)


def test_rows_that_take_no_part(rng):
    """Ignored rows are exactly 0 in each derivative, whatever they and the vector hold."""
    x, y = drawn(rng, (5, 7))
    v = rng.normal(size=(5, 7)).astype(np.float32)
    y[:] = [1, -100, 3, 0, -100]
    x[1], v[1], v[4] = np.nan, np.inf, np.nan
    x[2, 6], v[2, 6] = -np.inf, np.nan

    def loss(x):
        return cross_entropy(x, y)

    third = jax.grad(lambda x: product(loss, x, jnp.asarray(v)).sum())
    live = np.where(np.isfinite(v), v, 0)
    for got in (product(loss, x, v), jax.grad(lambda x: (jax.grad(loss)(x) * live).sum())(x)):
        close(got, reference.cross_entropy_hvp(x, y, live))
        assert not np.asarray(got)[[1, 4]].any()
    assert np.isfinite(jax.jvp(loss, (x,), (v,))[1])
    assert not np.asarray(third(jnp.asarray(x)))[[1, 4]].any()
    nothing = jnp.zeros((0, 7))
    assert product(lambda x: cross_entropy(x, np.zeros(0, int)), nothing, nothing).shape == (0, 7)
    assert not np.asarray(jax.hessian(lambda x: cross_entropy(x, np.full(2, -100)))(x[:2])).any()


def test_labels_out_of_range_in_second_derivatives(rng):
    """As in the first: an error of the program, or a row of nan."""
    x, y = drawn(rng, (5, 7))
    y[3] = 7
    with pytest.raises(REPORTED, match="OUT_OF_RANGE.*0 .. C-1"):
        jax.block_until_ready(product(lambda x: cross_entropy(x, y), x, x))
    got = product(lambda x: cross_entropy(x, y, check_target=False), x, x)
    np.testing.assert_array_equal(np.isnan(got).any(1), np.arange(5) == 3)


# --- arguments, processes, devices ----------------------------------------------------------


def test_targets(rng):
    """Integers of any width, compared as integers and never wrapped, as of NumPy's functions."""
    x, _ = drawn(rng, (5, 7))
    y = np.array([0, 6, 3, 3, 1])
    want = cross_entropy(x, y)
    for kind in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64):
        assert cross_entropy(x, y.astype(kind)) == want
    for kind, label, ignored in (
        (np.uint8, 250, 250), (np.uint32, 2**32 - 1, 2**32 - 1), (np.uint64, 2**64 - 1, 2**64 - 1),
        (np.int64, 2**32 - 100, 2**32 - 100), (np.int32, -(2**31), -(2**31)),
    ):  # fmt: skip
        labels = np.array([0, label, 3, 3, 1], kind)
        want = fx.cross_entropy(x, labels, ignore_index=ignored)
        for target in (labels, jnp.asarray(labels)) if labels.itemsize < 8 else (labels,):
            close(cross_entropy(x, target, ignore_index=ignored), want)
            for other in (-100, None, 2**31 - 1, 2**63, -1, -2):
                with pytest.raises(REPORTED, match="target must hold classes"):
                    jax.block_until_ready(cross_entropy(x, target, ignore_index=other))
    assert np.isfinite(cross_entropy(x, y, ignore_index=None))


@pytest.mark.parametrize("bad", [7, -1, -(2**31), 2**31 - 1])
def test_labels_out_of_range(rng, bad):
    """An error when the program runs; unchecked, that row is nan and no other."""
    x, y = drawn(rng, (5, 7))
    y[3] = bad
    for call in (cross_entropy, value_and_grad):
        with pytest.raises(REPORTED, match="OUT_OF_RANGE.*0 .. C-1"):
            jax.block_until_ready(call(x, y))
    loss, grad = value_and_grad(x, y, check_target=False)
    assert np.isnan(loss)
    np.testing.assert_array_equal(np.isnan(grad).any(1), np.arange(5) == 3)


def test_no_rows():
    """A mean over nothing is nan and does not move; a sum is 0."""
    nothing, labels = jnp.zeros((0, 7)), jnp.zeros(0, int)
    assert np.isnan(cross_entropy(nothing, labels))
    assert cross_entropy(nothing, labels, reduction="sum") == 0
    assert cross_entropy(nothing, labels, reduction="none").shape == (0,)
    loss, grad = value_and_grad(jnp.ones((2, 7)), jnp.full(2, -100))
    assert np.isnan(loss)
    assert not np.asarray(grad).any()


def test_what_is_refused():
    """By name, when it is traced."""
    x, y = jnp.ones((2, 3)), jnp.zeros(2, int)
    for error, words, call in (
        (TypeError, "logits must hold floats", lambda: cross_entropy(y, y[0])),
        (TypeError, "target must hold integer", lambda: cross_entropy(x, y == 0)),
        (ValueError, "target must have shape", lambda: cross_entropy(x, y[:1])),
        (ValueError, "at least one class", lambda: cross_entropy(x[:, :0], y)),
        (ValueError, "must have a class axis", lambda: cross_entropy(x[0, 0], y[0])),
        (TypeError, "axis must be an int", lambda: cross_entropy(x, y, axis=1.0)),
        (TypeError, "axis must be an int", lambda: cross_entropy(x, y, axis=True)),
        (TypeError, "ignore_index must be an int", lambda: cross_entropy(x, y, ignore_index=1.0)),
        (
            TypeError,
            "label_smoothing must be",
            lambda: jax.jit(lambda e: cross_entropy(x, y, label_smoothing=e))(0.1),
        ),
        (
            TypeError,
            "ignore_index must be an int",
            lambda: jax.jit(lambda i: cross_entropy(x, y, ignore_index=i))(1),
        ),
        (ValueError, "axis must be in", lambda: cross_entropy(x, y, axis=2)),
        (ValueError, "reduction must be", lambda: cross_entropy(x, y, reduction="all")),
        (ValueError, "label_smoothing", lambda: cross_entropy(x, y, label_smoothing=1.5)),
    ):
        with pytest.raises(error, match=words):
            call()


def test_many_at_once(rng):
    """Programs on many threads, and many losses in one program: the same bits, and an end."""
    x, y = map(jnp.asarray, drawn(rng, SHAPES[-1]))
    want = jax.block_until_ready(value_and_grad(x, y))
    different = []

    def run():
        for _ in range(20):
            loss, grad = value_and_grad(x, y)
            if loss != want[0] or not bool((grad == want[1]).all()):
                different.append(loss)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert not different
    several = jax.jit(jax.value_and_grad(lambda x: sum(cross_entropy(x * k, y) for k in range(9))))
    loss, grad = several(x)
    assert np.isfinite(loss)
    assert bool(jnp.isfinite(grad).all())


def run(code, *arguments, **environment):
    """What a fresh process prints."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=300, check=True, env=os.environ | environment,
    ).stdout  # fmt: skip


def test_handlers_of_several_processes(tmp_path):
    """Compiled by one process each, they go together in a third; a program JAX kept finds them.

    The kernels that they call are there before: their functions are then numbered alike.
    """
    kernels = """if True:
        import numpy as np, fastxent as fx
        for return_grad in (False, True):
            fx.cross_entropy(np.zeros((5, 7), np.float32), np.arange(5), return_grad=return_grad)
    """
    code = """if True:
        import sys, jax, numpy as np
        from fastxent.integrations.jax import cross_entropy
        jax.config.update("jax_compilation_cache_dir", sys.argv[1])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        x = np.linspace(-3, 3, 35, dtype=np.float32).reshape(5, 7)
        for function in sys.argv[2:]:
            result = jax.jit({"loss": cross_entropy, "grad": jax.grad(cross_entropy)}[function])
            print(float(abs(result(x, np.arange(5))).sum()))
    """
    cache = {"FASTXENT_CACHE_DIR": str(tmp_path / "kernels")}
    run(kernels, tmp_path, **cache)

    def answers(*these):
        try:
            return run(code, tmp_path, *these, **cache)
        except subprocess.CalledProcessError as error:  # that runs another's code may crash
            return f"exit status {error.returncode}"

    each = ["loss"], ["grad"], ["loss", "grad"], ["grad", "loss"]
    runs = [answers(*these) for these in each]
    assert runs[2] == runs[0] + runs[1]
    assert runs[3] == runs[1] + runs[0]
    x = np.linspace(-3, 3, 35, dtype=np.float32).reshape(5, 7)
    loss, grad = fx.cross_entropy(x, np.arange(5), return_grad=True)
    np.testing.assert_allclose([*map(float, runs[2].split())], [loss, abs(grad).sum()], rtol=1e-6)


def test_several_devices():
    """Under shard_map a loss differs by device, and the gradient of what is shared is a sum."""
    code = """if True:
        import jax, numpy as np
        from jax import numpy as jnp
        from jax.sharding import Mesh, PartitionSpec as P
        from fastxent.integrations.jax import cross_entropy
        mesh = Mesh(np.array(jax.devices()), ("d",))
        x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 7)), jnp.float32)
        y = jnp.arange(8) % 7
        for shared, specs in ((x, (P("d"), P("d"))), (x[:2], (P(), P("d")))):
            def total(x, y):
                return jax.lax.pmean(cross_entropy(x, y), "d")
            sharded = jax.shard_map(total, mesh=mesh, in_specs=specs, out_specs=P())
            def plain(x, y):
                rows = x if len(x) == 8 else jnp.concatenate([x] * 4)
                return -jnp.take_along_axis(jax.nn.log_softmax(rows), y[:, None], 1).mean()
            got = jax.jit(jax.value_and_grad(sharded))(shared, y)
            want = jax.value_and_grad(plain)(shared, y)
            for a, b in zip(got, want):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
            def second(f):
                def loss(x):
                    return f(x, y)
                forward = jax.jvp(jax.grad(loss), (shared,), (shared,))
                again = jax.grad(lambda x: (jax.grad(loss)(x) * shared).sum())(shared)
                along = jax.jvp(loss, (shared,), (shared,))
                return *forward, *along, again, jax.hessian(loss)(shared)
            for got in (second(sharded), jax.jit(lambda: second(sharded))()):
                for a, b in zip(got, second(plain)):
                    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
        try:
            jax.shard_map(cross_entropy, mesh=mesh, in_specs=(P("d"), P("d")), out_specs=P())(x, y)
        except ValueError as error:
            print("refused", "replicated" in str(error) or "varying" in str(error) or str(error))
    """
    printed = run(code, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert printed == "refused True\n"
