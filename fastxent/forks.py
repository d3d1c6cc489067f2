"""What a fork waits for: a lock that another thread holds would stay locked in a child for ever."""

# logging is imported for what it registers: if Numba imported it while a fork waits below, Python
# would run only the second half of its hooks.
import logging  # noqa: F401
import os
import threading
from typing import Any

# Held while modules are imported that a first call wants, Numba above all: the child of a fork in
# the midst of that would wait for the end of an import which no thread of it is making.
loading = threading.RLock()

# In the order in which a thread may hold them.
_locks: list[Any] = [loading]
_held: list[Any] = []  # by the thread that forks


def wait_for(lock: Any) -> None:
    """Let forks wait for this lock too; a thread that holds it must not begin to load."""
    _locks.append(lock)


def _acquire() -> None:
    for lock in _locks:  # also one that is added while this thread waits for the first
        lock.acquire()
        _held.append(lock)


def _release() -> None:
    held = _held.copy()
    _held.clear()  # while all are still held here: the next to fork fills it anew
    for lock in reversed(held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_acquire, after_in_parent=_release, after_in_child=_release)
