"""Records of benchmark runs as JSON: results with commit, versions, CPU and threads."""

import contextlib
import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fastxent as fx
from fastxent.bench.race import RaceResult

Row = dict[str, Any]


def new(threads: int) -> dict[str, Any]:
    """Make a record without results."""
    commit, dirty = _commit()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "fastxent": fx.__version__, "commit": commit, "dirty": dirty,
        "python": platform.python_version(), "os": platform.platform(), "cpu": cpu(),
        "threads": threads, "versions": {}, "results": [], "startup": {},
    }  # fmt: skip


def save(record: dict[str, Any], path: Path) -> None:
    """Write a record atomically, one result per line."""
    head = {key: value for key, value in record.items() if key != "results"}
    rows = ",\n".join("  " + json.dumps(row) for row in record["results"])
    text = json.dumps(head, indent=1)
    part = path.with_name(f".{path.name}.part")
    part.write_text(f'{text[:-2]},\n "results": [\n{rows}\n ]\n}}\n')
    part.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Read a record; the options of a case were called `given` in the first records."""
    record: dict[str, Any] = json.loads(path.read_text())
    for row in record["results"]:
        if "given" in row:
            row["options"] = row.pop("given")
    return record


def rows(group: str, results: Iterable[RaceResult]) -> list[Row]:
    """The rows of one heat, in the order of its sides."""
    raced = list(results)
    copies = {r.case.threads: r for r in raced if r.peer == "copy" and r.seconds and not r.note}
    return [_row(group, result, copies.get(result.case.threads)) for result in raced]


def _row(group: str, result: RaceResult, copy: RaceResult | None) -> Row:
    row = {"group": group, "peer": result.peer, **asdict(result.case)}
    if result.note:
        return row | {"note": result.note}
    row |= summary(result.seconds) | result.facts
    row["ns_per_logit"] = _rounded(row["median"] / result.case.size * 1e9)
    if moved := _bytes(result):
        row["gb_per_s"] = _rounded(moved / row["median"] / 1e9)
        if copy:
            ratios = (c / s for c, s in zip(copy.seconds, result.seconds, strict=True))
            row["share_of_copy"] = _rounded(statistics.median(ratios) * moved / _bytes(copy))
    return row


def summary(seconds: list[float]) -> Row:
    """Median, quartiles, and the times of all rounds."""
    q25, median, q75 = (
        statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    )
    numbers = {"median": median, "q25": q25, "q75": q75}
    return {
        **{name: _rounded(value) for name, value in numbers.items()},
        "seconds": [_rounded(value) for value in seconds],
    }


def ratio(theirs: Row, ours: Row) -> float:
    """Ratio of their time to ours: the median over rounds of each round's ratio."""
    pairs = zip(theirs["seconds"], ours["seconds"], strict=True)
    return float(statistics.median(their / our for their, our in pairs))


def duration(seconds: float, micro: str = "u") -> str:
    """A time with three digits and its unit; terminals may lack the letter of microseconds."""
    units = ("s", 1), ("ms", 1e3), (f"{micro}s", 1e6)
    unit, scale = units[0 if seconds >= 1 else 1 if seconds >= 1e-3 else 2]
    number = seconds * scale
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} {unit}"


def _bytes(result: RaceResult) -> int:
    if result.peer == "copy":  # whatever the job
        return replace(result.case, job="cross_entropy", target="index").floor_bytes
    return result.case.floor_bytes


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


# --- the machine ---------------------------------------------------------------------------


def _commit() -> tuple[str | None, bool]:
    """The commit, and whether files differ from it; None outside of a Git checkout."""
    root = Path(fx.__file__).parent.parent
    if not (root / ".git").exists():
        return None, False
    head, status = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    return head or None, bool(status)


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def cpu(
    proc: Path = Path("/proc/cpuinfo"), caches: Path = Path("/sys/devices/system/cpu/cpu0/cache")
) -> dict[str, Any]:
    """Model, cores, vector instructions and caches, as far as the system reports them."""
    info: dict[str, Any] = {
        "model": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "vectors": [], "caches": {},
    }  # fmt: skip
    if proc.exists():
        lines = (line.partition(":") for line in proc.read_text().splitlines())
        first = {key.strip(): value.strip() for key, _, value in reversed(list(lines))}
        info["model"] = first.get("model name") or _arm_model(first) or info["model"]
        flags = first.get("flags", first.get("Features", "")).split()
        info["vectors"] = [name for name in ("avx2", "avx512f", "asimd", "sve") if name in flags]
    for index in sorted(caches.glob("index*")):
        with contextlib.suppress(OSError):  # a virtual machine may not report the size
            level, kind, size = (
                (index / name).read_text().strip() for name in ("level", "type", "size")
            )
            info["caches"][f"L{level} {kind.lower()}"] = size
    return info


# Codes of ARM implementers, and of the CPUs in cloud machines.
_IMPLEMENTERS = {
    0x41: "ARM", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x4E: "NVIDIA", 0x51: "Qualcomm",
    0x61: "Apple", 0x6D: "Microsoft", 0xC0: "Ampere",
}  # fmt: skip
_PARTS = {
    (0x41, 0xD08): "Cortex-A72", (0x41, 0xD0B): "Cortex-A76", (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD40): "Neoverse-V1", (0x41, 0xD49): "Neoverse-N2", (0x41, 0xD4F): "Neoverse-V2",
    (0x41, 0xD83): "Neoverse-V3", (0x41, 0xD8E): "Neoverse-N3", (0xC0, 0xAC3): "Ampere-1",
    (0xC0, 0xAC4): "Ampere-1a",
}  # fmt: skip


def _arm_model(fields: dict[str, str]) -> str:
    """The model of an ARM processor, which the system reports as two codes; "" for others."""
    try:
        maker, part = int(fields["CPU implementer"], 0), int(fields["CPU part"], 0)
    except (KeyError, ValueError):
        return ""
    name = _PARTS.get((maker, part), f"part {part:#x}")
    return f"{_IMPLEMENTERS.get(maker, f'implementer {maker:#x}')} {name}"
