"""Compile a kernel for one signature, once, and keep the machine code in a checked cache.

Numba's own cache is not used: concurrent first calls with different signatures of one function can
leave an index pointing at the wrong code (wrong numbers, kept on disk), its files have no checksum,
it does not see edits in other files, and a folder that cannot be written is an error at import.
Here each specialisation is one checked file (`kernel_files`); a file that is not valid is compiled
again.
"""

import contextlib
import copy
import functools
import importlib
import os
import pickle
import platform
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
import numba.extending
from llvmlite import binding
from numba.core import bytecode, caching, compiler, config, serialize
from numba.core.compiler_lock import global_compiler_lock
from numba.core.environment import Environment
from numba.core.registry import cpu_target
from numba.core.runtime.nrt import rtsys

# Numba imports this in a kernel's first call, when no fork would wait for the import.
from numpy import ma  # noqa: F401

from fastxent import forks, kernel_files
from fastxent.cpu.linked_code import (
    LinkedCompiler,
    NeverInlinedCompiler,
    OptimisedCompiler,
    RareCompiler,
)

# The options of all compiled code. Never fastmath: nnan and ninf break the promises about nan and
# inf. NumPy's error model: a division by 0 raises no exception.
_OPTIONS = {"error_model": "numpy"}
njit: Any = numba.njit
_overload: Any = numba.extending.overload
# Arrays are borrowed from the caller. Numba would count references to them at each assignment, and
# each count waits until all stores before it have reached the cache: half the time of a group of
# rows of few classes. So a kernel cannot create arrays: see scratch.py.
_BORROWING = {"_nrt": False, **_OPTIONS}
kernel = njit(nogil=True, **_BORROWING)

# Functions that only kernels call: without wrappers for Python, or inlined.
_INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": LinkedCompiler}
subroutine = njit(**_INNER, **_BORROWING)
inlined = njit(inline="always", **_OPTIONS)
# Functions that LLVM inlines: for code whose argument types must be known before.
inlined_by_llvm = njit(forceinline=True, **_INNER, **_BORROWING)
# Functions that LLVM must not inline: they would take registers from the loops around them.
never_inlined = njit(**_INNER | {"pipeline_class": NeverInlinedCompiler}, **_BORROWING)
rare = njit(**_INNER | {"pipeline_class": RareCompiler}, **_BORROWING)
# Functions that LLVM optimises separately before it may inline them.
optimised = njit(**_INNER | {"pipeline_class": OptimisedCompiler}, **_BORROWING)
# Functions that create arrays; without _nrt they would inherit their caller's option.
owner = njit(_nrt=True, **_INNER, **_OPTIONS)
# Overloads of functions by the types of their arguments.
overload = functools.partial(_overload, jit_options={"nopython": True, **_INNER})

# Numba's settings that change the machine code.
_SETTINGS = ("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "LOOP_VECTORIZE", "SLP_VECTORIZE")
_config: Any = config
FunctionIdentity: Any = bytecode.FunctionIdentity
_rebuild: Any = compiler.CompileResult._rebuild
_dumps: Any = serialize.dumps

# What Numba has compiled, by source and signature; its dispatchers, which must not be collected.
_results: dict[tuple[Any, Any], Any] = {}
_dispatchers: list[Any] = []
# Whether this context may compile: see `loading_only`.
_may_compile: ContextVar[bool] = ContextVar("fastxent_may_compile", default=True)


class NotCached(Exception):
    """A kernel is not in the cache, in a context of `loading_only`."""

    def __init__(self, name: str, signature: Any) -> None:
        super().__init__(name, signature)
        self.name, self.kernel = name, (name, signature)


@contextlib.contextmanager
def loading_only() -> Iterator[None]:
    """Load kernels from the cache inside a `with` block; one that is missing raises NotCached."""
    token = _may_compile.set(False)
    try:
        yield
    finally:
        _may_compile.reset(token)


class Source(NamedTuple):
    """A kernel, by the names of its module and its function.

    The module of a kernel that is loaded from the cache is not imported: with the modules that it
    imports, that is half of a first call's time besides Numba's import.
    """

    module: str
    name: str

    def function(self) -> Callable[..., Any]:
        """The kernel's code."""
        function: Callable[..., Any]
        function = getattr(importlib.import_module(f"fastxent.cpu.{self.module}"), self.name)
        return function


Kernel = Source | Callable[..., Any]


def specialise(source: Kernel, signature: Any) -> Callable[..., Any]:
    """Return the kernel `source`, compiled for `signature`, as a function of Python.

    It is the compiled entry point, not Numba's dispatcher, which determines the types of all
    arguments in each call: 2 µs with named tuples. The entry point converts arguments by its
    signature without a check of the tuples, so callers make these by `arguments.py` alone.
    """
    entry_point: Callable[..., Any] = compiled(source, signature).entry_point
    return entry_point


def compiled(source: Kernel, signature: Any) -> Any:
    """Return what Numba has compiled of a kernel for one signature, a tuple of Numba types."""
    try:
        return _results[source, signature]
    except KeyError:
        pass
    if _config.DISABLE_JIT:
        raise RuntimeError("NUMBA_DISABLE_JIT is set, but fastxent's kernels exist compiled only")
    with global_compiler_lock:
        if (source, signature) not in _results:
            cache = _CheckedCache(name_of(source))
            loaded = cache.load_overload(signature, cpu_target.target_context)
            _results[source, signature] = loaded or _compile(source, signature, cache)
    return _results[source, signature]


def _compile(source: Kernel, signature: Any, cache: "_CheckedCache") -> Any:
    """Compile a kernel and keep it in the cache."""
    dispatcher = kernel(source.function() if isinstance(source, Source) else source)
    dispatcher._cache = cache
    with _unique_names():
        dispatcher.compile(signature)
    dispatcher.disable_compile()
    _dispatchers.append(dispatcher)
    (result,) = dispatcher.overloads.values()
    return result


forks.wait_for(global_compiler_lock)


def name_of(source: Kernel) -> str:
    """The kernel's name in the cache: functions of two modules may have the same name."""
    if isinstance(source, Source):
        return f"{source.module}.{source.name}"
    return f"{source.__module__.rpartition('.')[2]}.{source.__qualname__}"


class _Numbers:
    """An iterator of numbers that are unique among processes."""

    def __init__(self) -> None:
        self._process, self._next = 0, 0

    def __next__(self) -> int:
        if self._process != os.getpid():  # the child of a fork would continue its parent's
            self._process, self._next = os.getpid(), int.from_bytes(os.urandom(8))
        self._next += 1
        return self._next


_numbers = _Numbers()


@contextlib.contextmanager
def _unique_names() -> Iterator[None]:
    """Give compiled functions names that are unique among processes.

    Numba adds a number to the name of a function, to distinguish functions of the same name, such
    as two lambdas. But each process counts from 1, and code is linked by name: a process that loads
    the kernels of several others could run the wrong function.
    """
    before = FunctionIdentity._unique_ids
    FunctionIdentity._unique_ids = _numbers
    try:
        yield
    finally:
        FunctionIdentity._unique_ids = before


def _identity(name: str, signature: Any, codegen: Any) -> bytes:
    """Return everything that the machine code depends on."""
    from fastxent._version import __version__

    settings = [str(getattr(_config, name)) for name in _SETTINGS]
    versions = (__version__, numba.__version__, llvmlite.__version__, platform.python_version())
    return repr(
        (name, signature, codegen.magic_tuple(), versions, sys.implementation.name, settings,
         kernel_files.sources(Path(__file__).parent))
    ).encode()  # fmt: skip


def _payload(result: Any) -> tuple[Any, ...]:
    """Return what the cache stores of a compiled kernel, without parts that kernels do not need.

    The bitcode, which serves code that inlines the kernel, is reduced to the names of its
    functions, which Numba asks for. The kernel's module, which serves code that runs Python, is
    replaced by this one, and the list of its functions' modules is empty: loading the kernel would
    import them all.
    """
    library, function, environment, *others, _ = result._reduce()
    name, kind, (machine_code, bitcode) = library
    functions = binding.parse_bitcode(bitcode).functions
    names = [function.name for function in functions if not function.is_declaration]
    stub = "\n".join(f'define void @"{name}"() {{ ret void }}' for name in names)
    library = name, kind, (machine_code, binding.parse_assembly(stub).as_bitcode())
    function = copy.copy(function)
    function.modname = __name__
    own = Environment(globals())
    own.consts.extend(environment.consts)
    own.env_name = environment.env_name
    return library, function, own, *others, ()


class _CheckedCache(caching._Cache):
    """The cache of a Numba dispatcher: one checked file per specialisation."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def cache_path(self) -> str | None:
        place = kernel_files.directory()
        return None if place is None else str(place)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        loaded = self._load(sig, target_context)
        if loaded is None and not _may_compile.get():
            raise NotCached(self._name, sig)
        return loaded

    def _load(self, sig: Any, target_context: Any) -> Any:
        # Machine code refers to the runtime alone. Numba's registries of types and functions, which
        # import SciPy's linear algebra if it is installed, take a third of a first call: they are
        # loaded only to compile.
        rtsys.initialize(target_context)
        identity = _identity(self._name, sig, target_context.codegen())
        # A payload of another version of Numba, or an equal hash by chance: compile. Nothing is
        # unpickled before its digest has been checked.
        try:
            payload = kernel_files.load(self._name, identity)
            return None if payload is None else _rebuild(target_context, *pickle.loads(payload))
        except Exception:
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        identity = _identity(self._name, sig, data.codegen)
        kernel_files.save(self._name, identity, _dumps(_payload(data)))

    def enable(self) -> None:
        pass

    disable = flush = enable
