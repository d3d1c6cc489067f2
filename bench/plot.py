"""Charts of complete runs: `python bench/plot.py bench/results/*.json --output docs/img`."""

import argparse
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from results import Run, cases, load_all, number, ratio, spread

from fastxent.bench import chart, record
from fastxent.bench.peers import PEERS

# Colours of Okabe and Ito, with a marker for readers without colour vision.
STYLES = {
    "copy": ("#000000", ":", ""),
    "fastxent_out": ("#d55e00", "-", "o"),
    "fastxent": ("#e69f00", "-", "s"),
    "jax": ("#009e73", "--", "D"),
    "torch_compile": ("#0072b2", "--", "^"),
    "numpy_tuned": ("#cc79a7", "--", "v"),
}


def sweep(runs: list[Run], by: str, panels: dict[str, dict[str, Any]]) -> Figure:
    """Speed over rows or classes, one line per peer."""
    figure = Figure((3 + 4 * len(panels), 3.8), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, fixed) in zip(axes, panels.items(), strict=True):
        for peer, (colour, line, marker) in STYLES.items():
            points = [
                (case[by], speed.median)
                for case in cases(runs, by, "rows", "classes")
                if fixed.items() <= case.items()
                and (speed := spread(runs, number("gb_per_s", by, peer=peer, **case)))
            ]
            if points:
                axis.plot(
                    *zip(*points, strict=True), color=colour, linestyle=line, marker=marker,
                    markersize=4, linewidth=1.5, label=PEERS[peer].name,
                )  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel=by)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("GB/s (higher is better)")
    axes[-1].legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def threads(runs: list[Run]) -> Figure:
    """Speed of two threads over one, a pair of bars per shape."""
    figure = Figure((8, 3), layout="constrained")
    axis = figure.subplots()
    shapes = cases(runs, "threads", "rows", "classes")
    for k, (peer, colour) in enumerate({"fastxent_out": chart.OURS, "copy": "#aaaaaa"}.items()):
        for at, shape in enumerate(shapes):
            sides = ({"peer": peer, "threads": n, **shape} for n in (1, 2))
            if gain := spread(runs, ratio("threads", *sides)):
                label = PEERS[peer].name if not at else None
                axis.bar(at + 0.4 * k, gain.median, width=0.38, color=colour, label=label)
                axis.text(at + 0.4 * k, gain.median, f"{gain.median:.2f}", ha="center",
                          va="bottom", fontsize=8)  # fmt: skip
    names = [f"{shape['rows']}\n× {shape['classes']}" for shape in shapes]
    axis.set_xticks([k + 0.2 for k in range(len(shapes))], names, fontsize=9)
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set_ylabel("two threads over one")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def table(runs: list[Run]) -> list[record.Row]:
    """Shares of the copy in float32, each the median of the runs."""
    return [
        {"peer": peer, **case, "share_of_copy": share.median}
        for case in cases(runs, "table", "rows", "classes", "dtype")
        for peer in PEERS
        if case["dtype"] == "float32"
        and (share := spread(runs, number("share_of_copy", "table", peer=peer, **case)))
    ]


def main() -> None:
    """Draw the groups that the runs have."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=Path("docs/img"))
    parser.add_argument("--format", default="png", choices=["png", "svg"])
    args = parser.parse_args()
    runs = load_all(args.results)
    args.output.mkdir(parents=True, exist_ok=True)

    def place(name: str) -> Path:
        return Path(args.output) / f"{name}.{args.format}"

    def save(figure: Figure, name: str) -> None:
        figure.savefig(place(name), dpi=110)

    groups = {row["group"] for run in runs for row in run["results"]}
    if "table" in groups:
        chart.draw(table(runs), place("table"))
    if "classes" in groups:
        save(sweep(runs, "classes", {"four million logits, float32": {}}), "classes")
    if "rows" in groups:
        panels = {f"{c} classes, float32": {"classes": c} for c in (10, 1000)}
        save(sweep(runs, "rows", panels), "rows")
    if "threads" in groups:
        save(threads(runs), "threads")


if __name__ == "__main__":
    main()
