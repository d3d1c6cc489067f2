"""warmup: compile ahead of the first call."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from fastxent import options
from fastxent.functions import FUNCTIONS, Function, Kind, Role
from fastxent.results import Extent

# Rows of few classes have kernels of their own, in functions of logits.
_FEW, _MANY = 2, 1000


def warmup(
    dtypes: str | Iterable[str] = ("float32", "float64"),
    *,
    functions: str | Iterable[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Compile kernels and keep them in the cache, so that no later call has to.

    A kernel's variants are the first argument's type, the kind of target, which of gradient,
    probabilities and Hessian are requested, whether classes are few, and whether a binary loss of
    logits has weights; all other options, shapes and layouts share one. A second or some a variant
    where the cache is empty, some milliseconds where it is not; all of them take some minutes, so
    name the functions that you call.

    Parameters
    ----------
    dtypes : str or iterable of str
        "float32", "float64" or both. Half precision uses the kernels of float32, integers those
        of float64.
    functions : str or iterable of str, optional
        Names of the functions to compile for; all if not given.
    progress : callable, optional
        Called as progress(done, total) after each step.

    Raises
    ------
    TypeError
        Neither a name nor several; a `progress` that cannot be called.
    ValueError
        A type that is not computed in, a name that is no function of this package.

    Examples
    --------
    >>> import fastxent as fx
    >>> fx.warmup("float32", functions=["softmax", "logsumexp"])
    """
    kinds = options.names(dtypes, "dtypes", (str, type, np.dtype))
    names = options.names(FUNCTIONS if functions is None else functions, "functions")
    options.callable_or_none(progress, "progress")
    calls = [
        call
        for dtype in map(options.compute_type, kinds)
        for name in names
        for call in _calls(FUNCTIONS[options.one_of(name, "functions", FUNCTIONS)], dtype)
    ]
    for done, call in enumerate(calls, 1):
        call()
        if progress is not None:
            progress(done, len(calls))


def _calls(function: Function, dtype: str) -> Iterator[Callable[[], object]]:
    """A call for each kernel of a function: by kind of target, width of rows, results per class.

    The kernels of `pos_weight` are others than those without weights.
    """
    per_class = [
        name for name in function.results[1:] if function.result(name).extent is Extent.PER_CLASS
    ]
    weights: list[dict[str, float]] = [{}]
    if "pos_weight" in function.parameters:
        weights.append({"pos_weight": 1.0})
    one_width = function.kind is Kind.ELEMENTS or function.of_probabilities
    for n_classes in (_FEW,) if one_width else (_FEW, _MANY):
        # float16 takes the kernels of float32, and one more that rounds.
        row = np.full((1, n_classes), 0.5, np.float16 if dtype == "float32" else dtype)
        for target in _targets(function, row):
            arrays = _arrays(function, row, target, dtype)
            flags = itertools.product((False, True), repeat=len(per_class))
            for requested, given in itertools.product(flags, weights):
                pairs = zip(per_class, requested, strict=True)
                requests = {f"return_{name}": flag for name, flag in pairs}
                yield functools.partial(function.public, **arrays, **given, **requests)


def _targets(function: Function, row: Any) -> list[Any]:
    """The targets that compile different kernels: class indices, probabilities."""
    if not function.is_loss:
        return [None]
    return [row] if function.kind is Kind.ELEMENTS else [[0], row]


def _arrays(function: Function, row: Any, target: Any, dtype: str) -> dict[str, Any]:
    """The arguments without a default, of one row."""
    given = {
        Role.INPUT: row, Role.MATRIX: np.eye(row.shape[1], dtype=dtype), Role.TARGET: target,
    }  # fmt: skip
    return {name: given[function.roles[name]] for name in function.positional}
