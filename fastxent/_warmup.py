"""warmup: compile ahead of the first call."""

import itertools
from collections.abc import Callable, Iterable

import numpy as np

from fastxent import options
from fastxent.cpu import threads
from fastxent.functions import FUNCTIONS
from fastxent.warmup_steps import steps_of


def warmup(
    dtypes: str | Iterable[str] = ("float32", "float64"),
    *,
    functions: str | Iterable[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    processes: int | None = None,
) -> None:
    """Compile kernels and keep them in the cache, so that no later call has to.

    A kernel's variants are the first argument's type, the kind of target, which of gradient,
    probabilities and Hessian are requested, the entropy alone or with the gradient, whether classes
    are few, whether classes lie apart (any axis but the last), and whether a binary loss of logits
    has weights. All else shares them, so nothing more is compiled for it: options, shapes, the
    width of labels. A second or some a variant where the cache is empty, some milliseconds where it
    is not; all of them take a minute or two, divided by the number of processes, so name the
    functions that you call.

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
        They are other processes, of some hundred megabytes each, which leave kernels in the cache
        for this one to load. This one compiles alone if the number is 1, few kernels are missing,
        or the cache cannot be written.

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
        for step in steps_of(dtype, options.one_of(name, "functions", FUNCTIONS))
    ]
    numbers = itertools.count(1)

    def report(total: int = len(todo)) -> None:
        done = next(numbers)
        if progress is not None:
            progress(done, total)

    if processes > 1:
        from fastxent import warmup_processes

        todo = warmup_processes.run(todo, report, processes)
    for step in todo:
        step.call()
        report()
