"""No leaks: memory, threads and open files after many calls, half of which raise."""

import sys

import pytest
from scripts import python


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for memory")
def test_many_calls(count, measure):
    """10⁵ calls: memory grows by less than 1 MiB, threads and file descriptors not at all."""
    script = """
        import gc, os, threading
        import numpy as np
        import fastxent as fx

        fx.set_num_threads(2)
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((8, 10)), np.arange(8)
        large = rng.standard_normal((2000, 300), dtype=np.float32)
        soft, bad, out = fx.softmax(x), np.where(y == 5, 99, y), np.empty((8, 10))
        fine = [
            lambda: fx.cross_entropy(x, y, return_grad=True),
            lambda: fx.cross_entropy(x, soft, label_smoothing=0.1, return_lse=True),
            lambda: fx.softmax(x, out=out),
            lambda: fx.logsumexp(fx.log_softmax(x.T, axis=0)),
            lambda: fx.categorical_cross_entropy(soft, y) + fx.binary_cross_entropy(soft, soft),
            lambda: fx.binary_cross_entropy_with_logits(x, soft, weight=soft[0]),
            lambda: fx.linear_cross_entropy(x, soft, y, return_grad=True),
        ]
        raising = [
            (IndexError, lambda: fx.cross_entropy(x, bad, grad_out=out)),
            (IndexError, lambda: fx.linear_cross_entropy(x, soft, bad, return_grad=True)),
            (ValueError, lambda: fx.softmax(x, out=x[:1])),
            (ValueError, lambda: fx.cross_entropy(x, y[:3])),
            (TypeError, lambda: fx.cross_entropy(x, y + 0.5)),
            (TypeError, lambda: fx.logsumexp(x + 1j)),
            (ValueError, lambda: fx.binary_cross_entropy(soft, soft, eps=0.7)),
        ]

        def calls(n):
            good = 0
            for k in range(n // 2):
                fine[k % 7]()
                error, call = raising[k % 7]
                try:
                    call()
                except error:
                    good += 2
                if k % 500 == 0:
                    fx.cross_entropy(large, np.zeros(2000, int), return_grad=True)
            return good

        def state():
            gc.collect()
            with open("/proc/self/statm") as file:
                pages = int(file.read().split()[1])
            return (pages * os.sysconf("SC_PAGE_SIZE"), threading.active_count(),
                    len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")))

        calls(10_000)
        before = state()
        good = calls(100_000)
        after = state()
        print(good, after[0] - before[0], before[1:] == after[1:])
    """
    good, grown, constant = python(script).split()
    measure("memory", max(0, int(grown)), 2**20)
    assert constant == "True"
    count("long", int(good), 100_000)
