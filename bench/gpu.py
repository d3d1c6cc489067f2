"""Benchmark of the GPU kernels: `python bench/gpu.py --out <name>.json [--minutes 10]`.

Answers are compared with `fastxent.reference` in float64. For each shape and type, all sides take
turns on arrays that are not in the caches. A time is GPU time: the call and an event before and
after it are enqueued while the GPU sleeps. The time that a call spends in Python is measured
separately. `gpu_bench/schedule.py` defines the order of the steps.

With --minutes, steps for which no time is left are skipped; the record is saved after each step.
With --dry, nothing is computed: a stand-in for the driver counts launches on arrays in host memory.

The exit status is 1 if an answer was wrong, 3 if the time ended during a step, 4 if the GPU refused
further calls. After 3 and 4, --resume runs the steps that the record lacks.
"""

import argparse
import contextlib
import importlib.metadata
import sys
from pathlib import Path

from gpu_bench.cases import SIZES
from gpu_bench.devices import Gpu
from gpu_bench.dry import Dry
from gpu_bench.report import table
from gpu_bench.session import BROKEN, Session
from gpu_bench.steps import steps

import fastxent as fx
from fastxent.bench import record

PEERS = ["torch", "torch_compile", "numpy_idiom"]
PACKAGES = ["numba", "numba-cuda", "cuda-core", "cuda-bindings", "torch", "triton", "cupy", "numpy"]


def versions():
    """Versions of the packages that are installed; CuPy has a name for each CUDA."""
    found = {}
    for package in PACKAGES:
        for name in [package] + [f"{package}-cuda{n}x" for n in (13, 12)] * (package == "cupy"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[package] = importlib.metadata.version(name)
    return found


def options(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    parser.add_argument("--minutes", type=float, help="end after this time and skip the rest")
    parser.add_argument(
        "--resume", action="store_true", help="run only the steps that the file lacks"
    )
    parser.add_argument("--quick", action="store_true", help="small arrays; times mean nothing")
    parser.add_argument("--dry", action="store_true", help="without a GPU; nothing is computed")
    parser.add_argument("--shapes", nargs="+", help="classes, or rows and classes as 16x128256")
    parser.add_argument("--dtypes", nargs="+", choices=SIZES, default=["float32", "bfloat16"])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--rounds", type=int, default=21)
    return parser.parse_args(arguments)


def main(arguments=None):
    """Check, measure and save."""
    args = options(arguments)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.resume:
        run = record.load(args.out)
    else:
        run = record.new(fx.get_num_threads()) | {"versions": versions(), "steps": [], "gpu": {}}
    run |= {"dry": args.dry, "rounds": args.rounds}
    with Session(run, args.out, args.minutes) as session:
        gpu = Dry() if args.dry else Gpu()
        session.change(gpu=gpu.facts())
        with gpu.driver() if args.dry else contextlib.nullcontext():
            session.all(steps(args, gpu), gpu)
        if args.dry:
            session.change(launches=gpu.launches)
    print("\n".join(table(run)))
    if session.broken:
        return BROKEN
    wrong = [row for row in run["results"] if row.get("right") is False]
    return 1 if wrong and not args.dry else 0


if __name__ == "__main__":
    sys.exit(main())
