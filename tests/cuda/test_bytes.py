"""Bytes that kernels move: each logit is read once, each result written once.

Counted by the simulator, as its threads access memory. What a real GPU moves for that depends on
its caches and on what lies beside each other, which the width of accesses in the code shows.
"""

import numpy as np
import pytest
import simulator as sim
import small  # noqa: F401 - few threads
from test_simulated import nothing_of_before, there  # noqa: F401 - the first for every test

import fastxent as fx
from fastxent.cuda import driver, thread_plans

EACH = {"reduction": "none"}
OUTPUTS = {
    "gradient": {"return_grad": True}, "probs": {"return_probs": True},
    "lse": {"return_lse": True, "return_grad": True}, "hess": {"return_hess": True},
    "argmax": {"return_argmax": True, "return_grad": True},
    "entropy": {"return_entropy": True, "return_grad": True},
    "smoothing": {"label_smoothing": 0.1, "return_grad": True},
    "scale": {"logit_scale": 1.5, "return_grad": True}, "z-loss": {"z_loss": 0.1},
}  # fmt: skip


@pytest.fixture(params=[301, 1699, 4099, 6007])
def classes(request, monkeypatch):
    """Rows on a block, on clusters, and on clusters of threads that hold more."""
    monkeypatch.setattr(driver, "processors", lambda device: 100)
    monkeypatch.setattr(driver, "capability", lambda device: (9, 0))
    monkeypatch.setattr(thread_plans, "parts_of", lambda plan, item, rows, n, place: (1, n))
    return request.param


def reads(array):
    """How often an array was read, as a whole."""
    array = array.array
    return sim.loaded[array.ctypes.data] / array.nbytes


def assert_written_once(results, shape):
    """All results with a number for each class."""
    for result in results if isinstance(results, tuple) else (results,):
        if result.array.shape == shape:
            assert sim.stored[result.array.ctypes.data] == result.array.nbytes
            assert not sim.loaded[result.array.ctypes.data]


@pytest.mark.parametrize("function", ["softmax", "log_softmax", "logsumexp", "entropy"])
def test_softmax_family(rng, classes, function):
    """Once in, once out."""
    x = there(rng.standard_normal((2, classes)).astype(np.float32))
    options = {"return_grad": True} if function == "entropy" else {}
    results = getattr(fx, function)(x, **options)
    assert reads(x) == 1
    assert_written_once(results, (2, classes))


@pytest.mark.parametrize("options", OUTPUTS.values(), ids=list(OUTPUTS))
def test_losses(rng, classes, options):
    """The logit at the target is read once more."""
    if classes > 4096 and options in (OUTPUTS["gradient"], OUTPUTS["scale"]):
        pytest.skip("threads of these kernels hold as much on a block as on a cluster")
    x = there(rng.standard_normal((2, classes)).astype(np.float32))
    results = fx.cross_entropy(x, there(np.array([3, classes - 1])), **EACH, **options)
    threads = sim.loaded[x.array.ctypes.data] - x.array.nbytes
    assert 0 < threads <= 2 * 4 * 512  # at most, all threads of both rows read the target's
    assert_written_once(results, (2, classes))


@pytest.mark.parametrize("weighted", [False, True])
def test_probabilities_as_targets(rng, classes, weighted):
    """These are read once, too, but for the class that counts by itself."""
    x = there(rng.standard_normal((2, classes)).astype(np.float32))
    q = there(rng.dirichlet(np.ones(classes), 2).astype(np.float32))
    weight = {"weight": there(np.ones(classes, np.float32))} if weighted else {}
    results = fx.cross_entropy(x, q, return_grad=True, **EACH, **weight)
    for array in (x, q):
        again = sim.loaded[array.array.ctypes.data] - array.array.nbytes
        assert 0 < again <= 2 * 4 * 512
    assert_written_once(results, (2, classes))


def test_products_with_the_hessian(rng, classes):
    """Logits and vector."""
    if classes > 4096:
        pytest.skip("a cluster holds fewer of two rows")
    x, v = (there(rng.standard_normal((2, classes)).astype(np.float32)) for _ in range(2))
    product = fx.cross_entropy_hvp(x, there(np.array([3, classes - 1])), v, reduction="sum")
    assert reads(x) == 1
    assert 1 <= reads(v) < 1.5  # v at the largest logit, by every thread
    assert_written_once(product, (2, classes))


@pytest.mark.parametrize("shape", [(2, 21, 8, 8), (2, 21, 5, 3)])
def test_classes_that_lie_apart(rng, shape):
    """By vectors and by single elements."""
    x = there(rng.standard_normal(shape).astype(np.float32))
    assert_written_once(fx.softmax(x, axis=1), shape)
    assert reads(x) == 1
