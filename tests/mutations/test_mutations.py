"""Every mutation of the table is caught: its test fails on a copy of the package that has it."""

import importlib.util

import mutants
import pytest
from mutations import MUTATIONS


@pytest.fixture(scope="session")
def run():
    """What runs a test on a copy."""
    with mutants.server() as run:
        yield run


def library(mutation):
    """The optional library whose arrays the mutation's test needs; None for NumPy's."""
    return next((name for name in ("jax", "dask", "torch") if name in mutation.test), None)


def wanted_by(mutation):
    """Skip what breaks the arrays of a library that is not installed."""
    name = library(mutation)
    if name is not None:
        pytest.importorskip(name, reason=f"{name} is optional: pip install {name}")


@pytest.mark.share(16)  # each takes seconds to compile
@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_each_mutation_is_caught(mutation, run):
    wanted_by(mutation)
    mutants.assert_caught(mutation, run)


def test_the_named_tests_exist():
    def there(name):
        return name is None or importlib.util.find_spec(name) is not None

    mutants.assert_collected({m.test for m in MUTATIONS if there(library(m))})
