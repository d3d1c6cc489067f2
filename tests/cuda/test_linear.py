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


def test_a_library_without_products_is_refused_before_anything_is_written(rng):
    """The error names the libraries that have them."""
    x, w = sim.on_gpu(rng.standard_normal((2, 3))), sim.on_gpu(rng.standard_normal((4, 3)))
    with pytest.raises(TypeError, match="as CuPy's or PyTorch's, got Array"):
        fx.linear_cross_entropy(x, w, sim.on_gpu(np.array([0, 1])), return_grad=True)
