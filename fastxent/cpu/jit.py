"""Compile a kernel for one signature, once, and keep the machine code in a cache that is checked.

Numba's own cache is not used: two processes that first-call different signatures of one function
can leave an index that points at the other's code (wrong numbers, kept on disk), its files carry
no checksum, it does not see edits in other files, and a folder that cannot be written is an error
at import. Here every specialisation is one checked file (`kernel_files`). Any doubt means: compile.
"""

import contextlib
import os
import pickle
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import bytecode, caching, compiler, config, serialize
from numba.core.compiler_lock import global_compiler_lock
from numba.core.runtime.nrt import rtsys

# By Numba only in a kernel's first call, when no fork would wait for it.
from numpy import ma  # noqa: F401

from fastxent import forks, kernel_files

# The options of all compiled code, here and nowhere else. Never fastmath: nnan and ninf break
# what is specified for nan and inf. numpy's error model: a division by 0 is no exception.
_OPTIONS = {"error_model": "numpy"}
njit: Any = numba.njit
# Arrays are borrowed from the caller. Numba would count references to them wherever a variable gets
# one, and each count waits until all that was written before has reached the cache: half the time
# of a group of rows of few classes. So a kernel has no arrays of its own: see scratch.py.
_BORROWING = {"_nrt": False, **_OPTIONS}
kernel = njit(nogil=True, **_BORROWING)
# For functions that only kernels call: no wrappers for Python, or no function of their own at all.
_INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
subroutine = njit(**_INNER, **_BORROWING)
inlined = njit(inline="always", **_OPTIONS)
# For those that have arrays of their own; unless told, they would do as their caller does.
owner = njit(_nrt=True, **_INNER, **_OPTIONS)

# Numba's settings that change the code it makes.
_SETTINGS = ("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "LOOP_VECTORIZE", "SLP_VECTORIZE")
_config: Any = config
FunctionIdentity: Any = bytecode.FunctionIdentity
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
            with _names_of_our_own():
                dispatcher.compile(signature)
            dispatcher.disable_compile()
            _ready[source, signature] = dispatcher
    return _ready[source, signature]


forks.wait_for(global_compiler_lock)


class _Numbers:
    """Numbers that no other process counts."""

    def __init__(self) -> None:
        self._process, self._next = 0, 0

    def __next__(self) -> int:
        if self._process != os.getpid():  # a fork's child would go on with its parent's
            self._process, self._next = os.getpid(), int.from_bytes(os.urandom(8))
        self._next += 1
        return self._next


_numbers = _Numbers()


@contextlib.contextmanager
def _names_of_our_own() -> Iterator[None]:
    """Within, compiled functions get names that are theirs alone.

    Numba counts functions and makes the number a part of their names, which tells apart what has
    the same name in the source: two lambdas, or what a factory makes. But each process counts from
    1, and one that loads the kernels of several links by name: it may run another's body.
    """
    before = FunctionIdentity._unique_ids
    FunctionIdentity._unique_ids = _numbers
    try:
        yield
    finally:
        FunctionIdentity._unique_ids = before


def _identity(name: str, signature: Any, codegen: Any) -> bytes:
    """All that the machine code depends on."""
    from fastxent._version import __version__

    settings = [str(getattr(_config, name)) for name in _SETTINGS]
    versions = (__version__, numba.__version__, llvmlite.__version__, platform.python_version())
    return repr(
        (name, signature, codegen.magic_tuple(), versions, sys.implementation.name, settings,
         kernel_files.sources(Path(__file__).parent))
    ).encode()  # fmt: skip


class _CheckedCache(caching._Cache):
    """What a Numba dispatcher asks for compiled code before, and gives it to after, compiling."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def cache_path(self) -> str | None:
        place = kernel_files.directory()
        return None if place is None else str(place)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        # All that machine code refers to. What Numba knows of types and functions, a third of a
        # first call, with SciPy's linear algebra if there is any, is loaded when it compiles.
        rtsys.initialize(target_context)
        identity = _identity(self._name, sig, target_context.codegen())
        # A payload that another Numba wrote, or a hash that is equal by chance: compile. Nothing
        # is unpickled before its digest is found right.
        try:
            payload = kernel_files.load(self._name, identity)
            return None if payload is None else _rebuild(target_context, *pickle.loads(payload))
        except Exception:
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        identity = _identity(self._name, sig, data.codegen)
        kernel_files.save(self._name, identity, _dumps(data._reduce()))

    def enable(self) -> None:
        pass

    def disable(self) -> None:
        pass

    def flush(self) -> None:
        pass
