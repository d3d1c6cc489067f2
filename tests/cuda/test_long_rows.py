"""Long sums of equal terms, run by the simulator: with so few threads that each adds up many."""

import numpy as np
import pytest
import simulator as sim
import small  # noqa: F401 - plans that this file makes smaller still
from conftest import GpuBounds
from long_rows import CASES, Setup, largest_share

import fastxent as fx
from fastxent.cuda import driver, thread_plans

THREADS = 4  # of a row, and of a block


@pytest.fixture(autouse=True)
def small_plans(monkeypatch):
    """A function that sets the plan of long rows, and forgets those of before."""
    cached = thread_plans.plan_of, thread_plans.clustered

    def set_plan(threads, held, vectorised=False):
        plans = "PLANS" if vectorised else "PLANS_OF_SINGLES"
        monkeypatch.setattr(thread_plans, plans, ((threads, held),))
        monkeypatch.setattr(thread_plans, "SMALL_BLOCK", threads)
        monkeypatch.setattr(thread_plans, "SHORT", 0 if vectorised else 2**31)
        for function in cached:
            function.cache_clear()
        sim.forget()
        sim.launched.clear()

    yield set_plan
    monkeypatch.undo()
    for function in cached:
        function.cache_clear()
    sim.forget()


def call(name, *args, **options):
    """A public function on copies there; its results as NumPy has them."""
    there = [sim.on_gpu(value) for value in args]
    given = {k: sim.on_gpu(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    found = getattr(fx, name)(*there, **given)
    return tuple(map(sim.host, found)) if isinstance(found, tuple) else sim.host(found)


def check(case, kind, n_classes, *chains, at_once=1, maxima=(1,)):
    """The errors of a case are within their bounds."""
    own = np.dtype(kind).type
    compute = np.float64 if own is np.float64 else np.float32
    setup = Setup(call, GpuBounds, own, compute, n_classes, chains, at_once, maxima)
    assert largest_share(case, setup) <= 1


def launched(kinds):
    """Whether these kinds of kernels have run."""
    return kinds <= {name.partition("-")[0] for name in sim.launched}


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_rows_on_one_block(small_plans, case, kind):
    """Sums of a thread: chains of its elements, or of the four that it loads at once."""
    small_plans(4, 1)
    check(case, kind, 4096, 1024, 256)


def test_losses_of_half_precision(small_plans):
    """They are of float32, so that rounding does not hide what a sum has lost."""
    small_plans(4, 1)
    check("small_loss", "float16", 4096, 1024, 256)


@pytest.mark.parametrize(("case", "n_classes", "at_once"), [
    ("softmax", 16384, 8), ("soft_totals", 16384, 1), ("entropy", 8192, 1), ("hvp", 4096, 1),
])  # fmt: skip
def test_vectors(small_plans, case, n_classes, at_once):
    """Softmax adds up sixteen elements at once, in two chains; other sums a vector at once."""
    small_plans(8, 1, vectorised=True)
    check(case, "float32", n_classes, n_classes // (128 if at_once > 1 else 32), at_once=at_once)


@pytest.mark.parametrize(
    "case", ["softmax", "gradient", "outputs", "entropy", "hvp", "soft_totals"]
)
def test_rows_on_clusters(small_plans, monkeypatch, case):
    """Two blocks stream a half of a row each, with a maximum in it."""
    small_plans(4, 1)
    monkeypatch.setattr(thread_plans, "CLUSTERS", (2,))
    monkeypatch.setattr(thread_plans, "parts_of", lambda plan, item, rows, n, place: (1, n))
    monkeypatch.setattr(driver, "processors", lambda device: 100)
    monkeypatch.setattr(driver, "capability", lambda device: (9, 0))
    check(case, "float32", 4096, 512, 128, maxima=(1, 2049))
    assert all("2)" in name for name in sim.launched if "ThreadPlan" in name)


def test_rows_on_two_kernels(small_plans, monkeypatch):
    """The sums of many parts."""
    small_plans(4, 16)  # a part is as long as a block can hold, and a multiple of 64
    monkeypatch.setattr(thread_plans, "RESIDENT", {16: 64})
    monkeypatch.setattr(driver, "processors", lambda device: 100)
    check("gradient", "float32", 8192, 128)
    assert launched({"split_sums", "split_rows"})
