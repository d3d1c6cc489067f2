"""Measure the time and the peak memory of a call, in its own process."""

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SHORTEST = 1e-4  # seconds between clock readings; one costs a ten-thousandth of that


def seconds_per_call(call: Callable[[], Any], seconds: float) -> float:
    """Median time of a call in a loop of that many seconds, or of one call that takes longer.

    A loop is like training. Also, after some milliseconds without work a virtual machine may run
    two threads on one CPU for longer than a call takes.
    """
    batch = 1
    while (first := _time(call, batch)) < _SHORTEST:
        batch *= 2
    if first >= seconds:
        return first / batch
    times: list[float] = []
    stop = time.perf_counter() + seconds
    while not times or time.perf_counter() < stop:
        times.append(_time(call, batch) / batch)
    return statistics.median(times)


def _time(call: Callable[[], Any], times: int) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - begin


def extra_megabytes(call: Callable[[], Any]) -> float | None:
    """Peak memory of the process during a call minus its memory after it, in megabytes.

    It is measured by Linux, in the same way for every peer; None on other systems. Make the call
    once before, so that memory that is allocated only once is not counted.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
        trim(0)  # the call must not reuse memory that was freed before
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    except (AttributeError, OSError, TypeError):  # not glibc, not Linux, not Unix
        return None
    answer = call()
    trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    del answer  # kept alive until here
    kilobytes = {name: int(value.split()[0]) for name, _, value in
                 (line.partition(":") for line in lines) if name in ("VmHWM", "VmRSS")}  # fmt: skip
    return (kilobytes["VmHWM"] - kilobytes["VmRSS"]) * 1024 / 1e6
