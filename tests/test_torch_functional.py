"""fastxent.integrations.torch.functional is torch.nn.functional: signatures, values, types."""

import copy
import inspect
import itertools
import os
import pickle
import re
import warnings
from unittest import mock

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is optional: pip install torch")
import torch.nn.functional as theirs  # noqa: E402 - wants PyTorch

import fastxent as fx  # noqa: E402
import fastxent.integrations.torch.functional as F  # noqa: E402
from fastxent.integrations import torch as modules  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own imports

LOSSES = (
    "cross_entropy", "linear_cross_entropy", "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
)  # fmt: skip
NAMES = (*LOSSES, "softmax", "log_softmax")
each_name = pytest.mark.parametrize("name", NAMES)

INF, NAN = float("inf"), float("nan")
F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16
X = torch.tensor([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9], [-1.0, 0.5, 3.0], [0.3, 0.2, -0.4]])
Y = torch.tensor([1, 0, 2, 2])
SOFT = torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0], [0.3, 0.3, 0.4], [0.1, 0.1, 0.1]])
CLASSES = torch.tensor([1.0, 2.0, 0.5])
W = torch.linspace(-1, 2, 15).view(5, 3)
CHUNKS = torch.nn.LinearCrossEntropyOptions()


@pytest.fixture(autouse=True, scope="module")
def one_thread_for_pytorch():
    """Its threads wait for each other longer than these small arrays take."""
    found = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(found)


class HandedOver(Exception):
    """A call that came to PyTorch's own function."""


def is_handed_over(name, *args, **kwargs):
    """Whether a call comes to PyTorch's own function, with all that it was given."""
    signature = inspect.signature(getattr(theirs, name))
    given = signature.bind(*args, **kwargs)
    given.apply_defaults()

    def own(*args, **kwargs):
        found = signature.bind(*args, **kwargs)
        found.apply_defaults()
        for parameter, value in given.arguments.items():
            passed = found.arguments[parameter]
            if parameter == "_stacklevel":
                assert passed == value + 1  # so that a warning names the caller
            else:
                same = passed is value or type(passed) is type(value) is not torch.Tensor
                assert same and (passed is value or passed == value), parameter
        raise HandedOver

    with mock.patch.object(theirs, name, own):
        try:
            getattr(F, name)(*args, **kwargs)
        except HandedOver:
            return True
    return False


def outcome(module, name, args, kwargs):
    """The result of a call, or its error."""
    try:
        return getattr(module, name)(*args, **kwargs)
    except Exception as error:
        return error


def same_outcome(name, *args, **kwargs):
    """PyTorch's result, in its type; or its error, but for the text of an IndexError."""
    want, got = (outcome(module, name, args, kwargs) for module in (theirs, F))
    about = f"{name}, {args}, {kwargs}: {got!r}, not {want!r}"
    if isinstance(want, Exception):
        assert type(got) is type(want), about
        assert isinstance(want, IndexError) or str(got) == str(want), about
    else:
        assert isinstance(got, torch.Tensor), about
        types = [want.dtype, *(a.dtype for a in args if isinstance(a, torch.Tensor))]
        # PyTorch rounds in between, to bfloat16.
        is_rough = BF16 in types or name.startswith("linear") and torch.is_autocast_enabled("cpu")
        how = dict(rtol=0.03, atol=0.03) if is_rough else dict(rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got, want, equal_nan=True, msg=lambda m: about + m, **how)


def gradients(function, args, kwargs):
    """The result of a call, and the gradients of all tensors that require them."""
    result = function(*args, **kwargs)
    leaves = [t for t in (*args, *kwargs.values())
              if isinstance(t, torch.Tensor) and t.requires_grad]  # fmt: skip
    if not leaves:
        return [result]
    up = torch.linspace(0.5, 1.5, result.numel()).to(result.dtype).view(result.shape)
    return [result, *torch.autograd.grad(result, leaves, up)]


# --- PyTorch's own samples ------------------------------------------------------------------


@pytest.fixture
def operators(monkeypatch):
    """PyTorch's descriptions of the six functions, with samples of their arguments."""
    # Its import takes 4 seconds, changes filters of warnings, and locks PyTorch's switches.
    lock = "__allow_nonbracketed_mutation_flag"
    monkeypatch.setattr(torch.backends, lock, getattr(torch.backends, lock))
    with warnings.catch_warnings(), mock.patch.dict(os.environ):
        warnings.simplefilter("ignore")
        from torch.testing._internal import common_methods_invocations

    found = {}
    for operator in common_methods_invocations.op_db:
        name = operator.name.removeprefix("nn.functional.")
        if name in NAMES:
            found[name, operator.variant_test_name] = operator
    assert {name for name, _ in found} == set(NAMES)
    return found


def samples(operator, dtype):
    """The samples of a type: without and with gradients, and with that of the input alone.

    Where the target requires grad PyTorch computes, so that the last ones are fastxent's.
    """
    for requires_grad in (False, True) if dtype.is_floating_point else (False,):
        # What `sample_inputs` calls, which itself formats the stack for each sample.
        for sample in operator.sample_inputs_func(operator, "cpu", dtype, requires_grad):
            yield sample
            if dtype.is_floating_point and not requires_grad:
                sample.input.requires_grad_()
                yield sample


def in_float64(value, dtype):
    """A tensor of a type, or PyTorch's options, for the same call in float64."""
    if isinstance(value, torch.nn.LinearCrossEntropyOptions):
        return None
    if not isinstance(value, torch.Tensor) or value.dtype != dtype:
        return value
    return value.detach().double().requires_grad_(value.requires_grad)


def check_sample(name, args, kwargs, dtype):
    """PyTorch's result and gradients, or in half precision what is as near to float64's."""
    own = getattr(theirs, name)
    got, want = (gradients(function, args, kwargs) for function in (getattr(F, name), own))
    exact = got
    if dtype.itemsize == 2:
        args = [in_float64(value, dtype) for value in args]
        kwargs = {key: in_float64(value, dtype) for key, value in kwargs.items()}
        exact = gradients(own, args, kwargs)
    for a, b, e in zip(got, want, exact, strict=True):
        if a.dtype.itemsize != 2:
            torch.testing.assert_close(a, b, equal_nan=True)
            continue
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        errors = [(t.double() - e).abs() for t in (a, b)]
        # A rounding, and beyond it hardly more than PyTorch: both derive softmax rounded.
        worst = errors[1].max() if e.numel() else 0
        allowed = e.abs() * torch.finfo(a.dtype).eps + 1.1 * worst
        assert (errors[0] <= allowed + torch.finfo(a.dtype).smallest_normal).all()


@pytest.mark.filterwarnings("ignore:ComplexHalf support")
def test_samples_of_pytorch(operators):
    """All samples and errors of OpInfo, for all its types on the CPU, unadapted."""
    torch.manual_seed(0)
    n_computed = dict.fromkeys(NAMES, 0)
    for (name, _), operator in operators.items():
        for dtype in sorted(operator.dtypes, key=str):
            for sample in samples(operator, dtype):
                args = sample.input, *sample.args
                if is_handed_over(name, *args, **sample.kwargs):
                    continue  # to the function itself, with these very arguments
                n_computed[name] += 1
                check_sample(name, args, sample.kwargs, dtype)
        for error in operator.error_inputs("cpu") if operator.error_inputs_func else ():
            sample = error.sample_input
            with pytest.raises(error.error_type, match=error.error_regex):
                getattr(F, name)(sample.input, *sample.args, **sample.kwargs)
    assert min(n_computed.values()) > 50, n_computed


# --- the module -----------------------------------------------------------------------------


@each_name
def test_signatures(name):
    """Names, order, kinds and defaults of the parameters."""
    ours, own = (inspect.signature(getattr(m, name)).parameters.values() for m in (F, theirs))
    described = [[(p.name, p.kind, p.default) for p in each] for each in (ours, own)]
    assert described[0] == described[1]


def test_every_other_name_is_pytorchs(monkeypatch):
    """Through the module, by a star import, and when PyTorch's is replaced later."""
    public = {name for name in dir(theirs) if not name.startswith("_")}
    assert set(dir(theirs)) <= set(dir(F))
    assert public == set(F.__all__)
    others = {name for name in dir(theirs) if not re.fullmatch("__.*__", name)} - set(NAMES)
    assert len(others) > 100
    assert all(getattr(F, name) is getattr(theirs, name) for name in others)
    space = {}
    exec("from fastxent.integrations.torch.functional import *", space)
    assert space["relu"] is theirs.relu
    assert space["cross_entropy"] is F.cross_entropy is not theirs.cross_entropy
    monkeypatch.setattr(theirs, "relu", abs)
    assert F.relu is abs
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        F.no_such_name  # noqa: B018


@pytest.mark.parametrize(
    "given",
    [(True, None, "mean"), (False, None, "sum"), (None, False, "none"), (True, True, "mean")],
)
@pytest.mark.parametrize("name", [name for name in LOSSES if not name.startswith("linear")])
def test_deprecated_arguments(name, given):
    """size_average and reduce are refused, and the error says which reduction they mean."""
    size_average, reduce, reduction = given
    with pytest.raises(ValueError, match=f"pass reduction='{reduction}'"):
        getattr(F, name)(X, SOFT, size_average=size_average, reduce=reduce)


# --- types, shapes and options --------------------------------------------------------------


@pytest.mark.parametrize("autocast", [False, True])
def test_types(autocast):
    """Results of mixed types, in autocast too: PyTorch's type, or its error."""
    kinds = (F32, F64, BF16, torch.int64)
    with torch.autocast("cpu", BF16, enabled=autocast):
        for first, second in itertools.product((F32, F64, BF16), kinds):
            x, q = SOFT.to(first), SOFT.flip(0).to(second)
            matrix = W[:3].to(first)
            same_outcome("softmax", x, 1, dtype=second)
            same_outcome("log_softmax", x, 1, dtype=second)
            same_outcome("linear_cross_entropy", x, W.to(second), Y)
            for third in (None, F32, BF16):
                w = None if third is None else CLASSES.to(third)
                for target in (q, Y):
                    same_outcome("cross_entropy", x, target, w)
                    same_outcome("linear_cross_entropy", x, matrix, target, weight=w)
                same_outcome("linear_cross_entropy", x, matrix, Y, linear_bias=w)
                same_outcome("linear_cross_entropy", x, matrix, Y, weight=w, options=CHUNKS)
                same_outcome("binary_cross_entropy", x, q, w)
                same_outcome("binary_cross_entropy_with_logits", x, q, w)
                same_outcome("binary_cross_entropy_with_logits", x, q, pos_weight=w)


SIZES = [(), (3,), (4,), (4, 1), (4, 3), (0, 3), (4, 0), (4, 3, 2)]


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_shapes(size):
    """Any two shapes, with weights of some: PyTorch's result, or its error."""
    x = torch.rand(size)
    for dim in (None, 0, 1, -1, -3, True, "a"):
        same_outcome("softmax", x, dim)
    for other in [(), (3,), (4,), (4, 3), (0,), (4, 2)]:
        q, indices = torch.rand(other), torch.zeros(other, dtype=torch.int64)
        same_outcome("linear_cross_entropy", x, W, indices)
        same_outcome("linear_cross_entropy", x, W[:3], q)
        same_outcome("linear_cross_entropy", x, q, torch.zeros(4, dtype=torch.int64))
        for sizes in [None, (3,), (1,), (4, 1), (5, 4, 3)]:
            w = None if sizes is None else torch.rand(sizes)
            same_outcome("cross_entropy", x, indices, w, reduction="none")
            same_outcome("cross_entropy", x, q, w)
            same_outcome("binary_cross_entropy", x, q, w)
            same_outcome("binary_cross_entropy_with_logits", x, q, w, reduction="none")
            same_outcome("binary_cross_entropy_with_logits", x, q, pos_weight=w)


OPTIONS = [
    {"ignore_index": 1}, {"ignore_index": -5}, {"ignore_index": 1.0}, {"label_smoothing": 0.1},
    {"label_smoothing": True}, {"label_smoothing": -1}, {"reduction": "each"},
    {"reduction": "sum", "label_smoothing": 1},
]  # fmt: skip
TARGETS = {
    "indices": Y, "probabilities": SOFT, "bytes": Y.byte(), "int32": Y.int(),
    "out of range": torch.tensor([0, 1, 7, 2]), "negative": torch.tensor([0, -1, 1, 2]),
    "all ignored": torch.full((4,), -5), "a list": [0, 1, 2, 0], "none": None,
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_options_of_rows(target):
    """Each option with each kind of target: PyTorch's result, or its error."""
    for options in ({}, *OPTIONS, {"weight": CLASSES}):
        same_outcome("cross_entropy", X, target, **options)
        same_outcome("linear_cross_entropy", X, W[:3], target, **options)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_probabilities_out_of_range(reduction):
    """On the CPU PyTorch's error, by which a program notices that it forgot the sigmoid."""
    for p, y in itertools.product((1.5, -0.5, NAN), (0.0, 1.0, NAN)):
        same_outcome("binary_cross_entropy", torch.tensor([0.5, p]), torch.tensor([0.0, y]),
                     reduction=reduction)  # fmt: skip
    target = torch.tensor([0.3, NAN])
    same_outcome("binary_cross_entropy", torch.tensor([0.5, 0.5]), target, reduction=reduction)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_implicit_dimension(name):
    """PyTorch's choice, and its warning, which names the line of the caller."""
    for x in (X, X[0], X[None], torch.tensor(1.0), X.to(torch.int64)):
        found = []
        for module in (theirs, F):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found.append(outcome(module, name, (x,), {}))
            assert [warning.filename for warning in caught] == [__file__]
            assert f"Implicit dimension choice for {name}" in str(caught[0].message)
        if isinstance(found[0], Exception):
            assert str(found[0]) == str(found[1])
        else:
            torch.testing.assert_close(found[1], found[0])


# --- what PyTorch computes ------------------------------------------------------------------


class Tagged(torch.Tensor):
    """A subclass, which has PyTorch's functions give it back."""


class Noting(torch.overrides.TorchFunctionMode):
    """A mode that notes the functions called in it."""

    def __init__(self):
        self.names = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.append(function.__name__)
        return function(*args, **(kwargs or {}))


def test_targets_and_weights_that_require_grad():
    """Are differentiated, as PyTorch does."""
    q, w = SOFT.clone().requires_grad_(), CLASSES.clone().requires_grad_()
    for name, args, kwargs in (
        ("cross_entropy", (X, q), {}),
        ("cross_entropy", (X, SOFT, w), {}),
        ("linear_cross_entropy", (X, W[:3], q), {}),
        ("binary_cross_entropy", (X.sigmoid(), q), {}),
        ("binary_cross_entropy_with_logits", (X, q), {"pos_weight": CLASSES}),
    ):
        assert is_handed_over(name, *args, **kwargs)
        results = (gradients(getattr(m, name), args, kwargs) for m in (F, theirs))
        torch.testing.assert_close(*results)
    # PyTorch's own errors.
    same_outcome("cross_entropy", X, Y, w)
    same_outcome("binary_cross_entropy_with_logits", X, SOFT, pos_weight=w)


def test_transforms():
    """Derivatives by a target, at any depth of transforms; those by logits are fastxent's."""
    from torch.func import grad, jvp, vmap

    ones, p = torch.ones_like(X), X.sigmoid()
    transformed = {
        "grad": lambda m: grad(lambda q: m.cross_entropy(X, q))(SOFT),
        "of a map": lambda m: grad(lambda q: vmap(m.cross_entropy)(X, q).sum())(SOFT),
        "mapped": lambda m: vmap(grad(m.cross_entropy, argnums=1))(X, SOFT),
        "of a gradient": lambda m: grad(
            lambda q: grad(lambda x: m.cross_entropy(x, q))(X).square().sum()
        )(SOFT),
        "of a mapped gradient": lambda m: grad(
            lambda q: vmap(grad(m.cross_entropy))(X, q).square().sum()
        )(SOFT),
        "forward": lambda m: jvp(lambda q: m.binary_cross_entropy(p, q), (SOFT,), (ones,)),
        "forward of a map": lambda m: jvp(
            lambda q: vmap(m.cross_entropy)(X, q).sum(), (SOFT,), (ones,)
        ),
        "of the logits": lambda m: vmap(grad(lambda x, y: m.cross_entropy(x, y, CLASSES)))(X, Y),
        "forward of the logits": lambda m: jvp(lambda x: m.softmax(x, 1), (X,), (ones,)),
    }
    for name, function in transformed.items():
        torch.testing.assert_close(function(F), function(theirs), msg=lambda m, n=name: n + m)
    with mock.patch.object(theirs, "cross_entropy", None):
        transformed["of the logits"](F)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_other_tensors():
    """Subclasses, other layouts, devices and modes get what PyTorch has for them."""
    assert type(F.cross_entropy(X.as_subclass(Tagged), Y)) is Tagged
    assert type(F.softmax(X.as_subclass(Tagged), 1)) is Tagged
    assert F.cross_entropy(X.to("meta"), Y.to("meta")).is_meta
    assert F.linear_cross_entropy(X.to("meta"), W.to("meta"), Y.to("meta")).is_meta
    same_outcome("softmax", X + 0j, 1)
    same_outcome("log_softmax", X.to(torch.int64), 1)
    for layout in (torch.jagged, torch.strided):
        assert F.softmax(torch.nested.nested_tensor([X, X[:2]], layout=layout), -1).is_nested
    same_outcome("softmax", torch._efficientzerotensor((3, 4)), 1)
    with Noting() as noted:
        F.cross_entropy(X, Y)
        F.softmax(X, dim=1)
    assert noted.names == ["cross_entropy", "softmax"]
    with torch.no_grad():
        w = CLASSES.clone().requires_grad_()
        torch.testing.assert_close(F.cross_entropy(X, Y, w), theirs.cross_entropy(X, Y, w))
    for dims, target in (((5, 2, 3), torch.zeros(4, 2, dtype=torch.int64)), ((5, 3), Y)):
        weight = torch.linspace(-1, 1, torch.Size(dims).numel()).view(dims)
        assert is_handed_over("linear_cross_entropy", X, weight, target) == (len(dims) == 3)
        same_outcome("linear_cross_entropy", X, weight, target)


def test_other_types_and_options():
    """Types of results and weights, and options, for which PyTorch has rules of its own."""
    for name in LOSSES[2:]:
        assert is_handed_over(name, SOFT, SOFT, torch.tensor([1, 2, 3]))
    assert is_handed_over("binary_cross_entropy_with_logits", X, SOFT.double())
    assert is_handed_over("cross_entropy", X, SOFT.double())
    assert is_handed_over("cross_entropy", X, SOFT, CLASSES.double())
    assert not is_handed_over("cross_entropy", X.double(), SOFT, CLASSES)
    assert not is_handed_over("cross_entropy", X, Y.byte())
    same_outcome("linear_cross_entropy", X, W, Y, linear_bias=torch.ones(1))
    same_outcome("linear_cross_entropy", X[:, :0], W[:, :0], Y)
    with pytest.warns(UserWarning, match="``options`` ignored"):
        F.linear_cross_entropy(X, W, Y, label_smoothing=0.1, options=CHUNKS)
    with torch.autocast("cpu", BF16):
        loss = F.linear_cross_entropy(X, W, Y)
    assert torch.equal(loss, fx.linear_cross_entropy(X.bfloat16(), W.bfloat16(), Y))


def test_packages_that_fastxent_needs(monkeypatch):
    """Without ml_dtypes PyTorch computes bfloat16."""
    from fastxent.integrations.torch import eligible

    assert not is_handed_over("cross_entropy", X.bfloat16(), Y)
    monkeypatch.setattr(eligible, "_HAS_BFLOAT16", False)
    assert is_handed_over("cross_entropy", X.bfloat16(), Y)


def test_a_default_device_is_no_mode_of_functions():
    """It is one to PyTorch, but new tensors are all that it concerns."""
    with torch.device("meta"):
        assert not is_handed_over("cross_entropy", X, Y)
        loss = F.cross_entropy(X, Y)
    torch.testing.assert_close(loss, theirs.cross_entropy(X, Y))


@pytest.mark.parametrize(
    ("name", "x", "args", "kwargs"),
    [
        ("cross_entropy", [0.0, -INF, 1.0], (torch.tensor([0.5, 0.0, 0.5]),), {}),
        ("cross_entropy", [NAN, 1.0, 2.0], (torch.tensor(-100),), {"reduction": "sum"}),
        ("cross_entropy", [0.0, 1.0, 2.0], (torch.tensor(1), torch.zeros(3)), {}),
        ("binary_cross_entropy_with_logits", [INF, -INF], (torch.tensor([1.0, 0.0]),), {}),
    ],
)
def test_numbers_where_pytorch_has_nan(name, x, args, kwargs):
    """Where it multiplies infinity by 0 or divides by 0; the page lists these differences."""
    x = torch.tensor(x, requires_grad=True)
    ours, own = (gradients(getattr(m, name), (x, *args), kwargs) for m in (F, theirs))
    assert any(part.isnan().any() for part in own)
    assert ours[1].isfinite().all()
    for a, b in zip(ours, own, strict=True):
        known = ~b.isnan()
        torch.testing.assert_close(a[known], b[known])


# --- programs -------------------------------------------------------------------------------


def program(module):
    """A function of logits that calls all six, and one of PyTorch's."""

    def run(x):
        hidden = module.relu(x)
        loss = module.cross_entropy(hidden, Y, CLASSES, label_smoothing=0.1)
        loss = loss + module.linear_cross_entropy(hidden, W, Y, options=None)
        loss = loss + module.binary_cross_entropy_with_logits(x, SOFT, pos_weight=CLASSES)
        loss = loss + module.binary_cross_entropy(module.sigmoid(x), SOFT)
        loss = loss + module.cross_entropy(X, module.softmax(x, dim=1))  # PyTorch's
        return loss - module.log_softmax(x, dim=0, dtype=F64)[1].sum()

    return run


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_compiled():
    """torch.compile keeps one graph, with fastxent's operators in it; halves keep their type."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    x = X.clone().requires_grad_()
    compiled = torch.compile(program(F), backend=backend, fullgraph=True)
    for a, b in zip(*(gradients(f, (x,), {}) for f in (compiled, program(theirs))), strict=True):
        torch.testing.assert_close(a, b)
    (graph,) = graphs
    called = " ".join(str(node.target) for node in graph.graph.nodes)
    for name in NAMES:
        assert f"fastxent.{name}" in called

    half = torch.compile(lambda x: F.cross_entropy(x, Y), backend="eager", fullgraph=True)
    assert half(X.bfloat16()).dtype == BF16
    with torch.autocast("cpu", BF16):
        assert half(X.bfloat16()).dtype == F32

    implicit = torch.compile(lambda x: F.softmax(x), backend="eager", fullgraph=True)
    torch.testing.assert_close(implicit(X), theirs.softmax(X, dim=1))

    def by_target(q):
        return torch.func.grad(lambda q: F.cross_entropy(X, q))(q)

    transformed = torch.compile(by_target, backend="eager", fullgraph=True)
    torch.testing.assert_close(transformed(SOFT), by_target(SOFT))
    torch._dynamo.reset()


def scripted(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Both kinds of names, for TorchScript."""
    return F.cross_entropy(F.relu(a), b) + F.softmax(a, dim=1).sum()


def test_torchscript_and_symbolic_trace():
    """TorchScript compiles PyTorch's own functions; a graph of torch.fx calls them."""
    want = scripted(X, Y)
    torch.testing.assert_close(torch.jit.script(scripted)(X, Y), want)
    traced = torch.fx.symbolic_trace(scripted)
    torch.testing.assert_close(traced(X, Y), want)
    assert theirs.cross_entropy in [node.target for node in traced.graph.nodes]


# --- the modules ----------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_bce_loss(reduction):
    """PyTorch's loss, gradient and state."""
    weight = torch.tensor([1.0, 2.0, 0.5])
    ours, own = (m.BCELoss(weight, reduction=reduction) for m in (modules, torch.nn))
    p = SOFT.flip(0).requires_grad_()
    for a, b in zip(*(gradients(m, (p, SOFT), {}) for m in (ours, own)), strict=True):
        torch.testing.assert_close(a, b)
    assert isinstance(ours, torch.nn.BCELoss)
    assert ours.state_dict().keys() == own.state_dict().keys() == {"weight"}
    other = modules.BCELoss(torch.ones(3))
    other.load_state_dict(own.state_dict())
    torch.testing.assert_close(other.weight, weight)


@pytest.mark.parametrize("name", modules.__all__)
def test_modules_are_pickled_by_their_public_name(name):
    """Modules saved by any version are found where users import them from."""
    kind = getattr(modules, name)
    assert kind.__module__ == "fastxent.integrations.torch"
    module = kind(3, 5) if name == "LinearCrossEntropyLoss" else kind(reduction="sum")
    text = pickle.dumps(module)
    assert b"fastxent.integrations.torch\n" in pickle.dumps(kind, 0)
    for other in (pickle.loads(text), copy.deepcopy(module)):
        assert type(other) is kind
        assert other.reduction == module.reduction
