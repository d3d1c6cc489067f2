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
Compiles kernels into the cache, so that later calls only load them. All of them
take a minute or two, divided by the number of processes, so name the functions
that you call. Kernels that are in the cache already take milliseconds.

A variant is a kernel for one type, one kind of target and one set of outputs.
FASTXENT_CACHE_DIR sets the cache folder; the default is in the user's cache
folder. A container image can be built with a warm cache for all its users.
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
        metavar="TYPE", help="types of the first argument, among "
        f"{', '.join(options.KERNEL_TYPES)} (default: float32 float64)",
    )  # fmt: skip
    functions = [name for name in reference.__all__ if name != "LinearGrad"]
    parser.add_argument(
        "--function", nargs="+", choices=functions, metavar="NAME",
        help=f"functions to compile for, among {', '.join(functions)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--processes", type=positive(int), default=None, metavar="N",
        help="the largest number of processes (default: the number of threads of a call)",
    )  # fmt: skip
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Compile kernels, then print the number of variants, the time and the cache folder."""
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
        place += f" (not writable: {cache['obstacle']})"
    plural = "s" * (variants != 1)
    print(f"{variants} variant{plural} of kernels ready after {seconds:.1f} s; cache: {place}")
    return 0
