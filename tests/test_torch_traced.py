"""Under transforms, traces and modes: right numbers later, or a refusal; never a constant, never 0.

What PyTorch traces goes through operators, so that a graph computes the value when it is run.
"""

import subprocess
import sys
from functools import partial

import pytest

import fastxent as fx

torch = pytest.importorskip("torch", reason="PyTorch is optional: pip install torch")
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402 - wants PyTorch
from torch.autograd import forward_ad  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",  # of PyTorch's own imports
    "ignore:.*TracerWarning", "ignore::torch.jit.TracerWarning",
    "ignore:Dynamo detected a call", "ignore:Dynamo does not know",  # as it reads on after an error
)  # fmt: skip

Y = torch.tensor([1, 0, 2, 2])
SOFT = torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0], [0.3, 0.3, 0.4], [0.1, 0.1, 0.1]])
W = torch.linspace(-1, 2, 15).view(5, 3)
LABELS = torch.tensor([1, 0, 4, 2])
FLAGS = dict.fromkeys(["return_grad", "return_lse", "return_argmax"], True)

# Every function as one of its first argument, which comes as `X` and `OTHER` below.
FUNCTIONS = {
    "softmax": lambda x: fx.softmax(x),
    "log_softmax": lambda x: fx.log_softmax(x, axis=0),
    "logsumexp": lambda x: fx.logsumexp(x),
    "entropy": lambda x: fx.entropy(x, return_grad=True),
    "indices": lambda x: fx.cross_entropy(x, Y),
    "rows": lambda x: fx.cross_entropy(x, Y, reduction="none", label_smoothing=0.1),
    "soft": lambda x: fx.cross_entropy(x, SOFT, weight=[1.0, 2.0, 0.5]),
    "more": lambda x: fx.cross_entropy(x, [1, 0, 2, 2], return_probs=True, **FLAGS),
    "categorical": lambda x: fx.categorical_cross_entropy(x * 0.1 + 0.5, Y),
    "linear": lambda x: fx.linear_cross_entropy(x, W, LABELS, **FLAGS),
    "linear part": lambda x: fx.linear_cross_entropy(x, W, LABELS, wrt="x", return_grad=True),
    "binary": lambda x: fx.binary_cross_entropy(x * 0.1 + 0.5, SOFT),
    "binary logits": lambda x: fx.binary_cross_entropy_with_logits(x, SOFT, pos_weight=2.0),
}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
X = torch.tensor([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9], [-1.0, 0.5, 3.0], [0.3, 0.2, -0.4]])
OTHER = X.flip(0) * 0.7


def flat(result):
    """The tensors of a result; parts that are None left out."""
    if isinstance(result, (tuple, list)):
        return [tensor for part in result for tensor in flat(part)]
    return [] if result is None else [result]


def same(got, want):
    got, want = flat(got), flat(want)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=0, atol=0)


def described(result):
    return [(tensor.shape, tensor.dtype) for tensor in flat(result)]


# --- traces, whose graphs are run on other numbers -------------------------------------------


@each_function
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx(function, mode):
    """The graph has an operator in it, and gives another input's value."""
    graph = make_fx(function, tracing_mode=mode, _allow_non_fake_inputs=True)(X)
    assert "fastxent" in graph.code
    same(graph(OTHER), function(OTHER))


@each_function
def test_jit_trace(function):
    """Likewise."""
    traced = torch.jit.trace(lambda x: tuple(flat(function(x))), (X,))
    same(traced(OTHER), function(OTHER))


@each_function
def test_symbolic_trace(function):
    """A call is one node of the graph, whatever its options are; its results can be unpacked."""

    def model(x):
        return function(x * 2)

    graph = torch.fx.symbolic_trace(model)
    same(graph(OTHER), model(OTHER))
    x = OTHER.clone().requires_grad_()
    flat(graph(x))[0].sum().backward()
    assert x.grad.abs().max() > 0


def test_symbolic_trace_of_targets():
    """A proxy that comes second is one, too."""
    graph = torch.fx.symbolic_trace(lambda y: fx.cross_entropy(X, y))
    same(graph(Y.flip(0)), fx.cross_entropy(X, Y.flip(0)))


@each_function
def test_functionalize(function):
    """The values themselves, by themselves and in a trace."""
    same(torch.func.functionalize(function)(X), function(X))
    graph = make_fx(torch.func.functionalize(function))(X)
    same(graph(OTHER), function(OTHER))
    tensor = torch._to_functional_tensor(X)
    found = [torch._from_functional_tensor(part) for part in flat(function(tensor))]
    same(found, function(X))


@each_function
def test_fake_and_meta_tensors(function):
    """Shapes and types, on the device of the input; no numbers."""
    want = described(function(X))
    meta_tensors = {name: value.to("meta") for name, value in TENSORS.items()}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = function(mode.from_tensor(X))
    assert described(fake) == want
    with _targets(meta_tensors):
        meta = function(X.to("meta"))
    assert described(meta) == want
    assert {tensor.device.type for tensor in flat(meta)} == {"meta"}


TENSORS = {"Y": Y, "SOFT": SOFT, "W": W, "LABELS": LABELS}


class _targets:
    """The module's tensors replaced."""

    def __init__(self, tensors):
        self.tensors = tensors

    def __enter__(self):
        globals().update(self.tensors)

    def __exit__(self, *_):
        globals().update(TENSORS)


@each_function
def test_modes_see_operators(function):
    """A dispatch mode of one's own sees the call as one operator, and changes no number."""
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            seen.append(str(op))
            return op(*args, **kwargs or {})

    with Watch():
        found = function(X)
    same(found, function(X))
    assert any(name.startswith("fastxent.") for name in seen)


@each_function
def test_gradients_through_graphs(function):
    """Of a graph that was traced when nothing required grad."""
    graph = make_fx(function)(X)
    grads = []
    for call in (graph, function):
        x = OTHER.clone().requires_grad_()
        flat(call(x))[0].sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


def test_an_exported_program_whose_weights_come_to_require_grad():
    """Gradients for what requires grad when it is run, not when it was exported."""

    class Head(torch.nn.Module):
        def forward(self, x, weight):
            return fx.linear_cross_entropy(x, weight, LABELS)

    x = X.clone().requires_grad_()
    program = torch.export.export(Head(), (x, W)).module()
    for needed in ((True, False), (False, True), (True, True)):
        leaves = [t.detach().clone().requires_grad_(n) for t, n in zip((X, W), needed, strict=True)]
        program(*leaves).backward()
        want = fx.linear_cross_entropy(X, W, LABELS, return_grad=True)[1]
        for leaf, grad, need in zip(leaves, want, needed, strict=False):
            assert (leaf.grad is not None) == need
            if need:
                torch.testing.assert_close(leaf.grad, grad)


def test_a_graph_whose_target_comes_to_require_grad():
    """It is refused when it is run."""
    graph = make_fx(lambda x, q: fx.cross_entropy(x, q))(X, SOFT)
    x = X.clone().requires_grad_()
    graph(x, SOFT).backward()
    with pytest.raises(TypeError, match="target must not require grad"):
        graph(x, SOFT.clone().requires_grad_())


def test_dynamic_shapes_are_traced_once():
    """As PyTorch's own loss is: numbers among the options are constants of the graph."""
    seen = []

    def backend(graph, inputs):
        seen.append(inputs)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    for loss in (fx.cross_entropy, torch.nn.functional.cross_entropy):
        torch._dynamo.reset()
        seen.clear()
        compiled = torch.compile(loss, backend=backend, dynamic=True)
        for n in (4, 5, 7):
            compiled(torch.ones(n, 3), torch.zeros(n, dtype=torch.int64))
        assert len(seen) == 1
        assert sum(isinstance(value, torch.Tensor) for value in seen[0]) == 2


# --- what is refused -------------------------------------------------------------------------


@each_function
def test_no_tangent_is_dropped(function):
    """Forward mode gives the slope, eager, traced and compiled; a graph made before refuses it."""
    tangent = torch.linspace(-1, 1, 12).view(4, 3)
    h = 1e-3
    ends = [flat(function(X.double() + s * h * tangent.double()))[0] for s in (1, -1)]
    want = ((ends[0] - ends[1]) / (2 * h)).float()

    def forward_mode(call):
        return lambda x: torch.func.jvp(lambda x: flat(call(x))[0], (x,), (tangent,))[1]

    def right(slope):
        torch.testing.assert_close(slope, want, rtol=1e-3, atol=1e-5)

    right(forward_mode(function)(X))
    # PyTorch functionalizes no autograd.Function below a transform.
    with pytest.raises(RuntimeError, match="Functionalize rule"):
        torch.func.functionalize(forward_mode(function))(X)
    right(make_fx(forward_mode(function))(OTHER)(X))
    right(forward_mode(torch.fx.symbolic_trace(lambda x: function(x)))(X))
    with forward_ad.dual_level():
        found = flat(function(forward_ad.make_dual(X, tangent)))[0]
        right(forward_ad.unpack_dual(found).tangent)
    traced = make_fx(function)(X)
    jitted = torch.jit.trace(lambda x: tuple(flat(function(x))), (X,))
    for call in (traced, jitted):
        with pytest.raises((TypeError, RuntimeError), match="no tangent|torch.func"):
            forward_mode(call)(X)
        with forward_ad.dual_level(), pytest.raises((TypeError, RuntimeError), match="no tangent"):
            call(forward_ad.make_dual(X, tangent))
    torch._dynamo.reset()
    for backend in ("eager", "aot_eager"):
        compiled = torch.compile(function, backend=backend)
        compiled(X)
        with forward_ad.dual_level():
            found = flat(compiled(forward_ad.make_dual(X, tangent)))[0]
            right(forward_ad.unpack_dual(found).tangent)
        right(torch.compile(forward_mode(function), backend=backend)(X))


def test_operators_have_no_silent_tangents():
    """Nor have they when they are called by themselves, as graphs do."""
    call = {"logits": X, "axis": -1, "with_grads": False}

    def softmax(x):
        return torch.ops.fastxent.softmax(**call | {"logits": x})[0]

    for transform in (
        lambda: torch.func.jvp(softmax, (X,), (X,)),
        lambda: torch.func.jacfwd(softmax)(X),
        lambda: make_fx(lambda x: torch.func.jvp(softmax, (x,), (x,)))(X),
        lambda: torch.func.hessian(lambda x: softmax(x).sum())(X),
        lambda: torch.func.grad(lambda x: softmax(x).square().sum())(X),
        lambda: torch.func.vmap(softmax)(X),
    ):
        with pytest.raises((TypeError, RuntimeError)):
            transform()


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - {"categorical", "binary"}))
def test_constants_within_transforms(name):
    """A tensor that is not transformed gives its numbers, whatever new tensors are there.

    What PyTorch computes of one is transformed: so not the functions above that begin with that.
    """
    function = FUNCTIONS[name]
    want, factor = flat(function(OTHER))[0], torch.tensor(3.0)

    def scaled(s):
        return flat(function(OTHER))[0].sum() * s

    torch.testing.assert_close(torch.func.grad(scaled)(factor), want.sum())
    torch.testing.assert_close(torch.func.functionalize(scaled)(factor), want.sum() * 3)
    torch.testing.assert_close(torch.func.vmap(scaled)(torch.ones(2)), want.sum().repeat(2))
    _, slope = torch.func.jvp(scaled, (factor,), (torch.tensor(2.0),))
    torch.testing.assert_close(slope, want.sum() * 2)


def test_arrays_and_lists_in_a_trace():
    """As in an eager call: converted, or refused by the same words, and never on another device."""
    import numpy as np

    arrays = [[1, 0, 2, 2], np.array([1, 0, 2, 2], ">i2"), np.array([2, 2, 0, 1])[::-1],
              np.eye(3, dtype=np.longdouble)[[1, 0, 2, 2]]]  # fmt: skip
    before = torch.get_default_device()
    for default in ("cpu", "meta"):
        torch.set_default_device(default)
        try:
            for target in arrays:
                traced = make_fx(partial(graph_of, target))(X)
                same(traced(OTHER), fx.cross_entropy(OTHER, target))
        finally:
            torch.set_default_device(before)
    assert make_fx(lambda x: fx.cross_entropy(x, []))(X[:0])(X[:0]).isnan()
    for error, words, target in (
        (TypeError, "target must not be a masked array", np.ma.masked_array([1, 0, 2, 2])),
        (TypeError, "target must be an array or a nested sequence, got str", "0121"),
        (TypeError, "target must hold real numbers", np.array(["a"] * 4)),
    ):
        with pytest.raises(error, match=words):
            make_fx(partial(graph_of, target))(X)


def graph_of(target, x):
    """A loss whose target is a constant."""
    return fx.cross_entropy(x, target)


def test_what_has_no_numbers_is_checked_too():
    """Axes, types and names are wrong before there are numbers."""
    x, w, y = (tensor.to("meta") for tensor in (X, W, LABELS))
    for error, words, call in (
        (ValueError, "axis must be in -2 .. 1 for logits", lambda: fx.softmax(x, axis=7)),
        (ValueError, "must have a class axis", lambda: fx.logsumexp(x[0, 0])),
        (TypeError, "complex64", lambda: fx.softmax(x.to(torch.complex64))),
        (ValueError, "wrt must be one of", lambda: fx.linear_cross_entropy(x, w, y, wrt="bogus")),
        (ValueError, "must name at least", lambda: fx.linear_cross_entropy(x, w, y, wrt=())),
        (TypeError, "wrt must be a name", lambda: fx.linear_cross_entropy(x, w, y, wrt=3)),
    ):
        with pytest.raises(error, match=words):
            call()
    options = {"ignore_index": -100, "label_smoothing": 0.0, "z_loss": 0.0, "softcap": None,
               "logit_scale": 1.0, "reduction": "mean", "check_target": True}  # fmt: skip
    options |= dict.fromkeys(("weight", "sample_weight", "normalizer"))
    flags = {f"return_{n}": False for n in ("grad", "probs", "lse", "hess", "argmax", "entropy")}
    with pytest.raises(TypeError, match="target is on meta, expected a tensor on cpu"):
        torch.ops.fastxent.cross_entropy(
            logits=X, target=y, axis=-1, with_grads=False, **options, **flags
        )


def test_compiled_autograd():
    """Losses by row of a linear map, whose backward computes."""
    x = X.clone().requires_grad_()
    want = fx.linear_cross_entropy(X, W, LABELS, reduction="sum", return_grad=True)[1].x
    loss = fx.linear_cross_entropy(x, W, LABELS, reduction="none").sum()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        loss.backward()
    torch.testing.assert_close(x.grad, want)


def test_what_a_trace_cannot_have():
    """Buffers and wrong arguments: the words say what is wrong and where."""
    out, soft = torch.empty_like(X), {"cpu": SOFT.clone(), "meta": SOFT.to("meta")}
    for tensor in soft.values():
        tensor.requires_grad_()
    for mode in (make_fx, torch.func.functionalize, lambda f: lambda x: f(x.to("meta"))):
        with pytest.raises(ValueError, match="^out must be None where PyTorch traces"):
            mode(lambda x: fx.softmax(x, out=out))(X)
        with pytest.raises(TypeError, match="softcap must be float, got str"):
            mode(lambda x: fx.cross_entropy(x, Y.to(x.device), softcap="1"))(X)
        with pytest.raises(TypeError, match="no argument 'color'"):
            mode(lambda x: fx.cross_entropy(x, Y, color=1))(X)
        with pytest.raises(TypeError, match="missing 'target'"):
            mode(lambda x: fx.cross_entropy(x))(X)
        with pytest.raises(TypeError, match="target must not require grad"):
            mode(lambda x: fx.cross_entropy(x, soft[x.device.type]))(X)
    with pytest.raises(TypeError, match="^target is on meta, expected a tensor on cpu"):
        fx.cross_entropy(X, Y.to("meta"))
    with pytest.raises(TypeError, match="^target is on cpu, expected a tensor on meta"):
        fx.cross_entropy(X.to("meta"), Y)


def test_kinds_of_options_in_a_trace():
    """What stands for a number or a flag elsewhere does so here."""
    import numpy as np

    def loss(x):
        return fx.cross_entropy(
            x, Y, label_smoothing=np.float32(0.25), z_loss=1, ignore_index=np.int64(2),
            axis=np.int8(-1), check_target=np.True_,
        )  # fmt: skip

    same(make_fx(loss)(X)(OTHER), loss(OTHER))


def test_the_compiler_is_not_loaded_for_nothing():
    """An eager call of any kind loads neither torch.compile's front end nor the operators."""
    code = """if True:
        import sys, torch, fastxent as fx
        x = torch.ones(3, 4, requires_grad=True)
        fx.cross_entropy(x, torch.tensor([0, 1, 2])).backward()
        fx.softmax(x.detach(), out=torch.empty(3, 4))
        for name in ("torch._dynamo", "fastxent.arrays.torch.operators"):
            assert name not in sys.modules, name
    """
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)
