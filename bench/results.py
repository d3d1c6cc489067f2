"""Numbers of several runs: one value per run, then the median and the range."""

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fastxent.bench import record
from fastxent.bench.cases import Case

Run = dict[str, Any]


class Spread(NamedTuple):
    """A number over runs."""

    median: float
    low: float
    high: float


# Fields of a case that rows measured before them lack, with the values that they had.
_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(Case)
    if field.default is not dataclasses.MISSING
}


def load(path: Path) -> Run:
    """Read a run, also one whose cases had fewer fields."""
    run = record.load(path)
    return run | {"results": [_DEFAULTS | row for row in run["results"]]}


def load_all(paths: list[Path]) -> list[Run]:
    """Read runs, of each group only the last set: one version, one day, one CPU."""
    runs = [load(path) for path in paths]
    last: dict[str, tuple[str, str, str]] = {}
    for run in sorted(runs, key=lambda run: run["date"]):
        last |= dict.fromkeys(_groups(run), _set_of(run))
    kept = []
    for run in runs:
        names = {name for name in _groups(run) if last[name] == _set_of(run)}
        rows = [row for row in run["results"] if row["group"] in names]
        if names:
            kept.append(run | {"results": rows, "startup": run["startup"] if "" in names else {}})
    return kept


def _groups(run: Run) -> list[str]:
    """The groups of a run; "" is the start-up."""
    return [*dict.fromkeys(row["group"] for row in run["results"]), *[""][: len(run["startup"])]]


def _set_of(run: Run) -> tuple[str, str, str]:
    """What runs of one set have in common: version, day and CPU."""
    return run["fastxent"], run["date"][:10], run["cpu"]["model"]


# Of the largest value to the smallest: runs that differ by more do not have a typical value.
UNSTEADY = 1.5


def one_number(value: Spread | None, unsteady: Literal["low", "high"] = "low") -> Spread | None:
    """A value without its range: the median, or an end of the range if the runs differ too much."""
    if value is None:
        return None
    kept = getattr(value, unsteady) if value.high > UNSTEADY * value.low else value.median
    return Spread(kept, kept, kept)


def case_of(row: record.Row) -> Case:
    """The case that a row was measured on."""
    return Case(**{field.name: row[field.name] for field in dataclasses.fields(Case)})


def spread(runs: list[Run], value: Callable[[Run], float | None]) -> Spread | None:
    """Median and range of a number over the runs that have it."""
    values = [v for run in runs if (v := value(run)) is not None]
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def timed(run: Run, group: str, **fields: Any) -> list[record.Row]:
    """The timed rows of a group that have these values."""
    return [
        row
        for row in run["results"]
        if row["group"] == group and "median" in row and fields.items() <= row.items()
    ]


def number(field: str, group: str, **fields: Any) -> Callable[[Run], float | None]:
    """A function that reads a field of the row with these values."""

    def value(run: Run) -> float | None:
        return next((row[field] for row in timed(run, group, **fields) if row.get(field)), None)

    return value


def ratio(
    group: str, theirs: dict[str, Any], ours: dict[str, Any]
) -> Callable[[Run], float | None]:
    """A function that returns the ratio of two rows' times, round by round."""

    def value(run: Run) -> float | None:
        pair = timed(run, group, **theirs)[:1] + timed(run, group, **ours)[:1]
        return record.ratio(*pair) if len(pair) == 2 else None

    return value


def cases(runs: list[Run], group: str, *fields: str) -> list[dict[str, Any]]:
    """The different values of these fields in a group, in the order of the table of cases."""
    rows = [row for run in runs for row in run["results"] if row["group"] == group]
    unique = dict.fromkeys(tuple(row[field] for field in fields) for row in rows)
    return [dict(zip(fields, values, strict=True)) for values in unique]
