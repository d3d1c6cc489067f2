"""Bar charts of times: one panel per shape, each with a scale of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastxent.bench.peers import PEERS
from fastxent.bench.record import Row, duration

# From the colours of Okabe and Ito, which colour-blind readers can distinguish.
OURS, SLOWER, FASTER, COPY = "#d55e00", "#a6d8f0", "#0072b2", "#bbbbbb"
_MEANINGS = {
    OURS: "fastxent", SLOWER: "slower than fastxent", COPY: "a copy of the logits",
    FASTER: "faster than fastxent",
}  # fmt: skip
WIDTH, DPI = 6.4, 130  # inches, 832 pixels: 11 points are 8.6 pixels of the 360 on a phone
COLUMN_WIDTH = 5.2  # of a single column, whose text is larger on a phone
FONT = {"font.size": 11}
_MARGIN = 1.35  # of the longest bar, for the time beside it


class Panel(NamedTuple):
    """The seconds of each peer in one heat."""

    title: str
    seconds: dict[str, float]


def draw(rows: list[Row], path: Path) -> None:
    """Draw heats of `cross_entropy`, one panel per shape; the file's suffix sets the format."""
    heats: dict[str, dict[str, float]] = {}
    for row in rows:
        if "median" in row:
            title = f"{row['rows']} × {row['classes']} {row['dtype']}"
            heats.setdefault(title, {})[row["peer"]] = row["median"]
    save(bars([Panel(*heat) for heat in heats.items()], min(len(heats), 2)), path)


def bars(panels: Sequence[Panel], columns: int = 2) -> Any:
    """A figure of panels; those of a line share the names of their peers, in the given order."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    lines = [panels[k : k + columns] for k in range(0, len(panels), columns)]
    names = [list(dict.fromkeys(name for p in line for name in p.seconds)) for line in lines]
    heights = [0.7 + 0.27 * len(shown) for shown in names]
    width = WIDTH if columns > 1 else COLUMN_WIDTH
    with matplotlib.rc_context(FONT):
        figure = Figure((width, sum(heights) + 0.9), layout="constrained")
        axes = figure.subplots(
            len(lines), columns, squeeze=False, sharey="row",
            gridspec_kw={"height_ratios": heights},
        )  # fmt: skip
        for line, shown, of_line in zip(lines, names, axes, strict=True):
            for panel, axis in zip(line, of_line, strict=False):
                _bars(axis, panel, shown[::-1])
            for axis in of_line[len(line) :]:
                axis.set_axis_off()
        figure.supxlabel("time of a call (shorter is better)", fontsize="medium")
        used = {_colour(name, panel.seconds) for panel in panels for name in panel.seconds}
        if used - {OURS, SLOWER}:  # other colours need an explanation
            figure.legend(
                handles=[Patch(color=c, label=text) for c, text in _MEANINGS.items() if c in used],
                loc="outside upper center", ncols=2, frameon=False,
            )  # fmt: skip
    return figure


def save(figure: Any, path: Path) -> None:
    """Write a figure; the file's suffix sets the format."""
    figure.savefig(path, dpi=DPI)


def _bars(axis: Any, panel: Panel, shown: list[str]) -> None:
    seconds = panel.seconds
    heights = [shown.index(name) for name in seconds]
    colours = [_colour(name, seconds) for name in seconds]
    axis.barh(heights, list(seconds.values()), color=colours)
    for height, value in zip(heights, seconds.values(), strict=True):
        axis.text(value, height, f" {duration(value, 'µ')}", va="center")
    axis.set_title(panel.title, fontsize="medium", fontweight="bold", loc="left")
    axis.set_xlim(0, _MARGIN * max(seconds.values()))
    axis.set_xticks([])
    axis.set_yticks(range(len(shown)), [PEERS[name].name for name in shown])
    axis.tick_params(length=0)
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def _colour(name: str, seconds: dict[str, float]) -> str:
    if name == "copy":
        return COPY
    if name.startswith("fastxent"):
        return OURS
    ours = next((value for peer, value in seconds.items() if peer.startswith("fastxent")), 0.0)
    return FASTER if seconds[name] < ours else SLOWER
