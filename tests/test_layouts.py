"""Any rank, stride, byte order, alignment and mutability; outputs; buffers; empty arrays."""

import itertools
import tempfile

import numpy as np
import pytest

import fastxent as fx
from fastxent import reference

ALL = dict(return_grad=True, return_probs=True, return_lse=True, return_hess=True,
           return_argmax=True, reduction="none")  # fmt: skip


def unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    raw[...] = a
    assert not raw.flags.aligned
    return raw


def every_other(a):
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), np.nan, a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def inner_of_wider_rows(a):
    wide = np.full((*a.shape[:-1], a.shape[-1] + 5), np.nan, a.dtype)
    wide[..., 3:-2] = a
    return wide[..., 3:-2]


def on_disk(a):
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, a.dtype, shape=a.shape)
        mapped[...] = a
        return mapped


LAYOUTS = {
    "fortran": np.asfortranarray,
    "every other column": every_other,
    "reversed rows": lambda a: a[::-1].copy()[::-1],
    "reversed columns": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "rows of a wider array": inner_of_wider_rows,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "unaligned": unaligned,
    "read-only": read_only,
    "memory-mapped": on_disk,
    "subclass": lambda a: a.view(type("Mine", (np.ndarray,), {})),
    "list": lambda a: a.tolist(),
}


def in_another_order(name, shape):
    """Whether sums over a row's classes are: those of many column-major rows of many classes."""
    return name == "fortran" and shape[-1] > 100


def same_bits(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
        assert not a.shape or a.flags.c_contiguous


def close_bits(got, want):
    """The same but for the order of sums: to some units in the last place."""
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=16 * np.finfo(a.dtype).eps)
        assert a.dtype == b.dtype
        assert not a.shape or a.flags.c_contiguous


def close_differences(got, want):
    """Likewise of differences, relative to the largest of the results."""
    for a, b in zip(got, want, strict=True):
        eps = np.finfo(a.dtype).eps
        np.testing.assert_allclose(a, b, rtol=16 * eps, atol=16 * eps * np.abs(b).max())
        assert a.dtype == b.dtype
        assert not a.shape or a.flags.c_contiguous


def to_roundings(got, want, labels):
    """The same bits, but that a column-major gradient at the target is rounded twice more."""
    at = np.arange(want.shape[1]) == labels[:, None]
    np.testing.assert_array_equal(got[~at], want[~at])
    np.testing.assert_allclose(got[at], want[at], rtol=2 * np.finfo(want.dtype).eps)


def test_classes_one_behind_the_other(rng, dtype):
    """Whole groups of rows and one cut short, rows that do not count; buffers of that layout."""
    logits = (rng.standard_normal((77, 10)) * 3).astype(dtype)
    labels, u = rng.integers(0, 10, 77), rng.uniform(0.5, 2, 77)
    labels[3], labels[76], u[5], logits[5] = -100, -100, 0, np.nan
    flags = dict(sample_weight=u, reduction="none", return_grad=True, return_hess=True)
    want = fx.cross_entropy(logits, labels, **flags)
    across = np.asfortranarray(logits)
    same_bits(fx.cross_entropy(across, labels, **flags), want)
    grad_out = np.full_like(across, np.nan)
    got = fx.cross_entropy(across, labels, grad_out=grad_out, **flags)
    assert got[1] is grad_out
    assert not any(array[[3, 5, 76]].any() for array in got)
    same_bits((got[0], got[2]), (want[0], want[2]))
    to_roundings(grad_out, want[1], labels)
    in_place = fx.cross_entropy(across, labels, grad_out=across, **flags)[1]
    np.testing.assert_array_equal(in_place, grad_out)
    got = fx.cross_entropy(np.ascontiguousarray(logits.T), labels, axis=0, **flags)
    for a, b in zip(got, (want[0], grad_out.T, want[2].T), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", [(7, 5), (3, 4, 33), (600, 700), (2, 3, 4, 5), (9,)])
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(rng, dtype, name, shape):
    """Every layout gives the bits of the plain array, of native type and C order.

    But column-major rows of many classes are summed in another order.
    """
    logits = rng.standard_normal(shape).astype(dtype)
    labels = rng.integers(0, shape[-1], shape[:-1])
    plain = logits.astype(np.float64) if name == "list" else logits
    want = fx.cross_entropy(plain, labels, **ALL)
    laid = LAYOUTS[name](logits)
    same_bits(fx.cross_entropy(laid, labels, **ALL), want)
    same, differences_same = (
        (close_bits, close_differences) if in_another_order(name, shape) else (same_bits, same_bits)
    )
    for function in (fx.softmax, fx.logsumexp):
        same([function(laid)], [function(plain)])
    vector = rng.integers(-3, 4, shape).astype(plain.dtype)
    product = fx.cross_entropy_hvp(plain, labels, vector)
    for x, v in ((laid, LAYOUTS[name](vector)), (plain, LAYOUTS[name](vector)), (laid, vector)):
        differences_same([fx.cross_entropy_hvp(x, labels, v)], [product])
    differences_same(fx.entropy(laid, return_grad=True), fx.entropy(plain, return_grad=True))
    np.testing.assert_array_equal(laid, logits)


@pytest.mark.parametrize("shape", [(7, 5), (3, 4, 33), (600, 700), (9,)])
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_probabilities_and_binary_targets(rng, dtype, name, shape):
    """Likewise for targets of the whole shape, laid out in any way beside any logits."""
    lay = LAYOUTS[name]
    logits = rng.standard_normal(shape).astype(dtype)
    target = rng.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(dtype)
    probs = fx.softmax(logits)
    if name == "list":
        logits, target, probs = (a.astype(np.float64) for a in (logits, target, probs))
    for x in (logits, lay(logits)):
        want = fx.cross_entropy(logits, target, **ALL)
        same_bits(fx.cross_entropy(x, lay(target), **ALL), want)
        binary = {"return_grad": True, "return_probs": True, "return_hess": True}
        weights = {"weight": lay(target), "pos_weight": target[..., :1] if x is logits else 3.0}
        want, got = (
            fx.binary_cross_entropy_with_logits(a, q, **binary, **weights)
            for a, q in ((logits, target), (x, lay(target)))
        )
        same_bits(got, want)
        product, binary_product = (
            function(logits, target, probs)
            for function in (fx.cross_entropy_hvp, fx.binary_cross_entropy_with_logits_hvp)
        )
        same = close_differences if in_another_order(name, shape) else same_bits
        same([fx.cross_entropy_hvp(x, lay(target), lay(probs))], [product])
        got = fx.binary_cross_entropy_with_logits_hvp(x, lay(target), lay(probs))
        same_bits([got], [binary_product])
    for function in (fx.categorical_cross_entropy, fx.binary_cross_entropy):
        for reduction in ("mean", "none"):
            want, got = (
                function(p, q, reduction=reduction, return_grad=True)
                for p, q in ((probs, target), (lay(probs), lay(target)))
            )
            same_bits(got, want)


def test_rows_keep_their_own_target_and_weight(rng, dtype):
    """Blocks of converted rows take the labels and weights of their own place."""
    x = reference.softmax(rng.standard_normal((600, 700))).astype(dtype)
    u, labels = rng.uniform(0.5, 2, 600), rng.integers(0, 700, 600)
    flags = {"sample_weight": u, "reduction": "none", "return_grad": True}
    for function in (fx.cross_entropy, fx.categorical_cross_entropy):
        for target in (labels, x[::-1].copy()):
            want = function(x, target, **flags)
            laid = x.astype(x.dtype.newbyteorder())
            same_bits(function(laid, target, **flags), want)
    for target in (labels, x[::-1].copy()):
        want = fx.cross_entropy_hvp(x, target, x[::-1], sample_weight=u)
        same_bits([fx.cross_entropy_hvp(laid, target, x[::-1], sample_weight=u)], [want])
    same_bits(fx.entropy(laid, return_grad=True), fx.entropy(x, return_grad=True))


# Rows of a plane (the axes behind the classes): too few for a plane each, which are converted; more
# than two tiles of few classes, with a rest; of many classes; in one plane fewer than a vector has
# lanes, and whole tiles.
PLANES = [((2, 3, 5, 3), 1), ((3, 7, 40), 1), ((5, 11, 61, 17), 1), ((3, 2, 2500), 1),
          ((21, 3, 30, 37), 0), ((2, 300, 6, 90), 1), ((1000, 333), 0),
          ((600, 2, 2), 0), ((6, 256), 0)]  # fmt: skip


def by_planes(shape, axis, dtype, rng):
    """Logits whose class axis is not the last, the same as rows, labels, and the way back."""
    logits = (rng.standard_normal(shape) * 3).astype(dtype)
    rows = np.ascontiguousarray(np.moveaxis(logits, axis, -1))
    labels = rng.integers(0, shape[axis], rows.shape[:-1])
    return logits, rows, labels, lambda a: np.moveaxis(a, -1, axis) if a.ndim == rows.ndim else a


@pytest.mark.parametrize("options", ["plain", "weights", "soft"])
@pytest.mark.parametrize(("shape", "axis"), PLANES)
def test_class_axis_before_others(rng, dtype, shape, axis, options):
    """As if the classes were last: loss, gradient, Hessian; ignored rows; buffers and in place."""
    logits, rows, labels, back = by_planes(shape, axis, dtype, rng)
    flags = {"reduction": "none", "return_grad": True}
    target, moved_target = labels, labels
    if options == "soft":
        moved_target = rng.dirichlet(np.ones(shape[axis]), labels.shape).astype(dtype)
        target = np.ascontiguousarray(np.moveaxis(moved_target, -1, axis))
    else:
        flags["return_hess"] = True
        labels[rng.random(labels.shape) < 0.2] = -100
    if options != "plain":
        u = rng.integers(0, 3, labels.shape).astype(float)
        flags |= {"weight": rng.uniform(0.5, 2, shape[axis]), "label_smoothing": 0.1,
                  "sample_weight": u}  # fmt: skip
        rows[u == 0] = np.nan
        logits = np.ascontiguousarray(np.moveaxis(rows, -1, axis))
    want = [back(a) for a in fx.cross_entropy(rows, moved_target, **flags)]
    _same_product(rng, logits, rows, (target, moved_target), axis, flags)
    got = fx.cross_entropy(logits, target, axis=axis, **flags)
    atol = 8 * np.finfo(dtype).eps  # of a gradient that is a difference

    def same(found):
        for a, b in zip(found, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=32 * np.finfo(dtype).eps, atol=atol)

    same(got)
    assert all(a.flags.c_contiguous for a in got)
    buffer = np.full_like(logits, np.nan)
    same(fx.cross_entropy(logits, target, axis=axis, grad_out=buffer, **flags))
    unaligned_to_lines = np.full(logits.size + 3, np.nan, dtype)[3:].reshape(shape)
    same(fx.cross_entropy(logits, target, axis=axis, grad_out=unaligned_to_lines, **flags))
    np.testing.assert_array_equal(buffer, unaligned_to_lines)
    same(fx.cross_entropy(logits, target, axis=axis, grad_out=logits, **flags))
    np.testing.assert_array_equal(buffer, logits)


def _same_product(rng, logits, rows, targets, axis, flags):
    """The product over an axis of classes, new and in place, is as if the classes were last."""
    options = {k: v for k, v in flags.items() if not k.startswith("return_")}
    vector = rng.uniform(1, 2, rows.shape).astype(rows.dtype)
    want = np.moveaxis(fx.cross_entropy_hvp(rows, targets[1], vector, **options), -1, axis)
    moved = np.ascontiguousarray(np.moveaxis(vector, -1, axis))
    tolerance = dict(rtol=32 * np.finfo(rows.dtype).eps, atol=8 * np.finfo(rows.dtype).eps)
    for out in (None, moved):
        got = fx.cross_entropy_hvp(logits, targets[0], moved, axis=axis, out=out, **options)
        np.testing.assert_allclose(got, want, **tolerance)
        assert got.flags.c_contiguous


@pytest.mark.parametrize(("shape", "axis"), PLANES)
def test_softmax_over_an_axis_before_others(rng, dtype, shape, axis):
    """As if the classes were last, rows of inf and nan included."""
    _, rows, _, back = by_planes(shape, axis, dtype, rng)
    flat = rows.reshape(-1, shape[axis])
    flat[0, 0], flat[1, -1], flat[2] = np.inf, np.nan, -np.inf
    logits = np.ascontiguousarray(np.moveaxis(rows, -1, axis))
    for function in (fx.softmax, fx.log_softmax, fx.logsumexp):
        got = function(logits, axis=axis)
        tolerance = 8 * np.finfo(dtype).eps
        np.testing.assert_allclose(got, back(function(rows)), rtol=tolerance, atol=tolerance)
        assert got.flags.c_contiguous
    for a, b in zip(
        fx.entropy(logits, axis=axis, return_grad=True), fx.entropy(rows, return_grad=True),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(a, back(b), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n", [1, 5, 16, 100, 2000])
def test_buffers_of_another_layout_than_the_logits(rng, dtype, n):
    """Rows into columns, columns into rows, of one plane."""
    logits, labels = rng.standard_normal((n, 30)).astype(dtype), rng.integers(0, 30, n)
    want = fx.cross_entropy(logits, labels, return_grad=True)[1]
    for x in (logits, np.asfortranarray(logits)):
        for like in (logits, np.asfortranarray(logits)):
            grad_out = np.full_like(like, np.nan)
            fx.cross_entropy(x, labels, grad_out=grad_out)
            np.testing.assert_allclose(grad_out, want, rtol=16 * np.finfo(dtype).eps, atol=1e-9)


@pytest.mark.parametrize("rows", [2**17, 2**17 + 1])
def test_large_column_major_output(rng, dtype, rows):
    """Written past the caches where the classes of the output lie at whole vectors, else not."""
    logits = rng.standard_normal((9, rows)).astype(dtype)
    plain, labels = np.ascontiguousarray(logits.T), rng.integers(0, 9, rows)
    want = fx.cross_entropy(plain, labels, return_grad=True)[1].T
    for first in (0, 3):  # the memory begins in the middle of a vector, or maybe with one
        grad_out = np.full(logits.size + first, np.nan, dtype)[first:].reshape(logits.shape)
        fx.cross_entropy(logits, labels, axis=0, grad_out=grad_out)
        tolerance = 16 * np.finfo(dtype).eps
        np.testing.assert_allclose(grad_out, want, rtol=tolerance, atol=tolerance / rows)


@pytest.mark.parametrize("n", [5, 40, 256, 1000])
def test_address_of_a_buffer_does_not_change_the_bits(rng, dtype, n):
    """Groups of rows begin with a vector of the output, sums with the first row.

    256 rows are whole tiles where the output begins with a vector.
    """
    labels = rng.integers(0, 21, n)
    x = np.asfortranarray(rng.standard_normal((n, 21)).astype(dtype))
    want = fx.cross_entropy(x, labels, grad_out=np.empty_like(x))
    memory = np.empty(x.size + 20, dtype)
    for offset in range(20):
        memory.fill(np.nan)
        grad_out = memory[offset:][: x.size].reshape(21, n).T
        same_bits(fx.cross_entropy(x, labels, grad_out=grad_out)[:1], want[:1])
        np.testing.assert_array_equal(grad_out, want[1])


def test_threads_do_not_change_the_bits_of_planes(rng):
    """Pieces of a plane depend on its shape alone."""
    logits, labels = rng.standard_normal((3, 21, 300, 301)), rng.integers(0, 21, (3, 300, 301))
    results = []
    for n in (1, 2, 3):
        with fx.num_threads(n):
            results.append(fx.cross_entropy(logits, labels, axis=1, return_grad=True))
    for other in results[1:]:
        same_bits(other, results[0])


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_axes(rng, dtype, axis):
    """The class axis anywhere: as if it were moved to the end and back."""
    logits = rng.standard_normal((4, 5, 6)).astype(dtype)
    moved = np.ascontiguousarray(np.moveaxis(logits, axis, -1))
    labels = rng.integers(0, moved.shape[-1], moved.shape[:-1])
    loss, grad, probs, lse, hess, argmax = fx.cross_entropy(moved, labels, **ALL)
    back = [np.moveaxis(a, -1, axis) for a in (grad, probs, hess)]
    want = (loss, back[0], back[1], lse, back[2], argmax)
    same_bits(fx.cross_entropy(logits, labels, axis=axis, **ALL), want)
    same_bits([fx.log_softmax(logits, axis=axis)], [np.moveaxis(fx.log_softmax(moved), -1, axis)])
    lse = fx.logsumexp(moved)
    same_bits([fx.logsumexp(logits, axis=axis)], [lse])
    kept = fx.logsumexp(logits, axis=axis, keepdims=True)
    same_bits([kept], [np.expand_dims(lse, axis)])
    soft = np.ascontiguousarray(fx.softmax(logits, axis=axis))
    moved_soft = np.ascontiguousarray(np.moveaxis(soft, axis, -1))
    loss, grad = fx.cross_entropy(moved, moved_soft, return_grad=True)
    got = fx.cross_entropy(logits, soft, axis=axis, return_grad=True)
    same_bits(got, (loss, np.moveaxis(grad, -1, axis)))
    for target, moved_target in ((labels, labels), (soft, moved_soft)):
        loss, grad = fx.categorical_cross_entropy(moved_soft, moved_target, return_grad=True)
        got = fx.categorical_cross_entropy(soft, target, axis=axis, return_grad=True)
        same_bits(got, (loss, np.moveaxis(grad, -1, axis)))


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4", "list"])
def test_label_types(rng, kind):
    """Integer labels of any width and byte order, strided, or in a list."""
    logits = rng.standard_normal((6, 5))
    labels = np.array([0, 4, 2, 1, 3, 0])
    want = fx.cross_entropy(logits, labels, **ALL)
    given = labels.tolist() if kind == "list" else np.repeat(labels, 2).astype(kind)[::2]
    same_bits(fx.cross_entropy(logits, given, **ALL), want)


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "u8"])
def test_many_labels_of_each_type(rng, kind):
    """Whole vectors of labels, side by side and strided; large unsigned ones, ignored rows."""
    n_classes = 7 if kind == "i1" else 200  # few, but more than the largest int8
    probs = rng.dirichlet(np.ones(n_classes), 530).astype(np.float32)
    labels = rng.integers(0, n_classes, 530)
    labels[[1, 40, 529]] = n_classes
    given = np.repeat(labels, 3).astype(kind)
    flags = {"ignore_index": n_classes, "return_grad": True}
    for function in (fx.cross_entropy, fx.categorical_cross_entropy):
        want = function(probs, labels, **flags)
        for same in (labels.astype(kind), given[::3], given[::-3][::-1]):
            same_bits(function(probs, same, check_target=False, **flags), want)
            same_bits(function(probs, same, **flags), want)


@pytest.mark.parametrize("kind", ["?", "i1", "u8", "f2", "f4", ">f8", "g", "list", "bfloat16"])
def test_one_hot_types(rng, dtype, kind):
    """One-hot rows and binary labels of any numeric type are what they say."""
    if kind == "bfloat16":
        kind = pytest.importorskip("ml_dtypes").bfloat16
    logits = rng.standard_normal((6, 5)).astype(dtype)
    rows = np.eye(5)[[0, 4, 2, 1, 3, 0]]
    given = rows.tolist() if kind == "list" else rows.astype(kind)
    same_bits(fx.cross_entropy(logits, given, **ALL), fx.cross_entropy(logits, rows, **ALL))
    for function in (fx.categorical_cross_entropy, fx.binary_cross_entropy,
                     fx.binary_cross_entropy_with_logits):  # fmt: skip
        x = fx.softmax(logits)
        want = function(x, rows, return_grad=True)
        same_bits(function(x, given, return_grad=True), want)
    weighted = fx.binary_cross_entropy_with_logits(logits, rows, weight=given, pos_weight=given)
    assert weighted == fx.binary_cross_entropy_with_logits(logits, rows, weight=rows)


def test_weights_broadcast(rng, dtype):
    """One number, a row, a column, the whole: the bits of the whole."""
    x, y = rng.standard_normal((40, 7)).astype(dtype), rng.integers(0, 2, (40, 7))
    flags = {"reduction": "none", "return_grad": True}
    for shape in [(), (1,), (7,), (1, 7), (40, 1), (1, 1), (40, 7)]:
        w = np.asarray(rng.uniform(0.5, 2, shape))
        whole = np.broadcast_to(w, x.shape).copy()
        for name in ("weight", "pos_weight"):
            got, want = (
                fx.binary_cross_entropy_with_logits(x, y, **flags, **{name: a}) for a in (w, whole)
            )
            same_bits(got, want)
        p = fx.softmax(x)
        got, want = (fx.binary_cross_entropy(p, y, weight=a, **flags) for a in (w, whole))
        same_bits(got, want)


def test_ignore_index_is_compared_as_integer(rng):
    """255 in uint8 and 2**64 - 1 in uint64 are what they are; None ignores nothing."""
    logits = rng.standard_normal((3, 4))
    want = fx.cross_entropy(logits, [1, -100, 2], **ALL)
    for labels, ignore in [
        (np.uint8([1, 255, 2]), 255),
        (np.uint64([1, 2**64 - 1, 2]), 2**64 - 1),
        (np.uint64([1, 2**63, 2]), 2**63),
        (np.int64([1, -(2**63), 2]), -(2**63)),
    ]:
        same_bits(fx.cross_entropy(logits, labels, ignore_index=ignore, **ALL), want)
    for outside in (-100, 4):
        with pytest.raises(IndexError):
            fx.cross_entropy(logits, [1, outside, 2], ignore_index=None)
    same_bits(
        fx.cross_entropy(logits, [1, 3, 2], ignore_index=2**70, **ALL),
        fx.cross_entropy(logits, [1, 3, 2], ignore_index=None, **ALL),
    )
    assert fx.cross_entropy(logits, [1, 3, 2], ignore_index=3) == pytest.approx(
        fx.cross_entropy(logits[[0, 2]], [1, 2])
    )


@pytest.mark.parametrize("kind", ["f2", "?", "i1", "u8", "i4", ">f2", ">i2"])
def test_other_types(rng, kind):
    """Half precision computes in float32 and is rounded once; integers and bools in float64."""
    logits = rng.integers(0, 2 if kind == "?" else 9, (20, 7)).astype(kind)
    labels = rng.integers(0, 7, 20)
    half = np.dtype(kind) == np.float16 or kind == ">f2"
    plain = logits.astype(np.float32 if half else np.float64)
    want = list(fx.cross_entropy(plain, labels, **ALL))
    if half:
        want[1:3] = [a.astype(np.float16) for a in want[1:3]]
        want[4] = want[4].astype(np.float16)
    same_bits(fx.cross_entropy(logits, labels, **ALL), want)
    lse = fx.logsumexp(plain)
    same_bits([fx.logsumexp(logits)], [lse.astype(np.float16) if half else lse])
    assert type(fx.logsumexp(logits[0])) is (np.float16 if half else np.float64)


def test_empty(dtype):
    """No rows: empty arrays of the right shapes; the sum is 0."""
    for shape in [(0, 3), (2, 0, 3), (0, 4, 3)]:
        logits = np.empty(shape, dtype)
        lists = [np.empty(shape[:-1]).tolist()] if len(shape) == 2 or shape[0] else []
        for labels in (np.empty(shape[:-1], int), *lists):
            loss, grad, *rest = fx.cross_entropy(logits, labels, **ALL)
            assert loss.shape == shape[:-1]
            assert grad.shape == shape
            assert grad.dtype == dtype
            assert [a.size for a in rest] == [0, 0, 0, 0]
            assert fx.cross_entropy(logits, labels, reduction="sum") == 0
        assert fx.softmax(logits).shape == shape
        strided = np.empty((*shape, 2), dtype)[..., 0]
        assert fx.log_softmax(strided).shape == shape
    assert fx.logsumexp(np.empty((3, 0), dtype)).tolist() == [-np.inf] * 3
    assert fx.logsumexp(np.empty((0, 3), dtype), keepdims=True).shape == (0, 1)


def test_scalars_and_types(dtype):
    """Results without dimensions are NumPy scalars of the logits' type."""
    logits = np.array([1.0, 2.0, 0.1], dtype)
    loss, grad, probs, lse, hess, argmax = fx.cross_entropy(logits, 1, **ALL)
    assert type(loss) is type(lse) is dtype
    assert type(argmax) is np.int64
    assert grad.shape == probs.shape == hess.shape == (3,)
    assert type(fx.cross_entropy(logits[None], [1])) is dtype
    assert type(fx.logsumexp(logits)) is dtype
    x = np.ones((2, 3), dtype)
    loss, grad = fx.linear_cross_entropy(x, np.ones((4, 3)), [0, 1], return_grad=True)
    assert type(loss) is np.float64
    assert grad.x.dtype == dtype
    assert grad.linear_weight.dtype == np.float64
    assert grad.linear_bias is None


def test_binary_scalars_and_types(dtype):
    """Rank 0 in, NumPy scalars out; a buffer is what is returned, even without dimensions."""
    for function in (fx.binary_cross_entropy, fx.binary_cross_entropy_with_logits):
        loss, grad = function(dtype(0.25), True, return_grad=True)
        assert type(loss) is type(grad) is dtype
        out = np.empty((), dtype)
        given = np.array(0.25, dtype)
        assert function(given, 1, grad_out=out)[1] is out
        assert out == grad
        assert function(given, 1, grad_out=given)[1] is given
        assert given == grad
        assert type(function([0.25, 0.5], [0, 1])) is np.float64
        assert type(function(True, 1)) is np.float64
        assert function(np.float16([0.25]), [1], reduction="none").dtype == np.float32
        half = function(np.float16(0.25), 1, return_grad=True, reduction="none")
        assert [type(a) for a in half] == [np.float32, np.float16]
    loss, grad = fx.categorical_cross_entropy(np.array([0.5, 0.5], dtype), 1, return_grad=True)
    assert type(loss) is dtype
    assert grad.dtype == dtype
    assert type(fx.cross_entropy(np.zeros(3, dtype), np.ones(3))) is dtype


def test_rows_beyond_two_to_the_31_elements(rng):
    """Rows 2.4e9 elements apart in a file of holes: no offset is cut to 32 bits."""
    with tempfile.TemporaryFile() as file:
        logits = np.memmap(file, np.float32, shape=(3, 1_200_000_000))[:, :50]
        logits[...] = rng.standard_normal((3, 50))
        want = fx.cross_entropy(np.array(logits), [3, 4, 5], return_grad=True)
        same_bits(fx.cross_entropy(logits, [3, 4, 5], return_grad=True), want)
        assert fx.softmax(logits, out=logits) is logits
        np.testing.assert_allclose(logits.sum(1), 1, rtol=1e-6)


def test_more_than_two_to_the_31_elements(rng):
    """A stride-0 view of 2.2e9 logits: row counts and products of sizes are not cut either."""
    rows, classes = 2_200_000, 1000
    row = rng.standard_normal(classes).astype(np.float32)
    logits = np.broadcast_to(row, (rows, classes))
    labels = np.broadcast_to(np.int64(7), rows)
    loss = fx.cross_entropy(logits, labels, reduction="none")
    assert loss.shape == (rows,)
    assert (loss == fx.cross_entropy(row, 7)).all()


# --- buffers --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 5), (40, 33), (300, 1000)])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.1},
                                     {"softcap": 3.0}, {"logit_scale": -2.0}])  # fmt: skip
def test_gradient_in_place(rng, dtype, shape, options):
    """grad_out over the logits gives the bits of a fresh gradient, and is what is returned."""
    logits = rng.standard_normal(shape).astype(dtype)
    logits[0, 1] = np.inf
    labels = rng.integers(0, shape[1], shape[0])
    want = fx.cross_entropy(logits, labels, **options, **ALL)
    given = logits.copy()
    got = fx.cross_entropy(given, labels, grad_out=given, **options, **ALL)
    assert got[1] is given
    same_bits(got, want)


@pytest.mark.parametrize("shape", [(6, 5), (40, 33), (300, 1000)])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.1},
                                     {"softcap": 3.0}, {"logit_scale": -2.0}])  # fmt: skip
def test_gradient_in_place_of_probability_targets(rng, dtype, shape, options):
    """Likewise under soft rows, with and without class weights."""
    logits = rng.standard_normal(shape).astype(dtype)
    logits[0, 1] = np.inf
    target = rng.dirichlet(np.ones(shape[1]), shape[0]).astype(dtype)
    for weight in (None, rng.uniform(0.5, 2, shape[1])):
        want = fx.cross_entropy(logits, target, weight=weight, **options, **ALL)
        given = logits.copy()
        got = fx.cross_entropy(given, target, weight=weight, grad_out=given, **options, **ALL)
        assert got[1] is given
        same_bits(got, want)


@pytest.mark.parametrize("layout", ["plain", "strided", "fortran", "unaligned"])
def test_buffers_and_in_place_of_other_losses(rng, dtype, layout):
    """The binary losses and those of probabilities: any buffer, and over their own input."""
    make = {
        "plain": np.copy,
        "strided": every_other,
        "fortran": np.asfortranarray,
        "unaligned": unaligned,
    }[layout]
    x = fx.softmax(rng.standard_normal((300, 33)).astype(dtype))
    soft, labels = fx.softmax(rng.standard_normal(x.shape)), rng.integers(0, 33, len(x))
    for function, target in (
        (fx.categorical_cross_entropy, labels),
        (fx.categorical_cross_entropy, soft),
        (fx.binary_cross_entropy, soft),
        (fx.binary_cross_entropy_with_logits, soft),
    ):
        want = function(x, target, return_grad=True)
        for given in (x, make(x)):
            buffer = make(np.full_like(x, 7))
            loss, grad = function(given, target, grad_out=buffer)
            assert grad is buffer
            assert loss == want[0]
            np.testing.assert_array_equal(buffer, want[1])
        loss, grad = function(given, target, grad_out=given)
        assert grad is given
        assert loss == want[0]
        np.testing.assert_array_equal(given, want[1])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (37, 10), (9, 400), (700, 40)])
def test_the_short_way_gives_the_same(rng, dtype, shape, reduction):
    """A plain call skips what it does not need, and no bit of the answer changes."""
    logits = rng.standard_normal(shape).astype(dtype)
    labels = rng.integers(0, shape[1], shape[0])
    labels[1::3] = -100
    # An int for a float is as good, but nothing plain.
    plain = {"reduction": reduction}
    for given, kind in (
        (logits, labels),
        (logits * dtype(1e37), labels),
        (logits, labels * 0 - 100),
    ):
        long = {**plain, "label_smoothing": 0}
        want = fx.cross_entropy(given, kind, return_grad=True, **long)
        same_bits(fx.cross_entropy(given, kind, return_grad=True, **plain), want)
        same_bits([fx.cross_entropy(given, kind, **plain)], [want[0]])
        assert isinstance(fx.cross_entropy(given, kind, **plain), dtype)
        inplace = given.copy()
        loss, grad = fx.cross_entropy(inplace, kind, grad_out=inplace, **plain)
        assert grad is inplace
        same_bits([loss, grad], want)
    for outside in (2**63, -(2**70)):  # an ignore_index that no label is
        want = fx.cross_entropy(logits, abs(labels) % shape[1], ignore_index=outside, **long)
        got = fx.cross_entropy(logits, abs(labels) % shape[1], ignore_index=outside, **plain)
        same_bits([got], [want])


@pytest.mark.parametrize("layout", ["plain", "strided", "fortran", "unaligned", "class axis first"])
def test_buffers_of_any_layout(rng, dtype, layout):
    """Buffers of any stride and alignment are filled, returned, and in place where they lie so."""
    logits = rng.standard_normal((30, 17)).astype(dtype)
    labels = rng.integers(0, 17, 30)
    _, grad, probs = fx.cross_entropy(logits, labels, return_grad=True, return_probs=True)
    make = {
        "plain": np.copy,
        "strided": every_other,
        "fortran": lambda a: np.asfortranarray(a),
        "unaligned": unaligned,
        "class axis first": lambda a: np.ascontiguousarray(a.T).T,
    }[layout]
    buffers = make(np.zeros_like(logits)), make(np.zeros_like(logits))
    got = fx.cross_entropy(logits, labels, grad_out=buffers[0], probs_out=buffers[1])
    assert got[1] is buffers[0]
    assert got[2] is buffers[1]
    np.testing.assert_array_equal(buffers[0], grad)
    np.testing.assert_array_equal(buffers[1], probs)
    inplace = make(logits)
    fx.cross_entropy(inplace, labels, grad_out=inplace)
    # Other outputs may be another kernel's: the same bits are promised for the same outputs.
    alone = fx.cross_entropy(logits, labels, return_grad=True)[1]
    to_roundings(inplace, alone, labels)
    inplace = make(logits)
    assert fx.softmax(inplace, out=inplace) is inplace
    np.testing.assert_array_equal(inplace, fx.softmax(logits))


@pytest.mark.parametrize("soft", [False, True])
def test_every_combination_of_outputs(rng, dtype, soft):
    """Whatever else is asked for, each output is the same; exponentials wait in one of them.

    Of rows that are not narrow: those have a kernel of their own for loss and gradient alone.
    """
    logits = (rng.standard_normal((40, 333)) * 9).astype(dtype)
    labels = rng.integers(0, 333, 40)
    labels[::7] = -100
    if soft:
        labels = rng.dirichlet(np.ones(333), 40)
    names = ("grad", "probs", "lse", "hess", "argmax")
    whole = dict(zip(names, fx.cross_entropy(logits, labels, **ALL)[1:], strict=True))
    for wanted in itertools.product((False, True), repeat=5):
        flags = dict(zip(names, wanted, strict=True))
        got = fx.cross_entropy(logits, labels, reduction="none",
                               **{f"return_{k}": v for k, v in flags.items()})  # fmt: skip
        asked = [name for name, flag in flags.items() if flag]
        parts = got[1:] if asked else ()
        for name, array in zip(asked, parts, strict=True):
            np.testing.assert_array_equal(array, whole[name], err_msg=f"{name} of {asked}")


def test_every_combination_of_binary_outputs(rng, dtype):
    """Likewise of the binary loss of logits, whatever the reduction."""
    x, y = (rng.standard_normal(77) * 9).astype(dtype), rng.integers(0, 2, 77)
    names = ("grad", "probs", "hess")
    every = {f"return_{name}": True for name in names}
    for reduction in ("none", "mean"):
        run = fx.binary_cross_entropy_with_logits
        loss, *rest = run(x, y, reduction=reduction, **every)
        for wanted in itertools.product((False, True), repeat=3):
            flags = dict(zip(every, wanted, strict=True))
            got = run(x, y, reduction=reduction, **flags)
            got = got if any(wanted) else (got,)
            same_bits(got, [loss, *itertools.compress(rest, wanted)])


def test_neighbours_are_not_written(rng, dtype):
    """Elements beside a buffer keep their bits, at every width around the vector's."""
    for classes in range(1, 70):
        memory = np.full((5, classes + 2), 7, dtype)
        logits = rng.standard_normal((5, classes)).astype(dtype)
        fx.cross_entropy(logits, rng.integers(0, classes, 5), grad_out=memory[:, 1:-1])
        assert (memory[:, [0, -1]] == 7).all()
        fx.softmax(logits, out=memory[:, 1:-1])
        assert (memory[:, [0, -1]] == 7).all()
        soft = fx.softmax(logits)
        fx.cross_entropy(logits, soft, grad_out=memory[:, 1:-1], weight=np.ones(classes))
        fx.categorical_cross_entropy(soft, soft, grad_out=memory[:, 1:-1])
        assert (memory[:, [0, -1]] == 7).all()
        flat = np.full(classes + 2, 7, dtype)
        fx.binary_cross_entropy_with_logits(logits[0], soft[0], grad_out=flat[1:-1])
        fx.binary_cross_entropy(soft[0], soft[0], grad_out=flat[1:-1])
        assert (flat[[0, -1]] == 7).all()


def test_interleaved_is_not_overlapping(rng):
    """A buffer may lie between the logits as long as no element is shared."""
    both = rng.standard_normal((4, 6))
    logits, buffer = both[:, ::2], both[:, 1::2]
    want = fx.cross_entropy(logits.copy(), [0, 1, 2, 0], return_grad=True)[1]
    fx.cross_entropy(logits, [0, 1, 2, 0], grad_out=buffer)
    np.testing.assert_array_equal(buffer, want)


def test_inputs_are_never_written(rng, dtype):
    """Every input keeps its bits."""
    given = [rng.standard_normal((9, 8)).astype(dtype), rng.integers(0, 8, 9),
             rng.uniform(1, 2, 8), rng.uniform(1, 2, 9)]  # fmt: skip
    before = [a.tobytes() for a in given]
    logits, labels, weight, sample_weight = given
    fx.cross_entropy(logits, labels, weight=weight, sample_weight=sample_weight,
                     label_smoothing=0.1, softcap=2.0, **ALL)  # fmt: skip
    soft = fx.softmax(logits)
    given, before = [*given, soft], [*before, soft.tobytes()]
    fx.cross_entropy(logits, soft, weight=weight, sample_weight=sample_weight,
                     label_smoothing=0.1, softcap=2.0, **ALL)  # fmt: skip
    for target in (labels, soft):
        fx.categorical_cross_entropy(soft, target, weight=weight, sample_weight=sample_weight,
                                     return_grad=True)  # fmt: skip
        fx.linear_cross_entropy(logits, np.eye(8), target, return_grad=True)
    fx.binary_cross_entropy(soft, soft, weight=weight, return_grad=True)
    fx.binary_cross_entropy_with_logits(logits, soft, weight=weight, pos_weight=weight,
                                        return_grad=True)  # fmt: skip
    assert [a.tobytes() for a in given] == before


def test_linear_layouts_and_types(rng):
    """Linear operands of mixed types, strides and ranks; gradients in each one's own type."""
    x = rng.standard_normal((2, 5, 3))
    w = rng.standard_normal((4, 3))
    b = rng.standard_normal(4)
    labels = rng.integers(0, 4, (2, 5))
    loss, grad = fx.linear_cross_entropy(x, w, labels, linear_bias=b, return_grad=True)
    for kinds in [("f8", "f4", "f8"), ("f4", "f8", "f4"), (">f8", "f8", "f2"), ("f2", "f2", "f2")]:
        operands = [a.astype(kind) for a, kind in zip((x, w, b), kinds, strict=True)]
        tolerance = 2e-2 if "f2" in kinds else 1e-5
        for strided in (False, True):
            if strided:
                operands = [np.repeat(a, 2, -1)[..., ::2] for a in operands]
            got, parts = fx.linear_cross_entropy(
                *operands[:2], labels, linear_bias=operands[2], return_grad=True
            )
            assert got == pytest.approx(loss, rel=tolerance)
            for part, want, kind in zip(parts, grad, kinds, strict=True):
                assert part.dtype == np.dtype(kind).newbyteorder("=")
                np.testing.assert_allclose(part, want, atol=tolerance)


@pytest.mark.parametrize("shape", [(50,), (5, 10)])
@pytest.mark.parametrize("soft", [False, True])
def test_linear_accumulates(rng, dtype, monkeypatch, shape, soft):
    """Micro-batches with a normalizer add up to the whole, over several blocks and pieces too."""
    from fastxent.cpu import linear

    x = rng.standard_normal((*shape, 6)).astype(dtype)
    w = rng.standard_normal((9, 6)).astype(dtype)
    b = rng.standard_normal(9).astype(dtype)
    labels = rng.integers(0, 9, shape)
    labels[3] = -100
    counted = np.count_nonzero(labels >= 0)
    if soft:
        # Strided, of another type: a block of it is all that is converted.
        labels = rng.dirichlet(np.ones(18), shape).astype(np.float16)[..., ::2]
        counted = 50
    loss, grad, lse, argmax = fx.linear_cross_entropy(
        x, w, labels, linear_bias=b, return_grad=True, return_lse=True, return_argmax=True
    )
    logits = x @ w.T + b
    np.testing.assert_allclose(loss, fx.cross_entropy(logits, labels), rtol=1e-5)
    np.testing.assert_allclose(lse, fx.logsumexp(logits), rtol=1e-5)
    np.testing.assert_array_equal(argmax, logits.argmax(-1))
    monkeypatch.setattr(linear, "BLOCK_BYTES", 9 * 8 * 4)
    monkeypatch.setattr(linear, "_PIECE_BYTES", 6 * 8 * 4)
    sums = fx.LinearGrad(np.zeros_like(x), np.zeros_like(w), np.zeros_like(b))
    total = 0.0
    for part in (slice(0, 2), slice(2, 50)):
        buffers = sums._replace(x=sums.x[part])
        share, returned = fx.linear_cross_entropy(
            x[part], w, labels[part], linear_bias=b, normalizer=counted, grad_out=buffers,
            accumulate=True,
        )  # fmt: skip
        assert returned.linear_weight is sums.linear_weight
        total += share
    assert total == pytest.approx(loss, rel=1e-5)
    for got, want in zip(sums, grad, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
