"""Run the steps of warmup in several processes, which compile kernels into the cache.

This process first tries each step with compilation disabled (`jit.loading_only`), which shows the
first kernel that is missing. So no kernel is compiled by two processes, and a step whose kernels
are in the cache needs no other process.

Workers are started as commands: `multiprocessing` would import the user's script in each of them,
and cannot be used in its daemonic processes. A worker reads a step from a line of its standard
input and answers with an empty line. It ends when its input is closed, so it does not outlive this
process for long.
"""

import contextlib
import gc
import os
import queue
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastxent import forks, kernel_files, options
from fastxent.warmup_steps import Step, steps_of

# A worker imports Numba and compiles the functions that kernels share, which takes seconds.
_STEPS_PER_WORKER = 4
_Kernel = tuple[str, Any]  # name and signature
_Group = tuple[str, str]  # name and type


def run(steps: list[Step], report: Callable[[], None], processes: int) -> list[Step]:
    """Run steps in at most `processes` workers; return the steps left for this process.

    `report` is called after each step that has run.
    """
    plan = _Plan(report)
    for step in steps:
        plan.try_loading(step)
    number = min(processes, sum(map(len, plan.waiting.values())) // _STEPS_PER_WORKER)
    command = _command()
    if number > 1 and command and not kernel_files.obstacle():
        with _started(command, number) as (workers, events):
            plan.distribute(workers, events)
    return [*plan.left, *(step for group in plan.waiting.values() for step in group)]


def _command() -> list[str]:
    """The command of a worker; [] if `sys.executable` is not a Python interpreter."""
    program = Path(sys.executable or "").name.lower()
    if not program.startswith(("python", "pypy")) or getattr(sys, "frozen", False):
        return []
    letters = {"isolated": "-I", "ignore_environment": "-E", "no_user_site": "-s", "no_site": "-S"}
    flags = [letter for name, letter in letters.items() if getattr(sys.flags, name)]
    # Workers import the package from where this process imported it.
    path = [str(place) for place in sys.path]
    code = (
        f"import sys; sys.path[:] = {path}; from fastxent import warmup_processes as w; w.serve()"
    )
    return [sys.executable, *flags, "-c", code]


class _Plan:
    """The steps to run, grouped by the first kernel that they miss."""

    def __init__(self, report: Callable[[], None]) -> None:
        self.report = report
        self.waiting: dict[_Kernel, list[Step]] = {}
        self.left: list[Step] = []  # for this process: those that wait for a dead worker's kernel

    def try_loading(self, step: Step) -> _Kernel | None:
        """Run a step if its kernels are in the cache; else add it to those that wait for one."""
        with forks.loading:  # the first import of Numba
            from fastxent.cpu import jit

        try:
            with jit.loading_only():
                step.call()
        except jit.NotCached as missing:
            self.waiting.setdefault(missing.kernel, []).append(step)
            return missing.kernel
        self.report()
        return None

    def distribute(self, workers: list["_Worker"], events: "_Events") -> None:
        """Give kernels to workers until no step waits, no worker is alive, or the cache fails."""
        while self.waiting and any(worker.alive for worker in workers):
            worker, answered = _next(workers, events)
            kernel, worker.kernel = worker.kernel, None
            worker.ready = worker.alive = answered
            if kernel is not None and not self._take_up(kernel, answered):
                return
            for each in workers:
                if each.ready and (kernel := self._choose(each, workers)):
                    each.compile(kernel, self.waiting[kernel][0])

    def _take_up(self, kernel: _Kernel, compiled: bool) -> bool:
        """Run the steps that waited for a worker's kernel; False if it is not in the cache."""
        steps = self.waiting.pop(kernel)
        if not compiled:
            self.left += steps
            return True
        return all([self.try_loading(step) != kernel for step in steps])

    def _choose(self, worker: "_Worker", workers: list["_Worker"]) -> _Kernel | None:
        """Choose the next kernel for a worker, or None.

        Kernels of the same name or type share functions, which each process compiles once. So a
        worker gets a kernel of its last name and type, else of its type, else of a type or group
        that no other worker has. Among several groups the largest comes first: all steps with class
        indices wait for the kernel that scans labels.
        """
        taken = {each.kernel for each in workers}
        groups = {
            kernel: (kernel[0], steps[0].dtype)
            for kernel, steps in self.waiting.items()
            if kernel not in taken
        }
        if not groups:
            return None
        sizes = Counter(groups[kernel] for kernel in groups for _ in self.waiting[kernel])
        others = {each.group for each in workers if each is not worker}
        types = {dtype for _, dtype in others}

        def rank(kernel: _Kernel) -> tuple[bool, bool, bool, bool, int]:
            group = groups[kernel]
            same_type = group[1] == worker.group[1]
            free_type, free = group[1] not in types, group not in others
            return group == worker.group, same_type, free_type, free, sizes[group]

        best = max(groups, key=rank)
        worker.group = groups[best]
        return best


class _Worker:
    """A process that compiles kernels, and the thread that waits for its answers."""

    kernel: _Kernel | None = None  # what it compiles now
    group: _Group = "", ""  # of its last kernel
    alive, ready = True, False

    def __init__(self, command: list[str], events: "_Events") -> None:
        # Ctrl-C goes to this process only, which ends its workers.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )  # fmt: skip
        self._input: Any = self.process.stdin
        self._answers: Any = self.process.stdout
        self._events = events
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        with self._answers:
            for _ in self._answers:
                self._events.put((self, True))
        self._events.put((self, False))

    def compile(self, kernel: _Kernel, step: Step) -> None:
        """Send a step that misses this kernel."""
        self.kernel, self.ready = kernel, False
        with contextlib.suppress(OSError):  # it has died: the listener reports that
            print(step.dtype, step.function, step.k, file=self._input, flush=True)

    def close(self) -> None:
        """Wait for the end of the killed process, and close its pipes."""
        # The listener closes the output pipe when no process can write to it any more.
        self.process.wait()
        self._listener.join(timeout=1)
        with contextlib.suppress(OSError):
            self._input.close()


_Events = queue.SimpleQueue[tuple[_Worker, bool]]


@contextlib.contextmanager
def _started(command: list[str], number: int) -> Iterator[tuple[list[_Worker], _Events]]:
    """Start up to `number` workers, and end them with the `with` block."""
    workers: list[_Worker] = []
    events: _Events = queue.SimpleQueue()
    try:
        with contextlib.suppress(OSError, RuntimeError):  # no more processes or threads
            for _ in range(number):
                workers.append(_Worker(command, events))
        yield workers, events
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.close()


def _next(workers: list[_Worker], events: _Events) -> tuple[_Worker, bool]:
    """The next worker that has answered (True) or died (False)."""
    while True:
        try:
            return events.get(timeout=1)  # without a timeout Ctrl-C would not end it on Windows
        except queue.Empty:
            # A child that this process has forked may keep a dead worker's pipe open.
            for worker in workers:
                if worker.alive and worker.process.poll() is not None:
                    return worker, False


def serve() -> None:
    """Run the steps named on standard input; the main function of a worker."""
    # Keep output of libraries out of the pipe for answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # Compilation makes many long-lived objects; scanning them would take a tenth of the time.
    gc.set_threshold(50_000, 20, 100)
    print(file=answers, flush=True)
    for line in sys.stdin:
        dtype, function, k = line.split()
        with contextlib.suppress(Exception):  # the parent runs the step too, and raises the error
            steps_of(options.kernel_type(dtype), function)[int(k)].call()
        print(file=answers, flush=True)
