"""Locks that are taken around every fork, so that no child inherits one that is locked for ever."""

# logging is imported for its own fork hooks: if Numba imported it while a fork waits below, Python
# would run only the second half of these.
import logging  # noqa: F401
import os
import threading
from typing import Any

# Held while a first call imports modules, mainly Numba. A child forked during an import would wait
# for its end, though no thread of the child is importing.
loading = threading.RLock()

# In the order in which a thread may acquire them.
_locks: list[Any] = [loading]
_acquired: list[Any] = []  # by the thread that forks


def wait_for(lock: Any) -> None:
    """Make forks wait for this lock too; a thread that holds it must not acquire `loading`."""
    _locks.append(lock)


def _acquire() -> None:
    for lock in _locks:  # including one added while this thread waits
        lock.acquire()
        _acquired.append(lock)


def _release() -> None:
    acquired = _acquired.copy()
    _acquired.clear()  # before the release, as the next thread that forks fills it again
    for lock in reversed(acquired):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_acquire, after_in_parent=_release, after_in_child=_release)
