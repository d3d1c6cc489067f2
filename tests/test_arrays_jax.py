"""JAX arrays: the same kind out, the numbers NumPy gets; traced ones and buffers are refused."""

from types import SimpleNamespace

import numpy as np
import pytest

import fastxent as fx

jax = pytest.importorskip("jax", reason="JAX is optional: pip install jax")
from fastxent.arrays.jax import _check  # noqa: E402 - wants JAX

jnp = jax.numpy

X = np.float32([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9], [-1.0, 0.5, 3.0], [0.3, 0.2, -0.4]])
Y = np.array([1, 0, 2, 2])


def same(got, want):
    """Arrays of JAX with the bits and types of NumPy's, through tuples."""
    if isinstance(want, tuple):
        for a, b in zip(got, want, strict=True):
            same(a, b)
    elif want is None:
        assert got is None
    else:
        assert isinstance(got, jax.Array)
        assert got.dtype == (np.int32 if want.dtype == np.int64 else want.dtype)
        np.testing.assert_array_equal(np.asarray(got), want)


@pytest.mark.parametrize("kind", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_the_same_kind_out(kind):
    """For every function; targets and weights may be JAX's or NumPy's."""
    x = jnp.asarray(X, kind)
    array = np.asarray(x)
    same(fx.cross_entropy(x, jnp.asarray(Y)), fx.cross_entropy(array, Y))
    how = dict(return_grad=True, return_probs=True, return_lse=True, return_argmax=True)
    same(fx.cross_entropy(x, Y, weight=jnp.ones(3), **how), fx.cross_entropy(array, Y, **how))
    for name in ("softmax", "log_softmax", "logsumexp"):
        same(getattr(fx, name)(x, axis=0), getattr(fx, name)(array, axis=0))
    got = fx.linear_cross_entropy(x, jnp.ones((5, 3), kind), Y, return_grad=True)
    want = fx.linear_cross_entropy(array, np.ones((5, 3), array.dtype), Y, return_grad=True)
    same(got, want)
    assert isinstance(got[1], fx.LinearGrad)
    target = np.abs(X) / 3
    same(fx.binary_cross_entropy_with_logits(x, jnp.asarray(target), return_grad=True),
         fx.binary_cross_entropy_with_logits(array, target, return_grad=True))  # fmt: skip


def test_what_is_refused():
    """Arrays without numbers, buffers, wrong arguments."""
    x = jnp.asarray(X)
    for transform in (jax.jit, jax.vmap, lambda f: jax.grad(lambda x: f(x).sum())):
        words = r"logits is being traced by JAX.*call fastxent\.integrations\.jax"
        with pytest.raises(TypeError, match=words):
            transform(fx.softmax)(x)
    with pytest.raises(TypeError, match=r"(?s)target .*call fastxent\.integrations\.jax"):
        jax.jit(lambda y: fx.cross_entropy(X, y))(Y)
    with pytest.raises(TypeError, match="logits is being traced by JAX"):
        jax.grad(lambda x: fx.cross_entropy(x, Y))(x)
    with pytest.raises(TypeError, match="target is being traced by JAX"):
        jax.jit(lambda y: fx.cross_entropy(x, y))(Y)
    for buffer in (jnp.empty_like(x), np.empty_like(X)):
        with pytest.raises(ValueError, match="grad_out must be None"):
            fx.cross_entropy(x, Y, grad_out=buffer)
    for platform, words in (
        ("gpu", "logits is a JAX array on .*convert it with cupy.from_dlpack"),
        ("tpu", "logits is on .*in host memory"),
    ):
        there = SimpleNamespace(devices=lambda: [SimpleNamespace(platform=platform)])  # noqa: B023
        with pytest.raises(TypeError, match=words):
            _check("logits", there)
    with pytest.raises(ValueError, match="grad_out must be a numpy.ndarray"):
        fx.cross_entropy(X, Y, grad_out=jnp.empty_like(x))
    with pytest.raises(TypeError, match="positional argument"):
        fx.cross_entropy(x)
