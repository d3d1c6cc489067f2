"""The number of threads, and the distribution of chunks of rows among them.

The calling thread works too; n - 1 helpers join it. Numba's prange is not used: its OpenMP layer
dies in a forked child, its workqueue layer aborts when two Python threads call at once, and an
exception inside is lost. This module imports no Numba.
"""

import contextlib
import functools
import operator
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import NamedTuple

from fastxent import errors
from fastxent.cpu import helpers

_explicit: int | None = None
_local: ContextVar[int | None] = ContextVar("fastxent_num_threads", default=None)
# The number of threads of the library whose arrays a call is on.
_of_library: ContextVar[int | None] = ContextVar("fastxent_threads_of_library", default=None)
# The upper bound of automatic numbers.
CPUS = os.cpu_count() or 1
# With less work than this, in elements of rows, waking a thread costs more than it saves.
SERIAL_BELOW = 1 << 19
# Elements that are less work whatever their rows: those of one class cost the most, 25 times.
ONE_THREAD_SIZE = SERIAL_BELOW // 32
_ENVIRONMENT = ("FASTXENT_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")


def set_num_threads(n: int) -> None:
    """Set how many threads fastxent's kernels use in this process.

    An explicit number is taken as it is, also above the number of CPUs. It changes neither
    Numba's nor the BLAS library's threads.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError
        If n is not an int.
    ValueError
        If n < 1.

    Examples
    --------
    >>> import fastxent as fx
    >>> fx.set_num_threads(2)
    >>> fx.get_num_threads()
    2
    """
    global _explicit
    _explicit = _at_least_one(n)


def get_num_threads() -> int:
    """Return how many threads a call made here and now may use.

    The number of the innermost `num_threads` context, else that of `set_num_threads`, else the
    smallest of what `FASTXENT_NUM_THREADS`, `NUMBA_NUM_THREADS`, `OMP_NUM_THREADS`, the CPU
    affinity and the cgroup's CPU quota allow. A call on PyTorch's tensors takes no more than
    `torch.get_num_threads()` either, unless one of the first three is set.

    Examples
    --------
    >>> import fastxent as fx
    >>> fx.get_num_threads() >= 1
    True
    """
    own, default = _local.get() or _explicit, _default()
    return own or min(_of_library.get() or default, default)


def automatic() -> int:
    """Return the automatic number; 0 if the user has set one, so that no library's is smaller."""
    if _explicit or _local.get():
        return 0
    n = _default()  # updates the cache in a new process
    return 0 if _cached_default[3] else n


def at_most(n: int) -> contextlib.AbstractContextManager[None]:
    """Limit the number of threads, inside a `with` block, to that of the library of the arrays."""
    return _scope(_of_library, n)


def num_threads(n: int) -> contextlib.AbstractContextManager[None]:
    """Use n threads inside a `with` block, in this thread or task alone.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError
        If n is not an int.
    ValueError
        If n < 1.

    Examples
    --------
    >>> import fastxent as fx
    >>> with fx.num_threads(1):
    ...     fx.get_num_threads()
    1
    """
    return _scope(_local, _at_least_one(n))


@contextlib.contextmanager
def _scope(number: ContextVar[int | None], n: int) -> Iterator[None]:
    token = number.set(n)
    try:
        yield
    finally:
        number.reset(token)


def _at_least_one(n: int) -> int:
    try:
        number = operator.index(n)
    except TypeError:
        number = None
    if number is None or isinstance(n, bool):
        raise errors.wrong_type("n", "an int", n)
    if number < 1:
        raise errors.wrong_value("n", "at least 1", n)
    return number


class Limit(NamedTuple):
    """A number of threads, and what sets it."""

    threads: int
    source: str


# The process, its number of threads, the source of that, and whether the user set it.
_cached_default: tuple[int, int, str, bool] = (0, 0, "", False)


def _default() -> int:
    """Return the smallest limit, determined once per process: a child may have other limits."""
    global _cached_default
    if _cached_default[0] != os.getpid():
        all_limits = list(limits())
        smallest = min(all_limits, key=lambda limit: limit.threads)
        set_by_user = any(limit.source == _ENVIRONMENT[0] for limit in all_limits)
        _cached_default = (os.getpid(), *smallest, set_by_user)
    return _cached_default[1]


def chosen() -> Limit:
    """Return the number of `get_num_threads` and its source."""
    if n := _local.get():
        return Limit(n, "num_threads")
    if _explicit:
        return Limit(_explicit, "set_num_threads")
    return Limit(_default(), _cached_default[2])


def limits() -> Iterator[Limit]:
    """Yield the limits whose smallest, the first of equals, is the automatic number."""
    for name in _ENVIRONMENT:
        value = os.environ.get(name, "").split(",")[0].strip()  # OMP_NUM_THREADS may be a list
        if value.isdecimal() and int(value) > 0:
            yield Limit(int(value), name)
    if hasattr(os, "sched_getaffinity"):
        yield Limit(len(os.sched_getaffinity(0)), "CPU affinity")
    else:
        yield Limit(CPUS, "number of CPUs")
    for cpus in cgroup_limits():
        yield Limit(cpus, "cgroup CPU quota")


def cgroup_limits(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> Iterator[int]:
    """Yield the CPU quotas of this process's control groups (v2 and v1), rounded up."""
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            group = root / path.strip("/") if not controllers else root / "cpu" / path.strip("/")
            # A parent group may have a limit, too; inside a container only the root is visible.
            while True:
                with contextlib.suppress(OSError, ValueError):
                    yield from _quota(group)
                if group in (root, root / "cpu"):
                    break
                group = group.parent


def _quota(group: Path) -> Iterator[int]:
    if (group / "cpu.max").exists():
        quota, period = (group / "cpu.max").read_text().split()
    else:
        quota = (group / "cpu.cfs_quota_us").read_text()
        period = (group / "cpu.cfs_period_us").read_text()
    if quota != "max" and int(quota) > 0:
        yield max(1, -(-int(quota) // int(period)))


def run(work: Callable[[int], None], chunks: int, threads: int) -> None:
    """Call work(k) for k in range(chunks), on the caller's thread and `threads` - 1 more.

    Returns, or raises the first exception, when no thread works any longer: even after Ctrl-C no
    thread may write into buffers that the caller has again.
    """
    # Chunks are taken from both ends, atomically: each thread works on neighbouring rows and, in
    # repeated calls, mostly on rows that are in its own caches.
    left = deque(range(chunks))
    jobs: list[helpers.Job] = []
    try:
        _start(jobs, functools.partial(_take, work, left.pop), min(threads, chunks) - 1)
        _take(work, left.popleft)
    finally:
        left.clear()  # working threads stop after their current chunk
        _finish(jobs)


def _take(work: Callable[[int], None], next_chunk: Callable[[], int]) -> None:
    """Work on chunks until none is left."""
    while True:
        try:
            k = next_chunk()
        except IndexError:
            return
        work(k)


def _start(jobs: list[helpers.Job], loop: Callable[[], None], n: int) -> None:
    """Let up to n helpers join; `jobs` are those that may have begun."""
    # If no thread can be started, as at interpreter exit, continue with those that were.
    with contextlib.suppress(RuntimeError):
        for _ in range(n):
            # In the caller's context, so that NumPy's error state is the caller's.
            jobs.append(helpers.Job(functools.partial(copy_context().run, loop)))
            helpers.submit(jobs[-1])


def _finish(jobs: list[helpers.Job]) -> None:
    """Cancel the jobs that have not begun, wait for the others, raise their first exception."""
    interrupt: BaseException | None = None
    waiting = True
    while waiting:
        try:
            for job in jobs:
                job.finish()
            waiting = False
        except BaseException as error:  # a second Ctrl-C: raised after the wait
            interrupt = error
    if interrupt is not None:
        raise interrupt
    for job in jobs:
        raised, job.error = job.error, None  # avoids a reference cycle through the traceback
        if raised is not None:
            raise raised
