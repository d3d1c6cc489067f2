"""Every mutation of the table is caught: its test fails on a copy of the package that has it."""

import mutants
import pytest
from mutations import MUTATIONS


@pytest.fixture(scope="session")
def run():
    """What runs a test on a copy."""
    with mutants.server() as run:
        yield run


@pytest.mark.share(16)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_each_mutation_is_caught(mutation, run):
    mutants.assert_caught(mutation, run)


def test_the_named_tests_exist():
    mutants.assert_collected({mutation.test for mutation in MUTATIONS})
