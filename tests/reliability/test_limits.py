"""Number of threads within every limit, no global state changed, no CPU time when idle."""

import os
import threading

import numpy as np
import pytest
from scripts import python

import fastxent as fx
from fastxent.cpu import threads


def test_thread_settings(monkeypatch):
    """Explicit numbers override automatic ones, contexts are local to their thread, at least 1."""
    automatic = fx.get_num_threads()
    fx.set_num_threads(3)
    assert fx.get_num_threads() == 3
    with fx.num_threads(5):
        assert fx.get_num_threads() == 5
        assert threads.chosen() == (5, "num_threads")
        with fx.num_threads(1):
            assert fx.get_num_threads() == 1
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(fx.get_num_threads()))
        thread.start()
        thread.join()
        assert elsewhere == [3]
    assert threads.chosen() == (fx.get_num_threads(), "set_num_threads") == (3, "set_num_threads")
    monkeypatch.setattr(threads, "_explicit", None)
    assert threads.chosen().threads == fx.get_num_threads() == automatic
    for call in (fx.set_num_threads, fx.num_threads):
        for bad, error in [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]:
            with pytest.raises(error, match="n must be"):
                call(bad)


@pytest.mark.parametrize("name", ["FASTXENT_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"])
def test_environment(monkeypatch, name, count):
    """Each variable is a limit; OpenMP's may be a list; invalid values are ignored."""
    monkeypatch.setattr(threads, "_cached_default", (0, 0, ""))
    monkeypatch.setenv(name, "1")
    count("limits", int(fx.get_num_threads() == 1), 1)
    monkeypatch.delenv(name)
    without = list(threads.limits())
    for value, limits in [("1,2", [1]), ("7", [7]), ("many", []), ("0", []), ("", [])]:
        monkeypatch.setenv(name, value)
        expected = [(n, name) for n in limits] + without
        count("limits", int(sorted(threads.limits()) == sorted(expected)), 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_affinity(count):
    """A process bound to one CPU uses one thread."""
    script = """
        import os
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        import fastxent as fx
        print(fx.get_num_threads())
    """
    count("limits", int(python(script) == "1\n"), 1)


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
def test_cgroup_quota(tmp_path, files, own, limits, count):
    """CPU quotas of control groups, versions 1 and 2, at any level above the process."""
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "own").write_text(own)
    count("limits", int(list(threads.cgroup_limits(tmp_path, tmp_path / "own")) == limits), 1)
    assert list(threads.cgroup_limits(tmp_path, tmp_path / "absent")) == []


def test_as_many_threads_as_set(count):
    """A call starts one thread less than the number that is set; none for 1."""
    script = """
        import contextlib, threading, time
        import numpy as np
        import fastxent as fx
        x = np.zeros((9000, 1000), np.float32)
        def started(n, setting=fx.num_threads):
            before = threading.active_count()
            # Again where the machine is so loaded that a helper has done all before the next is
            # asked: then it is asked itself, and nothing started.
            for _ in range(10):
                with setting(n): fx.softmax(x)
                time.sleep(1)  # until those that were called off wait for the next job
                if threading.active_count() >= n: break
            return threading.active_count() - before
        print(started(1), started(2), started(2), started(4))
        print(started(5, lambda n: contextlib.nullcontext(fx.set_num_threads(n))))
    """
    said = python(script).split()
    count("limits", sum(a == b for a, b in zip(said, "01021", strict=True)), 5)


def test_nothing_spins_when_idle(count):
    """After a parallel call no thread uses the CPU."""
    script = """
        import time
        import numpy as np
        import fastxent as fx
        with fx.num_threads(4): fx.softmax(np.zeros((9000, 1000), np.float32))
        begin = time.process_time()
        time.sleep(1)
        print(time.process_time() - begin < 0.01)
    """
    count("limits", int(python(script) == "True\n"), 1)


GLOBALS = """
        import decimal, faulthandler, gc, locale, logging, os, random, resource, signal, sys
        import threading, warnings
        import numpy as np

        def umask():
            found = os.umask(0o22)
            os.umask(found)
            return found

        def state():
            tiny = np.float32(1e-30)
            return {
                "signals": [signal.getsignal(k) for k in signal.valid_signals()],
                "blocked signals": signal.pthread_sigmask(signal.SIG_BLOCK, []),
                "NumPy's errors": np.geterr(), "its error callback": np.geterrcall(),
                "its random numbers": str(np.random.get_state()),
                "its printing": np.get_printoptions(),
                "warning filters": list(warnings.filters), "showwarning": warnings.showwarning,
                "environment": dict(os.environ), "path": list(sys.path),
                "random numbers": random.getstate(), "collector": gc.get_threshold(),
                "recursion limit": sys.getrecursionlimit(), "switching": sys.getswitchinterval(),
                "hooks": [sys.excepthook, sys.displayhook, sys.unraisablehook],
                "thread hook": threading.excepthook,
                "tracing": [sys.gettrace(), sys.getprofile()], "folder": os.getcwd(),
                "locale": locale.setlocale(locale.LC_ALL), "log level": logging.root.level,
                "handlers": list(logging.root.handlers), "faults": faulthandler.is_enabled(),
                "decimals": str(decimal.getcontext()), "priority": os.nice(0),
                "CPUs": os.sched_getaffinity(0), "umask": umask(),
                "memory limit": resource.getrlimit(resource.RLIMIT_AS),
                "stack of threads": threading.stack_size(),
                "subnormal numbers": tiny * np.float32(1e-10) > 0,
                "rounding": np.float32(1) + np.float32(2**-24) == 1,
            }

        def changed(before):
            after = state()
            return sorted(key for key in before if before[key] != after[key])
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="asks Linux")
def test_nothing_global_is_changed(count):
    """Import, calls, errors and threads do not change the settings of the process."""
    script = """
        before = state()
        import fastxent as fx
        print(len(before), *changed(before), sep="|")
        fx.softmax(np.array([1.0, 2.0]))  # Numba, when loaded, adds filters of its own
        import numba
        before, threads = state(), numba.get_num_threads()
        x, w = np.array([[np.inf, 1.0], [1e-320, np.nan]]), np.ones((2, 2))
        large = np.ones((9000, 300), np.float32)
        for target in ([0, 1], w):
            fx.cross_entropy(x, target, return_grad=True)
            fx.categorical_cross_entropy(x, target, return_grad=True)
            fx.linear_cross_entropy(x, w, target, return_grad=True)
        fx.binary_cross_entropy(x, w, return_grad=True)
        fx.binary_cross_entropy_with_logits(x, w, return_grad=True)
        with fx.num_threads(3):
            for function in (fx.softmax, fx.log_softmax, fx.logsumexp):
                function(x), function(large), function(large.astype(np.float16))
        for bad in ([0, 9], [0.5, 0.5], None):
            try:
                fx.cross_entropy(x, bad)
            except (IndexError, TypeError, ValueError):
                pass
        print(len(before), *changed(before), sep="|")
        print(numba.get_num_threads() == threads)
    """
    *said, same_threads = python(GLOBALS + script).split("\n")[:3]
    for line in said:
        settings, *changed = line.split("|")
        assert changed == []
        count("globals", int(settings), int(settings))
    count("globals", int(same_threads == "True"), 1)


@pytest.mark.parametrize("shape", [(2, 10), (2, 400), (2,)])
def test_subnormal_numbers_outlive_a_call(shape):
    """Kernels that flush subnormal results restore the mode of the thread."""
    small, x, y = np.float32(1e-30), np.zeros(shape, np.float32), [0, 1]
    function = fx.cross_entropy if len(shape) == 2 else fx.binary_cross_entropy_with_logits
    with fx.num_threads(1):
        function(x, y, return_grad=True)
        assert small * np.float32(1e-10) > 0
