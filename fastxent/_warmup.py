"""warmup: compile ahead of the first call."""

import functools
import itertools
from collections.abc import Callable, Iterable

import numpy as np

from fastxent import _inputs as inputs
from fastxent._cross_entropy import cross_entropy
from fastxent._softmax import log_softmax, logsumexp, softmax


def warmup(
    dtypes: Iterable[str] = ("float32", "float64"),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Compile every kernel and keep it in the cache, so that no later call has to.

    A kernel's variants are the logits' type and which of gradient, probabilities and Hessian are
    asked for; all other options, shapes and layouts share one. Some seconds a variant where the
    cache is empty, some milliseconds where it is not.

    Parameters
    ----------
    dtypes : str or iterable of str
        "float32", "float64" or both. Half precision uses the kernels of float32, integers those
        of float64.
    progress : callable, optional
        Called as progress(done, total) after each step.

    Raises
    ------
    ValueError
        A type that is not computed in.

    Examples
    --------
    >>> import fastxent as fx
    >>> fx.warmup([])
    """
    calls: list[Callable[[], object]] = []
    for name in [dtypes] if isinstance(dtypes, str) else dtypes:
        logits = np.zeros((1, 2), inputs.compute_type(name))
        for function in (softmax, log_softmax, logsumexp):
            calls.append(functools.partial(function, logits))
        for grad, probs, hess in itertools.product((False, True), repeat=3):
            flags = {"return_grad": grad, "return_probs": probs, "return_hess": hess}
            calls.append(functools.partial(cross_entropy, logits, [0], **flags))
    for done, call in enumerate(calls, 1):
        call()
        if progress is not None:
            progress(done, len(calls))
