"""`demo`: multinomial logistic regression on handwritten digits, beside scikit-learn and NumPy.

Begin with `pipeline.py`: from features to the update of the weights. Beside it, `data.py` loads the
digits, `fits.py` fits them with both libraries, `timing.py` times one evaluation, `progress.py` and
`presentation.py` print.

scikit-learn is imported where it is used; so is rich, which only makes a terminal prettier.
"""

import argparse
import importlib
import sys

from fastxent.cli.demo.data import load_digits
from fastxent.cli.demo.fits import fit_fastxent, fit_scikit_learn, require_agreement
from fastxent.cli.demo.presentation import document, show_fits, show_speeds
from fastxent.cli.demo.progress import progress
from fastxent.cli.demo.timing import time_digits, time_large
from fastxent.cli.options import add_output, positive
from fastxent.cli.output import installed, show_json

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
    """Fit with both libraries and compare; then time one evaluation of each and compare."""
    if not installed("sklearn"):
        sys.exit("fastxent demo needs scikit-learn: pip install 'fastxent[demo]'")
    digits = load_digits()
    # BLAS threads gain almost nothing for matrix products of this size, and on a busy machine
    # they wait for one another longer than a whole evaluation takes. threadpoolctl comes with
    # scikit-learn.
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
