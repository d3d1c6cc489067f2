"""Show the progress of the fits on the terminal: a bar by rich, or a status line."""

import contextlib
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from fastxent.cli.demo.pipeline import Report
from fastxent.cli.output import Step, on_terminal, status_line

_FIRST_STATUS = "compiling, if this is the first run"


def steps(tol: float, *, quiet: bool) -> AbstractContextManager[Report]:
    """Show iteration, objective and gradient norm on stderr if it is a terminal."""
    return on_terminal(_bar(tol), status_line(_FIRST_STATUS, _status), quiet=quiet)


def _status(iteration: int, value: float, grad_norm: float) -> str:
    return f"iteration {iteration:5d}  objective {value:.6f}  |gradient| {grad_norm:.1e}"


@contextlib.contextmanager
def _bar(tol: float) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = BarColumn(bar_width=None), TextColumn("{task.description}")
    first_norm = done = 0.0
    with Progress(*columns, console=Console(stderr=True), expand=True) as bar:
        task = bar.add_task(_FIRST_STATUS, total=1.0)

        def report(iteration: int, value: float, grad_norm: float) -> None:
            nonlocal first_norm, done
            first_norm = first_norm or grad_norm
            # The norm falls by a roughly constant factor per iteration, so a bar of its logarithm
            # moves evenly. The bar does not go back when the norm rises.
            if grad_norm > tol:
                done = max(done, math.log(first_norm / grad_norm) / math.log(first_norm / tol))
            else:
                done = 1.0
            bar.update(task, completed=done, description=_status(iteration, value, grad_norm))

        yield report


class Iterations:
    """A callback of scikit-learn's estimators that counts the iterations of a fit by `step`."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.done = 0

    def setup(self, estimator: Any, context: Any) -> None:
        """Start counting at zero."""
        self.done = 0

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Do nothing: an iteration is counted at its end."""

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Count an iteration; the total is unknown."""
        self.done += 1
        self.step(self.done, None)

    def teardown(self, estimator: Any, context: Any) -> None:
        """Do nothing: the caller reports the total."""
