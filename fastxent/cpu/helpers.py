"""A pool of helper threads: one job at a time each, no spinning while idle.

`concurrent.futures` passes jobs and results through conditions and queues. Each may wait for the
interpreter's lock: some 0.1 ms per call, a tenth of the shortest call with two threads.
"""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable


class Job:
    """A call that a helper makes, unless the caller finishes before the helper begins."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = [call]  # the thread that takes it out makes it; pop and clear are atomic
        self._begun = self._over = False
        self._running = threading.Lock()
        self._running.acquire()
        self.error: BaseException | None = None

    def do(self) -> None:
        """Make the call unless it was cancelled; store its exception."""
        self._begun = True  # before it is taken, so that `finish` sees it
        call: Callable[[], object] | None = None
        try:
            call = self._call.pop()
            call()
        except BaseException as error:
            self.error = error if call else None
        finally:
            del call  # an idle helper must not keep arrays alive
            self._over = True
            self._running.release()

    def finish(self) -> None:
        """Cancel the job or, if it has begun, wait; may be called again after an interrupt."""
        self._call.clear()
        while self._begun and not self._over:
            self._running.acquire()


class _Helper:
    """A thread and the lock on which it waits for its next job."""

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


# Threads do not survive a fork: a child with inherited idle helpers would wait for them forever.
_idle: "dict[int, deque[_Helper]]" = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)


def submit(job: Job) -> None:
    """Give the job to an idle helper or a new one; RuntimeError if no thread can be started."""
    # Before 3.12 Python starts a thread even then, and waits forever for it to begin.
    if sys.is_finalizing():
        raise RuntimeError("no thread can be started while the interpreter ends")
    idle = _idle.setdefault(os.getpid(), deque())
    try:
        helper = idle.pop()
    except IndexError:
        helper = _Helper(idle)
    helper.job = job
    helper.wake.release()
