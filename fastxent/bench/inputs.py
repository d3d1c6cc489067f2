"""Random inputs of a case, the same in every run."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent.bench.cases import Case
from fastxent.bench.dtypes import named
from fastxent.bench.layouts import laid_out
from fastxent.reference import softmax

Array = NDArray[Any]

LOGIT_STD = 3.0  # standard deviation of random logits
UNIFORM_LIMIT = 80.0  # "wide" logits are uniform in -80 .. 80
LEAD = 10.0, 30.0  # difference of the two largest logits of a confident row
RIGHT = 0.95  # fraction of confident rows whose largest logit is at the label
WEIGHTS = 0.5, 2.0  # range of class weights and sample weights
SETTINGS = {"axis": 0, "reduction": "none", "label_smoothing": 0.1, "z_loss": 1e-4}


def make(case: Case) -> tuple[Array, ...]:
    """Make the arrays of a job.

    They are (logits or p, target), (logits,), (x, weight, target), or (logits, target, vector) for
    a product.
    """
    dtype = named(case.dtype)
    arrays = (laid_out(case, array) for array in _rows(case))
    return tuple(a if a.dtype.kind in "iu" else a.astype(dtype, copy=False) for a in arrays)


def options(case: Case) -> dict[str, Any]:
    """The options of a case with values: weights are random, requested results are True."""
    rng, dtype = np.random.default_rng(1), _drawn(case)
    values = {
        **SETTINGS,
        "weight": rng.uniform(*WEIGHTS, case.classes).astype(dtype),
        "sample_weight": rng.uniform(*WEIGHTS, case.rows).astype(dtype),
    }
    return {name: values.get(name, True) for name in case.options.split()}


def arguments(case: Case, arrays: tuple[Array, ...]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of the job's function: the arrays of the case, and its options by name."""
    logits, *target = arrays
    lists = case.label_dtype == "list"
    return [logits, *(t.tolist() if lists else t for t in target)], options(case)


def _drawn(case: Case) -> type[np.float32] | type[np.float64]:
    """The type of the random numbers; generators have none smaller than float32."""
    return np.float64 if case.dtype == "float64" else np.float32


def _rows(case: Case) -> tuple[Array, ...]:
    rng = np.random.default_rng(0)
    dtype = _drawn(case)
    if case.job in ("binary", "binary_probs"):
        labels = rng.integers(0, 2, case.rows).astype(dtype)
        x = rng.standard_normal(case.rows, dtype)
        return dtype(LOGIT_STD) * x if case.job == "binary" else 1 / (1 + np.exp(-x)), labels
    integers = "int64" if case.label_dtype == "list" else case.label_dtype
    labels = rng.integers(0, case.classes, case.rows).astype(integers, copy=False)
    if case.job in ("linear", "frozen"):
        x = rng.standard_normal((case.rows, case.features), dtype)
        weight = rng.standard_normal((case.classes, case.features), dtype)
        weight *= dtype(LOGIT_STD / case.features**0.5)
        return x, weight, labels
    logits = _logits(case, labels, rng)
    if case.job in ("softmax", "log_softmax", "entropy"):
        return (logits,)
    if case.job == "hvp":
        return logits, labels, rng.standard_normal(logits.shape, dtype)
    if case.job == "categorical":
        # From standard normal logits, because scikit-learn clips p below the type's eps.
        return softmax(logits / dtype(LOGIT_STD)).astype(dtype), _target(case, labels, rng)
    return logits, _target(case, labels, rng)


def _logits(case: Case, labels: Array, rng: np.random.Generator) -> Array:
    shape, dtype = (case.rows, case.classes), _drawn(case)
    if case.logits == "wide":
        logits: Array = dtype(2 * UNIFORM_LIMIT) * rng.random(shape, dtype) - dtype(UNIFORM_LIMIT)
        return logits
    logits = dtype(LOGIT_STD) * rng.standard_normal(shape, dtype)
    if case.logits == "confident":
        rows = np.arange(case.rows)
        guesses = rng.integers(0, case.classes, case.rows)
        first = np.where(rng.random(case.rows) < RIGHT, labels, guesses)
        logits[rows, first] = -np.inf
        logits[rows, first] = logits.max(axis=1) + rng.uniform(*LEAD, case.rows).astype(dtype)
    return logits


def _target(case: Case, labels: Array, rng: np.random.Generator) -> Array:
    if case.target == "index":
        return labels
    target = np.zeros((case.rows, case.classes), _drawn(case))
    if case.target == "one-hot":
        target[np.arange(case.rows), labels] = 1
    else:
        np.exp(LOGIT_STD * rng.standard_normal(target.shape), out=target, casting="same_kind")
        target /= target.sum(axis=1, keepdims=True)
    return target
