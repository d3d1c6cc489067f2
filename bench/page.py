"""Write docs/benchmarks.md: `python bench/page.py bench/results/*.json`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from heat_tables import described, line_by_line, option_by_option, side_by_side
from markdown_tables import against, insert, percent, table, times
from results import Run, Spread, case_of, cases, load_all, middle, number, ratio, spread

from fastxent.bench import record
from fastxent.bench.cases import GROUPS
from fastxent.bench.peers import PEERS
from fastxent.cli.bench import duration

OTHER = ("layouts", "half", "categorical", "binary_few", "labels")  # than those of the main table
BEST_OF = ["torch", "torch_compile", "jax", "sklearn"]
SIDES = ("rows", "classes", "dtype", "job", "logits", "target", "features")

METHOD = """\
Every peer runs in a process of its own with {threads} threads, NumPy's loops with the one they
have. Before it is timed, its answer is compared with `fastxent.reference` in float64. Then all
take turns: in each round each calls its function in a loop of a tenth of a second (a twentieth in
the sweeps), and the round's number is the median call. A ratio is the median over rounds of the
ratio within a round. "Copy" is `numpy.copyto` of the logits into a ready buffer, shared out among
the threads: it moves the bytes that a loss with gradient cannot avoid, `2·N·C·itemsize`, and does
nothing else. (Small arrays are copied faster by one thread: see "One thread and two".) "fastxent"
makes a fresh gradient, as the peers do; "grad_out" writes into a ready one. Logits are normal with
a standard deviation of 3, labels random.

With several runs, a number is the median of the runs and their range stands beside it: of those of
the day and the CPU on which a section was measured last ("Where" says what). **Bold**
is a loss: below 1, fastxent is the slower one.
"""

IN_SHORT = """\
Time as a multiple of fastxent's with a new result, in the layout and types of the line; of
categorical_cross_entropy for the loss alone.
"""

OPTIONS = """\
Loss and gradient. "fastxent" is its time, "× plain" that time over the plain call's, which takes
turns with it. The other columns are ratios of times, a peer's over that of fastxent on NumPy
arrays; torch.nn's over that of fastxent's module in its place. The binary losses are of 320
elements, `categorical_cross_entropy` of probabilities of the same shape. Weights are random arrays.
PyTorch refuses int32 labels. The labels of JAX are int32 in every line.

"""

STARTUP = """\
Each line is a fresh process, whose imports count too. With an empty cache, as after an
installation, kernels are compiled. A first call in JAX is that of a jitted loss with its gradient.
A warm-up is timed once in a run, the others in three rounds.

"""

LAYOUTS = """\
Segmentation has its classes on axis 1, before the pixels; some libraries hand over column-major
arrays. "rows" is fastxent on the same numbers with the classes last and contiguous: that they were
moved there is not timed. A new gradient is C-contiguous, "grad_out" is laid out as the logits. JAX
copies a column-major array into rows once, when it takes it, which is not timed either.

"""

HALF = """\
The first two are forward and backward on PyTorch's tensors (JAX: its arrays), the third is of NumPy
arrays. fastxent computes in float32 and rounds the results; the gradient of a float16 tensor is
made in `backward`, where a loss scale is applied before it is rounded. The NumPy idiom is in
float32 too, with a conversion before and after: in float16 p below 6e-8 is 0, and the loss
infinite.

"""

CATEGORICAL = """\
PyTorch and scikit-learn's `log_loss` take the logarithm of all probabilities, the others only of
those of the labels; `log_loss` also checks the rows' sums.

"""

SECOND = """\
A product is taken with a random vector, the forward pass included: PyTorch's by
`torch.autograd.functional.hvp`, JAX's by `jax.jvp` of `jax.grad` under `jit`. The share of a copy
is that of reading logits and vector and writing the product. Gradients of each row are
`torch.func.vmap` of `torch.func.grad`, beside the losses and gradients of all rows in one call. The
last two heats are cross_entropy with and without the entropy beside it: loss and gradient, and the
loss alone.

"""

LABELS = """\
fastxent on int64 labels, and on the same labels in shorter types.

"""

RERUN = """\
```sh
pip install -e '.[bench,peers]'
python bench/run.py --output bench/results/<name>.json       # on an idle machine
python bench/plot.py bench/results/*.json
python bench/page.py bench/results/*.json
```

`bench/run.py --groups startup warmup` also times the compilation of every kernel, for minutes.
`python -m fastxent bench` is the short version.
"""


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
        share = spread(runs, number("share_of_copy", "table", peer="fastxent_out", **case))
        named = f"{against(ratios[best])} {PEERS[best].name}" if best else "–"
        lines.append(
            (shape(case), percent(share), against(ratios["numpy_idiom"]),
             against(ratios["numpy_tuned"]), named)
        )  # fmt: skip
    header = (
        dtype, "of the copy's speed (grad_out)", "× NumPy idiom", "× tuned NumPy",
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
        lines.append(
            (shape(case),
             percent(spread(runs, number("share_of_copy", group, peer="fastxent_out", **case))),
             *(against(spread(runs, ratio(group, {"peer": p, **case}, ours))) for p in others))
        )  # fmt: skip
    header = ("float32", "of the copy (grad_out)", *(f"× {PEERS[peer].name}" for peer in others))
    return table(header, lines)


PAIRS = {"fastxent_torch": "torch_module", "fastxent_jax": "jax"}
JOBS = {
    "forward": "loss, gradient kept", "cross_entropy": "loss and gradient", "loss": "loss alone",
}  # fmt: skip


def programs(runs: list[Run]) -> str:
    """Programs of other libraries: times of fastxent, of their own loss, and of NumPy arrays."""
    lines = []
    for case in cases(runs, "programs", *SIDES):
        for mine, theirs in PAIRS.items():
            sides = [{"peer": peer, **case} for peer in (mine, theirs, "fastxent")]
            ours, own, plain = (spread(runs, number("median", "programs", **s)) for s in sides)
            if ours and own:
                lines.append(
                    (f"{PEERS[theirs].name}, {JOBS[case['job']]}", shape(case),
                     duration(ours.median), duration(own.median),
                     against(spread(runs, ratio("programs", sides[1], sides[0]))),
                     duration(plain.median) if plain else "–")
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
        lines.append((side, duration(seconds.median), times(value)))
    return table(("in a fresh process", "time", "× import numba"), lines)


def over_numba(sides: dict[str, record.Row], side: str) -> float:
    """A time over that of importing Numba in the same round; some sides have fewer rounds."""
    rounds = len(sides[side]["seconds"])
    return record.ratio(sides[side], {"seconds": sides["import numba"]["seconds"][:rounds]})


def machine(run: Run) -> str:
    """Date, CPU, system and versions of a run, and its groups if these are not all."""
    cpu = run["cpu"]
    caches = ", ".join(f"{name} {size}" for name, size in cpu["caches"].items())
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    commit = (run["commit"] or "no checkout")[:12] + ", changed" * run["dirty"]
    groups = [*dict.fromkeys(row["group"] for row in run["results"])]
    if run["startup"]:
        groups.append("startup")
    part = "" if len(groups) == len(GROUPS) + 1 else f"; groups {', '.join(groups)}"
    return (
        f"- {run['date']}: {cpu['model']}, {cpu['cores']} cores, {' '.join(cpu['vectors'])}, "
        f"{caches}; {run['os'].partition('-')[0]}; Python {run['python']}, {versions}; "
        f"fastxent {run['fastxent']} ({commit}){part}"
    )


def notes(runs: list[Run]) -> str:
    """Peers that could not be timed, with the reason."""
    rows = [row for run in runs for row in run["results"] if "note" in row]
    lines = dict.fromkeys(
        f"- {PEERS[row['peer']].name}, {described(case_of(row))}: {row['note']}" for row in rows
    )
    return "\n".join(lines)


def picture(name: str) -> str:
    """A chart, by its path from docs/."""
    return f"![{name}](img/{name}.png)\n\n"


SECTIONS: dict[str, Callable[[list[Run]], str]] = {
    "table": lambda runs: "\n".join(
        [*(headline(runs, dtype) for dtype in ("float32", "float64")), picture("table"),
         "All peers. Extra MB is what the process holds at a call's peak beyond its answer.\n",
         side_by_side(runs, "table")]
    ),
    "loss": lambda runs: side_by_side(runs, "loss"),
    "classes": lambda runs: picture("classes") + swept(runs, "classes"),
    "rows": lambda runs: picture("rows") + swept(runs, "rows"),
    "threads": lambda runs: picture("threads") + threads(runs),
    "logits": lambda runs: against_first(runs, "logits", "logits", lambda _: 1),
    "targets": lambda runs: (
        "Speed per byte that must move: half as many again with probabilities.\n\n"
        + against_first(runs, "targets", "target", lambda kind: 1 if kind == "index" else 1.5)
    ),
    "softmax": lambda runs: side_by_side(runs, "softmax"),
    "binary": lambda runs: side_by_side(runs, "binary"),
    "linear": lambda runs: side_by_side(runs, "linear"),
    "frozen": lambda runs: side_by_side(runs, "frozen"),
    "programs": lambda runs: programs(runs),
    "options": lambda runs: OPTIONS + option_by_option(runs),
    "one_row": lambda runs: side_by_side(runs, "one_row"),
    "layouts": lambda runs: LAYOUTS + side_by_side(runs, "layouts"),
    "half": lambda runs: HALF + side_by_side(runs, "half"),
    "categorical": lambda runs: CATEGORICAL + side_by_side(runs, "categorical"),
    "binary_few": lambda runs: side_by_side(runs, "binary_few"),
    "second": lambda runs: SECOND + side_by_side(runs, "second"),
    "labels": lambda runs: LABELS + side_by_side(runs, "labels"),
}  # fmt: skip


def page(runs: list[Run]) -> str:
    """The whole page, without groups that no run has."""
    present = {row["group"] for run in runs for row in run["results"]}
    parts = ["# Benchmarks\n\nWritten by `bench/page.py` from `bench/results`.\n"]
    parts += ["## How\n", METHOD.format(threads=runs[0]["threads"])]
    sections = {
        name: f"## {GROUPS[name].title}\n\n{SECTIONS[name](runs)}"
        for name in GROUPS if name in present
    }  # fmt: skip
    parts += [text for name, text in sections.items() if name not in OTHER]
    if text := line_by_line(runs, OTHER):
        parts.append(f"## Other layouts, types and losses\n\n{IN_SHORT}\n{text}")
    parts += [text for name, text in sections.items() if name in OTHER]
    if any(run["startup"] for run in runs):
        parts.append(f"## Start-up\n\n{STARTUP}{startup(runs)}")
    if text := notes(runs):
        parts.append(f"## Left out\n\n{text}\n")
    parts += ["## Where\n", "\n".join(map(machine, runs)) + "\n", f"## Again\n\n{RERUN}"]
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
    return f"{table(header, lines)}\nOn {runs[0]['cpu']['model']}, {runs[0]['threads']} threads.\n"


IN_BRIEF = ["32 × 10", "65536 × 10", "16384 × 100", "8192 × 1000", "1024 × 32000"]


def brief(runs: list[Run]) -> str:
    """The README's table: time of each peer as a multiple of fastxent's."""
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
            lines.append((PEERS[side["peer"]].name, *map(against, map(middle, ratios))))
    return table(("float32, rows × classes", *shapes), lines)


def main() -> None:
    """Write the page, and the figures of the README, docs/one-pass.md and docs/integrations.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks.md"))
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    runs = load_all(args.results)
    args.output.write_text(page(runs))
    raced = {row["group"] for run in runs for row in run["results"]}
    beside = args.output.with_name("one-pass.md")
    if beside.exists() and "table" in raced:
        insert(beside, measured(runs))
    beside = args.output.parent.with_name("README.md")
    if beside.exists() and "table" in raced:
        other = line_by_line(runs, OTHER)
        insert(beside, brief(runs) + (f"\n{IN_SHORT}\n{other}" if other else ""))
    beside = args.output.with_name("integrations.md")
    if beside.exists() and "programs" in raced:
        insert(beside, programs(runs))


if __name__ == "__main__":
    main()
