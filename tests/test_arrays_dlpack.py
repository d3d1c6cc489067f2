"""Arrays that only describe their memory: any library's, by DLPack and the array API."""

import numpy as np
import pytest

import fastxent as fx

strict = pytest.importorskip("array_api_strict", reason="optional: pip install array-api-strict")

X = np.float32([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9], [-1.0, 0.5, 3.0], [0.3, 0.2, -0.4]])
Y = np.array([1, 0, 2, 2])


class Bare:
    """Memory to be read by DLPack, and nothing else."""

    def __init__(self, array, device=None):
        self.array, self.device = array, device

    def __dlpack__(self, **how):
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self):
        return self.device or self.array.__dlpack_device__()


def test_the_same_kind_out():
    """Arrays of the first argument's library; the others may be of any."""
    x, y = strict.asarray(X), strict.asarray(Y)
    for target in (y, Y, Bare(Y)):
        loss, grad = fx.cross_entropy(x, target, return_grad=True)
        assert type(loss) is type(grad) is type(x)
        want = fx.cross_entropy(X, Y, return_grad=True)
        np.testing.assert_array_equal(np.from_dlpack(loss), want[0])
        np.testing.assert_array_equal(np.from_dlpack(grad), want[1])
    assert type(fx.logsumexp(x, axis=0)) is type(x)
    parts = fx.linear_cross_entropy(x, strict.ones((5, 3), dtype=strict.float32), y,
                                    return_grad=True)[1]  # fmt: skip
    assert isinstance(parts, fx.LinearGrad)
    assert type(parts.linear_weight) is type(x)
    assert parts.linear_bias is None


def test_what_has_no_library_gets_numpy_arrays():
    """For nothing says what else it could be."""
    got = fx.softmax(Bare(X))
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, fx.softmax(X))


def test_buffers_of_the_same_kind():
    """They are written where they lie."""
    x = strict.asarray(X)
    grad = strict.empty((4, 3), dtype=strict.float32)
    assert fx.cross_entropy(x, Y, grad_out=grad)[1] is grad
    np.testing.assert_array_equal(np.from_dlpack(grad), fx.cross_entropy(X, Y, return_grad=True)[1])


def test_memory_elsewhere():
    """Which argument, and on which device."""
    with pytest.raises(TypeError, match="logits is on DLPack's device 4:1, expected"):
        fx.softmax(Bare(X, (4, 1)))
    with pytest.raises(TypeError, match="target is on DLPack's device 2:0"):
        fx.cross_entropy(strict.asarray(X), Bare(Y, (2, 0)))
    with pytest.raises(TypeError, match="positional argument"):
        fx.cross_entropy(strict.asarray(X))
