"""The specification on a real GPU, beside the float64 reference: `pytest -m gpu`.

Inputs are new at every run; a failure shows the seed, and FASTXENT_SEED=<seed> brings them back.
`compute-sanitizer --tool memcheck python -m pytest -m gpu -k small` takes those of few elements.
"""

import concurrent.futures
import functools
import importlib.util
import itertools
import os
import time
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import GpuBounds, normal, worst

import fastxent as fx
from fastxent import reference

pytestmark = pytest.mark.gpu

SEED = int(os.environ.get("FASTXENT_SEED", time.time_ns() % 2**32))
CUDA = "cuda"  # PyTorch's name of the GPU
KINDS = ["float32", "float64", "float16", "bfloat16"]
COMPUTE = {kind: np.float64 if kind == "float64" else np.float32 for kind in KINDS}
OWN = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": np.float32}
# By how much rounding once to its own type changes a number.
ROUNDING = {"float32": 0.0, "float64": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}
# For results that are compared as a whole, without the specified bound for each element.
LOOSE = {"float32": 2e-5, "float64": 1e-12, "float16": 2e-3, "bfloat16": 1.5e-2}
# Rows of a part of a warp, of a warp, of blocks; even and odd; those that registers do not hold.
CLASSES = [1, 2, 10, 31, 33, 100, 1000, 1001, 4096, 8191, 16384, 32769, 50257, 128256]
INF, NAN = np.inf, np.nan


# --- whether there is a GPU, and whose arrays -----------------------------------------------


@functools.cache
def missing():
    """What these tests need and is not there; None if all is. Imports nothing of Numba."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "needs numba-cuda: pip install 'fastxent[cuda13]'"
    try:
        from cuda.bindings import driver

        failed = driver.cuInit(0)[0].value
        _, devices = driver.cuDeviceGetCount()
    except Exception:  # no library of the driver, for which the bindings have errors of their own
        failed, devices = True, 0
    return None if devices and not failed else "needs a CUDA device and its driver"


@pytest.fixture(scope="module", autouse=True)
def gpu():
    if missing():
        pytest.skip(missing())


class CuPy:
    """CuPy's arrays, as tests make them and look into them."""

    kinds = ("float32", "float64", "float16")

    def __init__(self):
        self.module = pytest.importorskip("cupy")

    def put(self, values, kind=None):
        return self.module.asarray(np.asarray(values, kind))

    def host(self, array):
        return self.module.asnumpy(array)


class Numba:
    """Numba's device arrays likewise."""

    kinds = ("float32", "float64", "float16")

    def __init__(self):
        self.module = pytest.importorskip("numba.cuda")

    def put(self, values, kind=None):
        return self.module.to_device(np.ascontiguousarray(values, kind).reshape(np.shape(values)))

    def host(self, array):
        return array.copy_to_host()


class Torch:
    """PyTorch's tensors likewise; bfloat16 looks like float32 on the host."""

    kinds = tuple(KINDS)

    def __init__(self):
        self.module = pytest.importorskip("torch")
        if CUDA == "cuda" and not self.module.cuda.is_available():
            pytest.skip("needs a PyTorch with CUDA")

    def put(self, values, kind=None):
        torch, half = self.module, kind == "bfloat16"
        tensor = torch.from_numpy(np.array(values, np.float32 if half else kind))
        return tensor.to(CUDA, torch.bfloat16 if half else None)

    def host(self, array):
        array = array.detach().cpu()
        return (array.float() if array.dtype is self.module.bfloat16 else array).numpy()


LIBRARIES = {"cupy": CuPy, "numba": Numba, "torch": Torch}
made = functools.cache(lambda name: LIBRARIES[name]())


@pytest.fixture(params=LIBRARIES)
def lib(request):
    """Every library whose arrays stand on a GPU."""
    return made(request.param)


@pytest.fixture(params=KINDS)
def kind(request):
    """Every type of logits that the kernels read."""
    return request.param


@pytest.fixture
def torch():
    return made("torch").module


def library_of(kind):
    """The first library there is with this type, where one speaks for all."""
    for name, library in LIBRARIES.items():
        if kind in library.kinds and (name == "torch" or importlib.util.find_spec(name)):
            return made(name)
    return pytest.skip(f"needs a library with {kind} on the GPU")


@pytest.fixture
def rng(request):
    """New numbers at every run, other ones for every test."""
    print(f"FASTXENT_SEED={SEED}")
    return np.random.default_rng((SEED, zlib.crc32(request.node.name.encode())))


def flat(results):
    """The arrays of a result, of a tuple of them, of a LinearGrad within it."""
    if not isinstance(results, tuple):
        return [] if results is None else [results]
    return [array for part in results for array in flat(part)]


def hosted(lib, results):
    return [lib.host(array) for array in flat(results)]


def same_bits(lib, some, others):
    for one, other in zip(hosted(lib, some), hosted(lib, others), strict=True):
        np.testing.assert_array_equal(one, other)


def agree(lib, got, want, tolerance):
    """Each array near the reference's, by its largest number; inf and nan where it has them."""
    for one, exact in zip(hosted(lib, got), flat(want), strict=True):
        exact = np.asarray(exact)
        finite = np.abs(exact[np.isfinite(exact)])
        atol = tolerance * float(finite.max(initial=0)) / 4
        np.testing.assert_allclose(one.astype(exact.dtype), exact, rtol=tolerance, atol=atol)


class Framed:
    """A buffer full of nan between rows that nobody may touch."""

    def __init__(self, lib, shape, kind, columns=0, pad=0):
        self.lib = lib
        host = np.full((shape[0] + 2, shape[1] + columns + pad), NAN)
        self.inside = np.s_[1:-1, columns : columns + shape[1]]
        host[:] = 7.0
        host[self.inside] = NAN
        self.whole = lib.put(host, kind)
        self.view = self.whole[self.inside]

    def filled(self):
        """What is inside; all of it has been written, and nothing around it."""
        whole = self.lib.host(self.whole).copy()
        inside = whole[self.inside].copy()
        assert not np.isnan(inside).any()
        whole[self.inside] = 7.0
        assert np.all(whole == 7.0)
        return inside


# --- every function, whosever the arrays are ------------------------------------------------


def calls(rng, n, c):
    """Every public function by its name: arguments, and options that ask for all it gives."""
    x, y = 3 * rng.standard_normal((n, c)), rng.integers(0, c, n)
    q = rng.dirichlet(np.ones(c), n)
    w, u = rng.uniform(0.5, 2, c), rng.integers(0, 3, n) / 2 + 0.5
    hard = rng.integers(0, 2, (n, c)).astype(float)
    every = {
        f"return_{name}": True for name in ("grad", "probs", "lse", "hess", "argmax", "entropy")
    }
    binary = {f"return_{name}": True for name in ("grad", "probs", "hess")}
    linear = {f"return_{name}": True for name in ("grad", "lse", "argmax", "entropy")}
    features, matrix = rng.standard_normal((n, 8)), rng.standard_normal((c, 8))
    ignored, v = np.where(np.arange(n) % 3 == 1, -100, y), rng.standard_normal((n, c))
    parts = rng.standard_normal((n, 8)), rng.standard_normal((c, 8)), None
    return {
        "softmax": ("softmax", (x,), {}),
        "log_softmax": ("log_softmax", (x,), {"axis": 0}),
        "logsumexp": ("logsumexp", (x,), {"keepdims": True}),
        "indices": ("cross_entropy", (x, ignored), every),
        "by row": ("cross_entropy", (x, y), {"reduction": "none", **every}),
        "weights": ("cross_entropy", (x, ignored), {"weight": w, "sample_weight": u, **every}),
        "smoothing": ("cross_entropy", (x, y), {"label_smoothing": 0.1, "z_loss": 1e-2, **every}),
        "scale": ("cross_entropy", (x, y), {"logit_scale": -0.7, **every}),
        "softcap": ("cross_entropy", (x, y), {"softcap": 4.0, "logit_scale": 1.5, **every}),
        "normalizer": ("cross_entropy", (x, y), {"normalizer": np.float32(37.0), **every}),
        "probabilities": ("cross_entropy", (x, q), {"weight": w, "label_smoothing": 0.1, **every}),
        "one-hot": ("cross_entropy", (x, np.eye(c)[y]), {"sample_weight": u, **every}),
        "uint8": ("cross_entropy", (x, (y % 200).astype(np.uint8)), every),
        "int32": ("cross_entropy", (x, y.astype(np.int32)), {"reduction": "sum", **every}),
        "categorical": ("categorical_cross_entropy", (q, y), {"weight": w, "return_grad": True}),
        "categorical, soft": (
            "categorical_cross_entropy", (q, q[::-1]), {"eps": 1e-3, "return_grad": True}),
        "binary": ("binary_cross_entropy", (q, hard), {"weight": w, "return_grad": True}),
        "binary, eps": ("binary_cross_entropy", (q, hard), {"eps": 1e-3, "return_grad": True}),
        "binary of logits": (
            "binary_cross_entropy_with_logits", (x, hard), {"pos_weight": w, **binary}),
        "binary by element": (
            "binary_cross_entropy_with_logits", (x, hard), {"reduction": "none", **binary}),
        "entropy": ("entropy", (x,), {"return_grad": True}),
        "product": ("cross_entropy_hvp", (x, ignored, v), {}),
        "product, options": ("cross_entropy_hvp", (x, y, v), {
            "weight": w, "label_smoothing": 0.1, "z_loss": 1e-2, "softcap": 4.0}),
        "product, probabilities": ("cross_entropy_hvp", (x, q, v), {"sample_weight": u}),
        "product, binary": (
            "binary_cross_entropy_with_logits_hvp", (x, hard, v), {"pos_weight": w}),
        "product, linear": ("linear_cross_entropy_hvp", (features, matrix, ignored, parts), {}),
        "linear": ("linear_cross_entropy", (features, matrix, ignored), linear),
        "linear, bias": (
            "linear_cross_entropy", (features, matrix, q), {"linear_bias": w, **linear}),
    }  # fmt: skip


CALLS = list(calls(np.random.default_rng(0), 3, 3))


def given_to(lib, kind, args, options):
    """The arrays of a call on the GPU, floats in this type; and as the reference gets them."""

    def put(value):
        if isinstance(value, tuple):
            return tuple(map(put, value))
        if not isinstance(value, (np.ndarray, np.floating)):
            return value
        # A number beside the arrays keeps its type.
        return lib.put(value, kind if value.ndim and value.dtype.kind == "f" else None)

    def exact(value):
        if isinstance(value, tuple):
            return tuple(map(exact, value))
        array = lib.host(value) if type(value) is type(there[0]) else value
        return (
            array.astype(np.float64)
            if getattr(array, "dtype", np.int8().dtype).kind == "f"
            else array
        )

    there = [put(value) for value in args]
    beside = {name: put(value) for name, value in options.items()}
    return there, beside, list(map(exact, there)), {n: exact(v) for n, v in beside.items()}


@pytest.mark.parametrize("name", CALLS)
def test_small_every_function(lib, kind, name, rng):
    """The library's own arrays come back, in the specified types, with the reference's numbers."""
    if kind not in lib.kinds:
        pytest.skip(f"this library has no {kind}")
    for n, c in ((7, 19), (5, 133)):
        function, args, options = calls(rng, n, c)[name]
        there, beside, exact, its_options = given_to(lib, kind, args, options)
        if function.startswith("linear") and isinstance(lib, Numba):
            with pytest.raises(TypeError, match="CuPy|PyTorch"):  # who has products of matrices
                getattr(fx, function)(*there, **beside)
            continue
        got = getattr(fx, function)(*there, **beside)
        want = getattr(reference, function)(*exact, **its_options)
        assert all(type(array) is type(there[0]) for array in flat(got))
        own = str(there[0].dtype).removeprefix("torch.")
        loss = "float32" if own != "float64" else own
        types = [str(array.dtype).removeprefix("torch.") for array in flat(got)]
        is_loss = "entropy" in function and not function.endswith("hvp")
        assert types[0] == (loss if is_loss else own)
        assert set(types[1:]) <= {own, loss, "int64"}
        products = 4 if function.startswith("linear") else 1
        agree(lib, got, want, products * LOOSE[kind])


def test_small_buffers_are_filled_and_returned(lib, kind, rng):
    """Poisoned buffers come back full, the rows around them untouched; so does the array itself."""
    if kind not in lib.kinds:
        pytest.skip(f"this library has no {kind}")
    for n, c in ((5, 3), (6, 31), (4, 257)):
        x, y = lib.put(rng.standard_normal((n, c)), kind), lib.put(rng.integers(0, c, n))
        want = fx.cross_entropy(x, y, return_grad=True, return_probs=True)
        frames = [Framed(lib, (n, c), kind) for _ in range(3)]
        loss, grad, probs = fx.cross_entropy(
            x, y, grad_out=frames[0].view, probs_out=frames[1].view
        )
        assert grad is frames[0].view and probs is frames[1].view
        # Rows that begin elsewhere are shared out among threads in another way: not the same bits.
        exact = [array.astype(np.float64) for array in hosted(lib, want)]
        agree(lib, loss, exact[0], LOOSE["float32"])
        for frame, array in zip(frames, exact[1:], strict=False):
            agree(lib, lib.put(frame.filled(), kind), array, LOOSE[kind])
        assert fx.softmax(x, out=frames[2].view) is frames[2].view
        agree(lib, lib.put(frames[2].filled(), kind), exact[2], LOOSE[kind])
        _, grad = fx.cross_entropy(x, y, grad_out=x)
        assert grad is x
        agree(lib, grad, exact[1], LOOSE[kind])


# --- accuracy -------------------------------------------------------------------------------


def some_rows(rng, classes):
    """Spreads of 1, 10 and 30; rows that are constant but for one class; all equal."""
    rows = rng.uniform(-1, 1, (8, classes)) * np.array([1, 1, 10, 10, 30, 30, 8, 5])[:, None]
    rows[6] = -8 / 3
    rows[6, classes // 2] = 8 / 7
    rows[7] = 5
    return rows


@pytest.mark.parametrize("classes", CLASSES)
def test_rows_within_bounds(kind, classes, rng):
    """Loss, gradient, probabilities and logarithms: each element within the specified bound."""
    lib, compute = library_of(kind), COMPUTE[kind]
    x = lib.put(some_rows(rng, classes), kind)
    exact = lib.host(x).astype(np.longdouble)
    n = len(exact)
    labels = np.where(np.arange(n) % 2, exact.argmax(-1), rng.integers(0, classes, n))
    y, at = lib.put(labels), (np.arange(n), labels)
    ask = {"reduction": "none", "return_grad": True, "return_probs": True, "return_lse": True}
    want, want_grad, want_probs, want_lse = reference.cross_entropy(exact, labels, **ask)
    bounds, rounding = GpuBounds(exact, compute), ROUNDING[kind]
    m = exact.max(-1, keepdims=True)
    where = normal(np.exp(exact - m), compute) & normal(want_probs, OWN[kind])
    to_lse = bounds.lse() * np.maximum(np.abs(m[:, 0]), np.abs(want_lse - m[:, 0]))
    others = normal(want_grad, OWN[kind]) & where
    others[at] = False

    frame = Framed(lib, exact.shape, kind)
    alone = fx.cross_entropy(x, y, reduction="none", grad_out=frame.view)
    together = fx.cross_entropy(x, y, **ask)
    for loss, grad in ((alone[0], frame.filled()), (together[0], lib.host(together[1]))):
        loss = lib.host(loss)
        assert worst(loss, want, bounds.log_probs()[at], normal(want, compute)) <= 1
        assert worst(grad, want_grad, bounds.probs() + rounding, others) <= 1
        here = normal(want_grad[at], OWN[kind])
        bound = bounds.grad_at_target()[at] + rounding
        assert worst(grad[at], want_grad[at], bound, here) <= 1
    _, _, probs, lse = hosted(lib, together)
    assert worst(probs, want_probs, bounds.probs() + rounding, where) <= 1
    assert np.all(np.abs(lse - want_lse) <= to_lse)

    frame = Framed(lib, exact.shape, kind)
    fx.softmax(x, out=frame.view)
    assert worst(frame.filled(), want_probs, bounds.probs() + rounding, where) <= 1
    frame, logs = Framed(lib, exact.shape, kind), reference.log_softmax(exact)
    fx.log_softmax(x, out=frame.view)
    here = normal(logs, OWN[kind])
    assert worst(frame.filled(), logs, bounds.log_probs() + rounding, here) <= 1
    error = np.abs(lib.host(fx.logsumexp(x)) - want_lse)
    assert np.all(error <= to_lse + rounding * np.abs(want_lse))


@pytest.mark.parametrize("classes", CLASSES)
def test_products_within_bounds(kind, classes, rng):
    """Hessian-vector products, apart and over either input, relative to their absolute terms."""
    lib, compute = library_of(kind), COMPUTE[kind]
    x = lib.put(some_rows(rng, classes), kind)
    v = lib.put(rng.standard_normal((8, classes)), kind)
    exact, vector = (lib.host(a).astype(np.longdouble) for a in (x, v))
    labels = np.where(np.arange(8) % 2, exact.argmax(-1), rng.integers(0, classes, 8))
    y = lib.put(labels)
    want, p = reference.cross_entropy_hvp(exact, labels, vector), reference.softmax(exact)
    u = np.abs(vector - np.take_along_axis(vector, exact.argmax(-1)[:, None], -1))
    terms = p * (u + (p * u).sum(-1, keepdims=True)) / 8
    share = GpuBounds(exact, compute).probs()
    # Each element has its own share of the sum over all classes, each term that of its class.
    allowed = share * terms + p * (share * p * u).sum(-1, keepdims=True) / 8
    allowed += ROUNDING[kind] * np.abs(want)
    where = normal(terms, compute) & (normal(want, OWN[kind]) | (want == 0))
    results = [lib.host(fx.cross_entropy_hvp(x, y, v))]
    for over in range(2):
        arrays = [lib.put(lib.host(a), kind) for a in (x, v)]
        fx.cross_entropy_hvp(arrays[0], y, arrays[1], out=arrays[over])
        results.append(lib.host(arrays[over]))
    for product in results:
        assert np.all((np.abs(product - want) <= allowed) | ~where)
        np.testing.assert_array_equal(product, results[0])


@pytest.mark.parametrize("classes", CLASSES)
def test_entropy_within_bounds(kind, classes, rng):
    """Entropy and its gradient, apart and in place, relative to their absolute terms."""
    lib, compute = library_of(kind), COMPUTE[kind]
    x = lib.put(some_rows(rng, classes), kind)
    exact = lib.host(x).astype(np.longdouble)
    want, want_grad = reference.entropy(exact, return_grad=True)
    bounds, p = GpuBounds(exact, compute), reference.softmax(exact)
    costs = np.abs(reference.log_softmax(exact))
    allowed = ((bounds.probs() + bounds.lse()) * p * costs).sum(-1)
    terms = p * (costs + want[:, None])
    share = bounds.probs()  # as in a product
    allowed_grad = share * terms + p * (share * p * costs).sum(-1, keepdims=True)
    allowed_grad += ROUNDING[kind] * np.abs(want_grad)
    where = normal(terms, compute) & (normal(want_grad, OWN[kind]) | (want_grad == 0))
    for out in ({"return_grad": True}, {"grad_out": x}):
        H, grad = hosted(lib, fx.entropy(x, **out))
        assert np.all(np.abs(H - want) <= allowed)
        assert np.all((np.abs(grad - want_grad) <= allowed_grad) | ~where)


@pytest.mark.parametrize("clusters", [True, False])
@pytest.mark.parametrize("classes", [20000, 32769, 50257, 128256, 300_001])
def test_many_long_rows(kind, classes, clusters, rng, monkeypatch):
    """So many that none has several blocks but those of a cluster: each as its like, within bounds.

    Over the logits too, where blocks must not write before others have read.
    """
    long_rows(kind, classes, 20, clusters, rng, monkeypatch)


@pytest.mark.parametrize("clusters", [True, False])
def test_small_long_rows(clusters, rng, monkeypatch):
    """The same of few elements."""
    long_rows("float32", 32769, 9, clusters, rng, monkeypatch)


def long_rows(kind, classes, times, clusters, rng, monkeypatch):
    from fastxent.arrays import plans
    from fastxent.cuda import thread_plans

    plans.clear()
    monkeypatch.setattr(thread_plans, "parts_of", lambda plan, item, rows, n, place: (1, n))
    if not clusters:
        monkeypatch.setattr(thread_plans, "clustered", lambda plan, *_: plan)
    lib, compute = library_of(kind), COMPUTE[kind]
    rows = some_rows(rng, classes)
    x = lib.put(np.tile(rows, (times, 1)), kind)
    exact = lib.host(x)[: len(rows)].astype(np.longdouble)
    labels = np.where(np.arange(len(rows)) % 2, exact.argmax(-1), rng.integers(0, classes, 8))
    y, at = lib.put(np.tile(labels, times)), (np.arange(len(rows)), labels)
    ask = {"reduction": "none", "return_grad": True}
    want, want_grad = reference.cross_entropy(exact, labels, **ask)
    bounds, rounding = GpuBounds(exact, compute), ROUNDING[kind]
    m = exact.max(-1, keepdims=True)
    others = normal(want_grad, OWN[kind]) & normal(np.exp(exact - m), compute)
    others[at] = False
    for result in (fx.cross_entropy(x, y, **ask), fx.cross_entropy(x, y, **ask, grad_out=x)):
        loss, grad = (a.reshape(times, len(rows), -1) for a in hosted(lib, result))
        assert (loss == loss[:1]).all() and (grad == grad[:1]).all()
        assert worst(loss[0, :, 0], want, bounds.log_probs()[at], normal(want, compute)) <= 1
        assert worst(grad[0], want_grad, bounds.probs() + rounding, others) <= 1
        here = normal(want_grad[at], OWN[kind])
        assert worst(grad[0][at], want_grad[at], bounds.grad_at_target()[at] + rounding, here) <= 1
    plans.clear()


OPTIONS = {
    "weights": {"weight": True, "sample_weight": True},
    "smoothing": {"weight": True, "label_smoothing": 0.1},
    "z-loss": {"z_loss": 1e-3},
    "scale": {"logit_scale": 0.3},
    "negative scale": {"logit_scale": -1.3},
    "softcap": {"softcap": 5.0},
    "probabilities": {"soft": True},
    "smooth probabilities": {"soft": True, "weight": True, "label_smoothing": 0.2},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("classes", [10, 1001, 8191, 50257])
def test_options_at_every_width(kind, classes, options, rng):
    """Other terms of the loss: relative to the absolute terms that a gradient is the sum of."""
    lib, options = library_of(kind), OPTIONS[options].copy()
    x = lib.put(some_rows(rng, classes), kind)
    exact = lib.host(x).astype(np.float64)
    n, target = len(exact), rng.integers(0, classes, len(exact))
    if options.pop("soft", False):
        target = lib.host(lib.put(rng.dirichlet(np.ones(classes), n), kind)).astype(np.float64)
    for name, length in (("weight", classes), ("sample_weight", n)):
        if name in options:
            options[name] = rng.integers(1, 4, length) / 2
    there = {name: lib.put(v) if isinstance(v, np.ndarray) else v for name, v in options.items()}
    y = lib.put(target, kind if target.ndim == 2 else None)
    ask = {"return_grad": True, "return_probs": True, "reduction": "none"}
    loss, grad, probs = hosted(lib, fx.cross_entropy(x, y, **there, **ask))
    want, want_grad, p = reference.cross_entropy(exact, target, **options, **ask)
    tolerance = 1e-12 if kind == "float64" else 2e-5
    own = tolerance + 2 * ROUNDING[kind]
    np.testing.assert_allclose(loss, want, rtol=tolerance, atol=tolerance / 10)
    smallest = np.finfo(OWN[kind]).tiny
    np.testing.assert_allclose(probs, p, rtol=own, atol=smallest)
    allowed = own * np.abs(want_grad) + tolerance * 10 * p + smallest
    assert np.all(np.abs(grad - want_grad) <= allowed)


@pytest.mark.parametrize("scale", [1 / 3, 0.7, 7.3, 100.0])
@pytest.mark.parametrize("classes", [10, 1001, 50257])
def test_logit_scale_within_the_bounds(kind, classes, scale, rng):
    """Those of the scaled logits: a scale adds nothing to the error of the GPU's exp."""
    lib, compute = library_of(kind), COMPUTE[kind]
    x = lib.put(some_rows(rng, classes) / scale, kind)
    exact = lib.host(x).astype(np.longdouble)
    labels = np.where(np.arange(len(exact)) % 2, exact.argmax(-1), rng.integers(0, classes, 8))
    ask = {"reduction": "none", "return_grad": True, "return_probs": True, "logit_scale": scale}
    loss, grad, probs = hosted(lib, fx.cross_entropy(x, lib.put(labels), **ask))
    want, want_grad, p = reference.cross_entropy(exact, labels, **ask)
    bounds, rounding = GpuBounds(exact * np.longdouble(scale), compute), ROUNDING[kind]
    at, others = (np.arange(len(exact)), labels), normal(want_grad, OWN[kind])
    others[at] = False
    assert worst(probs, p, bounds.probs() + rounding, normal(p, OWN[kind])) <= 1
    assert worst(loss, want, bounds.log_probs()[at], normal(want, compute)) <= 1
    assert worst(grad, want_grad, bounds.probs() + rounding, others) <= 1
    here = normal(want_grad[at], OWN[kind])
    assert worst(grad[at], want_grad[at], bounds.grad_at_target()[at] + rounding, here) <= 1


@pytest.mark.parametrize("classes", [2, 33, 1000, 50257])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_confident_rows_down_to_1e_30(kind, classes, rng):
    """Loss and gradient of p_y = 1 - δ are δ, not 0: within 1e-5, and 1e-12 in float64."""
    lib = library_of(kind)
    deltas = np.array([1e-3, 1e-8, 1e-12, 1e-20, 1e-30])
    x = np.repeat(np.log(deltas / (classes - 1))[:, None], classes, 1)
    labels = rng.integers(0, classes, len(deltas))
    at = (np.arange(len(deltas)), labels)
    x[at] = 0
    there = lib.put(x, kind)
    exact = lib.host(there).astype(np.longdouble)
    ask = {"reduction": "none", "return_grad": True}
    loss, grad = hosted(lib, fx.cross_entropy(there, lib.put(labels), **ask))
    want, want_grad = reference.cross_entropy(exact, labels, **ask)
    np.testing.assert_allclose(want.astype(float), deltas, rtol=1e-2)
    tolerance = 1e-5 if kind == "float32" else 1e-12
    for got, exactly in ((loss, want), (grad[at], want_grad[at])):
        np.testing.assert_allclose(got, exactly.astype(float), rtol=tolerance)


@pytest.mark.parametrize("classes", [10, 1000, 50257])
def test_a_shared_offset_changes_nothing(kind, classes, rng):
    """Logits + 1e7, or the most that a half type holds beside them exactly: the same bits."""
    lib, offset = library_of(kind), {"float16": 1024.0, "bfloat16": 128.0}.get(kind, 1e7)
    rows, labels = rng.integers(0, 8, (6, classes)), lib.put(rng.integers(0, classes, 6))
    ask = {"reduction": "none", "return_grad": True}
    plain = fx.cross_entropy(lib.put(rows, kind), labels, **ask)
    same_bits(lib, plain, fx.cross_entropy(lib.put(rows + offset, kind), labels, **ask))


# --- corners --------------------------------------------------------------------------------


SPECIAL = np.array(list(itertools.product([0.0, 1.5, -INF, INF, NAN], repeat=3)))


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.3}, {"softcap": 2.0},
                                     {"logit_scale": -2.0}, {"z_loss": 0.1}], ids=str)  # fmt: skip
@pytest.mark.parametrize(
    ("width", "fill"), [(3, 0.0), (19, -INF), (40, -2.0), (1003, 0.5), (20011, -INF), (40003, 0.5)]
)
@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16"])
def test_every_row_of_special_values(kind, width, fill, options):
    """The corner table: rows over {0, 1.5, -inf, inf, nan} beside the reference, and no warning."""
    lib = library_of(kind)
    logits = np.full((len(SPECIAL), width), fill)
    logits[:, -3:] = SPECIAL
    x = lib.put(logits, kind)
    ask = {f"return_{name}": True for name in ("grad", "probs", "lse", "hess", "argmax")}
    tolerance = LOOSE[kind] + 1e-5
    for target in (width - 3, width - 1, 0):
        labels = np.full(len(SPECIAL), target)
        got = fx.cross_entropy(x, lib.put(labels), reduction="none", **ask, **options)
        want = reference.cross_entropy(logits, labels, reduction="none", **ask, **options)
        names = ("loss", "grad", "probs", "lse", "hess", "argmax")
        for name, one, other in zip(names, hosted(lib, got), want, strict=True):
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=1e-6, err_msg=name)
        alone = fx.cross_entropy(x, lib.put(labels), reduction="none", return_grad=True, **options)
        for one, other in zip(hosted(lib, alone), want, strict=False):
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=1e-6)
    for name in ("softmax", "log_softmax", "logsumexp"):
        one, other = lib.host(getattr(fx, name)(x)), getattr(reference, name)(logits)
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=1e-6, err_msg=name)


def test_small_bad_rows_do_not_touch_others(lib, rng):
    """The bits of other rows do not depend on one that holds nan or an infinity."""
    for classes, bad in itertools.product((21, 300, 5000), (-INF, INF, NAN)):
        logits, labels = rng.standard_normal((6, classes)), lib.put(rng.integers(0, classes, 6))
        spoilt = logits.copy()
        spoilt[2] = bad
        ask = {"reduction": "none", "return_grad": True, "return_probs": True}
        clean, found = (
            hosted(lib, fx.cross_entropy(lib.put(x, "float32"), labels, **ask))
            for x in (logits, spoilt)
        )
        for one, other in zip(clean, found, strict=True):
            np.testing.assert_array_equal(np.delete(one, 2, 0), np.delete(other, 2, 0))
            assert np.isnan(other[2]).all()


def test_small_ignored_rows_are_zero_whatever_they_hold(lib, rng):
    """Loss and gradient exactly 0 under nan, by ignore_index and by a weight of 0."""
    for classes in (7, 300, 20011):
        logits, labels = rng.standard_normal((5, classes)), rng.integers(0, classes, 5)
        logits[1], logits[3] = NAN, INF
        labels[1] = -100
        u = np.array([1.0, 1, 2, 0, 1])
        ask = {"sample_weight": u, "return_grad": True}
        given = ask | {"sample_weight": lib.put(u, "float32")}
        frame = Framed(lib, logits.shape, "float32")
        x, y = lib.put(logits, "float32"), lib.put(labels)
        loss, _ = fx.cross_entropy(x, y, **given, grad_out=frame.view)
        want, want_grad = reference.cross_entropy(lib.host(x), labels, **ask)
        grad = frame.filled()
        np.testing.assert_allclose(lib.host(loss), want, rtol=2e-6)
        np.testing.assert_allclose(grad, want_grad, rtol=2e-5, atol=1e-9)
        assert not grad[1].any() and not grad[3].any()


def test_small_a_divisor_of_zero(lib, rng):
    """A mean over nothing is nan and does not move."""
    x, nobody = lib.put(rng.standard_normal((4, 50)), "float32"), lib.put(np.full(4, -100))
    loss, grad = hosted(lib, fx.cross_entropy(x, nobody, return_grad=True))
    assert np.isnan(loss) and not grad.any()
    loss, grad = hosted(lib, fx.cross_entropy(x, nobody, reduction="sum", return_grad=True))
    assert loss == 0 and not grad.any()
    y = lib.put(rng.integers(0, 50, 4))
    loss, grad = hosted(lib, fx.cross_entropy(x, y, normalizer=0.0, return_grad=True))
    assert np.isnan(loss) and not grad.any()
    empty, none = lib.put(np.zeros((0, 50)), "float32"), lib.put(np.zeros(0, np.int64))
    loss, grad = fx.cross_entropy(empty, none, return_grad=True)
    assert np.isnan(lib.host(loss)) and tuple(grad.shape) == (0, 50)
    assert float(lib.host(fx.cross_entropy(empty, none, reduction="sum"))) == 0
    with pytest.raises(ValueError, match="logits"):
        fx.cross_entropy(lib.put(np.zeros((3, 0)), "float32"), lib.put(np.zeros(3, np.int64)))
    lse = lib.host(fx.logsumexp(lib.put(np.zeros((3, 0)), "float32")))
    np.testing.assert_array_equal(lse, np.full(3, -INF))


@pytest.mark.parametrize(
    ("label", "integers"),
    [(-1, np.int64), (50, np.int64), (-7, np.int8), (200, np.uint8), (2**31 - 1, np.int32)],
)
def test_small_bad_labels(lib, label, integers, rng):
    """The first bad row and its value are named, nothing is written, and the context lives on."""
    logits = rng.standard_normal((9, 50))
    labels = rng.integers(0, 50, 9).astype(integers)
    good = labels.copy()
    labels[[4, 7]] = label
    x, y, poison = (
        lib.put(logits, "float32"),
        lib.put(labels),
        lib.put(np.full((9, 50), NAN), "float32"),
    )
    for options in ({}, {"reduction": "none"}, {"weight": lib.put(np.ones(50), "float32")}):
        with pytest.raises(IndexError, match=rf"target\[4\].*got {label}$"):
            fx.cross_entropy(x, y, grad_out=poison, **options)
        assert np.isnan(lib.host(poison)).all()
    loss, grad = hosted(
        lib, fx.cross_entropy(x, y, reduction="none", check_target=False, return_grad=True)
    )
    bad = np.isin(np.arange(9), [4, 7])
    assert np.isnan(loss[bad]).all() and np.isnan(grad[bad]).all()
    assert np.isfinite(loss[~bad]).all() and np.isfinite(grad[~bad]).all()
    want = reference.cross_entropy(lib.host(x), good)
    np.testing.assert_allclose(lib.host(fx.cross_entropy(x, lib.put(good))), want, rtol=1e-6)


def test_small_a_target_in_host_memory(lib, rng):
    """Nothing is copied to the GPU unasked."""
    x, labels = lib.put(rng.standard_normal((4, 5)), "float32"), rng.integers(0, 5, 4)
    near = labels
    if isinstance(lib, Torch):
        near = lib.module.from_numpy(labels)
    with pytest.raises(TypeError, match="target"):
        fx.cross_entropy(x, near)
    with pytest.raises(TypeError, match="weight"):
        fx.cross_entropy(x, lib.put(labels), weight=np.ones(5, np.float32))
    with pytest.raises(ValueError, match="grad_out"):
        fx.cross_entropy(x, lib.put(labels), grad_out=lib.put(np.zeros((4, 6)), "float32"))


# --- memory as it lies ----------------------------------------------------------------------


@pytest.mark.parametrize("classes", [5, 31, 1001, 4097, 33001])
def test_rows_that_begin_anywhere(kind, classes, rng):
    """Views from an odd element on, rows further apart than they are long, gradients elsewhere."""
    lib, n = library_of(kind), 5
    labels = rng.integers(0, classes, n)
    y = lib.put(labels)
    for first, pad, to, to_pad in (
        (1, 0, 1, 0),
        (3, 5, 3, 5),
        (1, 2, 2, 1),
        (0, 1, 0, 0),
        (5, 3, 5, 0),
    ):
        whole = lib.put(rng.standard_normal((n + 2, first + classes + pad)), kind)
        x = whole[1:-1, first : first + classes]
        exact = lib.host(whole)[1:-1, first : first + classes].astype(np.float64)
        want, want_grad = reference.cross_entropy(exact, labels, return_grad=True)
        frame = Framed(lib, (n, classes), kind, to, to_pad)
        loss, _ = fx.cross_entropy(x, y, grad_out=frame.view)
        np.testing.assert_allclose(lib.host(loss), want, rtol=max(1e-12, LOOSE["float32"]))
        agree(lib, lib.put(frame.filled(), kind), want_grad, LOOSE[kind])
        frame = Framed(lib, (n, classes), kind, to, to_pad)
        fx.softmax(x, out=frame.view)
        agree(lib, lib.put(frame.filled(), kind), reference.softmax(exact), LOOSE[kind])
        _, grad = fx.cross_entropy(x, y, grad_out=x)
        agree(
            lib,
            lib.put(lib.host(whole)[1:-1, first : first + classes], kind),
            want_grad,
            LOOSE[kind],
        )


def test_small_classes_along_another_axis(lib, kind, rng):
    """(N, C, H, W) with axis=1, every other row, and an axis turned round where views can be."""
    if kind not in lib.kinds:
        pytest.skip(f"this library has no {kind}")
    x = lib.put(rng.standard_normal((2, 11, 3, 5)), kind)
    exact, labels = lib.host(x).astype(np.float64), rng.integers(0, 11, (2, 3, 5))
    got = fx.cross_entropy(x, lib.put(labels), axis=1, return_grad=True, return_lse=True)
    want = reference.cross_entropy(exact, labels, axis=1, return_grad=True, return_lse=True)
    agree(lib, got, want, LOOSE[kind])
    agree(lib, fx.softmax(x, axis=1), reference.softmax(exact, axis=1), LOOSE[kind])
    x = lib.put(rng.standard_normal((12, 37)), kind)
    exact, labels = lib.host(x)[::2].astype(np.float64), rng.integers(0, 37, 6)
    agree(lib, fx.cross_entropy(x[::2], lib.put(labels), return_grad=True),
          reference.cross_entropy(exact, labels, return_grad=True), LOOSE[kind])  # fmt: skip
    if not isinstance(lib, Numba):
        labels = rng.integers(0, 12, 37)
        agree(lib, fx.cross_entropy(x.T, lib.put(labels), return_grad=True),
              reference.cross_entropy(lib.host(x).T.astype(np.float64), labels, return_grad=True),
              LOOSE[kind])  # fmt: skip


def needs_memory(torch, n_bytes):
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < n_bytes:
        pytest.skip(f"needs {n_bytes / 1e9:.0f} GB of GPU memory")


def sampled(torch, x, labels, picks):
    """Mean loss and gradient in place, and the picked rows beside the reference."""
    before = {i: x[i].double().cpu().numpy() for i in picks}
    fx.cross_entropy(x, labels, reduction="sum", grad_out=x)
    for i, row in before.items():
        _, want = reference.cross_entropy(row, int(labels[i]), return_grad=True)
        np.testing.assert_allclose(x[i].double().cpu().numpy(), want, rtol=1e-2, atol=1e-6)
    assert bool(torch.isfinite(x.sum(-1, dtype=torch.float32)).all())


@pytest.mark.parametrize(
    ("rows", "classes"), [(70_000, 32_768), (65_537, 32_771), (17_000, 128_257)]
)
def test_more_than_two_billion_elements(torch, rows, classes):
    """Rows behind element 2³¹ are found, also where they begin anywhere."""
    needs_memory(torch, rows * classes * 2.5)
    x = torch.empty((rows, classes), dtype=torch.bfloat16, device=CUDA).normal_()
    labels = torch.randint(classes, (rows,), device=CUDA)
    behind = 2**31 // classes
    sampled(torch, x, labels, [0, rows // 2, behind - 1, behind, behind + 1, rows - 1])


def test_more_than_two_billion_elements_of_a_binary_loss(torch):
    """Likewise where an array is dealt out without rows."""
    n = 2**31 + 12_345
    needs_memory(torch, n * 4.5)
    x = torch.empty(n, dtype=torch.bfloat16, device=CUDA).normal_()
    y = torch.ones_like(x)
    last = x[-5:].double().cpu().numpy()
    loss, _ = fx.binary_cross_entropy_with_logits(x, y, grad_out=x)
    np.testing.assert_allclose(float(loss), 0.8061, rtol=1e-3)  # E log(1 + exp(-x)), x normal
    want = -1 / (1 + np.exp(last)) / n
    np.testing.assert_allclose(x[-5:].double().cpu().numpy(), want, rtol=1e-2)


def test_no_hidden_memory(torch):
    """A call holds O(N) beyond what it returns; in place it holds nothing else."""
    x = torch.randn((4096, 16384), device=CUDA)
    labels, grad = torch.randint(16384, (4096,), device=CUDA), torch.empty_like(x)
    for options in ({"grad_out": grad}, {"grad_out": x}, {}):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        fx.cross_entropy(x, labels, **options)
        assert torch.cuda.max_memory_allocated() - before < 64 * 4096


# --- streams, graphs, threads ---------------------------------------------------------------


def test_same_bits_on_every_run(kind, rng):
    """Of rows, and of sums over few and over many of them."""
    lib = library_of(kind)
    for n, classes in ((10_007, 33), (300, 8191), (7, 128256)):
        x = lib.put(rng.standard_normal((n, classes)), kind)
        y, u = lib.put(rng.integers(0, classes, n)), lib.put(rng.uniform(0, 2, n), "float32")
        ask = {"sample_weight": u, "return_grad": True, "return_lse": True, "label_smoothing": 0.1}
        first = fx.cross_entropy(x, y, **ask)
        for _ in range(2):
            same_bits(lib, first, fx.cross_entropy(x, y, **ask))
        hard = lib.put(rng.integers(0, 2, (n, classes)), kind)
        first = fx.binary_cross_entropy_with_logits(x, hard, return_grad=True)
        same_bits(lib, first, fx.binary_cross_entropy_with_logits(x, hard, return_grad=True))


def test_small_a_cached_plan(lib, rng):
    """A repeated call gives the bits of a first one: on other arrays, and with bad labels."""
    from fastxent.arrays import plans

    def called(x, y, q, u):
        return (
            fx.softmax(x),
            *fx.cross_entropy(x, y, sample_weight=u, return_grad=True, return_lse=True),
            *fx.cross_entropy(x, q, label_smoothing=0.1, reduction="none", return_argmax=True),
            *fx.binary_cross_entropy_with_logits(x, q, return_grad=True),
        )

    def put():
        x, q = rng.standard_normal((50, 301)), rng.dirichlet(np.ones(301), 50)
        y, u = rng.integers(0, 301, 50), rng.uniform(0, 2, 50)
        return lib.put(x, "float32"), lib.put(y), lib.put(q, "float32"), lib.put(u, "float32")

    plans.clear()
    sets = [put() for _ in range(3)]
    again = [called(*arrays) for arrays in sets]
    assert any(plans._plans.values())
    for arrays, got in zip(sets, again, strict=True):
        plans.clear()
        same_bits(lib, called(*arrays), got)
    x, y = sets[0][:2]
    for bad in (301, 0, -1):
        y[7:8] = lib.put(np.array([bad]))
        if bad:
            with pytest.raises(IndexError, match=r"target\[7\]"):
                fx.cross_entropy(x, y, return_grad=True)
        else:
            fx.cross_entropy(x, y, return_grad=True)


def test_work_follows_its_producer_on_each_stream(torch, rng):
    """Two streams whose inputs are still being made: each result is of what was made there."""
    lib = made("torch")
    source, y = (
        lib.put(rng.standard_normal((64, 5000)), "float32"),
        lib.put(rng.integers(0, 5000, 64)),
    )
    want = fx.cross_entropy(source, y, return_grad=True)
    streams, results = [torch.cuda.Stream() for _ in range(2)], []
    torch.cuda.synchronize()
    for stream, check in itertools.product(streams, (False, True)):
        with torch.cuda.stream(stream):
            x = torch.zeros_like(source)
            torch.cuda._sleep(20_000_000)
            x.copy_(source)
            results.append(fx.cross_entropy(x, y, return_grad=True, check_target=check))
    torch.cuda.synchronize()
    for result in results:
        same_bits(lib, want, result)


def test_cupy_streams_too(rng):
    """The stream is CuPy's current one, where its arrays are made."""
    lib = made("cupy")
    source, y = (
        lib.put(rng.standard_normal((64, 5000)), "float32"),
        lib.put(rng.integers(0, 5000, 64)),
    )
    want = fx.cross_entropy(source, y, return_grad=True)
    stream = lib.module.cuda.Stream(non_blocking=True)
    with stream:
        x = lib.module.zeros_like(source)
        for _ in range(50):
            x += 1  # something to wait for
        x[...] = source
        result = fx.cross_entropy(x, y, return_grad=True, check_target=False)
    stream.synchronize()
    same_bits(lib, want, result)


def test_nothing_waits_for_the_gpu(torch, rng):
    """Without the check of labels a call is back while the GPU is still at what came before."""
    x = torch.randn((32, 1000), device=CUDA)
    y = torch.randint(1000, (32,), device=CUDA)
    fx.cross_entropy(x, y, check_target=False, return_grad=True)  # compiled and loaded now
    torch.cuda.synchronize()
    before = torch.cuda.Event()
    torch.cuda._sleep(2_000_000_000)
    before.record()
    fx.cross_entropy(x, y, check_target=False, return_grad=True)
    assert not before.query()
    torch.cuda.synchronize()


def test_graphs_are_recorded_and_replayed(torch, rng):
    """In a CUDA graph labels are not checked, and a replay computes from what is there then."""
    lib = made("torch")
    x = torch.zeros((16, 3000), device=CUDA, dtype=torch.bfloat16)
    y = torch.zeros(16, dtype=torch.int64, device=CUDA)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # kernels are loaded before anything is recorded
        fx.cross_entropy(x, y, return_grad=True)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = fx.cross_entropy(x, y, return_grad=True)
    for _ in range(3):
        x.copy_(torch.randn(x.shape))
        y.copy_(torch.randint(3000, y.shape))
        graph.replay()
        torch.cuda.synchronize()
        same_bits(lib, recorded, fx.cross_entropy(x, y, return_grad=True))
    y[3] = 3000
    graph.replay()
    _, grad = hosted(lib, recorded)
    assert np.isnan(grad[3]).all()
    y[3] = 0
    graph.replay()
    same_bits(lib, recorded, fx.cross_entropy(x, y, return_grad=True))


def test_small_many_threads_call_at_once(torch, rng):
    """Each on a stream of its own, some with bad labels: answers and errors are the caller's."""
    lib = made("torch")
    x, y = lib.put(rng.standard_normal((50, 301)), "float32"), lib.put(rng.integers(0, 301, 50))
    want = fx.cross_entropy(x, y, return_grad=True)
    torch.cuda.synchronize()

    def call(number):
        if number % 2:  # a thread in which nothing has called CUDA before may begin with this
            return fx.cross_entropy(x, y, return_grad=True)
        with torch.cuda.stream(torch.cuda.Stream()):
            labels = y.clone()
            if number % 3 == 0:
                labels[number] = 1000 + number
                with pytest.raises(IndexError, match=rf"target\[{number}\].*got {1000 + number}$"):
                    fx.cross_entropy(x, labels, return_grad=True)
                return None
            found = fx.cross_entropy(x, labels, return_grad=True)
            torch.cuda.current_stream().synchronize()
            return found

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for found in pool.map(call, range(48)):
            if found is not None:
                same_bits(lib, want, found)


def test_two_devices(torch, rng):
    """Work is done where the first array is, whichever device is current; never on both."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    lib = made("torch")
    x, y = lib.put(rng.standard_normal((9, 77)), "float32"), lib.put(rng.integers(0, 77, 9))
    want = fx.cross_entropy(x, y, return_grad=True)
    found = fx.cross_entropy(x.to("cuda:1"), y.to("cuda:1"), return_grad=True)
    assert {array.device.index for array in found} == {1}
    assert torch.cuda.current_device() == 0
    same_bits(lib, want, found)
    with pytest.raises(TypeError, match="target is on GPU 1"):
        fx.cross_entropy(x, y.to("cuda:1"))


# --- PyTorch --------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [10, 1000, 32003])
def test_agrees_with_pytorch(torch, classes, rng):
    """Its own losses on the same tensors: weights, ignored rows, smoothing, probabilities."""
    lib, functional = made("torch"), torch.nn.functional
    x = lib.put(3 * rng.standard_normal((12, classes)), "float64")
    labels = rng.integers(0, classes, 12)
    labels[::5] = -7
    y, w = lib.put(labels), lib.put(rng.uniform(0.5, 2, classes), "float64")
    q = lib.put(rng.dirichlet(np.ones(classes), 12), "float64")
    for target, options in itertools.product((y, q), ({}, {"weight": w}, {"label_smoothing": 0.2})):
        own = options | ({"ignore_index": -7} if target is y else {})
        for reduction in ("mean", "sum", "none"):
            ours = fx.cross_entropy(x, target, reduction=reduction, **own)
            theirs = functional.cross_entropy(x, target, reduction=reduction, **own)
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    hard = (q > q.median()).double()
    ours = fx.binary_cross_entropy_with_logits(x, hard, pos_weight=w, weight=w)
    theirs = functional.binary_cross_entropy_with_logits(x, hard, pos_weight=w, weight=w)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    p = torch.sigmoid(x)
    torch.testing.assert_close(
        fx.binary_cross_entropy(p, hard), functional.binary_cross_entropy(p, hard),
        rtol=1e-11, atol=1e-12,
    )  # fmt: skip
    torch.testing.assert_close(fx.softmax(x, axis=1), torch.softmax(x, 1), rtol=1e-11, atol=0)
    torch.testing.assert_close(fx.logsumexp(x), torch.logsumexp(x, 1), rtol=1e-11, atol=0)


@pytest.mark.parametrize("name", ["cross_entropy", "rows", "softmax", "logsumexp", "binary"])
def test_small_autograd(torch, kind, name, rng):
    """In PyTorch's graph a loss or a softmax has PyTorch's gradient, in the input's type."""
    lib, functional = made("torch"), torch.nn.functional
    x = lib.put(rng.standard_normal((6, 45)), kind)
    y, hard = lib.put(rng.integers(0, 45, 6)), lib.put(rng.integers(0, 2, (6, 45)), kind)
    up = lib.put(rng.uniform(0.5, 2, (6, 45)), kind)
    ours, theirs = {
        "cross_entropy": (
            lambda x: 3 * fx.cross_entropy(x, y), lambda x: 3 * functional.cross_entropy(x, y)),
        "rows": (
            lambda x: (fx.cross_entropy(x, y, reduction="none") * up[:, 0].float()).sum(),
            lambda x: (functional.cross_entropy(x, y, reduction="none") * up[:, 0].float()).sum()),
        "softmax": (
            lambda x: (fx.softmax(x) * up).sum(), lambda x: (torch.softmax(x, -1) * up).sum()),
        "logsumexp": (
            lambda x: (fx.logsumexp(x) * up[:, 0]).sum(),
            lambda x: (torch.logsumexp(x, -1) * up[:, 0]).sum()),
        "binary": (
            lambda x: fx.binary_cross_entropy_with_logits(x, hard),
            lambda x: functional.binary_cross_entropy_with_logits(x, hard)),
    }[name]  # fmt: skip
    mine, its = (x.clone().requires_grad_() for _ in range(2))
    ours(mine).backward()
    theirs(its).backward()
    assert mine.grad.dtype == x.dtype and mine.grad.device == x.device
    scale = float(its.grad.abs().max())
    torch.testing.assert_close(
        mine.grad, its.grad, rtol=2 * LOOSE[kind], atol=2 * LOOSE[kind] * scale
    )


def test_small_graphs_of_autograd_as_on_the_cpu(torch, rng):
    """What is asked for beside a loss is detached; there is a second derivative, and no third."""
    lib = made("torch")
    x = lib.put(rng.standard_normal((4, 9)), "float32").requires_grad_()
    y = lib.put(rng.integers(0, 9, 4))
    loss, grad, lse = fx.cross_entropy(x, y, return_grad=True, return_lse=True)
    assert loss.requires_grad and not grad.requires_grad and not lse.requires_grad
    loss.backward(retain_graph=True)
    torch.testing.assert_close(x.grad, grad)
    loss.backward()
    torch.testing.assert_close(x.grad, 2 * grad)
    vector = lib.put(rng.standard_normal((4, 9)), "float32")
    (slope,) = torch.autograd.grad(fx.cross_entropy(x, y), x, create_graph=True)
    (product,) = torch.autograd.grad((slope * vector).sum(), x, create_graph=True)
    want = fx.cross_entropy_hvp(x.detach(), y, vector)
    torch.testing.assert_close(product.detach(), want, rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match="third derivative"):
        product.sum().backward()
    with pytest.raises(TypeError, match="weight must not require grad"):
        fx.cross_entropy(x, y, weight=torch.ones(9, device=CUDA, requires_grad=True))
    with pytest.raises(ValueError, match="grad_out must not require grad"):
        fx.cross_entropy(x.detach(), y, grad_out=x)


def test_a_linear_layer_learns_the_same(torch, rng):
    """linear_cross_entropy in the graph: the gradients of all three inputs are PyTorch's."""
    lib = made("torch")
    given = SimpleNamespace(
        x=rng.standard_normal((40, 16)), linear_weight=rng.standard_normal((300, 16)),
        linear_bias=rng.standard_normal(300),
    )  # fmt: skip
    y = lib.put(rng.integers(0, 300, 40))
    mine, its = (
        {name: lib.put(value, "float64").requires_grad_() for name, value in vars(given).items()}
        for _ in range(2)
    )
    fx.linear_cross_entropy(**mine, target=y).backward()
    logits = its["x"] @ its["linear_weight"].T + its["linear_bias"]
    torch.nn.functional.cross_entropy(logits, y).backward()
    for name in mine:
        torch.testing.assert_close(mine[name].grad, its[name].grad, rtol=1e-9, atol=1e-12)


# --- training steps in torch.compile's graph and in CUDA graphs -----------------------------

STEPS = {
    "mean": lambda x, y: fx.cross_entropy(x, y),
    "by row": lambda x, y: fx.cross_entropy(x, y, reduction="none").square().sum(),
    "options": lambda x, y: fx.cross_entropy(
        x, y, weight=x[0].detach().exp(), label_smoothing=0.1, z_loss=0.01, normalizer=5.0),
    "binary": lambda x, y: fx.binary_cross_entropy_with_logits(x, x.detach().sigmoid()),
    "softmax": lambda x, y: (fx.softmax(x).square() + fx.log_softmax(x, axis=0)).mean(),
    "logsumexp": lambda x, y: fx.logsumexp(x).mean() + fx.entropy(x).mean(),
    "linear": lambda x, y: fx.linear_cross_entropy(x[:, :8], x[:, :8].cos(), y % len(x)),
    "linear by row": lambda x, y: fx.linear_cross_entropy(
        x[:, :8], x[:, :8].cos(), y % len(x), reduction="none").square().sum(),
}  # fmt: skip
each_step = pytest.mark.parametrize("name", STEPS)


def drawn(torch, rng, kind="float32"):
    """Logits that require grad, and labels."""
    lib = made("torch")
    x, y = lib.put(rng.standard_normal((16, 300)), kind), lib.put(rng.integers(0, 300, 16))
    return x.requires_grad_(), y


def loss_and_gradient(torch, step, x, y):
    loss = step(x, y)
    return loss.detach(), torch.autograd.grad(loss, x)[0]


@pytest.fixture
def dynamo(torch):
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@each_step
def test_small_compiled_steps(torch, dynamo, kind, name, rng):
    """One graph, with the loss and the gradient of the eager call."""
    compiled = torch.compile(STEPS[name], backend="aot_eager", fullgraph=True)
    for _ in range(3):  # from the second time on by the cached plan
        x, y = drawn(torch, rng, kind)
        got = loss_and_gradient(torch, compiled, x, y)
        want = loss_and_gradient(torch, STEPS[name], x, y)
        assert got[1].dtype == x.dtype and got[1].device == x.device
        for one, other in zip(got, want, strict=True):
            scale = float(other.abs().max())
            torch.testing.assert_close(one, other, rtol=LOOSE[kind], atol=LOOSE[kind] * scale)


def test_small_compiled_steps_check_their_labels(torch, dynamo, rng):
    """An IndexError names the first label that is no class, as in an eager call."""
    compiled = torch.compile(STEPS["mean"], backend="aot_eager", fullgraph=True)
    for _ in range(2):
        x, y = drawn(torch, rng)
        compiled(x, y)
        y[7] = 300
        with pytest.raises(IndexError, match=r"target\[7\]"):
            compiled(x, y)


def test_compiled_steps_follow_the_current_stream(torch, dynamo, rng):
    """Forward and backward are behind what the stream still makes, without a wait of the host."""
    compiled = torch.compile(
        lambda x, y: fx.cross_entropy(x, y, check_target=False), backend="aot_eager", fullgraph=True
    )
    source, y = drawn(torch, rng)
    want = loss_and_gradient(torch, compiled, source, y)
    torch.cuda.synchronize()
    for stream in (torch.cuda.Stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            x, made_now = torch.zeros_like(source), torch.cuda.Event()
            torch.cuda._sleep(2_000_000_000)
            x.copy_(source.detach())
            made_now.record()
            got = loss_and_gradient(torch, compiled, x.requires_grad_(), y)
            assert not made_now.query()
        torch.cuda.synchronize()
        for one, other in zip(got, want, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


@each_step
@pytest.mark.parametrize("is_compiled", [False, True])
def test_training_steps_are_captured(torch, dynamo, is_compiled, name, rng):
    """A CUDA graph of forward and backward computes, when replayed, from what is there then."""
    step = STEPS[name]
    if is_compiled:
        step = torch.compile(step, backend="aot_eager", fullgraph=True)
    x, y = drawn(torch, rng)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # kernels are loaded before anything is recorded
        for _ in range(3):
            step(x, y).backward()
            x.grad = None
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(x, y)
        loss.backward()  # x.grad is None, so it is of the graph's memory
    for _ in range(3):
        new_x, new_y = drawn(torch, rng)
        with torch.no_grad():
            x.copy_(new_x)
            y.copy_(new_y)
        graph.replay()
        want = loss_and_gradient(torch, STEPS[name], new_x, new_y)
        for one, other in zip((loss.detach(), x.grad), want, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6 * float(other.abs().max()))
    if name == "mean":
        y[3] = 300  # not checked: its row is nan, and no other
        graph.replay()
        assert x.grad.isnan().all(1).nonzero().tolist() == [[3]]
        assert not x.grad[2].isnan().any()


@each_step
def test_compiled_steps_are_recorded(torch, dynamo, name, rng):
    """mode="reduce-overhead" records forward and backward in CUDA graphs, and replays them."""
    pytest.importorskip("triton", reason="torch.compile's backend for GPUs needs Triton")
    from torch._inductor import config, cudagraph_trees

    compiled = torch.compile(STEPS[name], mode="reduce-overhead", fullgraph=True)
    with config.patch("triton.cudagraph_or_error", True):  # nothing keeps it from recording
        for _ in range(5):  # warmed up, recorded, replayed
            torch.compiler.cudagraph_mark_step_begin()
            x, y = drawn(torch, rng)
            got = [part.clone() for part in loss_and_gradient(torch, compiled, x, y)]
            want = loss_and_gradient(torch, STEPS[name], x, y)
            for one, other in zip(got, want, strict=True):
                scale = float(other.abs().max())
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6 * scale)
        manager = cudagraph_trees.get_manager(x.device.index, create_if_none_exists=False)
        assert manager is not None and any(manager.roots.values())
        if name == "mean":  # recorded without the check of labels
            torch.compiler.cudagraph_mark_step_begin()
            x, y = drawn(torch, rng)
            y[3] = 300
            assert loss_and_gradient(torch, compiled, x, y)[1][3].isnan().all()
