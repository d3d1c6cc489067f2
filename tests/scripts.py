"""Scripts in processes of their own, with a time limit: what they try could hang or crash."""

import os
import signal
import subprocess
import sys
import textwrap


def run(command, timeout, **options):
    """The output of a command and what it wrote to standard error.

    If it fails, is killed or takes too long, the test fails; nothing that it started lives on.
    """
    with subprocess.Popen(
        [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, **options,
    ) as process:  # fmt: skip
        try:
            said, errors = process.communicate(timeout=timeout)
        finally:
            _end_all(process)
    assert process.returncode == 0, f"exit {process.returncode}\n{said[-3000:]}{errors[-3000:]}"
    return said, errors


def _end_all(process):
    """Kill what is left of a process and its children."""
    if hasattr(os, "killpg"):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    else:
        process.kill()


def python(text, *args, timeout=180, **environment):
    """What a script prints in a fresh process, warnings as errors; None takes a variable away.

    Anything on standard error fails the test, too.
    """
    variables = {k: v for k, v in (os.environ | environment).items() if v is not None}
    command = ["-W", "error", "-c", textwrap.dedent(text), *args]
    said, errors = run(command, timeout, env=variables)
    assert errors == "", errors
    return said


# The beginning of a script: `compiled` names what is compiled after it.
COUNTING = """
from numba.core import event
compiled = []
class Listener(event.Listener):
    def on_start(self, event): compiled.append(event.data["dispatcher"].__name__)
    def on_end(self, event): pass
event.register("numba:compile", Listener())
"""
