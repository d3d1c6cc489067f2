"""The promises of docs/specification.md on a GPU: every kernel as it is, run by the simulator.

Against the reference in longdouble. Sizes are such that all plans have their turn: see `small`.
"""

import itertools

import numpy as np
import pytest
import simulator as sim
import small  # noqa: F401 - few threads
from conftest import GpuBounds, normal, worst

import fastxent as fx
from fastxent import reference
from fastxent.arrays import device, plans
from fastxent.cuda import blocks, thread_plans
from fastxent.cuda.elements import element
from fastxent.device_array import BFLOAT16, DeviceArray
from fastxent.functions import FUNCTIONS
from fastxent.records import Place

INF, NAN = np.inf, np.nan
ALL = dict(return_grad=True, return_probs=True, return_lse=True, return_hess=True,
           return_argmax=True)  # fmt: skip
EACH = {"reduction": "none", "return_grad": True}
TYPES = ["float32", "float64", "float16", "bfloat16"]
COMPUTE = dict.fromkeys(TYPES, np.float32) | {"float64": np.float64}
HALF = {"float16": (2.0**-10, 2.0**-14), "bfloat16": (2.0**-7, 2.0**-126)}  # ulp, smallest normal

# Single elements; a part of a warp; a warp; a block; a block that streams more than one turn.
CLASSES = {
    "float32": [1, 5, 37, 101, 301, 1699],
    "float64": [1, 5, 11, 37, 201, 901],
    "float16": [5, 101, 203, 701, 2401],
    "bfloat16": [5, 701],
}
SIZES = [(name, n) for name, sizes in CLASSES.items() for n in sizes]
SHORT_AND_LONG = [("float32", 37), ("float32", 1699), ("float64", 11), ("float64", 901)]
sizes = pytest.mark.parametrize(("name", "classes"), SIZES)
short_and_long = pytest.mark.parametrize(("name", "classes"), SHORT_AND_LONG)


@pytest.fixture(autouse=True)
def nothing_of_before():
    sim.forget()
    for record in (sim.launched, sim.places, sim.waited):
        record.clear()
    yield
    sim.backwards = False


# --- calls ----------------------------------------------------------------------------------


class Bits:
    """bfloat16 as bits, which neither NumPy nor CUDA's array interface knows."""

    def __init__(self, values):
        values = np.asarray(values)
        bits = [sim._to_bfloat16(value) for value in values.astype(np.float32).flat]
        self.bits = np.array(bits, np.uint16).reshape(values.shape)

    shape = property(lambda self: self.bits.shape)


def of(values, name):
    """Numbers rounded to a type."""
    return Bits(values) if name == "bfloat16" else np.asarray(values).astype(name)


def exact(values):
    """What they hold, in longdouble."""
    if isinstance(values, Bits):
        values = (values.bits.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(values).astype(np.longdouble)


def there(value):
    """A copy on the GPU of an array."""
    return sim.on_gpu(value) if isinstance(value, np.ndarray) else value


def back(result):
    return tuple(map(back, result)) if isinstance(result, tuple) else sim.host(result)


def call(name, *args, **options):
    """A public function on copies there; its results as NumPy has them."""
    if isinstance(args[0], Bits):
        return _call_on_bits(FUNCTIONS[name], *args, **options)
    given = {key: there(value) for key, value in options.items()}
    return back(getattr(fx, name)(*map(there, args), **given))


def _call_on_bits(function, *args, **options):
    given = dict(zip(function.positional, args, strict=False)) | options
    given = {key: _bits_there(value) for key, value in given.items()}
    found = plans.computed(function, device.views_of(function, given, _bits_view))
    widened = [
        a if a.dtype != np.uint16 else (a.astype(np.uint32) << 16).view(np.float32)
        for a in (found if isinstance(found, tuple) else (found,))
    ]
    return tuple(widened) if isinstance(found, tuple) else widened[0]


def _bits_there(value):
    value = value.bits if isinstance(value, Bits) else value
    return sim.on_gpu(value).array if isinstance(value, np.ndarray) else value


def _bits_view(array):
    if not isinstance(array, np.ndarray):
        return None
    dtype = BFLOAT16 if array.dtype == np.uint16 else array.dtype
    return DeviceArray(
        array, array.ctypes.data, array.shape, array.strides, dtype, Place(0, 0), _BitsLibrary
    )


class _BitsLibrary:
    @staticmethod
    def new(shape, dtype, place):
        array = sim.allocate(shape, np.uint16 if dtype is BFLOAT16 else dtype)
        return array, array.ctypes.data


def expected(name, *args, **options):
    """The reference on the very same numbers."""

    def read(value):
        is_float = (
            isinstance(value, Bits) or isinstance(value, np.ndarray) and value.dtype.kind == "f"
        )
        return exact(value) if is_float else value

    given = {key: read(value) for key, value in options.items()}
    return getattr(reference, name)(*map(read, args), **given)


def within(got, want, bound, name, where=True, of_terms=None):
    """Errors are within a bound, relative or of the sum of absolute terms; half is rounded once."""
    size = np.abs(want if of_terms is None else of_terms)
    allowed = bound * size
    if name in HALF:
        ulp, tiny = HALF[name]
        allowed = allowed + np.maximum(np.abs(want) + allowed, tiny) * ulp / 2
    error = np.abs(got.astype(np.longdouble) - want)
    wrong = (error > allowed) & where
    assert not wrong.any(), (np.argwhere(wrong)[:3], (error / allowed)[wrong].max())


def alike(got, want, name, message=""):
    """As the reference has it, nan and inf included, to what the type holds."""
    rtol = {"float32": 2e-6, "float64": 1e-13, "float16": 1e-3, "bfloat16": 8e-3}[name]
    assert len(got) == len(want)
    for k, (a, b) in enumerate(zip(got, want, strict=True)):
        b = np.asarray(b, np.float64)
        np.testing.assert_allclose(
            a.astype(np.float64), b, rtol=rtol, atol=rtol / 10, err_msg=f"{message} {k}"
        )
        if name not in HALF:
            np.testing.assert_array_equal(a == 0, b == 0, f"{message} {k}")


def compare(kind, name, *args, **options):
    """A call and the reference's."""
    got, want = call(name, *args, **options), expected(name, *args, **options)
    alike(*((r if isinstance(r, tuple) else (r,)) for r in (got, want)), kind, name)


def make_logits(rng, name, classes, spread=10, rows=4):
    """Random; one row rises, one is constant but for a class (equal terms add up worst)."""
    x = rng.uniform(-spread, spread, (rows, classes))
    x[3].sort()
    x[1] = -spread / 3
    x[1, classes // 2] = spread / 7
    return of(x, name)


# --- accuracy -------------------------------------------------------------------------------


def test_sizes_reach_all_plans():
    """The sizes of this file reach every line of the tables of plans, streamed or not."""
    for name, sizes in CLASSES.items():
        found = {thread_plans.plan_of(element(name), n, True) for n in sizes}
        assert any(not plan.vectorised for plan in found)
        assert any(not plan.streamed and plan.threads == 64 for plan in found)
        if name != "bfloat16":
            narrowest = {4} if name == "float64" else {16}  # a thread has one unaligned element
            assert {plan.threads for plan in found if plan.vectorised} >= narrowest | {32, 64}
            assert any(plan.streamed for plan in found)


@sizes
def test_softmax_family(rng, name, classes):
    """Softmax, log_softmax and logsumexp within their bounds."""
    x = make_logits(rng, name, classes)
    z, compute = exact(x), COMPUTE[name]
    bounds, p = GpuBounds(z, compute), reference.softmax(z)
    m, lse = z.max(-1), reference.logsumexp(z)
    within(call("softmax", x), p, bounds.probs(), name, normal(p, compute))
    within(call("log_softmax", x), reference.log_softmax(z), bounds.log_probs(), name)
    size = np.maximum(np.abs(m), np.abs(lse - m))
    within(call("logsumexp", x), lse, bounds.lse(), name, of_terms=size)


@sizes
def test_index_targets(rng, name, classes):
    """Row losses, gradients and probabilities; lse and argmax; the gradient alone too."""
    x = make_logits(rng, name, classes)
    z, compute, rows = exact(x), COMPUTE[name], np.arange(4)
    labels = np.array([z[0].argmax(), classes // 2, 0, classes - 1])
    bounds, at = GpuBounds(z, compute), (rows, labels)
    got = call("cross_entropy", x, labels, reduction="none", **ALL)
    alone = call("cross_entropy", x, labels, **EACH)
    want, want_grad, p, lse, _, top = reference.cross_entropy(z, labels, reduction="none", **ALL)
    here, where = normal(want, compute), normal(p, compute)
    within(got[2], p, bounds.probs(), name, where)
    where[at] = False
    for loss, grad in (got[:2], alone):
        within(loss, want, bounds.log_probs()[at], "loss", here)
        within(grad[at], want_grad[at], bounds.grad_at_target()[at], name, here)
        within(grad, want_grad, bounds.probs(), name, where)
    m = z.max(-1)
    size = np.maximum(np.abs(m), np.abs(lse - m))
    within(got[3], lse, bounds.lse(), "lse", of_terms=size)
    np.testing.assert_array_equal(got[5], top)
    assert [a.dtype for a in got[:1] + got[3:4] + got[5:]] == [compute, compute, np.int64]


@short_and_long
def test_smoothing_weights_and_z_loss(rng, name, classes):
    """Relative to the sum of the absolute terms."""
    x, compute = make_logits(rng, name, classes), COMPUTE[name]
    labels = rng.integers(0, classes, 4)
    weight = rng.uniform(0.5, 2, classes).astype(name)
    options = {"weight": weight, "label_smoothing": 0.1, "z_loss": 1e-2}
    loss, grad = call("cross_entropy", x, labels, **EACH, **options)
    want, want_grad = expected("cross_entropy", x, labels, **EACH, **options)
    z, w = exact(x), exact(weight)
    bounds, p = GpuBounds(z, compute), reference.softmax(z)
    within(loss, want, bounds.probs().max(-1), name)  # all terms of the loss are positive
    lse, w_y = reference.logsumexp(z)[:, None], w[labels][:, None]
    terms = (0.9 * w_y + 0.1 * w.mean() + 2e-2 * np.abs(lse)) * p + 0.1 / classes * w
    terms += 0.9 * w_y * (np.arange(classes) == labels[:, None])
    within(grad, want_grad, bounds.probs() + 4 * bounds.ulp, name, of_terms=terms)


@short_and_long
@pytest.mark.parametrize("options", [{}, {"weight": True, "label_smoothing": 0.1}])
def test_probability_targets(rng, name, classes, options):
    """Soft rows, with zeros among them, and one-hot ones: relative to the absolute terms."""
    x, compute = make_logits(rng, name, classes), COMPUTE[name]
    q = rng.dirichlet(np.ones(classes), 4).astype(name)
    q[:, 1::7] = 0
    q[3] = np.arange(classes) == classes - 1
    weight = rng.uniform(0.5, 2, classes).astype(name) if options else np.ones(classes, name)
    smoothing = options.get("label_smoothing", 0.0)
    given = EACH | {"label_smoothing": smoothing, "weight": weight}
    loss, grad = call("cross_entropy", x, q, **given)
    want, want_grad = expected("cross_entropy", x, q, **given)
    z = exact(x)
    bounds = GpuBounds(z, compute)
    extra = (4 if options else 1) * bounds.ulp  # of w, 1 - ε, ε/C, of their products and sums
    a = exact(weight) * ((1 - smoothing) * exact(q) + smoothing / classes)
    within(loss, want, bounds.log_probs().max(-1) + extra, name)
    p = reference.softmax(z)
    terms = a.sum(-1, keepdims=True) * p + a
    where = normal(terms, compute)
    within(grad, want_grad, bounds.probs() + extra + 2 * bounds.ulp, name, where, terms)


@short_and_long
@pytest.mark.parametrize("scale", [3.0, -1.3])
def test_logit_scale(rng, name, classes, scale):
    """Applied after the shift: large logits of small spread keep their digits."""
    x = make_logits(rng, name, classes, 3) + np.dtype(name).type(500)
    labels, z, compute = rng.integers(0, classes, 4), exact(x) * np.longdouble(scale), COMPUTE[name]
    given = EACH | {"return_probs": True, "logit_scale": scale}
    loss, grad, probs = call("cross_entropy", x, labels, **given)
    want, want_grad, p = expected("cross_entropy", x, labels, **given)
    bounds, at = GpuBounds(z, compute), (np.arange(4), labels)
    within(probs, p, bounds.probs(), name, normal(p, compute))
    within(loss, want, bounds.log_probs()[at], name)
    within(grad[at], want_grad[at], bounds.grad_at_target()[at], name)
    where = normal(p, compute)
    where[at] = False
    within(grad, want_grad, bounds.probs(), name, where)


@short_and_long
def test_softcap(rng, name, classes):
    """2·softcap ulp more, also in the gradient where tanh is saturated; after a scale."""
    cap, scale, compute = 5.0, 2.0, COMPUTE[name]
    x, labels = make_logits(rng, name, classes, 8), rng.integers(0, classes, 4)
    given = EACH | {"return_probs": True, "softcap": cap, "logit_scale": scale}
    _, grad, probs = call("cross_entropy", x, labels, **given)
    _, want_grad, p = expected("cross_entropy", x, labels, **given)
    a = exact(x) * scale / cap
    bounds = GpuBounds(cap * np.tanh(a), compute, softcap=cap)
    within(probs, p, bounds.probs(), name, normal(p, compute))
    where = normal(want_grad, compute)
    where[np.arange(4), labels] = False
    slope = (4 + 2 * np.abs(a)) * bounds.ulp  # of 2|a| in exp(-2|a|)
    within(grad, want_grad, bounds.probs() + slope, name, where)


@short_and_long
def test_hessian_diagonal(rng, name, classes):
    """p·(1 - p) keeps its digits for a dominant class too, wherever it stands."""
    x, compute = make_logits(rng, name, classes, 20), COMPUTE[name]
    x[0, 0] += 40
    x[2, -1] += 40
    labels = rng.integers(0, classes, 4)
    given = {"reduction": "sum", "return_hess": True}
    hess = call("cross_entropy", x, labels, **given)[1]
    want = expected("cross_entropy", x, labels, **given)[1]
    bounds = GpuBounds(exact(x), compute)
    within(hess, want, bounds.probs() + bounds.grad_at_target(), name, normal(want, compute))


@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("classes", [3, 37, 601])
def test_confident_rows(name, classes):
    """p_y = 1 - δ down to 1e-30: loss ≈ δ and gradient at the target ≈ -δ, never 0."""
    tolerance = 1e-5 if name == "float32" else 1e-12
    delta = np.array([1e-3, 1e-8, 1e-16, 1e-26, 1e-30])
    labels = np.array([0, classes // 2, classes - 1, 1, classes - 2])
    rows = np.arange(5)
    x = np.repeat(np.log(delta / (classes - 1))[:, None], classes, 1).astype(name)
    x[rows, labels] = 0
    one_hot = np.arange(classes) == labels[:, None]
    z = exact(x)
    want, want_grad = reference.cross_entropy(z, labels, **EACH)
    loss, grad, lse = call("cross_entropy", x, labels, return_lse=True, **EACH)
    soft, soft_grad = call("cross_entropy", x, one_hot, **EACH)
    for found in (loss, lse, soft, -call("log_softmax", x)[rows, labels]):
        np.testing.assert_allclose(found, want.astype(float), rtol=tolerance)
    for found in (grad, soft_grad):
        at_target = found[rows, labels]
        np.testing.assert_allclose(at_target, want_grad[rows, labels].astype(float), rtol=tolerance)
    np.testing.assert_allclose(want.astype(float), delta, rtol=1e-3)


def test_logsumexp_of_the_small_beside_the_large():
    """[0, -40] is 4.248354e-18."""
    got = call("logsumexp", np.array([[0.0, -40.0], [-40.0, 0.0]], np.float32))
    np.testing.assert_allclose(got, 4.248354255291589e-18, rtol=1e-6)


def test_shared_offset(rng):
    """Logits + 1e7 give the bits of what the inputs still hold."""
    x = rng.integers(-20, 20, (4, 37)).astype(np.float32)
    labels = rng.integers(0, 37, 4)
    for target in (labels, rng.dirichlet(np.ones(37), 4).astype(np.float32)):
        plain, shifted = (call("cross_entropy", a, target, **EACH) for a in (x, x + 1e7))
        for a, b in zip(plain, shifted, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("classes", [5, 37, 700])
def test_the_maximum_is_found_wherever_it_is(classes):
    """A logit that leads by 1e5, at ends, in vectors, streamed: any other shift overflows."""
    labels = np.unique(
        [0, 1, 2, 4, classes // 3, classes // 2, classes - 3, classes - 2, classes - 1]
    )
    labels = labels[labels < classes]
    x = np.zeros((len(labels), classes), np.float32)
    x[np.arange(len(labels)), labels] = 1e5
    one_hot = np.arange(classes) == labels[:, None]
    np.testing.assert_array_equal(call("softmax", x), one_hot)
    loss, top = call("cross_entropy", x, labels, reduction="none", return_argmax=True)
    assert not loss.any()
    np.testing.assert_array_equal(top, labels)


# --- special values -------------------------------------------------------------------------

SPECIAL = [0.0, 1.5, -INF, INF, NAN]
OPTIONS = [{}, {"label_smoothing": 0.3}, {"softcap": 2.0}, {"logit_scale": -2.0}, {"z_loss": 0.1},
           {"logit_scale": 0.0}]  # fmt: skip


def special_rows(name, classes, places, fill=0.5):
    """All pairs of special values at two places of a row."""
    pairs = list(itertools.product(SPECIAL, repeat=2))
    x = np.full((len(pairs), classes), fill, name)
    x[:, places] = pairs
    return x


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("name", "classes", "places"), [
    ("float32", 3, [0, 1]), ("float32", 19, [0, 7]), ("float64", 19, [18, 3]),
])  # fmt: skip
def test_rows_of_special_values(name, classes, places, options):
    """Each pair of {0, 1.5, -inf, inf, nan}: what the reference says, under either target."""
    x = special_rows(name, classes, places)
    for label in places:
        labels = np.full(len(x), label)
        given = ALL | {"reduction": "none"} | options
        compare(name, "cross_entropy", x, labels, **given)
        if label == places[0]:
            compare(name, "cross_entropy", x, labels, **EACH, **options)


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_probabilities_of_special_rows(name):
    """Under probability targets, with a class that has none, likewise."""
    x = special_rows(name, 19, [2, 16])
    q = np.full(x.shape, 1 / 16, name)
    q[:, 2] = 0
    q[1::2, 16] = 0
    for options in ({}, {"label_smoothing": 0.3}):
        given = ALL | {"reduction": "none"} | options
        compare(name, "cross_entropy", x, q, **given)


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_softmax_family_of_special_rows(name):
    """Nan where the maximum is not finite; logsumexp is ±inf there, and nan of nan."""
    for x in (special_rows(name, 19, [1, 17]), special_rows(name, 2, [0, 1])):
        for function in ("softmax", "log_softmax", "logsumexp"):
            alike([call(function, x)], [expected(function, x)], name, function)


@pytest.mark.parametrize("name", ["float32", "float64", "float16"])
def test_streamed_rows(name):
    """The maximum, -inf, +inf and nan behind what is held, and labels there."""
    classes, held = {"float32": (700, 512), "float64": (900, 256), "float16": (1200, 1024)}[name]
    end = classes - 9
    x = np.full((9, classes), -3, name)
    x[:, ::5] = 0.5
    x[0, end] = 30  # the maximum
    x[1, held + 1 :: 3] = -INF
    x[2, held:] = -INF
    x[3, :held] = -INF
    x[4, end - 8] = NAN
    x[5, held + 8] = INF
    x[6] = -INF
    x[7, :held] = -INF
    x[7, end:] = -INF
    x[8] = -INF
    x[8, end] = 1
    labels = np.array([end, end, 1, end, 0, 0, 3, 600 % classes, end])
    for options in ({}, {"label_smoothing": 0.3}):
        given = ALL | {"reduction": "none"} | options
        compare(name, "cross_entropy", x, labels, **given)
    compare(name, "cross_entropy", x, labels, **EACH)
    for function in ("softmax", "log_softmax", "logsumexp"):
        alike([call(function, x)], [expected(function, x)], name, function)


def test_other_rows_do_not_notice(rng):
    """The bits of other rows do not depend on a bad one."""
    x, labels = rng.standard_normal((4, 37)).astype(np.float32), np.array([1, 2, 3, 4])
    spoilt = x.copy()
    spoilt[2, 5], spoilt[2, 6] = NAN, INF
    got, want = (call("cross_entropy", a, labels, reduction="none", **ALL) for a in (spoilt, x))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(np.delete(a, 2, 0), np.delete(b, 2, 0))


def test_two_equal_maxima():
    """The first one is the argmax: in a lane, in another warp, unaligned and streamed."""
    x = np.zeros((6, 601), np.float32)
    for row, (first, second) in enumerate([(0, 600), (9, 10), (300, 517), (515, 590), (1, 2)]):
        x[row, [first, second]] = 3
    x[5, [400, 7]] = NAN
    labels = np.zeros(6, int)
    got = call("cross_entropy", x, labels, reduction="none", return_hess=True, return_argmax=True)
    assert got[2].tolist() == [0, 9, 300, 515, 1, 7]
    want = expected("cross_entropy", x, labels, reduction="none", return_hess=True)
    alike(got[:2], want, "float32")


@pytest.mark.parametrize("options", [{}, {"softcap": 3.0}], ids=["", "softcap"])
@pytest.mark.parametrize(("name", "classes"), [("float32", 2), ("float32", 37), ("float64", 37)])
def test_ignored_rows(name, classes, options):
    """Exactly 0 whatever their logits hold; lse, probs and argmax are given. By weight 0 too."""
    x = np.full((5, classes), -1, name)
    x[:, :2] = [[1, NAN], [0, INF], [3, 1], [-INF, -INF], [0.5, 0]]
    u = np.array([1, 1, 1, 0, 1], name)
    labels = np.array([-100, -100, -100, 1, 0])
    given = options | {"sample_weight": u, "reduction": "none"}
    got = call("cross_entropy", x, labels, **given, **ALL)
    want = expected("cross_entropy", x, labels, **given, **ALL)
    alike(got, want, name)
    alone = call("cross_entropy", x, labels, **given, return_grad=True)
    for array in (got[0], got[1], got[4], *alone):
        assert (array[:4] == 0).all()
        assert (array[4] != 0).any()


def test_nan_in_an_ignored_row_of_a_mean():
    """It neither counts nor spoils."""
    x = np.array([[NAN, 1, 2], [1, 2, 3]], np.float32)
    labels = np.array([-100, 0])
    loss, grad = call("cross_entropy", x, labels, return_grad=True)
    want = reference.cross_entropy(x[1:], labels[1:], return_grad=True)
    np.testing.assert_allclose(loss, want[0], rtol=1e-6)
    np.testing.assert_allclose(grad[1:], want[1], rtol=1e-6)
    assert not grad[0].any()


def test_weights_of_0_add_exactly_nothing():
    """A class of weight 0 adds 0 even at -inf, as target and under smoothing; a nan row is nan."""
    x = np.array([[-INF, 1, 2], [NAN, 1, 2], [1, INF, 2], [-INF, -INF, -INF]], np.float32)
    weight, labels = np.array([0, 1, 1], np.float32), np.zeros(4, int)
    for options in ({}, {"label_smoothing": 0.3}):
        given = EACH | {"weight": weight} | options
        loss, grad = call("cross_entropy", x, labels, **given)
        alike((loss, grad), expected("cross_entropy", x, labels, **given), "float32")
        assert np.isfinite(loss).tolist() == [True, False, False, False]
        assert np.isnan(grad[1:]).all()


MEANS_OVER_NOTHING = [
    ([-100, -100], {}), ([0, 1], {"weight": np.zeros(3, np.float32)}),
    ([0, 1], {"sample_weight": np.zeros(2, np.float32)}), ([0, 1], {"normalizer": 0}),
    ([0, 1], {"normalizer": np.zeros((), np.float32)}),
]  # fmt: skip


@pytest.mark.parametrize(("labels", "options"), MEANS_OVER_NOTHING)
def test_mean_over_nothing(labels, options):
    """Nan, and a gradient of zeros, whatever the rows hold; a sum follows the formula."""
    x = np.array([[1, NAN, 0], [1, 2, 3]], np.float32)
    labels = np.array(labels)
    loss, grad = call("cross_entropy", x, labels, return_grad=True, **options)
    assert np.isnan(loss)
    assert grad.shape == x.shape
    assert not grad.any()
    if "normalizer" not in options:
        given = {"reduction": "sum", "return_grad": True, **options}
        compare("float32", "cross_entropy", x, labels, **given)


def test_nothing_at_all():
    """N = 0: mean nan, sum 0, none empty; logsumexp of no class is -inf."""
    x, labels = np.empty((0, 3), np.float32), np.empty(0, int)
    loss, grad = call("cross_entropy", x, labels, return_grad=True)
    assert np.isnan(loss)
    assert grad.shape == (0, 3)
    assert call("cross_entropy", x, labels, reduction="sum") == 0
    assert call("cross_entropy", x, x, reduction="sum") == 0
    assert call("cross_entropy", x, labels, reduction="none").shape == (0,)
    assert call("softmax", x).shape == (0, 3)
    assert call("logsumexp", x).shape == (0,)
    assert (call("logsumexp", np.empty((2, 0), np.float32)) == -INF).all()
    for name in ("softmax", "log_softmax"):
        assert call(name, np.empty((2, 0), np.float32)).shape == (2, 0)
    for function in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
        loss, grad = call(function, x, x, return_grad=True)
        assert np.isnan(loss)
        assert grad.shape == (0, 3)
        assert call(function, x, x, reduction="sum") == 0


# --- labels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int64", "uint8", "int16", "uint64"])
@pytest.mark.parametrize("columns", [False, True])
def test_integers_that_are_no_one_hot_rows(kind, columns):
    """The first that is neither 0 nor 1 is named, unless nobody checks; on the CPU alone binary."""
    x, rows = np.zeros((5, 300), np.float32), np.zeros((5, 300), kind)
    rows[2, 7], rows[4, 1] = 1, 1
    loss = call("cross_entropy", x, rows)
    rows[3, 299], rows[4, 0] = 3, 200
    given = np.asfortranarray(rows) if columns else rows
    for name in ("cross_entropy", "categorical_cross_entropy"):
        with pytest.raises(ValueError, match=r"target\[3, 299\] must be 0 or 1, .*, got 3: class"):
            call(name, x, given)
    unchecked = call("cross_entropy", x, given, check_target=False)
    assert np.isclose(unchecked, loss * (2 + 203) / 2)
    call("binary_cross_entropy_with_logits", x, given)


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_label_types(kind):
    """Compared as integers, never wrapped: -1 of another width is another number."""
    x = np.random.default_rng(1).standard_normal((4, 7)).astype(np.float32)
    labels, ignored = np.array([0, 6, 3, 5]).astype(kind), 3
    want = expected("cross_entropy", x, labels, ignore_index=ignored, **EACH)
    alike(call("cross_entropy", x, labels, ignore_index=ignored, **EACH), want, "float32")
    if kind[0] == "i":
        low = int(np.iinfo(kind).min)
        labels[2] = low
        got = call("cross_entropy", x, labels, ignore_index=low, **EACH)
        alike(got, want, "float32")
    else:
        high = int(np.iinfo(kind).max)
        labels[2] = high
        alike(call("cross_entropy", x, labels, ignore_index=high, **EACH), want, "float32")
        for other in (-1, high - 2**64, 2**64 + high):
            with pytest.raises(IndexError, match=rf"target\[2\] .* got {high}"):
                call("cross_entropy", x, labels, ignore_index=other)


@pytest.mark.parametrize("step", [2, -1])
def test_strided_labels(rng, step):
    """Every other label, and backwards; of rank 2, transposed."""
    x = rng.standard_normal((3, 2, 5)).astype(np.float32)
    labels = rng.integers(0, 5, (2, 3))
    want = expected("cross_entropy", x, labels.T, **EACH)
    for kind in ("i8", "u1", "i4"):
        wide = np.full((2, 3 * abs(step)), 99, kind)
        wide[:, ::step] = labels
        place = sim.on_gpu(wide)
        place.array = place.array[:, ::step].T
        alike(back(fx.cross_entropy(sim.on_gpu(x), place, **EACH)), want, "float32")


def bad_label_calls():
    """A bad label in the second chunk, another behind it; a name for each way of a label."""
    labels = np.zeros(120, int)
    labels[[5, 77, 78, 119]] = [-100, 9, -1, 3]
    return np.zeros((120, 3), np.float32), labels


def test_the_first_bad_label_is_named():
    """IndexError, before anything is written."""
    x, labels = bad_label_calls()
    buffer = sim.Array(sim.allocate(x.shape, np.float32))
    before = buffer.array.copy()
    with pytest.raises(IndexError, match=r"^target\[77\] must be a class in 0 \.\. 2 .* got 9$"):
        fx.cross_entropy(sim.on_gpu(x), sim.on_gpu(labels), grad_out=buffer)
    np.testing.assert_array_equal(buffer.array, before)
    assert (buffer.array.view(np.uint8) == sim.POISON).all()
    with pytest.raises(IndexError, match=r"target\[12, 5\] .* got 9$"):
        call("categorical_cross_entropy", x.reshape(20, 6, 3), labels.reshape(20, 6))
    with pytest.raises(IndexError, match=r"target\[0\] .* got 18446744073709551615$"):
        call("cross_entropy", x[:1], np.array([2**64 - 1], np.uint64))
    assert sim.launched[-2:] == [
        name for name in sim.launched[-2:] if name.startswith(("scan", "div"))
    ]


def test_a_bad_label_of_an_ignored_row_is_an_error():
    """Labels of rows of weight 0 are checked too."""
    x, u = np.zeros((2, 3), np.float32), np.array([0, 1], np.float32)
    with pytest.raises(IndexError, match=r"target\[0\]"):
        call("cross_entropy", x, np.array([3, 0]), sample_weight=u)


@pytest.mark.parametrize("function", ["cross_entropy", "categorical_cross_entropy"])
def test_unchecked_bad_labels_are_nan(function):
    """check_target=False: loss and gradient of that row are nan, the others as they were."""
    x = np.full((6, 5), 0.2, np.float32)
    labels = np.array([1, 5, -1, 2**62, -100, 2])
    given = EACH | {"check_target": False}
    loss, grad = call(function, x, labels, **given)
    bad = [False, True, True, True, False, False]
    assert np.isnan(loss).tolist() == bad
    assert np.isnan(grad).all(-1).tolist() == bad
    assert np.isnan(grad).any(-1).tolist() == bad
    alike((loss, grad), expected(function, x, labels, **given), "float32")
    u = np.array([1, 0, 1, 1, 1, 1], np.float32)
    loss, grad = call(function, x, labels, sample_weight=u, **given)
    assert loss[1] == 0
    assert not grad[1].any()
    assert np.isnan(call(function, x, labels, check_target=False))
    assert sim.waited == []


def test_capture_skips_the_check():
    """A stream that is recorded must not be waited for: a bad label is nan."""
    x = sim.Array(sim.on_gpu(np.zeros((3, 4), np.float32)).array, stream=77)
    loss, grad = back(fx.cross_entropy(x, sim.on_gpu(np.array([0, 4, 1])), **EACH))
    assert np.isnan(loss).tolist() == [False, True, False]
    assert np.isnan(grad).all(-1).tolist() == [False, True, False]
    assert sim.waited == []


# --- options, reductions --------------------------------------------------------------------

EVERYTHING = {"label_smoothing": 0.1, "z_loss": 0.01, "logit_scale": 1.5}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("soft", [False, True])
def test_all_options_and_outputs(rng, name, reduction, soft):
    """All at once, for both kinds of target: what the reference says."""
    x = of(rng.standard_normal((5, 37)) * 3, name)
    labels = np.array([3, -100, 36, 0, 7])
    q = of(rng.dirichlet(np.ones(37), 5), name)
    given = ALL | EVERYTHING | {"reduction": reduction}
    compute = COMPUTE[name]
    given |= {
        "weight": rng.random(37).astype(compute),
        "sample_weight": rng.random(5).astype(compute),
    }
    target = q if soft else labels
    got = call("cross_entropy", x, target, **given)
    want = expected("cross_entropy", x, target, **given)
    kind = str(np.dtype(compute))
    alike([got[0], got[3], got[5]], [want[0], want[3], want[5]], kind)
    assert (got[1] != 0).any(-1).tolist() == [True, soft, True, True, True]
    for k in (1, 2, 4):
        rtol = {"float32": 3e-6, "float64": 1e-13, "float16": 1e-3, "bfloat16": 8e-3}[name]
        np.testing.assert_allclose(
            got[k].astype(float), want[k].astype(float), rtol, rtol * 0.02, err_msg=str(k)
        )


@pytest.mark.parametrize("options", [
    {"weight": True}, {"sample_weight": True}, {"normalizer": 7.5}, {"normalizer": np.array(7.5)},
    {"normalizer": np.array(3)}, {"normalizer": np.array(7.5, np.float32)}, {"ignore_index": None},
    {"ignore_index": 2}, {"logit_scale": 0.0}, {"label_smoothing": 1.0}, {"z_loss": -0.5},
    {"weight": True, "normalizer": 2.0}, {"weight": "float64", "sample_weight": "int64"},
    {"softcap": 3.0, "logit_scale": -2.0},
], ids=str)  # fmt: skip
def test_each_option(rng, options):
    """Alone, in a mean with its gradient; weights of other types are read as numbers."""
    x, labels = rng.standard_normal((5, 7)).astype(np.float32), np.array([0, 2, 2, 6, 1])
    options = dict(options)
    for key, n in (("weight", 7), ("sample_weight", 5)):
        if key in options:
            kind = "float32" if options[key] is True else options[key]
            options[key] = (4 * rng.random(n) + 1).astype(kind)
    given = options | {"return_grad": True, "return_lse": True}
    compare("float32", "cross_entropy", x, labels, **given)


def test_a_mean_over_many_rows(rng):
    """Chunks of losses and of weights, the last one shorter, beside which float32 is too coarse."""
    x, labels = np.zeros((120, 2), np.float32), rng.integers(0, 2, 120)
    labels[::7] = -100
    labels[[3, 4, 49]] = 0
    u = rng.uniform(0.5, 1, 120).astype(np.float32)
    u[[3, 4]] = 2.0**26, -(2.0**26)
    w = np.array([1, 0.3], np.float32)
    for reduction in ("mean", "sum"):
        given = {"weight": w, "sample_weight": u, "reduction": reduction, "return_grad": True}
        loss, grad = call("cross_entropy", x, labels, **given)
        want, want_grad = expected("cross_entropy", x, labels, **given)
        np.testing.assert_allclose(loss, float(want), rtol=1e-6)
        np.testing.assert_allclose(grad, want_grad.astype(float), rtol=1e-6)


# --- layouts, types, buffers ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["float32", "float64", "float16"])
@pytest.mark.parametrize("classes", [5, 37])
def test_wherever_rows_begin(rng, name, classes):
    """An array at any multiple of its element, rows with a gap between them, which stays."""
    values, labels = of(rng.standard_normal((3, classes)), name), np.array([1, classes - 1, 0])
    want = expected("cross_entropy", values, labels, **EACH)
    size = values.itemsize
    for begin in sorted({0, size, 16 - size, 8}):
        wide, around = (sim.allocate((3, classes + 5), name, misaligned=begin) for _ in "xg")
        wide[...] = NAN
        wide[:, 2:-3] = values
        before, grad = around.copy(), sim.Array(around[:, 2:-3])
        got = fx.cross_entropy(
            sim.Array(wide[:, 2:-3]), sim.on_gpu(labels), grad_out=grad, reduction="none"
        )
        assert got[1] is grad
        loss, found = back(got)
        alike([loss], want[:1], "float32" if name == "float16" else name)
        alike([found], want[1:], name)
        before[:, 2:-3] = found
        np.testing.assert_array_equal(around, before)


def test_outputs_that_lie_otherwise(rng):
    """A buffer aligned otherwise: rows of single elements, in registers or streamed."""
    for classes in (37, 333):
        values, labels = rng.standard_normal((2, classes)).astype(np.float32), np.array([0, 36])
        buffer = sim.Array(sim.allocate(values.shape, np.float32, misaligned=4))
        _, grad = fx.cross_entropy(sim.on_gpu(values), sim.on_gpu(labels), grad_out=buffer)
        alike([sim.host(grad)], expected("cross_entropy", values, labels, return_grad=True)[1:],
              "float32")  # fmt: skip
        assert "False" in next(name for name in sim.launched[::-1] if name.startswith("cross"))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("soft", [False, True])
def test_axes(rng, axis, soft):
    """The class axis anywhere; results are C-contiguous."""
    x = rng.standard_normal((4, 5, 3)).astype(np.float32)
    target = rng.random(x.shape).astype(np.float32)
    if not soft:
        target = rng.integers(0, x.shape[axis], np.delete(x.shape, axis))
    given = ALL | {"axis": axis, "reduction": "none"}
    got = call("cross_entropy", x, target, **given)
    alike(got, expected("cross_entropy", x, target, **given), "float32")
    assert all(a.flags.c_contiguous for a in got)
    for function in ("softmax", "log_softmax"):
        compare("float32", function, x, axis=axis)
    lse = call("logsumexp", x, axis=axis, keepdims=True)
    assert lse.shape == tuple(1 if k == axis else n for k, n in enumerate(x.shape))
    alike([lse], [expected("logsumexp", x, axis=axis, keepdims=True)], "float32")


@pytest.mark.parametrize("axis", [1, -1])
def test_rank_5_that_is_not_contiguous(rng, axis):
    """More dimensions than a kernel takes, none of which merge; labels laid out likewise."""
    x = sim.on_gpu(rng.standard_normal((4, 3, 4, 6, 4)).astype(np.float32))
    x.array = x.array[::2, :, ::-2, ::3, ::2].swapaxes(2, 3)
    shape = tuple(np.delete(x.array.shape, axis))
    labels = sim.on_gpu(rng.integers(0, x.array.shape[axis], (*shape, 2)))
    labels.array = labels.array[..., 1]
    got = back(fx.cross_entropy(x, labels, axis=axis, **EACH))
    want = expected("cross_entropy", x.array.copy(), labels.array.copy(), axis=axis, **EACH)
    alike(got, want, "float32")


def test_rank_1(rng):
    """One row without a batch: a loss without dimensions under every reduction."""
    x, label = rng.standard_normal(9).astype(np.float32), np.array(4)
    for reduction in ("mean", "none"):
        given = EACH | {"reduction": reduction}
        got = call("cross_entropy", x, label, **given)
        assert got[0].shape == ()
        assert got[1].shape == (9,)
        alike(got, expected("cross_entropy", x, label, **given), "float32")
    assert call("logsumexp", x).shape == ()


@pytest.mark.parametrize("kind", ["?", "i1", "u2", "i4", "u8"])
def test_logits_of_other_types(rng, kind):
    """Integers and bools compute in float64."""
    x = rng.integers(0, 2 if kind == "?" else 9, (3, 5)).astype(kind)
    if kind == "u8":
        x += np.uint64(2**63)
    labels = np.array([0, 4, 2])
    got = call("cross_entropy", x, labels, reduction="none", **ALL)
    assert {a.dtype for a in got[:5]} == {np.dtype(np.float64)}
    alike(got, expected("cross_entropy", x, labels, reduction="none", **ALL), "float64")
    compare("float64", "softmax", x)


@pytest.mark.parametrize("kind", ["?", "i1", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_targets_of_other_types(rng, kind, name):
    """One-hot rows of any type, beside logits of another."""
    x = rng.standard_normal((3, 9)).astype(name)
    one_hot = (np.arange(9) == np.array([[1], [8], [0]])).astype(kind)
    got = call("cross_entropy", x, one_hot, **EACH)
    alike(got, expected("cross_entropy", x, one_hot.astype(name), **EACH), name)
    assert got[1].dtype == name


@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_gradient_in_place(rng, name, backwards, soft):
    """grad_out over the logits: whichever warp is ahead, all is read before it is gone."""
    sim.backwards = backwards
    classes = 300
    values = rng.standard_normal((4, classes)).astype(name)
    labels = np.array([0, classes - 1, 130, 2])
    target = rng.random((4, classes)).astype(name) if soft else labels
    for options in ({}, {"label_smoothing": 0.1, "return_probs": True, "return_hess": True,
                         "return_argmax": True}):  # fmt: skip
        x = sim.on_gpu(values)
        got = fx.cross_entropy(x, there(target), grad_out=x, reduction="none", **options)
        assert got[1] is x
        given = EACH | options
        alike(back(got), expected("cross_entropy", values, target, **given), name)


def test_in_place_in_other_layouts(rng):
    """Converted block by block, changed before the kernel: in place all the same."""
    values, labels = rng.standard_normal((6, 4)).astype(np.float32), np.array([0, 5, 1, 3])
    for options in ({"axis": 0}, {"axis": 0, "softcap": 2.0}, {"axis": 0, "logit_scale": -3.0}):
        x = sim.on_gpu(values)
        _, grad = fx.cross_entropy(x, sim.on_gpu(labels), grad_out=x, **options)
        assert grad is x
        want = expected("cross_entropy", values, labels, return_grad=True, **options)
        alike([sim.host(grad)], want[1:], "float32")


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
@pytest.mark.parametrize("classes", [5, 700])
def test_softmax_in_place(rng, function, classes):
    """Out over the logits, in registers or streamed."""
    values = rng.standard_normal((2, classes)).astype(np.float32)
    for backwards in (False, True):
        sim.backwards, x = backwards, sim.on_gpu(values)
        assert getattr(fx, function)(x, out=x) is x
        alike([x.array], [expected(function, values)], "float32")


def test_buffers(rng):
    """grad_out and probs_out are what is returned; of any layout, nothing between is written."""
    values, labels = rng.standard_normal((3, 7)).astype(np.float32), np.array([0, 6, 3])
    want = expected("cross_entropy", values, labels, return_grad=True, return_probs=True)
    whole = [sim.allocate((6, 14), np.float32) for _ in "gp"]
    indices = np.s_[::2, ::2], np.s_[1::2, ::-2]
    before = [a.copy() for a in whole]
    grad, probs = (sim.Array(a[index]) for a, index in zip(whole, indices, strict=True))
    got = fx.cross_entropy(sim.on_gpu(values), sim.on_gpu(labels), grad_out=grad, probs_out=probs)
    assert got[1] is grad
    assert got[2] is probs
    alike(back(got), want, "float32")
    for a, b, index in zip(whole, before, indices, strict=True):
        b[index] = a[index]
        np.testing.assert_array_equal(a, b)


def test_block_by_block(rng, monkeypatch):
    """Several blocks of converted rows take labels, weights and targets of their own place."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2 * 7 * 4)  # two rows
    monkeypatch.setattr(blocks, "columns_of", lambda array: None)  # else taken in place
    x = rng.standard_normal((7, 5)).astype(np.float32)
    u, labels = rng.uniform(0.5, 2, 5).astype(np.float32), np.array([0, 6, -100, 3, 2])
    q = rng.random((7, 5)).astype(np.float32)
    p = expected("softmax", x, axis=0).astype(np.float32)
    given = {"axis": 0, "sample_weight": u, "reduction": "none", "return_grad": True}
    more = {"return_probs": True, "return_lse": True, "return_argmax": True, "return_hess": True}
    for target in (labels, q):
        for options in (more, more | {"softcap": 2.0}):
            compare("float32", "cross_entropy", x, target, **given, **options)
        compare("float32", "categorical_cross_entropy", p, target, **given)
    for function in ("softmax", "logsumexp"):
        compare("float32", function, x, axis=0)
    half = x.astype(np.float16)
    compare("float16", "logsumexp", half, axis=0)
    assert sum(name.startswith("logsumexp") for name in sim.launched) == 6


def test_inputs_are_never_written(rng):
    """Nor is anything else than results and buffers."""
    values = rng.standard_normal((3, 37)).astype(np.float32)
    given = [values, np.array([1, 2, 3]), rng.random(37).astype(np.float32),
             rng.random(3).astype(np.float32)]  # fmt: skip
    x, labels, w, u = map(sim.on_gpu, given)
    fx.cross_entropy(x, labels, weight=w, sample_weight=u, softcap=3.0, **ALL)
    fx.cross_entropy(x, labels, weight=w, sample_weight=u, **ALL)
    for array, before in zip((x, labels, w, u), given, strict=True):
        np.testing.assert_array_equal(array.array, before)


# --- binary, and of probabilities -----------------------------------------------------------

BINARY = {"return_grad": True, "return_probs": True, "return_hess": True}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_logits(rng, name, weighted):
    """Hard labels: 4 ulp and the roundings of weights, for any size of the logit."""
    compute = COMPUTE[name]
    values = rng.uniform(-80, 80, 601) * rng.choice([1, 1e-3, 0.1], 601)
    values[:5] = [0, -20, 40, 1e-3, -40]
    x, labels = of(values, name), rng.integers(0, 2, 601)
    labels[:5] = [1, 0, 0, 1, 1]
    weights = {}
    if weighted:
        weights = {k: rng.uniform(0.5, 2, 601).astype(compute) for k in ("weight", "pos_weight")}
    y = of(labels, name)
    given = BINARY | weights | {"reduction": "none"}
    got = call_binary(x, y, **given)
    want = expected("binary_cross_entropy_with_logits", x, labels, **given)
    bound = (4 + 2 * weighted) * np.finfo(compute).eps
    for k, (a, b) in enumerate(zip(got, want, strict=True)):
        within(a, b, bound, name if k else "loss", normal(b, compute))


def call_binary(x, y, **given):
    return call("binary_cross_entropy_with_logits", x, y, **given)


def test_binary_labels_at_the_ends():
    """Hard labels at ±20, ±40, ±inf: exactly 0 where that is the answer, never where it is not."""
    x = np.repeat(np.array([-INF, -40, -20, 20, 40, INF, NAN, -0.0], np.float32), 2)
    y = np.tile(np.array([0, 1], np.float32), 8)
    for weights in ({}, {"weight": 0.0}, {"pos_weight": 0.0}, {"pos_weight": 3.0}):
        got = call_binary(x, y, reduction="none", **weights, **BINARY)
        want = expected("binary_cross_entropy_with_logits", x, y, reduction="none", **weights,
                        **BINARY)  # fmt: skip
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b.astype(np.float32), rtol=1e-6)
    loss = call_binary(x, y, reduction="none")
    assert loss[0] == 0
    np.testing.assert_allclose(loss[[2, 4]], [4.248354e-18, 2.0611537e-9], rtol=1e-6)


WEIGHTS = [
    {"weight": 0.5, "pos_weight": 3}, {"weight": np.float32([[1], [2], [3]])},
    {"pos_weight": np.arange(1, 41, dtype=np.float32)}, {"weight": np.array(2.0)},
    {"weight": np.float64([[1], [2], [3]]), "pos_weight": np.arange(40)},
    {"weight": np.ones((3, 40), np.float32), "pos_weight": 2.5},
]  # fmt: skip


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda w: "-".join(w))
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_binary_weights(rng, weights, reduction):
    """Numbers, arrays that broadcast, arrays of other types."""
    x = rng.standard_normal((3, 40)).astype(np.float32)
    y = rng.random((3, 40)).astype(np.float32)
    given = BINARY | weights | {"reduction": reduction}
    alike(call_binary(x, y, **given), expected("binary_cross_entropy_with_logits", x, y, **given),
          "float32")  # fmt: skip
    given = {"return_grad": True, "reduction": reduction, "weight": weights.get("weight")}
    p = expected("softmax", x).astype(np.float32)
    compare("float32", "binary_cross_entropy", p, y, **given)


@pytest.mark.parametrize(
    "shape, converted",
    [((3, 1), 0), ((2, 1, 1), 0), ((4,), 0), ((1, 3, 4), 0), ((), 0), ((2, 3, 4), 0),
     ((2, 1, 4), 0), ((1, 1, 1), 0)],
)  # fmt: skip
def test_binary_weights_that_are_spread(rng, shape, converted):
    """Over the axes around their own, and between two groups of these, nothing is copied."""
    x, y = (rng.random((2, 3, 4)).astype(np.float32) for _ in range(2))
    given = BINARY | {"pos_weight": rng.integers(1, 9, shape).astype(np.float32)}
    sim.launched.clear()
    alike(call_binary(x, y, **given), expected("binary_cross_entropy_with_logits", x, y, **given),
          "float32")  # fmt: skip
    assert sum(name.startswith("gather") for name in sim.launched) == converted


@pytest.mark.parametrize(
    "shape, converted",
    [((2, 3, 1, 5, 2), False), ((1, 3, 1, 5, 1), False), ((2, 1, 1, 1, 2), False),
     ((2, 1, 1, 5, 1), False), ((2, 1, 2, 1, 2), True)],
)  # fmt: skip
def test_binary_weights_of_axes_apart(rng, shape, converted):
    """Of a longer shape: one or two groups of axes; with three all is copied."""
    x, y = (rng.random((2, 3, 2, 5, 2)).astype(np.float32) for _ in range(2))
    weights = {
        name: rng.integers(1, 9, shape).astype(np.float32) for name in ("weight", "pos_weight")
    }
    given = BINARY | weights
    sim.launched.clear()
    alike(call_binary(x, y, **given), expected("binary_cross_entropy_with_logits", x, y, **given),
          "float32")  # fmt: skip
    assert any(name.startswith("gather") for name in sim.launched) == converted


@pytest.mark.parametrize("function", ["binary_cross_entropy", "binary_cross_entropy_with_logits"])
def test_binary_layouts_and_types(rng, function):
    """Strided, of integers, targets of another type: converted in several parts; in place."""
    p = rng.uniform(0.1, 0.9, (30, 41)).astype(np.float32)
    y = rng.integers(0, 2, (30, 41))
    want = expected(function, p, y, return_grad=True)
    alike(call(function, p, y, return_grad=True), want, "float32")
    x = sim.on_gpu(np.ascontiguousarray(p.T))
    x.array = x.array.T
    loss, grad = fx.__dict__[function](x, sim.on_gpu(y.astype(np.float32)), grad_out=x)
    assert grad is x
    alike(back((loss, grad)), want, "float32")
    x = sim.on_gpu(p)
    loss, grad = fx.__dict__[function](x, sim.on_gpu(y.astype(np.float32)), grad_out=x)
    assert grad is x
    alike(back((loss, grad)), want, "float32")
    ones = call(function, np.ones((2, 3), int), np.ones((2, 3), bool), reduction="none")
    assert ones.dtype == np.float64
    alike([ones], [expected(function, np.ones((2, 3)), np.ones((2, 3)), reduction="none")],
          "float64")  # fmt: skip
    scalar = call(function, np.array(0.25, np.float32), np.array(1.0, np.float32), reduction="none")
    assert scalar.shape == ()


def test_binary_sums_keep_what_rounding_loses():
    """A loss of 2^24 beside hundreds of less than 1."""
    x, y = np.zeros(500, np.float32), np.zeros(500, np.float32)
    w = np.ones(500, np.float32)
    w[[7, 260]] = 2.0**24, -(2.0**24)
    loss = call_binary(x, y, weight=w, reduction="sum")
    np.testing.assert_allclose(loss, 498 * np.log(2), rtol=1e-6)
    w[260] = 1
    loss = call_binary(x, y, weight=w, reduction="sum")
    np.testing.assert_allclose(loss, (2.0**24 + 499) * np.log(2), rtol=1.3e-7)
    w[7] = INF
    assert call_binary(x, y, weight=w, reduction="sum") == INF


def near_the_ends(rng, name, shape):
    """Probabilities from 1e-30 to 1 - ulp, and 0 and 1."""
    p = rng.random(shape)
    p.flat[::3] = 10.0 ** -rng.uniform(0, 30, p.flat[::3].size)
    p.flat[1::3] = 1 - 10.0 ** -rng.uniform(0, 7 if name == "float32" else 15, p.flat[1::3].size)
    p.flat[:4] = [0, 0, 1, 1]
    return p.astype(name)


@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("eps", [None, 1e-15, 0.1])
def test_binary_probabilities(rng, name, eps):
    """Hard labels: 4 ulp; p outside 0 .. 1 is nan or clipped, nan stays."""
    p = near_the_ends(rng, name, 301)
    y = rng.integers(0, 2, 301).astype(name)
    y[:4] = [0, 1, 0, 1]
    p[4:9], y[4:9] = [-0.1, 1.1, -INF, INF, NAN], 0.25
    given = EACH | {"eps": eps}
    got, want = (
        call("binary_cross_entropy", p, y, **given),
        expected("binary_cross_entropy", p, y, **given),
    )
    bound = 4 * np.finfo(name).eps
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a[4:9], b[4:9].astype(name), rtol=1e-6)
        assert worst(a[9:], b[9:], bound, normal(b[9:], name)) <= 1
        assert worst(a[:4], b[:4], bound, normal(b[:4], name)) <= 1


@pytest.mark.parametrize("eps", [None, 1e-15, 0.05])
@pytest.mark.parametrize(("name", "classes"), [
    ("float32", 5), ("float32", 37), ("float32", 601), ("float64", 33),
])  # fmt: skip
def test_categorical(rng, name, classes, eps):
    """Losses and gradients of probabilities, in place too: 4 ulp, soft rows 2 for products."""
    p = near_the_ends(rng, name, (4, classes))
    labels = np.array([0, classes - 1, -100, classes // 2])
    q = rng.dirichlet(np.ones(classes), 4).astype(name)
    q[:, 1::7] = 0
    weight = rng.uniform(0.5, 2, classes).astype(name)
    for target, ulps in ((labels, 4), (q, 6)):
        given = EACH | {"eps": eps, "weight": weight}
        want = expected("categorical_cross_entropy", p, target, **given)
        x = sim.on_gpu(p)
        got = call("categorical_cross_entropy", p, target, **given)
        in_place = fx.categorical_cross_entropy(
            x, there(target), weight=there(weight), eps=eps, reduction="none", grad_out=x
        )
        assert in_place[1] is x
        for results in (got, back(in_place)):
            for a, b in zip(results, want, strict=True):
                assert worst(a, b, ulps * np.finfo(name).eps, normal(b, name) | (b == 0)) <= 1
    given = {"eps": eps, "weight": weight, "sample_weight": np.arange(4).astype(name)}
    for target in (labels, q):
        compare(name, "categorical_cross_entropy", p, target, **given)


@pytest.mark.parametrize("backwards", [False, True])
def test_categorical_in_place_of_several_warps(backwards):
    """p at the target is read before another warp's gradient lies over it."""
    sim.backwards = backwards
    p = np.full((3, 500), 0.25, np.float32)
    labels = np.array([0, 499, 250])
    x = sim.on_gpu(p)
    loss, grad = fx.categorical_cross_entropy(x, sim.on_gpu(labels), reduction="none", grad_out=x)
    np.testing.assert_allclose(loss.array, np.log(4), rtol=1e-6)
    np.testing.assert_array_equal(grad.array, -4.0 * (np.arange(500) == labels[:, None]))


def test_categorical_of_special_values():
    """A class without weight adds nothing; 0, 1, outside and nan as in the reference."""
    p = np.float32([[NAN, 0.5, 7, 0.25], [0, 1, 0.5, 0.5], [1.5, -1, INF, 0.5]])
    q = np.float32([[0, 1, 0, 1], [1, 1, 0, 0], [0.5, 0, 0, 1]])
    for eps, target in itertools.product((None, 1e-15), (q, np.array([1, 0, 3]))):
        given = EACH | {"eps": eps}
        compare("float32", "categorical_cross_entropy", p, target, **given)


def test_the_same_bits_again(rng):
    """The same call gives the same bits, whichever thread is ahead."""
    x, q = (rng.standard_normal((3, 301)).astype(np.float32) for _ in "xq")
    results = []
    for backwards in (False, True):
        sim.backwards = backwards
        results.append(call("cross_entropy", x, np.abs(q), **ALL))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
