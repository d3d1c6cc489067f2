"""PyTorch's tensors and autograd on a simulated GPU: tensors in host memory pass for CUDA's."""

import importlib

import numpy as np
import pytest
import simulator as sim
import small  # noqa: F401 - few threads

import fastxent as fx
from fastxent.arrays import plans
from fastxent.records import Place

torch = pytest.importorskip("torch", reason="PyTorch is optional: pip install torch")
gpu, memory, operators = (
    importlib.import_module(f"fastxent.arrays.torch.{name}")
    for name in ("gpu", "memory", "operators")
)
CAPTURED = Place(0, 77)  # a stream that the simulator takes for captured


@pytest.fixture(autouse=True)
def pretence(monkeypatch):
    """Every tensor is on a GPU; PyTorch allocates as ever, so nothing can be checked of addresses.

    What waits for the GPU is refused.
    """

    def new(shape, dtype, place):
        tensor = torch.empty(shape, dtype=gpu._OWN[dtype])
        return tensor, tensor.data_ptr()

    def refused(tensor):
        raise AssertionError("waits for the GPU")

    monkeypatch.setattr(memory, "is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(gpu, "place_of", lambda tensor: Place(0, 5))
    monkeypatch.setattr(gpu, "number_of", lambda tensor: 0)
    monkeypatch.setattr(gpu, "LIBRARY", gpu.LIBRARY._replace(new=new))
    plans.clear()
    monkeypatch.setattr(sim, "_arrays", [(0, 2**63)])
    monkeypatch.setattr(torch.Tensor, "item", refused)
    sim.waited.clear()


def close(actual, expected, tolerance):
    expected = expected.detach().double().numpy()
    np.testing.assert_allclose(actual.detach().double().numpy(), expected, tolerance, tolerance)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_training_step(dtype, tolerance):
    """PyTorch's loss and gradient, each in its type, and twice from a graph that is kept."""
    logits = torch.randn(3, 9).to(getattr(torch, dtype)).requires_grad_()
    target = torch.tensor([0, -100, 8])
    want = torch.nn.functional.cross_entropy(logits.double(), target)
    (slope,) = torch.autograd.grad(3 * want, logits)
    loss = fx.cross_entropy(logits, target)
    assert loss.dtype == torch.float32 and loss.grad_fn is not None
    close(loss, want, tolerance)
    assert sim.waited == [Place(0, 5)]  # for labels, and for nothing else
    for kept in (True, False):
        (grad,) = torch.autograd.grad(3 * loss, logits, retain_graph=kept)
        assert grad.dtype == logits.dtype
        close(grad, slope, tolerance)


def test_a_factor_of_one_or_inf_on_the_gpu():
    """A gradient is given away as it is; what does not count stays 0 whatever is above it."""
    for factor in (1.0, float("inf")):
        logits = torch.randn(2, 7).requires_grad_()
        loss = fx.cross_entropy(logits, torch.tensor([3, -100]), check_target=False)
        (factor * loss).backward()
        assert (logits.grad[1] == 0).all()
        assert torch.isinf(logits.grad[0]).all() == (factor != 1)
    assert sim.waited == []


def test_losses_by_row_and_softmax_are_in_the_graph():
    """As PyTorch's own are."""
    logits, up = torch.randn(2, 5, dtype=torch.float64).requires_grad_(), torch.randn(2)
    target = torch.tensor([4, 1])
    plain = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    want = torch.autograd.grad((plain * up).sum() + logits.softmax(-1)[0, 0], logits)[0]
    loss = fx.cross_entropy(logits, target, reduction="none")
    got = torch.autograd.grad((loss * up).sum() + fx.softmax(logits)[0, 0], logits)[0]
    close(got, want, 1e-12)


def test_linear_map_in_place_and_by_buffers():
    """Products by PyTorch; gradients for all three inputs."""
    x, w, b = (torch.randn(shape).requires_grad_() for shape in ((3, 4), (6, 4), (6,)))
    target = torch.tensor([5, 0, 2])
    want = torch.nn.functional.cross_entropy(torch.nn.functional.linear(x, w, b), target)
    slopes = torch.autograd.grad(want, (x, w, b))
    loss = fx.linear_cross_entropy(x, w, target, linear_bias=b)
    for got, slope in zip(torch.autograd.grad(loss, (x, w, b)), slopes, strict=True):
        close(got, slope, 1e-5)
    logits = torch.randn(2, 8)
    want = torch.softmax(logits, -1)
    assert fx.softmax(logits, out=logits) is logits
    close(logits, want, 1e-6)


def test_calls_like_one_before():
    """PyTorch's numbers for other tensors, in its graph and apart from it, in buffers too."""
    for number in range(3):
        logits, target = torch.randn(4, 9, dtype=torch.float64), torch.randint(9, (4,))
        want = torch.nn.functional.cross_entropy(logits, target)
        close(fx.cross_entropy(logits, target), want, 1e-12)
        slope = (torch.softmax(logits, -1) - torch.nn.functional.one_hot(target, 9)) / 4
        leaf = logits.clone().requires_grad_()
        fx.cross_entropy(leaf, target).backward()
        close(leaf.grad, slope, 1e-12)
        version = logits._version
        loss, grad = fx.cross_entropy(logits, target, grad_out=logits)
        assert grad is logits and logits._version == version + 1, number
        close(loss, want, 1e-12)
        close(grad, slope, 1e-12)


def test_options_as_tensors():
    """Their values matter, and nothing is written to them; a flag has to be a bool."""
    logits, target = torch.randn(4, 9), torch.tensor([0, 1, 2, 3])
    for ignored in (1, 2):
        option = torch.tensor(ignored)
        loss = fx.cross_entropy(logits, target, ignore_index=option, reduction="none")
        assert (loss == 0).nonzero().tolist() == [[ignored]] and option == ignored
    with pytest.raises(TypeError, match="return_grad must be True or False, got Tensor"):
        fx.cross_entropy(logits, target, return_grad=torch.tensor(True))
    with pytest.raises(TypeError, match="keepdims must be True or False, got Tensor"):
        fx.logsumexp(logits, keepdims=torch.tensor(False))


def test_a_leaf_twice_is_refused_as_ever():
    """As target, weight or buffer it must not require grad, after a call of the kind too."""
    logits, probs = torch.randn(4, 9), torch.rand(4, 9)
    leaf = logits.clone().requires_grad_()
    fx.cross_entropy(leaf, probs)
    with pytest.raises(TypeError, match="target must not require grad"):
        fx.cross_entropy(leaf, leaf)
    other = logits.clone()
    fx.softmax(other, out=other)
    with torch.no_grad(), pytest.raises(ValueError, match="out must not require grad"):
        fx.softmax(leaf, out=leaf)
    assert torch.equal(leaf, logits)


def test_memory_that_is_not_there_is_refused():
    """A tensor without storage, and a buffer that is seen through a minus."""
    with pytest.raises(TypeError, match="logits must have memory, got zeros without any"):
        fx.softmax(torch._efficientzerotensor((4, 9)))
    for _ in range(2):  # a call like one before, too
        logits, target = torch.randn(4, 9), torch.randint(9, (4,))
        fx.cross_entropy(logits, target)
        logits.untyped_storage().resize_(100)
        with pytest.raises(ValueError, match="logits must have its data in memory"):
            fx.cross_entropy(logits, target)
        with pytest.raises(ValueError, match="out must have its data in memory"):
            fx.softmax(torch.randn(4, 9), out=logits)
    negated = torch.imag(torch.zeros(4, 9, dtype=torch.complex64).conj())
    assert negated.is_neg()
    with pytest.raises(ValueError, match="out must not be a negative view"):
        fx.softmax(torch.randn(4, 9), out=negated)


def test_what_is_not_kept_is_refused_as_ever():
    """After a call that was fine."""
    logits, target, weight = torch.randn(4, 9), torch.randint(9, (4,)), torch.rand(9)
    fx.cross_entropy(logits, target, weight=weight)
    with pytest.raises(TypeError, match="weight must not require grad"):
        fx.cross_entropy(logits, target, weight=weight.requires_grad_())
    with pytest.raises(TypeError, match="target must be a dense tensor"):
        fx.cross_entropy(logits, target.to_sparse())


def test_what_is_in_host_memory_is_refused():
    """An array beside tensors on the GPU."""
    with pytest.raises(TypeError, match="target is in host memory"):
        fx.cross_entropy(torch.randn(2, 3), np.array([0, 1]))


# --- in torch.compile's graph, and in a CUDA graph ------------------------------------------


@pytest.fixture
def implementations():
    """The operators compute on tensors of the CPU as they do on those of a GPU."""
    library = torch.library.Library("fastxent", "IMPL")
    for name, operator in operators._OPERATORS.items():
        library.impl(name, operator.compute_on_gpu, "CPU")
    torch._dynamo.reset()
    yield
    library._destroy()


def compiled(function):
    return torch.compile(function, backend="aot_eager", fullgraph=True)


@pytest.mark.usefixtures("implementations")
def test_a_compiled_training_step():
    """One graph with the results of the eager call; from the second call on by its launch plan."""
    weight = torch.rand(9)

    def step(logits, target):
        return fx.cross_entropy(logits, target, weight=weight, normalizer=2.0, z_loss=0.1)

    for number in range(3):
        logits, target = torch.randn(4, 9, requires_grad=True), torch.randint(9, (4,))
        want = step(logits, target)
        (slope,) = torch.autograd.grad(3 * want, logits)
        before = len(plans._plans), len(sim.waited)
        loss = compiled(step)(logits, target)
        assert type(loss.grad_fn).__name__ == "CompiledFunctionBackward"
        (grad,) = torch.autograd.grad(3 * loss, logits)
        assert torch.equal(loss, want)
        close(grad, slope, 1e-6)
        assert len(plans._plans) - before[0] == (number == 0)
        assert len(sim.waited) - before[1] == 1  # for labels
    assert set(sim.places[-4:]) == {Place(0, 5)}
    logits, target = torch.randn(4, 9, requires_grad=True), torch.tensor([0, 1, 9, 2])
    with pytest.raises(IndexError, match=r"target\[2\]"):
        compiled(step)(logits, target)


def where(condition, a, b, select=torch.where):
    """PyTorch's, but that it copies a number to the GPU and waits for that."""
    assert isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    return select(condition, a, b)


@pytest.mark.usefixtures("implementations")
def test_the_first_argument_decides(monkeypatch):
    """An operator may be taken to the GPU for another argument, beside logits in host memory."""
    logits, labels = torch.randn(3, 9), torch.tensor([1, 0, 2])
    monkeypatch.setattr(memory, "is_on_gpu", lambda tensor: tensor is not logits)
    operator = operators._OPERATORS["cross_entropy"]
    arguments = operator.defaults | {"logits": logits, "target": labels, "with_grads": False}
    with pytest.raises(RuntimeError, match="NUMBA_DISABLE_JIT"):  # as the CPU is to compute
        operator.compute_on_gpu(**arguments)


CAPTURES = {
    "mean": lambda x, y: fx.cross_entropy(x, y),
    "by row": lambda x, y: fx.cross_entropy(x, y, reduction="none").square().sum(),
    "smoothed": lambda x, y: fx.cross_entropy(x, y, label_smoothing=0.1, normalizer=3.0),
    "binary": lambda x, y: fx.binary_cross_entropy_with_logits(x, x.detach().sigmoid()),
    "softmax": lambda x, y: fx.softmax(x).square().sum() + fx.logsumexp(x, axis=0).sum(),
    "entropy": lambda x, y: fx.entropy(x).sum(),
    "linear": lambda x, y: fx.linear_cross_entropy(x[:, :5], x[:, 5:].T @ x[:, :5], y % 4),
}


@pytest.mark.usefixtures("implementations")
@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("name", CAPTURES)
def test_a_captured_training_step(name, is_compiled, monkeypatch):
    """Forward and backward wait for nothing, with the numbers of a step that is not captured."""
    step = CAPTURES[name]
    logits, target = torch.randn(4, 9, requires_grad=True), torch.randint(9, (4,))
    want = step(logits, target)
    (slope,) = torch.autograd.grad(want, logits)
    monkeypatch.setattr(gpu, "place_of", lambda tensor: CAPTURED)
    if not is_compiled:  # a compiled one has no numbers in place of tensors
        monkeypatch.setattr(torch, "where", where)
    known = dict(plans._plans)
    sim.waited.clear()
    sim.places.clear()
    loss = (compiled(step) if is_compiled else step)(logits, target)
    (grad,) = torch.autograd.grad(loss, logits)
    assert sim.waited == [] and set(sim.places) == {CAPTURED}
    assert plans._plans == known  # a plan that checks no labels would be none for later calls
    close(loss, want, 1e-6)
    close(grad, slope, 1e-5)


@pytest.mark.usefixtures("implementations")
@pytest.mark.parametrize("is_compiled", [False, True])
def test_bad_labels_while_capturing(is_compiled, monkeypatch):
    """They make their rows nan; the others are as ever."""
    logits, target = torch.randn(3, 9, requires_grad=True), torch.tensor([1, 9, 2])
    monkeypatch.setattr(gpu, "place_of", lambda tensor: CAPTURED)

    def step(logits, target):
        return fx.cross_entropy(logits, target, reduction="none")

    losses = (compiled(step) if is_compiled else step)(logits, target)
    (grad,) = torch.autograd.grad(losses.sum(), logits)
    assert losses.isnan().tolist() == [False, True, False]
    assert grad.isnan().all(1).tolist() == [False, True, False]
