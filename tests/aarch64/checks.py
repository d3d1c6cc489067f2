"""Compare results with the reference for every number of classes: each end of a row, each kernel.

Prints "<number> checks, <number> wrong". A check is one array within the specification's bounds.
"""

import sys

import numpy as np
import remote_compiler  # noqa: F401 - replaces the compiler of this process
from conftest import Bounds, normal, worst

import fastxent as fx
from fastxent import reference


def errors(rng: np.random.Generator, dtype: type, classes: int, order: str):  # type: ignore[no-untyped-def]
    """Yield what was computed of one matrix and its error as a share of its bound."""
    logits = rng.uniform(-10, 10, (37, classes)).astype(dtype)
    labels = rng.integers(0, classes, len(logits))
    exact, rows = logits.astype(np.longdouble), np.arange(len(logits))
    logits = np.asarray(logits, order=order)
    bounds = Bounds(exact, dtype)
    want, want_grad, p = reference.cross_entropy(
        exact, labels, reduction="none", return_grad=True, return_probs=True
    )
    loss, grad, probs = fx.cross_entropy(
        logits, labels, reduction="none", return_grad=True, return_probs=True
    )
    at, here, where = (rows, labels), normal(want, dtype), normal(p, dtype)
    of_loss = bounds.log_probs()[at]
    alone = fx.cross_entropy(logits, labels, reduction="none")
    yield "loss", worst(loss, want, of_loss, here)
    yield "loss alone", worst(alone, want, of_loss, here)
    yield "probabilities", worst(probs, p, bounds.probs(), where)
    yield "softmax", worst(fx.softmax(logits), p, bounds.probs(), where)
    yield (
        "log_softmax",
        worst(fx.log_softmax(logits), reference.log_softmax(exact), bounds.log_probs()),
    )
    yield (
        "gradient at the target",
        worst(grad[at], want_grad[at], bounds.grad_at_target()[at], here),
    )
    where[at] = False
    yield "gradient", worst(grad, want_grad, bounds.probs(), where)


def main() -> None:
    """Check both types, both layouts, 1 to 67 classes and some more."""
    rng, count, wrong = np.random.default_rng(27), 0, 0
    for dtype in (np.float32, np.float64):
        for classes in (*range(1, 68), 100, 127, 1000):
            for order in "CF":
                for name, share in errors(rng, dtype, classes, order):
                    count += 1
                    if not share <= 1:
                        wrong += 1
                        case = f"{name}, {dtype.__name__}, {classes} classes, {order}"
                        print(f"{case}: {share} of the bound", file=sys.stderr)
    print(f"{count} checks, {wrong} wrong")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
