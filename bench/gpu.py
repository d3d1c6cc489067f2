"""Benchmark of the GPU kernels: `python bench/gpu.py --out <name>.json`.

Every answer is first compared with `fastxent.reference` in float64. Then, for each shape and type,
all sides take turns on arrays that are not in the caches. A time is GPU time: the call and an event
on either side of it are enqueued while the GPU sleeps. The time that a call spends in Python is
measured separately. With --dry nothing is computed: a stand-in for the driver counts launches on
arrays in host memory, which tests everything else. The parts are in `gpu_bench`.
"""

import argparse
import contextlib
import functools
import importlib.metadata
import itertools
import sys
import time
from pathlib import Path

from gpu_bench.cases import ARRAYS, SIZES, shapes
from gpu_bench.checks import check
from gpu_bench.devices import Gpu
from gpu_bench.dry import Dry
from gpu_bench.plans import plans
from gpu_bench.python_cost import launch_path
from gpu_bench.races import ceiling, numpy_on_the_host, race
from gpu_bench.report import table
from gpu_bench.rows import failure, label

import fastxent as fx
from fastxent.bench import record

PEERS = ["torch", "torch_compile", "numpy_idiom"]
PACKAGES = ["numba", "numba-cuda", "cuda-core", "cuda-bindings", "torch", "triton", "cupy", "numpy"]


def version(package):
    """Version of a package or None; CuPy is installed under a name for each CUDA."""
    names = [package] + [f"{package}-cuda{n}x" for n in (13, 12)] * (package == "cupy")
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def measure(args, gpu, run):
    """Fill a record and save it after each step, so that an aborted run is not lost."""
    rounds, steps = (3 if args.quick or args.dry else args.rounds), []
    for dtype in args.dtypes:
        cases = list(dict.fromkeys(shapes(args, gpu, dtype)))
        classes = list(dict.fromkeys(c for _, c in cases))
        steps += [(0, functools.partial(check, gpu, c, dtype)) for c in classes]
        for (n, c), job in itertools.product(cases, ARRAYS):
            peers = [p for p in args.peers if p != "numpy_idiom"]
            steps.append((1, functools.partial(race, gpu, n, c, dtype, job, peers, rounds)))
        steps += [(2, functools.partial(plans, gpu, n, c, dtype, rounds)) for n, c in cases]
        if dtype == "float32" and "numpy_idiom" in args.peers:
            steps += [(3, lambda c=c: [numpy_on_the_host(c, 3)]) for c in classes]
    size = min(1 << (22 if args.quick or args.dry else 32), gpu.free() // 3)
    steps.append((1, lambda: [ceiling(gpu, size // 2, rounds)]))
    steps.append((1, lambda: launch_path(gpu, args.peers, rounds)))
    for _, step in sorted(steps, key=lambda pair: pair[0]):  # correctness first
        gpu.free()
        begin = time.perf_counter()
        try:
            rows = step()
        except Exception as problem:  # the next steps may still run
            rows = [{"group": "step", "peer": str(step), "note": failure(problem), "right": False}]
        run["results"] += rows
        record.save(run, args.out)
        print(f"{label(rows)} ({time.perf_counter() - begin:.1f} s)", file=sys.stderr, flush=True)


def main(arguments=None):
    """Check, measure and save; return 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    parser.add_argument("--quick", action="store_true", help="small arrays; times mean nothing")
    parser.add_argument("--dry", action="store_true", help="without a GPU; nothing is computed")
    parser.add_argument("--shapes", nargs="+", help="classes, or rows and classes as 16x128256")
    parser.add_argument("--dtypes", nargs="+", choices=SIZES, default=["float32", "bfloat16"])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--rounds", type=int, default=21)
    args = parser.parse_args(arguments)
    gpu = Dry() if args.dry else Gpu()
    run = record.new(fx.get_num_threads())
    run |= {"dry": args.dry, "gpu": gpu.facts(), "rounds": args.rounds}
    versions = {name: version(name) for name in PACKAGES}
    run["versions"] = {name: number for name, number in versions.items() if number}
    with gpu.driver() if args.dry else contextlib.nullcontext():
        measure(args, gpu, run)
    if args.dry:
        run["launches"] = gpu.launches
        record.save(run, args.out)
    print("\n".join(table(run["results"])))
    wrong = [row for row in run["results"] if row.get("right") is False]
    return 1 if wrong and not args.dry else 0


if __name__ == "__main__":
    sys.exit(main())
