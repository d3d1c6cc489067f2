"""`demo`: multinomial logistic regression on handwritten digits, beside scikit-learn and NumPy.

The pipeline is `Objective` (x -> logits -> softmax -> loss -> gradients of W and b) and `minimise`
(gradients -> update of W and b). The rest loads the data, checks the results and shows them.

scikit-learn is imported where it is used; so is rich, which only makes a terminal prettier.
"""

import argparse
import contextlib
import importlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastxent as fx
from fastxent.cli.options import add_output, positive
from fastxent.cli.output import installed, show_json, show_table, status_line

Array = NDArray[Any]
Report = Callable[[int, float, float], None]  # iteration, objective, norm of its gradient

SUMMARY = "fit handwritten digits; compare with scikit-learn and NumPy"

DESCRIPTION = """\
Fits multinomial logistic regression to scikit-learn's handwritten digits

    logits = x W^T + b,    minimise  mean loss + ||W||^2 / (2 C N)  with C = 1

by Nesterov's gradient method on fastxent.linear_cross_entropy, which gives
the loss and the gradients of W and b in one call. Then it shows

  * accuracy and loss beside those of sklearn.linear_model.LogisticRegression:
    the problem is convex, so both must find the same optimum;
  * the time of one evaluation of loss and gradient beside that of the usual
    lines of NumPy, once both have given the same numbers. A speed-up below 1
    says that fastxent is slower.

Needs scikit-learn:  pip install 'fastxent[demo]'
"""

EXAMPLES = """\
examples:
  %(prog)s
  %(prog)s --tol 1e-4                 # stop sooner
  %(prog)s --json --quiet > demo.json
"""

C = 1.0  # the inverse strength of the penalty, in scikit-learn's words
LOSS_TOLERANCE = 1e-4  # relative, between the two fits
LARGE = (8192, 1000)  # logits, for a timing where memory counts
ROUNDS, LARGE_ROUNDS = 101, 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `demo`."""
    parser.add_argument(
        "--max-iter", type=positive(int), default=10_000, metavar="N",
        help="give up after N iterations (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--tol", type=positive(float), default=1e-6, metavar="EPS",
        help="converged when the 2-norm of the gradient is below EPS (default: %(default)s)",
    )  # fmt: skip
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Fit twice and compare; then evaluate twice and compare the times."""
    if not installed("sklearn"):
        sys.exit("fastxent demo needs scikit-learn: pip install 'fastxent[demo]'")
    digits = load_digits()
    # Matrix products of this size gain next to nothing from BLAS's threads, and where another
    # program is busy those wait for one another for longer than a whole evaluation takes.
    # threadpoolctl comes with scikit-learn.
    with importlib.import_module("threadpoolctl").threadpool_limits(1, user_api="blas"):
        with progress(args.tol, quiet=args.quiet) as report:
            ours = fit_fastxent(digits, args.max_iter, args.tol, report)
        theirs = fit_scikit_learn(digits)
        if not args.json:
            show_fits(digits, ours, theirs)
        require_agreement(ours, theirs)
        speeds = [time_large(), time_digits(digits)]
    if args.json:
        show_json(document(digits, ours, theirs, speeds))
    else:
        show_speeds(speeds)
    return 0


# --- the data -------------------------------------------------------------------------------


class Digits(NamedTuple):
    """Images as rows of pixels in 0 .. 1, with their classes; split the same way every time."""

    x: Array  # (N, K)
    y: Array  # (N,)
    x_test: Array
    y_test: Array
    n_classes: int

    @property
    def penalty(self) -> float:
        """λ: scikit-learn minimises C·Σ loss + ½‖W‖², which is C·N times mean loss + ½λ‖W‖²."""
        return 1.0 / (C * len(self.y))


def load_digits() -> Digits:
    """The handwritten digits that come with scikit-learn: 8 by 8 pixels of 0 .. 16."""
    from sklearn import datasets, model_selection

    pixels, classes = datasets.load_digits(return_X_y=True)
    x, x_test, y, y_test = model_selection.train_test_split(
        pixels / 16.0, classes, random_state=0, stratify=classes
    )
    return Digits(x, y, x_test, y_test, len(np.unique(classes)))


# --- the pipeline ---------------------------------------------------------------------------


class Objective:
    """Mean loss + ½λ‖W‖², with its gradient, as a function of W (C, K) and b (C,).

    The two lie one after the other in a vector θ, as do their gradients in another: an update is
    then one line for both. The buffers are made once; an evaluation fills them.
    """

    def __init__(self, x: Array, y: Array, n_classes: int, penalty: float) -> None:
        self.x, self.y, self.penalty = x, y, penalty
        self.shape = n_classes, x.shape[1]
        self.size = n_classes * (x.shape[1] + 1)
        self.grad = np.empty(self.size)
        self.buffers = fx.LinearGrad(None, *self.weight_and_bias(self.grad))

    def weight_and_bias(self, theta: Array) -> tuple[Array, Array]:
        """W and b as views of θ."""
        n_weights = math.prod(self.shape)
        return theta[:n_weights].reshape(self.shape), theta[n_weights:]

    def __call__(self, theta: Array) -> tuple[float, Array]:
        """Value and gradient at θ; the next call overwrites the gradient."""
        weight, bias = self.weight_and_bias(theta)
        loss, (_, grad_weight, _) = fx.linear_cross_entropy(
            self.x, weight, self.y, linear_bias=bias, wrt=("linear_weight", "linear_bias"),
            grad_out=self.buffers,
        )  # fmt: skip
        grad_weight += self.penalty * weight  # a view of self.grad
        return float(loss + 0.5 * self.penalty * np.vdot(weight, weight)), self.grad

    def lipschitz_constant(self) -> float:
        """A bound L on the Hessian, so that a step of 1/L never overshoots.

        In the logits of a row the Hessian is diag(p) - p pᵀ ≤ ½ (D. Böhning, 1992); the map
        [x, 1] from θ to the logits multiplies that by its largest singular value squared.
        """
        mapping = np.column_stack([self.x, np.ones(len(self.x))])
        return float(0.5 * np.linalg.norm(mapping, 2) ** 2 / len(self.x) + self.penalty)


class Minimum(NamedTuple):
    """Where a descent ended."""

    theta: Array
    value: float
    iterations: int


def minimise(objective: Objective, *, max_iter: int, tol: float, report: Report) -> Minimum:
    """Nesterov's accelerated gradient descent from θ = 0, with restarts.

    Y. Nesterov, "A method for solving the convex programming problem with convergence rate
    O(1/k²)", 1983; B. O'Donoghue and E. Candès, arXiv:1204.3982, for the restarts.
    """
    step = 1.0 / objective.lipschitz_constant()
    theta = ahead = np.zeros(objective.size)
    iteration = age = 0
    while True:
        iteration += 1
        value, grad = objective(ahead)
        grad_norm = float(np.linalg.norm(grad))
        report(iteration, value, grad_norm)
        if grad_norm < tol or iteration == max_iter:
            return Minimum(ahead, value, iteration)
        moved = ahead - step * grad
        velocity = moved - theta
        if grad @ velocity > 0:  # uphill: momentum has carried θ past the minimum, so drop it
            age = 0
        theta, ahead = moved, moved + age / (age + 3) * velocity
        age += 1


# --- the same problem, fitted twice ---------------------------------------------------------


class Fit(NamedTuple):
    """What a fit is judged by, and what it took."""

    accuracy: float
    test_loss: float
    objective: float
    iterations: int
    seconds: float


def fit_fastxent(digits: Digits, max_iter: int, tol: float, report: Report) -> Fit:
    """Fit by `minimise`, judge by `linear_cross_entropy`."""
    objective = Objective(digits.x, digits.y, digits.n_classes, digits.penalty)
    objective(np.zeros(objective.size))  # compiles, or loads what an earlier run has compiled
    start = time.perf_counter()
    minimum = minimise(objective, max_iter=max_iter, tol=tol, report=report)
    seconds = time.perf_counter() - start
    weight, bias = objective.weight_and_bias(minimum.theta)
    test_loss, predicted = fx.linear_cross_entropy(
        digits.x_test, weight, digits.y_test, linear_bias=bias, return_argmax=True
    )
    accuracy = float(np.mean(predicted == digits.y_test))
    return Fit(accuracy, float(test_loss), minimum.value, minimum.iterations, seconds)


def fit_scikit_learn(digits: Digits) -> Fit:
    """Fit by scikit-learn and judge by scikit-learn: nothing of fastxent takes part."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    model = LogisticRegression(C=C, tol=1e-8, max_iter=10_000)
    start = time.perf_counter()
    model.fit(digits.x, digits.y)
    seconds = time.perf_counter() - start
    loss = log_loss(digits.y, model.predict_proba(digits.x))
    test_loss = log_loss(digits.y_test, model.predict_proba(digits.x_test))
    objective = loss + 0.5 * digits.penalty * np.vdot(model.coef_, model.coef_)
    accuracy = model.score(digits.x_test, digits.y_test)
    return Fit(accuracy, test_loss, float(objective), int(model.n_iter_[0]), seconds)


def require_agreement(ours: Fit, theirs: Fit) -> None:
    """Exit with the reason unless both fits are at the same optimum."""
    losses = (ours.test_loss, theirs.test_loss), (ours.objective, theirs.objective)
    same_losses = all(math.isclose(*pair, rel_tol=LOSS_TOLERANCE) for pair in losses)
    if not same_losses or ours.accuracy != theirs.accuracy:
        sys.exit(
            f"fastxent demo: after {ours.iterations} iterations the fit differs from "
            "scikit-learn's\n(is --max-iter too small, or --tol too large?)"
        )


# --- one evaluation of loss and gradient, timed twice ---------------------------------------


def numpy_cross_entropy(logits: Array, target: Array) -> tuple[Any, Array]:
    """Mean loss and its gradient with respect to the logits, in the usual lines of NumPy."""
    rows = np.arange(len(target))
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    loss = -np.log(probs[rows, target]).mean()
    probs[rows, target] -= 1
    probs /= len(target)
    return loss, probs


def numpy_linear_cross_entropy(
    x: Array, weight: Array, bias: Array, target: Array
) -> tuple[Any, fx.LinearGrad]:
    """Mean loss and its gradients with respect to x, W and b, likewise."""
    loss, d = numpy_cross_entropy(x @ weight.T + bias, target)
    return loss, fx.LinearGrad(d @ weight, d.T @ x, d.sum(axis=0))


class Speed(NamedTuple):
    """Median seconds of one evaluation."""

    case: str
    fastxent: float
    numpy: float


def time_digits(digits: Digits) -> Speed:
    """The evaluation that the fit is made of: so small that products and overheads weigh most."""
    x, y = digits.x, digits.y
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((digits.n_classes, x.shape[1]))
    bias = rng.standard_normal(digits.n_classes)
    buffers = fx.LinearGrad(np.empty_like(x), np.empty_like(weight), np.empty_like(bias))

    def ours() -> tuple[Any, ...]:
        loss, grad = fx.linear_cross_entropy(
            x, weight, y, linear_bias=bias, return_grad=True, grad_out=buffers
        )
        return loss, *grad

    def theirs() -> tuple[Any, ...]:
        loss, grad = numpy_linear_cross_entropy(x, weight, bias, y)
        return loss, *grad

    case = f"digits: x {x.shape}, W {weight.shape}, {x.dtype}"
    return compare(case, ours, theirs, tolerance=1e-12, rounds=ROUNDS)


def time_large() -> Speed:
    """A batch whose logits fit into no cache: each pass over them is paid for."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(LARGE, np.float32)
    target = rng.integers(0, LARGE[1], LARGE[0])
    buffer = np.empty_like(logits)
    return compare(
        f"random logits {LARGE}, {logits.dtype}",
        lambda: fx.cross_entropy(logits, target, return_grad=True, grad_out=buffer),
        lambda: numpy_cross_entropy(logits, target),
        tolerance=1e-5,
        rounds=LARGE_ROUNDS,
    )


def compare(
    case: str,
    ours: Callable[[], tuple[Any, ...]],
    theirs: Callable[[], tuple[Any, ...]],
    *,
    tolerance: float,
    rounds: int,
) -> Speed:
    """Median times of two functions that are first seen to return the same numbers."""
    for got, expected in zip(ours(), theirs(), strict=True):
        error = np.max(np.abs(got - expected)) / np.max(np.abs(expected))
        if not error <= tolerance:  # so that nan fails too
            sys.exit(f"fastxent demo: {case}: differs from NumPy by {error:.1e} (relative)")
    times = np.empty((rounds, 2))
    for row in times:  # in turn, so that a slow spell of the machine hits both
        for k, function in enumerate((ours, theirs)):
            function()  # as in a training loop: its data in cache and its threads awake
            start = time.perf_counter()
            function()
            row[k] = time.perf_counter() - start
    return Speed(case, *np.median(times, axis=0).tolist())


# --- what is shown --------------------------------------------------------------------------


def show_fits(digits: Digits, ours: Fit, theirs: Fit) -> None:
    """Both fits, side by side."""
    rows = [
        ("test accuracy", f"{ours.accuracy:.4f}", f"{theirs.accuracy:.4f}"),
        ("test loss", f"{ours.test_loss:.5f}", f"{theirs.test_loss:.5f}"),
        ("train objective", f"{ours.objective:.5f}", f"{theirs.objective:.5f}"),
        ("method", "Nesterov", "L-BFGS"),
        ("iterations", f"{ours.iterations}", f"{theirs.iterations}"),
        ("seconds", f"{ours.seconds:.2f}", f"{theirs.seconds:.2f}"),
    ]
    sizes = f"{len(digits.y)} digits to fit, {len(digits.y_test)} to test"
    show_table((sizes, "fastxent", "scikit-learn"), rows)
    print("Plain gradient steps, to show the update; L-BFGS gets there in fewer.\n")


def show_speeds(speeds: Sequence[Speed]) -> None:
    """Both times of each case, and their ratio, whoever wins."""
    rows = [
        (case, f"{ours * 1e3:.2f} ms", f"{theirs * 1e3:.2f} ms", f"{theirs / ours:.2f}x")
        for case, ours, theirs in speeds
    ]
    show_table(("one loss and gradient (median)", "fastxent", "NumPy", "speed-up"), rows)
    print("At the digits' size both mostly wait for matrix products; large batches gain.")
    threads = fx.get_num_threads()
    print(f"Threads: fastxent at most {threads}, NumPy 1; matrix products of both 1.")


def document(digits: Digits, ours: Fit, theirs: Fit, speeds: Sequence[Speed]) -> dict[str, Any]:
    """The same as data."""
    return {
        "fastxent": fx.__version__,
        "threads": fx.get_num_threads(),
        "digits": {"train": len(digits.y), "test": len(digits.y_test)},
        "fits": {"fastxent": ours._asdict(), "scikit-learn": theirs._asdict()},
        "evaluations": [
            {
                "case": speed.case,
                "fastxent_seconds": speed.fastxent,
                "numpy_seconds": speed.numpy,
                "speed_up": speed.numpy / speed.fastxent,
            }
            for speed in speeds
        ],
    }


@contextlib.contextmanager
def progress(tol: float, *, quiet: bool) -> Iterator[Report]:
    """A line on stderr that follows the descent, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda iteration, value, grad_norm: None
        return
    if installed("rich"):
        with _bar(tol) as report:
            yield report
    else:
        with status_line(_FIRST_STATUS) as show:
            yield lambda *step: show(_status(*step))


_FIRST_STATUS = "compiling, if this is the first run"


def _status(iteration: int, value: float, grad_norm: float) -> str:
    return f"iteration {iteration:5d}  objective {value:.6f}  |gradient| {grad_norm:.1e}"


@contextlib.contextmanager
def _bar(tol: float) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = BarColumn(bar_width=None), TextColumn("{task.description}")
    first_norm = done = 0.0
    with Progress(*columns, console=Console(stderr=True), expand=True) as bar:
        task = bar.add_task(_FIRST_STATUS, total=1.0)

        def report(iteration: int, value: float, grad_norm: float) -> None:
            nonlocal first_norm, done
            first_norm = first_norm or grad_norm
            # The norm falls by a constant factor an iteration, more or less: a bar of its
            # logarithm moves evenly. It wavers on its way down; the bar does not go back.
            if grad_norm > tol:
                done = max(done, math.log(first_norm / grad_norm) / math.log(first_norm / tol))
            else:
                done = 1.0
            bar.update(task, completed=done, description=_status(iteration, value, grad_norm))

        yield report
