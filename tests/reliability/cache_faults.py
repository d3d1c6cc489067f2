"""Processes that use a compile cache with every kind of fault: `cache_faults.py FLIPS`.

FLIPS is the number of flipped bits, each in its own file.
"""

import contextlib
import errno
import hashlib
import os
import pickle
import random
import resource
import shutil
import signal
import sys
from pathlib import Path

from cache_users import CALLS, child, fine, forget, main

from fastxent import _version, kernel_files

FOLDER, ODD = "a folder", "odd name"


def contents(flips):
    """Bad contents of a file: (good content, another file's) -> bytes, by name."""
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
    """Bad payloads with a correct digest, such as one written by another Numba."""
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
    """A function that replaces a file by a folder or a broken link."""

    def spoil(path):
        path.unlink()
        if name == FOLDER:
            path.mkdir()
        if name == "dangling link":
            path.symlink_to("nowhere")
        if name == "link to itself":
            path.symlink_to(path.name)

    return spoil


def nobody():
    """Continue as a user with few permissions, since root has all."""
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)


def limited(name, number):
    """Continue under a system limit."""

    def prepare():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write is an error
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (number, number))

    return prepare


def failing(module, name, code):
    """Make a system function fail."""

    def prepare():
        def fail(*args, **kwargs):
            raise OSError(code, os.strerror(code))

        setattr(module, name, fail)

    return prepare


def places(place):
    """Unusable cache folders, and the setup before the call."""
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
        ODD: (place / "a b\n\udcff\u2028;", lambda: None),
        "closed": (closed, nobody),
        "read-only": (read_only, nobody),
        "others'": (place / "others", nobody),
        "relative, folder gone": ("relative", lambda: (own.mkdir(), os.chdir(own), own.rmdir())),
        "disk full": (place / "full", limited("FSIZE", 0)),
        "disk full midway": (place / "midway", limited("FSIZE", 1000)),
        "too many files open": (place / "many", no_more_files),
        "no space to rename": (place / "rename", failing(kernel_files.os, "replace", errno.ENOSPC)),
        "quota": (place / "quota", failing(kernel_files.os, "open", errno.EDQUOT)),
        "stale handle": (place / "stale", failing(Path, "mkdir", errno.ESTALE)),
        "no home": ("", no_home),
    }  # fmt: skip


def no_more_files():
    """Open as many files as the system allows."""
    limited("NOFILE", 64 + len(os.listdir("/dev/fd")))()
    with contextlib.suppress(OSError):
        while True:
            os.open(os.devnull, os.O_RDONLY)


def no_home():
    """Remove all settings of a cache folder."""

    def homeless():
        raise RuntimeError("no home")

    for name in ("FASTXENT_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        os.environ.pop(name, None)
    Path.home = homeless


def newer():
    """Simulate an upgrade of the package."""
    _version.__version__ = "999"


def edited():
    """Simulate an edit of the kernels."""
    kernel_files.sources = lambda folder: "edited"


def digests(folder):
    """A function that puts the right digest before a payload, given the file's name."""
    identities, load = {}, kernel_files.load

    def remember(name, identity):
        identities[kernel_files._file(name, identity).name] = identity
        return load(name, identity)

    os.environ["FASTXENT_CACHE_DIR"] = str(folder)
    forget()
    kernel_files.load = remember
    for call, dtype in CALLS:
        call(dtype)
    kernel_files.load = load
    return lambda name, payload: hashlib.sha256(identities[name] + payload).digest() + payload


def file_faults(flips, good):
    """Functions that damage a file, by name."""
    content = {path.name: path.read_bytes() for path in good.iterdir()}
    assert len(content) == len(CALLS)
    with_digest = digests(good)

    def other(name):
        return next(found for key, found in content.items() if key != name)

    def written(make):
        return lambda path: path.write_bytes(make(content[path.name], other(path.name)))

    def behind_digest(payload):
        return lambda path: path.write_bytes(with_digest(path.name, payload))

    return (
        {name: written(make) for name, make in contents(flips).items()}
        | {f"right digest, {name}": behind_digest(load) for name, load in payloads().items()}
        | {name: replaced(name) for name in ("dangling link", "link to itself", FOLDER)}
        | {"deleted": lambda path: path.unlink()}
    )


def met(folder, compiled, then, prepare=lambda: None):
    """Whether a process and the next one give right numbers after that many compilations."""
    answers = [child(folder, CALLS, prepare) for _ in range(2)]
    counts = [answer["compiled"] for answer in answers]
    return all(map(fine, answers)) and counts == [compiled, then]


def faults(flips, place):
    """Each fault, and whether the next two processes give right numbers."""
    good, folder, results = place / "good", place / "spoilt", {}
    assert fine(child(good, CALLS)), "without any fault"
    each = list(file_faults(flips, good).items())
    # Two kernels, two files: a different fault for each. All faults of both where there is time.
    after = each[1:] + each[:1]
    for pair in list(zip(each, after, strict=True))[:: 1 if flips > 9 else 2]:
        shutil.copytree(good, folder)
        for path, (_, spoil) in zip(sorted(folder.iterdir()), pair, strict=True):
            spoil(path)
        # Nothing can be put in the place of a folder.
        well = met(folder, 2, sum(name == FOLDER for name, _ in pair))
        results |= {f"{name}, file {k}": well for k, (name, _) in enumerate(pair)}
        shutil.rmtree(folder)
    for name, mode, prepare, compiled in [
        ("an upgrade", 0o755, newer, 2),
        ("an edit", 0o755, edited, 2),
        ("read-only, filled by another user", 0o555, nobody, 0),
        ("a read error", 0o755, failing(Path, "read_bytes", errno.EIO), 2),
    ]:
        shutil.copytree(good, folder)
        folder.chmod(mode)
        # What cannot be read is never found.
        results[name] = met(folder, compiled, 2 if name == "a read error" else 0, prepare)
        shutil.rmtree(folder)
    for name, (where, prepare) in places(place).items():
        answer = child(where, CALLS[:1], prepare)
        with contextlib.suppress(OSError):
            # In a place with an odd name alone something can be kept.
            assert name == ODD or not list(Path(where).glob("*.bin")), f"no fault: {name}"
        results[name] = fine(answer) and answer["compiled"] == 1
    return {"tried": len(results), "failed": [name for name, good in results.items() if not good]}


if __name__ == "__main__":
    main(faults, sys.argv[1])
