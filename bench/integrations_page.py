"""Write the measured tables of docs/integrations.md.

`python bench/integrations_page.py` reads the records in bench/results: those of boosting.py in
`boosting`, of dask_workers.py in `dask`, of estimator.py in `estimator`, and of
`run.py --groups frozen` in `frozen`.
"""

import statistics
from pathlib import Path
from typing import Any

from markdown_tables import insert, table

from fastxent.bench import record
from fastxent.bench.peers import PEERS

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "bench" / "results", ROOT / "docs" / "integrations.md"

Runs = list[dict[str, Any]]
PREDICTIONS = {"xgboost": "float32", "lightgbm": "float64, column-major"}


def runs(name: str) -> Runs:
    """The runs in a folder."""
    return [record.load(path) for path in sorted((RESULTS / name).glob("*.json"))]


def rows(of: Runs, **fields: Any) -> list[record.Row]:
    """The row of each run that has these values."""
    return [row for run in of for row in run["results"] if fields.items() <= row.items()]


def boosting(of: Runs) -> str:
    """Objectives of fastxent and NumPy: medians, and the median of the rounds' ratios."""
    lines = []
    for job, predictions in PREDICTIONS.items():
        theirs, ours = (rows(of, job=job, peer=peer) for peer in ("numpy", "fastxent"))
        ratios = (record.ratio(a, b) for a, b in zip(theirs, ours, strict=True))
        times = (" · ".join(f"{r['median'] * 1e3:.1f}" for r in side) for side in (theirs, ours))
        lines.append(
            (f"`{job}_softmax`", predictions, *times, " · ".join(f"{r:.2f}" for r in ratios))
        )
    header = ("milliseconds", "predictions", "NumPy", "fastxent", "× fastxent")
    return table(header, lines)


def dask(of: Runs) -> str:
    """One worker and two: medians, least times, and the median of the rounds' ratios."""
    lines = []
    for job in ("loss and gradient", "loss"):
        sides = [rows(of, job=job, workers=n) for n in (1, 2)]
        times = (
            " · ".join(f"{r['median'] * 1e3:.0f} ({min(r['seconds']) * 1e3:.0f})" for r in side)
            for side in sides
        )
        pairs = list(zip(*sides, strict=True))
        ratios = " · ".join(f"{record.ratio(one, two):.2f}" for one, two in pairs)
        least = " · ".join(f"{min(a['seconds']) / min(b['seconds']):.2f}" for a, b in pairs)
        lines.append((job, *times, ratios, least))
    header = ("ms, median (least)", "one worker", "two", "ratio", "of the least")
    return table(header, lines)


def frozen(of: Runs) -> str:
    """A step with frozen weights: medians, the median of the rounds' ratios, and memory."""
    lines = []
    for case in of[0]["results"]:
        shape = {key: case[key] for key in ("rows", "classes", "features")}
        theirs, ours = (rows(of, peer=peer, **shape) for peer in (case["peer"], "fastxent_torch"))
        ratios = [record.ratio(a, b) for a, b in zip(theirs, ours, strict=True)]
        lines.append((
            PEERS[case["peer"]].name, f"({case['rows']}, {case['features']})", str(case["classes"]),
            " · ".join(f"{row['median'] * 1e3:.1f}" for row in theirs),
            " · ".join(f"{ratio:.2f}" for ratio in ratios),
            " · ".join(f"{row['extra_mb']:.1f}" for row in theirs),
        ))  # fmt: skip
    return table(("", "x", "classes", "milliseconds", "× fastxent", "extra MB"), lines)


def _estimator_cases(of: Runs, job: str) -> list[dict[str, Any]]:
    """The problems for which this job was timed, in the order of the first run."""
    keys = ("n", "features", "c", "dtype", "solver", "iterations")
    found = [row for row in of[0]["results"] if row["job"] == job and row["peer"] == "fastxent"]
    return [{key: row[key] for key in keys} for row in found]


def _problem(case: dict[str, Any]) -> tuple[str, str]:
    return f"({case['n']}, {case['features']}) → {case['c']}", case["dtype"]


def estimator(of: Runs) -> str:
    """Fits of both classes: medians, and the median of the rounds' ratios."""
    lines = []
    for case in _estimator_cases(of, "fit"):
        cells = []
        for suffix in ("", "_limited"):
            ours, theirs = (
                rows(of, job="fit", peer=peer + suffix, **case)
                for peer in ("fastxent", "scikit_learn")
            )
            cells += [
                " · ".join(f"{r['median'] * 1e3:.0f}" for r in side) for side in (ours, theirs)
            ]
            ratios = [record.ratio(their, our) for our, their in zip(ours, theirs, strict=True)]
            cells.append(" · ".join(f"{r:.2f}" if r >= 1 else f"**{r:.2f}**" for r in ratios))
        lines.append((*_problem(case), f"{case['solver']}, {case['iterations']}", *cells))
    header = (
        "rows, features → classes", "", "solver, iterations", "fastxent, ms", "scikit-learn, ms",
        "× fastxent", "limited: fastxent", "scikit-learn", "× fastxent",
    )  # fmt: skip
    return table(header, lines)


def evaluation(of: Runs) -> str:
    """Milliseconds of an evaluation's parts, the medians over all runs."""
    lines = []
    for case in _estimator_cases(of, "evaluation"):
        cells = []
        for peer in ("fastxent", "scikit_learn"):
            whole, products, loss = (
                1e3 * statistics.median(r["median"] for r in rows(of, job=job, peer=peer, **case))
                for job in ("evaluation", "products", "loss")
            )
            rest = whole - products - loss
            sign = "+" if rest >= 0 else "−"
            cells.append(f"{products:.2f} + {loss:.2f} {sign} {abs(rest):.2f}")
        lines.append((*_problem(case), *cells))
    header = ("products + loss + the rest, ms", "", "fastxent", "scikit-learn")
    return table(header, lines)


def fill(page: Path = PAGE) -> None:
    """Write each table between its marks."""
    for part in (boosting, dask, frozen, estimator, evaluation):
        mark = f"<!-- {part.__name__}: written by bench/integrations_page.py -->"
        insert(page, part(runs("estimator" if part is evaluation else part.__name__)), mark)


if __name__ == "__main__":
    fill()
