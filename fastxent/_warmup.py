"""warmup: compile ahead of the first call."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from fastxent import _inputs as inputs
from fastxent._binary import binary_cross_entropy, binary_cross_entropy_with_logits
from fastxent._cross_entropy import categorical_cross_entropy, cross_entropy
from fastxent._linear import linear_cross_entropy
from fastxent._softmax import log_softmax, logsumexp, softmax

# For each function the targets that compile different kernels, and the outputs that do.
_INDEX, _SOFT = [0], "probabilities"
# Rows of few classes have kernels of their own in the functions of logits.
_FEW, _MANY = 2, 1000
_VARIANTS: dict[str, tuple[Callable[..., Any], list[Any], list[str]]] = {
    "softmax": (softmax, [], []),
    "log_softmax": (log_softmax, [], []),
    "logsumexp": (logsumexp, [], []),
    "cross_entropy": (cross_entropy, [_INDEX, _SOFT], ["grad", "probs", "hess"]),
    "linear_cross_entropy": (linear_cross_entropy, [_INDEX, _SOFT], ["grad"]),
    "categorical_cross_entropy": (categorical_cross_entropy, [_INDEX, _SOFT], ["grad"]),
    "binary_cross_entropy": (binary_cross_entropy, [_SOFT], ["grad"]),
    "binary_cross_entropy_with_logits": (
        binary_cross_entropy_with_logits, [_SOFT], ["grad", "probs", "hess"]),
}  # fmt: skip
_ONE_WIDTH = [name for name in _VARIANTS if name.startswith(("binary", "categorical"))]


def warmup(
    dtypes: str | Iterable[str] = ("float32", "float64"),
    *,
    functions: str | Iterable[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Compile kernels and keep them in the cache, so that no later call has to.

    A kernel's variants are the first argument's type, the kind of target, which of gradient,
    probabilities and Hessian are asked for, and whether classes are few; all other options, shapes
    and layouts share one. A second or some a variant where the cache is empty, some milliseconds
    where it is not; all of them take some minutes, so name the functions that you call.

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
    kinds = inputs.names(dtypes, "dtypes", (str, type, np.dtype))
    names = inputs.names(_VARIANTS if functions is None else functions, "functions", (str,))
    inputs.called(progress, "progress")
    calls = [
        call
        for dtype in map(inputs.compute_type, kinds)
        for name in names
        for call in _calls(inputs.one_of(name, "functions", _VARIANTS), dtype)
    ]
    for done, call in enumerate(calls, 1):
        call()
        if progress is not None:
            progress(done, len(calls))


def _calls(name: str, dtype: str) -> Iterator[Callable[[], object]]:
    """A call for each kernel of a function."""
    function, targets, outputs = _VARIANTS[name]
    for classes in (_FEW,) if name in _ONE_WIDTH else (_FEW, _MANY):
        # float16 takes the kernels of float32, and one more that rounds.
        row = np.full((1, classes), 0.5, np.float16 if dtype == "float32" else dtype)
        given = [row, np.eye(classes, dtype=dtype)] if name == "linear_cross_entropy" else [row]
        for target in targets or [None]:
            args = given if target is None else [*given, row if target is _SOFT else target]
            for wanted in itertools.product((False, True), repeat=len(outputs)):
                pairs = zip(outputs, wanted, strict=True)
                flags = {f"return_{output}": want for output, want in pairs}
                yield functools.partial(function, *args, **flags)
