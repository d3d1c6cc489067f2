"""A cached plan launches the same kernels on other arrays, and does nothing else."""

import contextlib
import gc
import threading
import weakref

import numpy as np
import pytest
import simulator as sim
import small  # noqa: F401 - few threads

import fastxent as fx
from fastxent import device_array
from fastxent.arrays import plans
from fastxent.cuda import blocks, cross_entropy, divisors, launch, softmax_kernels
from fastxent.cuda.elements import element
from fastxent.cuda.groups import ThreadPlan
from fastxent.device_array import DeviceArray, Queue
from fastxent.records import Place

ROWS, CLASSES = 5, 9


@pytest.fixture(autouse=True)
def nothing_of_before():
    sim.forget()
    sim.launched.clear()
    sim.places.clear()


@pytest.fixture
def bodies(monkeypatch):
    """The names of the functions whose bodies ran."""
    names = []
    run_recorded = plans.run_recorded

    def noted(function, arguments, call):
        names.append(function.name)
        return run_recorded(function, arguments, call)

    monkeypatch.setattr(plans, "run_recorded", noted)
    return names


def arrays(seed, misaligned=0):
    """Arrays of a call, other numbers for each seed."""
    rng = np.random.default_rng(seed)
    made = {
        "x": rng.standard_normal((ROWS, CLASSES)).astype(np.float32),
        "half": rng.standard_normal((ROWS, CLASSES)).astype(np.float16),
        "p": rng.random((ROWS, CLASSES)).astype(np.float32),
        "q": rng.dirichlet(np.ones(CLASSES), ROWS).astype(np.float32),
        "y": rng.integers(0, CLASSES, ROWS),
        "many": rng.integers(0, CLASSES, 3 * divisors.CHUNK),
        "tall": rng.standard_normal((3 * divisors.CHUNK, CLASSES)),
        "u": rng.random(ROWS),
        "w": rng.random(CLASSES).astype(np.float32),
        "d": np.array(rng.random()),
        "out": np.zeros((ROWS, CLASSES), np.float32),
        "long": rng.standard_normal((1, 700)).astype(np.float32),
    }
    return {name: sim.on_gpu(value, misaligned) for name, value in made.items()}


CALLS = {
    "softmax": lambda a: fx.softmax(a["x"]),
    "softmax of half precision": lambda a: fx.softmax(a["half"]),
    "log_softmax over rows": lambda a: fx.log_softmax(a["x"], axis=0),
    "softmax in place": lambda a: fx.softmax(a["x"], out=a["x"]),
    "softmax into a buffer": lambda a: fx.softmax(a["x"], out=a["out"]),
    "logsumexp": lambda a: fx.logsumexp(a["x"], keepdims=True),
    "loss": lambda a: fx.cross_entropy(a["x"], a["y"]),
    "loss of many rows": lambda a: fx.cross_entropy(a["tall"], a["many"], return_grad=True),
    "unchecked": lambda a: fx.cross_entropy(a["x"], a["y"], check_target=False, return_grad=True),
    "in place": lambda a: fx.cross_entropy(a["x"], a["y"], grad_out=a["x"]),
    "all that may be asked": lambda a: fx.cross_entropy(
        a["x"], a["q"], return_grad=True, return_probs=True, return_lse=True, return_hess=True,
        return_argmax=True, return_entropy=True, reduction="none",
    ),
    "all options": lambda a: fx.cross_entropy(
        a["half"], a["y"], weight=a["w"], sample_weight=a["u"], label_smoothing=0.25, z_loss=0.1,
        logit_scale=0.5, softcap=2.0, normalizer=a["d"], return_grad=True,
    ),
    "entropy": lambda a: fx.entropy(a["x"], return_grad=True),
    "product": lambda a: fx.cross_entropy_hvp(a["x"], a["y"], a["q"]),
    "product over its vector": lambda a: fx.cross_entropy_hvp(
        a["x"], a["q"], a["p"], weight=a["w"], out=a["p"]
    ),
    "product over its logits, with a vector of another type": lambda a: fx.cross_entropy_hvp(
        a["x"], a["y"], a["half"], softcap=3.0, z_loss=0.1, out=a["x"]
    ),
    "product of a binary loss": lambda a: fx.binary_cross_entropy_with_logits_hvp(
        a["x"], a["q"], a["p"], pos_weight=a["w"]
    ),
    "a long row": lambda a: fx.logsumexp(a["long"]),
    "in place across rows": lambda a: fx.softmax(a["half"], out=a["half"], axis=0),
    "categorical": lambda a: fx.categorical_cross_entropy(a["p"], a["y"], return_grad=True),
    "binary": lambda a: fx.binary_cross_entropy(a["p"], a["q"], return_grad=True),
    "binary with a weight that is spread": lambda a: fx.binary_cross_entropy_with_logits(
        a["x"], a["q"], pos_weight=a["w"], return_grad=True
    ),
}  # fmt: skip


def contents(results):
    several = results if isinstance(results, tuple) else (results,)
    return [np.array(sim.host(result)) for result in several]


@pytest.mark.parametrize("name", CALLS)
def test_other_arrays(name, bodies):
    """The same bits as without a plan, by the same kernels, also where an array has moved."""
    call = CALLS[name]
    kept = [contents(call(arrays(seed))) for seed in (1, 2, 1)]
    assert len(bodies) == 1
    launched = sim.launched.copy()
    assert launched == launched[: len(launched) // 3] * 3
    plans.clear()
    sim.launched.clear()
    want = contents(call(arrays(2)))
    assert len(bodies) == 2 and sim.launched * 3 == launched
    for index, expected in ((0, contents(call(arrays(1)))), (1, want), (2, kept[0])):
        for a, b in zip(kept[index], expected, strict=True):
            np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(kept[0], kept[1], strict=True))


def test_block_by_block(bodies, monkeypatch):
    """Launches on parts of arrays take the same parts of others."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * ROWS * 4)  # four columns
    monkeypatch.setattr(blocks, "columns_of", lambda array: None)  # else taken in place
    for seed in (1, 2):
        x = arrays(seed)["x"]
        found = sim.host(fx.logsumexp(x, axis=0))
        want = np.log(np.exp(x.array.astype(float)).sum(0))
        np.testing.assert_allclose(found, want, 1e-6)
    assert len(bodies) == 1


def test_results_do_not_share_memory():
    """What two calls made, and what one made for two results, lies apart."""
    call = CALLS["all that may be asked"]
    call(arrays(1))
    made = [sim.host(result) for _ in range(2) for result in call(arrays(1))]
    for k, a in enumerate(made):
        assert not any(np.may_share_memory(a, b) for b in made[:k])


def test_a_buffer_is_what_is_returned():
    """And not a new array."""
    for seed in (1, 2):
        a = arrays(seed)
        assert fx.softmax(a["x"], out=a["out"]) is a["out"]
        _, grad = fx.cross_entropy(a["x"], a["y"], grad_out=a["x"])
        assert grad is a["x"]


def test_the_vector_is_part_of_the_key(bodies):
    """Its type, its alignment, and whether it is an input that a buffer lies over."""
    for _ in range(2):
        a = arrays(1)
        vectors = [a["p"], a["half"], sim.on_gpu(a["p"].array, 4), a["x"]]
        for vector in vectors:
            fx.cross_entropy_hvp(a["x"], a["y"], vector, out=a["out"])
        fx.cross_entropy_hvp(a["x"], a["y"], a["p"], out=a["p"])
        fx.cross_entropy_hvp(a["x"], a["y"], a["q"], out=a["x"])
    assert len(bodies) == 5  # of which the vector that is the logits has that of the first


def test_bad_labels():
    """The plan of a call without bad labels finds them, before anything is written."""
    fx.cross_entropy(*(arrays(1)[name] for name in "xy"), return_grad=True)
    a = arrays(2)
    a["y"].array[3] = CLASSES
    before = a["x"].array.copy()
    fx.cross_entropy(arrays(1)["x"], arrays(1)["y"], grad_out=arrays(1)["out"])
    for _ in range(2):
        with pytest.raises(IndexError, match=r"target\[3\] must be a class in 0 \.\. 8.*, got 9"):
            fx.cross_entropy(a["x"], a["y"], grad_out=a["out"])
        assert not a["out"].array.any()
        np.testing.assert_array_equal(a["x"].array, before)
    a["y"].array[3] = -100
    loss, grad = fx.cross_entropy(a["x"], a["y"], grad_out=a["out"])
    assert np.isfinite(loss.array) and not grad.array[3].any() and grad.array[2].any()


def test_labels_are_not_checked_while_a_stream_is_captured(bodies):
    """Such a call gets no plan, and does not run one that checks."""
    captured = 77  # as the simulated driver says
    for stream, waits in ((captured, 0), (5, 1), (captured, 0), (5, 1)):
        sim.waited.clear()
        a = arrays(1)
        fx.cross_entropy(sim.Array(a["x"].array, stream), a["y"])
        assert len(sim.waited) == waits
    assert len(bodies) == 3  # all but the last


@pytest.mark.parametrize(
    "other",
    [
        lambda: fx.softmax(arrays(2, misaligned=4)["x"]),
        lambda: fx.softmax(sim.on_gpu(np.zeros((ROWS, CLASSES)))),
        lambda: fx.softmax(sim.on_gpu(np.zeros((CLASSES, ROWS), np.float32))),
        lambda: fx.softmax(sim.on_gpu(np.zeros((ROWS, CLASSES, 1), np.float32)), axis=1),
        lambda: fx.softmax(arrays(2)["x"], axis=0),
        lambda: fx.softmax(arrays(2)["x"], out=arrays(2)["out"]),
        lambda: fx.log_softmax(arrays(2)["x"]),
    ],
    ids=["alignment", "type", "shape", "rank", "option", "buffer", "function"],
)
def test_another_key(bodies, other):
    """All that the launches depend on is part of the key."""
    fx.softmax(arrays(1)["x"])
    other()
    assert len(bodies) == 2


def test_where_a_buffer_lies(bodies):
    """In place and apart have two plans, and an overlap is refused as ever."""
    for _ in range(2):
        a = arrays(1)
        fx.softmax(a["x"], out=a["out"])
        fx.softmax(a["x"], out=a["x"])
        a = arrays(1)
        fx.cross_entropy(a["x"], a["q"], grad_out=a["x"], probs_out=a["out"])
        fx.cross_entropy(a["x"], a["q"], grad_out=a["out"], probs_out=a["p"])
    assert len(bodies) == 4
    room = sim.allocate(2 * ROWS * CLASSES, np.float32)
    n = ROWS * CLASSES
    for shift in (1, n - 1):
        x, out = (sim.Array(room[k : k + n].reshape(ROWS, CLASSES)) for k in (0, shift))
        with pytest.raises(ValueError, match="out must not overlap"):
            fx.softmax(x, out=out)


def test_equal_options_of_other_types(bodies):
    """True is no label to be ignored, though it equals 1."""
    a = arrays(1)
    fx.cross_entropy(a["x"], a["y"], ignore_index=1)
    with pytest.raises(TypeError, match="ignore_index must be an int, got bool"):
        fx.cross_entropy(a["x"], a["y"], ignore_index=True)


def test_calls_without_a_plan(bodies, monkeypatch):
    """Arrays that are not contiguous, arguments of other types, and calls of many launches."""
    for _ in range(2):
        a = arrays(1)
        fx.softmax(sim.Array(a["x"].array[:, ::2]))
        fx.cross_entropy(a["x"], a["y"], label_smoothing=np.float64(0.5))
    assert len(bodies) == 4
    monkeypatch.setattr(device_array, "MAX_LAUNCHES", 1)
    for _ in range(2):
        fx.cross_entropy(a["x"], a["y"])
    assert len(bodies) == 6


def test_a_launch_on_an_array_of_unknown_origin(bodies, monkeypatch):
    """Neither an argument nor a new array of the call, as class weights here: it has no plan."""
    converted_weights = cross_entropy.converted_weights

    def reimported(weights, compute):
        w = converted_weights(weights, compute).class_weight
        place = w.queue.place
        other = DeviceArray(w.owner, w.address, w.shape, None, w.dtype, place, w.library)
        return weights._replace(class_weight=other)

    monkeypatch.setattr(cross_entropy, "converted_weights", reimported)
    got = []
    for seed in (1, 2):
        a = arrays(seed)
        got.append(contents(fx.cross_entropy(a["x"], a["y"], weight=a["w"])))
    assert len(bodies) == 2 and got[0] != got[1]


def test_addresses_are_given_as_pointers():
    """A number would be launched again as it is; arguments must have the kernel's names."""
    plan = ThreadPlan(4, 2, 1, False, False)
    kernel = launch.row_kernel(softmax_kernels.make_logsumexp_kernel, element("float32"), plan)
    arguments = {"x": None, "out": 4096, "n_rows": 1, "n": 1}
    with pytest.raises(TypeError, match="^out must be a pointer, got 4096"):
        launch.launch(kernel, 1, Queue(Place(0, 0)), **arguments)
    with pytest.raises(TypeError, match="missing or unknown: n_rows, rows"):
        launch.launch(kernel, 1, Queue(Place(0, 0)), x=None, out=None, rows=1, n=1)


def test_the_cache_is_bounded(monkeypatch):
    """Old plans are dropped."""
    monkeypatch.setattr(plans, "MAX_KEYS", 3)
    for n in range(1, 9):
        fx.softmax(sim.on_gpu(np.zeros((1, n), np.float32)))
        assert len(plans._plans) <= 3


def test_on_its_own_stream_and_gpu(bodies, monkeypatch):
    """Whichever the recorded call was on; each GPU has plans of its own, and is made current."""
    current = []

    def made_current(device):
        current.append(device)
        return contextlib.nullcontext()

    monkeypatch.setattr(sim.driver, "current", made_current)
    for stream in (5, 9, 5):
        fx.softmax(sim.Array(arrays(1)["x"].array, stream))
    assert sim.places == [Place(0, 5), Place(0, 9), Place(0, 5)]
    assert len(bodies) == 1
    monkeypatch.setattr(sim.driver, "device_of", lambda address: 1)
    for _ in range(2):
        fx.softmax(arrays(1)["x"])
    assert sim.places[3:] == [Place(1, 0), Place(1, 0)]
    assert len(bodies) == 2 and current == [0, 0, 0, 1, 1]


def test_labels_are_checked_in_the_report_of_the_thread(bodies):
    """Not in that of the thread that recorded the call."""
    fx.cross_entropy(arrays(1)["x"], arrays(1)["y"])
    found = []

    def call():
        found.append(contents(fx.cross_entropy(arrays(2)["x"], arrays(2)["y"])))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert len(found) == 1 and len(bodies) == 1


def test_nothing_outlives_a_call():
    """Neither arguments nor results nor scratch memory, with a plan, without and after an error."""
    gc.collect()
    gc.disable()
    try:
        for seed in (1, 2):
            given = arrays(seed)["x"]
            result = fx.softmax(given)
            seen = [weakref.ref(given), weakref.ref(result)]
            del given, result
            assert not any(ref() for ref in seen)
        bad = arrays(1)["y"]
        bad.array[0] = CLASSES
        for seed in (1, 2):
            given = arrays(seed)["x"]
            with pytest.raises(IndexError):
                fx.cross_entropy(given, bad)
            seen = weakref.ref(given)
            del given
            assert seen() is None
    finally:
        gc.enable()


def test_new_arrays_that_are_not_aligned(bodies, monkeypatch):
    """Kernels were chosen for results at multiples of 16 bytes."""
    allocate, shift = sim.allocate, [0]
    monkeypatch.setattr(
        sim, "allocate", lambda shape, dtype, misaligned=0: allocate(shape, dtype, shift[0])
    )
    want = contents(fx.softmax(arrays(1)["x"]))
    x = arrays(1)["x"]
    shift[0] = 4
    for _ in range(2):
        np.testing.assert_allclose(contents(fx.softmax(x)), want, 1e-6)
    assert len(bodies) == 3


def test_a_call_within_a_call(monkeypatch):
    """A call while the same call is being launched does not change its arguments."""
    first, second = arrays(1), arrays(2)
    want = [contents(fx.softmax(a["x"])) for a in (arrays(1), arrays(2))]
    launch_one, inner = sim.driver.LaunchedKernel.launch, []

    def launch_both(call, stream):
        if not inner:
            inner.append(None)
            thread = threading.Thread(
                target=lambda: inner.append(contents(fx.softmax(second["x"])))
            )
            thread.start()
            thread.join()
        launch_one(call, stream)

    monkeypatch.setattr(sim.driver.LaunchedKernel, "launch", launch_both)
    outer = contents(fx.softmax(first["x"]))
    np.testing.assert_array_equal(outer, want[0])
    np.testing.assert_array_equal(inner[1], want[1])
