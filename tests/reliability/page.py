"""Rows of the table in docs/reliability.md, and the page written from page.md and the counts."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from string import Template
from typing import NamedTuple


class Row(NamedTuple):
    """A row of the table: its part, and what is counted or has to be below a limit."""

    part: str
    what: str
    limited: bool = False


ROWS = {
    "calls": Row("Threads", "calls from 16 threads at once, bit-identical to single calls"),
    "first calls": Row("Threads", "concurrent first calls from 8 threads, with the right result"),
    "forks": Row(
        "Processes",
        "children forked while 4 threads call: each exits by itself, with the right result",
    ),
    "forks in compilation": Row(
        "Processes", "children forked while a thread loads or compiles a kernel: the same"
    ),
    "workers": Row("Processes", "right results of workers after a parallel call in the parent"),
    "exits": Row(
        "Processes",
        "right results of calls while the interpreter exits, or on a platform without fork",
    ),
    "interrupts": Row("Interrupts", "calls interrupted by Ctrl-C, with nothing written afterwards"),
    "faults": Row("Compile cache", "faults of files and folders after which results are right"),
    "races": Row(
        "Compile cache", "processes with concurrent first calls on an empty folder: right results"
    ),
    "race files": Row(
        "Compile cache", "files that these left, complete and right for the next process"
    ),
    "processes of kernels": Row(
        "Compile cache",
        "kernels compiled each in its own process, all loaded in another: bit-identical results",
    ),
    "rewritten labels": Row(
        "Memory", "calls while another thread rewrites their labels: no access outside the arrays"
    ),
    "guarded": Row("Memory", "calls on buffers between inaccessible pages: no access outside"),
    "bounds": Row("Memory", "tests of the suite passed with NUMBA_BOUNDSCHECK=1 on an empty cache"),
    "bad": Row("Bad input", "bad calls refused as documented, nothing written"),
    "odd": Row("Bad input", "unusual calls with the documented result, nothing else written"),
    "fuzzed": Row("Bad input", "calls of a coverage-guided fuzzer answered as documented"),
    "stateful": Row(
        "Bad input", "random sequences of calls, buffers, threads and forks, with right results"
    ),
    "limits": Row("Limits", "limits on threads respected"),
    "globals": Row("Limits", "global settings left unchanged"),
    "long": Row("Long runs", "calls, half of them raising the documented error"),
    "memory": Row("Long runs", "growth of memory after them, in bytes", limited=True),
    "bits": Row(
        "Reproducible",
        "functions and reductions whose results are bit-identical for all numbers of threads",
    ),
    "means": Row(
        "Reproducible",
        "means over millions of rows, as close to the exact mean as those of a few rows",
    ),
    "cuda": Row("CUDA", "uses around forks: a clear error after CUDA's first use, none before it"),
}


def scores(sums):
    """For each row its text, and whether its score is full."""
    for row, (_, _, limited) in ROWS.items():
        if row not in sums:
            yield row, "not run", False
        elif limited:
            value, limit = sums[row]
            how = "fewer" if value < limit else "not fewer"
            yield row, f"{value:,}, {how} than {limit:,}", value < limit
        else:
            good, tried = sums[row]
            yield row, f"{good:,} of {tried:,}", good == tried


def table(sums):
    """The rows as Markdown; scores that are not full are bold."""
    lines = ["| | | |", "|---|---|---|"]
    before = None
    for row, score, full in scores(sums):
        part, what, _ = ROWS[row]
        shown = score if full else f"**{score}**"
        lines.append(f"| {part if part != before else ''} | {what} | {shown} |")
        before = part
    return "\n".join(lines)


def machine():
    """Date, system and versions of the counts."""
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "numba")}
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        f"{datetime.date.today()}, {names[0] if names else platform.machine()}, "
        f"{os.cpu_count()} cores, {platform.system()}, "
        f"{platform.python_implementation()} {platform.python_version()}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
    )


def missing(sums, others):
    """The rows without a full score, with the reasons."""
    lines = [f"- {ROWS[row].what}: {score}" for row, score, full in scores(sums) if not full]
    for outcome, report in others:
        crash = getattr(report.longrepr, "reprcrash", None)
        why = report.longrepr[2] if outcome == "skipped" else str(crash or report.longrepr)
        lines.append(f"- `{report.nodeid.rpartition('/')[2]}` {outcome}: {why.splitlines()[0]}")
    return "\n".join(lines) or "Nothing."


def render(sums, others, minutes):
    """The page as Markdown."""
    text = Path(__file__).with_suffix(".md").read_text()
    return Template(text).substitute(
        minutes=minutes, table=table(sums), machine=machine(), missing=missing(sums, others)
    )
