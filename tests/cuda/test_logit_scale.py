"""Exponentials under a logit_scale: as exact as without, whatever the scale is."""

import warnings

import numpy as np
import pytest
import simulator as sim
import small  # noqa: F401 - few threads
from conftest import GpuBounds, normal, worst

import fastxent as fx
from fastxent import reference
from fastxent.cuda.parameters import Factor

FLOAT32, FLOAT64 = np.finfo(np.float32), np.finfo(np.float64)
# The first is rounded to float32 by nearly half an ulp, to a number that is no power of 2.
SCALES = [1 + 2.9 * 2.0**-24, 0.7, 1 / 3, 7.3]
NORMAL = [*SCALES, 1.0, np.log(2.0), 100.0, 1e-30, 1e30, float(FLOAT32.tiny), float(FLOAT32.max)]
BEYOND = [1e-45, 1e-60, float(FLOAT64.tiny), 1e39, 1e300]  # what float64 holds and float32 does not


@pytest.fixture(autouse=True)
def nothing_of_before():
    sim.forget()


@pytest.mark.parametrize("value", NORMAL)
def test_a_factor_in_two_parts(value):
    """value·log2(e) to the digits of float64: the first part is a float32, less than it."""
    factor = Factor.of(value)
    product = np.longdouble(value) / np.log(np.longdouble(2))
    total = np.longdouble(factor.exponent) + np.longdouble(factor.low)
    tolerance = max(2.0**-51 * product, np.longdouble(FLOAT32.smallest_subnormal))
    assert factor.value == value and abs(total - product) <= tolerance
    assert np.float32(factor.exponent) == factor.exponent > 0
    assert 0 < np.float32(factor.low) < np.inf
    if product < FLOAT32.max:  # no more than what rounding has left
        assert factor.low <= np.spacing(np.float32(factor.exponent))


@pytest.mark.parametrize("value", BEYOND)
def test_a_factor_of_float64(value):
    """It keeps its value, and no warning comes of the parts that float32 cannot hold."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        factor = Factor.of(value)
    assert not caught
    assert factor.value == value and 0 <= factor.exponent <= float(FLOAT32.max) and factor.low > 0


def far_logits(scale, rng):
    """Those whose exponentials are worst if scale and logits are multiplied in float32 first."""
    x = rng.uniform(-86, -20, 200_000).astype(np.float32) / np.float32(scale)
    rounded = np.exp2((x * np.float32(scale)) * np.float32(1.4426950408889634))
    z = x.astype(np.longdouble) * scale
    beyond = np.abs(rounded / np.exp(z) - 1) / FLOAT32.eps + 1.25 * z
    return x[np.argsort(beyond)[-40:]]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_the_exponent_is_rounded_once(kind, scale, rng):
    """Far below the maximum, where a product that is rounded twice is beyond the bounds."""
    x = np.append(far_logits(scale, rng), 0)[None].astype(kind)
    y, dtype = np.array([40]), np.dtype(kind).type
    options = {"reduction": "none", "logit_scale": scale}
    names = {"return_grad": True, "return_probs": True, "return_entropy": True}
    found = fx.cross_entropy(sim.on_gpu(x), sim.on_gpu(y), **options, **names)
    loss, grad, p, H = map(sim.host, found)
    exact = x.astype(np.longdouble)
    want, want_grad, want_p, want_H = reference.cross_entropy(exact, y, **options, **names)
    bounds = GpuBounds(exact * np.longdouble(scale), dtype)
    where = normal(want_p, dtype)
    assert worst(p, want_p, bounds.probs(), where) <= 1
    where[0, 40] = False
    assert worst(grad, want_grad, bounds.probs(), where) <= 1
    assert worst(loss, want, bounds.log_probs()[:, 40]) <= 1
    assert worst(H, want_H, bounds.probs().max(-1)) <= 1


SPECIAL = [[0.0, -np.inf, -1.0], [1.0, 1.0, -np.inf], [-np.inf] * 3, [3.0, np.nan, 0.0]]


@pytest.mark.parametrize(("kind", "scale"), [
    ("float32", float(FLOAT32.tiny)), ("float32", 1e-37), ("float32", 1e37),
    ("float32", float(FLOAT32.max)), ("float64", float(FLOAT64.tiny)), ("float64", 1e300),
])  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_infinite_logits_at_the_ends_of_scales(kind, scale):
    """-inf has the probability 0, and rows of nan are nan, as in the reference."""
    x, y = np.array(SPECIAL, kind), np.array([0, 1, 2, 0])
    options = {"reduction": "none", "return_probs": True, "logit_scale": scale}
    got = fx.cross_entropy(sim.on_gpu(x), sim.on_gpu(y), **options)
    for one, want in zip(map(sim.host, got), reference.cross_entropy(x, y, **options), strict=True):
        np.testing.assert_allclose(one, want.astype(kind), 1e-6)
