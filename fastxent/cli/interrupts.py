"""Ctrl-C handling: interrupts in callbacks are delivered again, and Python exits normally."""

import _thread
import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

_DELAY = 0.01  # seconds, after which a callback has returned


@contextlib.contextmanager
def redelivery() -> Iterator[None]:
    """A context in which an interrupt that a callback cannot raise is delivered again.

    LLVM calls Python whenever it has compiled something, and most interrupts during compilation
    arrive in these callbacks. Python would report them as unraisable and drop them.
    """
    timers: list[threading.Timer] = []
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            before(unraisable)
            return
        timers.append(threading.Timer(_DELAY, _thread.interrupt_main))
        timers[-1].start()

    sys.unraisablehook = hook
    try:
        yield
    except Exception:
        if timers:  # the interrupted callback is the cause of the error
            raise KeyboardInterrupt from None
        raise
    finally:
        sys.unraisablehook = before
        for timer in timers:
            timer.cancel()
            timer.join()  # a timer that has already fired interrupts here


def clear_pending() -> None:
    """Clear an interrupt that Python remembers, so that the exit status is the program's own.

    If `exec` of a string was interrupted, as in the definition of a named tuple, Python remembers
    it until the next `exec` and would end itself by the signal.
    """
    exec("")
