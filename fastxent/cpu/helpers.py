"""Threads that do one job at a time for whoever asks, and wait for the next without spinning.

`concurrent.futures` does the same, but hands a job over and back through conditions and queues, at
each of which a thread may have to wait for the interpreter's lock: some 0.1 ms a call, which is a
tenth of what a call that is worth a second thread takes.
"""

import os
import threading
from collections import deque
from collections.abc import Callable


class Job:
    """A call that a helper takes, or that whoever asked for it takes back before."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = [call]  # pop() is atomic: there is one who gets it
        self._running = threading.Lock()
        self._running.acquire()
        self.error: BaseException | None = None

    def do(self) -> None:
        """Make the call, if it has not been taken back; what it raises is kept."""
        try:
            call = self._call.pop()
        except IndexError:
            return
        try:
            call()
        except BaseException as error:
            self.error = error
        finally:
            del call  # arrays must not live on with an idle helper
            self._running.release()

    def take_back(self) -> bool:
        """Whether nobody has begun the call, and nobody will."""
        try:
            self._call.pop()
        except IndexError:
            return False
        return True

    def wait(self) -> None:
        """Until the call that has begun is over."""
        with self._running:
            pass


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
    idle = _idle.setdefault(os.getpid(), deque())
    try:
        helper = idle.pop()
    except IndexError:
        helper = _Helper(idle)
    helper.job = job
    helper.wake.release()
