"""Markdown tables: their numbers as text, and their insertion into pages."""

from collections.abc import Sequence
from pathlib import Path

from results import Spread

BEGIN, END = "<!-- measured: written by bench/page.py -->", "<!-- end -->"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, names left-aligned and numbers right-aligned."""
    rule = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines)) + "\n"


def against(value: Spread | None) -> str:
    """A ratio to a peer with its range, bold if fastxent is slower."""
    text = times(value)
    return f"**{text}**" if value and value.median < 1 else text


def times(value: Spread | None) -> str:
    """A ratio with its range."""
    if value is None:
        return "–"
    text = f"{value.median:.2f}"
    return text if value.low == value.high else f"{text} ({value.low:.2f}–{value.high:.2f})"


def percent(value: Spread | None) -> str:
    """A share with its range."""
    if value is None:
        return "–"
    text = f"{value.median:.0%}"
    return text if value.low == value.high else f"{text} ({value.low:.0%}–{value.high:.0%})"


def insert(path: Path, text: str, begin: str = BEGIN) -> None:
    """Replace the text between the marks of a page."""
    before, _, rest = path.read_text().partition(begin)
    _, _, after = rest.partition(END)
    path.write_text("".join((before, begin, "\n", text, END, after)))
