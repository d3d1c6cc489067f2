"""warmup in several processes: the same kernels, each compiled once, whatever becomes of them."""

import _thread
import sys
import threading
import time
from pathlib import Path

import pytest
from scripts import COUNTING, python

import fastxent as fx
from fastxent import kernel_files, warmup_processes
from fastxent.cpu import jit
from fastxent.warmup_steps import Step

# A worker that, instead of compiling, leaves a file for each kernel and notes that it did.
WORKER = """
import os, pathlib, sys, time
print(flush=True)
for line in sys.stdin:
    step = line.split()[2]
    {before}
    pathlib.Path(step).touch()
    with open("compiled", "a") as file:
        file.write(step + "\\n")
    print(flush=True)
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Make steps that load the files of such workers: by the kernel that each needs."""
    monkeypatch.chdir(tmp_path)
    started = []

    class Recorded(warmup_processes.subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)

    def make(kernels, before="", worker=WORKER):
        def call(kernel):
            if not Path(str(kernel)).exists():
                if not jit._may_compile.get():
                    raise jit.NotCached("kernel", kernel)
                with open("compiled here", "a") as file:
                    file.write(f"{kernel}\n")
                Path(str(kernel)).touch()

        text = worker.format(before=before)
        monkeypatch.setattr(warmup_processes, "_command", lambda: [sys.executable, "-c", text])
        return [Step("float32", "softmax", k, lambda k=k: call(k)) for k in kernels]

    monkeypatch.setattr(warmup_processes.subprocess, "Popen", Recorded)
    make.started = started
    yield make
    for process in started:
        assert process.returncode is not None
        assert process.stdin.closed
        while not process.stdout.closed:
            time.sleep(0.05)


def lines(name):
    path = Path(name)
    return sorted(map(int, path.read_text().split())) if path.exists() else []


SCRIPT = """
import fastxent as fx
from fastxent.cpu import jit
steps = []
fx.warmup(functions="logsumexp", processes={processes},
          progress=lambda done, total: steps.append((done, total)))
assert steps == [(k, 8) for k in range(1, 9)], steps
print(len(jit._results), bool(compiled))
"""


def test_the_same_kernels(tmp_path):
    """A script that is not guarded for imports: the same files, and all are loaded in the end."""
    files = []
    for processes in (2, 1):  # the second run finds each kernel that it needs
        script = COUNTING + SCRIPT.format(processes=processes)
        assert python(script, FASTXENT_CACHE_DIR=str(tmp_path)) == "8 False\n"
        files.append({path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()})
    assert files[0] == files[1] and len(files[0]) == 8


def test_each_kernel_once(stub):
    """Workers compile what is missing, each kernel once; every step is reported."""
    reported = []
    kernels = [k // 2 for k in range(40)]
    steps = stub(kernels, before="time.sleep(0.01)")
    Path("3").touch()
    assert warmup_processes.run(steps, lambda: reported.append(1), 3) == []
    assert len(reported) == 40 and len(stub.started) == 3
    assert lines("compiled") == [k for k in range(20) if k != 3]
    assert lines("compiled here") == []


def test_no_process_for_a_few(stub):
    """What is in the cache needs none, nor do a few kernels that are not."""
    steps = stub(range(40))
    for k in range(7, 40):
        Path(str(k)).touch()
    assert warmup_processes.run(steps, lambda: None, 8) == steps[:7]
    assert stub.started == []


@pytest.mark.parametrize("before", ["os._exit(1)", "if step == '5': os._exit(1)"])
def test_a_worker_dies(stub, before):
    """What it was to compile is left for the calling process; no other step is."""
    steps = stub(range(20), before)
    left = warmup_processes.run(steps, lambda: None, 2)
    if "step" in before:
        assert [step.k for step in left] == [5]
        assert lines("compiled") == [k for k in range(20) if k != 5]
    else:
        assert sorted(step.k for step in left) == list(range(20))


def test_a_pipe_that_stays_open(stub):
    """A process that a dead worker left behind holds its output; its end is seen all the same."""
    leave = "if step == '5': __import__('subprocess').Popen(['sleep', '3']); os._exit(1)"
    left = warmup_processes.run(stub(range(20), leave), lambda: None, 2)
    assert [step.k for step in left] == [5]
    assert any(not process.stdout.closed for process in stub.started)


def test_nothing_starts(stub, monkeypatch):
    """A worker that cannot begin, and a program that cannot be started."""
    steps = stub(range(20), worker="raise SystemExit(3)")
    assert warmup_processes.run(steps, lambda: None, 2) == steps
    monkeypatch.setattr(warmup_processes, "_command", lambda: ["/there/is/no/python"])
    assert warmup_processes.run(steps, lambda: None, 2) == steps
    assert len(stub.started) == 2


def test_nothing_is_kept(stub):
    """As on a disk that is full: the rest is compiled here, not by workers in vain."""
    steps = stub(range(20), before="print(flush=True); continue")
    left = warmup_processes.run(steps, lambda: None, 2)
    assert sorted(step.k for step in left) == list(range(20))


def test_interrupted(stub):
    """No worker lives on, not even one in the middle of a kernel."""
    steps = stub(range(20), before="time.sleep(60)")
    timer = threading.Timer(0.5, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        warmup_processes.run(steps, lambda: None, 2)
    timer.join()
    assert len(stub.started) == 2


def test_progress_that_fails(stub):
    """Its error is raised, and no worker lives on."""
    steps = stub(range(20))

    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        warmup_processes.run(steps, fail, 2)


def test_programs_that_are_no_interpreter(monkeypatch):
    """An application that embeds Python is not started again."""
    assert warmup_processes._command()[0] == sys.executable
    for program in ("", None, "/usr/bin/application"):
        monkeypatch.setattr(sys, "executable", program)
        assert warmup_processes._command() == []
    monkeypatch.undo()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert warmup_processes._command() == []


def test_a_worker_ends_with_its_input():
    """As when the process that started it is killed; what is printed in it is no answer."""
    command = [sys.executable, *warmup_processes._command()[1:]]
    said = warmup_processes.subprocess.run(
        command, input="float32 softmax 99\n", capture_output=True, text=True, timeout=60
    )
    assert (said.returncode, said.stdout, said.stderr) == (0, "\n\n", "")


def test_without_a_cache(stub, monkeypatch):
    """Other processes could not leave anything, so none is started."""
    monkeypatch.setattr(kernel_files, "obstacle", lambda: "Read-only file system")
    steps = stub(range(20))
    assert warmup_processes.run(steps, lambda: None, 2) == steps
    assert stub.started == []


def test_how_many(monkeypatch):
    """As many as a call would take threads, or as the caller says; 1 is the calling process."""
    numbers = []

    def run(steps, report, processes):
        numbers.append(processes)
        return steps

    monkeypatch.setattr(warmup_processes, "run", run)
    with fx.num_threads(4):
        for processes in (3, None, 1):
            fx.warmup("float32", functions="binary_cross_entropy", processes=processes)
    assert numbers == [3, 4]
