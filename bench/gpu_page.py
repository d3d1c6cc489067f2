"""Write the measured table of docs/gpu.md: `python bench/gpu_page.py bench/results/gpu/NAME.json`.

The record is one of bench/gpu.py. Without a record, the table is emptied.
"""

import argparse
from pathlib import Path
from typing import Any

from gpu_bench.cases import ARRAYS, Shape
from gpu_bench.schedule import FEW_ROWS
from markdown_tables import insert, table

from fastxent.bench import record

PAGE = Path(__file__).parent.parent / "docs" / "gpu.md"
MARK = "<!-- measured: written by bench/gpu_page.py -->"
HEADER = (
    "", "C", "share of a device copy, float32", "bfloat16", "× torch.compile, float32", "bfloat16",
    "× PyTorch, float32", "bfloat16",
)  # fmt: skip
DTYPES, MISSING = ("float32", "bfloat16"), "–"
NAMES = {
    "cross_entropy": "loss + gradient", "loss": "loss", "softmax": "softmax",
    "soft_targets": "loss + gradient, probabilities as target",
    "smoothing": "loss + gradient, label smoothing",
    "probs": "loss + gradient + probabilities", "entropy": "entropy + gradient",
    "hvp": "Hessian-vector product",
}  # fmt: skip

Run = dict[str, Any]


def measured(run: Run | None) -> str:
    """The table, and where and when it was measured."""
    if run is None:
        return table(HEADER, [("",) * len(HEADER)])
    return f"{table(HEADER, lines(run))}\n{caption(run)}\n"


def lines(run: Run) -> list[tuple[str, ...]]:
    """A line for each job and length, of as many rows as fill a gigabyte."""
    ours = [row for row in run["results"] if row["group"] == "race" and row["peer"] == "fastxent"]
    kinds = {(row["job"], row.get("image", 0), row["classes"]) for row in ours if _is_full(row)}
    order = list(ARRAYS)
    found = []
    for job, image, classes in sorted(kinds, key=lambda kind: (order.index(kind[0]), *kind[1:])):
        cells = [_cells(run, job, image, classes, dtype) for dtype in DTYPES]
        pixels = f", images of {image}×{image}" if image else ""
        numbers = (cell for pair in zip(*cells, strict=True) for cell in pair)
        found.append((NAMES[job] + pixels, f"{classes:,}", *numbers))
    return found


def _is_full(row: record.Row) -> bool:
    return Shape(row["rows"], row["classes"]) not in FEW_ROWS


def _cells(run: Run, job: str, image: int, classes: int, dtype: str) -> tuple[str, str, str]:
    """Share of the copy and the ratios to PyTorch's times; what is wrong has no figures."""
    fields = {"job": job, "classes": classes, "dtype": dtype}
    rows = [row for row in run["results"] if fields.items() <= row.items()]
    checks = [row for row in rows if row["group"] == "check" and ("image" in row) == bool(image)]
    if not all(row["right"] for row in checks):  # checks have few rows and small images
        return ("wrong",) * 3
    for row in rows:
        ours = row["group"] == "race" and row["peer"] == "fastxent"
        if ours and row.get("image", 0) == image and _is_full(row):
            ratios, share = row.get("ratios", {}), row.get("share_of_copy")
            copied = MISSING if share is None else f"{share:.0%}"
            return copied, *(_times(ratios.get(peer)) for peer in ("torch_compile", "torch"))
    return (MISSING,) * 3


def _times(ratio: float | None) -> str:
    """A ratio, bold where fastxent is slower."""
    if ratio is None:
        return MISSING
    return f"{ratio:.2f}" if ratio >= 1 else f"**{ratio:.2f}**"


def caption(run: Run) -> str:
    """The GPU, the versions, the date and the state of the code."""
    gpu, versions = run["gpu"], run["versions"]
    copies = [row["gb_per_s"] for row in run["results"]
              if row["group"] == "ceiling" and "gb_per_s" in row]  # fmt: skip
    packages = ", ".join(
        f"{title} {versions[name]}"
        for title, name in (("PyTorch", "torch"), ("Triton", "triton"), ("numba-cuda",) * 2)
        if name in versions
    )
    state = f"{str(run['commit'])[:9]}{', changed' * run['dirty']}"
    return " ".join((
        f"Measured on {gpu['name']} on {run['date'][:10]}, with {packages};",
        f"fastxent {run['fastxent']} at commit {state}.",
        *(f"A large copy within its memory makes {speed:.0f} GB/s." for speed in copies),
        "**Bold**: PyTorch is faster.",
    ))  # fmt: skip


def main(arguments: list[str] | None = None, page: Path = PAGE) -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="a record of bench/gpu.py")
    path = parser.parse_args(arguments).run
    run = record.load(path) if path else None
    if run and run["dry"]:
        parser.error(f"{path} is of a dry run, whose numbers mean nothing")
    insert(page, measured(run), MARK)


if __name__ == "__main__":
    main()
