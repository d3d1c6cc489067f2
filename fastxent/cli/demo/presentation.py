"""The results of `demo` as tables and as data."""

from collections.abc import Sequence
from typing import Any

import fastxent as fx
from fastxent.cli.demo.data import Digits
from fastxent.cli.demo.fits import Fit
from fastxent.cli.demo.timing import Speed
from fastxent.cli.output import show_table


def show_fits(digits: Digits, ours: Fit, theirs: Fit) -> None:
    """Print both fits side by side."""
    rows = [
        ("test accuracy", f"{ours.accuracy:.4f}", f"{theirs.accuracy:.4f}"),
        ("test loss", f"{ours.test_loss:.5f}", f"{theirs.test_loss:.5f}"),
        ("train objective", f"{ours.objective:.5f}", f"{theirs.objective:.5f}"),
        ("method", "Nesterov", "L-BFGS"),
        ("iterations", f"{ours.iterations}", f"{theirs.iterations}"),
        ("seconds", f"{ours.seconds:.2f}", f"{theirs.seconds:.2f}"),
    ]
    sizes = f"{len(digits.y)} digits to fit, {len(digits.y_test)} to test"
    show_table((sizes, "fastxent", "scikit-learn"), rows)
    print("Plain gradient steps, to show the update; L-BFGS gets there in fewer.\n")


def show_speeds(speeds: Sequence[Speed]) -> None:
    """Print both times of each case and their ratio."""
    rows = [
        (case, f"{ours * 1e3:.2f} ms", f"{theirs * 1e3:.2f} ms", f"{theirs / ours:.2f}x")
        for case, ours, theirs in speeds
    ]
    show_table(("one loss and gradient (median)", "fastxent", "NumPy", "speed-up"), rows)
    print("At the digits' size both mostly wait for matrix products; large batches gain.")
    threads = fx.get_num_threads()
    print(f"Threads: fastxent at most {threads}, NumPy 1; matrix products of both 1.")


def document(digits: Digits, ours: Fit, theirs: Fit, speeds: Sequence[Speed]) -> dict[str, Any]:
    """The results as a dictionary, for --json."""
    return {
        "fastxent": fx.__version__,
        "threads": fx.get_num_threads(),
        "digits": {"train": len(digits.y), "test": len(digits.y_test)},
        "fits": {"fastxent": ours._asdict(), "scikit-learn": theirs._asdict()},
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
