"""warmup: compile ahead of the first call."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastxent import kernel_files, options
from fastxent.cpu import threads
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


def warmup(
    dtypes: str | Iterable[str] = ("float32", "float64"),
    *,
    functions: str | Iterable[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    processes: int | None = None,
) -> None:
    """Compile kernels and keep them in the cache, so that no later call has to.

    A kernel's variants are the first argument's type, the kind of target, which of gradient,
    probabilities and Hessian are requested, whether classes are few, whether classes lie apart (any
    axis but the last), and whether a binary loss of logits has weights. All else shares them, so
    nothing more is compiled for it: options, shapes, the width of labels. A second or some a
    variant where the cache is empty, some milliseconds where it is not; all of them take a minute
    or two, divided by the number of processes, so name the functions that you call.

    Parameters
    ----------
    dtypes : str or iterable of str
        "float32" and "float64", which are the default, "float16", "bfloat16". Integers use the
        kernels of float64. Half precision uses those of float32 where an array of the call has to
        be converted: one with gaps between its elements, or labels of a binary loss that are
        integers. Name "float32", too, if that happens.
    functions : str or iterable of str, optional
        Names of the functions to compile for; all if not given.
    progress : callable, optional
        Called as progress(done, total) after each step, in the calling thread.
    processes : int, optional
        The largest number of processes that compile; as many as `get_num_threads` if not given.
        They are other processes, which leave kernels in the cache for this one to load. This one
        compiles alone if the number is 1, few kernels are missing, or the cache cannot be written.

    Raises
    ------
    TypeError
        Neither a name nor several; a `progress` that cannot be called; a number of processes that
        is no int.
    ValueError
        A type that is not computed in, a name that is no function of this package; no processes.

    Examples
    --------
    >>> import fastxent as fx
    >>> fx.warmup("float32", functions=["softmax", "logsumexp"])
    """
    kinds = options.names(dtypes, "dtypes", (str, type, np.dtype))
    names = options.names(FUNCTIONS if functions is None else functions, "functions")
    options.callable_or_none(progress, "progress")
    processes = options.count_or_none(processes, "processes") or threads.get_num_threads()
    todo = [
        step
        for dtype in map(options.kernel_type, kinds)
        for name in names
        for step in steps(dtype, options.one_of(name, "functions", FUNCTIONS))
    ]
    numbers = itertools.count(1)

    def report(total: int = len(todo)) -> None:
        done = next(numbers)
        if progress is not None:
            progress(done, total)

    if processes > 1 and not kernel_files.obstacle():
        from fastxent import _warmup_processes

        todo = _warmup_processes.run(todo, report, processes)
    for step in todo:
        step.call()
        report()


def steps(dtype: Any, name: str) -> list[Step]:
    """The steps of a function and a type."""
    calls = enumerate(_calls(FUNCTIONS[name], dtype))
    return [Step(dtype.name, name, k, call) for k, call in calls]


def _calls(function: Function, dtype: Any) -> Iterator[Callable[[], object]]:
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
