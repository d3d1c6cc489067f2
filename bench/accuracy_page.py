"""Write the charts and tables of docs/accuracy.md, and the table of docs/index.md.

`python bench/accuracy_page.py bench/results/accuracy/NAME.json`
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markdown_tables import insert, table
from matplotlib.figure import Figure

from fastxent.bench import record

# Colours of Okabe and Ito, with a marker and a line style for readers without colour vision.
STYLES: dict[str, dict[str, Any]] = {
    "PyTorch": {"color": "#cc79a7", "marker": "s", "linestyle": "--", "markersize": 7},
    "JAX": {"color": "#009e73", "marker": "D", "linestyle": "-.", "markersize": 5.5},
    "SciPy": {"color": "#0072b2", "marker": "^", "linestyle": ":", "markersize": 5.5},
    "scikit-learn": {"color": "#555555", "marker": "x", "linestyle": "--", "markersize": 6},
    "fastxent": {"color": "#d55e00", "marker": "o", "linestyle": "-", "markersize": 4},
}
LIBRARIES = ["fastxent", "PyTorch", "JAX", "SciPy", "scikit-learn"]
TYPES, PARTS = ("float32", "float64"), ("loss", "gradient")


class Experiment(NamedTuple):
    """The label of an experiment's axis, and the points in its table."""

    axis: str
    shown: list[float]


EXPERIMENTS = {
    "spread": Experiment("standard deviation of the logits", [1, 10, 100]),
    "offset": Experiment("offset that a row's logits share", [0, 1e3, 1e7]),
    "confident": Experiment("1 - p of the label", [1e-3, 1e-7, 1e-30]),
    "binary": Experiment("1 - p of the label", [1e-3, 1e-7, 1e-30]),
}


def errors(run: dict[str, Any], **fields: Any) -> dict[float, record.Row]:
    """The rows with these values (experiment, type, library), by point."""
    return {row["at"]: row for row in run["results"] if fields.items() <= row.items()}


def chart(run: dict[str, Any], experiment: str) -> Figure:
    """Errors over an experiment's points: loss above, gradient below, one column per type."""
    figure = Figure((8, 6.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="col")
    for (line, column), axis in np.ndenumerate(panels):
        panel(axis, run, experiment, TYPES[column], PARTS[line])
    for axis in panels[1]:
        axis.set_xlabel(EXPERIMENTS[experiment].axis, fontsize=9)
    figure.supylabel("worst relative error of 1000 rows", fontsize=9)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        [handles[names.index(library)] for library in LIBRARIES], LIBRARIES,
        loc="outside upper center", ncols=5, frameon=False, fontsize=9,
    )  # fmt: skip
    return figure


def panel(axis: Any, run: dict[str, Any], experiment: str, dtype: str, part: str) -> None:
    """One line per library; an error of 0 is drawn at ulp/8, an infinite one at 300 %."""
    ulp = float(np.finfo(dtype).eps)
    for library, style in STYLES.items():
        rows = errors(run, experiment=experiment, dtype=dtype, library=library)
        # On the logarithmic axis an offset of 0 is drawn at 1.
        places = [at or 1 for at in rows]
        heights = [min(max(row[part], ulp / 8), 3.0) for row in rows.values()]
        axis.plot(places, heights, label=library, linewidth=1.4, **style)
    top = 1e4 * ulp if experiment == "spread" else 30  # a spread loses no digits
    axis.set(xscale="log", yscale="log", ylim=(ulp / 16, top))
    if experiment == "offset":
        axis.set_xticks([1, 10, 1e3, 1e5, 1e7], ["0", "10", "1e3", "1e5", "1e7"])
    elif EXPERIMENTS[experiment].axis.startswith("1 - p"):
        axis.set_xlim(1e-2, 1e-31)
        axis.set_xticks([1e-3, 1e-9, 1e-15, 1e-21, 1e-27])
    right = axis.get_yaxis_transform()
    for height, label in ((1, "100 %: no digit is right"), (ulp, "1 ulp")):
        if height < top:
            axis.axhline(height, color="black", linewidth=0.8, linestyle=(0, (1, 2)))
            place = 3 if height == 1 else height / 2.5
            axis.text(0.98, place, label, fontsize=8, ha="right", transform=right,
                      va="bottom" if height == 1 else "top")  # fmt: skip
    axis.set_title(f"{part}, {dtype}", fontsize=10)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def written(error: float) -> str:
    """An error as text."""
    if error == float("inf"):
        return "∞ or nan"
    return f"{error:.1e}" if error < 1e-3 else f"{error:.2g}" if error < 0.01 else f"{error:.0%}"


def marked(error: float, ours: float) -> str:
    """An error, bold if it is smaller than ours."""
    return f"**{written(error)}**" if error < ours else written(error)


def errors_side_by_side(run: dict[str, Any], experiment: str) -> str:
    """The table of an experiment: one line per type, part and point."""
    axis, shown = EXPERIMENTS[experiment]
    lines = []
    for dtype in TYPES:
        for part in PARTS:
            for at in shown:
                row = {
                    library: errors(run, experiment=experiment, dtype=dtype, library=library)[at][
                        part
                    ]
                    for library in LIBRARIES
                }
                cells = (marked(error, row["fastxent"]) for error in row.values())
                lines.append((f"{dtype}, {part}, {at:g}", *cells))
    return table((axis, *LIBRARIES), lines)


# The experiments on the landing page, in float32, each at one point.
SUMMARY = {
    "ordinary rows": ("spread", 1),
    "offset of 1e7": ("offset", 1e7),
    "confident rows, label's probability 1 − 1e-7": ("confident", 1e-7),
    "confident rows, binary": ("binary", 1e-7),
}


def summary(run: dict[str, Any]) -> str:
    """One line per library: the larger error of loss and gradient."""
    worst = {
        (library, name): max(
            errors(run, experiment=experiment, dtype="float32", library=library)[at][part]
            for part in PARTS
        )
        for library in LIBRARIES
        for name, (experiment, at) in SUMMARY.items()
    }
    lines = [
        (library, *(marked(worst[library, name], worst["fastxent", name]) for name in SUMMARY))
        for library in LIBRARIES
    ]
    return table(("float32", *SUMMARY), lines)


def where(run: dict[str, Any]) -> str:
    """Date, versions and CPU of a run."""
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    cpu = f"{run['cpu']['model']} ({' '.join(run['cpu']['vectors'])})"
    return (
        f"{run['date'][:10]}, fastxent {run['fastxent']} ({(run['commit'] or '')[:7]}), "
        f"{versions}, Python {run['python']}, {cpu}.\n"
    )


def mark(name: str) -> str:
    """The comment that marks the beginning of a generated part of the page."""
    return f"<!-- {name}: written by bench/accuracy_page.py -->"


def draw(run: dict[str, Any], experiment: str, output: Path) -> None:
    """An experiment's chart, as img/accuracy-NAME.png."""
    path = output / "img" / f"accuracy-{experiment}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    chart(run, experiment).savefig(path, dpi=96, pil_kwargs={"optimize": True})


def fill(run: dict[str, Any], output: Path) -> None:
    """Fill the marked parts of accuracy.md and of the landing page."""
    page = output / "accuracy.md"
    for experiment in EXPERIMENTS:
        insert(page, errors_side_by_side(run, experiment), mark(experiment))
    insert(page, where(run), mark("where"))
    insert(output / "index.md", summary(run), mark("summary"))


def main() -> None:
    """Draw the charts and fill the marked parts of the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs"))
    args = parser.parse_args()
    run = record.load(args.result)
    for experiment in EXPERIMENTS:
        draw(run, experiment, args.output)
    fill(run, args.output)


if __name__ == "__main__":
    main()
