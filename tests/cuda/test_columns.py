"""Rows whose classes lie apart, on a simulated GPU: taken in place, with the numbers of other rows.

The tests of rows run again on copies of their rows that lie side by side, many times over. So each
warp has rows of all kinds, and all copies must have the same bits.
"""

import itertools

import numpy as np
import pytest
import simulator as sim
import small  # noqa: F401 - few threads
import test_second
import test_simulated
from test_simulated import (
    ALL,
    EACH,
    INF,
    NAN,
    TYPES,
    Bits,
    alike,
    back,
    expected,
    nothing_of_before,  # noqa: F401 - used by every test
    of,
    there,
)

import fastxent as fx
from fastxent.cuda import driver, thread_plans
from fastxent.cuda.elements import element

# Of each layout how many groups of rows there are, and how many lie side by side in each: in whole
# vectors, and in single elements. A warp has rows of two groups.
LAYOUTS = {"vectors": (2, 24), "single elements": (3, 13)}
# A row held by a thread with few or with more registers, by two threads, streamed in several turns.
CLASSES = [5, 13, 21, 203]
SIZES = [
    *itertools.product(["float32", "float64"], CLASSES),
    ("float16", 5), ("float16", 21), ("float16", 203), ("bfloat16", 21),
]  # fmt: skip
layouts = pytest.mark.parametrize("layout", LAYOUTS)
plain_call = test_simulated.call


class Columns:
    """Calls of functions of rows (N, C) on copies of them whose classes lie apart."""

    def __init__(self, layout):
        self.groups, self.inner = LAYOUTS[layout]
        self.vectorised = layout != "single elements"

    def order(self, n):
        """Which of n rows each copy is of: lanes that exchange elements have different ones."""
        rows = np.arange(self.groups * self.inner) % n
        return np.random.default_rng(0).permutation(rows)

    def spread(self, value, shape):
        """Copies of an array of rows, or with a number for each, in the layout."""
        if isinstance(value, Bits):
            copies = Bits(np.zeros(0))
            copies.bits = self.spread(value.bits, shape)
            return copies
        if not isinstance(value, np.ndarray) or value.shape not in (shape, shape[:1]):
            return value
        value = value.astype(np.float32) if value.dtype == bool else value
        copies = value[self.order(len(value))]
        copies = copies.reshape(self.groups, self.inner, *value.shape[1:])
        return np.ascontiguousarray(copies.swapaxes(1, -1))

    def collected(self, copies, n):
        """The rows, of which all copies have the same bits."""
        if not copies.ndim:
            return copies
        copies = copies.swapaxes(1, -1).reshape(self.groups * self.inner, *copies.shape[1:-1])
        order = self.order(n)
        rows = copies[[np.flatnonzero(order == i)[0] for i in range(n)]]
        np.testing.assert_array_equal(copies, rows[order])
        return rows

    def call(self, name, x, *args, **options):
        """The results, of which all were computed in place."""
        n, classes = x.shape
        options = {key: self.option(key, value, x.shape) for key, value in options.items()}
        args = [self.spread(a, x.shape) for a in (x, *args)]
        sim.launched.clear()
        results = plain_call(name, *args, axis=1, **options)
        if classes > 1:
            assert_in_place(self.vectorised)
        if isinstance(results, tuple):
            return tuple(self.collected(result, n) for result in results)
        return self.collected(results, n)

    def option(self, key, value, shape):
        return self.spread(value, shape) if key == "sample_weight" else value


def assert_in_place(vectorised):
    """Nothing was converted, and rows were computed by a kernel of columns."""
    assert not any(name.startswith(("gather", "scatter")) for name in sim.launched)
    plans = [name.split("ThreadPlan(")[1].split(",") for name in sim.launched if "ThreadP" in name]
    assert plans
    for plan in plans:
        assert (plan[3], plan[6]) == (str(vectorised), "True")


@pytest.fixture
def columns(monkeypatch, layout):
    """Tests of rows call functions on columns, of a GPU whose threads hold more in vectors."""
    monkeypatch.setattr(driver, "capability", lambda device: (9, 0))
    columns = Columns(layout)
    for module in (test_simulated, test_second):
        monkeypatch.setattr(module, "call", columns.call)
    return columns


def test_sizes_reach_all_plans():
    """The numbers of classes of this file reach every line of the table of plans."""
    for name in TYPES:
        plans = [thread_plans.plan_of(element(name), n, True, columns=True) for n in CLASSES]
        assert {plan.threads for plan in plans} == {1, 2}
        assert [plan.streamed for plan in plans] == [False, False, name == "float64", True]
        assert plans[0].rows == 64  # two warps that have nothing to do with each other


# --- the tests of rows ----------------------------------------------------------------------

ACCURACY = [
    test_simulated.test_softmax_family, test_simulated.test_index_targets,
    test_second.test_products, test_second.test_entropy,
]  # fmt: skip


@layouts
@pytest.mark.parametrize(("name", "classes"), SIZES)
@pytest.mark.parametrize("test", ACCURACY, ids=lambda test: test.__name__)
def test_accuracy(rng, columns, name, classes, test):
    """Within the bounds of rows, in all types and plans; half precision is moved alike."""
    test(rng, name, classes)


OPTIONS = [
    test_simulated.test_smoothing_weights_and_z_loss,
    test_simulated.test_hessian_diagonal,
    test_second.test_products_of_soft_targets_and_smoothing_at_length,
]


@layouts
@pytest.mark.parametrize(("name", "classes"), [("float32", 21), ("float32", 203), ("float64", 13)])
@pytest.mark.parametrize("test", OPTIONS, ids=lambda test: test.__name__)
def test_options(rng, columns, name, classes, test):
    test(rng, name, classes)


@layouts
@pytest.mark.parametrize(("name", "classes"), [("float32", 21), ("float32", 203), ("float64", 13)])
@pytest.mark.parametrize("options", [{}, {"weight": True, "label_smoothing": 0.1}], ids=str)
def test_probability_targets(rng, columns, name, classes, options):
    test_simulated.test_probability_targets(rng, name, classes, options)


@layouts
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("soft", [False, True])
def test_all_options_and_outputs(rng, columns, name, soft):
    test_simulated.test_all_options_and_outputs(rng, name, "none", soft)


@layouts
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("soft", [False, True])
def test_products_under_options(rng, columns, name, soft):
    for case in ("weights", "smoothing", "z-loss", "scale"):
        test_second.test_products_under_options(rng, name, case, soft)


@layouts
@pytest.mark.parametrize("classes", [3, 37])
def test_confident_rows(columns, classes):
    test_simulated.test_confident_rows("float32", classes)
    test_second.test_products_of_confident_rows(np.random.default_rng(0), "float32", classes)


@layouts
@pytest.mark.parametrize("name", ["float32", "float16"])
def test_streamed_rows(columns, name):
    test_simulated.test_streamed_rows(name)


@layouts
def test_two_equal_maxima(columns):
    test_simulated.test_two_equal_maxima()


@layouts
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.3}, {"z_loss": 0.1}], ids=str)
def test_rows_of_special_values(columns, options):
    test_simulated.test_rows_of_special_values("float32", 19, [0, 7], options)


@layouts
def test_families_of_special_rows(columns):
    test_simulated.test_softmax_family_of_special_rows("float32")
    test_simulated.test_probabilities_of_special_rows("float32")


@layouts
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_ignored_rows(columns, name):
    """Beside rows that are read: exactly 0 whatever they hold."""
    test_simulated.test_ignored_rows(name, 37, {})
    x, v = np.full((3, 5), 0.5, name), np.ones((3, 5), name)
    x[0, 1], x[1, 2], x[2, 3], v[0, 4], v[2, 0] = NAN, INF, 2, NAN, 3
    got = columns.call("cross_entropy_hvp", x, np.array([-100, -100, 1]), v, reduction="none")
    assert not got[:2].any() and got[2].any() and np.isfinite(got).all()


@layouts
def test_weights_of_0_add_exactly_nothing(columns):
    test_simulated.test_weights_of_0_add_exactly_nothing()


# --- in place, other layouts ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["float32", "float64", "float16"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("shape", [(2, 21, 4, 8), (2, 101, 4, 8), (3, 101, 13)], ids=str)
def test_gradient_in_place(rng, name, backwards, soft, shape):
    """grad_out over the logits: whichever warp is ahead, all is read before it is gone."""
    sim.backwards = backwards
    values, labels = rng.standard_normal(shape).astype(name), rng.integers(0, shape[1], shape)[:, 0]
    target = rng.random(shape).astype(name) if soft else labels
    for options in ({}, {"label_smoothing": 0.1, "return_probs": True, "return_hess": True}):
        x, given = sim.on_gpu(values), EACH | options | {"axis": 1}
        got = fx.cross_entropy(x, there(target), grad_out=x, axis=1, reduction="none", **options)
        assert got[1] is x
        rtol = 4e-3 if name == "float16" else 1e-5
        for a, b in zip(back(got), expected("cross_entropy", values, target, **given), strict=True):
            np.testing.assert_allclose(a.astype(float), b.astype(float), rtol, rtol / 10)


@pytest.mark.parametrize("shape", [(2, 21, 32), (2, 101, 32), (3, 101, 13)], ids=str)
@pytest.mark.parametrize("backwards", [False, True])
def test_others_in_place(rng, backwards, shape):
    """Softmax, entropy, a product over its vector, categorical losses."""
    sim.backwards = backwards
    values, v = (rng.standard_normal(shape).astype(np.float32) for _ in "xv")
    labels = rng.integers(0, shape[1], (shape[0], shape[2]))
    for function in ("softmax", "log_softmax"):
        x = sim.on_gpu(values)
        getattr(fx, function)(x, out=x, axis=1)
        alike([x.array], [expected(function, values, axis=1)], "float32")
    x = sim.on_gpu(values)
    got = fx.entropy(x, axis=1, grad_out=x)
    want = expected("entropy", values, axis=1, return_grad=True)
    np.testing.assert_allclose(got[1].array, want[1].astype(float), 1e-4, 1e-6)
    over = sim.on_gpu(v)
    fx.cross_entropy_hvp(sim.on_gpu(values), there(labels), over, axis=1, out=over)
    want = expected("cross_entropy_hvp", values, labels, v, axis=1)
    np.testing.assert_allclose(over.array, want.astype(float), 1e-4, 1e-7)
    p = expected("softmax", values, axis=1).astype(np.float32)
    for target in (labels, np.abs(v)):
        sim.launched.clear()
        x, given = sim.on_gpu(p), EACH | {"axis": 1}
        got = fx.categorical_cross_entropy(x, there(target), axis=1, reduction="none", grad_out=x)
        alike(back(got), expected("categorical_cross_entropy", p, target, **given), "float32")
        assert_in_place(shape[2] == 32 and target is not labels)


@layouts
@pytest.mark.parametrize("name", ["float32", "float16", "float64"])
@pytest.mark.parametrize("classes", [5, 37])
def test_categorical(rng, columns, name, classes):
    """Losses and gradients of probabilities."""
    p = of(expected("softmax", rng.standard_normal((4, classes)).astype(name)), name)
    q, weight = (rng.random(shape).astype(name) for shape in ((4, classes), classes))
    in_vectors = columns.vectorised
    for target in (np.array([0, classes - 1, -100, 2]), q):
        for options in ({}, {"weight": weight.astype("float64" if name == "float64" else "f4")}):
            want = expected("categorical_cross_entropy", p, target, **EACH, **options)
            columns.vectorised = in_vectors and target is q  # of labels there is nothing to read
            got = columns.call("categorical_cross_entropy", p, target, **EACH, **options)
            rtol = 2e-3 if name == "float16" else 1e-5
            for a, b in zip(got, want, strict=True):
                np.testing.assert_allclose(a.astype(float), b.astype(float), rtol, rtol / 10)


def memory_of(values, layout):
    """An array whose rows lie in memory in one of several ways, and whether in whole vectors."""
    n, classes, inner = values.shape
    if layout == "column-major":  # of (N, C)
        array = sim.allocate((classes, n * inner), values.dtype).T
        array[...] = values.swapaxes(1, 2).reshape(-1, classes)
        return array, -1, True
    if layout == "misaligned":
        array = sim.allocate(values.shape, values.dtype, misaligned=values.itemsize)
    elif layout == "a part of the classes":
        array = sim.allocate((n, classes + 3, inner), values.dtype)[:, 2:-1]
    elif layout == "a part of a plane":
        array = sim.allocate((n, classes, inner + 16), values.dtype)[:, :, 16:]
    elif layout == "a ragged part of a plane":
        values = values[:, :, :-2]
        array = sim.allocate((n, classes, inner), values.dtype)[:, :, :-2]
    else:  # rank 5: the axes before and behind that of the classes each merge into one
        array = sim.allocate((1, n, classes, inner // 4, 4), values.dtype)
        array[...] = values.reshape(array.shape)
        return array, 2, True
    array[...] = values
    return array, 1, layout not in ("misaligned", "a ragged part of a plane")


@pytest.mark.parametrize("layout", [
    "column-major", "misaligned", "a part of the classes", "a part of a plane",
    "a ragged part of a plane", "rank 5",
])  # fmt: skip
def test_layouts(rng, layout):
    """Rows anywhere in memory; what lies around them is neither read nor written."""
    values = rng.standard_normal((2, 13, 32)).astype(np.float32)
    labels = rng.integers(0, 13, (2, 32))
    x, axis, vectorised = memory_of(values, layout)
    grad, probs = memory_of(np.full_like(values, NAN), layout)[0], memory_of(values, layout)[0]
    y = np.resize(labels, np.delete(x.shape, axis))
    before, memory = grad.copy(), grad.base.copy()
    sim.launched.clear()
    got = fx.cross_entropy(
        sim.Array(x), there(y), axis=axis, grad_out=sim.Array(grad), probs_out=sim.Array(probs),
        reduction="none",
    )  # fmt: skip
    assert_in_place(vectorised)
    want = expected("cross_entropy", x.copy(), y, axis=axis, return_probs=True, **EACH)
    alike(back(got), want, "float32")
    grad[...] = before
    np.testing.assert_array_equal(grad.base, memory)


@pytest.mark.parametrize("others", ["rows", "groups", "step", "type"])
def test_arrays_that_are_not_laid_out_alike(rng, others):
    """They go through converted blocks."""
    x = rng.standard_normal((2, 5, 8)).astype(np.float32)
    q = rng.random((2, 5, 8)).astype("f8" if others == "type" else "f4")
    target = sim.on_gpu(q)
    if others == "rows":
        target.array = sim.on_gpu(np.ascontiguousarray(q.swapaxes(1, 2))).array.swapaxes(1, 2)
    elif others == "groups":
        target.array = sim.on_gpu(np.ascontiguousarray(q.swapaxes(0, 1))).array.swapaxes(0, 1)
    elif others == "step":
        target.array = sim.on_gpu(np.repeat(q, 2, 2)).array[:, :, ::2]
    got = fx.cross_entropy(sim.on_gpu(x), target, axis=1, **EACH)
    alike(back(got), expected("cross_entropy", x, q, axis=1, **EACH), "float32")
    assert any(name.startswith("gather") for name in sim.launched)


@pytest.mark.parametrize(("classes", "rows", "in_place"), [
    (1025, 33, True), (1025, 32, False), (1024, 32, True),
])  # fmt: skip
def test_few_long_rows(rng, monkeypatch, classes, rows, in_place):
    """Too few to occupy half of the GPU: converted, so that each is shared by many threads."""
    monkeypatch.setattr(driver, "processors", lambda device: 2)
    x = rng.standard_normal((classes, rows)).astype(np.float32)
    alike([plain_call("logsumexp", x, axis=0)], [expected("logsumexp", x, axis=0)], "float32")
    assert in_place != any(name.startswith("gather") for name in sim.launched)


def test_special_rows_beside_others(rng):
    """The bits of a row do not depend on those that it shares a vector with."""
    x, labels = rng.standard_normal((2, 21, 32)).astype(np.float32), rng.integers(0, 21, (2, 32))
    spoilt = x.copy()
    spoilt[1, 5, 3], spoilt[0, 20, 9], spoilt[0, :, 2] = NAN, INF, -INF
    given = {"axis": 1, "reduction": "none", **ALL}
    got, want = (plain_call("cross_entropy", a, labels, **given) for a in (spoilt, x))
    good = np.isfinite(spoilt).all(1)
    for a, b in zip(got, want, strict=True):
        if a.ndim == 3:
            a, b = a.swapaxes(1, 2), b.swapaxes(1, 2)
        np.testing.assert_array_equal(a[good], b[good])


def test_a_mean(rng):
    """Reduced losses, rows that are ignored, no rows at all."""
    x, labels = rng.standard_normal((2, 7, 32)).astype(np.float32), rng.integers(0, 7, (2, 32))
    labels[0, :20] = -100
    x[0, :, 3] = NAN
    for y in (labels, np.full_like(labels, -100)):
        got = plain_call("cross_entropy", x, y, axis=1, return_grad=True)
        alike(got, expected("cross_entropy", x, y, axis=1, return_grad=True), "float32")
    nothing = plain_call("softmax", np.zeros((0, 7, 32), np.float32), axis=1)
    assert nothing.shape == (0, 7, 32)
