"""The kernels' tests with NUMBA_BOUNDSCHECK; vector loads are tested by guard pages instead."""

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent
# The test files that call every kernel with every option and layout, and a selection of tests.
FULL = dict.fromkeys(("special_values", "layouts", "gradients", "reference"), "not two_to_the_31")
SHORT = {"special_values": "logsumexp"}


def pytest_generate_tests(metafunc):
    page = metafunc.config.getoption("--page", None)
    metafunc.parametrize(("name", "keyword"), (FULL if page else SHORT).items())


def test_with_checked_bounds(name, keyword, count, tmp_path_factory):
    """All pass, with kernels compiled with bounds checks for this run only."""
    # One for all workers of this run.
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    cache = tmp_path_factory.getbasetemp().parent / f"bounds-{run}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", keyword,
         TESTS / f"test_{name}.py"],
        capture_output=True, text=True, timeout=580,
        env=os.environ | {"NUMBA_BOUNDSCHECK": "1", "FASTXENT_CACHE_DIR": str(cache),
                          "NUMBA_OPT": "0",  # the same checks, compiled faster
                          "PYTEST_ADDOPTS": ""},
    )  # fmt: skip
    print(done.stdout)
    passed, failed = (
        sum(map(int, re.findall(rf"(\d+) (?:{outcome})", done.stdout)))
        for outcome in ("passed", "failed|error")
    )
    count("bounds", passed, passed + failed)
    assert done.returncode == 0
