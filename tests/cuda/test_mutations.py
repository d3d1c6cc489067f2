"""Every mutation of the table is caught: its test fails on a copy of the package that has it."""

import mutants
import pytest
from mutations import MUTATIONS
from shares import share_of

SHARES = 8


def pytest_generate_tests(metafunc):
    """A share of the table."""
    if "mutation" in metafunc.fixturenames:
        chosen = share_of(MUTATIONS, metafunc.config, SHARES)
        metafunc.parametrize("mutation", chosen, ids=[mutation.name for mutation in chosen])


@pytest.fixture(scope="session")
def run():
    """What runs a test on a copy."""
    with mutants.server() as run:
        yield run


def test_each_mutation_is_caught(mutation, run):
    mutants.assert_caught(mutation, run)


def test_the_named_tests_exist():
    mutants.assert_collected({mutation.test for mutation in MUTATIONS})
