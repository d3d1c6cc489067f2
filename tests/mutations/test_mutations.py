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


def wanted_by(mutation):
    """Skip what breaks programs of a library that is not installed."""
    if "jax" in mutation.test:
        pytest.importorskip("jax", reason="JAX is optional: pip install jax")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_each_mutation_is_caught(mutation, run):
    wanted_by(mutation)
    mutants.assert_caught(mutation, run)


def test_the_named_tests_exist():
    there = importlib.util.find_spec("jax") is not None
    mutants.assert_collected(
        {mutation.test for mutation in MUTATIONS if there or "jax" not in mutation.test}
    )
