"""The expected result of a case, by `fastxent.reference`, and the error of a peer's result."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastxent import reference
from fastxent.bench import inputs
from fastxent.bench.cases import Case
from fastxent.bench.dtypes import as_array
from fastxent.bench.layouts import as_rows, laid_out

Array = NDArray[Any]

TOLERANCE = {"float16": 1e-2, "bfloat16": 3e-2, "float32": 1e-4, "float64": 1e-10}
# The spacing of float16 near 0, to which p/N of most classes is rounded; not counted as an error.
_HALF_STEP = float(np.finfo(np.float16).smallest_subnormal)
_BLOCK = 1 << 16  # logits per block, so that a dozen float64 arrays stay in cache


# Jobs with options or with one class, which are computed without blocks.
_AT_ONCE: dict[str, Callable[..., Any]] = {
    "cross_entropy": reference.cross_entropy,
    "loss": reference.cross_entropy,
    "categorical": reference.categorical_cross_entropy,
    "binary": reference.binary_cross_entropy_with_logits,
    "binary_probs": reference.binary_cross_entropy,
}
# Jobs whose result is one or several arrays of rows.
_BY_ROWS: dict[str, Callable[..., Any]] = {
    "softmax": reference.softmax, "log_softmax": reference.log_softmax,
    "entropy": functools.partial(reference.entropy, return_grad=True),
    "hvp": functools.partial(reference.cross_entropy_hvp, reduction="none"),
    "per_sample": lambda *a: reference.cross_entropy(*a, reduction="none", return_grad=True)[1],
}  # fmt: skip


def expected(case: Case, arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Compute the result in float64: the loss if there is one, then the arrays."""
    if case.options or case.job in ("binary", "binary_probs"):
        options = {"return_grad": case.job != "loss"} | inputs.options(case)
        return tuple(map(np.asarray, _AT_ONCE[case.job](*arrays, **options)))
    if case.job in ("linear", "frozen"):
        loss, grad_x, grad_weight = _linear(*arrays)
        return (loss, grad_x) if case.job == "frozen" else (loss, grad_x, grad_weight)
    arrays = tuple(map(as_rows, arrays))
    blocks = [[array[rows] for array in arrays] for rows in _blocks(*arrays[0].shape)]
    if case.job in _BY_ROWS:
        results = [_BY_ROWS[case.job](*block) for block in blocks]
        parts = zip(*(f if isinstance(f, tuple) else (f,) for f in results), strict=True)
        wholes = [np.concatenate(part) for part in parts]
        return tuple(laid_out(case, w / case.rows if case.job == "hvp" else w) for w in wholes)
    if case.job == "categorical":
        sums = (reference.categorical_cross_entropy(*b, reduction="sum") for b in blocks)
        return (np.asarray(sum(sums) / case.rows),)
    losses, grads = zip(
        *(reference.cross_entropy(*block, reduction="sum", return_grad=True) for block in blocks),
        strict=True,
    )
    loss = np.asarray(sum(losses) / case.rows)
    if case.job in ("loss", "forward"):
        return (loss,)
    return loss, laid_out(case, np.concatenate(grads) / case.rows)


def _linear(x: Array, weight: Array, target: Array) -> tuple[Array, ...]:
    loss, grad_x, grad_weight = 0.0, np.empty(x.shape), np.zeros(weight.shape)
    for rows in _blocks(len(x), len(weight), 1 << 22):  # large blocks, for the matrix products
        part, grad = reference.linear_cross_entropy(
            x[rows], weight, target[rows], reduction="sum", return_grad=True
        )
        loss += part
        grad_x[rows] = grad.x
        grad_weight += grad.linear_weight
    return np.asarray(loss / len(x)), grad_x / len(x), grad_weight / len(x)


def _blocks(rows: int, classes: int, size: int = _BLOCK) -> Iterator[slice]:
    step = max(size // classes, 1)
    return (slice(start, start + step) for start in range(0, rows, step))


def error(answer: Any, exact: tuple[Array, ...]) -> float:
    """Compute the largest relative error of the loss and of the rows of each array.

    The error of a row is the sum of its absolute errors divided by the sum of its absolute values,
    or by 1/N if that is larger. So cancellation in p - 1 for confident rows is not an error of a
    peer, because p sums to 1 in a row.
    """
    parts = answer if isinstance(answer, tuple) else (answer,)
    scale = len(as_rows(exact[-1])) if exact[-1].ndim else 1
    errors = [_error(as_array(a), want, scale) for a, want in zip(parts, exact, strict=True)]
    return float(np.max(errors))  # nan if any is


def _error(got: Array, want: Array, scale: int) -> Any:
    if got.shape != want.shape:
        return np.inf
    if not want.ndim:
        return np.abs(got - want) / np.abs(want)
    got, want = as_rows(got), as_rows(want)
    step = _HALF_STEP if got.dtype == np.float16 else 0.0
    worst = []
    for rows in _blocks(len(want), want.size // len(want)):
        size = np.abs(want[rows]).sum(axis=-1)
        difference = np.maximum(np.abs(got[rows] - want[rows]) - step, 0).sum(axis=-1)
        worst.append(np.max(difference / np.maximum(size, 1 / scale)))
    return np.max(worst)
