"""Tables of results: one table for each heat of a group, or one line for each heat."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from markdown_tables import against, percent, table, times
from results import Run, number, one_number, ratio, spread, timed

from fastxent.bench import inputs, record
from fastxent.bench.cases import GROUPS, ITEM_BYTES, PLAIN, Case, Entry, Heat
from fastxent.bench.peers import PEERS

LAYOUTS = {"rows": "", "channels-first": ", class axis 1", "column-major": ", column-major"}

JOBS = {
    "hvp": "Hessian-vector product", "entropy": "entropy and gradient",
    "per_sample": "per-sample gradients", "binary": "binary cross-entropy",
    "categorical": "categorical cross-entropy, loss alone",
}  # fmt: skip


def described(case: Case) -> str:
    """Job, shape, type, layout and options of a case."""
    shape = case.shape if case.layout == "channels-first" else (case.rows, case.classes)
    job = JOBS.get(case.job, case.job)
    if "return_grad" in case.options:
        job = job.removesuffix(", loss alone")
    head = f"{job} {' × '.join(map(str, shape))} {case.dtype}{LAYOUTS[case.layout]}"
    return ", ".join([head, *options(case)])


def options(case: Case) -> list[str]:
    """The options of a case as they are written in a call, without the values of arrays."""
    return [
        f'{name}="{value}"' if isinstance(value, str)
        else name if isinstance(value, np.ndarray) else f"{name}={value}"
        for name, value in inputs.options(case).items()
    ]  # fmt: skip


def side_by_side(runs: list[Run], group: str) -> str:
    """One table per heat: time, ratio, speed and memory of each side."""
    parts = []
    for heat in GROUPS[group].heats:
        ours = first_of_ours(heat)
        lines = []
        for entry in heat:
            row = fields_of(entry)
            median = spread(runs, number("median", group, **row))
            if median is None:
                continue
            speed = spread(runs, number("gb_per_s", group, **row))
            extra = spread(runs, number("extra_mb", group, **row))
            lines.append(
                (_name(entry, ours), record.duration(median.median, "µ"),
                 (against if _is_rival(entry.peer) else times)(
                     spread(runs, ratio(group, row, fields_of(ours)))),
                 f"{speed.median:.1f}" if speed else "–",
                 of_copy(runs, group, **row),
                 f"{extra.median:.1f}" if extra else "–")
            )  # fmt: skip
        if lines:
            head = described(ours.case)
            header = (head, "time", "× fastxent", "GB/s", "of the copy", "extra MB")
            parts.append(table(header, lines))
    return "\n".join(parts)


SMALLEST_COPY = 1_000_000  # bytes: of less, most of the time is the start of a second thread


def of_copy(runs: list[Run], group: str, **fields: Any) -> str:
    """The speed of a side as a share of a copy's; "–" for small arrays."""
    size = fields["rows"] * fields["classes"] * ITEM_BYTES[fields["dtype"]]
    if size < SMALLEST_COPY:
        return "–"
    return percent(spread(runs, number("share_of_copy", group, **fields)))


# Peers that a function of fastxent is used in place of, inside programs of their libraries.
IN_PLACE_OF = {
    "fastxent_torch": "torch_module", "fastxent_functional": "torch", "fastxent_jax": "jax",
}  # fmt: skip


def where_slower(runs: list[Run]) -> str:
    """One line per side of any heat that takes less time than fastxent; "" if there is none."""
    lines = []
    for group, heat in heats_of(GROUPS):
        for entry in filter(lambda entry: _is_rival(entry.peer), heat):
            ours = _counterpart(entry, heat)
            value = spread(runs, ratio(group, fields_of(entry), fields_of(ours)))
            if value and value.median < 1:
                case = described(entry.case).replace("cross_entropy", "loss and gradient", 1)
                title = GROUPS[group].title
                lines.append((title, case, PEERS[entry.peer].name, against(value)))
    return table(("section", "case", "implementation", "× fastxent"), lines) if lines else ""


def _counterpart(entry: Entry, heat: Heat) -> Entry:
    """The side of fastxent on the same case; in a library's programs the one in its place."""
    sides = [side for side in heat if side.case == entry.case and side.peer.startswith("fastxent")]
    in_place = [side for side in sides if IN_PLACE_OF.get(side.peer) == entry.peer]
    return (in_place or sides)[0]


def heats_of(groups: Iterable[str]) -> list[tuple[str, Heat]]:
    """The heats of groups, each with the name of its group."""
    return [(group, heat) for group in groups for heat in GROUPS[group].heats]


def line_by_line(runs: list[Run], heats: list[tuple[str, Heat]]) -> str:
    """One line per heat: time of each rival as a multiple of fastxent's; "" without results."""
    rivals = [
        peer for peer in PEERS
        if _is_rival(peer) and any(entry.peer == peer for _, heat in heats for entry in heat)
    ]  # fmt: skip
    lines = []
    for group, heat in heats:
        ours = first_of_ours(heat)
        sides = [fields_of(dataclasses.replace(ours, peer=peer)) for peer in rivals]
        ratios = [spread(runs, ratio(group, side, fields_of(ours))) for side in sides]
        if any(ratios):
            lines.append((described(ours.case), *map(against, map(one_number, ratios))))
    header = ("function, shape, type", *(PEERS[peer].name for peer in rivals))
    return table(header, lines) if lines else ""


FUNCTIONS = {
    "categorical": "categorical_cross_entropy", "binary": "binary_cross_entropy_with_logits",
    "binary_probs": "binary_cross_entropy",
}  # fmt: skip
# Peers by the side that their time is divided by.
RATIOS = [
    ("numpy_idiom", "fastxent"), ("torch", "fastxent"), ("jax", "fastxent"),
    ("fastxent_torch", "fastxent"), ("torch_module", "fastxent_torch"),
]  # fmt: skip


def option_by_option(runs: list[Run]) -> str:
    """One line per option: fastxent's time, over that of the plain call, and the peers' ratios."""
    lines = []
    for heat in GROUPS["options"].heats:
        sides = {entry.peer: fields_of(entry) for entry in heat if entry.case == heat[0].case}
        if time := spread(runs, number("median", "options", **sides["fastxent"])):
            ratios = (
                spread(runs, ratio("options", sides[peer], sides[base])) if peer in sides else None
                for peer, base in RATIOS
            )
            cells = (
                (against if _is_rival(peer) else times)(one_number(value))
                for (peer, _), value in zip(RATIOS, ratios, strict=True)
            )
            plain = spread(runs, functools.partial(_over_plain, sides["fastxent"]))
            lines.append(
                (_variant(heat[0].case), record.duration(time.median, "µ"), times(plain), *cells)
            )
    names = (f"{PEERS[peer].name} / {PEERS[base].name}" for peer, base in RATIOS)
    return table(("32 × 10 float32", "fastxent", "× plain", *names), lines)


def _over_plain(fields: dict[str, Any], run: Run) -> float | None:
    """The time with an option over that of the plain call in the same heat, round by round."""
    for row in timed(run, "options", **fields):
        plain = fields_of(Entry("fastxent", PLAIN)) | {"heat": row["heat"]}
        for base in timed(run, "options", **plain):
            return record.ratio(row, base)
    return None


def _variant(case: Case) -> str:
    """What a case has that the plain call does not have."""
    parts = [FUNCTIONS[case.job]] if case.job in FUNCTIONS else []
    parts += [text for text in options(case) if text != "return_grad=True"]
    parts += ["soft target"] if case.target == "soft" else []
    labels, dtype = case.label_dtype, case.dtype
    parts += [f"{labels} labels" if labels != "list" else "a list of labels"] * (labels != "int64")
    parts += [dtype] * (dtype != PLAIN.dtype)
    return ", ".join(parts) or "plain"


def first_of_ours(heat: Heat) -> Entry:
    """The side that the others are compared with."""
    return next(entry for entry in heat if entry.peer.startswith("fastxent"))


def _is_rival(peer: str) -> bool:
    return peer != "copy" and not peer.startswith("fastxent")


def fields_of(entry: Entry) -> dict[str, Any]:
    """The fields that identify a side among the rows of its group."""
    case = dataclasses.asdict(entry.case)
    if case["threads"] is None:  # the run's, whatever they are
        del case["threads"]
    return {"peer": entry.peer, **case}


def _name(entry: Entry, ours: Entry) -> str:
    """The peer, and what its case has that the first of the heat does not have."""
    case, first = entry.case, ours.case
    pairs = [(case.layout, first.layout), (case.dtype, first.dtype),
             (case.label_dtype, first.label_dtype)]  # fmt: skip
    others = [mine for mine, base in pairs if mine != base]
    if (passed := options(case)) != options(first):
        others += passed or ["plain"]
    return ", ".join([PEERS[entry.peer].name, *others])
