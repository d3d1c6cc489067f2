"""Bad and unusual tensors and frames, as each argument of every function.

Bad ones raise the documented error, which names the argument, and write nothing. Unusual ones give
the result of the plain tensor or array.
"""

import contextlib
import functools
import math
import re

import calls
import numpy as np
import pytest
from lost_memory import freed, shrunk

import fastxent as fx
from fastxent import functions

# --- tensors ----------------------------------------------------------------------------------


def _torch():
    return pytest.importorskip("torch", reason="PyTorch is optional: pip install torch")


def tensors(name, dtype=np.float32):
    """The arguments of a valid call as tensors, without buffers."""
    torch = _torch()
    given = calls.good(name, dtype)
    return {
        k: torch.tensor(v) if isinstance(v, np.ndarray) else v
        for k, v in given.items() if k not in calls.BUFFERS
    }  # fmt: skip


@functools.cache
def _mesh():
    """A process group with this process as its only rank."""
    torch = _torch()
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    return torch.distributed.device_mesh.init_device_mesh("cpu", (1,))


def dtensor(t):
    from torch.distributed.tensor import Replicate, distribute_tensor

    return distribute_tensor(t, _mesh(), [Replicate()])


def masked(t):
    return _torch().masked.masked_tensor(t, _torch().ones_like(t, dtype=_torch().bool))


def nested(layout):
    def instead(t):
        return _torch().nested.nested_tensor([t.flatten(), t.flatten()[:1]], layout=layout)

    return instead


def quantised(t):
    return _torch().quantize_per_tensor(t.float(), 0.5, 0, _torch().quint8)


def functional(t):
    return _torch()._to_functional_tensor(t)


def fake(t):
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode().from_tensor(t)


def dual(t):
    from torch.autograd import forward_ad

    return forward_ad.make_dual(t, t.clone()) if t.is_floating_point() else None


class Wrapper:
    """Makes a tensor that wraps another, which PyTorch's own code for such tensors knows how to."""

    def __new__(cls, t):
        from torch.testing._internal.two_tensor import TwoTensor

        return TwoTensor(t, t)


_PLAIN = "must be a plain tensor, got "
_LOST = "must have its data in memory, but its storage has"

# Replacements of a tensor: the error, and its message after the argument's name.
BAD_TENSORS = {
    "a DTensor": (dtensor, TypeError, _PLAIN + r"DTensor: call to_local\(\).*full_tensor\(\)"),
    "a masked tensor": (masked, TypeError, _PLAIN + r"MaskedTensor: call get_data\(\)"),
    "a nested tensor": (lambda t: nested(_torch().strided)(t), TypeError,
                        _PLAIN + r"NestedTensor: call to_padded_tensor\(\)"),
    "a jagged tensor": (lambda t: nested(_torch().jagged)(t), TypeError,
                        _PLAIN + r"NestedTensor: call to_padded_tensor\(\)"),
    "a quantised tensor": (quantised, TypeError, r"got torch.quint8: call dequantize\(\)"),
    **{f"a tensor of {kind}": (lambda t, kind=kind: t.to(getattr(_torch(), kind)), TypeError,
                               rf"got torch.{kind}: call float\(\)")
       for kind in ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")},
    "a parameter without a shape": (lambda t: _torch().nn.UninitializedParameter(), TypeError,
                                    _PLAIN + "UninitializedParameter: run the module"),
    "a buffer without a shape": (lambda t: _torch().nn.parameter.UninitializedBuffer(), TypeError,
                                 _PLAIN + "UninitializedBuffer: run the module"),
    "a sparse tensor": (lambda t: t.to_sparse(), TypeError, r"torch.sparse_coo: call to_dense\(\)"),
    "a compressed tensor": (lambda t: t[None].to_sparse_csr()[0] if t.ndim < 2 else
                            t.to_sparse_csr(), TypeError, r"torch.sparse_c..: call to_dense\(\)"),
    "a tensor of oneDNN's": (lambda t: t.float().to_mkldnn(), TypeError,
                             r"torch._mkldnn: call to_dense\(\)"),
    "zeros without memory": (lambda t: _torch()._efficientzerotensor(t.shape, dtype=t.dtype),
                             TypeError, r"call clone\(\)"),
    "a tensor that wraps others": (Wrapper, TypeError, "must have memory of its own.*it wraps"),
    "a freed tensor": (freed, ValueError, _LOST),
    "a shrunk tensor": (shrunk, ValueError, _LOST),
    "a shrunk view": (lambda t: shrunk(t.clone())[...], ValueError, _LOST),
    "complex numbers": (lambda t: t.to(_torch().complex64), TypeError, "complex64"),
    "a tensor with a tangent": (dual, TypeError, "must have no tangent"),
}  # fmt: skip


def refused(function, given, argument, error, says):
    try:
        function(**given)
    except Exception as raised:
        assert type(raised) is error, f"raised {type(raised).__name__}: {raised}"
        assert re.search(rf"^{argument}\b.*{says}", str(raised), re.DOTALL), f"said {raised}"
    else:
        raise AssertionError("raised nothing")


@pytest.mark.filterwarnings("ignore")  # of prototypes, and of PyTorch's own imports
@pytest.mark.parametrize("kind", BAD_TENSORS)
def test_bad_tensors(one_fault, kind):
    """A bad tensor as every argument of every function."""
    torch = _torch()
    instead, error, says = BAD_TENSORS[kind]

    def tries():
        for name in calls.NAMES:
            for argument, value in tensors(name).items():
                if not isinstance(value, torch.Tensor):
                    continue
                function = functions.FUNCTIONS[name.partition(" ")[0]]
                if instead is dual and argument in function.inputs:
                    continue  # which may have tangents

                def attempt(name=name, argument=argument):
                    given = tensors(name)
                    bad = instead(given[argument])
                    if bad is not None:
                        given[argument] = bad
                        refused(calls.function_of(name), given, argument, error, says)

                yield f"{name} {argument}", attempt

    with torch.autograd.forward_ad.dual_level():
        one_fault("bad", list(tries()))


BAD_BUFFERS = {
    "a freed buffer": (freed, _LOST), "a shrunk buffer": (shrunk, _LOST),
    "a buffer on meta": (lambda t: t.to("meta"), "must be None where PyTorch|is on meta"),
    "a functional buffer": (functional, "must be None where PyTorch"),
    "a buffer that requires grad": (lambda t: t.requires_grad_(), "must not require grad"),
    "a buffer of negated numbers": (lambda t: _torch()._neg_view(t), "must not be a negative view"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", BAD_BUFFERS)
def test_bad_buffers(one_fault, kind):
    """A bad tensor as every buffer of every function."""
    torch = _torch()
    instead, says = BAD_BUFFERS[kind]

    def attempt(name, buffer, part):
        given = tensors(name)
        good = calls.good(name, np.float32)[buffer]
        if part is None:
            given[buffer] = instead(torch.tensor(good))
            refused(calls.function_of(name), given, buffer, ValueError, says)
            return
        parts = {f: torch.tensor(a) for f, a in good._asdict().items()}
        parts[part] = instead(parts[part])
        given[buffer] = fx.LinearGrad(**parts)
        refused(calls.function_of(name), given, rf"{buffer}(.{part})?", ValueError, says)

    one_fault("bad", [
        (f"{name} {buffer} {part}", functools.partial(attempt, name, buffer, part))
        for name in calls.NAMES for buffer in calls.BUFFERS if buffer in calls.takes(name)
        for part in (fx.LinearGrad._fields if name.startswith("linear") else (None,))
    ])  # fmt: skip


def flat(result):
    """The tensors of a result."""
    if isinstance(result, tuple):
        return [part for each in result for part in flat(each)]
    return [] if result is None else [result]


# Replacements of the tensors, and how their results are compared.
ODD_TENSORS = {
    "functional": (functional, lambda t: _torch()._from_functional_tensor(t)),
    "fake": (None, None), "meta": (lambda t: t.to("meta"), None),
    "parameters": (lambda t: _torch().nn.Parameter(t, requires_grad=False), lambda t: t),
    "of a subclass": (lambda t: t.as_subclass(_mine()), lambda t: t),
    "for inference": (lambda t: t, lambda t: t),
    "strided": (lambda t: _torch().stack([t, t], -1)[..., 0], lambda t: t),
    "negated": (lambda t: _torch()._neg_view(-t), lambda t: t),
}  # fmt: skip


@functools.cache
def _mine():
    return type("Mine", (_torch().Tensor,), {})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD_TENSORS)
def test_odd_tensors(one_fault, kind):
    """Unusual tensors as all arguments: the same results, or the same shapes and types."""
    torch = _torch()
    from torch._subclasses.fake_tensor import FakeTensorMode

    instead, back = ODD_TENSORS[kind]

    def attempt(name, flags):
        given = tensors(name)
        want = flat(calls.function_of(name)(**given, **flags))
        mode = torch.inference_mode() if kind == "for inference" else contextlib.nullcontext()
        if kind == "fake":
            mode = FakeTensorMode()
            changed = mode.from_tensor
        else:
            changed = instead
        with mode:
            odd = {k: changed(v) if isinstance(v, torch.Tensor) else v for k, v in given.items()}
            got = flat(calls.function_of(name)(**odd, **flags))
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            if back is not None:
                torch.testing.assert_close(back(a), b, rtol=0, atol=0)

    one_fault("odd", [
        (f"{name} {flags}", functools.partial(attempt, name, flags))
        for name in calls.NAMES
        for flags in ({}, {f: True for f in calls.takes(name) if f.startswith("return_")})
    ])  # fmt: skip


# --- frames -----------------------------------------------------------------------------------


def _pandas():
    return pytest.importorskip("pandas", reason="needs pandas: pip install pandas")


def frame(a):
    return _pandas().DataFrame(a) if a.ndim == 2 else _pandas().Series(a)


def nullable(a):
    return frame(a).convert_dtypes()


def arrow(a):
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install pyarrow")
    return frame(a).convert_dtypes(dtype_backend="pyarrow")


def missing(convert):
    def instead(a):
        odd = convert(a)
        if odd.ndim == 2:
            odd.iloc[len(a) - 1, 0] = _pandas().NA
        else:
            odd.iloc[len(a) - 1] = _pandas().NA
        return odd

    return instead


FRAMES = {"a frame": frame, "a nullable frame": nullable, "a frame of Arrow's": arrow}
_ARRAYS = calls.with_role(*functions.ARRAYS - {functions.Role.SCALAR})


def _frames(attempt):
    for name in calls.NAMES:
        for argument in _ARRAYS:
            is_tuple = argument == "vector" and name.startswith("linear")
            if argument in calls.takes(name) and not is_tuple:
                for dtype in calls.FLOATS:
                    what = f"{name} {argument} {dtype.__name__}"
                    yield what, functools.partial(attempt, name, argument, dtype)


@pytest.mark.parametrize("kind", FRAMES)
def test_odd_frames(one_fault, kind):
    """Frames and series as arguments give the bits of the arrays."""
    _pandas()

    def attempt(name, argument, dtype):
        given = {k: v for k, v in calls.good(name, dtype).items() if k not in calls.BUFFERS}
        want = calls.function_of(name)(**given)
        odd = FRAMES[kind](given[argument])
        before = odd.copy()
        got = calls.function_of(name)(**given | {argument: odd})
        pairs = zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]
        for a, b in pairs:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        assert odd.equals(before)

    one_fault("odd", list(_frames(attempt)))


def test_frames_of_both_kinds():
    """nan in a column that is not nullable is an ordinary number."""
    pd = _pandas()
    both = pd.DataFrame({"a": pd.array([1.0, 2.0], dtype="Float64"), "b": [math.nan, 1.0]})
    np.testing.assert_array_equal(fx.logsumexp(both), [math.nan, fx.logsumexp([2.0, 1.0])])
    wrapped = pd.array(np.array([1.0, math.nan]), dtype=np.dtype(float))
    assert math.isnan(fx.logsumexp(wrapped))


@pytest.mark.parametrize("name", ["NA", "NaT", "Timestamp(0)", "Interval(0, 1)", "offsets.Day(1)"])
def test_objects_that_are_no_columns(name):
    """They raise the error of any object."""
    value = eval(name, vars(_pandas()))
    with pytest.raises(TypeError, match="^logits must be an array or a nested sequence, got "):
        fx.softmax(value)
    with pytest.raises(TypeError, match="^normalizer must be a real number, got "):
        fx.cross_entropy(np.zeros((2, 3)), [0, 1], normalizer=value)


@pytest.mark.parametrize("kind", ["a nullable frame", "a frame of Arrow's"])
def test_bad_frames(one_fault, kind):
    """The error names the row of a missing value."""
    _pandas()

    def attempt(name, argument, dtype):
        given = {k: v for k, v in calls.good(name, dtype).items() if k not in calls.BUFFERS}
        row = len(given[argument]) - 1
        given[argument] = missing(FRAMES[kind])(given[argument])
        says = f"must have no missing values, got one in row {row}"
        refused(calls.function_of(name), given, argument, ValueError, says)

    one_fault("bad", list(_frames(attempt)))
