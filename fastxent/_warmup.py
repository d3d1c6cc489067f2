"""warmup: compile kernels ahead of the first call."""

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
    """Compile kernels into the cache, so that later calls only load them.

    There is a kernel variant for each type of the first argument, kind of target, combination of
    gradient, probabilities and Hessian, entropy alone or with the gradient, few or many classes,
    class axis last or not, and binary loss of logits with or without weights. Other options, shapes
    and integer types of labels need no further variants. A variant takes a second or a few to
    compile, and milliseconds to load from the cache. All of them take a minute or two, divided by
    the number of processes, so name the functions that you call.

    Parameters
    ----------
    dtypes : str or iterable of str
        Types among "float32", "float64", "float16" and "bfloat16". Integers use the kernels of
        float64. Half precision also uses those of float32 where an array of the call has to be
        converted: one with gaps between its classes, or integer labels of a binary loss. Name
        "float32" too in that case.
    functions : str or iterable of str, optional
        Names of the functions to compile for; all by default.
    progress : callable, optional
        Called as progress(done, total) after each step, in the calling thread.
    processes : int, optional
        The largest number of processes that compile, by default `get_num_threads()`. They are child
        processes of some hundred megabytes each, which write kernels to the cache for this process
        to load. This process compiles alone if the number is 1, if few kernels are missing, or if
        the cache is not writable.

    Raises
    ------
    TypeError
        If a name is not a string, `progress` is not callable, or `processes` is not an int.
    ValueError
        If a type or a function is unknown, or `processes` is less than 1.

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
