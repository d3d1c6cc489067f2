"""Times of fastxent, its peers and a copy, taken in turns."""

import functools
import itertools
import time

import numpy as np

from fastxent.bench import record
from fastxent.bench.peers import numpy_idiom
from gpu_bench.arrays import Arrays
from gpu_bench.cases import Shape, bytes_moved
from gpu_bench.rows import failure, rounded
from gpu_bench.sides import all_sides
from gpu_bench.timing import first_call

NUMPY_SIZE = 1 << 22  # logits for NumPy on the host


def race(gpu, shape, dtype, job, peers, rounds):
    """A row for each side; in a round each side is timed once, on the next set of arrays."""
    base = {"group": "race", "job": job, **shape.fields, "dtype": dtype}
    try:
        arrays = Arrays(gpu, shape, dtype, job)
    except Exception as problem:
        return [base | {"peer": "fastxent", "note": failure(problem)}]
    sides, rows_of, seconds = all_sides(arrays, job, peers), {}, {}
    for name, call in sides.items():
        rows_of[name] = base | {"peer": name, "sets": len(arrays)}
        try:
            rows_of[name] |= first_call(gpu, functools.partial(call, 0))[1]
            call(1 % len(arrays))
            extra = gpu.extra_bytes(functools.partial(call, 0))
            rows_of[name]["extra_mb"] = round(extra / 1e6, 3)
            seconds[name] = []
        except Exception as problem:
            rows_of[name]["note"] = failure(problem)
    turn = itertools.cycle(range(len(arrays)))
    for _ in range(rounds):
        for name in list(seconds):
            k = next(turn)
            try:
                seconds[name].append(gpu.seconds(functools.partial(sides[name], k)))
                if name == "fastxent_in_place":
                    arrays.renew(k)  # now, so that it has left the caches at its next turn
            except Exception as problem:
                rows_of[name]["note"] = failure(problem)
                del seconds[name]
    return summarised(rows_of, seconds)


def summarised(rows, seconds):
    """The rows with medians, speed, share of the copy's speed, and ratios to the peers."""
    for name, times in seconds.items():
        row = rows[name]
        shape = Shape(row["rows"], row["classes"], row.get("image", 0))
        row |= record.summary(times)
        moved = bytes_moved(row["job"], name, shape, row["dtype"])
        row["bytes"], row["gb_per_s"] = moved, rounded(moved / row["median"] / 1e9)
    for name in seconds:
        if "copy" in seconds:
            row, copy = rows[name], rows["copy"]
            share = record.ratio(copy, row) * row["bytes"] / copy["bytes"]
            row["share_of_copy"] = rounded(share)
        if name.startswith("fastxent"):
            others = [peer for peer in seconds if not peer.startswith("fastxent")]
            rows[name]["ratios"] = {p: rounded(record.ratio(rows[p], rows[name])) for p in others}
    return list(rows.values())


def ceiling(gpu, size, rounds):
    """Bandwidth of a large copy within the GPU's memory, as a row."""
    row = {"group": "ceiling", "peer": "copy", "bytes": 2 * size}
    try:
        source = gpu.logits((size // 4 // 1024, 1024), "float32")
        out = gpu.like(source)
        gpu.copy(source, out)
        times = [gpu.seconds(lambda: gpu.copy(source, out)) for _ in range(rounds)]
    except Exception as problem:
        return row | {"note": failure(problem)}
    row["bytes"] = 2 * (size // 4 // 1024 * 1024 * 4)
    row |= record.summary(times)
    return row | {"gb_per_s": rounded(row["bytes"] / row["median"] / 1e9)}


def numpy_on_the_host(classes, rounds):
    """NumPy on the host, on NUMPY_SIZE logits; not extrapolated to larger shapes."""
    shape = Shape(max(1, NUMPY_SIZE // classes), classes)
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal(shape.logits, np.float32)
    call = numpy_idiom.cross_entropy(logits, rng.integers(0, classes, shape.rows))
    call()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    row = {"group": "host", "job": "cross_entropy", "peer": "numpy_idiom", **shape.fields,
           "dtype": "float32"} | record.summary(times)  # fmt: skip
    moved = bytes_moved("cross_entropy", "numpy_idiom", shape, "float32")
    return row | {"bytes": moved, "gb_per_s": rounded(moved / row["median"] / 1e9)}
