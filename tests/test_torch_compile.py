"""torch.compile: a model that uses fastxent keeps one graph, and gives what it gave before."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

import fastxent as fx

torch = pytest.importorskip("torch", reason="PyTorch is optional: pip install torch")
from fastxent.integrations import torch as modules  # noqa: E402 - wants PyTorch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own imports

X = torch.tensor([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9], [-1.0, 0.5, 3.0], [0.3, 0.2, -0.4]])
Y = torch.tensor([1, 0, 2, 2])
SOFT = torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0], [0.3, 0.3, 0.4], [0.1, 0.1, 0.1]])
W = torch.linspace(-1, 2, 15).view(5, 3)
LABELS = torch.tensor([1, 0, 4, 2])
BIAS, ROWS = torch.ones(5), torch.arange(4.0)
OPTIONS = {
    "weight": [1.0, 2.0, 0.5], "sample_weight": torch.tensor([1.0, 2.0, 0.0, 0.5]),
    "label_smoothing": 0.1, "z_loss": 0.01, "logit_scale": 1.5, "softcap": 20.0,
}  # fmt: skip
ALL = dict.fromkeys(["return_grad", "return_probs", "return_lse", "return_hess"], True)


def linear(x, **how):
    """Losses of a linear map of x, whose matrix has the type of x."""
    return fx.linear_cross_entropy(x, W.to(x.dtype), LABELS, **how)


FUNCTIONS = {
    "indices": lambda x: fx.cross_entropy(x, Y),
    "by row": lambda x: fx.cross_entropy(x.T, Y, axis=0, reduction="none"),
    "soft": lambda x: fx.cross_entropy(x, SOFT),
    "options": lambda x: fx.cross_entropy(x, Y, **OPTIONS),
    "normalizer": lambda x: fx.cross_entropy(x, Y, normalizer=0.1),
    "everything": lambda x: fx.cross_entropy(x, Y, return_argmax=True, **ALL),
    "binary": lambda x: fx.binary_cross_entropy_with_logits(x, SOFT, pos_weight=2.0),
    "binary by row": lambda x: fx.binary_cross_entropy_with_logits(x, SOFT, reduction="none"),
    "binary of probabilities": lambda x: fx.binary_cross_entropy(x * 0.1 + 0.4, SOFT),
    "categorical": lambda x: fx.categorical_cross_entropy(x * 0.1 + 0.4, Y, eps=0.1),
    "linear": lambda x: linear(x, linear_bias=BIAS),
    "linear by row": lambda x: linear(x, reduction="none", sample_weight=ROWS),
    "everything linear": lambda x: linear(x, return_grad=True, return_lse=True),
    "softmax": lambda x: fx.softmax(x, axis=0),
    "log_softmax": fx.log_softmax,
    "logsumexp": lambda x: fx.logsumexp(x, axis=0),
    "entropy": lambda x: fx.entropy(x, axis=0, return_grad=True),
    "logsumexp, dimensions kept": lambda x: fx.logsumexp(x, axis=0, keepdims=True),
}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()


def results(function, x):
    """What comes back, flat, and the gradient of a weighted sum of the first of it."""
    x = x.clone().requires_grad_()
    found = function(x)
    parts = [found] if isinstance(found, torch.Tensor) else list(found)
    weights = torch.linspace(1, 2, parts[0].numel()).view(parts[0].shape)
    (parts[0] * weights).sum().backward()
    flat = [p for part in parts for p in (part if isinstance(part, tuple) else [part])]
    return [part.detach() for part in flat if part is not None], x.grad


def same_compiled(function, x, backend="aot_eager"):
    compiled = torch.compile(function, backend=backend, fullgraph=True)
    torch.testing.assert_close(results(compiled, x), results(function, x))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), function(x))


@each_function
def test_one_graph(function):
    """Results and gradients of the eager call, in a graph that nothing breaks."""
    same_compiled(function, X)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["everything", "linear", "linear by row", "logsumexp", "softmax"])
def test_each_type(name, kind):
    """The graph's idea of a type is what comes."""
    same_compiled(FUNCTIONS[name], X.to(kind))


def test_shapes_that_change():
    """A batch of another size is no reason to compile a third time."""
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return graph

    compiled = torch.compile(fx.cross_entropy, backend=backend, fullgraph=True)
    for n in (2, 3, 4, 5, 6):
        x, y = torch.arange(5.0 * n).view(n, 5), torch.arange(n) % 5
        torch.testing.assert_close(compiled(x, y), fx.cross_entropy(x, y))
    assert len(seen) == 2


def test_modules():
    """A training step of each module, its parameters in the graph."""
    for loss, target in (
        (modules.CrossEntropyLoss(label_smoothing=0.1), LABELS),
        (modules.BCEWithLogitsLoss(), torch.rand(4, 5)),
        (modules.LinearCrossEntropyLoss(5, 7), LABELS),
    ):
        steps = []
        for how in (lambda f: f, lambda f: torch.compile(f, backend="aot_eager", fullgraph=True)):
            torch.manual_seed(0)
            model = torch.nn.Linear(3, 5)
            value = how(lambda x, m=model, f=loss, t=target: f(m(x), t))(X)
            value.backward()
            steps.append([value.detach(), model.weight.grad, model.bias.grad])
        torch.testing.assert_close(*steps)


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_inductor():
    """The backend that people use."""
    same_compiled(FUNCTIONS["options"], X, backend="inductor")


def test_what_has_no_place_in_a_graph():
    """Buffers break it, and errors are those of an eager call."""

    def compiled(function, *args, **kwargs):
        return torch.compile(function, backend="aot_eager")(*args, **kwargs)

    out = torch.empty_like(X)
    loss, grad = compiled(fx.cross_entropy, X, Y, grad_out=out)
    torch.testing.assert_close((loss, grad), fx.cross_entropy(X, Y, return_grad=True))
    torch.testing.assert_close(out, grad)
    for error, words, arguments in (
        (TypeError, "missing 1 required positional argument: 'target'", ((X,), {})),
        (TypeError, "multiple values for argument 'target'", ((X, Y), {"target": Y})),
        (TypeError, "unexpected keyword argument 'color'", ((X, Y), {"color": 1})),
        (TypeError, "target must not require grad", ((X, SOFT.clone().requires_grad_()), {})),
        (IndexError, "target.0. must be a class", ((X, Y + 10), {})),
        (ValueError, "softcap must be greater than 0", ((X, Y), {"softcap": -1.0})),
    ):
        with pytest.raises(error, match=words):
            compiled(fx.cross_entropy, *arguments[0], **arguments[1])


def test_double_backward():
    """PyTorch differentiates a graph of operators twice, but nothing that AOTAutograd compiled."""
    vector = torch.linspace(-1, 1, 12).view(4, 3)
    want = fx.cross_entropy_hvp(X, Y, vector)
    for loss in (fx.cross_entropy, torch.nn.functional.cross_entropy):
        for backend in ("eager", "aot_eager"):
            torch._dynamo.reset()
            x = X.clone().requires_grad_()
            value = torch.compile(loss, backend=backend, fullgraph=True)(x, Y)
            (grad,) = torch.autograd.grad(value, x, create_graph=True)
            if backend == "eager":
                torch.testing.assert_close(torch.autograd.grad(grad, x, vector)[0], want)
            else:
                with pytest.raises(RuntimeError, match="not currently support double backward"):
                    (grad * vector).sum().backward()


# --- operators ------------------------------------------------------------------------------


CALLS = {
    "cross_entropy": (X, Y),
    "categorical_cross_entropy": (X.softmax(1), Y),
    "binary_cross_entropy_with_logits": (X, SOFT),
    "binary_cross_entropy": (X.sigmoid(), SOFT),
    "linear_cross_entropy": (X, W, LABELS),
    "softmax": (X,),
    "log_softmax": (X,),
    "logsumexp": (X,),
    "entropy": (X,),
    "cross_entropy_hvp": (X, Y, X.flip(0)),
    "binary_cross_entropy_with_logits_hvp": (X, SOFT, X.flip(0)),
    "linear_cross_entropy_hvp": (X, W, LABELS),
}


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("with_grads", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_what_pytorch_asks_of_an_operator(name, with_grads, reduction):
    """Its schema, its shapes without numbers, and its derivative, asked for in time or not."""
    from fastxent.arrays.torch import operators

    known = operators._OPERATORS[name]
    given = known.defaults | dict(zip(known.arrays, CALLS[name], strict=False))
    given |= {part: [X.flip(0), None, None] for part in known.lists}
    if "reduction" in given:
        given["reduction"] = reduction
    for requires_grad in (False,) if known.is_product else (False, True):
        first = CALLS[name][0].clone().requires_grad_(requires_grad)
        torch.library.opcheck(
            getattr(torch.ops.fastxent, name).default,
            (), given | {known.inputs[0]: first, "with_grads": with_grads},
            test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
        )  # fmt: skip


def test_a_process_that_begins_with_a_graph():
    """Two functions and types that no table holds yet, in one graph; others come without harm."""
    code = """if True:
        import torch, fastxent as fx
        torch._dynamo.config.error_on_recompile = True
        x, y = torch.randn(3, 6), torch.tensor([0, 1, 2])
        w = torch.nn.Parameter(torch.randn(3, 6))
        def f(x, y):
            return fx.cross_entropy(x, y) + fx.softmax(x).sum() + fx.logsumexp(w).sum()
        compiled = torch.compile(f, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x, y), f(x, y))
        fx.softmax([1.0, 2.0]), fx.softmax((1.0, 2.0)), fx.softmax(1.0 * x.numpy())
        torch.testing.assert_close(compiled(x, y), f(x, y))
    """
    subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code],
        check=True, timeout=300,
    )  # fmt: skip


def test_exported_programs(tmp_path):
    """Their inputs may come to require grad; what was saved finds its operators again."""

    class Loss(torch.nn.Module):
        def forward(self, x, y):
            return fx.cross_entropy(x, y)

    program = torch.export.export(Loss(), (X, Y))
    x = X.clone().requires_grad_()
    program.module()(x, Y).backward()
    torch.testing.assert_close(x.grad, fx.cross_entropy(X, Y, return_grad=True)[1])
    torch.export.save(program, tmp_path / "loss.pt2")
    code = """if True:
        import sys, torch, fastxent.integrations.torch
        program = torch.export.load(sys.argv[1])
        print(program.module()(torch.eye(4, 3), torch.tensor([1, 0, 2, 2])).item())
    """
    loaded = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "loss.pt2")],
        check=True, timeout=300, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert float(loaded) == pytest.approx(fx.cross_entropy(torch.eye(4, 3), Y).item())


def test_kinds_of_arguments():
    """What an eager call converts is converted, what it refuses is refused."""
    softly = torch.compile(fx.cross_entropy, backend="eager")
    for how in (
        {"label_smoothing": np.float64(0.1)},
        {"ignore_index": np.int64(2)},
        {"axis": np.int64(1)},
        {"return_grad": np.bool_(True)},
        {"label_smoothing": 1},
    ):
        torch.testing.assert_close(softly(X, Y, **how), fx.cross_entropy(X, Y, **how))
    torch.testing.assert_close(softly(X[:0], []), fx.cross_entropy(X[:0], []), equal_nan=True)
    for error, words, how in (
        (TypeError, "positional argument", {"args": (torch.ones(3),)}),
        (TypeError, "axis must be an int, got bool", {"axis": True}),
        (TypeError, "ignore_index must be an int", {"ignore_index": True}),
        (ValueError, "axis must be in", {"axis": 5}),
        (ValueError, "reduction must be one of", {"reduction": None}),
        (ValueError, "grad_out must be a torch.Tensor", {"grad_out": False}),
        (TypeError, "weight is on meta", {"weight": torch.ones(3, device="meta")}),
    ):
        with pytest.raises(error, match=words):
            softly(X, Y, *how.pop("args", ()), **how)
