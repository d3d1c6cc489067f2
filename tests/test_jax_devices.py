"""JAX programs: errors, threads, processes that share programs, several devices."""

import threading

import numpy as np
import pytest

from fastxent import reference

jax = pytest.importorskip("jax", reason="JAX is optional: pip install jax")
from jax_cases import C, N, drawn, product, run  # noqa: E402 - wants JAX

from fastxent.integrations import jax as fj  # noqa: E402 - wants JAX

jnp = jax.numpy
# What JAX makes of a program's error, before its call has returned or after.
REPORTED = (ValueError, jax.errors.JaxRuntimeError)


def test_derivatives_that_are_not_there(rng):
    """An error that names the array: never 0 in silence."""
    x, q = drawn(rng, kind="probs")
    y, w, u = np.arange(N), np.ones(C, np.float32), np.ones(N, np.float32)
    for name, error, call in (
        ("target", TypeError, lambda: jax.grad(lambda q: fj.cross_entropy(x, q))(q)),
        ("weight", TypeError, lambda: jax.grad(lambda w: fj.cross_entropy(x, y, weight=w))(w)),
        (
            "sample_weight",
            TypeError,
            lambda: jax.jvp(lambda u: fj.cross_entropy(x, y, sample_weight=u), (u,), (u,)),
        ),
        (
            "normalizer",
            TypeError,
            lambda: jax.grad(lambda n: fj.cross_entropy(x, y, normalizer=n))(2.0),
        ),
        (
            "pos_weight",
            TypeError,
            lambda: jax.grad(lambda w: fj.binary_cross_entropy_with_logits(x, q, pos_weight=w))(w),
        ),
        (
            "third derivative",
            NotImplementedError,
            lambda: jax.grad(
                lambda x: product(lambda x: fj.cross_entropy(x, y, z_loss=0.1), x, x).sum()
            )(x),
        ),
        (
            "with reverse mode applied first",
            NotImplementedError,
            lambda: jax.jacfwd(
                jax.jacfwd(lambda x: fj.linear_cross_entropy(x, x[:N], y, reduction="none"))
            )(x),
        ),
        (
            "constant weights",
            NotImplementedError,
            lambda: jax.hessian(
                lambda x: (fj.linear_cross_entropy(x, x, y, reduction="none") ** 2).sum()
            )(x),
        ),
    ):
        with pytest.raises(error, match=name):
            call()


def test_what_is_refused(rng):
    """Types, shapes and options when a program is traced; what labels hold when it runs."""
    x, y = drawn(rng)

    def loss(logits=x, target=y, **how):
        return fj.cross_entropy(logits, target, **how)

    def exported(f, *arrays):
        return jax.export.export(jax.jit(f))(*arrays)

    threes = np.full(x.shape, 2**32) * (np.arange(C) == 3)
    for error, words, call in (
        (TypeError, "logits must hold floats", lambda: fj.softmax(np.arange(3))),
        (TypeError, "axis must be an int", lambda: fj.entropy(x, axis=1.0)),
        (ValueError, "axis must be in", lambda: fj.logsumexp(x, axis=2)),
        (ValueError, r"weight must have shape \(7,\)", lambda: loss(weight=x[0, 1:])),
        (ValueError, "softcap must be greater", lambda: loss(softcap=-1.0)),
        (
            ValueError,
            "normalizer is only allowed with",
            lambda: loss(normalizer=1.0, reduction="sum"),
        ),
        (TypeError, "z_loss must be a real", lambda: jax.jit(lambda z: loss(z_loss=z))(0.1)),
        (ValueError, "reduction must be", lambda: loss(z_loss=0.1, reduction="all")),
        (ValueError, "target must have shape", lambda: fj.binary_cross_entropy(x, x[0])),
        (ValueError, "linear_weight must have", lambda: fj.linear_cross_entropy(x, x[0], y)),
        (
            REPORTED,
            r"target\[0\] must be a class in 0 .. 6",
            lambda: loss(target=y + 7, z_loss=0.1),
        ),
        (REPORTED, r"target\[0, 3\] must be 0 or 1", lambda: fj.binary_cross_entropy(x, threes)),
        (NotImplementedError, "jax.export", lambda: exported(fj.softmax, x)),
        (NotImplementedError, "jax.export", lambda: exported(fj.cross_entropy, x, y)),
    ):
        with pytest.raises(error, match=words):
            jax.block_until_ready(call())
    big = np.array([2**32 + 3, 0, 1, 2, 2**32 - 100])
    got = fj.cross_entropy(x, big, z_loss=0.1, ignore_index=2**32 - 100, check_target=False)
    assert np.isnan(got)
    np.testing.assert_array_equal(
        np.isnan(fj.cross_entropy(x, y % 9 + 3, z_loss=0.1, check_target=False, reduction="none")),
        (y % 9 + 3 >= C),
    )


def test_calls_at_once(rng):
    """Programs on many threads, and in flight together: the same bits, and an end."""
    x, y = map(jnp.asarray, drawn(rng, (300, 400)))
    run = jax.jit(jax.value_and_grad(lambda x: fj.cross_entropy(x, y, z_loss=1e-3)))
    want, different = jax.block_until_ready(run(x)), []

    def repeat():
        for loss, grad in [run(x) for _ in range(10)]:
            if loss != want[0] or not bool((grad == want[1]).all()):
                different.append(loss)

    threads = [threading.Thread(target=repeat, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    repeat()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert not different


def test_a_program_that_jax_kept(tmp_path):
    """It is valid in another process; one that ends with programs in flight ends well."""
    code = """if True:
        import sys, jax, numpy as np
        from fastxent.integrations.jax import cross_entropy
        jax.config.update("jax_compilation_cache_dir", sys.argv[1])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        run = jax.jit(jax.value_and_grad(lambda x: cross_entropy(x, np.arange(5), z_loss=0.1)))
        loss, grad = run(np.linspace(-3, 3, 35, dtype=np.float32).reshape(5, 7))
        print(float(loss), float(abs(grad).sum()))
        for _ in range(100):
            run(grad)
    """
    first = run(code, tmp_path)
    kept = {path.name for path in tmp_path.glob("jit__lambda*-cache")}
    second = run(code, tmp_path)
    assert kept and kept == {path.name for path in tmp_path.glob("jit__lambda*-cache")}
    x = np.linspace(-3, 3, 35, dtype=np.float32).reshape(5, 7)
    loss, grad = reference.cross_entropy(x, np.arange(5), z_loss=0.1, return_grad=True)
    assert first == second
    np.testing.assert_allclose([*map(float, first.split())], [loss, abs(grad).sum()], rtol=1e-5)


def test_several_devices():
    """Rows of sharded arrays stay on their devices, under jit and shard_map; gradients too."""
    code = """if True:
        import functools, jax, numpy as np
        from jax import numpy as jnp
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        from fastxent.integrations import jax as fj
        mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(8, 7)), jnp.float32)
        y = jnp.asarray([0, 1, -100, 3, 4, 5, 6, 0])
        w = jnp.asarray(rng.uniform(0.5, 1.5, 7), jnp.float32)
        matrix = jnp.asarray(rng.normal(size=(7, 7)), jnp.float32)
        q = jax.nn.softmax(x[::-1])
        def close(got, want):
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
                np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=2e-6)
        losses = {
            "plain": lambda x, y: fj.cross_entropy(x, y),
            "options": lambda x, y: fj.cross_entropy(x, y, z_loss=0.1, weight=w),
            "none": lambda x, y: fj.cross_entropy(x, y, reduction="none").sum(),
            "binary": lambda x, y: fj.binary_cross_entropy_with_logits(x, q, weight=w),
            "linear": lambda x, y: fj.linear_cross_entropy(x, matrix, y),
            "entropy": lambda x, y: fj.entropy(x).mean(),
        }
        for name, loss in losses.items():
            def all_of(x, y, loss=loss):
                value, grad = jax.value_and_grad(loss)(x, y)
                return value, grad, jax.jvp(jax.grad(lambda x: loss(x, y)), (x,), (x,))[1]
            spec = P("a") if name == "plain" else P(("a", "b"))
            shards = [jax.device_put(a, NamedSharding(mesh, spec)) for a in (x, y)]
            program = jax.jit(all_of).lower(*shards).compile()
            got = program(*shards)
            close(got, jax.jit(all_of)(x, y))
            assert got[1].sharding.spec == got[2].sharding.spec == spec, (name, got[1].sharding)
            text = program.as_text()
            assert "all-gather" not in text and "all-reduce" in text, name
        for loss in (
            lambda x, y: fj.cross_entropy(x, y, z_loss=0.1, weight=w, reduction="sum"),
            lambda x, y: fj.linear_cross_entropy(x, matrix, y, reduction="sum"),
            lambda x, y: (fj.softmax(x) ** 2).sum(),
        ):
            def total(x, y, loss=loss):
                return jax.lax.psum(loss(x, y), "a")
            for specs, size in ((P("a"), 8), (P(), 4)):
                shared = jax.shard_map(total, mesh=mesh, in_specs=(specs, P("a")), out_specs=P())
                rows = lambda x: loss(jnp.concatenate([x] * (8 // size)), y)
                got = jax.jit(jax.value_and_grad(shared))(x[:size], y)
                close(got, jax.jit(jax.value_and_grad(rows))(x[:size]))
        by_matrix = jax.jit(jax.grad(lambda m, x, y: fj.linear_cross_entropy(x, m, y)))
        close(by_matrix(matrix, *shards), by_matrix(matrix, x, y))
        groups, labels = jnp.stack([x, x[::-1]]), jnp.stack([y, y])
        for loss, specs in (("plain", [P("a"), P("a", "b")]), ("options", [P(None, "b")])):
            program = jax.jit(jax.vmap(jax.value_and_grad(losses[loss])))
            for spec in specs:
                got = program(jax.device_put(groups, NamedSharding(mesh, spec)), labels)
                close(got, program(groups, labels))
                assert got[1].sharding.spec == spec
        print("same")
    """
    assert run(code, XLA_FLAGS="--xla_force_host_platform_device_count=4") == "same\n"


def test_shares_of_devices():
    """Divisors of devices have the digits of the losses; they are those of one device."""
    code = """if True:
        import jax, numpy as np
        from jax import numpy as jnp
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        from fastxent.integrations import jax as fj
        mesh = Mesh(np.array(jax.devices()), ("a",))
        rng = np.random.default_rng(0)
        def compare(f, *arrays, rtol=1e-5, atol=2e-6):
            shards = [jax.device_put(a, NamedSharding(mesh, P("a"))) for a in arrays]
            got, want = jax.jit(f)(*shards), jax.jit(f)(*arrays)
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
                a, b = (np.asarray(part, np.float64) for part in (a, b))
                np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
        with jax.enable_x64(True):
            wide = jnp.asarray(rng.normal(size=(6, 7)))
            for w in (None, np.float32(0.7), np.arange(7)):
                def binary(x, w=w):
                    return fj.binary_cross_entropy_with_logits(x, x > 0, weight=w)
                compare(jax.value_and_grad(binary), wide, rtol=1e-13, atol=0)
        x = jnp.asarray(rng.normal(size=(6, 7)), jnp.float32)
        matrix = jnp.asarray(rng.normal(size=(7, 7)), jnp.float32)
        y, u = jnp.asarray([0, 7, -100, 3, 2, -1]), jnp.asarray([1.0, 1, 1, 0, 2, 1])
        for w in (jnp.arange(1.0, 8), jnp.arange(1.0, 8).at[3].set(jnp.nan)):
            def weighted(x, y, u, w=w):
                how = {"weight": w, "sample_weight": u, "check_target": False}
                return fj.cross_entropy(x, y, **how)
            compare(jax.value_and_grad(weighted), x, y, u)
        def by_matrix(x):  # 3 · 257 = 771, which is 768 if parts are rounded to bfloat16
            def of(m):
                return fj.linear_cross_entropy(x, m, jnp.zeros(3, int), reduction="sum")
            return jax.grad(of)(jnp.zeros((2, 1), jnp.bfloat16))
        compare(by_matrix, jnp.asarray([[514.0]] * 3), rtol=0, atol=0)
        labels = jnp.asarray([0, 1, 2, 3, 4, 5])
        half = matrix.astype(jnp.bfloat16)
        def halves(x):
            def loss(x, m, b):
                return fj.linear_cross_entropy(x, m, labels, linear_bias=b)
            inputs = x.astype(jnp.bfloat16), half, half[0]
            return jax.jvp(jax.value_and_grad(loss, (0, 1, 2)), inputs, inputs)
        compare(halves, x, rtol=1e-2)
        def product(x, u, n):
            def loss(m):
                return fj.linear_cross_entropy(x, m, labels, sample_weight=u, normalizer=n)
            return jax.jvp(jax.grad(loss), (matrix,), (matrix[::-1],))[1]
        weights, numbers = jnp.stack([u, u + 1]), jnp.asarray([2.0, 3.0])
        compare(lambda x: jax.vmap(lambda u: product(x, u, None))(weights), x)
        compare(lambda x: jax.vmap(lambda n: product(x, None, n))(numbers), x)
        print("same")
    """
    assert run(code, XLA_FLAGS="--xla_force_host_platform_device_count=3") == "same\n"


def test_uneven_shards():
    """Rows and groups that their devices do not divide are computed once each, without padding."""
    code = """if True:
        import jax, numpy as np
        from jax import numpy as jnp
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        from fastxent.integrations import jax as fj
        mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(4, 8, 7)), jnp.float32)
        y = jnp.asarray(rng.integers(0, 7, (4, 8)))
        matrix = jnp.asarray(rng.normal(size=(7, 7)), jnp.float32)
        losses = {
            "plain": fj.cross_entropy,
            "options": lambda x, y, **how: fj.cross_entropy(x, y, z_loss=0.1, **how),
            "linear": lambda x, y, **how: fj.linear_cross_entropy(x, matrix, y, **how),
            "binary": lambda x, y, **how: fj.binary_cross_entropy_with_logits(
                x, (y[..., None] == jnp.arange(7)), **how
            ),
        }
        cuts = {
            "rows": (lambda x, y: (x[:-1], y[:-1]), P(("a", "b"))),
            "next": (lambda x, y: (x[:, :-1], y[:, 1:]), P("a", "b")),
        }
        for name, loss in losses.items():
            for reduction in ("mean", "sum"):
                def total(x, y, loss=loss, reduction=reduction):
                    return loss(x, y, reduction=reduction)
                for cut, (of, spec) in cuts.items():
                    def run(x, y, total=total, of=of):
                        x, y = of(x, y)
                        return jax.value_and_grad(total)(x, y)
                    def groups(x, y, total=total, of=of):
                        return jax.vmap(jax.value_and_grad(total))(*of(x, y))
                    for f in (run, groups):
                        shards = [jax.device_put(a, NamedSharding(mesh, spec)) for a in (x, y)]
                        got, want = jax.jit(f)(*shards), jax.jit(f)(x, y)
                        for a, b in zip(got, want, strict=True):
                            np.testing.assert_allclose(
                                np.asarray(a), np.asarray(b), rtol=1e-5, atol=2e-6,
                                err_msg=f"{name} {reduction} {cut} {f.__name__}",
                            )
        print("same")
    """
    assert run(code, XLA_FLAGS="--xla_force_host_platform_device_count=4") == "same\n"
