"""Time LogisticRegression of fastxent beside scikit-learn's: a fit, and the parts of a step.

Each side has a process of its own, and fits alternate between them. Both make the same number of
iterations with the default number of BLAS threads, and reach the same coefficients. The parts are
those of one evaluation of the objective and its gradient.

    python bench/estimator.py --output bench/results/estimator/DATE-CPU.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from typing import Any

import numpy as np
import scipy
import sklearn
import threadpoolctl
from sklearn._loss.loss import HalfMultinomialLoss
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model._linear_loss import LinearModelLoss

import fastxent as fx
from fastxent.bench import record
from fastxent.cli.options import new_file
from fastxent.integrations import sklearn as integration

# Rows, features, classes, type, solver, iterations (0: until it converges).
CASES = [
    (60_000, 100, 10, "float64", "lbfgs", 25),
    (60_000, 100, 10, "float32", "lbfgs", 25),
    (20_000, 100, 100, "float64", "lbfgs", 15),
    (20_000, 100, 100, "float32", "lbfgs", 15),
    (8000, 128, 1000, "float64", "lbfgs", 8),
    (8000, 128, 1000, "float32", "lbfgs", 8),
    (60_000, 100, 2, "float64", "lbfgs", 25),
    (20_000, 100, 100, "float64", "newton-cg", 3),
    (1797, 64, 10, "float64", "lbfgs", 0),
    (1797, 64, 10, "float64", "newton-cg", 0),
]
CLASSES = {"fastxent": integration.LogisticRegression, "scikit_learn": LogisticRegression}
# Each with the default number of threads, and with one thread for the BLAS library of SciPy.
SIDES = "fastxent", "scikit_learn", "fastxent_limited", "scikit_learn_limited"
REPEATS = 5  # evaluations in a round, which counts their median


def problem(n: int, n_features: int, n_classes: int, dtype: str) -> tuple[Any, Any]:
    """Rows around a centre for each class; for 1797 rows, the digits of scikit-learn."""
    if n == 1797:
        pixels, labels = load_digits(return_X_y=True)
        return (pixels / 16).astype(dtype), labels
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(n_classes, n_features))
    y = rng.integers(0, n_classes, n)
    return (0.3 * centres[y] + rng.normal(size=(n, n_features))).astype(dtype), y


def seconds(call: Any) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def parts(side: str, x: Any, y: Any, n_classes: int) -> dict[str, Any]:
    """Calls to time: a whole evaluation, its two matrix products, its loss."""
    rng, target = np.random.default_rng(0), y.astype(x.dtype)
    coef = 0.1 * rng.normal(size=n_classes * (x.shape[1] + 1))
    base = HalfMultinomialLoss(n_classes=n_classes)
    kind = integration._Objective if side == "fastxent" else LinearModelLoss
    objective = kind(base, fit_intercept=True)
    weights = coef.reshape((n_classes, -1), order="F")[:, :-1].astype(x.dtype)
    logits, grad = x @ weights.T, np.empty((len(x), n_classes), x.dtype)
    losses = np.empty(len(x), x.dtype)
    if side == "fastxent":

        def loss() -> Any:
            return fx.cross_entropy(logits, y, grad_out=grad)
    else:

        def loss() -> Any:
            return base.loss_gradient(target, logits, None, losses, grad)

    def products() -> None:
        np.matmul(x, weights.T, out=grad)
        grad.T @ x

    whole = {"evaluation": lambda: objective.loss_gradient(coef, x, target, None, 1e-5)}
    return whole | {"products": products, "loss": loss}


def serve(side: str, case: Any) -> None:
    """For each line on stdin, time a fit and the parts of an evaluation; print them as JSON."""
    n, n_features, n_classes, dtype, solver, iterations = case
    x, y = problem(n, n_features, n_classes, dtype)
    model = CLASSES[side.removesuffix("_limited")](solver=solver)
    if iterations:
        model.set_params(max_iter=iterations, tol=0.0)
    has_parts = n_classes > 2 and solver == "lbfgs" and "limited" not in side
    pieces = parts(side, x, y, n_classes) if has_parts else {}
    warnings.simplefilter("ignore")  # about the few iterations, which do not converge
    if "limited" in side:
        blas = threadpoolctl.ThreadpoolController()
        paths = [library.filepath for library in blas.lib_controllers]
        blas.select(filepath=[path for path in paths if "scipy.libs" in path]).limit(limits=1)
    for _ in sys.stdin:
        found: dict[str, Any] = {"fit": seconds(lambda: model.fit(x, y))}
        for name, call in pieces.items():
            found[name] = statistics.median(seconds(call) for _ in range(REPEATS))
        print(json.dumps([found, int(model.n_iter_[0]), model.coef_[0, :5].tolist()]), flush=True)


def ask(process: subprocess.Popen[str]) -> Any:
    """Request a round from a process and return its answer."""
    assert process.stdin and process.stdout
    print(file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())


def measure(case: Any, rounds: int) -> list[dict[str, Any]]:
    """Measure a case: a row for each side's fits and for each part."""
    shape = dict(zip(("n", "features", "c", "dtype", "solver"), case[:5], strict=True))
    processes = {
        side: subprocess.Popen(
            [sys.executable, __file__, "--serve", side, json.dumps(case)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for side in SIDES
    }  # fmt: skip
    took: dict[tuple[str, str], list[float]] = {}
    for k in range(rounds + 1):
        answers = {}
        for side in SIDES[:: 1 if k % 2 else -1]:
            found, *answers[side] = ask(processes[side])
            if k:  # the first round loads kernels
                for job, time_ in found.items():
                    took.setdefault((job, side), []).append(time_)
        (n_iter, ours), (n_theirs, theirs) = answers["fastxent"], answers["scikit_learn"]
        # Rounding matters more in float32, and in the conjugate gradients of newton-cg.
        is_exact = case[3] == "float64" and case[4] == "lbfgs"
        np.testing.assert_allclose(ours, theirs, 0, 1e-5 if is_exact else 1e-2)
        if n_iter != n_theirs:
            print(f"{n_iter} iterations beside {n_theirs}")
    for process in processes.values():
        process.communicate()
    return [
        {"group": "estimator", "job": job, "peer": side, "iterations": n_iter}
        | shape | record.summary(times)
        for (job, side), times in took.items()
    ]  # fmt: skip


def main() -> None:
    """Measure each case, print the results and save them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=new_file)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve[0], json.loads(args.serve[1]))
        return
    rows = []
    for case in CASES:
        found = measure(case, args.rounds)
        rows += found
        for row in found:
            peer = row["peer"].replace("scikit_learn", "fastxent")
            ours = next(r for r in found if r["job"] == row["job"] and r["peer"] == peer)
            print(f"{case!s:52} {row['job']:10} {row['peer']:20} {row['median'] * 1e3:9.2f} ms "
                  f"{record.ratio(row, ours):6.2f} x", flush=True)  # fmt: skip
    if args.output:
        run = record.new(threads=fx.get_num_threads())
        run["versions"] = {"sklearn": sklearn.__version__, "scipy": scipy.__version__}
        run["results"] = rows
        record.save(run, args.output)


if __name__ == "__main__":
    main()
