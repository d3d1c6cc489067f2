"""The compile cache: in no state an error or a wrong number."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from scripts import COUNTING, python, run

import fastxent

HERE = Path(__file__).parent

FIRST_CALL = (
    COUNTING
    + """
import numpy as np, fastxent as fx
x = np.float32([[1, 2]])
print(round(float(fx.softmax(x)[0, 1]), 4), "softmax" in " ".join(compiled))
"""
)


def forks(script, number):
    """The output of a script whose child processes use the cache."""
    pytest.importorskip("resource", reason="needs Unix")
    said, errors = run([HERE / script, number], 550)
    return json.loads(said), errors


def test_faults(effort, count):
    """Files and folders in every bad state: right numbers, and a valid cache afterwards."""
    found, errors = forks("cache_faults.py", effort(4, 16))
    print(found["failed"], errors)
    count("faults", found["tried"] - len(found["failed"]), found["tried"])


def test_races(effort, count):
    """Concurrent first calls of different types, on a folder that does not exist."""
    found, errors = forks("cache_races.py", effort(8, 200))
    print(errors)
    count("races", found["right"], found["processes"])
    count("race files", found["whole"], found["files"])


def test_races_of_fresh_processes(tmp_path, effort, count):
    """Concurrent first calls by independent processes."""
    script = """
        import sys, numpy as np, fastxent as fx
        x = np.array([[2, 1, .1], [.1, 2, 1.9]], sys.argv[1])
        y = np.array([[1, 0, 0], [0, 1, 1]], x.dtype)
        loss, *_ = fx.binary_cross_entropy_with_logits(
            x, y, return_grad="g" in sys.argv[2], return_probs="p" in sys.argv[2])
        assert round(float(loss), 4) == 0.5325
        assert abs(fx.logsumexp(x)[0] - 2.41703) < 1e-5
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    kinds = [(kind, outputs) for kind in ("f4", "f8") for outputs in ("g", "p")]
    running = [
        subprocess.Popen([*command, *kind], env=os.environ | {"FASTXENT_CACHE_DIR": str(tmp_path)})
        for kind in effort(kinds[::3], kinds)
    ]
    codes = [process.wait(timeout=240) for process in running]
    count("races", codes.count(0), len(codes))
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".bin"]


@pytest.mark.share(2)
def test_names_of_functions(tmp_path, effort, count):
    """Kernels compiled by as many processes, all loaded by one: no function runs for another.

    Numba numbers functions by process, so that two of one name could have one symbol.
    """
    said, errors = run([HERE / "cache_names.py", effort(8, 80), tmp_path], 550)
    found = json.loads(said)
    print(found, errors)
    assert found["compiled"] == 0 and found["files"] >= effort(7, 40)
    assert found["names"] > effort(20, 100) or sys.platform != "linux"
    assert found["shared"] == 0
    count("processes of kernels", found["right"], found["tried"])


def test_edited_kernels(tmp_path, count):
    """After an edit the old code is not used; after undoing the edit it is."""
    shutil.copytree(Path(fastxent.__file__).parent, tmp_path / "fastxent")
    kernels = tmp_path / "fastxent" / "cpu" / "few_class_kernels.py"
    good = kernels.read_text()
    assert good.count("write_group(columns, round_to(1.0 / s, columns), ") == 1
    environment = {
        "PYTHONPATH": str(tmp_path),
        "PYTHONSAFEPATH": "1",  # the working folder may contain the package itself
        "FASTXENT_CACHE_DIR": str(tmp_path / "cache"),
    }
    said = []
    for text in (good, good.replace("1.0 / s", "2.0 / s"), good):
        kernels.write_text(text)
        said.append(python(FIRST_CALL, **environment))
    want = ["0.7311 True\n", "1.4621 True\n", "0.7311 False\n"]
    assert said[0] == want[0]
    count("faults", sum(a == b for a, b in zip(said[1:], want[1:], strict=True)), 2)


def test_two_kinds_of_cpu(tmp_path, count):
    """Two machines with one home folder: each compiles its own kernels and loads them again."""
    said = [
        python(FIRST_CALL, FASTXENT_CACHE_DIR=str(tmp_path), NUMBA_CPU_NAME=name)
        for name in (None, "generic") * 2
    ]
    want = ["0.7311 True\n"] * 2 + ["0.7311 False\n"] * 2
    assert said[0] == want[0]
    count("faults", sum(a == b for a, b in zip(said[1:], want[1:], strict=True)), 3)
