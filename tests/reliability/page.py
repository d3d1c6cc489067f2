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

# What a part's tests do, and why it holds.
PARTS = {
    "Threads": """
16 Python threads make 1,000 calls each of every function, on rows from one to several chunks that helper threads share;
every result is compared, by bits, with that of the call alone. First calls come from eight threads at once, on an empty
cache: eight kernels, and one kernel eight times.

Compiled code runs without the interpreter's lock. A call's helpers belong to it until it returns, and compiling is done
by the thread that asks, under Numba's own lock. Free-threaded CPython is not claimed: Numba did not support it when this
was written.
""",
    "Processes": """
After a parallel call in the parent: `multiprocessing` by fork, forkserver and spawn, `ProcessPoolExecutor`, joblib's loky,
a PyTorch `DataLoader` with forked workers, gunicorn with `--preload`, children of children. 150 children are forked while
four threads are in calls with helpers of their own; others while a thread compiles. Calls are made in `atexit` handlers,
by threads that outlive the main one, by daemon threads that the end of the process stops, in finalizers, and where `os`
has no `register_at_fork`.

A child begins without helpers and starts its own. A fork waits until nobody compiles, so that no child inherits the
compiler's lock. At the end of the process, when no thread can be started, the caller works alone.
""",
    "Interrupts": """
A signal comes at a random moment of a call that writes into the caller's buffer. The call has to end within a second;
then the buffer is filled with 7s, and has to hold them still a moment later. One call of some seconds of work has to end
within one.

Work is done in chunks of about a millisecond, after which the interpreter sees the signal; whoever is at work ends his
chunk before the exception leaves the call, whatever other signals come.
""",
    "Compile cache": """
Files that are empty, cut anywhere, with a bit flipped anywhere, swapped, deleted, unreadable, replaced by folders and
links, or with a right digest before a wrong content; folders that are none, closed, read-only, another user's, on a full
disk, over a quota, unreadable, gone; processes without a home, or that may open no more files; an upgraded package, edited
kernels and two kinds of CPU on one folder. Each fault is met by a first process, which has to give the right numbers, and
where a file can be put in its place by a second, which must not have to compile.

In the races four processes make first calls of three kernels at once, on a folder that is not there yet; then another
process must find every file whole, and get the right numbers from them.

There is one file for each kernel and signature. Its name is a hash of all that the code depends on - the package's
version and the kernels' sources, Numba's and LLVM's versions, CPU, settings -, its content begins with a digest that is
checked before anything of it is read, and it is put in place whole, by a rename. Whatever is wrong means: compile.
""",
    "Memory": """
Every array that NumPy makes - those that are given, converted blocks, results - begins or ends at an inaccessible page,
in a process of its own; around what the kernels allocate for themselves lies a pattern that is checked. All kernels run
so at every number of classes from 1 to 70 and around the lengths at which they change their way, for numbers of rows
around the lanes of a vector.

Labels are rewritten by a thread while calls read them, with wild values and with the number of classes: no memory but
the row's own may change, and an error has to come before anything is written. (They are checked again where they are
used.)

The suite's tests of kernels run once more with Numba's check of every index.
""",
    "Bad input": """
Each entry of a table replaces arguments of calls by something bad or odd - types, shapes, layouts, labels, options,
buffers - and is tried with every function that takes them, in float32 and float64, but counts once. Bad ones have to raise
the documented error, with a message that names the argument; odd ones have to give the documented result. Afterwards
inputs and buffers are compared by hash.

A fuzzer that is guided by the coverage of the package's Python code makes calls from random bytes, and a state machine of
Hypothesis's keeps buffers, threads and children through random sequences of calls. Both compare results with
`fastxent.reference` or with a call alone.
""",
    "Limits": """
The number of threads under environment variables, CPU affinity and quotas of control groups (both versions, at any level
above the process), set explicitly and by contexts; no time is used when idle. Settings of the process - signals, NumPy's
error state, warnings, environment, random numbers, Numba's threads, the handling of subnormal numbers and three score
others - are the same after the import and after calls and errors of every function.
""",
    "Long runs": """
A hundred thousand calls of all functions, every second of which raises, some with helper threads. The resident memory is
compared with that after the first ten thousand; the numbers of threads and of open files must not change.
""",
    "Reproducible": """
Every function and reduction with 1 to 8 threads, 50 times: one bit pattern. Means are compared with `math.fsum` of the
single losses: within one unit in the last place in float32, within 1e-12 in float64, also where all losses are equal.

How rows are cut into chunks depends on the shape alone, a chunk's sum is compensated, and chunks' sums are added exactly.
""",
    "CUDA": """
A process that is forked after CUDA was used cannot use it. It is told so, and what to do. No GPU was there: the driver's
answers are played.
""",
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


def render(sums, others, minutes):
    """The page."""
    parts = "\n\n".join(f"## {part}\n\n{text.strip()}" for part, text in PARTS.items())
    return (
        f"{HEAD.strip().format(minutes=minutes)}\n\n{table(sums)}\n\n{machine()}\n\n"
        f"## Not a full score\n\n{missing(sums, others)}\n\n{parts}\n"
    )


HEAD = """
# Reliability, counted

What happens in the programs people really have: threads, forked workers, shared caches, bad labels, interrupted cells.
Each number is of one run on one machine, by

```sh
.venv/bin/python -m pytest -n auto --dist worksteal tests/reliability --page docs/reliability.md
```

which takes {minutes} minutes on two cores and needs `pip install -e '.[test,torch,cuda13]'`. Every run of the tests does
the same less often. What crashes, hangs or is killed counts as wrong.
"""
