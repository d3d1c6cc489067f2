"""The first run on a GPU, without one: stages within their limits, and what is left when killed."""

import importlib
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"
TESTS = """
import time

def test_good():
    pass

def test_bad():
    assert 1 == 2, "a bad number"

def test_hangs():
    time.sleep(600)
"""
RECORD = {"results": [], "steps": [{"step": "race x", "state": "skipped", "estimate": 7}]}


@pytest.fixture
def first(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("gpu_first_run")


@pytest.fixture
def run(first, tmp_path, monkeypatch):
    """A function that runs tests of a file and a benchmark that does nothing."""
    file = tmp_path / "test_of_a_gpu.py"
    file.write_text(TESTS)
    real = first.tests_command

    def tests(stage, results, tool, dry):
        command, environment = real(stage, results, tool, dry)
        path = command.index("tests/test_gpu.py")
        return [*command[:path], "-c", "/dev/null", "-m", "", str(file)], environment

    def bench(record, minutes, dry):
        write = f"import pathlib, sys; pathlib.Path(sys.argv[1]).write_text({json.dumps(RECORD)!r})"
        return [sys.executable, "-c", write, str(record)]

    monkeypatch.setattr(first, "tests_command", tests)
    monkeypatch.setattr(first, "bench_command", bench)

    def call(*stages, minutes=1.0):
        monkeypatch.setattr(first, "STAGES", stages)
        out = tmp_path / "out"
        status = first.main(["--out", str(out), "--minutes", str(minutes)])
        return status, (out / "summary.txt").read_text(), out

    return call


def test_what_was_right_and_wrong(first, run):
    """Each stage with its counts, the tests that failed, the table of the benchmark."""
    good, all_of_it = first.Stage("small", "good", 0.5), first.Stage("rest", "not hangs", 0.5)
    status, summary, out = run(good, all_of_it)
    assert status == 1
    assert "small     right: 1 passed; exit 0" in summary
    assert "rest      WRONG: 1 failed, 1 passed; exit 1" in summary
    assert "failed: " in summary and "::test_bad" in summary
    assert "a bad number" in (out / "rest.jsonl").read_text()
    assert "skipped for want of time: race x (about 7 s)" in summary
    assert summary.endswith("something was WRONG\n")
    for fact in ("UTC", "GPU: ", "commit ", "Python 3.", "numpy 2.", "compute-sanitizer: "):
        assert fact in summary


def test_all_right(first, run):
    status, summary, _ = run(first.Stage("small", "good", 0.5, parallel=False))
    assert status == 0 and summary.endswith("nothing was wrong in what ran\n")


def test_one_that_never_ends_is_cut_off(first, run):
    """And named; the benchmark has its time, and no stage begins in it."""
    hanging = first.Stage("small", "hangs or good", 0.6, parallel=False)
    stages = [hanging, first.Stage("rest", "good", 0.5)]
    begin = time.monotonic()
    status, summary, _ = run(*stages, minutes=0.6)
    assert time.monotonic() - begin < 60
    assert status == 0 and "small     right so far: 1 passed, 1 running; cut off" in summary
    assert "running: " in summary and "::test_hangs" in summary
    assert "rest      not run: no time" in summary
    assert "bench     exit 0" in summary


def test_tests_that_are_skipped_are_not_right(first, run):
    """As all are where no GPU is found; pytest's own exit status would be 0 or 5."""
    status, summary, _ = run(first.Stage("small", "nothing", 0.5, parallel=False))
    assert status == 1 and "small     WRONG: no tests; exit 5" in summary


def test_the_benchmark_goes_on_where_the_gpu_refused(first, run, monkeypatch):
    """Its second run resumes the first; that something was wrong stays."""
    commands = []

    def bench(record, minutes, dry):
        commands.append(record.exists())
        status = 0 if commands[-1] else 4
        write = f"import sys; open(sys.argv[1], 'w').write({json.dumps(RECORD)!r}); exit({status})"
        return [sys.executable, "-c", write, str(record)]

    monkeypatch.setattr(first, "bench_command", bench)
    status, summary, _ = run()
    assert commands == [False, True] and status == 1
    assert "bench     exit 4\nbench     exit 0" in summary


def test_the_commands(first, tmp_path):
    """What is run on a GPU: the markers, the tool and its options; then only what is lacking."""
    by_name = {stage.name: stage for stage in first.STAGES}
    assert list(by_name) == ["small", "memcheck", "rest", "large"]
    command, environment = first.tests_command(by_name["memcheck"], "r", "/cuda/sanitizer", False)
    assert command[:3] == ["/cuda/sanitizer", "--tool", "memcheck"]
    assert command[-5:] == ["-m", "gpu", "-k", "small", "tests/test_gpu.py"]
    assert "-n" not in command and environment == {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    record = tmp_path / "bench.json"
    assert first.bench_command(record, 2.5, False)[-2:] == ["--minutes", "2.500"]
    record.write_text("{}")
    assert first.bench_command(record, 2.5, False)[-1] == "--resume"


def test_kernels_are_compiled_where_cores_are_idle(first, run, tmp_path, monkeypatch):
    """Beside the tests, and not longer than they take; with few cores not at all."""
    started, start = [], first.Runner.start

    def noted(self, name, command, **environment):
        if name == "kernels":
            command = [sys.executable, "-c", "import time; time.sleep(600)"]
        started.append((name, start(self, name, command, **environment)))
        return started[-1][1]

    monkeypatch.setattr(first.Runner, "start", noted)
    monkeypatch.setattr(first.os, "cpu_count", lambda: 8)
    run()
    assert [name for name, _ in started] == ["bench"]
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr(first.os, "cpu_count", lambda: 12)
    run(first.Stage("small", "good", 0.5, parallel=False))
    assert [name for name, _ in started[1:]] == ["kernels", "small", "bench"]
    assert started[1][1].poll() is not None


def test_the_sanitizer_is_found_beside_cuda(first, tmp_path, monkeypatch):
    tool = tmp_path / "compute-sanitizer" / "compute-sanitizer"
    tool.parent.mkdir()
    tool.write_text("")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert first.sanitizer() == str(tool)


def test_a_folder_with_files_is_not_touched(first, tmp_path, capsys):
    (tmp_path / "summary.txt").write_text("of another day")
    with pytest.raises(SystemExit):
        first.main(["--out", str(tmp_path)])
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("numba_cuda") is None, reason="needs numba-cuda")
def test_a_dry_run_killed_in_its_midst(tmp_path):
    """It has said so far what it found, and the benchmark's record can be read."""
    out = tmp_path / "out"
    command = [sys.executable, str(BENCH / "gpu_first_run.py"), "--dry", "--out", str(out)]
    log = tmp_path / "log"
    with open(log, "w") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        record, deadline = out / "bench.json", time.monotonic() + 240
        while not (record.exists() and json.loads(record.read_text())["results"]):
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 1
    summary = (out / "summary.txt").read_text()
    assert "a dry run" in summary and "small     right: 1 passed; exit 0" in summary
    assert "memcheck  not run: no compute-sanitizer" in summary
    assert json.loads(record.read_text())["results"]
    time.sleep(1)
    size = record.stat().st_mtime
    time.sleep(2)
    assert record.stat().st_mtime == size  # what it had started has ended, too
