"""Time boosting objectives beside NumPy: `python bench/boosting.py --output FILE.json`.

Each objective is called as its library calls it: XGBoost passes row-major float32, LightGBM
column-major float64. NumPy computes the usual formula in that type, in place where possible. Each
side has a process of its own; they take turns, and a ratio is computed within each round.
"""

import argparse
import contextlib
import functools
import multiprocessing
import statistics
import time

import numpy as np

import fastxent as fx
from fastxent.bench import record
from fastxent.cli.options import new_file
from fastxent.integrations.boosting import lightgbm_softmax, xgboost_softmax

TOLERANCE = 2e-6


def softmax_of(preds, y):
    """Probabilities, and the index of the labels in them."""
    p = preds - preds.max(axis=1, keepdims=True)
    np.exp(p, out=p)
    p /= p.sum(axis=1, keepdims=True)
    return p, (np.arange(len(y)), y.astype(np.int64))


def numpy_xgboost(y, preds):
    """Gradient and Hessian as XGBoost defines them."""
    p, at = softmax_of(preds, y)
    hess = np.maximum(2 * p * (1 - p), np.float32(1e-16))
    p[at] -= 1
    return p, hess


def numpy_lightgbm(y, preds):
    """Gradient and Hessian as LightGBM defines them; LightGBM rounds them to float32."""
    p, at = softmax_of(preds, y)
    hess = preds.shape[1] / (preds.shape[1] - 1) * p * (1 - p)
    p[at] -= 1
    return p, hess


LIBRARIES = {
    "xgboost": (np.float32, "C", xgboost_softmax, numpy_xgboost),
    "lightgbm": (np.float64, "F", lightgbm_softmax, numpy_lightgbm),
}


def begin(library, side, rows, classes):
    """Initialise a process: create the call that `answer` and `seconds` use."""
    global call
    dtype, order, ours, numpys = LIBRARIES[library]
    rng = np.random.default_rng(0)
    preds = np.asarray(3 * rng.standard_normal((rows, classes)), dtype, order)
    labels = rng.integers(0, classes, rows).astype(np.float32)
    call = functools.partial({"numpy": numpys, "fastxent": ours}[side], labels, preds)


def answer():
    """Gradient and Hessian."""
    return call()


def seconds():
    """Median seconds of the calls in 0.1 s; freeing results is not timed."""
    took, end = [], time.perf_counter() + 0.1
    while not took or time.perf_counter() < end:
        start = time.perf_counter()
        result = call()
        took.append(time.perf_counter() - start)
        del result
    return statistics.median(took)


def race(library, rows, classes, rounds):
    """Check both sides, time them in turns, and return their rows."""
    spawn = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        sides = {
            side: stack.enter_context(spawn.Pool(1, begin, (library, side, rows, classes)))
            for side in ("numpy", "fastxent")
        }
        answers = [pool.apply(answer) for pool in sides.values()]
        errors = [float(np.abs(a - b).max()) for a, b in zip(*answers, strict=True)]
        if max(errors) > TOLERANCE:
            raise RuntimeError(f"{library}: the sides differ by {errors}")
        times = {side: [] for side in sides}
        for _ in range(rounds):
            for side, pool in sides.items():
                times[side].append(pool.apply(seconds))
    case = {"group": "boosting", "job": library, "rows": rows, "classes": classes,
             "dtype": np.dtype(LIBRARIES[library][0]).name}  # fmt: skip
    return [case | {"peer": side} | record.summary(times[side]) for side in times]


def main():
    """Time both libraries' objectives, print the ratios, save the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=new_file, required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--classes", type=int, nargs="+", default=[10])
    parser.add_argument("--rounds", type=int, default=21)
    args = parser.parse_args()
    run = record.new(fx.get_num_threads())
    run["versions"] = {"numpy": np.__version__}
    print(f"{'':10}{'(N, K)':>14}{'NumPy, ms':>12}{'fastxent, ms':>14}{'x':>7}   quartiles")
    for library in LIBRARIES:
        for classes in args.classes:
            theirs, ours = sides = race(library, args.rows, classes, args.rounds)
            run["results"] += sides
            pairs = zip(theirs["seconds"], ours["seconds"], strict=True)
            low, middle, high = np.quantile([a / b for a, b in pairs], (0.25, 0.5, 0.75))
            print(
                f"{library:10}{f'({args.rows}, {classes})':>14}{theirs['median'] * 1e3:12.2f}"
                f"{ours['median'] * 1e3:14.2f}{middle:7.2f}   {low:.2f} to {high:.2f}"
            )
    record.save(run, args.output)


if __name__ == "__main__":
    main()
