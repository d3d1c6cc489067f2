"""The calls by which warmup compiles kernels: one for each kernel of a function."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastxent.functions import FUNCTIONS, Function, Kind, Role
from fastxent.results import Extent

# Rows of few classes have kernels of their own, in functions of logits.
_FEW, _MANY = 2, 1000


class Step(NamedTuple):
    """A call that compiles or loads a kernel, and its address: the k-th of a function and type."""

    dtype: str
    function: str
    k: int
    call: Callable[[], object]


def steps_of(dtype: Any, name: str) -> list[Step]:
    """The steps of a function and a type."""
    numbered = enumerate(calls(FUNCTIONS[name], dtype))
    return [Step(dtype.name, name, k, call) for k, call in numbered]


def calls(function: Function, dtype: Any) -> Iterator[Callable[[], object]]:
    """A call for each kernel of a function: by kind of target, rows, and results per class.

    Rows are of few classes or of many, or classes lie apart. The kernels of `pos_weight` are others
    than those without weights. One call more is of rows that have to be converted, by kernels that
    all functions share.
    """
    per_class = [
        name for name in function.results[1:] if function.result(name).extent is Extent.PER_CLASS
    ]
    weights: list[dict[str, float]] = [{}]
    if "pos_weight" in function.parameters:
        weights.append({"pos_weight": 1.0})
    one_kind = function.kind is Kind.ELEMENTS or function.of_probabilities
    few, many = (np.full((2, n), 0.5, dtype) for n in (_FEW, _MANY))
    for rows in (few,) if one_kind else (few, many, np.asfortranarray(few)):
        for target in _targets(function, rows):
            arrays = _arrays(function, rows, target)
            flags = itertools.product((False, True), repeat=len(per_class))
            for requested, given in itertools.product(flags, weights):
                pairs = zip(per_class, requested, strict=True)
                requests = {f"return_{name}": flag for name, flag in pairs}
                yield functools.partial(function.public, **arrays, **given, **requests)
    with_gaps = np.full((_FEW, _FEW, 2), 0.5, dtype)[..., 0]
    target = with_gaps if function.kind is Kind.ELEMENTS else [0] * _FEW
    yield functools.partial(function.public, **_arrays(function, with_gaps, target))


def _targets(function: Function, rows: Any) -> list[Any]:
    """The targets that compile different kernels: class indices, probabilities.

    Kernels of half precision take probabilities of float32, too.
    """
    if not function.is_loss:
        return [None]
    probs = [rows, rows.astype(np.float32)] if rows.itemsize == 2 else [rows]
    return probs if function.kind is Kind.ELEMENTS else [[0] * len(rows), *probs]


def _arrays(function: Function, rows: Any, target: Any) -> dict[str, Any]:
    """The arguments without a default, of some rows."""
    given = {
        Role.INPUT: rows, Role.TARGET: target,
        Role.MATRIX: np.eye(rows.shape[1]).astype(rows.dtype),
    }  # fmt: skip
    return {name: given[function.roles[name]] for name in function.positional}
