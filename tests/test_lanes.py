"""The vector type and its mathematics: accuracy, constants of the right type, tails."""

import re

import numpy as np
import pytest
from numba import njit

from fastxent.cpu import kernels, lanes, launch
from fastxent.cpu.vector_math import exp, expm1


def elementwise(function):
    """A compiled function that applies a function of vectors to whole vectors of a row."""

    @njit
    def apply(x, out):
        width = lanes.lanes_of(lanes.row(x, 0))
        for j in range(0, x.shape[1], width):
            lanes.store(lanes.row(out, 0), j, function(lanes.load(lanes.row(x, 0), j)))

    def call(x):
        out = np.empty_like(x)
        apply(x[None], out[None])
        return out

    return call


compiled_exp, compiled_expm1 = elementwise(exp), elementwise(expm1)


@pytest.mark.parametrize("lowest", [-1e-6, -0.3, -0.7, -10.0, None])
def test_exp_and_expm1(rng, dtype, lowest):
    """Within one ulp of exact arithmetic over all that is normal."""
    limit = np.log(np.finfo(dtype).tiny)
    x = (rng.random(1 << 16) * (lowest or limit)).astype(dtype)
    exact = x.astype(np.longdouble)
    for call, want in ((compiled_exp, np.exp(exact)), (compiled_expm1, np.expm1(exact))):
        assert np.max(np.abs(call(x) - want) / np.abs(want)) < np.finfo(dtype).eps


def test_exp_at_its_ends(dtype):
    """0 → 1; what would be subnormal → 0; -inf → 0; nan → nan; expm1 likewise."""
    tiny = np.log(np.finfo(dtype).tiny)
    x = np.zeros(16, dtype)
    x[:6] = [0, tiny * 1.0001, tiny * 2, -1e30, -np.inf, np.nan]
    np.testing.assert_array_equal(compiled_exp(x)[:6], [1, 0, 0, 0, 0, np.nan])
    np.testing.assert_array_equal(compiled_expm1(x)[:6], [0, -1, -1, -1, -1, np.nan])
    assert compiled_exp(np.full(16, tiny * 0.9999, dtype))[0] > 0


def test_functions_for_compiled_code_say_so():
    """Called from Python they explain themselves."""
    from fastxent.cpu.row import rest_of_max

    for function, args in ((exp, (1,)), (expm1, (1,)), (rest_of_max, (1, 2, 3, 4))):
        with pytest.raises(NotImplementedError, match="compiled code only"):
            function(*args)


def loops(char, name):
    """The LLVM code of a kernel's compiled variant."""
    kernel = {
        "softmax": lambda: launch._row_kernel(kernels.softmax_rows, char, 2),
        "cross_entropy": lambda: launch._cross_entropy_kernel(char, False, True, False, False),
    }[name]()
    fresh = njit(error_model="numpy", nogil=True)(kernel.py_func)
    fresh.compile(kernel.signatures[0])
    return fresh.inspect_llvm(kernel.signatures[0])


@pytest.mark.parametrize("name", ["softmax", "cross_entropy"])
def test_float32_kernels_compute_in_float32(name):
    """A float32 kernel has doubles in sums of blocks only: no product, and no way back."""
    code = loops("f", name)
    assert "fmul contract <16 x float>" in code
    assert not re.search(r"(fmul|fdiv|fptrunc)[a-z ]*<\d+ x double>", code)
    assert "fmul contract <8 x double>" in loops("d", name)


@pytest.mark.parametrize("name", ["softmax", "cross_entropy"])
def test_no_unsafe_flags(name):
    """`contract` alone: nnan, ninf or reassoc would break what is promised of nan and exp."""
    for char in "fd":
        flags = set(re.findall(r"\b(?:nnan|ninf|reassoc|afn|arcp|fast)\b", loops(char, name)))
        assert flags == set()


def test_parts_of_vectors_stay_inside(dtype):
    """load_part and store_part touch n elements and no more, for every n."""
    width = 64 // np.dtype(dtype).itemsize

    @njit
    def copy_part(x, out, n):
        part = lanes.load_part(lanes.row(x, 0), 0, n, -1.0)
        lanes.store_part(lanes.row(out, 0), 0, n, part)
        lanes.store(lanes.row(out, 1), 0, part)

    x = np.arange(1, width + 1, dtype=dtype)[None]
    for n in range(width + 1):
        out = np.full((2, width), 7, dtype)
        copy_part(x, out, n)
        np.testing.assert_array_equal(out[0], np.where(np.arange(width) < n, x[0], 7))
        np.testing.assert_array_equal(out[1], np.where(np.arange(width) < n, x[0], -1))


def test_sums_over_lanes(rng, dtype):
    """Horizontal sum and maximum, a lane, and a vector without one."""
    width = 64 // np.dtype(dtype).itemsize

    @njit
    def all_of(x, k):
        v = lanes.load(lanes.row(x, 0), 0)
        without = lanes.horizontal_sum(lanes.without_lane(v, k))
        return lanes.horizontal_sum(v), lanes.horizontal_max(v), lanes.lane(v, k), without

    x = rng.integers(-9, 9, (1, width)).astype(dtype)
    for k in range(width):
        want = (x.sum(), x.max(), x[0, k], x.sum() - x[0, k])
        assert all_of(x, k) == want
