"""Axes of more than 2³¹ elements: read by binary losses, refused where classes are counted."""

import numpy as np
import pytest
import simulator as sim
import small  # noqa: F401 - few threads

import fastxent as fx
from fastxent import reference
from fastxent.arrays import device
from fastxent.cuda import binary

LONG = 2**31 + 12_345  # more than 32 bits count


@pytest.fixture(autouse=True)
def nothing_of_before():
    sim.forget()
    sim.launched.clear()


class Claimed:
    """An array that claims this shape, of memory that nobody may read."""

    def __init__(self, *shape, typestr="<f4"):
        self.shape, self.typestr = shape, typestr

    @property
    def __cuda_array_interface__(self):
        described = {"shape": self.shape, "typestr": self.typestr, "data": (1 << 40, False)}
        return described | {"version": 3}


CALLS = {
    "softmax": lambda x, y, p: fx.softmax(x),
    "logsumexp": lambda x, y, p: fx.logsumexp(x),
    "entropy": lambda x, y, p: fx.entropy(x),
    "cross_entropy": lambda x, y, p: fx.cross_entropy(x, y),
    "of probabilities": lambda x, y, p: fx.cross_entropy(x, p),
    "categorical": lambda x, y, p: fx.categorical_cross_entropy(x, y),
    "product": lambda x, y, p: fx.cross_entropy_hvp(x, y, p),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_functions_of_classes_refuse_them(call):
    """The error names the array; nothing is launched."""
    for n in (LONG, device.LONGEST + 1):
        x, y, p = Claimed(1, n), sim.on_gpu(np.array([0])), Claimed(1, n)
        with pytest.raises(ValueError, match=rf"^(logits|probs) must have at most {2**31 - 2**17}"):
            call(x, y, p)
    with pytest.raises(ValueError, match="^target must have at most"):
        fx.cross_entropy(sim.on_gpu(np.ones((1, 3), "f4")), Claimed(LONG, typestr="<i8"))
    assert sim.launched == []


@pytest.fixture
def last_block(monkeypatch):
    """Of each kernel the last block runs alone."""
    monkeypatch.setattr(np, "ndindex", lambda *grid: [tuple(n - 1 for n in grid)])


def untouched(n, last):
    """Zeros that take no memory before they are read, and these numbers at their end."""
    array = np.zeros(n, last.dtype)
    array[-len(last) :] = last
    sim._arrays.append((array.ctypes.data, array.ctypes.data + array.nbytes))
    return sim.Array(array)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("columns", [None, 5])
def test_binary_losses_find_the_last_element(columns, dtype, last_block):
    """The block behind element 2³¹ reads and writes what lies there, and its weights."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(100).astype(dtype)
    target = rng.integers(0, 2, 100).astype(dtype)
    weight = rng.random(columns or 1).astype(dtype)
    n = LONG if columns is None else LONG // columns * columns
    x, y = untouched(n, logits), untouched(n, target)
    flat = x.array
    if columns:
        x, y = (sim.Array(array.array.reshape(-1, columns)) for array in (x, y))
    rest = n % (binary.THREADS * binary.VECTORS * (16 // flat.itemsize))
    assert 0 < rest < 100
    fx.binary_cross_entropy_with_logits(
        x, y, weight=sim.on_gpu(weight), reduction="sum", grad_out=x
    )
    weights = np.resize(weight, 100)[-rest:]  # 100 is a multiple of the columns, as n is
    _, want = reference.binary_cross_entropy_with_logits(
        logits[-rest:], target[-rest:], weight=weights, reduction="sum", return_grad=True
    )
    np.testing.assert_allclose(flat[-rest:], want, 2e-3 if dtype == np.float16 else 1e-6)
    np.testing.assert_array_equal(flat[-100:-rest], logits[:-rest])
