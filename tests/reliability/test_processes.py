"""Calls in child processes of every kind, and in threads while the process exits."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
from scripts import python, run

HERE = Path(__file__).parent
TASKS = 12

forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.mark.parametrize(
    "kind",
    [*map(lambda kind: pytest.param(kind, marks=forking), ["fork", "forkserver", "grandchildren"]),
     "spawn", "executor", "joblib", "loader"],
)  # fmt: skip
def test_workers(kind, count):
    """Workers started after a parallel call in the parent compute the parent's numbers."""
    needed = {"joblib": "joblib", "loader": "torch"}.get(kind, "fastxent")
    if not find_spec(needed):
        pytest.skip(f"needs {needed}")
    count("workers", int(run([HERE / "workers.py", kind], 200)[0]), TASKS)


def test_gunicorn_with_preload(tmp_path, count):
    """A parallel call while the application is loaded, then requests to forked workers."""
    if not find_spec("gunicorn") or not hasattr(os, "fork"):
        pytest.skip("needs gunicorn")
    (tmp_path / "service.py").write_text(
        "import json, os, sys\n"
        f"sys.path.insert(0, {str(HERE)!r})\n"
        "from workers import parallel\n"
        "want = parallel(0)\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Type', 'application/json')])\n"
        "    return [json.dumps([os.getpid(), parallel(0) == want]).encode()]\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    server = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--preload", "-w", "3", "-b", address, "service:app"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    answers, direct = [], urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        limit = time.monotonic() + 60
        while len(answers) < 30 and time.monotonic() < limit:
            try:
                with direct.open(f"http://{address}/", timeout=20) as answer:
                    answers.append(json.load(answer))
            except urllib.error.URLError as error:
                if answers or not isinstance(error.reason, ConnectionRefusedError):
                    raise
                time.sleep(0.1)  # not there yet
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            _, said = server.communicate(timeout=60)
        finally:
            server.kill()
    assert len(answers) == 30 and server.returncode == 0, said
    assert server.pid not in {pid for pid, _ in answers}
    count("workers", sum(right for _, right in answers), 30)


FORKS = """
    import os, signal, sys, threading, time, warnings
    import numpy as np
    import fastxent as fx

    warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons' of any such fork
    fx.set_num_threads(2)
    x = np.linspace(-3, 3, 900_000, dtype=np.float32).reshape(-1, 100)
    y = np.arange(len(x)) % 100
    want = fx.cross_entropy(x, y, return_grad=True)[1].tobytes()
    right, over = [], threading.Event()

    def fork():
        pid = os.fork()
        if not pid:
            signal.alarm(60)  # a child that hangs is killed
            try:
                with fx.num_threads(2):
                    same = fx.cross_entropy(x, y, return_grad=True)[1].tobytes() == want
            finally:
                os._exit(0 if same else 1)
        return pid
"""


@forking
def test_forks_while_threads_call(count):
    """150 children, forked while four threads are in parallel calls."""
    script = """
        def work():
            while not over.is_set():
                right.append(fx.cross_entropy(x, y, return_grad=True)[1].tobytes() == want)

        running = [threading.Thread(target=work) for _ in range(4)]
        for thread in running: thread.start()
        codes = []
        for k in range(50):
            children = [fork() for _ in range(3)]
            codes += [os.waitpid(child, 0)[1] for child in children]
        over.set()
        for thread in running: thread.join()
        assert all(right) and len(right) > 20, (len(right), all(right))
        print(codes.count(0))
    """
    text = re.sub("^    ", "", FORKS, flags=re.M) + re.sub("^        ", "", script, flags=re.M)
    count("forks", int(python(text, timeout=200)), 150)


@forking
def test_forks_while_a_thread_loads(effort, count):
    """A child forked while another thread makes the first call, which imports Numba."""
    script = """
        import os, signal, sys, threading, time, warnings
        import numpy as np
        import fastxent as fx

        warnings.simplefilter("ignore", DeprecationWarning)
        x = np.zeros((3, 4), np.float32)
        thread = threading.Thread(target=fx.softmax, args=(x,))
        thread.start()
        time.sleep(float(sys.argv[1]))
        pid = os.fork()  # asked for in the midst of the import, made when it ends
        if not pid:
            signal.alarm(20)  # a child that hangs is killed
            os._exit(0 if (fx.softmax(x) == 0.25).all() else 1)
        print(os.waitpid(pid, 0)[1])
        thread.join()
    """
    waits = [0.01 * k for k in range(1, 41, effort(8, 2))]
    right = [int(python(script, str(wait))) == 0 for wait in waits]
    count("forks in compilation", sum(right), len(right))


def test_imports_are_made_under_locks():
    """Once a backend is loaded, calls import modules only under the compiler's lock."""
    script = """
        import sys
        import numpy as np
        import fastxent as fx
        import fastxent.cpu.backend
        from numba.core.compiler_lock import global_compiler_lock

        class Finder:
            def find_spec(self, name, path, target=None):
                if not global_compiler_lock.is_locked():
                    print(name)

        sys.meta_path.insert(0, Finder())
        fx.set_num_threads(2)
        x = np.full((9, 4), 0.25, np.float16)
        fx.cross_entropy(x, np.arange(9) % 4, return_grad=True)
        fx.binary_cross_entropy(x, x)
        fx.linear_cross_entropy(x, np.ones((3, 4)), np.arange(9) % 3)
        fx.cross_entropy(np.ones((99999, 9)), np.zeros(99999, int))  # with a helper
    """
    assert python(script) == ""


@forking
def test_forks_while_a_thread_compiles(tmp_path, effort, count):
    """A child forked during a compilation can compile and compute."""
    script = """
        import os, signal, threading, time, warnings
        import numpy as np
        import fastxent as fx

        warnings.simplefilter("ignore", DeprecationWarning)
        x = np.zeros((3, 4), np.float32)
        calls = [
            fx.softmax, fx.log_softmax, fx.logsumexp,
            lambda x: fx.categorical_cross_entropy(x, [0, 1, 2]),
            lambda x: fx.cross_entropy(x, [0, 1, 2]),
        ]

        def compile():
            for call in calls: call(x)

        thread = threading.Thread(target=compile)
        thread.start()
        children = []
        while thread.is_alive():
            pid = os.fork()  # asked for in the midst of a compilation, made when it ends
            if not pid:
                signal.alarm(60)
                call = calls[len(children) % len(calls)]
                os._exit(0 if np.isfinite(call(x)).all() else 1)
            children.append(pid)
            time.sleep(0.15)
        print(sum(os.waitpid(pid, 0)[1] == 0 for pid in children), len(children))
    """
    for k in range(effort(1, 2)):
        right, made = map(int, python(script, FASTXENT_CACHE_DIR=str(tmp_path / str(k))).split())
        count("forks in compilation", right, made)
        assert made >= 3


EXITS = {
    "atexit": """
        atexit.register(lambda: print(call()))
    """,
    "threads that outlive main": """
        def work():
            threading.main_thread().join()
            print(call())
        threading.Thread(target=work).start()
    """,
    "daemon threads in calls": """
        def work():
            while True: call()
        for _ in range(4): threading.Thread(target=work, daemon=True).start()
        time.sleep(0.2)
        print(call())
    """,
    "a finalizer of the last object": """
        class Last:
            def __del__(self): print(call())
        last = Last()
    """,
    "the same, but no helper is idle": """
        class Last:
            def __del__(self): print(call())
        last = Last()
        from fastxent.cpu import helpers
        helpers._idle.clear()
    """,
    "an exit while another thread calls": """
        threading.Thread(target=call).start()
        print(call())
        sys.exit(0)
    """,
}


@pytest.mark.parametrize("ending", EXITS)
def test_exits(ending, count):
    """A call works while the interpreter exits, without threads if none can be started."""
    before = """
        import atexit, sys, threading, time
        import numpy as np
        import fastxent as fx
        fx.set_num_threads(2)
        logits, labels = np.zeros((9000, 400), np.float32), np.zeros(9000, int)
        def call(): return round(float(fx.cross_entropy(logits, labels)), 4)
        call()
    """
    count("exits", int(python(before + EXITS[ending], timeout=60) == "5.9915\n"), 1)


def test_without_register_at_fork(count):
    """Platforms that do not fork have no such function."""
    script = """
        import os
        for name in ("fork", "register_at_fork"):
            if hasattr(os, name):
                delattr(os, name)
        import numpy as np
        import fastxent as fx
        fx.set_num_threads(2)
        print(round(float(fx.cross_entropy(np.zeros((9000, 400)), np.zeros(9000, int))), 4))
    """
    count("exits", int(python(script) == "5.9915\n"), 1)
