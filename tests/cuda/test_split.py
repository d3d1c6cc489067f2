"""Long rows on several blocks each: few of them by two kernels, many on clusters."""

import numpy as np
import pytest
import simulator as sim
import small  # noqa: F401 - few threads

import fastxent as fx
from fastxent import reference
from fastxent.cuda import driver, split_kernels, thread_plans
from fastxent.cuda.kernels import options_of
from fastxent.options import Options
from fastxent.results import Outputs

OPTIONS = {"ignore_index": 7, "z_loss": 0.01, "reduction": "sum"}


@pytest.fixture(autouse=True, params=["two kernels", "clusters"])
def kernels(request, monkeypatch):
    """Few rows for many processors; or clusters, as if there were more rows."""
    clusters = request.param == "clusters"
    monkeypatch.setattr(driver, "processors", lambda device: 100)
    if clusters:
        monkeypatch.setattr(driver, "capability", lambda device: (9, 0))
        monkeypatch.setattr(thread_plans, "parts_of", lambda plan, item, rows, n, place: (1, n))
    sim.launched.clear()  # what other tests have launched is no sign of what these do
    yield {"cluster_rows"} if clusters else {"split_sums", "split_rows"}
    sim.forget()
    sim.backwards = False


def launched():
    """The kinds of kernels, but for those that losses and converted weights need."""
    return {name.partition("-")[0] for name in sim.launched} - {"scan", "mean", "gather"}


@pytest.mark.parametrize("dtype, tolerance", [("f4", 2e-6), ("f8", 1e-13), ("f2", 1e-3)])
@pytest.mark.parametrize("in_place", [False, True])
def test_long_rows(rng, kernels, dtype, tolerance, in_place):
    """The reference's numbers; targets in the first, a middle and the last part, or ignored."""
    n_classes = 1601
    x = (4 * rng.standard_normal((4, n_classes))).astype(dtype)
    y, w = np.array([0, n_classes - 1, 7, 600]), rng.random(n_classes).astype(dtype)
    x[2, 5] = np.nan  # in the row that is ignored
    given = sim.on_gpu(x)
    out = given if in_place else sim.on_gpu(np.full_like(x, np.nan))
    sim.backwards = in_place  # then the last part is written before the first has read its target
    loss, grad = fx.cross_entropy(
        given, sim.on_gpu(y), weight=sim.on_gpu(w), grad_out=out, **OPTIONS
    )
    assert launched() == kernels
    want = reference.cross_entropy(x, y, weight=w, return_grad=True, **OPTIONS)
    np.testing.assert_allclose(sim.host(loss), want[0], tolerance)
    np.testing.assert_allclose(sim.host(grad), want[1], tolerance, tolerance)


def test_what_they_do_not_know(kernels):
    """An option or output, also one still to come, has the call left to the other kernel."""
    known = options_of(Options(z_loss=0.5), 10)
    assert split_kernels.are_enough(False, known, Outputs(loss=1, grad=1))
    assert not split_kernels.are_enough(True, known, Outputs(loss=1))
    for name in set(Outputs._fields) - {"loss", "grad"}:
        assert not split_kernels.are_enough(False, known, Outputs(loss=1, **{name: 1}))
    for changed in ({"factor": 2.0}, {"eps_over_c": 0.01}, {"one_minus_eps": 0.9}, {"gamma": 1.0}):
        assert not split_kernels.are_enough(False, known | changed, Outputs(loss=1))
    fx.cross_entropy(sim.on_gpu(np.zeros((2, 1100), np.float32)), sim.on_gpu(np.zeros(2, int)),
                     label_smoothing=0.1)  # fmt: skip
    assert not launched() & kernels


def test_special_parts(kernels):
    """A part of -inf alone, one with nan, +inf, all -inf, a confident row, a shared offset."""
    x = np.zeros((6, 1100), np.float32)
    x[0, 512:] = -np.inf
    x[1, 600] = np.nan
    x[2, 1000] = np.inf
    x[3] = -np.inf
    x[4] = -60
    x[4, 1] = 0
    x[5] += 2**20
    y = np.array([3, 0, 1000, 5, 1, 9])
    loss, grad = fx.cross_entropy(sim.on_gpu(x), sim.on_gpu(y), reduction="none", return_grad=True)
    assert launched() == kernels
    want = reference.cross_entropy(x, y, reduction="none", return_grad=True)
    np.testing.assert_allclose(sim.host(loss), want[0], 1e-5)
    np.testing.assert_allclose(sim.host(grad), want[1], 1e-5, 1e-30)


@pytest.mark.parametrize(
    "n_classes, shift, backwards", [(513, 0, True), (1100, 4, True), (4099, 0, False)]
)
def test_lengths_and_alignment(rng, kernels, n_classes, shift, backwards):
    """Parts that are full and parts that are not, streamed, rows at any address, loss alone."""
    x = rng.standard_normal((1, n_classes)).astype(np.float32)
    y = np.array([n_classes - 1])
    want = reference.cross_entropy(x, y, return_grad=True)
    sim.backwards = backwards
    loss = fx.cross_entropy(sim.on_gpu(x, shift), sim.on_gpu(y))
    _, grad = fx.cross_entropy(sim.on_gpu(x, shift), sim.on_gpu(y), return_grad=True)
    assert launched() == kernels
    np.testing.assert_allclose(sim.host(loss), want[0], 1e-6)
    np.testing.assert_allclose(sim.host(grad), want[1], 2e-6, 1e-12)


def test_bad_labels_are_nan_where_nobody_checks():
    """Loss and gradient of that row, in all of its parts, and of no other."""
    x, y = np.zeros((2, 1100), np.float32), np.array([1100, -1])
    y[1] = 4
    loss, grad = fx.cross_entropy(
        sim.on_gpu(x), sim.on_gpu(y), reduction="none", return_grad=True, check_target=False
    )
    assert np.isnan(sim.host(loss)).tolist() == [True, False]
    assert np.isnan(sim.host(grad)).all(1).tolist() == [True, False]
    assert np.isfinite(sim.host(grad)[1]).all()


def test_rows_that_do_not_count_are_0_whatever_their_weights_are():
    """Under smoothing and an infinite class weight: 0·inf would be nan."""
    x, y = np.zeros((2, 5), np.float32), np.array([-100, 1])
    w = np.float32([np.inf, 1, 1, 1, 1])
    _, grad = fx.cross_entropy(
        sim.on_gpu(x), sim.on_gpu(y), weight=sim.on_gpu(w), label_smoothing=0.1, return_grad=True,
        reduction="sum",
    )  # fmt: skip
    assert (sim.host(grad)[0] == 0).all()
