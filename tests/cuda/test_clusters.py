"""Rows on clusters of blocks: softmax, entropy, and losses with options and further outputs."""

import numpy as np
import pytest
import simulator as sim
import small  # noqa: F401 - few threads
from test_simulated import (
    ALL,
    INF,
    NAN,
    alike,
    call,
    compare,
    expected,
    make_logits,
    nothing_of_before,  # noqa: F401 - used by every test
    of,
)

import fastxent as fx
from fastxent.cuda import driver, thread_plans

# Two blocks, eight of them, threads that hold more, and a part that even these do not hold.
CLASSES = [701, 1699, 4099, 6007, 9001]
OUTPUTS = ALL | {"reduction": "none", "return_entropy": True}


@pytest.fixture(autouse=True)
def clusters(monkeypatch):
    """A GPU that has clusters, and more rows than processors."""
    monkeypatch.setattr(driver, "processors", lambda device: 100)
    monkeypatch.setattr(driver, "capability", lambda device: (9, 0))
    monkeypatch.setattr(thread_plans, "parts_of", lambda plan, item, rows, n, place: (1, n))


def blocks_of_a_row():
    """How many blocks shared each row at the last launch."""
    return int(sim.launched[-1].partition("ThreadPlan(")[2].partition(")")[0].split(",")[-1])


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("function", ["softmax", "log_softmax", "entropy"])
def test_softmax_family(rng, function, classes):
    """Whatever part holds the maximum, in a row that rises and in one of equal logits too."""
    x = make_logits(rng, "float32", classes)
    options = {"return_grad": True} if function == "entropy" else {}
    compare("float32", function, x, **options)
    assert blocks_of_a_row() > 1


@pytest.mark.parametrize("name", ["float64", "float16", "bfloat16"])
def test_other_types(rng, name):
    """Of which a block holds another number."""
    x, labels = make_logits(rng, name, 2401, 4), rng.integers(0, 2401, 4)
    compare(name, "softmax", x)
    assert blocks_of_a_row() > 1
    compare(name, "cross_entropy", x, labels, label_smoothing=0.1, **OUTPUTS)
    assert blocks_of_a_row() > 1


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_all_options_and_outputs(rng, classes, soft, backwards):
    """Weights, labels and probabilities are those of the part's own classes."""
    sim.backwards = backwards
    x = rng.standard_normal((3, classes)).astype(np.float32)
    labels = np.array([classes - 1, 0, classes // 2])
    q = rng.dirichlet(np.ones(classes), 3).astype(np.float32)
    options = {
        "weight": rng.uniform(0.5, 2, classes).astype(np.float32), "z_loss": 0.01,
        "label_smoothing": 0.1, "logit_scale": 1.5,
        "sample_weight": rng.uniform(0.5, 2, 3).astype(np.float32),
    }  # fmt: skip
    compare("float32", "cross_entropy", x, q if soft else labels, **options, **OUTPUTS)
    assert blocks_of_a_row() > 1


@pytest.mark.parametrize("soft", [False, True])
def test_gradient_in_place(rng, soft):
    """Each block has read its part, and the target's logit, before another writes to the row."""
    x, labels = rng.standard_normal((2, 1699)).astype(np.float32), np.array([1698, 3])
    target = rng.dirichlet(np.ones(1699), 2).astype(np.float32) if soft else labels
    given = {"label_smoothing": 0.1, "return_lse": True, "reduction": "sum"}
    want = expected("cross_entropy", x, target, return_grad=True, **given)
    for backwards in (False, True):
        sim.backwards, logits = backwards, sim.on_gpu(x)
        loss, grad, lse = fx.cross_entropy(logits, sim.on_gpu(target), grad_out=logits, **given)
        assert grad is logits
        alike(list(map(sim.host, (loss, grad, lse))), want, "float32")


def test_the_first_of_equal_maxima_in_another_part():
    """And nan in another part than the maximum: argmax and lse are those of the row."""
    x = np.zeros((4, 1699), np.float32)
    x[0, [1600, 900]] = 2
    x[1, [30, 1500]] = 2, NAN
    x[2, [1500, 30]] = INF, NAN
    x[3] = -INF
    x[3, 1200] = -3
    compare("float32", "cross_entropy", x, np.array([0, 5, 1698, 1200]), **OUTPUTS)
    assert blocks_of_a_row() > 1


@pytest.mark.parametrize("function", ["softmax", "log_softmax", "entropy"])
def test_special_parts(function):
    """A part of -inf alone, nan, +inf, nothing but -inf, a confident row, a shared offset."""
    x = np.zeros((6, 1699), np.float32)
    x[0, 512:] = -INF
    x[1, 600] = NAN
    x[2, 1000] = INF
    x[3] = -INF
    x[4] = -60
    x[4, 1] = 0
    x[5] += 2**20
    compare("float32", function, of(x, "float32"))
    assert blocks_of_a_row() > 1


def test_ignored_rows_hold_anything():
    """Beside outputs for which they are read."""
    x = np.full((3, 1699), NAN, np.float32)
    x[1] = np.linspace(-3, 3, 1699)
    labels = np.array([-100, 7, -100])
    for options in ({"label_smoothing": 0.1}, {"return_lse": True}, {"return_probs": True}):
        loss, grad, *_ = call("cross_entropy", x, labels, reduction="none", return_grad=True,
                              **options)  # fmt: skip
        assert not loss[[0, 2]].any() and not grad[[0, 2]].any() and np.isfinite(grad[1]).all()
        assert blocks_of_a_row() > 1
