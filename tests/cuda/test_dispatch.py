"""Arrays in a GPU's memory: same kind out, where and when work is done, what is refused.

Stand-ins that carry nothing but CUDA's array interface; where a driver or a library is missing, in
a process without the simulator.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import simulator as sim
import small  # noqa: F401 - few threads

import fastxent as fx
from fastxent.arrays import interface
from fastxent.cuda import jit, softmax_kernels
from fastxent.cuda.elements import element
from fastxent.cuda.groups import ThreadPlan
from fastxent.device_array import DeviceArray
from fastxent.records import Place

ROOT = Path(fx.__file__).parents[1]


@pytest.fixture(autouse=True)
def nothing_of_before():
    sim.forget()
    for record in (sim.launched, sim.places, sim.waited):
        record.clear()


def logits(*shape, dtype=np.float32):
    return sim.on_gpu(np.random.default_rng(0).random(shape).astype(dtype))


def labels(*values):
    return sim.on_gpu(np.array(values))


def calls(x, y, **options):
    """Every public function on x; y are labels."""
    one_hot = sim.on_gpu(np.eye(*x.array.shape, dtype=x.array.dtype))
    return {
        "softmax": fx.softmax(x),
        "log_softmax": fx.log_softmax(x),
        "logsumexp": fx.logsumexp(x),
        "cross_entropy": fx.cross_entropy(x, y, return_grad=True, return_lse=True, **options),
        "of probabilities": fx.cross_entropy(x, one_hot, return_grad=True, return_argmax=True),
        "categorical": fx.categorical_cross_entropy(x, y, return_grad=True, **options),
        "binary": fx.binary_cross_entropy(x, one_hot, return_grad=True),
        "with logits": fx.binary_cross_entropy_with_logits(x, one_hot, return_hess=True),
        "entropy": fx.entropy(x),
        "gradient of entropy": fx.entropy(x, return_grad=True)[1],
        "product": fx.cross_entropy_hvp(x, y, one_hot, **options),
        "binary product": fx.binary_cross_entropy_with_logits_hvp(x, one_hot, one_hot),
    }


# --- same kind out, on the same stream ------------------------------------------------------


def test_results_are_of_the_same_library():
    """Scalars too, as arrays without dimensions."""
    for name, results in calls(logits(2, 5), labels(0, 4)).items():
        for result in results if isinstance(results, tuple) else [results]:
            assert type(result) is sim.Array, name
            assert result.array.flags.c_contiguous
        if isinstance(results, tuple):
            assert results[0].array.shape == ()


def test_nothing_waits_but_the_check_of_labels():
    """One wait where labels are checked, none anywhere else."""
    x, y = logits(2, 5), labels(0, 4)
    calls(x, y, check_target=False)
    assert sim.waited == []
    given = {"check_target": False, "normalizer": sim.on_gpu(np.array(2.0))}
    fx.cross_entropy(x, y, sample_weight=logits(2), weight=logits(5), return_grad=True, **given)
    assert sim.waited == []
    fx.cross_entropy(x, y, return_grad=True)
    assert len(sim.waited) == 1
    fx.categorical_cross_entropy(x, y, reduction="sum")
    assert len(sim.waited) == 2


def on_stream(array, stream):
    return sim.Array(array.array, stream)


def test_kernels_are_launched_on_the_stream_of_the_first_argument():
    """All of them, also those that read labels, weights and targets of other streams.

    What is still written to those on their streams is waited for there.
    """
    sim.followed.clear()
    x, y = on_stream(logits(5, 2), 5), on_stream(sim.on_gpu(np.zeros((2, 2), int)), 6)
    y.array = y.array[:, 0]
    u, w = on_stream(logits(2), 7), on_stream(logits(5, dtype=np.float64), 8)
    options = {"sample_weight": u, "weight": w, "normalizer": on_stream(sim.on_gpu(np.ones(())), 4)}
    fx.cross_entropy(x, y, axis=0, softcap=3.0, return_grad=True, return_lse=True, **options)
    q = on_stream(logits(5, 2), 9)
    fx.cross_entropy(x, q, axis=0, sample_weight=u)
    fx.binary_cross_entropy_with_logits(x, q, pos_weight=on_stream(q, 3))
    kinds = {name.partition("-")[0] for name in sim.launched}
    assert kinds >= {"copy_labels", "scan", "divisor", "gather", "scatter", "sum", "mean"}
    assert set(sim.places) == {Place(0, 5)}
    assert sim.waited == [Place(0, 5)]
    assert sim.followed[:4] == [(Place(0, 5), stream) for stream in (6, 7, 8, 4)]


class WithoutStream(sim.Array):
    """Memory by version 2 of CUDA's array interface, which has no stream, and by DLPack."""

    @property
    def __cuda_array_interface__(self):
        described = super().__cuda_array_interface__
        del described["stream"]
        return described | {"version": 2}

    def __dlpack_device__(self):
        return 2, 0


def test_arrays_that_name_no_stream(monkeypatch):
    """DLPack orders them with the legacy stream, for which that of the call waits.

    What is read-only by the one description is so by both.
    """
    monkeypatch.setattr(interface, "_exported", lambda value: DeviceArray(
        value, value.array.ctypes.data, value.array.shape, None, value.array.dtype, Place(0, 1),
        interface._library_of(value),
    ))  # fmt: skip
    sim.followed.clear()
    fx.cross_entropy(on_stream(logits(2, 5), 5), WithoutStream(labels(0, 4).array))
    assert sim.followed == [(Place(0, 5), 1)]
    out = WithoutStream(logits(2, 5).array)
    assert fx.softmax(logits(2, 5), out=out) is out
    out.array.flags.writeable = False
    with pytest.raises(ValueError, match="^out must be writeable"):
        fx.softmax(logits(2, 5), out=out)


def test_legacy_streams():
    """No stream is the legacy default one."""
    fx.softmax(logits(1, 3))
    fx.softmax(on_stream(logits(1, 3), 1))
    assert sim.places == [Place(0, 0), Place(0, 1)]


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["target", "weight", "sample_weight", "grad_out", "probs_out"])
def test_host_arrays_beside_gpu_logits(name):
    """TypeError that says which is where; nothing is launched."""
    host = {
        "target": np.array([0, 1]), "weight": np.ones(5, np.float32),
        "sample_weight": np.ones(2, np.float32), "grad_out": np.empty((2, 5), np.float32),
        "probs_out": np.empty((2, 5), np.float32),
    }  # fmt: skip
    given = {"target": labels(0, 1), name: host[name]}
    with pytest.raises(TypeError, match=rf"^{name} is in host memory .*GPU 0"):
        fx.cross_entropy(logits(2, 5), **given)
    assert sim.launched == []


@pytest.mark.parametrize("name", ["target", "weight", "sample_weight"])
def test_gpu_arrays_beside_host_logits(name):
    """Likewise the other way round."""
    there = {"target": labels(0, 1), "weight": logits(5), "sample_weight": logits(2)}
    given = {"target": np.array([0, 1]), name: there[name]}
    with pytest.raises(TypeError, match=rf"^{name} is on a GPU .*host memory"):
        fx.cross_entropy(np.ones((2, 5), np.float32), **given)


def test_another_gpu(monkeypatch):
    """TypeError naming both numbers."""
    x, y = logits(2, 5), labels(0, 1)
    far = y.array.ctypes.data
    monkeypatch.setattr(sim.driver, "device_of", lambda address: int(address == far))
    with pytest.raises(TypeError, match=r"^target is on GPU 1, expected it on GPU 0$"):
        fx.cross_entropy(x, y)
    assert sim.launched == []


def read_only(x):
    array = sim.on_gpu(x.array)
    array.array.flags.writeable = False
    return array


def shifted(x):
    """Over all but the first row of a larger array."""
    return sim.Array(np.lib.stride_tricks.as_strided(x.array[1:], x.array.shape))


BAD_BUFFERS = {
    "read-only": (read_only, "writeable"),
    "shape": (lambda x: logits(5, 2), r"shape \(2, 5\), got \(5, 2\)"),
    "type": (lambda x: logits(2, 5, dtype=np.float64), "dtype float32"),
    "broadcast": (lambda x: sim.Array(np.broadcast_to(x.array[:1], (2, 5))), "writeable|strides"),
    "overlapping": (shifted, "not overlap logits"),
}


@pytest.mark.parametrize("kind", BAD_BUFFERS)
@pytest.mark.parametrize("name", ["out", "grad_out", "probs_out"])
def test_buffers_that_do_not_fit(name, kind):
    """ValueError that says what is wrong; nothing is written."""
    make, match = BAD_BUFFERS[kind]
    whole = logits(3, 5)
    x = sim.Array(whole.array[:2])
    buffer, before = make(x), whole.array.copy()
    with pytest.raises(ValueError, match=rf"^{name} must (.* )?({match})"):
        if name == "out":
            fx.softmax(x, out=buffer)
        else:
            fx.cross_entropy(x, labels(0, 1), **{name: buffer})
    np.testing.assert_array_equal(whole.array, before)
    assert sim.launched == []


def test_buffers_over_other_inputs():
    """Over targets and weights; probs_out over logits too; both buffers in one place."""
    x, q = logits(2, 5), logits(2, 5)
    for given, match in [
        ({"grad_out": q}, "grad_out must not overlap target"),
        ({"probs_out": x}, "probs_out must not overlap logits"),
        ({"grad_out": sim.Array(x.array), "probs_out": x}, "probs_out must not overlap"),
        ({"grad_out": x, "sample_weight": sim.Array(x.array[:, 0])}, "sample_weight"),
    ]:
        before = x.array.copy(), q.array.copy()
        with pytest.raises(ValueError, match=match):
            fx.cross_entropy(x, q, **given)
        np.testing.assert_array_equal((x.array, q.array), before)


def test_arguments_that_fit_nowhere():
    """The words that NumPy arrays get, for arrays that are only described."""
    x, y = logits(2, 5), labels(0, 1)
    for error, match, call in [
        (ValueError, "^target must have shape", lambda: fx.cross_entropy(x, labels(0, 1, 2))),
        (TypeError, "^target must hold integer", lambda: fx.cross_entropy(x, logits(2))),
        (ValueError, "^weight must have shape", lambda: fx.cross_entropy(x, y, weight=logits(2))),
        (ValueError, "^axis", lambda: fx.softmax(x, axis=2)),
        (ValueError, "ignore_index", lambda: fx.cross_entropy(x, x, ignore_index=1)),
        (ValueError, "^pos_weight must broadcast",
         lambda: fx.binary_cross_entropy_with_logits(x, x, pos_weight=logits(3, 5))),
        (TypeError, "complex", lambda: fx.softmax(logits(2, 5, dtype=np.complex64))),
        (ValueError, "^normalizer", lambda: fx.cross_entropy(x, y, normalizer=logits(1))),
        (TypeError, "unexpected keyword", lambda: fx.softmax(x, dim=1)),
    ]:  # fmt: skip
        with pytest.raises(error, match=match):
            call()
    assert sim.launched == []


def test_masked_arrays():
    """What CUDA's array interface calls a mask is refused."""

    class Masked(sim.Array):
        @property
        def __cuda_array_interface__(self):
            return super().__cuda_array_interface__ | {"mask": sim.on_gpu(np.ones(3, bool))}

    with pytest.raises(TypeError, match="mask"):
        fx.softmax(Masked(logits(3).array))


# --- architectures, compilers, drivers that are not there -----------------------------------


def kernel_of(name):
    number = element(name)
    return jit.make_kernel(
        softmax_kernels.make_softmax_kernel, number, ThreadPlan(32, 2, 1, True, False), False,
        compute=number.compute, block=32,
    )  # fmt: skip


def test_an_old_architecture():
    """Says what is needed, what there is, and what to do."""
    with pytest.raises(RuntimeError, match=r"\(7, 5\) or newer, this one has \(7, 0\).*host"):
        jit.supported(kernel_of("float32"), (7, 0))
    with pytest.raises(RuntimeError, match=r"^half precision .*\(8, 0\) or newer.*\(7, 5\)"):
        jit.supported(kernel_of("bfloat16"), (7, 5))
    jit.supported(kernel_of("float32"), (7, 5))
    jit.supported(kernel_of("bfloat16"), (8, 0))


def python(text):
    """Run a program in a process without the simulator."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", "import sys\n" + textwrap.dedent(text)],
        env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_host_arrays_import_nothing_of_cuda():
    """Neither the package nor a call on NumPy arrays."""
    done = python("""
        import fastxent as fx, numpy as np
        fx.softmax(np.ones((2, 3), np.float32))
        fx.cross_entropy(np.ones((2, 3), np.float32), [0, 1])
        names = ("numba_cuda", "numba.cuda", "cuda", "cupy", "fastxent.cuda")
        print([name for name in names if name in sys.modules])
    """)
    assert done.stdout == "[]\n", done.stderr


ON_GPU = """
    import fastxent as fx
    class There:
        __cuda_array_interface__ = {
            "shape": (2, 3), "typestr": "<f4", "version": 3, "data": (4096, False),
        }
    try:
        fx.softmax(There())
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_without_numba_cuda():
    """The error says which extra to install."""
    hidden = """
        sys.meta_path[:] = [finder for finder in sys.meta_path if "numba_cuda" not in repr(finder)]
        sys.modules["numba_cuda"] = None
    """
    done = python(textwrap.dedent(hidden) + textwrap.dedent(ON_GPU))
    assert done.stdout.startswith("ImportError "), done.stdout + done.stderr
    assert "pip install 'fastxent[cuda13]'" in done.stdout


def has_driver():
    return python("""
        from cuda.bindings import driver
        sys.exit(driver.cuInit(0)[0].value)
    """).returncode == 0  # fmt: skip


def test_without_a_driver():
    """The error says what to do: for the first call, and for what asks the driver itself."""
    if has_driver():
        pytest.skip("there is a driver")
    text = """
        from fastxent.cuda import driver
        for ask in (driver.capability, driver.processors, driver.device_of):
            try:
                ask(0)
            except RuntimeError as error:
                print(error)
    """
    for done, n in ((python(text), 3), (python(ON_GPU), 1)):
        assert done.stdout.count("driver") >= n, done.stderr
        assert done.stdout.count("nvidia-smi") == n, done.stdout + done.stderr
