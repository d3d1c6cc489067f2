"""Compiled kernels on disk: one checked file for each, in a folder that the user may name.

A file's name is a hash of all that its code depends on, and its content begins with a digest of
that and of the rest. Whatever is wrong with a file - absent, unreadable, cut off, edited - means:
compile. What cannot be written is not kept.
"""

import contextlib
import functools
import hashlib
import os
import sys
import tempfile
from pathlib import Path

_BINARY = getattr(os, "O_BINARY", 0)  # of Windows


def directory() -> Path | None:
    """Where compiled kernels are kept; None if there is no place for them.

    `FASTXENT_CACHE_DIR`, else `NUMBA_CACHE_DIR`/fastxent, else the user's cache folder. The files
    hold machine code: whoever can write there can make this process run theirs.
    """
    return location()[0]


def location() -> tuple[Path | None, str]:
    """The same with the variable that decides; where none does, an empty name."""
    if place := os.environ.get("FASTXENT_CACHE_DIR"):
        return Path(place), "FASTXENT_CACHE_DIR"
    if place := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(place) / "fastxent", "NUMBA_CACHE_DIR"
    try:
        home = Path.home()
    except RuntimeError:
        return None, ""
    name, folder = {
        "win32": ("LOCALAPPDATA", home / "AppData" / "Local"),
        "darwin": ("", home / "Library" / "Caches"),
    }.get(sys.platform, ("XDG_CACHE_HOME", home / ".cache"))
    if place := os.environ.get(name):
        return Path(place) / "fastxent", name
    return folder / "fastxent", ""


def held() -> list[int]:
    """The sizes in bytes of the files that are kept there."""
    place = directory()
    sizes: list[int] = []
    if place is not None:
        with contextlib.suppress(OSError):
            for path in place.glob("*.bin"):
                with contextlib.suppress(OSError):  # it is gone by now
                    sizes.append(path.stat().st_size)
    return sizes


def obstacle() -> str:
    """Why nothing can be written there, tried without leaving a trace; empty if it can."""
    place = directory()
    if place is None:
        return "no home folder, and FASTXENT_CACHE_DIR is not set"
    try:
        while not place.exists() and place != place.parent:  # it would be made in the first that is
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as error:
        return error.strerror or str(error)


@functools.cache
def sources(folder: Path) -> str:
    """A digest of a backend's source files: an edited helper must not leave stale callers."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.py"), folder.parent / "formulas.py"]):
        with contextlib.suppress(OSError):  # a package without sources is known by its version
            digest.update(path.read_bytes())
    return digest.hexdigest()


def load(name: str, identity: bytes) -> bytes | None:
    """What was kept for this identity; None unless its digest is right."""
    with contextlib.suppress(OSError):
        if path := _file(name, identity):
            content = path.read_bytes()
            digest, payload = content[:32], content[32:]
            if digest == hashlib.sha256(identity + payload).digest():
                return payload
    return None


def save(name: str, identity: bytes, payload: bytes) -> None:
    """Keep it, if it can be."""
    with contextlib.suppress(OSError):
        if path := _file(name, identity):
            _write(path, hashlib.sha256(identity + payload).digest() + payload)


def _file(name: str, identity: bytes) -> Path | None:
    place = directory()
    if place is None:
        return None
    return place / f"{name}-{hashlib.sha256(identity).hexdigest()[:32]}.bin"


def _write(path: Path, content: bytes) -> None:
    """Put a whole file in place at once, so that no reader meets half of one."""
    # Others may read what one user has compiled, in a container's image for example.
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.urandom(8).hex()}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o644)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
