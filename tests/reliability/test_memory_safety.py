"""No read or write outside of an array, whatever its size and whatever other threads do to it."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from scripts import run

HERE = Path(__file__).parent
TESTS = HERE.parent

# Every number of classes up to a few vectors; then around vectors, narrow rows' end (160, 320), and
# the length from which the next row's gradient is no longer fetched ahead (8192).
FEW = [*range(1, 71), *(edge + k for edge in (128, 160, 192, 256, 320) for k in (-1, 0, 1))]
CLASSES = {
    "narrow": FEW,
    "wide": [*FEW, *(edge + k for edge in (512, 1024, 8192) for k in (-1, 0, 1))],
    # Around the blocks of classes of a tile, 8, and the sizes at which a tile has fewer groups.
    "columns": [*range(1, 34), *(edge + k for edge in (64, 256, 512, 1024) for k in (-1, 0, 1))],
}
# Fewer and more than the lanes of a vector of rows, 8 or 16, and just as many; of column-major rows
# a part of a tile and more than two. The last but one is tried in every run.
ROWS = {"narrow": (1, 2, 9, 16, 17), "wide": (1, 2, 7), "columns": (1, 16, 37, 300, 128)}


def last_line(script, *args):
    """The last line that a script of this folder prints."""
    watched = os.environ | {"PYTHONMALLOC": "debug", "PYTHONFAULTHANDLER": "1"}
    return run([HERE / script, *args], 300, env=watched)[0].rstrip().rpartition("\n")[2]


def joined(numbers):
    return ",".join(map(str, numbers))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for pages")
@pytest.mark.share(4)
@pytest.mark.parametrize("kernels", ["narrow", "wide", "columns"])
@pytest.mark.parametrize("side", ["begin", "end"])
@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "bfloat16"])
def test_arrays_between_inaccessible_pages(kind, side, kernels, effort, count):
    """Every kernel at every size, with guard pages around inputs, temporaries and results."""
    rows = effort(ROWS[kernels][-2:-1], ROWS[kernels])
    last = last_line("guarded.py", kind, side, kernels, joined(rows), joined(CLASSES[kernels]))
    count("guarded", int(last), int(last))


@pytest.mark.share(2)
def test_labels_that_another_thread_rewrites(effort, count):
    """Bad labels written after the check cause no access out of bounds and change no other row."""
    endings = json.loads(last_line("rewritten.py", effort("700", "3000")))
    count("rewritten labels", sum(endings.values()), sum(endings.values()))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for pages")
@pytest.mark.parametrize(("side", "offset"), [("begin", -1), ("end", 20)])
def test_the_fence_is_where_it_should_be(side, offset):
    """An access one byte outside of five float32 ends the process; accesses inside do not."""
    script = f"""
        import sys, ctypes
        sys.path.insert(0, {str(HERE)!r})
        import numpy as np, fence
        fence.install().at_end = {side == "end"}
        array = np.zeros(5, np.float32)
        ctypes.string_at(array.ctypes.data, 20)
        ctypes.string_at(array.ctypes.data + int(sys.argv[1]), 1)
    """
    done = [
        subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(k)], timeout=60)
        for k in (19, offset)
    ]
    assert [process.returncode for process in done] == [0, -signal.SIGSEGV]
