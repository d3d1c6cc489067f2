"""`bench`: a short benchmark of fastxent and other libraries on this machine."""

import argparse
import itertools
import sys

import fastxent as fx
from fastxent.bench import record
from fastxent.bench.cases import Case, heats
from fastxent.bench.peers import PEERS
from fastxent.bench.race import Race
from fastxent.cli.options import add_output, new_file, positive
from fastxent.cli.output import installed, progress, show_json, show_table

SUMMARY = "compare the time of loss and gradient with the installed peers"

DESCRIPTION = """\
Times the mean cross-entropy of random logits and its gradient, by fastxent and
by the installed peers: NumPy, SciPy, scikit-learn, PyTorch, JAX, Numba.

Each peer runs in its own process with the same number of threads. Its result
is checked first, then all take turns. `x fastxent` is the time of a peer
divided by that of fastxent with a newly allocated gradient; below 1 the peer
is faster. `of copy` is the speed relative to a plain copy of the logits, which
is limited by memory bandwidth. (N, C) are rows and classes.

Install the peers with:  pip install 'fastxent[peers]'
"""

EXAMPLES = """\
examples:
  %(prog)s
  %(prog)s --shape 4096,32000 --peers torch jax --plot bench.png
  %(prog)s --threads 1 --json > bench.json
"""

ROUNDS = 5
SHAPES = [(32, 10), (65536, 10), (8192, 1000)]
ALWAYS = ["copy", "fastxent"]
OTHERS = [
    "fastxent_out", "numpy_idiom", "numpy_tuned", "scipy", "sklearn", "torch", "torch_compile",
    "jax", "numba",
]  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench`."""
    shapes = "  ".join(f"{n},{c}" for n, c in SHAPES)
    parser.add_argument(
        "--shape", nargs="+", type=shape, default=SHAPES, metavar="N,C",
        help=f"rows and classes of the logits (default: {shapes})",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=["float32", "float64"], default="float32", help="default: %(default)s"
    )
    parser.add_argument(
        "--threads", type=positive(int), default=None, metavar="N",
        help="threads of each peer (default: as many as fastxent uses)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=positive(float), default=0.1, metavar="S",
        help=f"time for each peer in each of {ROUNDS} rounds (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--peers", nargs="*", choices=OTHERS, default=OTHERS, metavar="PEER",
        help=f"peers to compare, among {', '.join(OTHERS)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=new_file, metavar="FILE", help="write the JSON object to a file"
    )
    parser.add_argument(
        "--plot", type=new_file, metavar="FILE", help="draw the results (PNG, SVG or PDF)"
    )
    add_output(parser)


def shape(text: str) -> tuple[int, int]:
    """Argument type of N,C: rows and classes."""
    rows, classes = map(int, text.split(","))
    if rows < 1 or classes < 1:
        raise ValueError
    return rows, classes


def run(args: argparse.Namespace) -> int:
    """Run the races, print the results and write the requested files."""
    if args.plot and not installed("matplotlib"):
        sys.exit("fastxent bench --plot needs matplotlib: pip install 'fastxent[bench]'")
    threads = args.threads or fx.get_num_threads()
    run = record.new(threads)
    peers = ALWAYS + [name for name in OTHERS if name in args.peers]
    races = heats([Case(n, c, args.dtype) for n, c in args.shape], peers)
    ticks = itertools.count(1)
    with progress("racing", quiet=args.quiet) as step, Race(threads) as race:
        step(0, len(races) * ROUNDS)
        for heat in races:
            results = race.run(
                heat, ROUNDS, args.seconds, lambda: step(next(ticks), len(races) * ROUNDS)
            )
            run["results"] += record.rows("bench", results)
        run["versions"] = race.versions
    if args.json:
        show_json(run)
    else:
        show(run["results"], len(peers), threads)
    if args.output:
        record.save(run, args.output)
    if args.plot:
        from fastxent.bench.chart import draw

        draw(run["results"], args.plot)
    failed = [row for row in run["results"] if row["peer"] in ALWAYS and "note" in row]
    return 1 if failed else 0


def show(results: list[record.Row], per_shape: int, threads: int) -> None:
    """Print a table for each shape, then a line for each peer without results."""
    print(f"Mean loss and gradient, threads: {threads}, median of {ROUNDS} rounds.\n")
    for first in range(0, len(results), per_shape):
        heat = results[first : first + per_shape]
        ours = next(row for row in heat if row["peer"] == "fastxent")
        head = f"({ours['rows']}, {ours['classes']}) {ours['dtype']}"
        timed = [row for row in heat if "note" not in row]
        show_table((head, "time", "x fastxent", "of copy"), [cells(row, ours) for row in timed])
    notes = {
        f"{PEERS[row['peer']].name} left out: {row['note']}": 0 for row in results if "note" in row
    }
    print(*notes, sep="\n", end="\n" * bool(notes))


def cells(row: record.Row, ours: record.Row) -> tuple[str, str, str, str]:
    """A row of the table: peer, time, ratio, speed relative to the copy."""
    times = f"{record.ratio(row, ours):.2f}" if "note" not in ours else ""
    of_copy = f"{row['share_of_copy']:.0%}" if "share_of_copy" in row else ""
    return PEERS[row["peer"]].name, record.duration(row["median"]), times, of_copy
