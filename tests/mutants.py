"""Mutation testing: copies of the package with one broken line, which a named test must catch."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

import fastxent

PACKAGE = Path(fastxent.__file__).parent
TESTS = Path(__file__).parent


class Mutation(NamedTuple):
    """A description, the file, text that occurs once in it, its replacement, the failing test."""

    name: str
    file: str
    old: str
    new: str
    test: str


@contextlib.contextmanager
def server():
    """A function that runs a test on a copy of the package and returns exit code and output.

    Each run is a fork of one process that has loaded the libraries, because loading them took half
    as long as compiling.
    """
    with subprocess.Popen(
        [sys.executable, TESTS / "fork_server.py"], cwd=TESTS.parent, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        # The safe path leaves out the working folder, which may contain the package itself.
        env=os.environ | {"PYTHONSAFEPATH": "1"},
    ) as process:  # fmt: skip

        def run(place, test):
            print(place, test, sep="\t", file=process.stdin, flush=True)
            code = process.stdout.readline()
            return int(code), Path(place, "output").read_text()

        yield run


def assert_caught(mutation, run):
    """Assert that the named test fails by an assertion, not by an import or compile error."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place, "fastxent")
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        path = copy / mutation.file
        source = path.read_text()
        assert source.count(mutation.old) == 1, f"{mutation.old!r} must stand once in {path.name}"
        path.write_text(source.replace(mutation.old, mutation.new))
        code, output = run(place, mutation.test)
    assert code == pytest.ExitCode.TESTS_FAILED, output
    failed = rf"^FAILED {re.escape(mutation.test)} - (AssertionError|assert |Failed: DID NOT RAISE)"
    assert re.search(failed, output, re.MULTILINE), output


def assert_collected(tests):
    """Assert that pytest collects all these tests by their ids."""
    files = sorted({test.partition("::")[0] for test in tests})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files],
        cwd=TESTS.parent, env=os.environ | {"PYTEST_ADDOPTS": ""},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert tests <= set(done.stdout.splitlines()), tests - set(done.stdout.splitlines())
