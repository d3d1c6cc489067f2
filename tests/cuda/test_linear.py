"""linear_cross_entropy on a simulated GPU, with the products of a library there."""

import sys
from types import ModuleType

import numpy as np
import pytest
import simulator as sim
import small  # noqa: F401 - few threads

import fastxent as fx
from fastxent import dispatch, reference
from fastxent.arrays import device, plans, views
from fastxent.cuda import linear
from fastxent.device_array import DeviceArray, Library
from fastxent.records import LinearGrad, Place

HERE = Place(0, 0)


class Matrix(np.ndarray):
    """An array of a library on the GPU that has matrix products."""


def view(value):
    if not isinstance(value, Matrix):
        return None
    return DeviceArray(
        value, value.ctypes.data, value.shape, value.strides, value.dtype, HERE, LIBRARY
    )


def add_matmul(a, b, out):
    out += a @ b


def new(shape, dtype, place):
    array = sim.allocate(shape, dtype).view(Matrix)
    return array, array.ctypes.data


LIBRARY = Library(
    new,
    lambda a, b, out: np.matmul(a, b, out=out),
    add_matmul,
)


class Family(ModuleType):
    """That library as a family of arrays."""

    def call(self, function, *args, **kwargs):
        given = views.by_name(function, args, kwargs)
        return plans.computed(function, device.views_of(function, given, view))


@pytest.fixture(autouse=True)
def library(monkeypatch):
    monkeypatch.setitem(sys.modules, "matrix_library", Family("matrix_library"))
    monkeypatch.setattr(dispatch, "_FAMILIES", dict(dispatch._FAMILIES))
    monkeypatch.setattr(dispatch, "_named", {np.ndarray: ""})
    dispatch.register(__name__.partition(".")[0], "matrix_library")
    yield
    sim.forget()


def there(values, dtype=None):
    values = np.asarray(values, dtype)
    matrix = sim.allocate(values.shape, values.dtype).view(Matrix)
    matrix[...] = values
    return matrix


def close(actual, expected, tolerance):
    np.testing.assert_allclose(np.asarray(actual, float), expected, tolerance, tolerance)


@pytest.mark.parametrize("dtype, tolerance, soft", [("f4", 1e-5, False), ("f2", 2e-3, True)])
def test_gradients_in_several_blocks(rng, monkeypatch, dtype, tolerance, soft):
    """The reference's numbers, where logits take several blocks; ignored rows may hold nan."""
    monkeypatch.setattr(linear, "_BLOCK_BYTES", 3 * 9 * 4)
    x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in ((5, 4), (9, 4), (9,)))
    y = rng.random((5, 9)).astype(dtype) if soft else np.array([0, 8, -100, 3, 3])
    want = reference.linear_cross_entropy(x, w, y, linear_bias=b, return_grad=True)
    if not soft:
        x[2] = np.nan
    loss, grad = fx.linear_cross_entropy(
        there(x), there(w), there(y), linear_bias=there(b), return_grad=True
    )
    close(loss, want[0], tolerance)
    for part, expected, given in zip(grad, want[1], (x, w, b), strict=True):
        assert type(part) is Matrix and part.dtype == given.dtype
        close(part, expected, tolerance)


def test_products_are_made_at_every_call(rng):
    """A repeated call is not just its launches."""
    w, y = rng.standard_normal((6, 3)), np.array([0, 5, 1])
    for _ in range(3):
        x = rng.standard_normal((3, 3))
        loss = fx.linear_cross_entropy(there(x), there(w), there(y))
        close(loss, reference.linear_cross_entropy(x, w, y), 1e-12)


def test_labels_apart_and_by_name(rng):
    """Labels that do not lie side by side are copied, and kept as long as blocks read them.

    The order of keywords means nothing, nor does it that the buffers are a plain tuple.
    """
    x, w = rng.standard_normal((5, 3)), rng.standard_normal((6, 3))
    y = np.stack([[0, 5, -100, 2, 2], [9, 9, 9, 9, 9]], 1)
    buffers = there(np.empty((5, 3))), there(np.empty((6, 3))), None
    options = {"softcap": 3.0, "reduction": "sum"}
    loss, grad = fx.linear_cross_entropy(
        grad_out=buffers, target=there(y)[:, 0], linear_weight=there(w), **options, x=there(x)
    )
    want = reference.linear_cross_entropy(x, w, y[:, 0], return_grad=True, **options)
    close(loss, want[0], 1e-12)
    close(grad.x, want[1].x, 1e-12)
    close(buffers[1], want[1].linear_weight, 1e-12)


def test_accumulating(rng):
    """Gradients are added to what the buffers hold, and losses by row have lse and argmax."""
    x, w, y = rng.standard_normal((4, 3)), rng.standard_normal((5, 3)), np.array([0, 4, 2, 2])
    buffers = LinearGrad(there(np.ones((4, 3))), there(np.ones((5, 3))), None)
    loss, grad, lse, argmax = fx.linear_cross_entropy(
        there(x), there(w), there(y), grad_out=buffers, accumulate=True, reduction="none",
        return_lse=True, return_argmax=True,
    )  # fmt: skip
    want = reference.linear_cross_entropy(
        x, w, y, reduction="none", return_grad=True, return_lse=True, return_argmax=True
    )
    for got, expected in zip((loss, lse, argmax), (want[0], *want[2:]), strict=True):
        close(got, expected, 1e-12)
    assert grad[0] is buffers[0] and grad[1] is buffers[1]
    close(grad.x, want[1].x + 1, 1e-12)
    close(grad.linear_weight, want[1].linear_weight + 1, 1e-12)


@pytest.mark.parametrize("wrt", [
    ("x",), ("linear_weight",), ("linear_bias",), ("x", "linear_bias"),
])  # fmt: skip
def test_parts_that_are_asked_for(rng, monkeypatch, wrt):
    """The others are None, and no product is made for them."""
    x, w, b = (rng.standard_normal(shape) for shape in ((5, 4), (9, 4), (9,)))
    y, products = np.array([0, 8, -100, 3, 3]), []
    own = LIBRARY
    counted = own._replace(
        matmul=lambda a, b, out: (products.append("="), own.matmul(a, b, out)),
        add_matmul=lambda a, b, out: (products.append("+"), own.add_matmul(a, b, out)),
    )
    monkeypatch.setitem(globals(), "LIBRARY", counted)
    _, want = reference.linear_cross_entropy(x, w, y, linear_bias=b, wrt=wrt, return_grad=True)
    _, grad = fx.linear_cross_entropy(
        there(x), there(w), there(y), linear_bias=there(b), wrt=wrt, return_grad=True
    )
    for part, expected in zip(grad, want, strict=True):
        assert (part is None) == (expected is None)
        if part is not None:
            close(part, expected, 1e-12)
    # Of the logits, and the bias as a product that adds; then of each part.
    assert len(products) == 2 + len(wrt)


# --- second derivatives ---------------------------------------------------------------------


def vectors(rng, *arrays, dtype=np.float64):
    """Random numbers of the shapes of arrays, for each of them."""
    return LinearGrad(*(rng.standard_normal(a.shape).astype(dtype) for a in arrays))


def of_product(x, w, y, v, b=None, **options):
    """The parts of a product with arrays there, and what the reference makes of them."""
    parts = LinearGrad(*(None if part is None else there(part) for part in v))
    got = fx.linear_cross_entropy_hvp(
        there(x), there(w), there(y), parts, linear_bias=None if b is None else there(b), **options
    )
    return got, reference.linear_cross_entropy_hvp(x, w, y, v, linear_bias=b, **options)


@pytest.mark.parametrize("dtype, tolerance, soft", [
    ("f4", 1e-5, False), ("f4", 1e-5, True), ("f2", 4e-3, False), ("f8", 1e-12, True),
])  # fmt: skip
def test_products_in_several_blocks(rng, monkeypatch, dtype, tolerance, soft):
    """The reference's numbers; rows that are ignored may hold nan, and their vectors too."""
    monkeypatch.setattr(linear, "_BLOCK_BYTES", 3 * 3 * 9 * 4)
    x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in ((5, 4), (9, 4), (9,)))
    y = rng.random((5, 9)).astype(dtype) if soft else np.array([0, 8, -100, 3, 3])
    v = vectors(rng, x, w, b, dtype=dtype)
    if not soft:
        x[2] = v.x[2] = np.nan
    got, want = of_product(x, w, y, v, b)
    for part, expected, given in zip(got, want, (x, w, b), strict=True):
        assert type(part) is Matrix and part.dtype == given.dtype
        close(part, expected, tolerance)


@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("wrt", [("x",), ("linear_weight",), ("linear_bias",), "all"])
def test_parts_of_vectors_and_of_products(rng, which, wrt):
    """A vector that is None is zeros, a part that is not named is None."""
    x, w, b = (rng.standard_normal(shape) for shape in ((5, 4), (9, 4), (9,)))
    y, v = np.array([0, 8, -100, 3, 3]), vectors(rng, x, w, b)
    v = LinearGrad(*(part if k in which else None for k, part in enumerate(v)))
    given = {} if wrt == "all" else {"wrt": wrt}
    got, want = of_product(x, w, y, v, b, **given)
    for part, expected in zip(got, want, strict=True):
        assert (part is None) == (expected is None)
        if part is not None:
            close(part, expected, 1e-12)


@pytest.mark.parametrize("options", [
    {"softcap": 3.0, "logit_scale": -1.5}, {"z_loss": 0.1, "label_smoothing": 0.2},
    {"reduction": "sum", "ignore_index": 3}, {"normalizer": 0},
], ids=str)  # fmt: skip
def test_products_under_options(rng, options):
    """Those of cross_entropy_hvp; of a mean over nothing zeros."""
    x, w, b = (rng.standard_normal(shape) for shape in ((5, 4), (9, 4), (9,)))
    got, want = of_product(x, w, np.array([0, 8, 1, 3, 3]), vectors(rng, x, w, b), b, **options)
    for part, expected in zip(got, want, strict=True):
        close(part, expected, 1e-12)
    assert got.x.any() == ("normalizer" not in options)


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2"])
def test_products_over_their_vectors(rng, monkeypatch, dtype):
    """Each part over its part of the vector, which is read until the last block is done."""
    monkeypatch.setattr(linear, "_BLOCK_BYTES", 3 * 2 * 9 * 8)
    x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in ((7, 4), (9, 4), (9,)))
    y, v = np.array([0, 8, 1, 3, 3, 2, 5]), vectors(rng, x, w, b, dtype=dtype)
    apart, _ = of_product(x, w, y, v, b)
    over = LinearGrad(*map(there, v))
    got = fx.linear_cross_entropy_hvp(
        there(x), there(w), there(y), over, linear_bias=there(b), out=over
    )
    for part, expected, buffer in zip(got, apart, over, strict=True):
        assert part is buffer
        np.testing.assert_array_equal(part, expected)


def test_vectors_of_other_types_and_errors_that_name_them(rng):
    """They are converted; a part that does not fit is named."""
    x, w = rng.standard_normal((3, 4)).astype("f4"), rng.standard_normal((5, 4)).astype("f4")
    y, v = np.array([0, 4, 2]), (rng.integers(-3, 3, (3, 4)), rng.standard_normal((5, 4)), None)
    got, want = of_product(x, w, y, v)
    assert got.x.dtype == np.float32 and got.linear_bias is None
    close(got.x, want.x, 1e-5)
    close(got.linear_weight, want.linear_weight, 1e-5)
    with pytest.raises(ValueError, match=r"vector\.linear_weight"):
        of_product(x, w, y, (None, v[1].T, None))
    with pytest.raises(TypeError, match="vector"):  # in host memory
        fx.linear_cross_entropy_hvp(there(x), there(w), there(y), (None, v[1], None))


def test_entropy_beside_the_loss(rng, monkeypatch):
    """By row, for ignored ones too, of several blocks."""
    monkeypatch.setattr(linear, "_BLOCK_BYTES", 2 * 9 * 8)
    x, w = rng.standard_normal((5, 4)), rng.standard_normal((9, 4))
    y = np.array([0, 8, -100, 3, 3])
    options = {"return_entropy": True, "return_grad": True, "softcap": 3.0}
    loss, grad, entropy = fx.linear_cross_entropy(there(x), there(w), there(y), **options)
    want = reference.linear_cross_entropy(x, w, y, **options)
    close(loss, want[0], 1e-12)
    close(entropy, want[2], 1e-12)
    close(grad.linear_weight, want[1].linear_weight, 1e-12)


def test_a_library_without_products_is_refused_before_anything_is_written(rng):
    """The error names the libraries that have them."""
    x, w = sim.on_gpu(rng.standard_normal((2, 3))), sim.on_gpu(rng.standard_normal((4, 3)))
    with pytest.raises(TypeError, match="such as CuPy or PyTorch, got Array"):
        fx.linear_cross_entropy(x, w, sim.on_gpu(np.array([0, 1])), return_grad=True)
    with pytest.raises(TypeError, match="such as CuPy or PyTorch, got Array"):
        fx.linear_cross_entropy_hvp(x, w, sim.on_gpu(np.array([0, 1])), (x, None, None))
