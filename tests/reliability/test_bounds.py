"""The tests of the kernels, once more with every index checked (what vectors load is fenced in)."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
# Those that call kernels in this process; in a short run the smallest of them.
FILES = ["special_values", "layouts", "accuracy", "gradients", "reference", "properties", "lanes",
         "memory", "scipy", "sklearn"]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_with_checked_bounds(name, effort, count, testrun_uid):
    """All pass, with kernels compiled so for this run alone."""
    if name not in effort(FILES[:1], FILES):
        pytest.skip("in a full run")
    cache = Path(tempfile.gettempdir()) / f"fastxent-bounds-{testrun_uid}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TESTS / f"test_{name}.py"],
        capture_output=True, text=True, timeout=580,
        env=os.environ | {"NUMBA_BOUNDSCHECK": "1", "FASTXENT_CACHE_DIR": str(cache),
                          "PYTEST_ADDOPTS": ""},
    )  # fmt: skip
    passed = int(re.findall(r"(\d+) passed", done.stdout)[-1])
    failed = sum(map(int, re.findall(r"(\d+) (?:failed|error)", done.stdout)))
    print(done.stdout)
    count("bounds", passed, passed + failed)
    assert done.returncode == 0
