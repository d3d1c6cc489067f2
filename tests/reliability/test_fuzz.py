"""Coverage-guided fuzzing of the public functions, in a separate process."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fuzz.py")
COMPILING = 500  # further seconds, for kernels on an empty cache


@pytest.mark.share(2)
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed")
def test_fuzz(effort, count, tmp_path):
    """Each call is right or raises an error naming a wrong argument; nothing else is written."""
    seconds, log = effort(8, 30), tmp_path / "log"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--seconds", str(seconds), "--log", log],
        capture_output=True, text=True, timeout=seconds + COMPILING, cwd=tmp_path,
    )  # fmt: skip
    said = done.stdout + log.read_text(errors="replace")[-3000:] if done.returncode else done.stdout
    assert done.returncode == 0, said + done.stderr
    summary = json.loads(said.splitlines()[-1])
    assert summary["edges"] and 0 < summary["refused"] < summary["calls"] > effort(50, 2000)
    count("fuzzed", summary["calls"], summary["calls"] + summary["found"])
