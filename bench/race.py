"""Functions raced against each other: each in a process of its own, rounds interleaved, medians."""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def serve(function: Callable[..., Any], inputs: Callable[[], Any], pipe: Any) -> None:
    """Answer each request with the median seconds of a call in a loop of a tenth of a second.

    A loop, because that is how losses are computed; and after some idle milliseconds a virtual
    machine may run two threads on one CPU for longer than a call takes.
    """
    data = inputs()
    loss, grad = function(*data)
    pipe.send((float(loss), float(np.abs(np.asarray(grad)).sum(dtype=np.float64))))
    while pipe.recv():
        times: list[float] = []
        while sum(times) < 0.1 or len(times) < 3:
            begin = time.perf_counter()
            function(*data)
            times.append(time.perf_counter() - begin)
        pipe.send(statistics.median(times))


def race(
    functions: list[Callable[..., Any]],
    inputs: Callable[[], Any] | list[Callable[[], Any]],
    rounds: int = 11,
    same: bool = True,
) -> list[float]:
    """Median seconds of functions of inputs() that return a loss and a gradient.

    With `same`, after seeing that all give the same numbers.
    """
    given = inputs if isinstance(inputs, list) else [inputs] * len(functions)
    context = multiprocessing.get_context("spawn")
    sides = []
    for function, make in zip(functions, given, strict=True):
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(function, make, there), daemon=True)
        process.start()
        sides.append((here, process))
    answers = [pipe.recv() for pipe, _ in sides]
    if same:
        for answer in answers[1:]:
            np.testing.assert_allclose(answers[0], answer, rtol=1e-4)
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for (pipe, _), kept in zip(sides, times, strict=True):
            pipe.send(True)
            kept.append(pipe.recv())
    for pipe, process in sides:
        pipe.send(False)
        process.join()
    return [statistics.median(kept) for kept in times]
