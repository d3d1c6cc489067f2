"""`demo`: multinomial logistic regression on digits, compared with scikit-learn and NumPy.

Start reading with `pipeline.py`: from features to the update of the weights. `data.py` loads the
digits and makes a larger problem, `fits.py` fits both, by the steps of the pipeline and by the
estimators of both libraries, `timing.py` times one evaluation, `progress.py` and `presentation.py`
print.

scikit-learn is imported where it is used, and so is rich, which formats output on terminals.
"""

import argparse
import importlib
import sys

from fastxent.cli.demo.data import Data, load_digits, make_larger
from fastxent.cli.demo.fits import (
    Fit,
    estimators,
    fit_by_steps,
    fit_estimator,
    require_agreement,
)
from fastxent.cli.demo.presentation import document, show_fits, show_speeds
from fastxent.cli.demo.progress import steps
from fastxent.cli.demo.timing import time_digits, time_large
from fastxent.cli.options import add_output, positive
from fastxent.cli.output import installed, progress, show_json

SUMMARY = "fit handwritten digits, and compare with scikit-learn and NumPy"

DESCRIPTION = """\
Fits multinomial logistic regression to scikit-learn's handwritten digits

    logits = x W^T + b,    minimise  mean loss + ||W||^2 / (2 C N)  with C = 1

by Nesterov's gradient method on fastxent.linear_cross_entropy, which returns
the loss and the gradients of W and b in one call. The problem is convex, so
all methods must find the same optimum. It shows

  * accuracy and loss of these steps, of
    fastxent.integrations.sklearn.LogisticRegression and of scikit-learn's own;
  * both estimators on a larger problem, 18,000 rows of 20 classes;
  * the time of one evaluation of loss and gradient by fastxent and by plain
    NumPy, after a check that their results are equal. A speed-up below 1 means
    that fastxent is slower.

Needs scikit-learn:  pip install 'fastxent[demo]'
"""

EXAMPLES = """\
examples:
  %(prog)s
  %(prog)s --tol 1e-4                 # stop sooner
  %(prog)s --json --quiet > demo.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `demo`."""
    parser.add_argument(
        "--max-iter", type=positive(int), default=10_000, metavar="N",
        help="stop after N iterations (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--tol", type=positive(float), default=1e-6, metavar="EPS",
        help="stop when the 2-norm of the gradient is below EPS (default: %(default)s)",
    )  # fmt: skip
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Fit the digits and a larger problem, compare, then time one evaluation."""
    if not installed("sklearn"):
        sys.exit("fastxent demo needs scikit-learn: pip install 'fastxent[demo]'")
    data: dict[str, Data] = {"digits": load_digits(), "larger": make_larger()}
    fits: dict[str, dict[str, Fit]] = {}
    # BLAS threads gain almost nothing for matrix products of this size, and on a busy machine they
    # wait for one another longer than an evaluation takes. scikit-learn requires threadpoolctl.
    with importlib.import_module("threadpoolctl").threadpool_limits(1, user_api="blas"):
        with steps(args.tol, quiet=args.quiet) as report:
            by_steps = fit_by_steps(data["digits"], args.max_iter, args.tol, report)
        for name, tol in (("digits", 1e-8), ("larger", 1e-4)):
            fits[name] = {"plain steps": by_steps} if name == "digits" else {}
            for library, kind in estimators().items():
                with progress(f"{library}: iteration", quiet=args.quiet) as step:
                    fits[name][library] = fit_estimator(kind, data[name], tol, step)
            if not args.json:
                show_fits(_title(name, data[name]), fits[name])
            for fit in fits[name].values():
                require_agreement(fit, fits[name]["scikit-learn"])
        speeds = [time_large(), time_digits(data["digits"])]
    if args.json:
        show_json(document(data, fits, speeds))
    else:
        show_speeds(speeds)
    return 0


def _title(name: str, data: Data) -> str:
    return f"{name}: {len(data.y)} to fit, {len(data.y_test)} to test"
