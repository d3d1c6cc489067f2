"""The vector type and its mathematics: accuracy, constants of the right type, tails."""

import functools
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from numba import njit

from fastxent.cpu import (
    binary,
    binary_kernels,
    categorical_kernels,
    few_class_kernels,
    jit,
    kernels,
    lanes,
    launch,
    memory,
    partial,
)
from fastxent.cpu.arguments import KernelOptions, WeightArrays
from fastxent.cpu.vector_math import (
    exp,
    expm1,
    log,
    log1m,
    log1p,
    log_above_one,
    log_of,
    shifted_exp,
)
from fastxent.options import Clip


def elementwise(function):
    """A compiled function that applies a function of vectors to whole vectors of a row."""

    @njit
    def apply(x, out):
        width = memory.lanes_of(memory.row(x, 0))
        for j in range(0, x.shape[1], width):
            memory.store(memory.row(out, 0), j, function(memory.load(memory.row(x, 0), j)))

    def call(x):
        out = np.empty_like(x)
        apply(x[None], out[None])
        return out

    return call


compiled_exp, compiled_expm1 = elementwise(exp), elementwise(expm1)
compiled_shifted_exp, compiled_log_above_one = elementwise(shifted_exp), elementwise(log_above_one)
compiled_log, compiled_log1p, compiled_log1m = map(elementwise, (log, log1p, log1m))


@pytest.mark.parametrize("lowest", [-1e-6, -0.3, -0.7, -10.0, None])
def test_exp_and_expm1(rng, dtype, lowest):
    """Within one ulp of exact arithmetic over all that is normal."""
    limit = np.log(np.finfo(dtype).tiny)
    x = (rng.random(1 << 16) * (lowest or limit)).astype(dtype)
    exact = x.astype(np.longdouble)
    for call, want in ((compiled_exp, np.exp(exact)), (compiled_expm1, np.expm1(exact))):
        assert np.max(np.abs(call(x) - want) / np.abs(want)) < np.finfo(dtype).eps


@pytest.mark.parametrize("lowest", [-1e-6, -0.3, -0.7, -10.0, None])
def test_exp_of_a_rounded_difference(rng, dtype, lowest):
    """Within 1.5 ulp and |x|/40, of the |x|/2 that rounding x may have cost; 1 at 0, never more."""
    limit = np.log(np.finfo(dtype).tiny)
    x = (rng.random(1 << 16) * (lowest or limit)).astype(dtype)
    want = np.exp(x.astype(np.longdouble))
    got = compiled_shifted_exp(x)
    assert np.all(np.abs(got - want) / want < (1.5 - x / 40) * np.finfo(dtype).eps)
    assert got.max() <= 1


def test_exp_at_its_ends(dtype):
    """0 → 1; what would be subnormal → 0, or may stay so; -inf → 0; nan → nan; expm1 likewise."""
    tiny = np.log(np.finfo(dtype).tiny)
    x = np.zeros(16, dtype)
    x[:6] = [0, tiny * 1.0001, tiny * 2, -1e30, -np.inf, np.nan]
    np.testing.assert_array_equal(compiled_exp(x)[:6], [1, 0, 0, 0, 0, np.nan])
    shifted = compiled_shifted_exp(x)[:6]
    np.testing.assert_array_equal(shifted, [1, shifted[1], 0, 0, 0, np.nan])
    assert 0 <= shifted[1] < np.finfo(dtype).tiny
    np.testing.assert_array_equal(compiled_expm1(x)[:6], [0, -1, -1, -1, -1, np.nan])
    assert compiled_exp(np.full(16, tiny * 0.9999, dtype))[0] > 0


def test_functions_for_compiled_code_say_so():
    """Called from Python they explain themselves."""
    from fastxent.cpu.row import rest_of_max

    one = [
        (function, (1,)) for function in (exp, shifted_exp, expm1, log, log_above_one, log1p, log1m)
    ]
    for function, args in (*one, (rest_of_max, (1, 2, 3, 4))):
        with pytest.raises(NotImplementedError, match="compiled code only"):
            function(*args)


@pytest.mark.parametrize("lowest", [1e-30, 1e-3])
def test_logarithms(rng, dtype, lowest):
    """Log of (0, 1], log1p on [0, 1] and -log(1 - x) on [0, ½]: 1.2 ulp, near their zeros too."""
    x = (lowest ** rng.random(1 << 16)).astype(dtype)
    one = np.concatenate([x, 1 - x / 16]).astype(dtype)
    for call, given, want in (
        (compiled_log, one, np.log),
        (compiled_log_above_one, 1 / one, np.log),
        (compiled_log1p, one, np.log1p),
        (compiled_log1m, x / 2, lambda v: -np.log1p(-v)),
    ):
        exact = want(given.astype(np.longdouble))
        error = np.abs(call(given) - exact)
        assert np.all(error <= 1.2 * np.finfo(dtype).eps * np.abs(exact))


@pytest.mark.parametrize("lowest", [1e-30, 1e-3])
def test_logarithm_of_a_pair(rng, dtype, lowest):
    """log p to 1.2 ulp, near p = 1 by 1 - p alone; of what is below the normal numbers, too."""

    @njit
    def log_pairs(p, r, out):
        for j in range(0, p.shape[1], memory.lanes_of(memory.row(p, 0))):
            pair = memory.load(memory.row(p, 0), j), memory.load(memory.row(r, 0), j)
            memory.store(memory.row(out, 0), j, log_of(*pair))

    def call(p, r):
        out = np.empty((1, len(p)), dtype)
        log_pairs(p[None], r[None], out)
        return out[0]

    small = (lowest ** rng.random(1 << 16)).astype(dtype)
    p = np.concatenate([small, 1 - small])
    p = np.maximum(p, np.finfo(dtype).tiny)
    r = np.where(p > 0.75, np.concatenate([1 - small, small]), 1 - p)
    exact = np.log(p.astype(np.longdouble))
    exact[p > 0.5] = np.log1p(-r[p > 0.5].astype(np.longdouble))
    error = np.abs(call(p, r) - exact)
    assert np.all(error <= 1.2 * np.finfo(dtype).eps * np.abs(exact))
    info, p = np.finfo(dtype), np.ones(16, dtype)
    p[:5] = [0, np.nan, info.smallest_subnormal, info.tiny / 3, info.tiny]
    got = call(p, 1 - p)
    np.testing.assert_allclose(got[2:], np.log(p[2:].astype(np.longdouble)), rtol=info.eps)
    assert got[0] < -100
    assert np.isnan(got[1])


def test_log_at_its_ends(dtype):
    """0 → -inf, 1 → 0, nan → nan; subnormal numbers are taken as what they are."""
    x = np.ones(16, dtype)
    info = np.finfo(dtype)
    x[:5] = [0, np.nan, info.smallest_subnormal, info.tiny / 3, info.tiny]
    with np.errstate(divide="ignore"):
        want = np.log(x.astype(np.longdouble)).astype(dtype)
    np.testing.assert_allclose(compiled_log(x), want, rtol=info.eps)
    x[:5] = [0, 1, np.nan, 0.25, 0.5]
    assert compiled_log1p(x)[0] == compiled_log1m(x / 2)[0] == 0
    assert np.isnan(compiled_log1p(x)[2])
    assert np.isnan(compiled_log1m(x / 2)[2])


def test_polynomials_and_choices(dtype):
    """polynomial, where_less, first_equal, exponent and mantissa, and a minus sign."""
    cubic = lanes.polynomial(1.0, -2.0, 0.0, 4.0)

    @njit
    def calls(x, value, out):
        v = memory.load(memory.row(x, 0), 0)
        memory.store(memory.row(out, 0), 0, cubic(v))
        memory.store(memory.row(out, 1), 0, lanes.where_less(v, 3.0, -v, 0.5))
        memory.store(memory.row(out, 2), 0, lanes.exponent(v))
        memory.store(memory.row(out, 3), 0, lanes.mantissa(v))
        return lanes.first_equal(v, value)

    width = 64 // np.dtype(dtype).itemsize
    x = np.arange(1, width + 1).astype(dtype)
    out = np.empty((4, width), dtype)
    for k, value in enumerate([*x, dtype(0.5)]):
        assert calls(x[None], value, out) == k
    np.testing.assert_array_equal(out[0], 1 - 2 * x + 4 * x**3)
    np.testing.assert_array_equal(out[1], np.where(x < 3, -x, 0.5))
    np.testing.assert_array_equal(out[3] * 2 ** out[2], x)
    assert (out[3] >= np.sqrt(dtype(0.5))).all()
    assert (out[3] < np.sqrt(dtype(2))).all()
    x[3] = np.nan
    calls(x[None], x[0], out)
    assert out[1, 3] == 0.5  # a nan is not less


@functools.cache  # several tests read it
def loops(char, name):
    """The LLVM code of a kernel's compiled variant."""
    rows, grad = (WeightArrays, KernelOptions), ("grad",)
    source, signature = {
        "softmax": lambda: (kernels.softmax_rows, launch.map_signature(char, char, 2)),
        "cross_entropy": lambda: (
            kernels.cross_entropy_rows, launch.loss_signature(char, launch.LABELS, grad, rows)
        ),
        "soft": lambda: (
            kernels.cross_entropy_rows, launch.loss_signature(char, char, grad, rows)
        ),
        "categorical": lambda: (
            kernels.categorical_rows, launch.loss_signature(char, char, grad, (*rows, Clip))
        ),
        "categorical labels": lambda: (
            categorical_kernels.categorical_label_rows,
            launch.loss_signature(char, launch.LABELS, grad, (*rows, Clip)),
        ),
        "binary": lambda: (
            binary_kernels.binary_logits, binary.signature(char, char, ("grad", "probs", "hess"))
        ),
        "binary probs": lambda: (
            binary_kernels.binary_probs, binary.signature(char, char, grad, (Clip,))
        ),
        "few classes": lambda: (
            few_class_kernels.cross_entropy_rows,
            launch.loss_signature(char, launch.LABELS, ("grad", "hess"), (*rows, int)),
        ),
        "few classes, soft": lambda: (
            few_class_kernels.cross_entropy_rows,
            launch.loss_signature(char, char, grad, (*rows, type(None))),
        ),
        "softmax of few": lambda: (
            few_class_kernels.softmax_rows, launch.map_signature(char, char, 2, launch.ROWS)
        ),
    }[name]()  # fmt: skip
    fresh = jit.kernel(source)
    fresh.compile(signature)
    return fresh.inspect_llvm(fresh.signatures[0])


KERNELS = ["softmax", "cross_entropy", "soft", "categorical", "binary", "binary probs"]
# Once a row these compute in float64, too.
OF_ROWS = ["few classes", "few classes, soft", "softmax of few", "categorical labels"]


@pytest.mark.parametrize("name", KERNELS)
def test_float32_kernels_compute_in_float32(name):
    """A float32 kernel has doubles in sums of blocks only: no product, and no way back."""
    code = loops("f", name)
    assert "fmul contract <16 x float>" in code
    assert not re.search(r"(fmul|fdiv|fptrunc)[a-z ]*<\d+ x double>", code)
    assert "fmul contract <8 x double>" in loops("d", name)


@pytest.mark.parametrize("name", [*KERNELS, *OF_ROWS])
def test_no_references_are_counted(name):
    """Each count would wait for all stores before it; with ten classes that was half the time."""
    assert "NRT_" not in re.sub("NRT_(Allocate|Free)", "", loops("f", name))


@pytest.mark.parametrize("name", [*KERNELS, *OF_ROWS])
def test_no_unsafe_flags(name):
    """`contract` alone: nnan, ninf or reassoc would break what is promised of nan and exp."""
    for char in "fd":
        flags = set(re.findall(r"\b(?:nnan|ninf|reassoc|afn|arcp|fast)\b", loops(char, name)))
        assert flags == set()


@pytest.mark.parametrize("loads", ["masked", "halves"])
def test_parts_of_vectors_stay_inside(dtype, loads, monkeypatch):
    """load_part and store_part touch n elements and no more, for every n; so without masks."""
    if loads == "halves":
        monkeypatch.setattr(partial, "has_masked_loads", lambda bits: False)
    width = 64 // np.dtype(dtype).itemsize

    @njit
    def copy_part(x, out, n):
        part = memory.load_part(memory.row(x, 0), 0, n, -1.0)
        memory.store_part(memory.row(out, 0), 0, n, part)
        memory.store(memory.row(out, 1), 0, part)

    x = np.arange(1, width + 1, dtype=dtype)[None]
    for n in range(width + 2):
        out = np.full((2, width), 7, dtype)
        copy_part(x, out, n)
        np.testing.assert_array_equal(out[0], np.where(np.arange(width) < n, x[0], 7))
        np.testing.assert_array_equal(out[1], np.where(np.arange(width) < n, x[0], -1))


def test_a_bound_keeps_nan(dtype):
    """at_least is the bound where x is less, also for -inf, and nan where x is nan."""
    limit = elementwise(njit(lambda x: lanes.at_least(x, -2.0)))
    x = np.full(16, -1, dtype)
    x[:6] = [-3, -2, np.nan, -np.inf, np.inf, 0]
    np.testing.assert_array_equal(limit(x)[:7], [-2, -2, np.nan, -2, np.inf, 0, -1])


def test_sums_over_lanes(rng, dtype):
    """Horizontal sum and maximum, a lane, and a vector without one."""
    width = 64 // np.dtype(dtype).itemsize

    @njit
    def all_of(x, k):
        v = memory.load(memory.row(x, 0), 0)
        without = lanes.horizontal_sum(lanes.without_lane(v, k))
        return lanes.horizontal_sum(v), lanes.horizontal_max(v), lanes.lane(v, k), without

    x = rng.integers(-9, 9, (1, width)).astype(dtype)
    for k in range(width):
        want = (x.sum(), x.max(), x[0, k], x.sum() - x[0, k])
        assert all_of(x, k) == want


def test_on_the_oldest_cpu():
    """Compiled for a CPU without fma and AVX, losses and gradients keep to the specification."""
    script = """
        import platform
        import numpy as np
        import fastxent as fx
        from fastxent import reference
        from fastxent.cpu.lanes import has_fma

        # Every ARM processor has it.
        assert not has_fma() or platform.machine() not in ("x86_64", "AMD64")
        rng = np.random.default_rng(3)
        for classes in 10, 400:
            x = 30 * rng.standard_normal((40, classes), np.float32)
            y = rng.integers(0, classes, 40)
            loss, grad = fx.cross_entropy(x, y, return_grad=True)
            wanted, exact = reference.cross_entropy(x.astype(np.longdouble), y, return_grad=True)
            below = x.max(axis=1, keepdims=True) - x
            bound = (8 + (below + below[np.arange(40), y, None] + np.log(classes)) / 2) * 2**-23
            normal = abs(exact) > 2 * np.finfo(np.float32).tiny
            assert np.all((abs(grad - exact) <= bound * abs(exact))[normal])
            assert abs(loss - wanted) <= 8 * 2**-23 * wanted
    """
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, check=True)
