"""Fixtures shared by all tests, and the one table of tolerances (docs/specification.md)."""

import functools
import gc
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import settings
from numba.core import compiler

from fastxent.cpu import threads

# The option --page and the fixtures that count for it; the marker `share`;
# fixtures of the benchmark on GPUs.
pytest_plugins = ["reliability.counts", "shares", "gpu_parts"]

# Compiled kernels of a test run have their own folder, which its subprocesses share.
os.environ.setdefault("FASTXENT_CACHE_DIR", str(Path(tempfile.gettempdir()) / "fastxent-tests"))

# Simulated kernels need a process of their own, in which nothing is compiled:
#     NUMBA_ENABLE_CUDASIM=1 NUMBA_DISABLE_JIT=1 python -m pytest tests/cuda
# Elsewhere these tests are not collected; in that process, tests that compile kernels are not.
_cuda = {path.name for path in Path(__file__).parent.glob("cuda/test_*.py")}
_simulated = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" and find_spec("numba_cuda") is not None
_other = {"test_codegen.py"} if _simulated else _cuda - {"test_codegen.py"}
collect_ignore = [f"cuda/{name}" for name in sorted(_other)]


# Numba's compiler makes many objects, few of them garbage, so collect less often than by default.
gc.set_threshold(100_000, 20, 20)

_compiled = set()


def seldom_traced(compile_function):
    """Trace only the first compilation of each kernel in this process, for coverage.

    Numba's compiler is Python code, and much slower under a tracer; for each signature of a kernel
    it runs the same lines of the package.
    """

    @functools.wraps(compile_function)
    def call(typing, target, function, *args, **kwargs):
        tracer = sys.gettrace()
        if function in _compiled:
            sys.settrace(None)
        _compiled.add(function)
        try:
            return compile_function(typing, target, function, *args, **kwargs)
        finally:
            sys.settrace(tracer)

    return call


compiler.compile_extra = seldom_traced(compiler.compile_extra)

settings.register_profile("ours", deadline=None, max_examples=150, derandomize=True)
settings.load_profile("ours")

FLOATS = [np.float32, np.float64]


@pytest.fixture(scope="module")
def environment():
    """Restore the environment afterwards: Dask leaves OMP_NUM_THREADS=1 and more in it."""
    unknown = (0, 0, "", False)
    with mock.patch.dict(os.environ), mock.patch.object(threads, "_cached_default", unknown):
        yield


@pytest.fixture(params=FLOATS, ids=["float32", "float64"])
def dtype(request):
    """Both types of the arithmetic."""
    return request.param


@pytest.fixture(params=[np.ascontiguousarray, np.asfortranarray], ids=["rows", "columns"])
def layout(request):
    """What lays out an array: its rows contiguous, or its columns."""
    return request.param


@pytest.fixture
def rng():
    """A random generator with the same seed for every test."""
    return np.random.default_rng(20261121)


@pytest.fixture(autouse=True)
def restored_thread_count():
    """Restore the number of threads after each test."""
    before = threads._explicit
    yield
    threads._explicit = before


class Bounds:
    """Specification, section 4, "Accuracy", in ulp: for exact logits z, after scale and cap."""

    def __init__(self, z, dtype, *, scaled=False, softcap=0.0):
        self.ulp = np.finfo(dtype).eps
        m = z.max(-1, keepdims=True)
        self.below = (m - z) * (1 if scaled else 0.5)
        self.log_c = np.log(z.shape[-1]) / 2
        self.extra = 2 * softcap
        ordered = np.sort(z, -1)
        second = ordered[..., -2:-1] if z.shape[-1] > 1 else m - np.inf
        # d: lead of an element over the largest other; it counts in half, in full under a scale.
        lead = np.where(z == m, np.minimum(m - second, np.finfo(dtype).max), 0)
        self.lead = lead * (1 if scaled else 0.5)

    def probs(self):
        """Relative bound of probabilities, and of index-target gradients beside the target."""
        return (4 + self.below + self.log_c + self.extra) * self.ulp

    def log_probs(self):
        """Relative bound of a row loss and of a log_softmax element."""
        return (4 + self.lead + self.log_c + self.extra) * self.ulp

    def grad_at_target(self):
        """Relative bound of the gradient at the target."""
        return (8 + self.lead + self.log_c + self.extra) * self.ulp

    def lse(self):
        """Bound of logsumexp, relative to max(|m|, log s)."""
        return (4 + self.log_c + self.extra) * self.ulp


class GpuBounds(Bounds):
    """The same on CUDA: |x_j - m|/2 becomes 1.25·|x_j - m|, d/2 likewise, scaled or not."""

    def __init__(self, z, dtype, *, softcap=0.0):
        super().__init__(z, dtype, softcap=softcap)
        self.below, self.lead = 2.5 * self.below, 2.5 * self.lead


def normal(values, dtype):
    """Mask of exact values that are normal numbers of the type, where the bounds apply."""
    return np.abs(values) >= np.finfo(dtype).tiny


def worst(actual, exact, bound, where=True):
    """The largest error as a share of its bound; at most 1 if the bound holds."""
    # An error where the bound is 0 counts as infinite. A nan (also a signalling one, in memory that
    # was never written) raises no warning, but its share is not at most 1 either.
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.abs(np.asarray(actual, np.longdouble) - exact)
        allowed = np.asarray(bound * np.abs(exact), np.longdouble)
        share = np.zeros(error.shape, np.longdouble)
        np.divide(error, allowed, out=share, where=(error != 0) & where)
    return float(share.max(initial=0))
