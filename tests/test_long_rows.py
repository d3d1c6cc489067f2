"""Sums over long rows of equal terms, on the CPU: within the bounds however long a row is."""

import ml_dtypes
import numpy as np
import pytest
from conftest import Bounds
from long_rows import CASES, Setup, largest_share

import fastxent as fx


def setup_of(own, layout, n_classes):
    """Chains of a whole row, of its part in a lane of a vector, and of parts of these."""

    def call(name, *args, **options):
        arrays = (layout(a) if a.ndim == 2 else a for a in args)
        return getattr(fx, name)(*arrays, **options)

    compute = np.float64 if own is np.float64 else np.float32
    chains = [n_classes // k for k in (1, 8, 16, 64, 256, 1024)]
    chains = [length for length in chains if 4 < length <= 2**15]
    return Setup(call, Bounds, own, compute, n_classes, tuple(chains[:3]))


@pytest.mark.parametrize("n_classes", [100, 2048, 50257])
@pytest.mark.parametrize("case", CASES)
def test_rows_and_columns(case, dtype, layout, n_classes):
    """Few classes, the most of which columns are taken as they are, and rows alone."""
    assert largest_share(case, setup_of(dtype, layout, n_classes)) <= 1


@pytest.mark.parametrize(("case", "n_classes"), [
    ("gradient", 2**21), ("weight_totals", 2**21), ("outputs", 2**18), ("hvp", 2**18),
    ("soft_depths", 2**18),
])  # fmt: skip
def test_very_long_rows(case, dtype, n_classes):
    """All sums of a row, with chains that would lose thousands of ulp."""
    assert largest_share(case, setup_of(dtype, np.ascontiguousarray, n_classes)) <= 1


@pytest.mark.parametrize("own", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("n_classes", [1000, 2**18])
@pytest.mark.parametrize("case", ["small_loss", "outputs"])
def test_losses_of_half_precision(case, n_classes, layout, own):
    """They are of float32, so that rounding does not hide what a sum has lost."""
    assert largest_share(case, setup_of(own, layout, n_classes)) <= 1
