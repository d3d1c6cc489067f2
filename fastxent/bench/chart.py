"""Chart of one record: the speed of each peer relative to a copy, one panel per shape."""

from pathlib import Path
from typing import Any

from fastxent.bench.peers import PEERS
from fastxent.bench.record import Row

# From the colours of Okabe and Ito, which colour-blind readers can distinguish.
OURS, SLOWER, FASTER = "#d55e00", "#a6d8f0", "#0072b2"


def draw(rows: list[Row], path: Path) -> None:
    """Draw heats of `cross_entropy`; the file's suffix sets the format."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    timed = [row for row in rows if "share_of_copy" in row and row["peer"] != "copy"]
    peers = [name for name in PEERS if any(row["peer"] == name for row in timed)][::-1]
    shapes = list(dict.fromkeys((row["rows"], row["classes"], row["dtype"]) for row in timed))
    columns = min(len(shapes), 3)
    lines = -(-len(shapes) // columns)
    figure = Figure((2 + 3 * columns, (1 + 0.27 * len(peers)) * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, shape in zip(panels, shapes, strict=False):
        heat = [row for row in timed if (row["rows"], row["classes"], row["dtype"]) == shape]
        _bars(panel, {row["peer"]: row["share_of_copy"] for row in heat}, peers)
        panel.set_title(f"{shape[0]} rows × {shape[1]} classes, {shape[2]}", fontsize=10)
    for panel in panels[len(shapes) :]:
        panel.set_axis_off()
    figure.supxlabel("speed relative to a plain copy of the logits", fontsize=10)
    names = {"fastxent": OURS, "slower than fastxent": SLOWER, "faster than fastxent": FASTER}
    handles = [Patch(color=colour, label=name) for name, colour in names.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


def _bars(panel: Any, speeds: dict[str, float], peers: list[str]) -> None:
    heights = [peers.index(name) for name in speeds]
    bar = speeds.get("fastxent", 0)
    colours = [
        OURS if name.startswith("fastxent") else FASTER if speed > bar else SLOWER
        for name, speed in speeds.items()
    ]
    panel.barh(heights, list(speeds.values()), color=colours)
    for height, speed in zip(heights, speeds.values(), strict=True):
        label = f" {speed:.{0 if speed >= 0.1 else 1}%}"
        # Limited to 1: a small copy is slow, and the ratio may be far above 1.
        panel.text(min(speed, 1), height, label, va="center", fontsize=8)
    panel.set_yticks(range(len(peers)), [PEERS[name].name for name in peers], fontsize=9)
    panel.set_xlim(0, 1.2)
    panel.axvline(1, color="#999999", linewidth=0.8)
    panel.spines[["top", "right"]].set_visible(False)
