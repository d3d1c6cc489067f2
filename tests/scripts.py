"""Scripts in processes of their own, with a time limit: what they try could hang or crash."""

import os
import subprocess
import sys
import textwrap


def python(text, *args, timeout=180, **environment):
    """What a script prints in a fresh process, warnings as errors; None takes a variable away.

    A script that fails, is killed, writes to standard error or takes too long fails the test.
    """
    variables = {k: v for k, v in (os.environ | environment).items() if v is not None}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(text), *args],
        capture_output=True, text=True, timeout=timeout, env=variables,
    )  # fmt: skip
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    assert done.stderr == "", done.stderr
    return done.stdout
