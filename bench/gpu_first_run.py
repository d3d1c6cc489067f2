"""Test and benchmark within minutes: `python bench/gpu_first_run.py --out FOLDER [--minutes 6]`.

Runs tests/test_gpu.py and bench/gpu.py, in the order of STAGES and within the limit. The folder
gets their logs, the result of each test and the record of the benchmark while they run, and
summary.txt after each stage, so that an interrupted run can be read. The exit status is 1 if
anything was wrong; stages for which no time was left are named, and are not wrong. With --dry,
simulated kernels and the benchmark's dry run replace the GPU.
"""

import argparse
import collections
import contextlib
import datetime
import glob
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from gpu_bench.report import table

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "fastxent", "numpy", "numba-cuda", "cuda-core", "cuda-bindings", "torch", "triton",
    "cupy-cuda13x", "cupy-cuda12x", "pytest",
)  # fmt: skip
NO_TIME = 5.0  # seconds; with less time left, no stage begins
FOUND = 86  # exit status of the sanitizer if it finds an error
UNFINISHED, BROKEN = 3, 4  # exit statuses of bench/gpu.py


class Stage(NamedTuple):
    """A selection of tests, and the largest share of the time that they may take."""

    name: str
    chosen: str  # pytest's -k
    share: float
    parallel: bool = True
    sanitized: bool = False


STAGES = (
    Stage("small", "small", 0.3),
    Stage("memcheck", "small", 0.2, parallel=False, sanitized=True),
    Stage("rest", "not small and not billion", 0.3),
    Stage("large", "billion", 0.1, parallel=False),  # each needs much of the memory
)
BENCH = 0.4  # the part of the time that is kept for the benchmark
WORKERS = 8  # processes of tests, at most


def sanitizer():
    """The path of compute-sanitizer, or None."""
    homes = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")]
    folders = [*filter(None, homes), *sorted(glob.glob("/usr/local/cuda*")), "/opt/cuda"]
    places = [f"{folder}/{part}" for folder in folders for part in ("bin", "compute-sanitizer")]
    return shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=os.pathsep.join(places)
    )


class Runner:
    """Runs commands one after the other, and writes the summary of their results."""

    def __init__(self, args):
        self.begin, self.seconds = time.monotonic(), 60 * args.minutes
        self.out, self.dry, self.wrong, self.lines = args.out, args.dry, False, [*facts(args)]
        self.out.mkdir(parents=True, exist_ok=True)
        self.say()

    def left(self):
        """Seconds until the end."""
        return self.begin + self.seconds - time.monotonic()

    def say(self, *lines):
        """Add lines to the summary; the file is complete at every moment."""
        self.lines += lines
        print(*lines, sep="\n", end="\n" * bool(lines), flush=True)
        part = self.out / ".summary.part"
        part.write_text("\n".join(self.lines) + "\n")
        part.replace(self.out / "summary.txt")

    def start(self, name, command, **environment):
        """Start a command with its output in a log."""
        paths = [str(ROOT), str(ROOT / "bench"), os.environ.get("PYTHONPATH", "")]
        cache = Path(tempfile.gettempdir()) / "fastxent-tests"  # that of the tests
        variables = {"FASTXENT_CACHE_DIR": str(cache)} | os.environ | environment
        variables |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
        with open(self.out / f"{name}.log", "a") as log:
            return subprocess.Popen(
                command, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def command(self, name, command, limit, **environment):
        """Run a command and return its exit status, None if it took too long."""
        with ended(self.start(name, command, **environment)) as process:
            try:
                return process.wait(limit)
            except subprocess.TimeoutExpired:
                return None

    def kernels(self):
        """Compile the benchmark's kernels during the tests, on cores that are idle."""
        idle = (os.cpu_count() or 1) - WORKERS
        if self.dry or idle <= 0:
            return contextlib.nullcontext()
        command = [sys.executable, "bench/gpu_kernels.py", "--processes", str(idle)]
        return ended(self.start("kernels", command))

    def tests(self, stage):
        """Run a stage of tests."""
        limit = min(stage.share * self.seconds, self.left() - BENCH * self.seconds)
        tool = sanitizer() if stage.sanitized else None
        if limit < NO_TIME:
            return self.say(f"{stage.name:<9} not run: no time")
        if stage.sanitized and (self.dry or not tool):
            return self.say(f"{stage.name:<9} not run: no compute-sanitizer")
        results = self.out / f"{stage.name}.jsonl"
        command, environment = tests_command(stage, results, tool, self.dry)
        begin = time.monotonic()
        status = self.command(stage.name, command, limit, **environment)
        self.judge(stage.name, status, tests_of(results), time.monotonic() - begin)

    def judge(self, name, status, tests, seconds):
        """Add the results of tests to the summary."""
        counts = collections.Counter(test["outcome"] for test in tests.values())
        bad = status not in (0, None) or counts["failed"] or not counts["passed"]
        self.wrong |= bool(bad)
        verdict = "WRONG" if bad else "right" if status == 0 else "right so far"
        found = ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items()))
        ending = "cut off" if status is None else f"exit {status}"
        ending += " (the sanitizer has found errors: see the log)" * (status == FOUND)
        self.say(f"{name:<9} {verdict}: {found or 'no tests'}; {ending}, {seconds:.0f} s")
        for test, result in tests.items():
            if result["outcome"] in ("failed", "running"):
                self.say(f"  {result['outcome']}: {test}")

    def bench(self):
        """Run the benchmark in the remaining time; resume it if the GPU refused further calls."""
        record, status = self.out / "bench.json", BROKEN
        while (status == BROKEN or status < 0) and self.left() > 2 * NO_TIME:
            command = bench_command(record, (self.left() - NO_TIME) / 60, self.dry)
            status = self.command("bench", command, self.left())
            status = UNFINISHED if status is None else status
            self.wrong |= status not in (0, UNFINISHED)
            self.say(f"{'bench':<9} exit {status}")
        if record.exists():
            self.say(*table(json.loads(record.read_text())))


def tests_command(stage, results, tool, dry):
    """The command that runs a stage of tests, and its environment."""
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "--durations=10"]
    command += ["-o", "faulthandler_timeout=60", "-p", "no:cacheprovider"]
    command += ["-p", "gpu_bench.pytest_results", "--results-file", str(results)]
    if stage.parallel and importlib.util.find_spec("xdist"):  # most of the time is compilation
        command += ["-n", str(min(WORKERS, os.cpu_count() or 1))]
    if dry:
        simulated = {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
        return [*command, "-k", "label", "tests/cuda/test_dispatch.py"], simulated
    command += ["-m", "gpu", "-k", stage.chosen, "tests/test_gpu.py"]
    if not tool:
        return command, {}
    checked = ["--tool", "memcheck", "--target-processes", "all", "--error-exitcode", str(FOUND)]
    # It detects accesses outside of allocations, so each tensor needs one of its own.
    return [tool, *checked, *command], {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def bench_command(record, minutes, dry):
    """The command that runs the benchmark, or the rest of it."""
    command = [sys.executable, "bench/gpu.py", "--out", str(record), "--minutes", f"{minutes:.3f}"]
    return command + ["--dry"] * dry + ["--resume"] * record.exists()


@contextlib.contextmanager
def ended(process):
    """End a command and its child processes; interrupted, pytest shows its failures."""
    try:
        yield process
    finally:
        for number, seconds in ((signal.SIGINT, 3), (signal.SIGKILL, 1)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)


def tests_of(path):
    """The tests of a stage with their last result; a later pass does not undo a failure."""
    tests = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):  # an incomplete line
            result = json.loads(line)
            if tests.get(result["test"], {}).get("outcome") != "failed":
                tests[result["test"]] = result
    return tests


def facts(args):
    """Date, GPU and versions."""
    now = datetime.datetime.now(datetime.UTC)
    yield f"{now:%Y-%m-%d %H:%M} UTC, at most {args.minutes:g} minutes"
    if args.dry:
        yield "a dry run: nothing was computed on a GPU"
    else:
        wanted = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit"
        yield f"GPU: {said('nvidia-smi', f'--query-gpu={wanted}', '--format=csv')}"
    yield f"commit {said('git', '-C', str(ROOT), 'rev-parse', 'HEAD')}"
    yield f"Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} processors"
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield f"{package} {importlib.metadata.version(package)}"
    yield f"compute-sanitizer: {sanitizer() or 'not there'}"


def said(*command):
    """The output of a command, or why there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return f"unknown ({problem})"
    return (done.stdout or done.stderr).strip()


def main(arguments=None):
    """Run the stages, then the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the results")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--dry", action="store_true", help="without a GPU")
    args = parser.parse_args(arguments)
    if args.out.exists() and any(args.out.iterdir()):
        parser.error(f"{args.out} is not empty")
    args.out = args.out.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the running command, too
    runner = Runner(args)
    with runner.kernels():
        for stage in STAGES:
            runner.tests(stage)
    runner.bench()
    runner.say("something was WRONG" if runner.wrong else "nothing was wrong in what ran")
    return int(runner.wrong)


if __name__ == "__main__":
    sys.exit(main())
