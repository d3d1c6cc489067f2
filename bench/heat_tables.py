"""Tables of heats: one for each heat of a group, or one line for each heat of several groups."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from markdown_tables import against, percent, table, times
from results import Run, Spread, number, ratio, spread

from fastxent.bench.cases import GROUPS, Case, Entry, Heat
from fastxent.bench.peers import PEERS
from fastxent.cli.bench import duration

LAYOUTS = {"rows": "", "channels-first": ", class axis 1", "column-major": ", column-major"}


def described(case: Case) -> str:
    """Job, shape, type and layout of a case."""
    shape = case.shape if case.layout == "channels-first" else (case.rows, case.classes)
    return f"{case.job} {' × '.join(map(str, shape))} {case.dtype}{LAYOUTS[case.layout]}"


def side_by_side(runs: list[Run], group: str) -> str:
    """One table per heat: time, ratio, speed and memory of each side."""
    parts = []
    for heat in GROUPS[group].heats:
        ours = _first_of_ours(heat)
        lines = []
        for entry in heat:
            row = _fields(entry)
            median = spread(runs, number("median", group, **row))
            if median is None:
                continue
            speed = spread(runs, number("gb_per_s", group, **row))
            extra = spread(runs, number("extra_mb", group, **row))
            lines.append(
                (_name(entry, ours), duration(median.median),
                 (against if _is_rival(entry.peer) else times)(
                     spread(runs, ratio(group, row, _fields(ours)))),
                 f"{speed.median:.1f}" if speed else "–",
                 percent(spread(runs, number("share_of_copy", group, **row))),
                 f"{extra.median:.1f}" if extra else "–")
            )  # fmt: skip
        if lines:
            head = described(ours.case)
            header = (head, "time", "× fastxent", "GB/s", "of the copy", "extra MB")
            parts.append(table(header, lines))
    return "\n".join(parts)


def line_by_line(runs: list[Run], groups: Iterable[str]) -> str:
    """One line per heat: time of each rival as a multiple of fastxent's; "" without results."""
    heats = [(group, heat) for group in groups for heat in GROUPS[group].heats]
    rivals = [
        peer for peer in PEERS
        if _is_rival(peer) and any(entry.peer == peer for _, heat in heats for entry in heat)
    ]  # fmt: skip
    lines = []
    for group, heat in heats:
        ours = _first_of_ours(heat)
        sides = [_fields(dataclasses.replace(ours, peer=peer)) for peer in rivals]
        ratios = [spread(runs, ratio(group, side, _fields(ours))) for side in sides]
        if any(ratios):
            cells = (against(s and Spread(s.median, s.median, s.median)) for s in ratios)
            lines.append((described(ours.case), *cells))
    header = ("loss, shape, type", *(PEERS[peer].name for peer in rivals))
    return table(header, lines) if lines else ""


def _first_of_ours(heat: Heat) -> Entry:
    """The side that the others are compared with."""
    return next(entry for entry in heat if entry.peer.startswith("fastxent"))


def _is_rival(peer: str) -> bool:
    return peer != "copy" and not peer.startswith("fastxent")


def _fields(entry: Entry) -> dict[str, Any]:
    """What identifies a side among the rows of its group."""
    case = dataclasses.asdict(entry.case)
    if case["threads"] is None:  # the run's, whatever they are
        del case["threads"]
    return {"peer": entry.peer, **case}


def _name(entry: Entry, ours: Entry) -> str:
    """The peer, and in what its case differs from that of the heat."""
    case, first = entry.case, ours.case
    pairs = [(case.layout, first.layout), (case.dtype, first.dtype),
             (case.label_dtype, first.label_dtype)]  # fmt: skip
    return ", ".join([PEERS[entry.peer].name, *(mine for mine, base in pairs if mine != base)])
