"""Bad input: the documented type of error, a message that names the argument, nothing written."""

from importlib.util import find_spec

import numpy as np
import pytest

import fastxent as fx
from fastxent import _inputs

X = np.random.default_rng(3).standard_normal((4, 3))
Y = np.array([0, 2, 1, -100])
read_only = X.copy()
read_only.flags.writeable = False


class OnGpu:
    """What a GPU array looks like to code that has not imported its library."""

    __cuda_array_interface__ = {"shape": (4,)}


def structured():
    return np.zeros((4, 3), [("a", float)])


# What comes in place of an argument, the error, and what its message must say.
LOGITS = {
    "complex": (X + 0j, TypeError, "logits must be .* got complex128"),
    "object": (X.astype(object), TypeError, "logits must be .* got object"),
    "structured": (structured(), TypeError, "logits must be"),
    "masked": (np.ma.masked_array(X), TypeError, "logits must not be a masked array"),
    "longdouble": (X.astype(np.longdouble), TypeError, "logits must be .* got float128"),
    "text": (X.astype(str), TypeError, "logits must be"),
    "dates": (X.astype("M8[s]"), TypeError, "logits must be"),
    "ragged": ([[1.0, 2.0], [1.0]], TypeError, "logits must be an array"),
    "none": (None, TypeError, "logits must be"),
    "scalar": (1.0, ValueError, "logits must have a class axis"),
    "no classes": (np.empty((4, 0)), ValueError, r"logits must have at least one class, got .*0\)"),
}
TARGET = {
    "too short": (Y[:3], ValueError, r"target must have shape \(4,\).*got \(3,\)"),
    "column": (Y[:, None], ValueError, "target must have shape"),
    "scalar": (1, ValueError, "target must have shape"),
    "wrong probabilities": (X.T, ValueError, "target must have shape"),
    "complex probabilities": (X + 0j, TypeError, "target must hold real numbers, got complex128"),
    "dates": (X.astype("M8[s]"), TypeError, "target must hold real numbers"),
    "floats": (Y * 1.0, TypeError, "target must hold integer class indices, got float64: cast"),
    "bools": (Y > 0, TypeError, "target must hold integer class indices, got bool: cast"),
    "objects": (Y.astype(object), TypeError, "target must hold"),
    "masked": (np.ma.masked_array(Y), TypeError, "target must not be a masked array"),
    "ragged": ([[1], [1, 2]], TypeError, "target must be an array"),
    "gpu": (OnGpu(), TypeError, "target is on a GPU"),
    "too large": ([0, 3, 1, 7], IndexError, r"target\[1\] must be a class in 0 .. 2 .*got 3"),
    "negative": ([0, 2, -1, 1], IndexError, r"target\[2\] .*got -1"),
    "int8": (np.int8([0, 2, -128, 1]), IndexError, r"target\[2\] .*got -128"),
    "not wrapped": (np.uint64([0, 2, 2**64 - 1, 1]), IndexError, r"got 18446744073709551615"),
    "not -100": (np.uint64([0, 2, 2**64 - 100, 1]), IndexError, r"got 18446744073709551516"),
    "swapped": (
        np.array([0, 2**64 - 100] * 2, ">u8"),
        IndexError,
        r"\[1\] .*got 18446744073709551516",
    ),
    "large int64": ([0, 2, 2**40, 1], IndexError, r"target\[2\] .*got 1099511627776"),
}
OPTIONS = {
    "axis range": ({"axis": 2}, ValueError, r"axis must be in -2 .. 1"),
    "axis tuple": ({"axis": (0, 1)}, TypeError, "axis must be an int, got tuple"),
    "axis bool": ({"axis": True}, TypeError, "axis must be an int, got bool"),
    "axis float": ({"axis": 1.0}, TypeError, "axis must be an int, got float"),
    "weight shape": ({"weight": [1, 1]}, ValueError, r"weight must have shape \(3,\).*got \(2,\)"),
    "weight scalar": ({"weight": 1.0}, ValueError, "weight must have shape"),
    "weight type": ({"weight": [1j, 1, 1]}, TypeError, "weight must hold real numbers"),
    "sample_weight shape": (
        {"sample_weight": [[1]] * 4}, ValueError, r"sample_weight must have shape \(4,\)"),
    "sample_weight type": (
        {"sample_weight": ["a"] * 4}, TypeError, "sample_weight must hold real numbers"),
    "ignore_index": ({"ignore_index": 1.5}, TypeError, "ignore_index must be an int, got float"),
    "ignore_index bool": ({"ignore_index": True}, TypeError, "ignore_index must be an int"),
    "smoothing range": ({"label_smoothing": 1.1}, ValueError, "label_smoothing must be in 0 .. 1"),
    "smoothing negative": ({"label_smoothing": -0.1}, ValueError, "label_smoothing must be in"),
    "smoothing nan": ({"label_smoothing": np.nan}, ValueError, "label_smoothing must be finite"),
    "smoothing type": ({"label_smoothing": "0.1"}, TypeError, "label_smoothing must be a real"),
    "z_loss inf": ({"z_loss": np.inf}, ValueError, "z_loss must be finite"),
    "z_loss type": ({"z_loss": None}, TypeError, "z_loss must be a real number"),
    "scale nan": ({"logit_scale": np.nan}, ValueError, "logit_scale must be finite"),
    "scale array": ({"logit_scale": np.ones(3)}, TypeError, "logit_scale must be a real number"),
    "softcap": ({"softcap": 0.0}, ValueError, "softcap must be greater than 0"),
    "softcap of another range": ({"softcap": 1e-320}, ValueError, "softcap must be a number that"),
    "scale of another range": ({"logit_scale": 1e-310}, ValueError, "logit_scale must be a number"),
    "z_loss too large": ({"z_loss": 10**400}, ValueError, "z_loss must be a number that float64"),
    "huge normalizer": ({"normalizer": 10**400}, ValueError, "normalizer must be a number that"),
    "softcap type": ({"softcap": True}, TypeError, "softcap must be a real number"),
    "reduction": ({"reduction": "average"}, ValueError, "reduction must be one of"),
    "reduction none": ({"reduction": None}, ValueError, "reduction must be one of"),
    "reduction array": ({"reduction": np.ones(2)}, ValueError, "reduction must be one of"),
    "normalizer sum": (
        {"normalizer": 2, "reduction": "sum"}, ValueError, "normalizer goes with reduction='mean'"),
    "normalizer shape": ({"normalizer": [2.0]}, ValueError, "normalizer must be a scalar"),
    "normalizer type": ({"normalizer": np.array(1j)}, TypeError, "normalizer must be a real"),
}  # fmt: skip
BUFFERS = {
    "list": (X.tolist(), "must be a numpy.ndarray"),
    "subclass": (X.copy().view(type("Mine", (np.ndarray,), {})), "must be a numpy.ndarray"),
    "shape": (np.empty((3, 4)), r"must have shape \(4, 3\), got \(3, 4\)"),
    "type": (np.empty((4, 3), np.float32), "must have dtype float64"),
    "byte order": (np.empty((4, 3), ">f8"), "must have dtype float64 in native byte order"),
    "read-only": (read_only, "must be writeable"),
    "broadcast": (np.broadcast_to(np.empty(3), (4, 3)).view(), "must be writeable"),
    "stride 0": (np.lib.stride_tricks.as_strided(np.empty(3), (4, 3), (0, 8)), "broadcast"),
    "self overlap": (np.lib.stride_tricks.as_strided(np.empty(9), (4, 3), (16, 8)), "overlapping"),
    "shifted logits": (X, "must not overlap logits"),
}


def unchanged(call, error, match, *arrays):
    """The call raises as it should, and no array has changed by a bit."""
    before = [a.tobytes() for a in arrays]
    with pytest.raises(error, match=match):
        call()
    assert [a.tobytes() for a in arrays] == before


@pytest.mark.parametrize("value", LOGITS.values(), ids=LOGITS.keys())
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "cross_entropy"])
def test_logits(name, value):
    """Every function refuses logits that it cannot mean."""
    logits, error, match = value
    args = (Y,) if name == "cross_entropy" else ()
    with pytest.raises(error, match=match):
        getattr(fx, name)(logits, *args)


@pytest.mark.parametrize("name", [name for name in LOGITS if name != "no classes"])
def test_logsumexp_logits(name):
    """Logsumexp likewise; an empty axis it has an answer for."""
    logits, error, match = LOGITS[name]
    with pytest.raises(error, match=match):
        fx.logsumexp(logits)


@pytest.mark.parametrize("value", TARGET.values(), ids=TARGET.keys())
@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
def test_targets(value, linear):
    """Bad targets, and that the buffers were not touched."""
    target, error, match = value
    grad = np.full((4, 3), 7.0)
    if linear:
        weight = np.full((3, 3), 7.0)
        buffers = fx.LinearGrad(grad, weight, None)
        unchanged(
            lambda: fx.linear_cross_entropy(X, np.eye(3), target, grad_out=buffers),
            error, match, grad, weight,
        )  # fmt: skip
    else:
        unchanged(lambda: fx.cross_entropy(X, target, grad_out=grad), error, match, grad)


@pytest.mark.parametrize("value", OPTIONS.values(), ids=OPTIONS.keys())
def test_options(value):
    """Options out of range or of another type."""
    options, error, match = value
    grad = np.full((4, 3), 7.0)
    unchanged(lambda: fx.cross_entropy(X, Y, grad_out=grad, **options), error, match, grad)
    if "axis" not in options:
        with pytest.raises(error, match=match):
            fx.linear_cross_entropy(X, np.eye(3), Y, **options)


@pytest.mark.parametrize("value", BUFFERS.values(), ids=BUFFERS.keys())
@pytest.mark.parametrize("name", ["out", "grad_out", "probs_out", "linear"])
def test_buffers(name, value):
    """Buffers of another kind, shape, type, or place."""
    buffer, match = value
    if match == "must not overlap logits":
        base = np.arange(15.0)
        logits, buffer = base[:12].reshape(4, 3), base[3:].reshape(4, 3)
        match = "must not overlap"
    else:
        logits = X
    calls = {
        "out": lambda: fx.softmax(logits, out=buffer),
        "grad_out": lambda: fx.cross_entropy(logits, Y, grad_out=buffer),
        "probs_out": lambda: fx.cross_entropy(logits, Y, probs_out=buffer),
        "linear": lambda: fx.linear_cross_entropy(
            logits, np.eye(3), Y, grad_out=fx.LinearGrad(buffer, np.empty((3, 3)), None)
        ),
    }
    argument = "grad_out.x" if name == "linear" else name
    unchanged(calls[name], ValueError, f"{argument} .*{match}", logits)


@pytest.mark.parametrize("value", LOGITS.values(), ids=LOGITS.keys())
def test_probabilities(value):
    """The losses of probabilities and the binary ones refuse what they cannot mean."""
    given, error, match = value
    match = match.replace("logits", "probs")
    with pytest.raises(error, match=match):
        fx.categorical_cross_entropy(given, Y)
    if "class" not in match:
        with pytest.raises(error, match=match):
            fx.binary_cross_entropy(given, Y)
        with pytest.raises(error, match=match.replace("probs", "logits")):
            fx.binary_cross_entropy_with_logits(given, Y)


BINARY = {
    "target shape": (dict(target=X[:3]), ValueError, r"target must have shape \(4, 3\) .*\(3, 3\)"),
    "target broadcast": (dict(target=X[0]), ValueError, "target must have shape"),
    "target number": (dict(target=1), ValueError, r"target must have shape .* got \(\)"),
    "target complex": (dict(target=X + 0j), TypeError, "target must hold real numbers"),
    "target text": (dict(target=X.astype(str)), TypeError, "target must hold real numbers"),
    "target gpu": (dict(target=OnGpu()), TypeError, "target is on a GPU"),
    "target masked": (dict(target=np.ma.masked_array(X)), TypeError, "target must not be a masked"),
    "weight shape": (dict(weight=[1, 2]), ValueError, r"weight must broadcast to shape \(4, 3\)"),
    "weight larger": (dict(weight=np.ones((2, 4, 3))), ValueError, "weight must broadcast to"),
    "weight type": (dict(weight=1j), TypeError, "weight must hold real numbers"),
    "reduction": (dict(reduction="avg"), ValueError, "reduction must be one of"),
}  # fmt: skip
EPS = {
    "zero": (0.0, ValueError, "eps must be None or a number between 0 and 0.5, got 0.0"),
    "half": (0.5, ValueError, "eps must be None or a number between 0 and 0.5"),
    "negative": (-0.1, ValueError, "eps must be None or a number between 0 and 0.5"),
    "nan": (np.nan, ValueError, "eps must be finite"),
    "below the type": (1e-320, ValueError, "eps must be a number that float64 holds"),
    "text": ("0.1", TypeError, "eps must be a real number"),
}


@pytest.mark.parametrize("value", BINARY.values(), ids=BINARY.keys())
def test_binary_arguments(value):
    """Both binary losses, and pos_weight as weight; the buffer keeps its bits."""
    changed, error, match = value
    grad = np.full((4, 3), 7.0)
    given = {"target": X, "grad_out": grad} | changed
    unchanged(lambda: fx.binary_cross_entropy(X, **given), error, match, grad)
    if "weight" in given:
        given["pos_weight"], match = given.pop("weight"), f"pos_{match}"
    unchanged(lambda: fx.binary_cross_entropy_with_logits(X, **given), error, match, grad)


@pytest.mark.parametrize("value", EPS.values(), ids=EPS.keys())
def test_eps(value):
    """Eps out of range or of another type."""
    eps, error, match = value
    grad = np.full((4, 3), 7.0)
    for function, target in ((fx.binary_cross_entropy, X), (fx.categorical_cross_entropy, Y)):
        unchanged(
            lambda function=function, target=target: function(X, target, eps=eps, grad_out=grad),
            error, match, grad,
        )  # fmt: skip
    with pytest.raises(ValueError, match="eps must be a number that float32 holds"):
        fx.binary_cross_entropy(np.float32(0.5), 1, eps=1e-39)


@pytest.mark.parametrize("ignore_index", [0, -1, None])
def test_probabilities_ignore_nothing(ignore_index):
    """An ignore_index other than the default does not go with probabilities."""
    match = "ignore_index must be left at -100 with class probabilities .* got"
    for call in (
        lambda: fx.cross_entropy(X, X, ignore_index=ignore_index),
        lambda: fx.categorical_cross_entropy(X, X, ignore_index=ignore_index),
        lambda: fx.linear_cross_entropy(X, np.eye(3), X, ignore_index=ignore_index),
    ):
        with pytest.raises(ValueError, match=match):
            call()


OTHERS = [
    fx.categorical_cross_entropy,
    fx.binary_cross_entropy,
    fx.binary_cross_entropy_with_logits,
]


@pytest.mark.parametrize("value", BUFFERS.values(), ids=BUFFERS.keys())
@pytest.mark.parametrize("function", OTHERS)
def test_buffers_of_other_losses(function, value):
    """grad_out of the other losses: the same rules, and over its own input only."""
    x, (buffer, match) = X, value
    if match == "must not overlap logits":
        base = np.arange(15.0)
        x, buffer = base[:12].reshape(4, 3), base[3:].reshape(4, 3)
        match = "must not overlap (logits|probs)"
    target = Y if function is fx.categorical_cross_entropy else np.full((4, 3), 0.5)
    unchanged(lambda: function(x, target, grad_out=buffer), ValueError, f"grad_out .*{match}", x)


def test_binary_buffers_over_other_inputs():
    """A gradient over the target or a weight."""
    target, weight = np.full((4, 3), 0.5), np.ones((4, 3))
    run = fx.binary_cross_entropy_with_logits
    for function in OTHERS[1:]:
        with pytest.raises(ValueError, match="grad_out must not overlap target"):
            function(X, target, grad_out=target)
        with pytest.raises(ValueError, match="grad_out must not overlap weight"):
            function(X, target, weight=weight[0], grad_out=weight)
    with pytest.raises(ValueError, match="grad_out must not overlap pos_weight"):
        run(X, target, pos_weight=weight[0], grad_out=weight)


def test_buffers_over_probability_targets(dtype):
    """A gradient over the target it is made from."""
    logits, target = X.astype(dtype), np.full((4, 3), 0.5, dtype)
    for call in (
        lambda: fx.cross_entropy(logits, target, grad_out=target),
        lambda: fx.categorical_cross_entropy(logits, target, grad_out=target),
        lambda: fx.linear_cross_entropy(
            logits, np.eye(3, dtype=dtype), target,
            grad_out=fx.LinearGrad(target, np.empty((3, 3), dtype), None),
        ),
    ):  # fmt: skip
        unchanged(call, ValueError, "must not overlap target", logits, target)


def test_buffers_over_other_inputs(dtype):
    """A buffer over the target, the weights, or another buffer; probs_out over logits."""
    logits = X.astype(dtype)
    memory = np.zeros((4, 3), dtype)
    labels = memory.view(np.int64).reshape(-1)[:4] if dtype is np.float64 else None
    cases = [
        (dict(grad_out=memory, weight=memory[0]), "grad_out must not overlap weight"),
        (dict(grad_out=memory, sample_weight=memory[:, 0]), "must not overlap sample_weight"),
        (dict(grad_out=memory, probs_out=memory), "probs_out must not overlap grad_out"),
        (dict(probs_out=logits), "probs_out must not overlap logits"),
    ]
    for options, match in cases:
        unchanged(
            lambda options=options: fx.cross_entropy(logits, Y, **options),
            ValueError, match, logits, memory,
        )  # fmt: skip
    if labels is not None:
        with pytest.raises(ValueError, match="grad_out must not overlap target"):
            fx.cross_entropy(logits, labels, grad_out=memory)


LINEAR = {
    "features": (dict(x=X[:, :2]), ValueError, r"x must have shape \(\.\.\., 3\)"),
    "scalar x": (dict(x=1.0), ValueError, "x must have shape"),
    "weight rank": (dict(linear_weight=np.ones(3)), ValueError, "linear_weight must have shape"),
    "no class": (dict(linear_weight=np.ones((0, 3))), ValueError, "at least one class"),
    "bias": (dict(linear_bias=np.ones(2)), ValueError, r"linear_bias must have shape \(3,\)"),
    "x type": (dict(x=X + 0j), TypeError, "x must be"),
    "weight type": (dict(linear_weight=np.eye(3) + 0j), TypeError, "linear_weight must be"),
    "bias type": (dict(linear_bias=np.ones(3, object)), TypeError, "linear_bias must be"),
    "accumulate": (dict(accumulate=True), ValueError, "accumulate=True needs buffers in grad_out"),
    "no tuple": (dict(grad_out=np.empty((4, 3))), ValueError, "grad_out must be a LinearGrad"),
    "two": (dict(grad_out=(X.copy(), np.eye(3))), ValueError, "grad_out must be a LinearGrad"),
    "useless": (
        dict(grad_out=fx.LinearGrad(X.copy(), np.eye(3), np.ones(3))),
        ValueError,
        "grad_out.linear_bias must be None without linear_bias",
    ),
}


@pytest.mark.parametrize("value", LINEAR.values(), ids=LINEAR.keys())
def test_linear_map(value):
    """Operands of the linear map that do not fit."""
    changed, error, match = value
    with pytest.raises(error, match=match):
        fx.linear_cross_entropy(
            **({"x": X, "linear_weight": np.eye(3), "target": np.zeros(4, int)} | changed)
        )


def test_buffers_over_array_likes(rng):
    """Memory that came in as a memoryview is found, too."""
    memory = np.zeros((4, 3))
    labels = memory.reshape(-1)[2:6].view(np.int64)
    with pytest.raises(ValueError, match="grad_out must not overlap target"):
        fx.cross_entropy(X, memoryview(labels), grad_out=memory)
    with pytest.raises(ValueError, match="grad_out must not overlap weight"):
        fx.cross_entropy(X, Y, weight=memoryview(memory[0]), grad_out=memory)
    for out in ("x", "linear_weight"):
        w = np.zeros((3, 3))
        buffers = fx.LinearGrad(memory, w, None)
        weight = memoryview((memory if out == "x" else w)[0])
        with pytest.raises(ValueError, match=f"grad_out.{out} must not overlap weight"):
            fx.linear_cross_entropy(X, np.eye(3), Y, weight=weight, grad_out=buffers)


def test_ranges_are_those_of_the_arithmetic():
    """What float32 cannot multiply by is refused there, and fine in float64."""
    for options in ({"softcap": 1e300}, {"logit_scale": 1e39}, {"logit_scale": -1e-50}):
        with pytest.raises(ValueError, match="must be a number that float32 holds"):
            fx.cross_entropy(X.astype(np.float32), Y, **options)
        assert np.isfinite(fx.cross_entropy(X, Y, **options))


def test_linear_buffers_over_inputs():
    """A gradient buffer over an input or over another buffer."""
    w = np.eye(3)
    for buffers, match in [
        (fx.LinearGrad(X, np.empty((3, 3)), None), "grad_out.x must not overlap x"),
        (fx.LinearGrad(np.empty((4, 3)), w, None), "must not overlap linear_weight"),
    ]:
        unchanged(
            lambda buffers=buffers: fx.linear_cross_entropy(X, w, Y, grad_out=buffers),
            ValueError, match, X, w,
        )  # fmt: skip
    both = np.empty((4, 3))
    with pytest.raises(ValueError, match="must not overlap grad_out.x"):
        fx.linear_cross_entropy(X, w, Y, grad_out=fx.LinearGrad(both, both[:3], None))


def test_what_is_wrong_is_named():
    """The target's shape is wrong for an argument that was given, under its own name."""
    for call, of in (
        (lambda: fx.cross_entropy(X, Y[:3]), "logits"),
        (lambda: fx.categorical_cross_entropy(X, Y[:3]), "probs"),
        (lambda: fx.linear_cross_entropy(X, np.eye(3), Y[:3]), "x @ linear_weight.T"),
    ):
        with pytest.raises(ValueError, match=f"for {of} of shape"):
            call()


def test_first_bad_row_is_named(rng):
    """Of many bad labels, in many chunks and ranks, the first in row order, with its value."""
    labels = rng.integers(0, 3, 300_000)
    labels[[299_999, 123_456, 200_000]] = [77, 55, 66]
    with pytest.raises(IndexError, match=r"target\[123456\] .*got 55"):
        fx.cross_entropy(np.zeros((300_000, 3), np.float32), labels)
    with pytest.raises(IndexError, match=r"target\[1, 0\] .*got 9"):
        fx.cross_entropy(np.zeros((2, 3, 2)), [[0, 1], [9, 8]], axis=1)
    with pytest.raises(IndexError, match=r"target\[\(\)\] .*got 3"):
        fx.cross_entropy([0.0, 1.0], 3)


def test_messages_come_from_one_file():
    """Every error text of the package's public layer stands in _inputs.py."""
    import inspect
    import re

    for name in ("_softmax", "_cross_entropy", "_linear", "_targets", "_warmup", "_binary"):
        source = inspect.getsource(__import__(f"fastxent.{name}", fromlist=["_"]))
        raised = re.findall(r"raise (\S+)\(", source)
        assert set(raised) <= {"inputs.bad_label"}, name
    assert "raise ValueError" in inspect.getsource(_inputs)


@pytest.mark.skipif(find_spec("numba_cuda") is not None, reason="is about its absence")
@pytest.mark.parametrize("function", [fx.softmax, fx.logsumexp, fx.binary_cross_entropy])
def test_a_gpu_array_without_numba_cuda(function):
    """The error says what to install."""
    with pytest.raises(ImportError, match=r"pip install 'fastxent\[cuda13\]'"):
        function(*(OnGpu(),) * (1 + (function is fx.binary_cross_entropy)))
