"""The rows of the table in docs/reliability.md, and the page that is made of a run's counts."""

import datetime
import importlib.metadata
import platform
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """A line of the table: of which part it is, and what is counted."""

    part: str
    what: str


ROWS = {
    "calls": Row("Threads", "calls from 16 threads at once, with the bits of a call alone"),
    "first calls": Row("Threads", "first calls from 8 threads at once, right"),
    "forks": Row("Processes", "children forked while 4 threads call: ended by themselves, right"),
    "forks in compilation": Row("Processes", "children forked while a thread compiles, likewise"),
    "workers": Row("Processes", "workers' results after a parallel call in the parent, right"),
    "exits": Row("Processes", "calls while the interpreter exits, right"),
    "interrupts": Row("Interrupts", "calls that Ctrl-C ended, and nobody wrote afterwards"),
    "faults": Row("Compile cache", "faults of files and folders survived, with right numbers"),
    "races": Row("Compile cache", "processes making first calls at once on an empty folder, right"),
    "race files": Row(
        "Compile cache", "files that these left, whole and right for the next process"
    ),
    "rewritten labels": Row(
        "Memory", "calls while another thread rewrites their labels: no wild access"
    ),
    "guarded": Row("Memory", "calls on buffers between inaccessible pages: no access outside"),
    "bounds": Row("Memory", "tests of the suite passed with NUMBA_BOUNDSCHECK=1 on an empty cache"),
    "bad": Row("Bad input", "bad calls refused as documented, nothing written"),
    "odd": Row("Bad input", "odd calls with the documented result, nothing else written"),
    "fuzzed": Row("Bad input", "calls of a coverage-guided fuzzer answered as documented"),
    "stateful": Row(
        "Bad input", "random sequences of calls, buffers, threads and forks, all right"
    ),
    "limits": Row("Limits", "limits on threads respected"),
    "globals": Row("Limits", "global settings as they were"),
    "long": Row("Long runs", "calls, half of them raising, as documented"),
    "memory": Row("Long runs", "bytes that they leave behind, and that are allowed"),
    "bits": Row("Reproducible", "functions and reductions with one bit pattern"),
    "means": Row("Reproducible", "means over 10 million rows as near to the exact one as promised"),
    "cuda": Row("CUDA", "uses in a child forked after CUDA's use: a clear error"),
}

# What a part's tests do, and why it holds; the page's prose.
PARTS = {
    "Threads": "",
    "Processes": "",
    "Interrupts": "",
    "Compile cache": "",
    "Memory": "",
    "Bad input": "",
    "Limits": "",
    "Long runs": "",
    "Reproducible": "",
    "CUDA": "",
}


def table(sums):
    """The rows as Markdown; a row that nothing was counted for says so."""
    lines = ["| | | full score |", "|---|---|---|"]
    before = None
    for row, (part, what) in ROWS.items():
        good, tried = sums.get(row, (0, 0))
        score = f"{good:,} of {tried:,}" if tried else "not run"
        if good != tried:
            score = f"**{score}**"
        lines.append(f"| {part if part != before else ''} | {what} | {score} |")
        before = part
    return "\n".join(lines)


def machine():
    """Where the counts are from."""
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "numba")}
    cpu = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.machine(),
    )  # fmt: skip
    return (
        f"{datetime.date.today()}, {cpu}, {platform.system()}, "
        f"{platform.python_implementation()} {platform.python_version()}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
    )


def missing(sums, others):
    """What is not a full score, and why."""
    lines = [f"- {what}: not run" for row, (_, what) in ROWS.items() if row not in sums]
    for outcome, report in others:
        why = report.longrepr[2] if outcome == "skipped" else str(report.longrepr).splitlines()[-1]
        lines.append(f"- `{report.nodeid.rpartition('/')[2]}` {outcome}: {why}")
    return "\n".join(lines) or "Nothing is missing."


def render(path, sums, others, full):
    """Write the page."""
    parts = "\n\n".join(f"## {part}\n\n{text.strip()}" for part, text in PARTS.items())
    how = "" if full else "**A short run**, as in every run of the tests.\n\n"
    Path(path).write_text(
        f"{HEAD.strip()}\n\n{how}{machine()}\n\n{table(sums)}\n\n## Not a full score\n\n"
        f"{missing(sums, others)}\n\n{parts}\n"
    )


HEAD = """
# Reliability, counted

"""
