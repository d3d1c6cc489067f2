"""Time Dask with one worker process and with two: cross-entropy of persisted logits, by rows.

Each worker has one thread, and fastxent uses one thread in it. Both clusters exist during the whole
run, and rounds alternate between them, so that other load on the machine affects both. Gradients
stay on the workers, as in a training step; only losses are returned.

    python bench/dask_workers.py --output bench/results/dask/DATE-CPU.json
"""

import argparse
import statistics
import time
from typing import Any

import dask
import dask.array as da
import distributed
from dask.distributed import Client, LocalCluster, wait

import fastxent as fx
from fastxent.bench import record
from fastxent.cli.options import new_file

ROWS, CLASSES, BLOCKS = 200_000, 1000, 8  # blocks of 100 MB, as Dask recommends


def ready(workers: int) -> tuple[Client, dict[str, list[Any]]]:
    """A client with that many workers, and the lazy results of each job on their arrays."""
    cluster = LocalCluster(
        n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0",
        memory_limit=None,
    )  # fmt: skip
    client = Client(cluster)
    client.wait_for_workers(workers)
    # Each worker gets the same number of blocks. The scheduler would give more of them to the
    # worker that is ready first.
    state, persisted = da.random.default_rng(0), []
    rows = ROWS // workers
    for address in client.scheduler_info()["workers"]:
        x = state.standard_normal((rows, CLASSES), chunks=(ROWS // BLOCKS, -1), dtype="float32")
        y = state.integers(0, CLASSES, rows, chunks=ROWS // BLOCKS)
        persisted.append(client.persist([x, y], workers=[address], allow_other_workers=False))
    x, y = (da.concatenate(parts) for parts in zip(*persisted, strict=True))
    wait([x, y])
    loss, grad = fx.cross_entropy(x, y, return_grad=True)
    return client, {"loss": [fx.cross_entropy(x, y)], "loss and gradient": [loss, grad]}


def seconds(client: Client, lazy: list[Any]) -> float:
    """Seconds until all results are computed."""
    start = time.perf_counter()
    results = client.persist(lazy)
    wait(results)
    return time.perf_counter() - start


def main() -> None:
    """Time both clusters in turns, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=new_file)
    args = parser.parse_args()

    # Each worker has its blocks, and sending one takes longer than computing it.
    dask.config.set({"distributed.scheduler.work-stealing": False})
    sides = {workers: ready(workers) for workers in (1, 2)}
    jobs = list(sides[1][1])
    took: dict[tuple[str, int], list[float]] = {(job, n): [] for job in jobs for n in sides}
    for k in range(args.rounds + 1):
        for job in jobs:
            for workers in (1, 2) if k % 2 else (2, 1):
                client, lazy = sides[workers]
                took[job, workers].append(seconds(client, lazy[job]))
    for client, _ in sides.values():
        client.close()
        client.cluster.close()

    rows, ratios = [], {}
    print(f"({ROWS}, {CLASSES}) float32 in {BLOCKS} blocks of rows, {args.rounds} rounds")
    print(f"{'':20}{'workers':>8}{'ms':>8}  {'least - most':>14}")
    for (job, workers), times in took.items():
        del times[0]  # the first round loads kernels
        low, median, high = (f(times) * 1e3 for f in (min, statistics.median, max))
        print(f"{job:20}{workers:8}{median:8.0f}  {f'{low:.0f} - {high:.0f}':>14}")
        shape = {"n": ROWS, "c": CLASSES, "dtype": "float32", "blocks": BLOCKS}
        rows.append({"group": "dask", "job": job, "workers": workers, **shape}
                    | record.summary(times))  # fmt: skip
    for job in jobs:
        each = [one / two for one, two in zip(took[job, 1], took[job, 2], strict=True)]
        low, median, high = min(each), statistics.median(each), max(each)
        print(f"{job}: two workers are {median:.2f} x one ({low:.2f} - {high:.2f})")
        ratios[job] = {"median": round(median, 3), "rounds": [round(ratio, 3) for ratio in each]}

    if args.output:
        run = record.new(threads=1)
        run["versions"] = {"dask": dask.__version__, "distributed": distributed.__version__}
        run["results"], run["ratio"] = rows, ratios
        record.save(run, args.output)


if __name__ == "__main__":
    main()
