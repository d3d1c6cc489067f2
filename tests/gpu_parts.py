"""Fixtures that import the parts of the GPU's benchmark."""

import importlib
import importlib.util
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def part(monkeypatch):
    """A function that imports a part of the benchmark."""
    if importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("needs numba-cuda")
    monkeypatch.syspath_prepend(BENCH)
    return lambda name: importlib.import_module(f"gpu_bench.{name}")


@pytest.fixture
def script(part):
    return importlib.import_module("gpu")
