"""A program in a terminal of its own: 80 columns, and a Ctrl-C that reaches all that it started."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

_SIZE = struct.pack("HHHH", 24, 80, 0, 0)
# The terminal is made the new session's own, as a shell's is: so Ctrl-C becomes a signal.
_LAUNCH = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Terminal:
    """`with Terminal(arguments of Python) as terminal`; at the end nothing is left running."""

    def __init__(self, *command, **environment):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, _SIZE)
        kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, *command], stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, env=kept | {"TERM": "xterm-256color"} | environment,
        )  # fmt: skip
        os.close(slave)
        self.shown = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
        os.close(self._master)

    def press(self, keys):
        os.write(self._master, keys.encode())

    def wait_for(self, text, seconds=60):
        """Read until a text is shown."""
        end = time.monotonic() + seconds
        while text.encode() not in self.shown:
            if not self._read(end):
                raise AssertionError(f"ended without {text!r}: {self.shown.decode()}")

    def rest(self, seconds=60):
        """The exit status, once no process has the terminal open any more."""
        end = time.monotonic() + seconds
        while self._read(end):
            pass
        return self.process.wait(seconds)

    def _read(self, end):
        if not select.select([self._master], [], [], max(0, end - time.monotonic()))[0]:
            raise AssertionError(f"still open: {self.shown.decode()}")
        try:
            found = os.read(self._master, 1 << 16)
        except OSError:  # what Linux gives where the last has closed it
            found = b""
        self.shown += found
        return found

    @property
    def text(self):
        """What was shown, without colours and the like."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.shown.decode()).replace("\r\n", "\n")
