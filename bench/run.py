"""Run all benchmarks, or some groups: `python bench/run.py --output bench/results/<name>.json`."""

import argparse
import itertools
from dataclasses import replace

import fastxent as fx
from fastxent.bench import record, startup
from fastxent.bench.cases import GROUPS, Case, Group
from fastxent.bench.race import Race
from fastxent.cli.options import new_file
from fastxent.cli.output import progress

STARTUP_ROUNDS = 3
QUICK_SIZE = 100_000  # logits
QUICK_IMAGE = 16  # height and width of an image


def quick(group: Group) -> Group:
    """The group on small shapes, to test that everything runs; the times mean nothing."""
    heats = tuple(
        tuple(replace(entry, case=_small(entry.case)) for entry in heat) for heat in group.heats
    )
    return replace(group, heats=heats, rounds=2, seconds=0.001)


def _small(case: Case) -> Case:
    image = min(case.image, QUICK_IMAGE)
    rows = min(case.rows, max(QUICK_SIZE // case.classes, 1))
    return replace(case, rows=rows - rows % max(image**2, 1), image=image)  # whole images


def main() -> None:
    """Run the requested groups and save the record after each of them."""
    names = [*GROUPS, "startup"]  # "warmup" takes minutes
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=new_file, required=True, help="the record, as JSON")
    parser.add_argument("--threads", type=int, default=fx.get_num_threads(), help="of every peer")
    parser.add_argument("--quick", action="store_true", help="small shapes; times mean nothing")
    parser.add_argument(
        "--groups", nargs="+", choices=[*names, "warmup"], default=names,
        help="default: all but warmup, which compiles every kernel",
    )  # fmt: skip
    args = parser.parse_args()
    run = record.new(args.threads)
    with Race(args.threads) as race:
        for name in filter(GROUPS.__contains__, args.groups):
            group = quick(GROUPS[name]) if args.quick else GROUPS[name]
            run["results"] += run_group(race, name, group)
            run["versions"] = race.versions
            record.save(run, args.output)
    if {"startup", "warmup"} & set(args.groups):  # when no worker is left to interfere
        run["startup"] = run_startup(args.groups, 1 if args.quick else STARTUP_ROUNDS)
    record.save(run, args.output)


def run_startup(groups: list[str], rounds: int) -> dict[str, record.Row]:
    """Time first calls in fresh processes, and with "warmup" the compilation of all kernels."""
    sides = startup.SIDES if "startup" in groups else startup.BASE
    times = startup.measure(rounds, sides | (startup.EVERYTHING if "warmup" in groups else {}))
    return {side: record.summary(seconds) for side, seconds in times.items()}


def run_group(race: Race, name: str, group: Group) -> list[record.Row]:
    """Run all heats of a group and show progress; each row has the number of its heat."""
    rows, ticks, total = [], itertools.count(1), len(group.heats) * group.rounds
    with progress(name) as step:
        for number, heat in enumerate(group.heats):
            results = race.run(heat, group.rounds, group.seconds, lambda: step(next(ticks), total))
            rows += [row | {"heat": number} for row in record.rows(name, results)]
    return rows


if __name__ == "__main__":
    main()
