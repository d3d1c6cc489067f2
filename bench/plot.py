"""Draw the charts of complete runs: `python bench/plot.py bench/results/*.json`."""

import argparse
from pathlib import Path
from typing import Any

import matplotlib
from heat_tables import fields_of, first_of_ours
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from results import Run, cases, load_all, number, one_number, ratio, spread

from fastxent.bench import chart
from fastxent.bench.cases import GROUPS, Case, Heat
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
SINGLE = Case(8192, 1000)  # in the README's chart
NOT_IN_SINGLE = ("copy", "fastxent_out")
# Heats beyond the loss of rows in float32: group, and position in the group.
FEATURES = {
    "Hessian-vector product": ("second", 0), "entropy and gradient": ("second", 2),
    "class axis 1": ("layouts", 0), "column-major": ("layouts", 1),
    "bfloat16": ("half", 0), "float16": ("half", 1),
}  # fmt: skip
LINE = 2.4  # height of a panel of lines or columns, in inches


# --- bars: times of the sides of a heat -----------------------------------------------------


def panel(runs: list[Run], group: str, heat: Heat, title: str) -> chart.Panel:
    """The times of a heat's sides that have the case of the first of fastxent's.

    Where the runs differ too much, fastxent gets its longest time and the others their shortest.
    """
    case = first_of_ours(heat).case
    seconds = {}
    for entry in heat:
        value = spread(runs, number("median", group, **fields_of(entry)))
        if value and entry.case == case:
            ours = entry.peer.startswith("fastxent")
            seconds[entry.peer] = one_number(value, "high" if ours else "low").median
    return chart.Panel(title, seconds)


def table(runs: list[Run]) -> list[chart.Panel]:
    """Loss and gradient in float32: a panel for each shape."""
    panels = []
    for heat in GROUPS["table"].heats:
        case = heat[0].case
        if case.dtype == "float32":
            panels.append(panel(runs, "table", heat, f"{case.rows} × {case.classes} float32"))
    return [part for part in panels if part.seconds]


def single(runs: list[Run]) -> list[chart.Panel]:
    """Loss and gradient of one shape, the fastest peer first."""
    heat = next(heat for heat in GROUPS["table"].heats if heat[0].case == SINGLE)
    title = f"loss and gradient in float32\n{SINGLE.rows} rows × {SINGLE.classes} classes"
    part = panel(runs, "table", heat, title)
    fastest = sorted(part.seconds, key=part.seconds.__getitem__)
    shown = {name: part.seconds[name] for name in fastest if name not in NOT_IN_SINGLE}
    return [part._replace(seconds=shown)] if shown else []


def features(runs: list[Run]) -> list[chart.Panel]:
    """Second derivatives, entropy, other layouts and types."""
    panels = []
    for title, (group, position) in FEATURES.items():
        heat = GROUPS[group].heats[position]
        case = first_of_ours(heat).case
        shape = case.shape if case.layout == "channels-first" else (case.rows, case.classes)
        panels.append(panel(runs, group, heat, f"{title}\n{' × '.join(map(str, shape))}"))
    return [part for part in panels if part.seconds]


# --- lines and columns ----------------------------------------------------------------------


def sweep(runs: list[Run], by: str, panels: dict[str, dict[str, Any]]) -> Figure:
    """Speed over rows or classes: a line for each peer, one panel above the other."""
    figure = Figure((chart.WIDTH, 1 + (LINE + 0.6) * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
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
                    markersize=5, linewidth=1.8, label=PEERS[peer].name,
                )  # fmt: skip
        axis.set(xscale="log", yscale="log", ylabel="GB/s (higher is better)")
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_title(title, fontsize="medium", fontweight="bold", loc="left")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel(by)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False)
    return figure


def threads(runs: list[Run]) -> Figure:
    """Speed of two threads over one, a pair of columns per shape."""
    figure = Figure((chart.WIDTH, LINE + 1), layout="constrained")
    axis = figure.subplots()
    shapes = cases(runs, "threads", "rows", "classes")
    for k, (peer, colour) in enumerate({"fastxent_out": chart.OURS, "copy": chart.COPY}.items()):
        for at, shape in enumerate(shapes):
            sides = ({"peer": peer, "threads": n, **shape} for n in (1, 2))
            if gain := spread(runs, ratio("threads", *sides)):
                label = PEERS[peer].name if not at else None
                axis.bar(at + 0.45 * k, gain.median, width=0.43, color=colour, label=label)
                axis.annotate(
                    f"{gain.median:.2f}", (at + 0.45 * k, gain.median), (0, 3),
                    textcoords="offset points", ha="center", fontsize="small",
                    bbox={"pad": 1, "color": "white"},
                )  # fmt: skip
    names = [f"{shape['rows']}\n× {shape['classes']}" for shape in shapes]
    axis.set_xticks([k + 0.22 for k in range(len(shapes))], names)
    axis.axhline(1, color="black", linewidth=0.8, zorder=0.5)
    axis.set_ylabel("two threads over one")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def charts(runs: list[Run]) -> dict[str, Figure]:
    """The charts of the groups that the runs have, by file name."""
    groups = {row["group"] for run in runs for row in run["results"]}
    panels = {"table": table(runs), "single": single(runs), "features": features(runs)}
    figures = {
        name: chart.bars(found, columns=min(len(found), 2))
        for name, found in panels.items() if found
    }  # fmt: skip
    if "classes" in groups:
        figures["classes"] = sweep(runs, "classes", {"four million logits, float32": {}})
    if "rows" in groups:
        titles = {f"{c} classes, float32": {"classes": c} for c in (10, 1000)}
        figures["rows"] = sweep(runs, "rows", titles)
    if "threads" in groups:
        figures["threads"] = threads(runs)
    return figures


def main() -> None:
    """Draw the charts into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="files of bench/run.py")
    parser.add_argument("--output", type=Path, default=Path("docs/img"), help="a folder")
    parser.add_argument("--format", default="png", choices=["png", "svg"])
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(chart.FONT):
        for name, figure in charts(load_all(args.results)).items():
            chart.save(figure, args.output / f"{name}.{args.format}")


if __name__ == "__main__":
    main()
