"""Write docs/benchmarks.md: `python bench/page.py bench/results/*.json`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import page_texts as texts
from heat_tables import (
    IN_PLACE_OF,
    described,
    heats_of,
    line_by_line,
    of_copy,
    option_by_option,
    side_by_side,
    where_slower,
)
from markdown_tables import against, insert, table, times
from results import Run, Spread, case_of, cases, load_all, number, one_number, ratio, spread

from fastxent.bench import record
from fastxent.bench.cases import GROUPS
from fastxent.bench.peers import PEERS

# Groups of other functions, layouts and types than the main table's.
OTHER = ("second", "layouts", "half", "categorical", "binary_few", "labels")
DRAWN = {"second", "layouts", "half"}  # in the chart of other features
BEST_OF = ["torch", "torch_compile", "jax", "sklearn"]
SIDES = ("rows", "classes", "dtype", "job", "logits", "target", "features")


def shape(case: dict[str, Any]) -> str:
    """Rows and classes as text."""
    return f"{case['rows']} × {case['classes']}"


def headline(runs: list[Run], dtype: str) -> str:
    """The table of the main job: the copy, NumPy, and the best of the compiled peers."""
    lines = []
    for case in cases(runs, "table", "rows", "classes", "dtype"):
        if case["dtype"] != dtype:
            continue
        ratios = {
            peer: spread(runs, ratio("table", {"peer": peer, **case}, {"peer": "fastxent", **case}))
            for peer in PEERS
        }
        best = min(
            (name for name in BEST_OF if ratios[name]),
            key=lambda name: ratios[name].median, default=None,
        )  # fmt: skip
        shares = (
            of_copy(runs, "table", peer=peer, **case) for peer in ("fastxent", "fastxent_out")
        )
        named = f"{against(ratios[best])} {PEERS[best].name}" if best else "–"
        lines.append(
            (shape(case), *shares, against(ratios["numpy_idiom"]),
             against(ratios["numpy_tuned"]), named)
        )  # fmt: skip
    header = (
        dtype, "of the copy's speed", "with grad_out", "× NumPy idiom", "× tuned NumPy",
        "× best of PyTorch, torch.compile, JAX, scikit-learn",
    )  # fmt: skip
    return table(header, lines)


def swept(runs: list[Run], group: str) -> str:
    """Ratios of each peer along a sweep."""
    peers = [side["peer"] for side in cases(runs, group, "peer")]
    others = [peer for peer in peers if peer not in ("copy", "fastxent", "fastxent_out")]
    lines = []
    for case in cases(runs, group, "rows", "classes"):
        ours = {"peer": "fastxent", **case}
        time = spread(runs, number("median", group, **ours))
        lines.append(
            (shape(case),
             record.duration(time.median, "µ") if time else "–",
             of_copy(runs, group, peer="fastxent_out", dtype="float32", **case),
             *(against(spread(runs, ratio(group, {"peer": p, **case}, ours))) for p in others))
        )  # fmt: skip
    header = (
        "float32",
        "fastxent",
        "of the copy (grad_out)",
        *(f"× {PEERS[peer].name}" for peer in others),
    )
    return table(header, lines)


# The names of what fastxent's functions in other libraries are used in place of.
IN_PLACE = {
    "fastxent_torch": "torch.nn", "fastxent_functional": "torch.nn.functional",
    "fastxent_jax": "JAX",
}  # fmt: skip
JOBS = {
    "forward": "loss, gradient kept", "cross_entropy": "loss and gradient", "loss": "loss alone",
}  # fmt: skip


def programs(runs: list[Run]) -> str:
    """Programs of PyTorch and JAX: times of fastxent, of their own loss, and on NumPy arrays."""
    lines = []
    for case in cases(runs, "programs", *SIDES):
        for mine, name in IN_PLACE.items():
            sides = [{"peer": peer, **case} for peer in (mine, IN_PLACE_OF[mine], "fastxent")]
            ours, own, plain = (spread(runs, number("median", "programs", **s)) for s in sides)
            if ours and own:
                lines.append(
                    (f"{name}, {JOBS[case['job']]}", shape(case),
                     record.duration(ours.median, "µ"), record.duration(own.median, "µ"),
                     against(spread(runs, ratio("programs", sides[1], sides[0]))),
                     record.duration(plain.median, "µ") if plain else "–")
                )  # fmt: skip
    header = ("float32", "(N, C)", "fastxent", "its own", "× fastxent", "fastxent on NumPy arrays")
    return table(header, lines)


def against_first(runs: list[Run], group: str, field: str, scale: Callable[[str], float]) -> str:
    """The speed of fastxent, grad_out, on a variant of a case over that on the first variant."""
    variants = [side[field] for side in cases(runs, group, field)]
    lines = []
    for case in cases(runs, group, "rows", "classes"):
        sides = [{"peer": "fastxent_out", field: variant, **case} for variant in variants]
        speeds = [spread(runs, ratio(group, sides[0], side)) for side in sides]
        lines.append(
            (shape(case),
             *(times(s and Spread(*(scale(v) * part for part in s)))
               for v, s in zip(variants, speeds, strict=True)))
        )  # fmt: skip
    return table(("float32, speed", *map(str, variants)), lines)


def threads(runs: list[Run]) -> str:
    """Speed of two threads over one, for fastxent and for a copy."""
    lines = []
    for case in cases(runs, "threads", "rows", "classes"):
        gains = []
        for peer in ("fastxent_out", "copy"):
            one, two = ({"peer": peer, "threads": n, **case} for n in (1, 2))
            gains.append(times(spread(runs, ratio("threads", one, two))))
        lines.append((shape(case), *gains))
    return table(("float32, speed of two threads over one", "fastxent", "copy"), lines)


def startup(runs: list[Run]) -> str:
    """First calls in fresh processes, as multiples of importing Numba."""
    lines = []
    for side in dict.fromkeys(side for run in runs for side in run["startup"]):
        timed = [run["startup"] for run in runs if side in run["startup"]]
        seconds = spread(timed, lambda sides, side=side: sides[side]["median"])
        value = spread(timed, lambda sides, side=side: over_numba(sides, side))
        lines.append((side, record.duration(seconds.median, "µ"), times(value)))
    return table(("in a fresh process", "time", "× import numba"), lines)


def over_numba(sides: dict[str, record.Row], side: str) -> float:
    """A time over that of importing Numba in the same round; some sides have fewer rounds."""
    rounds = len(sides[side]["seconds"])
    return record.ratio(sides[side], {"seconds": sides["import numba"]["seconds"][:rounds]})


def machine(run: Run) -> str:
    """Date, CPU, system and versions of a run, and its groups if these are not all."""
    cpu = run["cpu"]
    caches = ", ".join(f"{name} {size}" for name, size in cpu["caches"].items())
    versions = (f"{name} {version}" for name, version in run["versions"].items())
    commit = (run["commit"] or "no checkout")[:12] + ", changed" * run["dirty"]
    groups = [*dict.fromkeys(row["group"] for row in run["results"])]
    if run["startup"]:
        groups.append("startup")
    part = "" if len(groups) == len(GROUPS) + 1 else f"; groups {', '.join(groups)}"
    software = ", ".join([f"Python {run['python']}", *versions])
    return (
        f"- {run['date']}: {cpu['model']}, {cpu['cores']} cores, {' '.join(cpu['vectors'])}, "
        f"{caches}; {run['os'].partition('-')[0]}; {software}; "
        f"fastxent {run['fastxent']} ({commit}){part}"
    )


def notes(runs: list[Run]) -> str:
    """Peers that could not be timed, with the reason."""
    rows = [row for run in runs for row in run["results"] if "note" in row]
    lines = dict.fromkeys(
        f"- {PEERS[row['peer']].name}, {described(case_of(row))}: {row['note']}" for row in rows
    )
    return "\n".join(lines)


def picture(name: str, alternative: str) -> str:
    """A chart, by its path from docs/, and what it shows, for those who cannot see it."""
    return f"![{alternative}](img/{name}.png)\n\n"


SECTIONS: dict[str, Callable[[list[Run]], str]] = {
    "table": lambda runs: "\n".join(
        [*(headline(runs, dtype) for dtype in ("float32", "float64")),
         texts.TABLE + picture("table", "time of each implementation for six shapes")
         + side_by_side(runs, "table")]
    ),
    "loss": lambda runs: side_by_side(runs, "loss"),
    "classes": lambda runs: (
        picture("classes", "speed over the number of classes") + swept(runs, "classes")
    ),
    "rows": lambda runs: picture("rows", "speed over the number of rows") + swept(runs, "rows"),
    "threads": lambda runs: picture("threads", "speed of two threads over one") + threads(runs),
    "logits": lambda runs: texts.LOGITS + against_first(runs, "logits", "logits", lambda _: 1),
    "targets": lambda runs: (
        texts.TARGETS
        + against_first(runs, "targets", "target", lambda kind: 1 if kind == "index" else 1.5)
    ),
    "softmax": lambda runs: side_by_side(runs, "softmax"),
    "binary": lambda runs: side_by_side(runs, "binary"),
    "linear": lambda runs: side_by_side(runs, "linear"),
    "frozen": lambda runs: side_by_side(runs, "frozen"),
    "programs": lambda runs: texts.PROGRAMS + programs(runs),
    "options": lambda runs: texts.OPTIONS + option_by_option(runs),
    "one_row": lambda runs: side_by_side(runs, "one_row"),
    "layouts": lambda runs: texts.LAYOUTS + side_by_side(runs, "layouts"),
    "half": lambda runs: texts.HALF + side_by_side(runs, "half"),
    "categorical": lambda runs: texts.CATEGORICAL + side_by_side(runs, "categorical"),
    "binary_few": lambda runs: side_by_side(runs, "binary_few"),
    "second": lambda runs: texts.SECOND + side_by_side(runs, "second"),
    "labels": lambda runs: texts.LABELS + side_by_side(runs, "labels"),
}  # fmt: skip


def page(runs: list[Run]) -> str:
    """The whole page, without groups that no run has."""
    present = {row["group"] for run in runs for row in run["results"]}
    parts = [texts.INTRODUCTION, "## Method\n", texts.METHOD.format(threads=runs[0]["threads"])]
    sections = {
        name: f"## {GROUPS[name].title}\n\n{SECTIONS[name](runs)}"
        for name in GROUPS if name in present
    }  # fmt: skip
    if text := where_slower(runs):
        parts.append(f"## Where fastxent is slower\n\n{texts.SLOWER}{text}")
    parts += [text for name, text in sections.items() if name not in OTHER]
    if text := line_by_line(runs, heats_of(OTHER)):
        title = "## Second derivatives, layouts, types and other losses\n\n"
        chart = texts.FEATURES + picture("features", "time of the calls of other features")
        parts.append(f"{title}{chart * (DRAWN <= present)}{texts.IN_SHORT}\n{text}")
    parts += [text for name, text in sections.items() if name in OTHER]
    if any(run["startup"] for run in runs):
        parts.append(f"## Start-up\n\n{texts.STARTUP}{startup(runs)}")
    if text := notes(runs):
        parts.append(f"## Left out\n\n{text}\n")
    parts += ["## Machines\n", "\n".join(map(machine, runs)) + "\n"]
    parts.append(f"## Reproduce\n\n{texts.REPRODUCE}")
    return "\n".join(parts)


def measured(runs: list[Run]) -> str:
    """GB/s of the loss with gradient and of a copy, by the bytes that both must move."""
    lines = []
    for case in cases(runs, "table", "rows", "classes", "dtype"):
        if case["dtype"] == "float32":
            sides = [{"peer": peer, **case} for peer in ("fastxent_out", "copy", "numpy_idiom")]
            speeds = [spread(runs, number("gb_per_s", "table", **side)) for side in sides]
            lines.append((shape(case), *(f"{s.median:.1f}" if s else "–" for s in speeds)))
    header = ("float32, GB/s by the floor", "fastxent, grad_out", "copy", "NumPy idiom")
    run = next(run for run in runs if cases([run], "table", "peer"))
    return f"{table(header, lines)}\nOn {run['cpu']['model']}, {run['threads']} threads.\n"


SECOND_IN_BRIEF = [("hvp", 1000), ("entropy", 1000)]
IN_BRIEF = ["32 × 10", "65536 × 10", "16384 × 100", "8192 × 1000", "1024 × 32000"]


def readme(runs: list[Run]) -> str:
    """The tables of the README, without ranges: the main table, and other functions and layouts."""
    heats = [
        (group, heat) for group, heat in heats_of(OTHER)
        if group != "second" or (heat[0].case.job, heat[0].case.classes) in SECOND_IN_BRIEF
    ]  # fmt: skip
    other = line_by_line(runs, heats)
    return f"{brief(runs)}\n{texts.LOWEST}" + (f"\n{texts.IN_SHORT}\n{other}" if other else "")


def brief(runs: list[Run]) -> str:
    """Time of each implementation as a multiple of fastxent's, for a few shapes in float32."""
    shapes = {
        shape(case): case
        for case in cases(runs, "table", "rows", "classes", "dtype")
        if case["dtype"] == "float32" and shape(case) in IN_BRIEF
    }
    lines = []
    for side in cases(runs, "table", "peer"):
        if side["peer"] not in ("copy", "fastxent", "fastxent_out"):
            ratios = [
                spread(runs, ratio("table", side | case, {"peer": "fastxent", **case}))
                for case in shapes.values()
            ]
            lines.append((PEERS[side["peer"]].name, *map(against, map(one_number, ratios))))
    return table(("float32, rows × classes", *shapes), lines)


def main() -> None:
    """Write the page, and the tables of the README, docs/one-pass.md and docs/integrations.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="files of bench/run.py")
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks.md"), help="the page")
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    runs = load_all(args.results)
    args.output.write_text(page(runs))
    present = {row["group"] for run in runs for row in run["results"]}
    for beside, group, tables in (
        (args.output.with_name("one-pass.md"), "table", measured),
        (args.output.parent.with_name("README.md"), "table", readme),
        (args.output.with_name("integrations.md"), "programs", programs),
    ):
        if beside.exists() and group in present:
            insert(beside, tables(runs))


if __name__ == "__main__":
    main()
