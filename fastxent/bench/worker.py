"""The parent's side of a benchmark process; each peer has its own process and thread pools."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastxent.bench.cases import Case
from fastxent.bench.serve import PeerFailed, serve_in_child

# Variables from which libraries read their number of threads at import.
_THREADS = [
    "FASTXENT_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS", "PJRT_NPROC",
]  # fmt: skip


class Worker:
    """A child process that prepares and times cases; its methods raise `PeerFailed`."""

    def __init__(self, peer: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = theirs, peer, threads
        self._process = context.Process(target=serve_in_child, args=arguments, daemon=True)
        with _environment(threads), _interrupts_ignored():
            self._process.start()
        theirs.close()

    def versions(self) -> dict[str, str]:
        """Versions of the peer's packages."""
        versions: dict[str, str] = self._ask("versions")
        return versions

    def prepare(self, case: Case, folder: Path) -> dict[str, Any]:
        """Load a case from files, check the result; return facts on alignment and memory."""
        facts: dict[str, Any] = self._ask("prepare", case, folder)
        return facts

    def time(self, seconds: float) -> float:
        """Median time of a call, in a loop of that many seconds."""
        median: float = self._ask("time", seconds)
        return median

    def release(self) -> None:
        """Free the case and its arrays."""
        self._ask("release")

    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.is_alive()

    def close(self) -> None:
        """Terminate the process."""
        self._process.terminate()
        self._process.join()
        self._pipe.close()

    def _ask(self, *request: Any) -> Any:
        try:
            self._pipe.send(request)
            reply = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise PeerFailed(f"its process exited with {self._process.exitcode}") from None
        if isinstance(reply, PeerFailed):
            raise reply
        return reply


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """A context in which child processes start with this number of threads."""
    before = dict(os.environ)
    # Inductor's pool of compile processes would outlive a terminated worker.
    os.environ.update(dict.fromkeys(_THREADS, str(threads)), TORCHINDUCTOR_COMPILE_THREADS="1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A context in which child processes start ignoring Ctrl-C; the parent terminates them.

    On Windows, they ignore it only from `serve_in_child` on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
