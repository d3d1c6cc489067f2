"""Measure errors against exact arithmetic: `python bench/accuracy.py --output FILE.json`.

Compares fastxent, PyTorch, optax (JAX), SciPy and scikit-learn on the same numbers, for different
spreads of the logits, shared offsets, and confidences of a row. The exact value is
`fastxent.reference` in longdouble, on the logits rounded to the type. An error is relative: the
largest of all rows, or for a gradient of all elements whose exact value is a normal number.
"""

import argparse
import importlib.metadata
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
import torch
from scipy import special
from sklearn._loss import HalfBinomialLoss, HalfMultinomialLoss
from torch.nn import functional

import fastxent as fx
from fastxent import reference
from fastxent.bench import record
from fastxent.cli.options import new_file

jax.config.update("jax_enable_x64", True)

ROWS, CLASSES = 1000, 10
SPREADS = [0.1, 0.3, 1, 3, 10, 30, 100]
OFFSETS = [0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7]
DELTAS = [1e-3, 1e-5, 1e-7, 1e-9, 1e-12, 1e-15, 1e-18, 1e-21, 1e-24, 1e-27, 1e-30]
PACKAGES = ["numpy", "numba", "torch", "jax", "optax", "scipy", "scikit-learn"]

Answer = tuple[Any, Any]

# --- loss and gradient of every row, by each library ----------------------------------------


def by_torch(loss: Callable[..., Any], x: Any, y: Any) -> Answer:
    """Forward and backward."""
    leaf = torch.from_numpy(x).requires_grad_()
    losses = loss(leaf, torch.from_numpy(y), reduction="none")
    losses.sum().backward()
    return losses.detach().numpy(), leaf.grad.numpy()


def by_jax(loss: Callable[..., Any], x: Any, y: Any) -> Answer:
    """Value and gradient in a compiled program."""
    both = jax.jit(jax.vmap(jax.value_and_grad(loss)))
    return tuple(map(np.asarray, both(x, y)))


def scipy_categorical(x: Any, y: Any) -> Answer:
    """As usually written: log_softmax, and its exponential for the gradient."""
    rows, log_p = np.arange(len(y)), special.log_softmax(x, axis=1)
    grad = np.exp(log_p)
    grad[rows, y] -= 1
    return -log_p[rows, y], grad


def scipy_binary(x: Any, y: Any) -> Answer:
    """As usually written: log_expit of either sign, and expit."""
    return -special.log_expit(np.where(y == 1, x, -x)), special.expit(x) - y


CATEGORICAL: dict[str, Callable[[Any, Any], Answer]] = {
    "fastxent": lambda x, y: fx.cross_entropy(x, y, reduction="none", return_grad=True),
    "PyTorch": lambda x, y: by_torch(functional.cross_entropy, x, y),
    "JAX": lambda x, y: by_jax(optax.softmax_cross_entropy_with_integer_labels, x, y),
    "SciPy": scipy_categorical,
    "scikit-learn": lambda x, y: HalfMultinomialLoss(n_classes=x.shape[1]).loss_gradient(
        y.astype(x.dtype), x
    ),
}
BINARY: dict[str, Callable[[Any, Any], Answer]] = {
    "fastxent": lambda x, y: fx.binary_cross_entropy_with_logits(
        x, y, reduction="none", return_grad=True
    ),
    "PyTorch": lambda x, y: by_torch(functional.binary_cross_entropy_with_logits, x, y),
    "JAX": lambda x, y: by_jax(optax.sigmoid_binary_cross_entropy, x, y),
    "SciPy": scipy_binary,
    "scikit-learn": lambda x, y: HalfBinomialLoss().loss_gradient(y, x),
}

# --- inputs --------------------------------------------------------------------


def logits_of(experiment: str, at: float, dtype: Any) -> tuple[Any, Any]:
    """Logits and labels, from the same random numbers at every point of an experiment."""
    rng = np.random.default_rng(20261128)
    noise = rng.standard_normal((ROWS, CLASSES))
    labels = (noise.argmax(axis=1) + rng.integers(1, CLASSES, ROWS)) % CLASSES  # not the largest
    if experiment == "spread":
        return (at * noise).astype(dtype), labels
    if experiment == "offset":
        return (3 * noise + at).astype(dtype), labels
    if experiment == "confident":  # p of the label is 1 - at, or about that
        logits = np.log(at / (CLASSES - 1)) + 0.3 * noise
        logits[np.arange(ROWS), labels] = 0
        return logits.astype(dtype), labels
    truth = labels % 2
    sure = np.log1p(-at) - np.log(at) + 0.3 * noise[:, 0]
    return np.where(truth == 1, sure, -sure).astype(dtype), truth.astype(dtype)


EXPERIMENTS = {"spread": SPREADS, "offset": OFFSETS, "confident": DELTAS, "binary": DELTAS}

# --- errors ---------------------------------------------------------------------------------


def worst(computed: Any, exact: Any, dtype: Any) -> float:
    """The largest relative error where the exact value is a normal number; nan counts as inf."""
    where = np.abs(exact) >= np.finfo(dtype).tiny
    error = np.abs(computed.astype(np.longdouble)[where] / exact[where] - 1)
    return float(f"{np.where(np.isnan(error), np.inf, error).max():.3g}")


def measured() -> Iterator[dict[str, Any]]:
    """A row for each experiment, point, type and library."""
    for experiment, points in EXPERIMENTS.items():
        binary = experiment == "binary"
        exact = reference.binary_cross_entropy_with_logits if binary else reference.cross_entropy
        for dtype in (np.float32, np.float64):
            for at in points:
                x, y = logits_of(experiment, at, dtype)
                loss, grad = exact(x.astype(np.longdouble), y, reduction="none", return_grad=True)
                for library, answer in (BINARY if binary else CATEGORICAL).items():
                    losses, gradient = answer(x, y)
                    yield {
                        "experiment": experiment, "at": at, "dtype": dtype.__name__,
                        "library": library, "loss": worst(losses, loss, dtype),
                        "gradient": worst(gradient, grad, dtype),
                    }  # fmt: skip


def main() -> None:
    """Measure and save a record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=new_file, required=True)
    args = parser.parse_args()
    if np.finfo(np.longdouble).eps > 2e-19:
        parser.error("needs a longdouble that is wider than float64, for the exact values")
    run = record.new(fx.get_num_threads())
    run["versions"] = {name: importlib.metadata.version(name) for name in PACKAGES}
    run["results"] = list(measured())
    record.save(run, args.output)


if __name__ == "__main__":
    main()
