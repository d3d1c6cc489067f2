"""Ctrl-C handling: interrupts in callbacks are raised again, and Python exits normally."""

import _thread
import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

_DELAY = 0.01  # seconds, after which a callback has returned


@contextlib.contextmanager
def redelivery() -> Iterator[None]:
    """A context that raises an interrupt again if a callback could not propagate it.

    LLVM calls Python whenever it has compiled something, and most interrupts during compilation
    occur in these callbacks. Python would report them as unraisable and ignore them.
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
    """Clear a stored interrupt, so that the process exits with the program's own status.

    If `exec` of a string was interrupted, as in the definition of a named tuple, Python stores that
    until the next `exec`, and would terminate itself by the signal at exit.
    """
    exec("")
