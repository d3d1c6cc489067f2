"""Compile a kernel for one signature, once, and keep the machine code in a cache that is checked.

Numba's own cache is not used: two processes that first-call different signatures of one function
can leave an index that points at the other's code (wrong numbers, kept on disk), its files carry
no checksum, it does not see edits in other files, and a folder that cannot be written is an error
at import. Here every specialisation is one file whose name is a hash of all that its code depends
on, and whose content begins with a digest of that and of the rest. Any doubt means: compile.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import caching, compiler, config, serialize
from numba.core.compiler_lock import global_compiler_lock
from numba.core.runtime.nrt import rtsys

# The options of all compiled code, here and nowhere else. Never fastmath: nnan and ninf break
# what the contract says of nan and inf. numpy's error model: a division by 0 is no exception.
_OPTIONS = {"error_model": "numpy"}
njit: Any = numba.njit
kernel = njit(nogil=True, **_OPTIONS)
# For functions that only kernels call: no wrappers for Python, or no function of their own at all.
subroutine = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)
inlined = njit(inline="always", **_OPTIONS)

# Numba's settings that change the code it makes.
_SETTINGS = ("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "LOOP_VECTORIZE", "SLP_VECTORIZE")
_config: Any = config
_rebuild: Any = compiler.CompileResult._rebuild
_dumps: Any = serialize.dumps

_ready: dict[tuple[Callable[..., Any], Any], Callable[..., Any]] = {}


def specialise(source: Callable[..., Any], signature: Any) -> Callable[..., Any]:
    """The kernel `source` compiled for `signature` (a tuple of Numba types) and no other."""
    try:
        return _ready[source, signature]
    except KeyError:
        pass
    if _config.DISABLE_JIT:
        raise RuntimeError("NUMBA_DISABLE_JIT is set, but fastxent's kernels exist compiled only")
    with global_compiler_lock:
        if (source, signature) not in _ready:
            dispatcher = kernel(source)
            dispatcher._cache = _CheckedCache(source.__qualname__)
            dispatcher.compile(signature)
            dispatcher.disable_compile()
            _ready[source, signature] = dispatcher
    return _ready[source, signature]


# A child made while another thread compiles would inherit a locked lock without its owner.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


def cache_directory() -> Path | None:
    """Where compiled kernels are kept; None if there is no place for them.

    `FASTXENT_CACHE_DIR`, else `NUMBA_CACHE_DIR`/fastxent, else the user's cache folder. The files
    hold machine code: whoever can write there can make this process run theirs.
    """
    if place := os.environ.get("FASTXENT_CACHE_DIR"):
        return Path(place)
    if place := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(place) / "fastxent"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or home / ".cache"
    return Path(base) / "fastxent"


@functools.cache
def _sources() -> str:
    """A digest of the kernels' source files: an edited helper must not leave stale callers."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*here.glob("*.py"), here.parent / "formulas.py"]):
        with contextlib.suppress(OSError):  # a package without sources is known by its version
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _identity(name: str, signature: Any, codegen: Any) -> bytes:
    """All that the machine code depends on."""
    from fastxent._version import __version__

    settings = [str(getattr(_config, name)) for name in _SETTINGS]
    versions = (__version__, numba.__version__, llvmlite.__version__, platform.python_version())
    return repr(
        (name, signature, codegen.magic_tuple(), versions, sys.implementation.name, settings,
         _sources())
    ).encode()  # fmt: skip


class _CheckedCache(caching._Cache):
    """What a Numba dispatcher asks for compiled code before, and gives it to after, compiling."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def cache_path(self) -> str | None:
        place = cache_directory()
        return None if place is None else str(place)

    def _file(self, identity: bytes) -> Path | None:
        place = cache_directory()
        if place is None:
            return None
        return place / f"{self._name}-{hashlib.sha256(identity).hexdigest()[:32]}.bin"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        # All that machine code refers to. What Numba knows of types and functions, a third of a
        # first call, with SciPy's linear algebra if there is any, is loaded when it compiles.
        rtsys.initialize(target_context)
        identity = _identity(self._name, sig, target_context.codegen())
        # Whatever is wrong with a file - absent, unreadable, cut off, of another Numba - the
        # kernel is compiled instead. Nothing is unpickled before its digest is found right.
        try:
            path = self._file(identity)
            content = path.read_bytes() if path else b""
            digest, payload = content[:32], content[32:]
            if digest != hashlib.sha256(identity + payload).digest():
                return None
            return _rebuild(target_context, *pickle.loads(payload))
        except Exception:
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        identity = _identity(self._name, sig, data.codegen)
        with contextlib.suppress(OSError):
            if path := self._file(identity):
                payload = _dumps(data._reduce())
                _write(path, hashlib.sha256(identity + payload).digest() + payload)

    def enable(self) -> None:
        pass

    def disable(self) -> None:
        pass

    def flush(self) -> None:
        pass


def _write(path: Path, content: bytes) -> None:
    """Put a whole file in place at once, so that no reader meets half of one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
