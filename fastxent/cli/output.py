"""Output of the commands: tables, facts, JSON and progress; formatted by rich in a terminal."""

import contextlib
import importlib.util
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

Step = Callable[[int, int | None], None]  # steps done, total or None if that is not known
Shown = AbstractContextManager[Callable[..., None]]  # yields a function that shows a step


def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, names left-aligned and numbers right-aligned; formatted on a terminal."""
    if sys.stdout.isatty() and installed("rich"):
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD)
        for k, name in enumerate(header):
            table.add_column(name, justify="right" if k else "left")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for name, *cells in (header, *rows):
        numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        print(name.ljust(widths[0]), *numbers, sep="  ")
    print()


def show_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns; an indented name belongs to the one above it."""
    width = 2 + max(len(name) for name, _ in facts)
    columns = max(40, min(100, shutil.get_terminal_size().columns))
    # Do not break paths.
    wrap = textwrap.TextWrapper(
        columns - width, break_long_words=False, break_on_hyphens=False
    ).wrap
    for name, value in facts:
        first, *more = wrap(printable(value)) or [""]
        _show_fact(name.ljust(width), first)
        for line in more:
            print(" " * width + line)


def _show_fact(name: str, value: str) -> None:
    if sys.stdout.isatty() and installed("rich"):
        from rich.console import Console
        from rich.text import Text

        style = "dim" if name.startswith(" ") else "bold"
        Console().print(Text(name, style).append(value, "default"), soft_wrap=True)
        return
    print(name + value)


def printable(text: str) -> str:
    """Escape characters that stdout cannot encode; paths may contain any."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def show_json(document: dict[str, Any]) -> None:
    """Print a document as JSON, the only output with --json."""
    print(json.dumps(document, indent=2))


def progress(task: str, *, quiet: bool = False) -> AbstractContextManager[Step]:
    """Count steps in a line on stderr if it is a terminal."""

    def status(done: int, total: int | None) -> str:
        return f"{task} {done}" if total is None else f"{task} {done}/{total}"

    return on_terminal(_bar(task), status_line(task, status), quiet=quiet)


def on_terminal(bar: Shown, line: Shown, *, quiet: bool) -> Shown:
    """A bar by rich, or a status line; nothing if `quiet` or stderr is not a terminal."""
    if quiet or not sys.stderr.isatty():
        return contextlib.nullcontext(lambda *step: None)
    return bar if installed("rich") else line


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Step]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Elapsed()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextlib.contextmanager
def status_line(first: str, status: Callable[..., str]) -> Iterator[Callable[..., None]]:
    """A line on stderr that each step overwrites; the last status remains."""
    text, shown = first, 0.0
    print(text, end="", file=sys.stderr, flush=True)

    def show(*step: Any) -> None:
        nonlocal text, shown
        text = status(*step)
        if time.monotonic() - shown > 0.1:  # a terminal may be slower than a step
            print(f"\r{text}", end="", file=sys.stderr, flush=True)
            shown = time.monotonic()

    try:
        yield show
    finally:
        print(f"\r{text}", file=sys.stderr)
