"""Concurrent calls of many Python threads, also as first calls."""

import time
import weakref

import numpy as np
import pytest
from scripts import python

from fastxent.cpu import helpers, threads


def test_sixteen_threads(count):
    """1,000 calls per thread, of all functions, from one row to several chunks."""
    script = """
        import itertools, random, threading, zlib
        import numpy as np
        import fastxent as fx

        fx.set_num_threads(2)
        rng = np.random.default_rng(5)

        def cases():
            for n, c in [(1, 3), (7, 10), (64, 100), (3, 1000), (2000, 300)]:
                x = rng.standard_normal((n, c), dtype=np.float32)
                soft, labels = fx.softmax(x), rng.integers(0, c, n)
                yield lambda x=x: [fx.softmax(x), fx.log_softmax(x), fx.logsumexp(x)]
                yield lambda x=x, y=labels: fx.cross_entropy(x, y, return_grad=True)
                yield lambda x=x, y=labels: fx.cross_entropy(
                    x, y, return_probs=True, return_lse=True, label_smoothing=0.1, reduction="none")
                yield lambda x=x.astype("f8"), q=soft: fx.cross_entropy(x, q, return_grad=True)
                yield lambda p=soft, y=labels: fx.categorical_cross_entropy(p, y, return_grad=True)
                yield lambda x=x, q=soft: fx.binary_cross_entropy_with_logits(
                    x, q, return_grad=True)
                yield lambda p=soft, q=soft: fx.binary_cross_entropy(p, q, return_grad=True)
                yield lambda x=x, y=labels, v=soft: [
                    fx.cross_entropy_hvp(x, y, v), fx.cross_entropy_hvp(x, v, v, softcap=5.0),
                    fx.binary_cross_entropy_with_logits_hvp(x, v, v)]
                yield lambda x=x: fx.entropy(x, return_grad=True)
                yield lambda x=x.T, y=labels: fx.cross_entropy(x, y, axis=0, return_grad=True)
                w = rng.standard_normal((4, c), dtype=np.float32)
                yield lambda x=x, w=w, y=labels % 4: fx.linear_cross_entropy(
                    x, w, y, return_grad=True)[1][:2]

        def bits(results):
            return [zlib.crc32(np.ascontiguousarray(a)) for a in results if a is not None]

        calls = list(cases())
        with fx.num_threads(1):
            want = [bits(call()) for call in calls]
        # A large call takes as long as a hundred small ones.
        shares = [1 if k >= len(calls) - len(calls) // 5 else 20 for k in range(len(calls))]
        wrong, begin = [], threading.Barrier(16)

        def work(seed):
            begin.wait()
            for k in random.Random(seed).choices(range(len(calls)), shares, k=1000):
                if bits(calls[k]()) != want[k]:
                    wrong.append(k)

        running = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
        for thread in running: thread.start()
        for thread in running: thread.join()
        print(16_000 - len(wrong))
    """
    count("calls", int(python(script, timeout=300)), 16_000)


def test_first_calls(tmp_path, effort, count):
    """Eight threads at once, eight kernels, four or one, on an empty cache."""
    script = """
        import sys, threading
        import numpy as np
        import fastxent as fx
        from fastxent import reference

        x = np.array([[2, 1, 0.1], [0.1, 2, 1.9]])
        calls = [
            (name, args, dtype)
            for name, args in [
                ("softmax", ()), ("binary_cross_entropy_with_logits", (np.eye(2, 3),)),
                ("log_softmax", ()), ("logsumexp", ()),
            ]
            for dtype in ("f4", "f8")
        ]
        begin, right = threading.Barrier(8), []

        def work(name, args, dtype):
            begin.wait()
            got = getattr(fx, name)(x.astype(dtype), *args)
            want = getattr(reference, name)(x, *args)
            right.append(got.dtype == dtype and np.allclose(got, want, rtol=1e-6, atol=0))

        calls = [calls[k % int(sys.argv[1])] for k in range(8)]
        running = [threading.Thread(target=work, args=call) for call in calls]
        for thread in running: thread.start()
        for thread in running: thread.join()
        print(sum(right))
    """
    for kernels in effort("4", "841"):
        place = str(tmp_path / kernels)
        count("first calls", int(python(script, kernels, FASTXENT_CACHE_DIR=place)), 8)


def test_the_first_exception_is_raised_and_nobody_works_on():
    """An exception in any thread is raised, after all threads have stopped."""
    active = []

    def work(k):
        active.append(k)
        time.sleep(0.01)
        active.remove(k)
        if k == 3:
            raise ZeroDivisionError("three")

    with pytest.raises(ZeroDivisionError, match="three"):
        threads.run(work, 40, 4)
    assert active == []


def test_with_fewer_threads_than_asked_for(monkeypatch):
    """If the third thread cannot be started, the call uses the first two and waits for them."""
    submit, started = helpers.submit, []

    def reluctant(job):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(job)
        submit(job)

    monkeypatch.setattr(helpers, "submit", reluctant)
    active, done = [], []

    def work(k):
        active.append(k)
        time.sleep(0.005)
        done.append(k)
        active.remove(k)

    threads.run(work, 30, 8)
    assert sorted(done) == list(range(30))
    assert active == []


def test_without_helpers_the_caller_works_alone(monkeypatch):
    """If no thread can be started (interpreter exit), the caller does all the work."""

    def refuse(*args, **kwargs):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(helpers, "_idle", {})
    monkeypatch.setattr(helpers.threading.Thread, "start", refuse)
    done = []
    threads.run(done.append, 5, 3)
    assert done == [0, 1, 2, 3, 4]


def test_an_idle_helper_holds_nothing():
    """The arrays of a job are freed as soon as the call returns."""

    def call():
        array = np.zeros(3)
        threads.run(lambda k: time.sleep(0.01 + array[0]), 4, 2)
        return weakref.ref(array)

    alive = call()
    time.sleep(0.05)
    assert alive() is None
