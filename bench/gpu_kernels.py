"""Compile the kernels that bench/gpu.py uses: `python bench/gpu_kernels.py`. Needs no GPU.

The kernels are written to the cache on disk, in the order in which they are needed. Compiling one
takes seconds; to save this time on a GPU, compile on other cores while the tests run, or on another
machine with the same versions, and copy its FASTXENT_CACHE_DIR.
"""

import argparse
import multiprocessing
import os
import subprocess

from gpu_bench import internals
from gpu_bench.dry import Dry
from gpu_bench.rows import failure
from gpu_bench.steps import steps


def kernels_of(args):
    """The kernels that the steps launch, in their order, collected in a dry run of them."""
    gpu = Dry(args.capability)
    with gpu.driver():
        for step in steps(args, gpu):
            step.call()
    return list(gpu.kernels.values())


def compile_all(kernels, capability, processes):
    """Compile kernels in several processes; yield the name of each, and why it failed."""
    # Forked, because kernels are nested functions, which cannot be pickled.
    with multiprocessing.get_context("fork").Pool(
        processes, initializer=_Kernels.set, initargs=(kernels, capability)
    ) as pool:
        yield from pool.imap(_Kernels.compile, range(len(kernels)))


class _Kernels:
    """The kernels in a process that compiles some of them."""

    @classmethod
    def set(cls, kernels, capability):
        cls.kernels, cls.capability = kernels, capability

    @classmethod
    def compile(cls, number):
        kernel = cls.kernels[number]
        try:
            internals.compiled(kernel, cls.capability)
        except Exception as problem:  # the others may still compile
            return f"failed: {kernel.name}: {failure(problem)}"
        return kernel.name


def capability_of(text):
    """Compute capability as two numbers."""
    major, minor = map(int, text.split("."))
    return major, minor


def of_this_gpu():
    """The compute capability of the first GPU here."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=True)
    return capability_of(done.stdout.split("\n")[0])


def main(arguments=None):
    """Collect and compile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--capability", type=capability_of, help="such as 9.0 (default: that of the GPU here)"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--shapes", nargs="+", help="as for bench/gpu.py")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    args = parser.parse_args(arguments, argparse.Namespace(dry=True, quick=True, peers=[]))
    args.capability = args.capability or of_this_gpu()
    kernels = kernels_of(args)
    print(f"{len(kernels)} kernels", flush=True)
    for name in compile_all(kernels, args.capability, args.processes):
        print(name, flush=True)


if __name__ == "__main__":
    main()
