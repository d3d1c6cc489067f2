"""Every mutation of the table is caught: its test fails on a copy of the package that has it."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from mutations import MUTATIONS

import fastxent

PACKAGE = Path(fastxent.__file__).parent
ROOT = Path(__file__).parents[2]

# Options of this run are not for those inside it; a line of the summary that is cut would lose the
# kind of the failure.
ENVIRONMENT = os.environ | {"PYTEST_ADDOPTS": "", "COLUMNS": "999"}

RUN = """
import sys, fastxent, pytest
assert fastxent.__file__ == sys.argv[1], fastxent.__file__
sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", sys.argv[2]]))
"""


def run(mutation):
    """Pytest's exit code and output for the mutation's test, on a copy of the package."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, "fastxent")
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        path = copy / mutation.file
        source = path.read_text()
        assert source.count(mutation.old) == 1, f"{mutation.old!r} must stand once in {path.name}"
        path.write_text(source.replace(mutation.old, mutation.new))
        # The safe path leaves the working folder out, where the package itself may lie.
        own = dict(PYTHONPATH=place, PYTHONSAFEPATH="1")
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(copy / "__init__.py"), mutation.test],
            cwd=ROOT, env=ENVIRONMENT | own, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_each_mutation_is_caught(mutation):
    """The named test fails by an assertion: any other error shows nothing."""
    code, output = run(mutation)
    assert code == pytest.ExitCode.TESTS_FAILED, output
    failed = rf"^FAILED {re.escape(mutation.test)} - (AssertionError|assert |Failed: DID NOT RAISE)"
    assert re.search(failed, output, re.MULTILINE), output


def test_the_named_tests_exist():
    """Every test of the table is collected, under the very id that the table gives."""
    tests = {mutation.test for mutation in MUTATIONS}
    files = sorted({test.partition("::")[0] for test in tests})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert tests <= set(done.stdout.splitlines()), tests - set(done.stdout.splitlines())
