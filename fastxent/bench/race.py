"""Run heats: one process per side, results checked first, rounds interleaved."""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fastxent.bench import answers, inputs
from fastxent.bench.cases import Case, Heat
from fastxent.bench.peers import PEERS
from fastxent.bench.serve import PeerFailed, save
from fastxent.bench.worker import Worker


@dataclass
class RaceResult:
    """The times of one side of a heat by round, or a note why there are none."""

    peer: str
    case: Case
    seconds: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    note: str = ""


class Race:
    """Runs heats; workers are reused, so each imports its packages once."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.versions: dict[str, str] = {}
        self._workers: dict[tuple[str, int, int], Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for worker in self._workers.values():
            worker.close()

    def run(
        self, heat: Heat, rounds: int, seconds: float, report: Callable[[], None] = lambda: None
    ) -> list[RaceResult]:
        """Let all sides take turns of that many seconds; `report` is called after each round."""
        results = [RaceResult(entry.peer, self._with_threads(entry.case)) for entry in heat]
        racing = self._prepare(results)
        for _ in range(rounds):
            for result, worker in racing:
                if not result.note:
                    with _failure_as_note(result):
                        result.seconds.append(worker.time(seconds))
            report()
        for result, worker in racing:
            with _failure_as_note(result):
                worker.release()
        return results

    def _with_threads(self, case: Case) -> Case:
        return case if case.threads else replace(case, threads=self.threads)

    def _prepare(self, results: list[RaceResult]) -> list[tuple[RaceResult, Worker]]:
        """Write inputs and expected results, check every side; return those that passed."""
        ready = []
        sides = self._start(results)
        with tempfile.TemporaryDirectory(prefix="fastxent-bench-") as root:
            folders: dict[Case, Path] = {}
            for result, worker in sides:
                problem = replace(result.case, threads=None)
                if problem not in folders:
                    folders[problem] = _write(problem, Path(root) / str(len(folders)))
                with _failure_as_note(result):
                    self.versions.update(worker.versions())
                    result.facts = worker.prepare(problem, folders[problem])
                    ready.append((result, worker))
        return ready

    def _start(self, results: list[RaceResult]) -> list[tuple[RaceResult, Worker]]:
        """A worker for each side whose peer is installed; two sides of one peer get two workers."""
        sides = []
        counts: Counter[tuple[str, int]] = Counter()
        for result in results:
            if missing := PEERS[result.peer].missing():
                result.note = f"needs {missing}"
                continue
            threads = result.case.threads or self.threads
            key = result.peer, threads, counts[result.peer, threads]
            counts[result.peer, threads] += 1
            if key not in self._workers or not self._workers[key].alive():
                self._workers[key] = Worker(result.peer, threads)
            sides.append((result, self._workers[key]))
        return sides


def _write(case: Case, folder: Path) -> Path:
    folder.mkdir()
    arrays = inputs.make(case)
    save(folder, "inputs", arrays)
    save(folder, "expected", answers.expected(case, arrays))
    return folder


@contextlib.contextmanager
def _failure_as_note(result: RaceResult) -> Iterator[None]:
    try:
        yield
    except PeerFailed as failure:
        result.note = str(failure)
