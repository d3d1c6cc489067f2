"""Second derivatives and entropy on a simulated GPU, against the reference in longdouble."""

import itertools

import numpy as np
import pytest
import simulator as sim
import small  # noqa: F401 - few threads
from conftest import GpuBounds, normal
from test_simulated import (
    COMPUTE,
    INF,
    NAN,
    TYPES,
    Bits,
    alike,
    back,
    call,
    compare,
    exact,
    expected,
    make_logits,
    nothing_of_before,  # noqa: F401 - used by every test
    of,
    short_and_long,
    sizes,
    special_rows,
    there,
    within,
)

import fastxent as fx
from fastxent import reference
from fastxent.cuda import blocks, driver

HVP, BINARY_HVP = "cross_entropy_hvp", "binary_cross_entropy_with_logits_hvp"


def coefficient_sum(target, w, smoothing, classes):
    """A of each row, (N, 1)."""
    if target.ndim == 1:
        a = (1 - smoothing) * w[target] + smoothing / classes * w.sum()
    else:
        a = (w * ((1 - smoothing) * target + smoothing / classes)).sum(-1)
    return a[:, None]


def product_terms(r, target, v, options):
    """The sum of the absolute terms of a product, as the specification has it; reduction none."""
    classes, cap = r.shape[-1], options.get("softcap")
    s, z_loss = np.longdouble(options.get("logit_scale", 1)), options.get("z_loss", 0)
    w = exact(options.get("weight", np.ones(classes)))
    u = exact(options.get("sample_weight", np.ones(len(r))))[:, None]
    z, t1, t2 = s * r, s, 0 * r
    if cap:
        tau = np.tanh(z / cap)
        z, t1 = cap * tau, s * (1 - tau) * (1 + tau)
        t2 = -2 * s**2 / cap * tau * (1 - tau) * (1 + tau)
    p, lse = reference.softmax(z), reference.logsumexp(z)[:, None]
    tv = t1 * v
    m = np.take_along_axis(tv, z.argmax(-1)[:, None], -1)
    smoothing = options.get("label_smoothing", 0)
    a = coefficient_sum(target, w, np.longdouble(smoothing), classes) + 2 * z_loss * np.abs(lse)
    spread = np.abs(tv - m) + (p * np.abs(tv - m)).sum(-1, keepdims=True)
    pull = 2 * z_loss * (p * np.abs(tv)).sum(-1, keepdims=True)
    _, g = reference.cross_entropy(
        z, target, weight=w, label_smoothing=smoothing, z_loss=z_loss, reduction="none",
        return_grad=True,
    )  # fmt: skip
    return np.abs(u) * (np.abs(t1) * p * (a * spread + pull) + np.abs(g * t2 * v)), z


def check_product(name, x, target, v, bits=0.0, **options):
    """A product within its bound, relative to its terms, and `bits` ulp more."""
    compute = COMPUTE[name]
    got = call(HVP, x, target, v, reduction="none", **options)
    want = expected(HVP, x, target, v, reduction="none", **options)
    read = exact(target) if isinstance(target, Bits) or target.dtype.kind == "f" else target
    given = {k: exact(a) if isinstance(a, np.ndarray) else a for k, a in options.items()}
    terms, z = product_terms(exact(x), read, exact(v), given)
    bounds = GpuBounds(z, compute, softcap=options.get("softcap", 0.0))
    where = normal(terms, compute)
    within(got, want, bounds.probs() + bits * bounds.ulp, name, where, terms)
    return got


def plan_of_launched():
    """The fields of the ThreadPlan of the last launch of the kernel, as words."""
    name = next(name for name in sim.launched[::-1] if name.startswith("hvp"))
    return name.partition("ThreadPlan(")[2].partition(")")[0].split(",")


# --- products with rows of logits -----------------------------------------------------------


@sizes
def test_products(rng, name, classes):
    """Every length and type: what the threads hold, and what they stream."""
    x, v = make_logits(rng, name, classes), of(rng.standard_normal((4, classes)), name)
    labels = np.array([exact(x)[0].argmax(), classes // 2, 0, classes - 1])
    got = check_product(name, x, labels, v)
    if classes == 1:
        assert not got.any()


OPTIONS = {
    "weights": {"weight": True, "sample_weight": True},
    "smoothing": {"weight": True, "label_smoothing": 0.1},
    "z-loss": {"z_loss": 0.3},
    "scale": {"logit_scale": 3.0},
    "a negative scale": {"logit_scale": -1.3, "z_loss": 0.1},
    "softcap": {"softcap": 5.0, "logit_scale": 2.0},
    "all": {"weight": True, "sample_weight": True, "label_smoothing": 0.2, "z_loss": 0.01,
            "logit_scale": 0.5, "softcap": 3.0},
}  # fmt: skip


def with_arrays(rng, options, rows, classes, kind):
    """Options with arrays for the weights that are to be there."""
    made = {"weight": rng.uniform(0.5, 2, classes), "sample_weight": rng.uniform(0.5, 2, rows)}
    return {k: made[k].astype(kind) if v is True else v for k, v in options.items()}


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("case", OPTIONS)
def test_products_under_options(rng, name, case, soft):
    """Each for both kinds of target, relative to the absolute terms."""
    x, v = make_logits(rng, name, 37, 6), of(rng.standard_normal((4, 37)), name)
    options = with_arrays(rng, OPTIONS[case], 4, 37, COMPUTE[name])
    target = of(rng.dirichlet(np.ones(37), 4), name) if soft else rng.integers(0, 37, 4)
    extra = 6 + 2 * 12 / options["softcap"] if "softcap" in options else 6
    check_product(name, x, target, v, extra + 6 * ("logit_scale" in options), **options)


@short_and_long
def test_products_of_soft_targets_and_smoothing_at_length(rng, name, classes):
    """Sums of coefficients of rows that are held by a block, or streamed."""
    x, v = make_logits(rng, name, classes), of(rng.standard_normal((4, classes)), name)
    q = rng.dirichlet(np.ones(classes), 4).astype(name)
    options = {"weight": rng.uniform(0.5, 2, classes).astype(name), "label_smoothing": 0.1}
    check_product(name, x, q, v, 6, **options, z_loss=0.1)
    check_product(name, x, rng.integers(0, classes, 4), v, 6, **options)


@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("classes", [3, 37, 601])
def test_products_of_confident_rows(rng, name, classes):
    """One class has p = 1 - δ, δ down to 1e-30: v_j - π keeps its digits, also at that class."""
    delta = np.array([1e-3, 1e-8, 1e-16, 1e-26, 1e-30])
    labels = np.array([0, classes // 2, classes - 1, 1, classes - 2])
    x = np.repeat(np.log(delta / (classes - 1))[:, None], classes, 1).astype(name)
    x[np.arange(5), labels] = 0
    v = rng.uniform(1, 2, (5, classes)).astype(name)
    v[np.arange(5), labels] = 5  # so that v_m - π is a sum of numbers of one sign
    got, want = (f(HVP, x, labels, v, reduction="none") for f in (call, expected))
    np.testing.assert_allclose(got, want.astype(float), 1e-5 if name == "float32" else 1e-12)
    assert (got != 0).all()


def test_products_of_rows_of_equal_logits():
    """Sums of many equal terms, which one chain would let drift: streamed, of vectors of ones."""
    x, v = np.full((1, 20000), 0.3, np.float32), np.full((1, 20000), 1 / 3, np.float32)
    v[0, 0] = 0  # u_j is the same for all the others
    check_product("float32", x, np.array([7]), v)


def test_entropy_of_rows_of_equal_logits():
    """Likewise: log C and no gradient; of all but one of them the sum of many equal terms."""
    x = np.full((2, 20000), 0.25, np.float32)
    x[1, 77] += 5
    H, grad = call("entropy", x, return_grad=True)
    want = expected("entropy", x).astype(float)
    np.testing.assert_allclose(H, want, 8 * 2.0**-23)
    assert not grad[0].any() and grad[1].all()


@pytest.mark.parametrize("z_loss", [0.0, 0.2])
def test_a_shared_offset_of_the_vector_is_no_part_of_the_product(rng, z_loss):
    """v + 2^20 has the bits of the product with v, without z-loss; with it π is summed directly."""
    x = rng.standard_normal((3, 37)).astype(np.float32)
    v, labels = rng.integers(-8, 8, (3, 37)).astype(np.float32), np.array([0, 36, 5])
    if z_loss:
        check_product("float32", x, labels, v + 2.0**20, 4, z_loss=z_loss)
        v[:, 1:] = -(2.0**20)
        v[:, 0] = 2.0**20
        check_product("float32", x, labels, v, 4, z_loss=z_loss)
    else:
        plain, moved = (call(HVP, x, labels, a) for a in (v, v + 2.0**20))
        np.testing.assert_array_equal(plain, moved)


def test_the_first_of_equal_maxima_is_the_one_that_counts(rng):
    """Beside another of them with a large number in the vector, wherever the two are."""
    for classes, places in ((601, (300, 301)), (601, (0, 8)), (1601, (300, 1590))):
        x, v = np.zeros((1, classes), np.float32), rng.standard_normal((1, classes))
        v = v.astype(np.float32)
        x[0, list(places)] = 2.0**-10
        v[0, places[1]] = 2.0**22
        check_product("float32", x, np.array([2]), v)


@pytest.mark.parametrize("options", [
    {}, {"label_smoothing": 0.3}, {"softcap": 2.0}, {"logit_scale": -2.0}, {"z_loss": 0.1},
    {"logit_scale": 0.0},
], ids=str)  # fmt: skip
@pytest.mark.parametrize(("name", "classes", "places"), [
    ("float32", 3, [0, 1]), ("float32", 19, [0, 7]), ("float64", 19, [18, 3]),
])  # fmt: skip
def test_products_of_special_rows(rng, name, classes, places, options):
    """Each pair of {0, 1.5, -inf, inf, nan} as logits: nan where the gradient is."""
    x = special_rows(name, classes, places)
    v = rng.standard_normal(x.shape).astype(name)
    compare(name, HVP, x, np.full(len(x), places[0]), v, reduction="none", **options)
    if not options:
        q = np.full(x.shape, 1 / classes, name)
        compare(name, HVP, x, q, v, reduction="none")


@pytest.mark.parametrize("special", [INF, -INF, NAN])
@pytest.mark.parametrize("classes", [5, 37, 700])
def test_a_class_without_probability_takes_no_part(rng, classes, special):
    """Whatever the vector holds there: its product is 0, and the others are as without it."""
    x, v = (rng.standard_normal((3, classes)).astype(np.float32) for _ in "xv")
    x[:, [1, classes - 1]] = -INF
    labels = np.array([0, 1, 2])
    with_special = v.copy()
    with_special[:, [1, classes - 1]] = special
    for options in ({}, {"z_loss": 0.1}):
        got = call(HVP, x, labels, with_special, reduction="none", **options)
        np.testing.assert_array_equal(got, call(HVP, x, labels, v, reduction="none", **options))
        assert not got[:, [1, classes - 1]].any()


@pytest.mark.parametrize("options", [{}, {"softcap": 3.0}, {"z_loss": 0.1}], ids=str)
@pytest.mark.parametrize(("name", "classes"), [("float32", 2), ("float32", 37), ("float64", 700)])
def test_products_of_ignored_rows(name, classes, options):
    """Exactly 0 whatever their logits and vectors hold; a bad label is nan where nobody checks."""
    x = np.full((6, classes), -1, name)
    x[:, :2] = [[1, NAN], [0, INF], [3, 1], [-INF, -INF], [0.5, 0], [1, 0]]
    v = np.full((6, classes), 2, name)
    v[:4] = NAN
    v[4:, 0] = 1
    u = np.array([1, 1, 1, 0, 1, 1], name)
    labels = np.array([-100, -100, -100, 1, 0, classes])
    got = call(HVP, x, labels, v, sample_weight=u, reduction="none", check_target=False, **options)
    assert (got[:4] == 0).all()
    assert (got[4] != 0).any() and np.isfinite(got[4]).all()
    assert np.isnan(got[5]).all()
    with pytest.raises(IndexError, match=r"target\[5\]"):
        call(HVP, x, labels, v, sample_weight=u)


@pytest.mark.parametrize("options", [
    {"normalizer": 0}, {"sample_weight": np.zeros(2, np.float32)},
    {"weight": np.zeros(3, np.float32)},
])  # fmt: skip
def test_products_of_a_mean_over_nothing(options):
    """Zeros, as for the gradient, whatever the rows hold."""
    x = np.array([[1, NAN, 0], [1, 2, 3]], np.float32)
    got = call(HVP, x, np.array([0, 1]), np.full_like(x, NAN), **options)
    np.testing.assert_array_equal(got, np.zeros_like(x))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_products_of_reduced_losses(rng, reduction):
    """Divided as the loss is, also by a number on the GPU."""
    x, v = (rng.standard_normal((5, 7)).astype(np.float32) for _ in "xv")
    labels, w = np.array([0, 2, -100, 6, 1]), rng.uniform(0.5, 2, 7).astype(np.float32)
    compare("float32", HVP, x, labels, v, reduction=reduction, weight=w)
    if reduction == "mean":
        compare("float32", HVP, x, labels, v, normalizer=np.array(7.5, np.float32))


@pytest.mark.parametrize("name", ["float32", "float64", "float16"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("over", ["logits", "vector"])
@pytest.mark.parametrize("classes", [5, 20, 300, 1300])
def test_products_in_place(rng, name, backwards, over, classes):
    """Out over the vector or the logits: whichever warp is ahead, all is read before it is gone."""
    sim.backwards = backwards
    x, v = (rng.standard_normal((3, classes)).astype(name) for _ in "xv")
    x[1, -1] = x[2, 1] = 9  # the largest logit is another thread's
    labels = np.array([0, classes - 1, 2])
    for options in ({}, {"softcap": 4.0, "z_loss": 0.1}) if classes < 50 else ({},):
        want = call(HVP, x, labels, v, **options)
        given = {"logits": sim.on_gpu(x), "vector": sim.on_gpu(v)}
        out = given[over]
        got = fx.cross_entropy_hvp(target=sim.on_gpu(labels), out=out, **given, **options)
        assert got is out
        np.testing.assert_array_equal(out.array, want)
        other = {"logits": v, "vector": x}[over]
        np.testing.assert_array_equal(
            given["vector" if over == "logits" else "logits"].array, other
        )


@pytest.mark.parametrize("kind", ["?", "i1", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize("name", ["float32", "float64", "float16"])
def test_vectors_of_other_types(rng, name, kind):
    """They are converted to what is computed in; the result has the logits' type."""
    x, v = rng.standard_normal((3, 9)).astype(name), rng.integers(0, 2, (3, 9)).astype(kind)
    labels = np.array([0, 8, 3])
    got = call(HVP, x, labels, v)
    assert got.dtype == x.dtype
    alike([got], [expected(HVP, x, labels, v.astype(float))], name)
    ints = call(HVP, np.arange(27).reshape(3, 9), labels, v)
    assert ints.dtype == np.float64


def test_products_in_other_layouts(rng, monkeypatch):
    """Classes along another axis, vectors and buffers that lie otherwise, block by block."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2 * 7 * 4)  # two rows
    x, v = (rng.standard_normal((7, 5)).astype(np.float32) for _ in "xv")
    u, labels = rng.uniform(0.5, 2, 5).astype(np.float32), np.array([0, 6, -100, 3, 2])
    q = rng.random((7, 5)).astype(np.float32)
    for target, options in itertools.product((labels, q), ({}, {"softcap": 2.0, "z_loss": 0.1})):
        given = {"axis": 0, "sample_weight": u, "reduction": "none", **options}
        compare("float32", HVP, x, target, v, **given)
        want = expected(HVP, x, target, v, **given)
        for over in range(2):
            arrays = sim.on_gpu(x), sim.on_gpu(v)
            rest = {k: there(a) for k, a in given.items()}
            fx.cross_entropy_hvp(arrays[0], there(target), arrays[1], out=arrays[over], **rest)
            alike([arrays[over].array], [want], "float32")
    column_major = sim.on_gpu(np.ascontiguousarray(v.T))
    column_major.array = column_major.array.T
    got = back(fx.cross_entropy_hvp(sim.on_gpu(x), sim.on_gpu(np.zeros(7, int)), column_major))
    alike([got], [expected(HVP, x, np.zeros(7, int), v)], "float32")


@pytest.mark.parametrize("begin", [0, 4, 8])
@pytest.mark.parametrize("begin_v", [0, 4])
def test_products_wherever_rows_begin(rng, begin, begin_v):
    """A vector that is aligned otherwise is read by single elements; nothing beside is written."""
    values, v = (rng.standard_normal((3, 37)).astype(np.float32) for _ in "xv")
    labels = np.array([1, 36, 0])
    frames = [sim.allocate((3, 42), np.float32, misaligned=at) for at in (begin, begin_v, begin)]
    for frame, source in zip(frames, (values, v, values), strict=True):
        frame[...] = NAN
        frame[:, 2:-3] = source
    x, vector, out = (sim.Array(frame[:, 2:-3]) for frame in frames)
    before = frames[2].copy()
    fx.cross_entropy_hvp(x, sim.on_gpu(labels), vector, out=out)
    alike([out.array], [expected(HVP, values, labels, v)], "float32")
    before[:, 2:-3] = out.array
    np.testing.assert_array_equal(frames[2], before)
    _, _, _, vectorised, *_ = plan_of_launched()
    assert vectorised == str(begin == begin_v)


# --- long rows on clusters ------------------------------------------------------------------


@pytest.fixture
def clusters(monkeypatch):
    """A GPU that has them."""
    monkeypatch.setattr(driver, "processors", lambda device: 100)
    monkeypatch.setattr(driver, "capability", lambda device: (9, 0))


@pytest.mark.parametrize(("classes", "blocks_of_row"), [(513, 2), (1601, 4), (2200, 8), (4500, 8)])
@pytest.mark.parametrize("over", ["vector", "logits"])
def test_products_on_clusters(rng, clusters, classes, blocks_of_row, over):
    """Parts that are full, that are not, and streamed; the last block ahead, in place."""
    x, v = (rng.standard_normal((3, classes)).astype(np.float32) for _ in "xv")
    x[0, -1] = x[1, 0] = 12
    labels = np.array([0, classes - 1, classes // 2])
    check_product("float32", x, labels, v)
    assert plan_of_launched()[-1] == str(blocks_of_row)
    sim.backwards = True
    want = call(HVP, x, labels, v)
    given = {"logits": sim.on_gpu(x), "vector": sim.on_gpu(v)}
    fx.cross_entropy_hvp(target=sim.on_gpu(labels), out=given[over], **given)
    np.testing.assert_array_equal(given[over].array, want)


@pytest.mark.parametrize("soft", [False, True])
def test_options_on_clusters(rng, clusters, soft):
    """Coefficients and weights of each part's own classes."""
    x, v = (rng.standard_normal((2, 1601)).astype(np.float32) for _ in "xv")
    target = rng.dirichlet(np.ones(1601), 2).astype(np.float32) if soft else np.array([3, 1600])
    options = with_arrays(rng, OPTIONS["smoothing"], 2, 1601, np.float32) | {"z_loss": 0.1}
    check_product("float32", x, target, v, 6, **options)
    assert plan_of_launched()[-1] == "4"


def test_special_parts_on_clusters(rng, clusters):
    """A part of -inf alone, one with nan, +inf, all -inf, a confident row, ignored, bad labels."""
    x, v = np.zeros((8, 1100), np.float32), rng.standard_normal((8, 1100)).astype(np.float32)
    x[0, 512:] = -INF
    x[1, 600] = NAN
    x[2, 1000] = INF
    x[3] = -INF
    x[4] = -60
    x[4, 700] = 0
    x[5] += 2**20
    x[6] = NAN
    labels = np.array([3, 0, 1000, 5, 700, 9, -100, 1100])
    given = {"reduction": "none", "check_target": False}
    got = call(HVP, x, labels, v, **given)
    alike([got], [expected(HVP, x, labels, v, **given)], "float32")
    assert np.isnan(got[7]).all() and not got[6].any()
    assert plan_of_launched()[-1] == "4"


# --- elements -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_products(rng, name, weighted):
    """The Hessian's bound and one product more."""
    compute = COMPUTE[name]
    values = rng.uniform(-60, 60, 601) * rng.choice([1, 1e-3, 0.1], 601)
    x, y, v = (of(a, name) for a in (values, rng.integers(0, 2, 601), rng.standard_normal(601)))
    names = ("weight", "pos_weight") if weighted else ()
    given = {k: rng.uniform(0.5, 2, 601).astype(compute) for k in names} | {"reduction": "none"}
    got, want = call(BINARY_HVP, x, y, v, **given), expected(BINARY_HVP, x, y, v, **given)
    where = normal(want, compute) & (np.abs(values) < 40)  # the Hessian is normal too
    within(got, want, (5 + 2 * weighted) * np.finfo(compute).eps, name, where)
    alike([call(BINARY_HVP, x, y, v)], [expected(BINARY_HVP, x, y, v)], name)


def test_binary_products_of_special_values():
    """Exactly 0 where the coefficient is, whatever logit and vector hold."""
    x = np.repeat(np.array([-INF, -40, -20, 20, 40, INF, NAN, 0], np.float32), 3)
    v = np.tile(np.array([1, NAN, INF], np.float32), 8)
    y = np.ones(24, np.float32)
    for weights in ({}, {"weight": 0.0}, {"pos_weight": 0.0}, {"pos_weight": 3.0}):
        got = call(BINARY_HVP, x, y, v, reduction="none", **weights)
        if 0.0 in weights.values():
            assert (got == 0).all()
        else:
            want = expected(BINARY_HVP, x, y, v, reduction="none", **weights)
            np.testing.assert_allclose(got, want.astype(np.float32), rtol=1e-6)


@pytest.mark.parametrize("over", ["logits", "vector"])
def test_binary_products_in_place_and_in_other_layouts(rng, over):
    """Over either input; strided, vectors of other types, of any rank, over several blocks."""
    x, v = (rng.standard_normal((30, 41)).astype(np.float32) for _ in "xv")
    y = rng.integers(0, 2, (30, 41)).astype(np.float32)
    want = expected(BINARY_HVP, x, y, v)
    for transposed in (False, True):
        given = {}
        for name, values in (("logits", x), ("vector", v)):
            given[name] = sim.on_gpu(values.T.copy() if transposed else values)
            if transposed:
                given[name].array = given[name].array.T
        out = given[over]
        assert getattr(fx, BINARY_HVP)(target=sim.on_gpu(y), out=out, **given) is out
        alike([out.array], [want], "float32")
    alike([call(BINARY_HVP, x, y, v.astype(np.float64))], [want], "float32")
    w = rng.integers(1, 9, (30, 1)).astype(np.float32)
    compare("float32", BINARY_HVP, x, y, v, weight=w, pos_weight=2.5)
    one = call(BINARY_HVP, *(np.array(a[0, 0]) for a in (x, y, v)))
    assert one.shape == ()
    assert call(BINARY_HVP, x[:0], y[:0], v[:0]).shape == (0, 41)


# --- entropy --------------------------------------------------------------------------------


@sizes
def test_entropy(rng, name, classes):
    """Within its bounds, alone and with its gradient; exactly 0 of one class."""
    x, compute = make_logits(rng, name, classes), COMPUTE[name]
    z = exact(x)
    want, want_grad = reference.entropy(z, return_grad=True)
    bounds, p = GpuBounds(z, compute), reference.softmax(z)
    H, grad = call("entropy", x, return_grad=True)
    assert H.dtype == compute
    logs = np.abs(reference.log_softmax(z))
    size = (p * logs).sum(-1)
    allowed = (bounds.probs() * p * logs).sum(-1) + bounds.lse() * size
    for got in (H, call("entropy", x)):
        within(got, want, 1, "loss", of_terms=allowed)
    terms = p * (logs + want[:, None])
    within(grad, want_grad, bounds.probs(), name, normal(terms, compute), terms)
    if classes == 1:
        assert not H.any() and not grad.any() and not np.signbit(H).any()


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_entropy_of_special_and_of_confident_rows(name):
    """Nan as softmax is, no part of a class without probability, and digits down to 1e-30."""
    for x in (special_rows(name, 19, [1, 17]), special_rows(name, 2, [0, 1])):
        compare(name, "entropy", x, return_grad=True)
    x = np.array([[0, -20, -21], [-60, 0, -59], [-INF, 0, -40], [-INF, 3, -INF]], name)
    H, want = call("entropy", x), expected("entropy", x).astype(float)
    np.testing.assert_allclose(H, want, 1e-5 if name == "float32" else 1e-12)
    assert (H[:3] > 0).all() and H[3] == 0


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("classes", [5, 20, 700])
def test_entropy_in_place(rng, backwards, classes):
    """The gradient over the logits."""
    values = rng.standard_normal((3, classes)).astype(np.float32)
    sim.backwards, x = backwards, sim.on_gpu(values)
    H, grad = fx.entropy(x, grad_out=x)
    assert grad is x
    alike(back((H, grad)), expected("entropy", values, return_grad=True), "float32")


def test_entropy_in_other_layouts(rng, monkeypatch):
    """Along another axis, of integers, block by block; C-contiguous results."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2 * 7 * 4)
    x = rng.standard_normal((7, 5)).astype(np.float32)
    for values in (x, x.astype(np.float16)):
        for axis in (0, 1):
            compare(str(values.dtype), "entropy", values, axis=axis, return_grad=True)
    compare("float64", "entropy", rng.integers(0, 4, (3, 5)), return_grad=True)
    assert call("entropy", x[0]).shape == ()
    assert call("entropy", x[:0]).shape == (0,)
    with pytest.raises(ValueError, match="class"):
        call("entropy", np.empty((2, 0), np.float32))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("options", [
    {}, {"logit_scale": 2.0}, {"softcap": 3.0, "logit_scale": -2.0}, {"label_smoothing": 0.1},
], ids=str)  # fmt: skip
@pytest.mark.parametrize(("name", "classes"), [("float32", 7), ("float16", 37), ("float64", 901)])
def test_entropy_beside_a_loss(rng, name, classes, options, soft):
    """That of the logits as the loss has them, for ignored rows too, unscaled."""
    x, labels = 2 * rng.standard_normal((4, classes)).astype(name), np.array([0, -100, 3, 1])
    target = rng.dirichlet(np.ones(classes), 4).astype(name) if soft else labels
    given = {"return_entropy": True, "return_grad": True, **options}
    u = np.array([1, 1, 0, 2], COMPUTE[name])
    got = call("cross_entropy", x, target, sample_weight=u, **given)
    want = expected("cross_entropy", x, target, sample_weight=u, **given)
    alike([got[0], got[2]], [want[0], want[2]], str(np.dtype(COMPUTE[name])))
    np.testing.assert_allclose(
        got[1].astype(float), want[1].astype(float), 2e-3 if name == "float16" else 5e-6, 1e-4
    )
    alone = call("cross_entropy", x, target, sample_weight=u, return_entropy=True, **options)
    np.testing.assert_array_equal(alone[1], got[2])
    plain = call("cross_entropy", x, target, sample_weight=u, **options)
    np.testing.assert_allclose(plain, got[0], 1e-6)


# --- the diagonal ---------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", ["float32", "float64", "float16"])
@pytest.mark.parametrize("case", OPTIONS)
def test_the_diagonal_under_options(rng, name, case, soft):
    """Of the Hessian of the loss with all its options, alone and beside the gradient."""
    x = make_logits(rng, name, 11, 4)
    options = with_arrays(rng, OPTIONS[case], 4, 11, COMPUTE[name])
    target = of(rng.dirichlet(np.ones(11), 4), name) if soft else np.array([0, 10, -100, 5])
    given = {"return_hess": True, "reduction": "sum", **options}
    want = expected("cross_entropy", x, target, **given)[1].astype(float)
    rtol, atol = {"float32": (2e-5, 2e-7), "float64": (1e-12, 1e-14), "float16": (2e-3, 1e-6)}[name]
    got = call("cross_entropy", x, target, **given)
    with_grad = call("cross_entropy", x, target, return_grad=True, **given)
    np.testing.assert_allclose(got[1].astype(float), want, rtol, atol)
    np.testing.assert_array_equal(with_grad[2], got[1])
    want_grad = expected("cross_entropy", x, target, return_grad=True, **given)[1].astype(float)
    np.testing.assert_allclose(with_grad[1].astype(float), want_grad, 10 * rtol, 10 * atol)


def test_the_diagonal_is_that_of_the_products(rng):
    """e_j · hvp(e_j) for every class, under all options."""
    x, labels = rng.standard_normal((1, 6)), np.array([2])
    options = {"z_loss": 0.1, "softcap": 2.0, "logit_scale": 1.5, "label_smoothing": 0.2}
    hess = call("cross_entropy", x, labels, return_hess=True, **options)[1][0]
    columns = call(
        HVP, np.repeat(x, 6, 0), np.repeat(labels, 6), np.eye(6), reduction="sum", **options
    )
    np.testing.assert_allclose(np.diag(columns), hess, 1e-12, 1e-15)
    np.testing.assert_allclose(columns, columns.T, 1e-12, 1e-15)


def test_ignored_rows_have_no_diagonal():
    """Exactly 0 whatever they hold, under a softcap too."""
    x = np.array([[1, NAN, 2], [3, 1, INF], [0, 1, 2]], np.float32)
    for options in ({}, {"softcap": 3.0}, {"logit_scale": -2.0}):
        hess = call("cross_entropy", x, np.array([-100, -100, 1]), return_hess=True, **options)[1]
        assert not hess[:2].any() and hess[2].all()


def test_special_values_have_the_diagonal_of_the_reference():
    """Each pair of them, under each option."""
    x = special_rows("float32", 5, [0, 3])
    labels = np.full(len(x), 3)
    for options in ({}, {"z_loss": 0.1}, {"softcap": 2.0}, {"logit_scale": 0.0}):
        given = {"reduction": "none", "return_hess": True, **options}
        compare("float32", "cross_entropy", x, labels, **given)
