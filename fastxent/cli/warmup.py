"""`warmup`: compile kernels into the cache, ahead of the first call."""

import argparse
import time

import fastxent as fx
from fastxent import options, reference
from fastxent.cli import machine
from fastxent.cli.options import add_output, positive
from fastxent.cli.output import printable, progress, show_json

SUMMARY = "compile kernels ahead of the first call"

DESCRIPTION = """\
Compiles kernels and keeps them in the cache, so that no later call has to wait
for them. All of them take a minute or two, divided by the number of processes,
so name the functions that you call. What is in the cache already takes
milliseconds.

A variant is a kernel for one type, one kind of target, one set of outputs.
FASTXENT_CACHE_DIR says where the cache is, if not in the user's cache folder:
an image of a container can be built with a warm one that all its users read.
"""

EXAMPLES = """\
examples:
  %(prog)s --dtype float32 --function cross_entropy softmax
  FASTXENT_CACHE_DIR=/opt/kernels %(prog)s --quiet
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `warmup`."""
    parser.add_argument(
        "--dtype", nargs="+", choices=options.KERNEL_TYPES, default=["float32", "float64"],
        metavar="TYPE", help=f"types of the first argument, of {', '.join(options.KERNEL_TYPES)} "
        "(default: float32 float64)",
    )  # fmt: skip
    functions = [name for name in reference.__all__ if name != "LinearGrad"]
    parser.add_argument(
        "--function", nargs="+", choices=functions, metavar="NAME",
        help=f"functions to compile for, of {', '.join(functions)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--processes", type=positive(int), default=None, metavar="N",
        help="the largest number of processes (default: as many as fastxent would take threads)",
    )  # fmt: skip
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Compile, then print the number of variants, the time and the cache folder."""
    variants = 0
    start = time.perf_counter()
    with progress("compiling", quiet=args.quiet) as step:

        def count(done: int, total: int) -> None:
            nonlocal variants
            variants = total
            step(done, total)

        fx.warmup(args.dtype, functions=args.function, progress=count, processes=args.processes)
    seconds = time.perf_counter() - start
    cache = machine.cache()
    if args.json:
        show_json({"fastxent": fx.__version__, "variants": variants, "seconds": seconds,
                   "cache": cache})  # fmt: skip
        return 0
    place = printable(cache["path"] or "none")
    if cache["obstacle"]:
        place += f" (nothing new is kept: {cache['obstacle']})"
    plural = "s" * (variants != 1)
    print(f"{variants} variant{plural} of kernels ready after {seconds:.1f} s; cache: {place}")
    return 0
