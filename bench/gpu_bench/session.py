"""Runs steps within a time limit and saves the record after each of them."""

import faulthandler
import math
import os
import sys
import threading
import time

from fastxent.bench import record
from gpu_bench.costs import Costs
from gpu_bench.report import table
from gpu_bench.rows import failure

STOPPED, BROKEN = 3, 4  # exit statuses: time ended during a step; the GPU refuses further calls
EARLY, LATE, RESERVE = 2.0, 3.0, 4.0  # seconds


class Session:
    """A record that is filled step by step within a time limit.

    A thread ends the process shortly before the limit, even if a call of CUDA does not return. If
    that call holds the interpreter's lock, `faulthandler` ends the process shortly after the limit:
    its thread does not need the lock, and prints the stacks of the others.
    """

    def __init__(self, run, path, minutes=None):
        self.run, self.path, self.begin = run, path, time.monotonic()
        self.limit = math.inf if minutes is None else 60 * minutes
        self.lock, self.costs, self.broken = threading.Lock(), Costs(), False
        self.change(minutes=minutes)

    def __enter__(self):
        if self.limit < math.inf:
            self.timer = threading.Timer(max(0.1, self.limit - EARLY), self._stop)
            self.timer.daemon = True
            self.timer.start()
            faulthandler.dump_traceback_later(self.limit + LATE, exit=True, file=sys.__stderr__)
        return self

    def __exit__(self, kind, error, traceback):
        if error:
            self.change(failed=failure(error))
        if self.limit < math.inf:
            self.timer.cancel()
            faulthandler.cancel_dump_traceback_later()

    def change(self, **fields):
        """Set fields of the record and save it."""
        with self.lock:
            self.run |= fields
            record.save(self.run, self.path)

    def all(self, steps, gpu):
        """Run the steps that the record lacks, and name those for which there is no time."""
        tried = [entry for entry in self.run["steps"] if entry["state"] != "skipped"]
        self.change(steps=tried)
        for step in steps:
            if self.broken or any(entry["step"] == step.label for entry in tried):
                continue
            estimate = self.costs.estimate(step)
            left = self.limit - RESERVE - (time.monotonic() - self.begin)
            entry = {"step": step.label, "estimate": round(estimate, 1)}
            entry["state"] = "running" if estimate < left else "skipped"
            self.change(steps=[*self.run["steps"], entry])
            if estimate < left:
                self.one(step, entry, gpu)

    def one(self, step, entry, gpu):
        """Run a step and save its rows; a step that fails is a row that says so."""
        begin = time.monotonic()
        try:
            gpu.free()
            rows = step.call()
            gpu.wait()
        except Exception as problem:  # the next steps may still run
            rows = [{"group": "step", "peer": step.label, "note": failure(problem), "right": False}]
        seconds = time.monotonic() - begin
        self.costs.learn(step, rows, seconds)
        try:
            gpu.wait()
        except Exception:  # such as after an invalid access; only a new process can continue
            self.broken = True
        with self.lock:
            entry |= {"state": "done", "seconds": round(seconds, 1)}
            self.run["results"] += rows
            record.save(self.run, self.path)
        print(f"{step.label} ({seconds:.1f} s)", file=sys.stderr, flush=True)

    def _stop(self):
        if self.lock.acquire(timeout=1):  # wait until a save is complete
            print("\n".join(table(self.run)), flush=True)
        os._exit(STOPPED)
