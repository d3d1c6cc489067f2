"""Locks that are acquired around every fork, so that no child inherits a locked one."""

# logging registers fork hooks when it is imported. If Numba imported it while a fork waits below,
# Python would run only the hooks after the fork.
import logging  # noqa: F401
import os
import threading
from typing import Any

# Acquired while a first call imports modules, mainly Numba. A child forked during an import would
# wait for an import lock that no thread of the child releases.
loading = threading.RLock()

# In the order in which a thread may acquire them.
_locks: list[Any] = [loading]
_acquired: list[Any] = []  # those that the forking thread has acquired


def wait_for(lock: Any) -> None:
    """Make forks wait for this lock too; a thread that holds it must not acquire `loading`."""
    _locks.append(lock)


def _acquire() -> None:
    for lock in _locks:  # including locks that are added while this thread waits
        lock.acquire()
        _acquired.append(lock)


def _release() -> None:
    acquired = _acquired.copy()
    _acquired.clear()  # before the release, because the next forking thread appends to it
    for lock in reversed(acquired):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_acquire, after_in_parent=_release, after_in_child=_release)
