"""The calls that warmup makes to compile kernels: one for each kernel of a function."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastxent.functions import FUNCTIONS, Function, Kind, Role
from fastxent.results import Extent

# Functions of logits have separate kernels for few classes.
_FEW, _MANY = 2, 1000


class Step(NamedTuple):
    """A call that compiles or loads a kernel: the k-th one of a function and type."""

    dtype: str
    function: str
    k: int
    call: Callable[[], object]


def steps_of(dtype: Any, name: str) -> list[Step]:
    """The steps of a function and a type."""
    numbered = enumerate(calls(FUNCTIONS[name], dtype))
    return [Step(dtype.name, name, k, call) for k, call in numbered]


def calls(function: Function, dtype: Any) -> Iterator[Callable[[], object]]:
    """Make a call for each kernel of a function.

    Kernels differ by few or many classes, C-contiguous or column-major rows, kind of target,
    requested results, and for binary losses of logits by weights. One more call has rows that need
    conversion, by kernels that all functions share.
    """
    weights: list[dict[str, float]] = [{}]
    if "pos_weight" in function.parameters:
        weights.append({"pos_weight": 1.0})
    one_kind = function.kind is Kind.ELEMENTS or function.of_probabilities
    few, many = (np.full((2, n), 0.5, dtype) for n in (_FEW, _MANY))
    for rows in (few,) if one_kind else (few, many, np.asfortranarray(few)):
        for target in _targets(function, rows):
            arrays = _arrays(function, rows, target)
            for requested, weight in itertools.product(_requests(function), weights):
                requests = {f"return_{name}": True for name in requested}
                yield functools.partial(function.public, **arrays, **weight, **requests)
    with_gaps = np.full((_FEW, _FEW, 2), 0.5, dtype)[..., 0]
    target = with_gaps if function.kind is Kind.ELEMENTS else [0] * _FEW
    yield functools.partial(function.public, **_arrays(function, with_gaps, target))


def _requests(function: Function) -> Iterator[tuple[str, ...]]:
    """The combinations of results that have different kernels.

    These are all combinations of results per class, and results that scan rows (the entropy) alone
    and with the gradient.
    """
    rules = {name: function.result(name) for name in function.results[1:]}
    per_class = [name for name, rule in rules.items() if rule.extent is Extent.PER_CLASS]
    for flags in itertools.product((False, True), repeat=len(per_class)):
        yield tuple(itertools.compress(per_class, flags))
    for name in (name for name, rule in rules.items() if rule.scans_rows):
        yield (name,)
        if "grad" in rules:
            yield "grad", name


def _targets(function: Function, rows: Any) -> list[Any]:
    """The targets that have different kernels: class indices, and probabilities.

    Kernels of half precision also take probabilities of float32.
    """
    if function.kind is Kind.MAP:
        return [None]
    probs = [rows, rows.astype(np.float32)] if rows.itemsize == 2 else [rows]
    return probs if function.kind is Kind.ELEMENTS else [[0] * len(rows), *probs]


def _arrays(function: Function, rows: Any, target: Any) -> dict[str, Any]:
    """The arguments without a default, for these rows."""
    matrix = np.eye(rows.shape[1]).astype(rows.dtype)
    vector = (rows, matrix, None) if function.kind is Kind.LINEAR else rows
    by_role = {
        Role.INPUT: rows, Role.TARGET: target, Role.MATRIX: matrix, Role.VECTOR: vector,
    }  # fmt: skip
    return {name: by_role[function.roles[name]] for name in function.positional}
