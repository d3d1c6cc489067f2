"""On-disk cache of compiled kernels: one checksummed file per kernel, in a configurable folder.

A file's name is a hash of everything that the code depends on (its identity). The file begins with
a digest of the identity and the code. If a file is missing, unreadable, truncated or edited, the
kernel is compiled again. A file that cannot be written is not an error.
"""

import contextlib
import functools
import hashlib
import os
import sys
import tempfile
from pathlib import Path

_BINARY = getattr(os, "O_BINARY", 0)  # Windows only


def directory() -> Path | None:
    """The cache folder; None if there is none.

    `FASTXENT_CACHE_DIR`, else `NUMBA_CACHE_DIR`/fastxent, else the user's cache folder. The files
    are machine code: anyone who can write to the folder can make this process run their code.
    """
    return location()[0]


def location() -> tuple[Path | None, str]:
    """The cache folder and the environment variable that sets it, "" for the default."""
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


def file_sizes() -> list[int]:
    """Sizes in bytes of the files in the cache."""
    place = directory()
    sizes: list[int] = []
    if place is not None:
        with contextlib.suppress(OSError):
            for path in place.glob("*.bin"):
                with contextlib.suppress(OSError):  # deleted since it was listed
                    sizes.append(path.stat().st_size)
    return sizes


def obstacle() -> str:
    """Why the cache folder is not writable, "" if it is; leaves no file behind."""
    place = directory()
    if place is None:
        return "no home folder, and FASTXENT_CACHE_DIR is not set"
    try:
        while not place.exists() and place != place.parent:  # the parent where it would be created
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as error:
        return error.strerror or str(error)


@functools.cache
def sources(folder: Path) -> str:
    """Digest of a backend's source files, so that an edited helper invalidates its callers."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.py"), folder.parent / "formulas.py"]):
        with contextlib.suppress(OSError):  # without sources the version identifies the code
            digest.update(path.read_bytes())
    return digest.hexdigest()


def load(name: str, identity: bytes) -> bytes | None:
    """The payload saved under this identity; None if there is none or its digest is wrong."""
    with contextlib.suppress(OSError):
        if path := _file(name, identity):
            content = path.read_bytes()
            digest, payload = content[:32], content[32:]
            if digest == hashlib.sha256(identity + payload).digest():
                return payload
    return None


def save(name: str, identity: bytes, payload: bytes) -> None:
    """Save a payload, if the folder can be written to."""
    with contextlib.suppress(OSError):
        if path := _file(name, identity):
            _write(path, hashlib.sha256(identity + payload).digest() + payload)


def _file(name: str, identity: bytes) -> Path | None:
    place = directory()
    if place is None:
        return None
    return place / f"{name}-{hashlib.sha256(identity).hexdigest()[:32]}.bin"


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically, so that no reader sees half of it."""
    # Readable by other users, as in a container image with a warm cache.
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
