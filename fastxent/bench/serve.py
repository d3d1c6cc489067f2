"""The child process of a benchmark: runs one peer and answers the parent's requests."""

import importlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastxent as fx
from fastxent.bench import answers, inputs, measure
from fastxent.bench.cases import Case
from fastxent.bench.dtypes import as_array, restored
from fastxent.bench.peers import PEERS

_LARGE = 1 << 26  # bytes of an array from which memory is measured


class PeerFailed(Exception):
    """Raised if a peer cannot handle a request; the message is the reason."""


def serve_in_child(pipe: Any, peer: str, threads: int) -> None:
    """Answer requests in a process of its own, which ignores Ctrl-C: the parent ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Windows does not pass this on to children
    serve(pipe, peer, threads)


def serve(pipe: Any, peer: str, threads: int) -> None:
    """Answer requests (name of a method, its arguments) until the parent closes the pipe."""
    fx.set_num_threads(threads)
    server = _Server(peer)
    try:
        while True:
            name, *arguments = pipe.recv()
            pipe.send(_reply(getattr(server, name), arguments))
    except (EOFError, OSError):
        return


def _reply(method: Callable[..., Any], arguments: list[Any]) -> Any:
    try:
        return method(*arguments)
    except PeerFailed as failure:
        return failure
    except Exception as problem:
        first_line = str(problem).partition("\n")[0]
        return PeerFailed(f"{type(problem).__name__}: {first_line}")


def checked_call(
    peer: str, case: Case, arrays: tuple[Any, ...], expected: tuple[Any, ...]
) -> tuple[Callable[[], Any], Any]:
    """The call of a peer that is to be timed, and its answer, which is correct."""
    module = importlib.import_module(f"fastxent.bench.peers.{peer}")
    if not hasattr(module, case.job):
        raise PeerFailed(f"does not support {case.job}")
    arguments, options = inputs.arguments(case, arrays)
    call: Callable[[], Any] = getattr(module, case.job)(*arguments, **options)
    answer = call()
    if PEERS[peer].computes:
        error = answers.error(answer, expected)
        if not error <= answers.TOLERANCE[case.dtype]:  # nan fails too
            raise PeerFailed(f"wrong result: relative error {error:.1e}")
    return call, answer


class _Server:
    """A peer and its current case."""

    def __init__(self, peer: str) -> None:
        self.name = peer
        self.call: Callable[[], Any] | None = None

    def versions(self) -> dict[str, str]:
        packages = [importlib.import_module(name) for name in ("numpy", *PEERS[self.name].packages)]
        return {package.__name__: str(package.__version__) for package in packages}

    def prepare(self, case: Case, folder: Path) -> dict[str, Any]:
        arrays = load(folder, "inputs")
        self.call = None
        self.call, answer = checked_call(
            self.name, case, arrays, load(folder, "expected", mmap_mode="r")
        )
        last = as_array(answer[-1] if isinstance(answer, tuple) else answer)
        facts = {"logits_mod_64": arrays[0].ctypes.data % 64, "grad_mod_64": last.ctypes.data % 64}
        del answer, last
        measured = case.size * 4 >= _LARGE or case.job == "frozen"  # this job is about memory
        extra = measure.extra_megabytes(self.call) if measured else None
        return {**facts, "extra_mb": extra}

    def time(self, seconds: float) -> float:
        if self.call is None:
            raise PeerFailed("no case is prepared")
        return measure.seconds_per_call(self.call, seconds)

    def release(self) -> None:
        self.call = None


def save(folder: Path, kind: str, arrays: tuple[Any, ...]) -> None:
    """Save arrays to files in a folder, for the workers."""
    for k, array in enumerate(arrays):
        np.save(folder / f"{kind}{k}.npy", array)


def load(folder: Path, kind: str, mmap_mode: Any = None) -> tuple[Any, ...]:
    """Load the arrays saved under this name."""
    files = sorted(folder.glob(f"{kind}*.npy"))
    return tuple(restored(np.load(file, mmap_mode=mmap_mode)) for file in files)
