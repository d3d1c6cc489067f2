"""The same bits for any number of threads, on every run; threads, forks and interrupts behave."""

import concurrent.futures
import math
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest

import fastxent as fx
from fastxent.cpu import helpers, threads

ALL = dict(return_grad=True, return_probs=True, return_lse=True, return_argmax=True)


@pytest.fixture(scope="module")
def large():
    """Enough work for several chunks and threads."""
    rng = np.random.default_rng(5)
    return rng.standard_normal((9000, 400), dtype=np.float32), rng.integers(0, 400, 9000)


def run_script(text, timeout=120, **environment):
    """Run a script in a process of its own; its output, or a failure that shows it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(text)],
        capture_output=True, text=True, timeout=timeout, env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_same_bits_for_one_to_four_threads(large, dtype, reduction):
    """One bit pattern over threads and runs, direct and converted block by block."""
    logits, labels = large[0].astype(dtype), large[1]
    for laid in (logits, np.asfortranarray(logits)):
        seen = set()
        for n in (1, 2, 3, 4, 1, 4):
            with fx.num_threads(n):
                results = fx.cross_entropy(laid, labels, reduction=reduction, **ALL)
                results += (fx.softmax(laid), fx.log_softmax(laid), fx.logsumexp(laid))
            seen.add(tuple(np.asarray(a).tobytes() for a in results))
        assert len(seen) == 1


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_same_bits_of_other_losses_and_targets(large, dtype, reduction):
    """Likewise of probability targets, of probabilities, and of the binary losses."""
    logits = large[0].astype(dtype)
    soft = fx.softmax(logits[::-1].copy())
    for laid in (np.ascontiguousarray, np.asfortranarray):
        x, q = laid(logits), laid(soft)
        seen = set()
        for n in (1, 2, 3, 4, 1, 4):
            with fx.num_threads(n):
                results = [
                    *fx.cross_entropy(x, q, reduction=reduction, weight=q[0], **ALL),
                    *fx.categorical_cross_entropy(q, q, reduction=reduction, return_grad=True),
                    *fx.binary_cross_entropy(q, q, reduction=reduction, return_grad=True),
                    *fx.binary_cross_entropy_with_logits(
                        x, q, reduction=reduction, pos_weight=q[0], return_grad=True
                    ),
                ]
            seen.add(tuple(np.asarray(a).tobytes() for a in results))
        assert len(seen) == 1


@pytest.mark.parametrize("equal", [False, True])
def test_a_binary_mean_over_many_elements(dtype, equal):
    """10 million elements: within an ulp of the exact mean of the single losses."""
    rng = np.random.default_rng(1)
    x = np.full(10_000_000, 0.1, dtype)
    y = np.zeros(x.shape, dtype)
    if not equal:
        x, y = rng.standard_normal(x.shape).astype(dtype), (rng.random(x.shape) < 0.3).astype(dtype)
    probs = fx.binary_cross_entropy_with_logits(x, y, return_probs=True)[1]
    for function, given in (
        (fx.binary_cross_entropy_with_logits, x),
        (fx.binary_cross_entropy, probs),
    ):
        single = function(given, y, reduction="none").astype(np.float64)
        exact = math.fsum(single) / len(single)
        assert abs(float(function(given, y)) - exact) <= np.spacing(dtype(exact))


@pytest.mark.parametrize("equal", [False, True])
def test_a_mean_over_many_rows_is_as_good_as_over_few(dtype, equal):
    """3 million rows: within an ulp of the exact mean, float64 too, and where all are equal."""
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((1 if equal else 3_000_000, 2)).astype(dtype)
    logits = np.broadcast_to(logits, (3_000_000, 2))
    labels = np.zeros(len(logits), int) if equal else rng.integers(0, 2, len(logits))
    weight = np.full(len(logits), 0.1)
    rows = fx.cross_entropy(logits, labels, reduction="none").astype(np.float64)
    exact = math.fsum(rows) / len(rows)
    for options in ({}, {"sample_weight": weight}):
        mean = float(fx.cross_entropy(logits, labels, **options))
        assert abs(mean - exact) <= np.spacing(dtype(exact))


def test_sixteen_python_threads_at_once(large):
    """Calls from 16 threads do not disturb each other."""
    logits, labels = large
    want = fx.cross_entropy(logits, labels, **ALL)
    small = fx.cross_entropy(logits[:5], labels[:5], **ALL)
    wrong = []

    def work(k):
        for j in range(12):
            part = slice(5) if (j + k) % 2 else slice(None)
            got = fx.cross_entropy(logits[part], labels[part], **ALL)
            for a, b in zip(got, small if (j + k) % 2 else want, strict=True):
                if np.asarray(a).tobytes() != np.asarray(b).tobytes():
                    wrong.append((k, j))

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert wrong == []


def test_thread_settings(monkeypatch):
    """Explicit before automatic, a context local to its thread, nothing below 1."""
    automatic = fx.get_num_threads()
    fx.set_num_threads(3)
    assert fx.get_num_threads() == 3
    with fx.num_threads(5):
        assert fx.get_num_threads() == 5
        with fx.num_threads(1):
            assert fx.get_num_threads() == 1
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(fx.get_num_threads()))
        thread.start()
        thread.join()
        assert elsewhere == [3]
    assert fx.get_num_threads() == 3
    monkeypatch.setattr(threads, "_explicit", None)
    assert fx.get_num_threads() == automatic
    for call in (fx.set_num_threads, fx.num_threads):
        for bad, error in [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]:
            with pytest.raises(error, match="n must be"):
                call(bad)


@pytest.mark.parametrize("name", ["FASTXENT_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"])
def test_environment_limits_threads(monkeypatch, name):
    """Each variable is respected; OpenMP's may be a list; nonsense is not a limit."""
    monkeypatch.setattr(threads, "_cached_default", (0, 0))
    monkeypatch.setenv(name, "1")
    assert fx.get_num_threads() == 1
    monkeypatch.delenv(name)
    without = list(threads._limits())
    for value, limits in [("1,2", [1]), ("7", [7]), ("many", []), ("0", []), ("", [])]:
        monkeypatch.setenv(name, value)
        assert sorted(threads._limits()) == sorted(limits + without)


def test_affinity_limits_threads():
    """A process bound to one CPU uses one thread."""
    script = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    script += "import fastxent as fx; print(fx.get_num_threads())"
    assert run_script(script) == "1\n"


@pytest.mark.parametrize(
    ("files", "own", "limits"),
    [
        ({"a/b/cpu.max": "150000 100000", "cpu.max": "max 100000"}, "0::/a/b", [2]),
        ({"a/cpu.max": "50000 100000"}, "0::/a/b", [1]),
        ({"cpu.max": "max 100000"}, "0::/", []),
        ({"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"},
         "3:cpu,cpuacct:/x\n2:memory:/y", [3]),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/x", []),
        ({"cpu.max": "garbage"}, "0::/", []),
    ],
)  # fmt: skip
def test_cgroup_quota(tmp_path, files, own, limits):
    """CPU quotas of control groups, versions 1 and 2, at any level above the process."""
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "own").write_text(own)
    assert list(threads.cgroup_limits(tmp_path, tmp_path / "own")) == limits
    assert list(threads.cgroup_limits(tmp_path, tmp_path / "absent")) == []


def test_the_first_exception_is_raised_and_nobody_works_on():
    """An exception in any thread comes out, after everyone has stopped."""
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
    """Where the third thread cannot be started, the first two help, and are waited for."""
    ask, started = helpers.ask, []

    def reluctant(job):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(job)
        ask(job)

    monkeypatch.setattr(helpers, "ask", reluctant)
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
    """Where no thread can be started (interpreter exit), all is done by the caller."""

    def refuse(*args, **kwargs):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(helpers, "_idle", {})
    monkeypatch.setattr(helpers.threading.Thread, "start", refuse)
    done = []
    threads.run(done.append, 5, 3)
    assert done == [0, 1, 2, 3, 4]


def _in_child(labels):
    rng = np.random.default_rng(5)
    logits = rng.standard_normal((9000, 400), dtype=np.float32)
    loss, grad = fx.cross_entropy(logits, labels, return_grad=True)
    return float(loss), float(grad[17, 5])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork_after_a_parallel_call(large):
    """multiprocessing.Pool by fork after a parallel call: children compute, the same numbers."""
    with fx.num_threads(2):
        want = fx.cross_entropy(*large, return_grad=True)
    fx.set_num_threads(2)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        got = pool.map_async(_in_child, [large[1]] * 6).get(timeout=60)
    assert got == [(float(want[0]), float(want[1][17, 5]))] * 6


def test_fork_while_another_thread_compiles(tmp_path):
    """A child made during a compilation can compile and compute."""
    script = """
        import os, sys, threading, time, warnings
        import numpy as np
        warnings.simplefilter("ignore", DeprecationWarning)
        import fastxent as fx
        x = np.zeros((3, 4), np.float32)
        fx.logsumexp(x)
        thread = threading.Thread(target=lambda: fx.cross_entropy(x, [0, 1, 2], return_grad=True))
        thread.start()
        children = []
        for _ in range(5):
            time.sleep(0.1)
            pid = os.fork()
            if not pid:
                ok = abs(fx.cross_entropy(x, [0, 1, 2]) - np.log(4)) < 1e-6
                os._exit(0 if ok else 1)
            children.append(pid)
        thread.join()
        sys.exit(any(os.waitpid(pid, 0)[1] for pid in children))
    """
    run_script(script, FASTXENT_CACHE_DIR=str(tmp_path))


def test_interrupt_in_a_long_call():
    """Ctrl-C raises KeyboardInterrupt soon, and nobody writes the buffer afterwards."""
    script = """
        import os, signal, threading, time
        import numpy as np
        import fastxent as fx
        # A shell lets what it starts in the background ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        fx.set_num_threads(2)
        row = np.linspace(0, 1, 4000, dtype=np.float32)
        logits = np.broadcast_to(row, (4_000_000, 4000))
        labels = np.broadcast_to(np.int64(0), 4_000_000)
        fx.set_num_threads(2)
        grad = np.zeros((6_000, 4000), np.float32)
        fx.cross_entropy(logits[:9], labels[:9], grad_out=grad[:9])
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        begin = time.perf_counter()
        try:
            while True:
                fx.cross_entropy(logits[:6_000], labels[:6_000], grad_out=grad)
        except KeyboardInterrupt:
            grad[:] = 7
            print("interrupted", time.perf_counter() - begin < 3)
        busy = time.process_time()
        time.sleep(0.5)
        print("idle", time.process_time() - busy < 0.1)
        print((grad == 7).all())
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        begin = time.perf_counter()
        try:
            fx.cross_entropy(logits, labels)  # some seconds of work in one call
        except KeyboardInterrupt:
            print("interrupted", time.perf_counter() - begin < 1.5)
    """
    assert run_script(script).split() == [
        "interrupted", "True", "idle", "True", "True", "interrupted", "True",
    ]  # fmt: skip


def test_interrupts_while_waiting_are_kept():
    """A second Ctrl-C while the helpers finish does not let them write on after the call."""

    class Interrupted(helpers.Job):
        waits = 0

        def finish(self):
            self.waits += 1
            if self.waits < 3:
                raise KeyboardInterrupt
            super().finish()

    done = []
    job = Interrupted(lambda: done.append(time.sleep(0.1)))
    helpers.ask(job)
    while job._call:
        time.sleep(0.001)
    with pytest.raises(KeyboardInterrupt):
        threads._finish([job])
    assert done == [None]


def test_an_idle_helper_holds_nothing():
    """What a job worked on is free as soon as the call returns."""

    def call():
        array = np.zeros(3)
        threads.run(lambda k: time.sleep(0.01 + array[0]), 4, 2)
        return weakref.ref(array)

    alive = call()
    time.sleep(0.05)
    assert alive() is None


def test_nothing_spins_when_idle(large):
    """After a parallel call no thread uses the CPU."""
    with fx.num_threads(2):
        fx.cross_entropy(*large)
    begin = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - begin < 0.1


def test_calls_at_exit():
    """A call in an atexit handler works, without threads if there are none to be had."""
    script = """
        import atexit
        import numpy as np
        import fastxent as fx
        fx.set_num_threads(2)
        logits, labels = np.zeros((9000, 400), np.float32), np.zeros(9000, int)
        fx.cross_entropy(logits, labels)
        atexit.register(lambda: print(round(float(fx.cross_entropy(logits, labels)), 4)))
    """
    assert run_script(script) == "5.9915\n"


@pytest.mark.parametrize("shape", [(2, 10), (2, 400), (2,)])
def test_subnormal_numbers_outlive_a_call(shape):
    """Kernels that make subnormal results 0 for their own time leave the thread as it was."""
    small, x, y = np.float32(1e-30), np.zeros(shape, np.float32), [0, 1]
    function = fx.cross_entropy if len(shape) == 2 else fx.binary_cross_entropy_with_logits
    with fx.num_threads(1):
        function(x, y, return_grad=True)
        assert small * np.float32(1e-10) > 0


def test_nothing_global_is_changed():
    """Import and calls leave signals, NumPy's error state, warnings and environment alone."""
    script = """
        import os, signal, warnings
        import numpy as np
        def state():
            return (signal.getsignal(signal.SIGINT), np.geterr(), list(warnings.filters),
                    dict(os.environ))
        before = state()
        import fastxent as fx
        print(state() == before)
        fx.softmax(np.array([1.0, 2.0]))  # Numba, when loaded, adds filters of its own
        before = state()
        fx.cross_entropy(np.array([[np.inf, 1.0]]), [0])
        fx.linear_cross_entropy(np.full((9, 2), np.nan), np.ones((3, 2)), [0] * 9, return_grad=True)
        print(state() == before)
    """
    assert run_script(script).split() == ["True", "True"]
