"""Ctrl-C: never lost, and never the end of Python by a signal."""

import _thread
import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

_AGAIN = 0.01  # seconds, by when a callback has ended


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Within, an interrupt that meets code from which no exception gets out comes again.

    LLVM calls Python whenever it has compiled something: that is where Python sees most of the
    interrupts that come while a kernel is compiled. They would be reported there and forgotten.
    """
    timers: list[threading.Timer] = []
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            before(unraisable)
            return
        timers.append(threading.Timer(_AGAIN, _thread.interrupt_main))
        timers[-1].start()

    sys.unraisablehook = hook
    try:
        yield
    except Exception:
        if timers:  # what was called back has not done its work
            raise KeyboardInterrupt from None
        raise
    finally:
        sys.unraisablehook = before
        for timer in timers:
            timer.cancel()
            timer.join()  # one that was no longer to be stopped interrupts here


def settle() -> None:
    """Let the exit status of a program that has been interrupted be its own.

    If a string that is executed was interrupted, as where a named tuple is defined, Python
    remembers that until the next one, and ends itself by the signal.
    """
    exec("")
