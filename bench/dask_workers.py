"""One worker process of Dask's against two: loss and gradient of persisted logits, by rows.

Each worker has one thread, and fastxent uses one in it. Both clusters live for the whole run and
rounds alternate between them, so that whatever else the machine does falls on both. The gradient is
computed and stays on the workers, as in a training step; only the loss comes back.

    bench/dask_workers.py --output bench/results/DATE-CPU-dask.json
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import distributed
from dask.distributed import Client, LocalCluster, wait

import fastxent as fx
from fastxent.bench import record

ROWS, CLASSES, BLOCKS = 200_000, 1000, 20


def ready(workers: int) -> tuple[Client, list[Any]]:
    """A client of so many workers, and loss and gradient to be computed from what they hold."""
    cluster = LocalCluster(
        n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None,
        memory_limit=None,
    )  # fmt: skip
    client = Client(cluster)
    client.wait_for_workers(workers)
    state = da.random.default_rng(0)
    x = state.standard_normal((ROWS, CLASSES), chunks=(ROWS // BLOCKS, CLASSES), dtype="float32")
    y = state.integers(0, CLASSES, ROWS, chunks=ROWS // BLOCKS)
    x, y = client.persist([x, y])
    wait([x, y])
    return client, list(fx.cross_entropy(x, y, return_grad=True))


def seconds(client: Client, lazy: list[Any]) -> float:
    """Until loss and gradient are there."""
    start = time.perf_counter()
    futures = [client.compute(lazy[0]), client.persist(lazy[1])]
    wait(futures)
    took = time.perf_counter() - start
    del futures
    return took


def main() -> None:
    """Alternate, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()

    sides = {workers: ready(workers) for workers in (1, 2)}
    took: dict[int, list[float]] = {1: [], 2: []}
    for client, lazy in sides.values():
        seconds(client, lazy)  # kernels are loaded
    for k in range(args.rounds):
        for workers in (1, 2) if k % 2 else (2, 1):
            took[workers].append(seconds(*sides[workers]))
    for client, _ in sides.values():
        client.close()
        client.cluster.close()

    ratios = [one / two for one, two in zip(took[1], took[2], strict=True)]
    print(f"({ROWS}, {CLASSES}) float32 in {BLOCKS} blocks of rows, {args.rounds} rounds")
    for workers, times in took.items():
        low, high = min(times) * 1e3, max(times) * 1e3
        print(
            f"{workers} worker(s)   {statistics.median(times) * 1e3:7.0f} ms   ({low:.0f}-{high:.0f})"
        )
    print(
        f"two are     {statistics.median(ratios):7.2f} x one   ({min(ratios):.2f}-{max(ratios):.2f})"
    )

    if args.output:
        found = record.new(threads=1)
        found["versions"] = {"dask": dask.__version__, "distributed": distributed.__version__}
        shape = {"n": ROWS, "c": CLASSES, "dtype": "float32", "blocks": BLOCKS, "grad": True}
        found["results"] = [
            {"group": "dask", "workers": workers, **shape, **record.summary(times)}
            for workers, times in took.items()
        ]
        found["ratio"] = {
            "median": round(statistics.median(ratios), 3),
            "rounds": [round(ratio, 3) for ratio in ratios],
        }
        record.save(found, args.output)


if __name__ == "__main__":
    main()
