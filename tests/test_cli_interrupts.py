"""Ctrl-C: one line and status 130 wherever it comes, and nothing that goes on without a user."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time

import pytest

from fastxent.bench import worker
from fastxent.cli import interrupts

pytest.importorskip("pty", reason="there are no such terminals here")

from terminals import Terminal  # noqa: E402

PLAIN = "import sys; sys.modules['rich'] = None; from fastxent import cli; "
MAIN = "sys.exit(cli.main(sys.argv[1:]))"


def assert_interrupted(terminal):
    """Its last line says so; no traceback, and the cursor is back."""
    assert terminal.rest(30) == 130, terminal.text
    assert "Traceback" not in terminal.text and "Exception" not in terminal.text
    assert terminal.text.endswith("\n\rinterrupted\n")
    assert terminal.shown.count(b"\x1b[?25l") == terminal.shown.count(b"\x1b[?25h")


@pytest.mark.parametrize("rich", [True, False])
def test_workers_end_with_bench(rich):
    """The terminal is closed, so no process has it open: not even one in the middle of a call."""
    if rich:
        pytest.importorskip("rich")
    start = ["-m", "fastxent"] if rich else ["-c", PLAIN + MAIN]
    long = ["--shape", "6,5", "--seconds", "60", "--peers"]
    with Terminal(*start, "bench", *long) as terminal:
        terminal.wait_for("racing")
        time.sleep(1.5)  # a worker is being started, or at work
        terminal.press("\x03")
        assert_interrupted(terminal)


def test_a_worker_ignores_ctrl_c_without_inheriting_that(monkeypatch):
    """As on Windows, where a child does not inherit ignored signals."""
    monkeypatch.setattr(worker, "_interrupts_ignored", contextlib.nullcontext)
    child = worker.Worker("copy", 1)
    try:
        versions = child.versions()
        os.kill(child._process.pid, signal.SIGINT)
        assert child.versions() == versions
    finally:
        child.close()


def test_while_kernels_compile(tmp_path):
    """Most of that time is spent in LLVM, whose callbacks let no exception out."""
    pytest.importorskip("rich")
    kept = {"FASTXENT_CACHE_DIR": str(tmp_path), "NO_COLOR": "1"}
    with Terminal("-m", "fastxent", "warmup", **kept) as terminal:
        terminal.wait_for("compiling")
        time.sleep(1.5)
        terminal.press("\x03")
        assert_interrupted(terminal)
    assert b"\x1b[3" not in terminal.shown  # NO_COLOR


def test_what_a_callback_swallows_comes_again():
    @ctypes.CFUNCTYPE(None)
    def callback():
        raise KeyboardInterrupt

    def work(then):
        with interrupts.redelivery():
            callback()
            then()

    def wait():
        end = time.monotonic() + 10
        while time.monotonic() < end:
            pass

    def fail():
        raise RuntimeError("the callback has not done its work")

    before = sys.unraisablehook, signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            work(wait)
        with pytest.raises(KeyboardInterrupt):
            work(fail)
        with pytest.raises(RuntimeError), interrupts.redelivery():
            fail()
    finally:
        signal.signal(signal.SIGINT, before[1])
    assert sys.unraisablehook is before[0]


def test_the_status_is_ours_where_executed_text_was_interrupted():
    """Python would end itself by the signal, for it remembers."""
    program = """
import sys
from fastxent import cli
from fastxent.cli import info
info.run = lambda args: exec("raise KeyboardInterrupt")
sys.exit(cli.main(["info"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
