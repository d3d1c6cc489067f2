"""float16 and bfloat16 as they are: read without a copy, computed in float32, rounded once."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from numba import njit, types

import fastxent as fx
from fastxent import reference
from fastxent.cpu import arguments, half_lanes, memory

HALF = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
# Half a unit in the last place, relative to the smallest number of that exponent; and half a step
# of float16's subnormal numbers.
ROUNDING = {"float16": (2**-11, 2**-25), "bfloat16": (2**-8, 0)}
FLAGS = dict(return_grad=True, return_probs=True, return_lse=True, return_hess=True,
             return_argmax=True, reduction="none")  # fmt: skip
LAYOUTS = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "every other column": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "unaligned rows": lambda a: np.pad(a, ((0, 0), (1, 2)))[:, 1:-2],
}
OPTIONS = [{}, {"label_smoothing": 0.1, "weight": True, "sample_weight": True}, {"softcap": 5.0},
           {"logit_scale": 0.7, "z_loss": 0.1}]  # fmt: skip


@pytest.fixture(params=HALF, ids=str)
def half(request):
    """Both types of half precision."""
    return request.param


@pytest.fixture(params=["instructions", "integers"])
def conversion(request, monkeypatch):
    """With the CPU's conversions of float16, and with integer arithmetic."""
    if request.param == "integers":
        monkeypatch.setattr(half_lanes, "has_conversion", lambda: False)
    return request.param


def converter(half, into_half):
    """A compiled copy of rows that widens or rounds."""
    kinds = arguments.ELEMENTS[half.char], types.float32
    source, target = (kinds[1], kinds[0]) if into_half else kinds

    @njit((types.Array(source, 2, "C"), types.Array(target, 2, "C")))
    def convert(x, out):
        for i in range(len(x)):
            memory.store(memory.row(out, i), 0, memory.load(memory.row(x, i), 0))
            one = memory.element(memory.row(x, i), 3)
            memory.set_element(memory.row(out, i), 3, one)

    (compiled,) = convert.overloads.values()
    return compiled.entry_point


def every_number(half):
    """All 65536 numbers of a type, and the same in float32."""
    numbers = np.arange(65536, dtype=np.uint16).view(half)
    with np.errstate(invalid="ignore"):  # of NumPy's own cast of a signalling nan on ARM
        return numbers, numbers.astype(np.float32)


def test_every_number_is_widened(half, conversion):
    """All 65536 of them, nan as nan."""
    numbers, widened = every_number(half)
    got = np.empty((4096, 16), np.float32)
    converter(half, False)(numbers.reshape(-1, 16), got)
    np.testing.assert_array_equal(got.ravel(), widened)


def test_numbers_are_rounded_to_nearest(half, conversion, rng):
    """Around every number of half precision, the middles between, and any bits."""
    _, numbers = every_number(half)
    with np.errstate(all="ignore"):
        middles = (numbers[:-1] + numbers[1:]) / 2
        near = [np.nextafter(middles, s * np.float32(np.inf)) for s in (1, -1)]
    any_bits = rng.integers(0, 2**32, 2**18, np.uint32).view(np.float32)
    ends = np.array([65504, 65519.996, 65520, -65520, np.nan, np.inf], np.float32)
    x = np.concatenate([numbers, middles, *near, any_bits, ends])
    x = np.resize(x, (-(-len(x) // 16), 16))
    got = np.empty(x.shape, half)
    converter(half, True)(x, got)
    with np.errstate(all="ignore"):
        want = x.astype(half)
        is_nan = np.isnan(got)
    np.testing.assert_array_equal(is_nan, np.isnan(want))
    kept = ~np.isnan(want)
    np.testing.assert_array_equal(got.view(np.uint16)[kept], want.view(np.uint16)[kept])


def rounded_once(got, want):
    """Results are those of float64, to float32's accuracy, rounded once to the type they have."""
    for a, b in zip(got, want, strict=True):
        relative, absolute = ROUNDING.get(a.dtype.name, (0, 0))
        # 2e-5: the errors of float32 in differences of logits up to about 12.
        np.testing.assert_allclose(
            a.astype(np.float64), b, rtol=relative + 2e-5, atol=absolute + 2e-6
        )


def with_arrays(options, n, n_classes, rng):
    """The options with arrays of weights."""
    made = {"weight": rng.uniform(0.5, 2, n_classes), "sample_weight": rng.uniform(0.5, 2, n)}
    return {name: made.get(name, value) for name, value in options.items()}


# Each kernel is compiled for either type, which takes seconds, so the same few are used throughout:
# of few classes with gradient and Hessian, of many with all outputs.
SHAPES = [(1, 2), (40, 3), (17, 40), (5, 1000)]
FEW = dict(return_grad=True, reduction="none")
FEW_OPTIONS = OPTIONS[:2]


@pytest.mark.share(4)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy_of_labels(rng, half, shape, layout):
    """Every option and output, every layout."""
    n, n_classes = shape
    x, labels = (3 * rng.standard_normal(shape)).astype(half), rng.integers(0, n_classes, n)
    for options in OPTIONS:
        options = with_arrays(options, n, n_classes, rng)
        for flags in (FEW | dict(return_hess=True), FLAGS):
            if flags is FLAGS or (n_classes < 100 and len(options) != 1):
                got = fx.cross_entropy(LAYOUTS[layout](x), labels, **flags, **options)
                rounded_once(got, reference.cross_entropy(x, labels, **flags, **options))


@pytest.mark.share(4)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy_of_probabilities(rng, half, shape, layout):
    """Likewise; a target of float32 beside the logits, too."""
    n, n_classes = shape
    x = (3 * rng.standard_normal(shape)).astype(half)
    soft = rng.dirichlet(np.ones(n_classes), n).astype(half)
    for options in OPTIONS:
        few = n_classes < 100 and options in FEW_OPTIONS
        options, flags = with_arrays(options, n, n_classes, rng), FEW if few else FLAGS
        want = reference.cross_entropy(x, soft, **flags, **options)
        targets = [soft, LAYOUTS[layout](soft), *([soft.astype(np.float32)] if few else [])]
        for target in targets:
            rounded_once(fx.cross_entropy(LAYOUTS[layout](x), target, **flags, **options), want)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_softmax_family(rng, half, shape, layout):
    """softmax and its logarithms."""
    x = (3 * rng.standard_normal(shape)).astype(half)
    for name in ("softmax", "log_softmax", "logsumexp"):
        got = getattr(fx, name)(LAYOUTS[layout](x))
        assert got.dtype == half
        rounded_once([got], [getattr(reference, name)(x)])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_other_losses(rng, half, shape, layout):
    """Losses of probabilities, binary losses."""
    x, lay = (3 * rng.standard_normal(shape)).astype(half), LAYOUTS[layout]
    probs, flags = reference.softmax(x).astype(half), dict(return_grad=True, reduction="none")
    labels, soft = rng.integers(0, shape[1], shape[0]), rng.random(shape).astype(half)
    for target in (labels, soft):
        rounded_once(
            fx.categorical_cross_entropy(lay(probs), target, eps=1e-4, **flags),
            reference.categorical_cross_entropy(probs, target, eps=1e-4, **flags),
        )
    more = flags | dict(return_probs=True, return_hess=True)
    rounded_once(fx.binary_cross_entropy_with_logits(lay(x), lay(soft), **more),
                 reference.binary_cross_entropy_with_logits(x, soft, **more))  # fmt: skip
    rounded_once(fx.binary_cross_entropy(soft, lay(soft), eps=1e-3, **flags),
                 reference.binary_cross_entropy(soft, soft, eps=1e-3, **flags))  # fmt: skip


@pytest.mark.share(4)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_and_entropy(rng, half, shape, layout):
    """The result of float32 rounded once; H in float32."""
    x, v = (LAYOUTS[layout]((3 * rng.standard_normal(shape)).astype(half)) for _ in range(2))
    labels, soft = rng.integers(0, shape[1], shape[0]), rng.random(shape).astype(half)
    wide = {"logits": x.astype(np.float32), "vector": v.astype(np.float32)}
    for target, options in ((labels, {}), (labels, OPTIONS[2] | {"z_loss": 0.1}), (soft, {})):
        got = fx.cross_entropy_hvp(x, target, v, reduction="none", **options)
        in_float32 = fx.cross_entropy_hvp(target=target, reduction="none", **wide, **options)
        assert got.dtype == half
        one_rounding(got, in_float32)
        mixed = fx.cross_entropy_hvp(x, target, wide["vector"], reduction="none", **options)
        one_rounding(mixed, in_float32)
    got = fx.binary_cross_entropy_with_logits_hvp(x, soft, v, reduction="none")
    one_rounding(got, fx.binary_cross_entropy_with_logits_hvp(
        target=soft.astype(np.float32), reduction="none", **wide))  # fmt: skip
    (H, grad), (wide_H, wide_grad) = (fx.entropy(a, return_grad=True) for a in (x, wide["logits"]))
    assert (H.dtype, grad.dtype) == (np.float32, half)
    np.testing.assert_allclose(H, wide_H, rtol=1e-6)
    one_rounding(grad, wide_grad)
    beside = fx.cross_entropy(x, labels, return_entropy=True)[1]
    np.testing.assert_allclose(beside, wide_H, rtol=1e-5)
    assert beside.dtype == np.float32


def one_rounding(got, in_float32):
    """Half a step of the type, and float32's own errors in another order of sums."""
    relative, absolute = ROUNDING[got.dtype.name]
    absolute += 1e-6 * np.abs(in_float32).max()
    np.testing.assert_allclose(
        got.astype(np.float32), in_float32, rtol=relative + 1e-5, atol=absolute
    )


def test_a_row_that_ends_within_a_vector(half):
    """What fills its last vector is no class."""
    x = np.full((1, 1003), -1, half)
    np.testing.assert_array_equal(fx.softmax(x), np.float32(1 / 1003).astype(half))


def test_softcap_gradient(rng, half):
    """The gradient is multiplied by the softcap's derivative before it is rounded."""
    x, labels = (3 * rng.standard_normal((50, 20))).astype(half), rng.integers(0, 20, 50)
    got, want = (f(x, labels, softcap=5.0, **FLAGS)[1]
                 for f in (fx.cross_entropy, reference.cross_entropy))  # fmt: skip
    rounded_once([got], [want])


@pytest.mark.parametrize("n_classes", [3, 1000])
@pytest.mark.parametrize("lay", [np.ascontiguousarray, np.asfortranarray])
def test_in_place_and_ignored(rng, half, n_classes, lay):
    """A gradient over the logits has the bits of one elsewhere; ignored rows are exactly 0."""
    x = lay((3 * rng.standard_normal((50, n_classes))).astype(half))
    labels = rng.integers(0, n_classes, 50)
    labels[::7] = -100
    x[7] = np.nan
    flags = FLAGS if n_classes == 1000 else FEW | dict(return_hess=True)
    want = fx.cross_entropy(x, labels, grad_out=np.empty_like(x), **flags)[1].copy()
    assert not want[::7].any()
    fx.cross_entropy(x, labels, grad_out=x, **flags)
    np.testing.assert_array_equal(x.view(np.uint16), want.view(np.uint16))


def test_special_rows(half):
    """nan and inf as in float32, at any place of a vector."""
    for n_classes, k in itertools.product((2, 20, 1000), (0, -1)):
        x = np.zeros((4, n_classes), half)
        x[0, k], x[1, k], x[2] = np.nan, np.inf, -np.inf
        x[3, k] = -np.inf
        wide = x.astype(np.float32)
        for function in (fx.softmax, fx.log_softmax, fx.logsumexp):
            with np.errstate(all="ignore"):
                want = function(wide).astype(half).astype(np.float32)
                np.testing.assert_array_equal(function(x).astype(np.float32), want)
        got, want = (fx.cross_entropy(a, np.full(4, 1), **FLAGS) for a in (x, wide))
        for a, b in zip(got, want, strict=True):
            a, b = a.astype(np.float32), b.astype(a.dtype).astype(np.float32)
            np.testing.assert_array_equal(a, b)
