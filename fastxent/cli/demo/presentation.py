"""The results of `demo` as tables and as data."""

from collections.abc import Sequence
from typing import Any

import fastxent as fx
from fastxent.cli.demo.data import Data
from fastxent.cli.demo.fits import Fit
from fastxent.cli.demo.timing import Speed
from fastxent.cli.output import show_table


def show_fits(title: str, fits: dict[str, Fit]) -> None:
    """Print fits side by side."""
    columns = list(fits.values())
    rows = [
        ("test accuracy", *(f"{fit.accuracy:.4f}" for fit in columns)),
        ("test loss", *(f"{fit.test_loss:.5f}" for fit in columns)),
        ("train objective", *(f"{fit.objective:.5f}" for fit in columns)),
        ("iterations", *(f"{fit.iterations}" for fit in columns)),
        ("seconds", *(f"{fit.seconds:.2f}" for fit in columns)),
    ]
    show_table((title, *fits), rows)


def show_speeds(speeds: Sequence[Speed]) -> None:
    """Print both times of each case and their ratio."""
    rows = [
        (case, f"{ours * 1e3:.2f} ms", f"{theirs * 1e3:.2f} ms", f"{theirs / ours:.2f}x")
        for case, ours, theirs in speeds
    ]
    show_table(("one loss and gradient (median)", "fastxent", "NumPy", "speed-up"), rows)
    print("For the digits both spend most time in matrix products; large batches gain more.")
    threads = fx.get_num_threads()
    print(f"Threads: fastxent at most {threads}, NumPy 1; matrix products of both 1.")


def document(
    data: dict[str, Data], fits: dict[str, dict[str, Fit]], speeds: Sequence[Speed]
) -> dict[str, Any]:
    """The results as a dictionary, for --json."""
    problems = {
        name: {
            "train": len(data[name].y),
            "test": len(data[name].y_test),
            "fits": {library: fit._asdict() for library, fit in fits[name].items()},
        }
        for name in data
    }
    return {
        "fastxent": fx.__version__,
        "threads": fx.get_num_threads(),
        **problems,
        "evaluations": [
            {
                "case": speed.case,
                "fastxent_seconds": speed.fastxent,
                "numpy_seconds": speed.numpy,
                "speed_up": speed.numpy / speed.fastxent,
            }
            for speed in speeds
        ],
    }
