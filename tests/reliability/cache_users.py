"""Processes that find the compile cache in any state: each is a fork of this one.

This one has compiled the subroutines of two kernels and forgotten the kernels, so that a child has
only these to compile: a fifth of the time of a first call in a process of its own.

    python cache_users.py races ROUNDS
    python cache_users.py faults FLIPS
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import numpy as np
from numba.core import event

import fastxent as fx
from fastxent import _version, kernel_files
from fastxent.cpu import binary, jit, launch

# The sum of two losses, and of their gradients.
LOSS, GRAD = 2 * math.log(2), -1.0


def loss(dtype):
    """A first call of one kernel: whether its number is right."""
    x = np.zeros(2, dtype)
    return math.isclose(fx.binary_cross_entropy_with_logits(x, x + 1, reduction="sum"), LOSS,
                        rel_tol=1e-6)  # fmt: skip


def loss_and_grad(dtype):
    """And of another."""
    x = np.zeros(2, dtype)
    both = fx.binary_cross_entropy_with_logits(x, x + 1, reduction="sum", return_grad=True)
    return math.isclose(both[0], LOSS, rel_tol=1e-6) and both[1].sum() == GRAD


CALLS = [(loss, "f4"), (loss, "f8"), (loss_and_grad, "f4")]
TWO = CALLS[:2]


def forget():
    """As if no kernel had been called in this process."""
    jit._ready.clear()
    for function in [*vars(launch).values(), *vars(binary).values()]:
        getattr(function, "cache_clear", lambda: None)()


class Compilations(event.Listener):
    """Counts them."""

    count = 0

    def on_start(self, event):
        self.count += event.data["dispatcher"].__name__.startswith("binary_")

    def on_end(self, event):
        pass


def start(folder, calls, prepare=lambda: None, begin=None):
    """A child that makes the calls, when `begin` is closed; its process and where it answers."""
    read, write = os.pipe()
    process = os.fork()
    if process:
        os.close(write)
        return process, read
    signal.alarm(60)
    answer = {"right": False, "compiled": -1, "warnings": 0}
    try:
        os.environ["FASTXENT_CACHE_DIR"] = str(folder)
        forget()
        compilations = Compilations()
        event.register("numba:compile", compilations)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            prepare()
            if begin is not None:
                os.close(begin[1])
                os.read(begin[0], 1)
            answer["right"] = bool(all(call(dtype) for call, dtype in calls))
        answer |= {"compiled": compilations.count, "warnings": len(caught)}
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            os.write(write, json.dumps(answer).encode())
        sys.stderr.flush()
        os._exit(0)


def end(process, read):
    """The child's answer; none if it was killed."""
    answer = os.read(read, 1000)
    os.close(read)
    os.waitpid(process, 0)
    return json.loads(answer or b'{"right": false, "compiled": -1, "warnings": 0}')


def child(folder, calls=TWO, prepare=lambda: None):
    """The answer of one child."""
    return end(*start(folder, calls, prepare))


def fine(answer):
    """No exception, no wrong number, one warning at most."""
    return answer["right"] and answer["warnings"] <= 1


# --- races ------------------------------------------------------------------------------------


def races(rounds, place):
    """Three kernels, one of them twice, by four processes at once on a folder that is not there."""
    counts = {"processes": 0, "right": 0, "files": 0, "whole": 0}
    for k in range(rounds):
        folder = place / str(k)
        begin = os.pipe()
        children = [start(folder, [call], begin=begin) for call in [*CALLS, CALLS[k % 3]]]
        os.close(begin[1])  # all of them go
        answers = [end(*started) for started in children]
        os.close(begin[0])
        files = list(folder.iterdir())
        after = child(folder, CALLS)  # finds all that it needs
        counts["processes"] += len(answers)
        counts["right"] += sum(map(fine, answers))
        counts["files"] += len(CALLS)
        if fine(after) and after["compiled"] == 0 and len(files) == len(CALLS):
            counts["whole"] += len(CALLS)
        shutil.rmtree(folder)
    return counts


# --- faults -----------------------------------------------------------------------------------


def contents(flips):
    """What a file may hold instead: (good content, another file's) -> bytes, by name."""
    number = random.Random(1)

    def flipped(share):
        def flip(good, other):
            content, at = bytearray(good), int(share * len(good))
            content[at] ^= 1 << at % 8
            return bytes(content)

        return flip

    return {
        "empty": lambda good, other: b"",
        "one byte": lambda good, other: good[:1],
        "cut in the digest": lambda good, other: good[:31],
        "cut after the digest": lambda good, other: good[:32],
        "half": lambda good, other: good[: len(good) // 2],
        "last byte missing": lambda good, other: good[:-1],
        "a byte too many": lambda good, other: good + b"\0",
        "zeros": lambda good, other: bytes(len(good)),
        "text": lambda good, other: b"not machine code\n" * 99,
        "swapped": lambda good, other: other,
        "another's digest": lambda good, other: other[:32] + good[32:],
        "twice": lambda good, other: good + good,
        "bit of the digest": flipped(0),
        **{f"bit {k}": flipped(number.random()) for k in range(flips)},
    }


def payloads():
    """What may stand behind a right digest, written by another Numba, say."""
    return {
        "nothing": b"",
        "no pickle": b"garbage",
        "a number": pickle.dumps(1),
        "too few": pickle.dumps(()),
        "too many": pickle.dumps(tuple(range(50))),
        "unknown class": b"cnowhere\nnothing\n.",
        "raises": b"cbuiltins\nexec\n(S'raise SystemError'\ntR.",
    }


def replaced(name):
    """A file that has become something else."""

    def spoil(path):
        path.unlink()
        if name == "folder":
            path.mkdir()
        if name == "dangling link":
            path.symlink_to("nowhere")
        if name == "link to itself":
            path.symlink_to(path.name)
        if name == "unreadable":
            path.write_bytes(b"")
            path.chmod(0)

    return spoil


def nobody():
    """Go on as a user who may read and write little; root may everything."""
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)


def limited(name, number):
    """Go on under a limit of the system's."""

    def prepare():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write is an error
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (number, number))

    return prepare


def failing(module, name, code):
    """Let a function of the system fail."""

    def prepare():
        def fail(*args, **kwargs):
            raise OSError(code, os.strerror(code))

        setattr(module, name, fail)

    return prepare


def places(place):
    """Folders that are none, or that nothing can be kept in, and what happens before the call."""
    (place / "file").write_text("no folder")
    closed, read_only = place / "closed", place / "read only"
    closed.mkdir(mode=0)
    read_only.mkdir(mode=0o555)
    own = place / "own"
    return {
        "a file": (place / "file", lambda: None),
        "below a file": (place / "file" / "below", lambda: None),
        "no device": ("/dev/null/cache", lambda: None),
        "not to be made": ("/proc/nowhere", lambda: None),
        "name too long": (place / ("x" * 300), lambda: None),
        "path too long": ("/".join([str(place), *["x" * 200] * 30]), lambda: None),
        "odd name": (place / "a b\n\udcff\u2028;", lambda: None),
        "closed": (closed, nobody),
        "read-only": (read_only, nobody),
        "others'": (place / "others", nobody),
        "relative, folder gone": ("relative", lambda: (own.mkdir(), os.chdir(own), own.rmdir())),
        "disk full": (place / "full", limited("FSIZE", 0)),
        "disk full midway": (place / "midway", limited("FSIZE", 1000)),
        "too many files open": (place / "many", lambda: limited("NOFILE", count_files())()),
        "no space to rename": (place / "rename", failing(kernel_files.os, "replace", errno.ENOSPC)),
        "quota": (place / "quota", failing(kernel_files.os, "open", errno.EDQUOT)),
        "read error": (place / "read", failing(Path, "read_bytes", errno.EIO)),
        "stale handle": (place / "stale", failing(Path, "mkdir", errno.ESTALE)),
        "no home": ("", no_home),
    }  # fmt: skip


def count_files():
    return max(map(int, os.listdir("/proc/self/fd"))) + 1


def no_home():
    """Nothing says where a cache could be."""

    def homeless():
        raise RuntimeError("no home")

    for name in ("FASTXENT_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        os.environ.pop(name, None)
    Path.home = homeless


def newer():
    """The package after an upgrade."""
    _version.__version__ = "999"


def edited():
    """And after an edit of its kernels."""
    kernel_files.sources = lambda folder: "edited"


class Folder:
    """A cache with two good files, copies of which are spoilt; and how the next processes fared."""

    def __init__(self, place):
        self.place, self.good = place, place / "good"
        assert fine(child(self.good)), "without any fault"
        self.content = {path.name: path.read_bytes() for path in self.good.iterdir()}
        assert len(self.content) == len(TWO)
        self.results = {}

    def judge(self, name, prepare=lambda: None, compiled=2, then=0):
        """Right numbers, by as many compilations as there are faults; then by none."""
        folder = self.place / "spoilt"
        first, second = child(folder, prepare=prepare), child(folder, prepare=prepare)
        self.results[name] = (
            fine(first) and first["compiled"] == compiled
            and fine(second) and second["compiled"] == then
        )  # fmt: skip
        shutil.rmtree(folder)

    def spoil(self, name, change, **expected):
        """Every file of a copy."""
        shutil.copytree(self.good, self.place / "spoilt")
        for path in sorted((self.place / "spoilt").iterdir()):
            change(path)
        self.judge(name, **expected)

    def other(self, name):
        """The content of the other file."""
        return next(content for key, content in self.content.items() if key != name)


def digests(folder):
    """A function that puts the right digest before a payload, given the file's name."""
    identities, load = {}, kernel_files.load

    def remember(name, identity):
        identities[kernel_files._file(name, identity).name] = identity
        return load(name, identity)

    os.environ["FASTXENT_CACHE_DIR"] = str(folder)
    forget()
    kernel_files.load = remember
    for call, dtype in TWO:
        call(dtype)
    kernel_files.load = load
    return lambda name, payload: hashlib.sha256(identities[name] + payload).digest() + payload


def faults(flips, place):
    """Each fault, how the next process fares, and the one after."""
    folder = Folder(place)
    for name, make in contents(flips).items():
        folder.spoil(name, lambda path, make=make: path.write_bytes(
            make(folder.content[path.name], folder.other(path.name))))  # fmt: skip
    with_digest = digests(folder.good)
    for name, payload in payloads().items():
        folder.spoil(f"right digest, {name}", lambda path, payload=payload: path.write_bytes(
            with_digest(path.name, payload)))  # fmt: skip
    folder.spoil("deleted", lambda path: path.unlink())
    for name in ("dangling link", "link to itself", "unreadable"):
        folder.spoil(name, replaced(name))
    folder.spoil("a folder", replaced("folder"), then=2)  # which nothing can be put in place of
    for prepare in (newer, edited):
        folder.spoil(prepare.__name__, lambda path: None, prepare=prepare)
    folder.spoil("read-only, filled", lambda path: path.parent.chmod(0o555), prepare=nobody,
                 compiled=0)  # fmt: skip
    # Each of these spoils both kernels' files; those below are one fault each.
    results = {f"{name}, kernel {k}": good for name, good in folder.results.items() for k in (1, 2)}
    for name, (where, prepare) in places(place).items():
        answer = child(where, prepare=prepare)
        results[name] = fine(answer) and answer["compiled"] == 2
    return {"tried": len(results), "failed": [name for name, good in results.items() if not good]}


def main(what, number):
    """Compile what the children do not have to, and let them go."""
    os.environ["FASTXENT_CACHE_DIR"] = "/dev/null/cache"
    assert all(call(dtype) for call, dtype in CALLS)
    forget()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # for a user who is nobody
        print(json.dumps({"races": races, "faults": faults}[what](int(number), Path(folder))))


if __name__ == "__main__":
    main(*sys.argv[1:])
