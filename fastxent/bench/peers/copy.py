"""A copy of the logits into an existing buffer, limited by memory bandwidth."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np

import fastxent as fx

Call = Callable[[], Any]


def softmax(logits: Any) -> Call:
    """Copy the logits by all threads."""
    # In memory order. Two-byte types as integers, because NumPy's loop for bfloat16 is slow.
    source = logits.ravel(order="K")
    source = source.view(np.uint16) if source.itemsize == 2 else source
    buffer = np.empty_like(source)
    if (threads := fx.get_num_threads()) > 1:
        return _by_threads(buffer, source, threads)
    return lambda: _copy(buffer, source)


def _copy(buffer: Any, logits: Any) -> Any:
    np.copyto(buffer, logits)
    return buffer


def _by_threads(buffer: Any, logits: Any, threads: int) -> Call:
    pool = ThreadPoolExecutor(threads - 1)
    (mine, source), *others = zip(
        np.array_split(buffer, threads), np.array_split(logits, threads), strict=True
    )

    def call() -> Any:
        helpers = [pool.submit(np.copyto, *other) for other in others]
        np.copyto(mine, source)
        wait(helpers)
        return buffer

    return call


def cross_entropy(logits: Any, target: Any) -> Call:
    """Copy the logits; the target is not copied."""
    return softmax(logits)


def hvp(logits: Any, target: Any, vector: Any) -> Call:
    """Copy the logits: only the bytes per second are used."""
    return softmax(logits)


log_softmax = entropy = softmax
loss = binary = cross_entropy
