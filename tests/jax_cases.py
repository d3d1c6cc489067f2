"""What the tests of JAX programs have in common: draws, comparisons, processes."""

import os
import subprocess
import sys

import jax
import numpy as np

N, C, K = 5, 7, 4


def close(got, want, tol=8):
    """Equal to some ulp of float32, relative to the largest."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    atol = tol * np.finfo(np.float32).eps * max(np.abs(want).max(initial=0), 1e-3)
    np.testing.assert_allclose(got, want, rtol=0, atol=atol)


def drawn(rng, shape=(N, C), kind="index"):
    """Logits, and class indices of which one is ignored or class probabilities."""
    x = rng.normal(0, 2, shape).astype(np.float32)
    y = rng.integers(0, shape[-1], shape[:-1])
    y[..., 1] = -100
    q = rng.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(np.float32)
    return x, y if kind == "index" else q


def product(loss, x, v):
    """The second derivative of a loss, times a vector."""
    return jax.jvp(jax.grad(loss), (x,), (v,))[1]


def run(code, *arguments, **environment):
    """What a fresh process prints, with its error if it has one."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=300, env=os.environ | environment,
    )  # fmt: skip
    return done.stdout + (done.stderr if done.returncode else "")
