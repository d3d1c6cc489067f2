"""Runs tests on copies of the package, each in a fork of this process, which has loaded the rest.

For each line of input, a copy's folder and a test with a tab between, one of output: the exit code.
What pytest and the package wrote is in the folder's file `output`.
"""

import gc
import os
import signal
import sys
import traceback

import hypothesis  # noqa: F401 - what tests import, apart from the package, is there in every fork
import numba
import pytest
import scipy.special  # noqa: F401

SECONDS = 300


def run(place, test):
    """One test, where `place` holds the package; the kernels that it compiles go there, too."""
    signal.alarm(SECONDS)
    gc.disable()  # what a compilation leaves is little, and looking for it a tenth of the time
    output = os.open(f"{place}/output", os.O_WRONLY | os.O_CREAT)
    for stream in (0, 1, 2):
        os.dup2(output, stream)
    os.environ["FASTXENT_CACHE_DIR"] = f"{place}/cache"
    # Options of the run around it are not for this one: the coverage of a copy is that of no file.
    # And a line of the summary that is cut would lose the kind of the failure.
    os.environ |= {"PYTEST_ADDOPTS": "", "COLUMNS": "999"}
    sys.path.insert(0, place)
    os.environ["PYTHONPATH"] = place  # of processes that the test starts
    import fastxent

    assert fastxent.__file__ == f"{place}/fastxent/__init__.py", fastxent.__file__
    loaded = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
    return pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-W", loaded, test])


def serve():
    """Until the input ends."""
    # The first compilation in a process, of whatever it is, loads what Numba knows of functions.
    numba.njit(lambda: 0)()
    assert "fastxent" not in sys.modules
    gc.freeze()
    for line in sys.stdin:
        process = os.fork()
        if not process:
            code = 70  # of an error that is none of pytest's
            try:
                code = int(run(*line.rstrip("\n").split("\t")))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
