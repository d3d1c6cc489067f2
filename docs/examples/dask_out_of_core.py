"""Loss and gradient of logits that do not fit in the memory of the worker.

The logits are in a file. A Dask worker process maps the chunk that it works on, and writes the
gradient to a second file, chunk by chunk. The worker's memory is limited to LIMIT bytes: Dask's
nanny kills it at 95 % of that. At the end, the example reads the worker's peak resident memory from
Linux (VmHWM). The classes of a row are in several chunks too, which two passes combine.
"""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.distributed import Client, LocalCluster

import fastxent as fx

ROWS, CLASSES = 16_000, 20_000  # 1.28 GB of float32
CHUNK = (1000, 5000)  # 20 MB
LIMIT = 640 << 20
MB = 1e6


class Figures(NamedTuple):
    """The printed results: sizes in bytes, and how far loss and gradient are from NumPy's."""

    size: int
    limit: int
    before: int
    peak: int
    loss: float
    expected: float
    difference: float


def block(first: int, rows: int) -> Any:
    """Random logits of `rows` rows; `first` is the seed."""
    logits = np.random.default_rng(first).standard_normal((rows, CLASSES), np.float32)
    logits *= 3
    return logits


class File:
    """A file of float32 that Dask reads and writes by slices, each through a new mapping.

    A mapping that stays open would keep its pages in the memory of the process, and pickling one
    for another process would read the whole file.
    """

    ndim, dtype = 2, np.dtype(np.float32)

    def __init__(self, path: Path) -> None:
        self.path, self.shape = path, (ROWS, CLASSES)

    def mapped(self, mode: str) -> Any:
        """Map the file as an array; only the elements that are accessed are read or written."""
        return np.memmap(self.path, np.float32, mode, shape=self.shape)

    def __getitem__(self, key: Any) -> Any:
        return np.array(self.mapped("r")[key])

    def __setitem__(self, key: Any, values: Any) -> None:
        self.mapped("r+")[key] = values


def peak() -> int:
    """Peak resident memory of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main() -> Figures:
    """Write the logits, compute out of core, compare with NumPy, and print the results."""
    labels = np.random.default_rng(0).integers(0, CLASSES, ROWS)
    with tempfile.TemporaryDirectory() as folder:
        source, sink = File(Path(folder, "logits")), File(Path(folder, "gradient"))
        size = source.mapped("w+").nbytes
        sink.mapped("w+")
        for first in range(0, ROWS, CHUNK[0]):
            rows = slice(first, min(first + CHUNK[0], ROWS))
            source[rows] = block(first, rows.stop - first)

        with (
            LocalCluster(
                n_workers=1, threads_per_worker=1, memory_limit=LIMIT, host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
            ) as cluster,
            Client(cluster) as client,
        ):  # fmt: skip
            (before,) = client.run(peak).values()
            x = da.from_array(source, CHUNK)
            lazy_loss, lazy_grad = fx.cross_entropy(x, labels, return_grad=True)
            stored = da.store(lazy_grad, sink, lock=False, compute=False)
            loss = float(client.gather(client.compute([lazy_loss, stored]))[0])
            (most,) = client.run(peak).values()

        expected, difference = 0.0, 0.0
        for first in range(0, ROWS, CHUNK[0]):
            rows = slice(first, min(first + CHUNK[0], ROWS))
            logits = block(first, rows.stop - first)
            part, grad = fx.cross_entropy(
                logits, labels[rows], normalizer=ROWS, return_grad=True, grad_out=logits
            )
            expected += float(part)
            difference = max(difference, float(np.abs(sink[rows] - grad).max()))

    figures = Figures(size, LIMIT, before, most, loss, expected, difference)
    print(f"logits in the file        {size / MB:8.0f} MB, and their gradient as much")
    print(f"the worker's limit        {LIMIT / MB:8.0f} MB")
    print(f"its largest memory        {most / MB:8.0f} MB, {before / MB:.0f} MB before it began")
    print(f"loss                      {loss:.7f}")
    print(f"NumPy, block by block     {expected:.7f}")
    print(f"gradients differ by       {difference * ROWS:8.1e} / rows at most")
    return figures


if __name__ == "__main__":
    main()
