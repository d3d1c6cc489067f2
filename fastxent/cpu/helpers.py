"""Threads that do one job at a time for whoever asks, and wait for the next without spinning.

`concurrent.futures` does the same, but hands a job over and back through conditions and queues, at
each of which a thread may have to wait for the interpreter's lock: some 0.1 ms a call, which is a
tenth of what a call that is worth a second thread takes.
"""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable


class Job:
    """A call that a helper makes, unless whoever asked for it has finished before it begins."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = [call]  # who takes it out makes it; both ways to do so are atomic
        self._begun = self._over = False
        self._running = threading.Lock()
        self._running.acquire()
        self.error: BaseException | None = None

    def do(self) -> None:
        """Make the call, if it is still there; what it raises is kept."""
        self._begun = True  # before it is taken: `finish` must not overlook it
        call: Callable[[], object] | None = None
        try:
            call = self._call.pop()
            call()
        except BaseException as error:
            self.error = error if call else None
        finally:
            del call  # arrays must not live on with an idle helper
            self._over = True
            self._running.release()

    def finish(self) -> None:
        """Call it off or, if it has begun, wait; after an interrupt it can be called again."""
        self._call.clear()
        while self._begun and not self._over:
            self._running.acquire()


class _Helper:
    """A thread, and the lock that it waits at."""

    def __init__(self, idle: "deque[_Helper]") -> None:
        self.job: Job | None = None
        self.wake = threading.Lock()
        self.wake.acquire()
        threading.Thread(target=self._serve, args=(idle,), name="fastxent", daemon=True).start()

    def _serve(self, idle: "deque[_Helper]") -> None:
        while True:
            self.wake.acquire()
            job, self.job = self.job, None
            if job is not None:
                job.do()
            del job
            idle.append(self)


# Threads do not survive a fork: a child that inherited idle helpers would wait for them for ever.
_idle: "dict[int, deque[_Helper]]" = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)


def ask(job: Job) -> None:
    """Let an idle helper do the job, or a new one; RuntimeError if no thread can be started."""
    # Before 3.12 Python starts a thread even then, and waits for ever for its first sign of life.
    if sys.is_finalizing():
        raise RuntimeError("no thread can be started while the interpreter ends")
    idle = _idle.setdefault(os.getpid(), deque())
    try:
        helper = idle.pop()
    except IndexError:
        helper = _Helper(idle)
    helper.job = job
    helper.wake.release()
