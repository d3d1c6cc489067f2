"""Wall-clock time of calls."""

import time

from gpu_bench.rows import rounded


def first_call(gpu, call):
    """What a first call returns, and its seconds as the field of a row.

    Kernels are compiled in it, or loaded from disk.
    """
    begin = time.perf_counter()
    answer = call()
    gpu.wait()
    return answer, {"first_s": rounded(time.perf_counter() - begin)}


def host_seconds(gpu, call, times):
    """Seconds per call, over a few calls that the stream can queue."""
    gpu.wait()
    begin = time.perf_counter()
    for _ in range(times):
        call()
    seconds = (time.perf_counter() - begin) / times
    gpu.wait()
    return seconds
