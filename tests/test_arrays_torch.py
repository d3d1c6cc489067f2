"""PyTorch tensors: the same kind out, memory shared, gradients connected or refused."""

import itertools

import numpy as np
import pytest

import fastxent as fx

torch = pytest.importorskip("torch", reason="PyTorch is optional: pip install torch")
from fastxent.integrations import torch as modules  # noqa: E402 - wants PyTorch

X = torch.tensor([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9], [-1.0, 0.5, 3.0], [0.3, 0.2, -0.4]])
Y = torch.tensor([1, 0, 2, 2])
SOFT = torch.tensor([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0], [0.3, 0.3, 0.4], [0.1, 0.1, 0.1]])
TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
each_type = pytest.mark.parametrize("kind", TYPES, ids=str)
W = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, -0.5], [0.2, 0.3, 0.4], [-1.0, 1.0, 0.1],
                  [0.7, -0.7, 0.0]])  # fmt: skip
B = torch.tensor([0.1, -0.2, 0.0, 0.3, 0.5])

# Every public function of logits or probabilities, as a function of its first argument alone.
LOSSES = {
    "indices": lambda x, **how: fx.cross_entropy(x, Y, **how),
    "soft": lambda x, **how: fx.cross_entropy(x, SOFT, **how),
    "options": lambda x, **how: fx.cross_entropy(
        x, Y, weight=[1.0, 2.0, 0.5], sample_weight=torch.tensor([1.0, 2.0, 0.0, 0.5]),
        label_smoothing=0.1, z_loss=0.01, logit_scale=1.5, softcap=20.0, **how
    ),
    "other axis": lambda x, **how: fx.cross_entropy(x.T, Y, axis=0, **how),
    "binary": lambda x, **how: fx.binary_cross_entropy_with_logits(
        x, SOFT, weight=[1.0, 2.0, 3.0], pos_weight=2.0, **how
    ),
    "categorical of probabilities": lambda x, **how: fx.categorical_cross_entropy(
        (x * 0.1 + 0.4), Y, **how
    ),
    "binary of probabilities": lambda x, **how: fx.binary_cross_entropy(
        x * 0.1 + 0.4, SOFT, **how
    ),
    "linear": lambda x, **how: fx.linear_cross_entropy(
        x, W.to(x.dtype), torch.tensor([1, 0, 4, 2]), linear_bias=B.to(x.dtype), **how
    ),
}  # fmt: skip
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
each_reduction = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


def bits(result):
    """Results as NumPy arrays that compare by their bits."""
    if isinstance(result, tuple):
        return [part for each in result for part in bits(each)]
    if result is None:
        return []
    if isinstance(result, torch.Tensor):
        result = result.detach()
        whole = result.view(torch.int16) if result.dtype == torch.bfloat16 else result
        return [whole.numpy()]
    array = np.asarray(result)
    return [array.view(np.int16) if array.dtype.name == "bfloat16" else array]


def as_numpy(tensor):
    """The tensor's numbers as an array of the same type."""
    if tensor.dtype == torch.bfloat16:
        ml_dtypes = pytest.importorskip("ml_dtypes")
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def same(got, want):
    got, want = bits(got), bits(want)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        np.testing.assert_array_equal(a, b)


# --- the same kind out ----------------------------------------------------------------------


@each_type
def test_the_same_kind_out(kind):
    """Tensors of the types and bits that NumPy arrays of the same numbers get."""
    x = X.to(kind)
    array = as_numpy(x)
    everything = dict.fromkeys(
        ["return_grad", "return_probs", "return_lse", "return_hess", "return_argmax"], True
    )
    for how in ("mean", "none"):
        got = fx.cross_entropy(x, Y, reduction=how, **everything)
        assert all(isinstance(part, torch.Tensor) for part in got)
        same(got, fx.cross_entropy(array, Y.numpy(), reduction=how, **everything))
        got = fx.binary_cross_entropy_with_logits(x, SOFT, reduction=how, return_grad=True)
        want = fx.binary_cross_entropy_with_logits(
            array, SOFT.numpy(), reduction=how, return_grad=True
        )
        same(got, want)
    for name in ("softmax", "log_softmax", "logsumexp"):
        same(getattr(fx, name)(x, axis=0), getattr(fx, name)(array, axis=0))
    linear = W.to(kind)
    got = fx.linear_cross_entropy(x, linear, Y, return_grad=True)
    same(got, fx.linear_cross_entropy(array, as_numpy(linear), Y.numpy(), return_grad=True))
    assert isinstance(got[1], fx.LinearGrad)
    assert got[1].linear_bias is None


def test_a_scalar_is_a_tensor_without_dimensions():
    """Rank 1, one sample: everything reduced is 0-d."""
    for result in (fx.cross_entropy(X[0], Y[0]), fx.logsumexp(X[0])):
        assert isinstance(result, torch.Tensor)
        assert result.shape == ()


@each_type
def test_buffers_are_written_and_returned(kind):
    """Over the tensor's own memory, in place too, and the object that comes back is the buffer."""
    x = X.to(kind)
    want = fx.cross_entropy(x, Y, return_grad=True, return_probs=True)
    grad, probs = torch.empty_like(x), torch.empty_like(x)
    got = fx.cross_entropy(x, Y, grad_out=grad, probs_out=probs)
    assert got[1] is grad
    assert got[2] is probs
    same(got, want)
    softmax = fx.softmax(x)
    inside = x.clone()
    assert fx.softmax(inside, out=inside) is inside
    same(inside, softmax)
    inside = x.clone()
    _, grad = fx.cross_entropy(inside, Y, grad_out=inside)
    assert grad is inside
    same(grad, fx.cross_entropy(x, Y, return_grad=True)[1])


def test_buffers_of_a_linear_map():
    """Three tensors, added to."""
    want = fx.linear_cross_entropy(X, W, Y, linear_bias=B, return_grad=True)[1]
    buffers = fx.LinearGrad(*(torch.ones_like(tensor) for tensor in (X, W, B)))
    _, grads = fx.linear_cross_entropy(X, W, Y, linear_bias=B, grad_out=buffers, accumulate=True)
    for grad, buffer, part in zip(grads, buffers, want, strict=True):
        assert grad is buffer
        torch.testing.assert_close(grad, part + 1)


def test_what_does_not_fit_is_refused():
    """Kinds that were mixed up, and tensors from elsewhere."""
    with pytest.raises(ValueError, match="grad_out must be a torch.Tensor, got ndarray"):
        fx.cross_entropy(X, Y, grad_out=np.empty((4, 3), np.float32))
    with pytest.raises(ValueError, match="grad_out must be a numpy.ndarray, got Tensor"):
        fx.cross_entropy(X.numpy(), Y, grad_out=torch.empty(4, 3))
    with pytest.raises(ValueError, match="must have shape"):
        fx.cross_entropy(X, Y, grad_out=torch.empty(3, 4))
    with pytest.raises(ValueError, match="separate memory for each element"):
        fx.softmax(X, out=torch.empty(1, 3).expand(4, 3))
    with pytest.raises(TypeError, match="target is on meta"):
        fx.cross_entropy(X, Y.to("meta"))
    with pytest.raises(TypeError, match=r"logits must be a dense tensor.*call to_dense\(\)"):
        fx.softmax(X.to_sparse())
    with pytest.raises(TypeError, match="complex"):
        fx.softmax(X.to(torch.complex64))
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'target'"):
        fx.cross_entropy(X)
    with pytest.raises(TypeError, match="multiple values for argument 'target'"):
        fx.cross_entropy(X, Y, target=Y)
    with pytest.raises(TypeError, match="positional argument"):
        fx.cross_entropy(X, Y, 1)


# --- gradients ------------------------------------------------------------------------------


@each_loss
@each_reduction
def test_gradients_of_losses(loss, reduction):
    """By central differences in float64."""
    x = X.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, reduction=reduction), (x,))


@each_reduction
def test_gradients_of_a_linear_map(reduction):
    """With respect to all three of its inputs, and to those of them that require grad.

    By batches of factors too, as Jacobians are made.
    """
    leaves = [tensor.double() for tensor in (X, W, B)]

    def loss(x, weight, bias):
        return fx.linear_cross_entropy(
            x, weight, torch.tensor([1, 0, 4, -100]), linear_bias=bias, reduction=reduction,
            sample_weight=[1.0, 2.0, 0.5, 1.0],
        )  # fmt: skip

    for needed in itertools.product((False, True), repeat=3):
        if any(needed):
            given = [t.clone().requires_grad_(need) for t, need in zip(leaves, needed, strict=True)]
            assert torch.autograd.gradcheck(loss, given, check_batched_grad=True)


@pytest.mark.parametrize("axis", [0, -1])
def test_gradients_of_softmax_and_its_logarithms(axis):
    """By central differences in float64."""
    x = X.double().requires_grad_()
    for function in (fx.softmax, fx.log_softmax, fx.logsumexp):
        assert torch.autograd.gradcheck(lambda x, f=function: f(x, axis=axis), (x,))
    assert torch.autograd.gradcheck(lambda x: fx.logsumexp(x, axis=axis, keepdims=True), (x,))
    assert torch.autograd.gradcheck(fx.logsumexp, (x[0].detach().requires_grad_(),))


@each_loss
def test_a_graph_that_is_kept(loss):
    """Each of three backward passes adds the same to the leaf's gradient, by any factor."""
    x = X.clone().requires_grad_()
    value = loss(x)
    value.backward(retain_graph=True)
    once = x.grad.clone()
    value.backward(retain_graph=True)
    torch.testing.assert_close(x.grad, 2 * once, rtol=0, atol=0)
    value.backward(torch.tensor(4.0))
    torch.testing.assert_close(x.grad, 6 * once)
    assert once.abs().max() > 0
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        value.backward()


@each_loss
@pytest.mark.parametrize("factor", [1.0, 3.0, float("inf")])
def test_a_graph_that_is_not_kept(loss, factor):
    """Gives what it held away, multiplied where it lies, and it is the gradient of a kept one."""
    x = X.clone().requires_grad_()
    value = loss(x)
    (want,) = torch.autograd.grad(value * factor, x, retain_graph=True)
    held = value.grad_fn.saved_tensors[0].data_ptr()
    given_away = []
    value.grad_fn.register_hook(lambda grads, _: given_away.extend(grads))
    (grad,) = torch.autograd.grad(value * factor, x)
    torch.testing.assert_close(grad, want, rtol=0, atol=0, equal_nan=True)
    same_memory = held in {part.data_ptr() for part in given_away if part is not None}
    assert same_memory == np.isfinite(factor)  # else in new memory, where nothing else is nan


def test_hooks_keep_what_they_saw():
    """What they have kept is not written to, and what they give back need not be writable."""
    kept = []
    x = X.clone().requires_grad_()

    def pack(tensor):
        kept.append((tensor, tensor.clone()))
        frozen = tensor.numpy().copy()
        frozen.flags.writeable = False
        return frozen

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda a: torch.from_numpy(a.copy())):
        loss = fx.cross_entropy(x, Y) * 3
    loss.backward()
    torch.testing.assert_close(x.grad, 3 * fx.cross_entropy(X, Y, return_grad=True)[1])
    assert len(kept) >= 1
    for tensor, before in kept:
        torch.testing.assert_close(tensor, before, rtol=0, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_batch_of_factors(reduction):
    """Several gradients at once, as Jacobians are made, of a graph that is not kept."""
    x = X.clone().requires_grad_()
    loss = fx.cross_entropy(x, Y, reduction=reduction)
    ups = torch.arange(1.0, 3.0 * loss.numel() + 1).view(3, *loss.shape)
    one_by_one = [torch.autograd.grad(loss, x, up, retain_graph=True)[0] for up in ups]
    (grads,) = torch.autograd.grad(loss, x, ups, is_grads_batched=True)
    torch.testing.assert_close(grads, torch.stack(one_by_one))


def test_what_does_not_count_stays_zero():
    """Whatever is above it: the root of a loss that is 0 has an infinite derivative."""
    labels, weights = torch.tensor([1, -100, 2, 2]), torch.tensor([1.0, 1.0, 0.0, 2.0])
    for loss in (
        lambda x: fx.cross_entropy(x, labels, reduction="none"),
        lambda x: fx.cross_entropy(x, labels, reduction="none", sample_weight=weights),
        lambda x: fx.linear_cross_entropy(x, W, labels, reduction="none"),
        lambda x: fx.linear_cross_entropy(x, W, labels, reduction="none", sample_weight=weights),
    ):
        x = X.clone().requires_grad_()
        value = loss(x)
        value.sqrt().sum().backward()
        assert torch.isfinite(x.grad).all()
        torch.testing.assert_close((x.grad == 0).all(1), value == 0)


def test_negated_views():
    """What PyTorch has not yet negated in memory."""
    torch.testing.assert_close(fx.softmax(torch._neg_view(X)), fx.softmax(-X))


def test_gradients_may_be_written_to():
    """By optimisers, by clipping, and by autograd itself where a view lies between."""
    x = X.flatten().clone().requires_grad_()
    loss = fx.cross_entropy(x.view(4, 3), Y)
    (want,) = torch.autograd.grad(loss, x, retain_graph=True)
    want = want.clone()
    for _ in range(3):
        (grad,) = torch.autograd.grad(loss, x, retain_graph=True)
        torch.testing.assert_close(grad, want, rtol=0, atol=0)
        grad.mul_(10)
    for k in (1, 2, 3):
        loss.backward(retain_graph=True)
        torch.testing.assert_close(x.grad, k * want)


def test_autograd_knows_what_was_written():
    """A buffer over what autograd has kept is noticed."""
    x = X.clone().requires_grad_()
    kept = x.exp()
    fx.softmax(kept.detach(), out=kept.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.sum().backward()
    with pytest.raises(ValueError, match="out must be None where logits require grad"):
        fx.softmax(x, out=torch.empty_like(x))


def test_what_a_later_gradient_needs_is_kept():
    """Losses by row of a linear map: arrays are copied, tensors are watched."""
    x, numbers = X.clone().requires_grad_(), np.array([1.0, 2.0, 0.5, 3.0])[::-1]
    labels = torch.tensor([1, 0, 4, 2])

    def grad(weights, linear, spoil):
        loss = fx.linear_cross_entropy(
            x, linear, labels, linear_bias=B.numpy(), reduction="none", sample_weight=weights
        )
        spoil()
        return torch.autograd.grad(loss.sum(), x)[0]

    want = grad(numbers, W, lambda: None)
    weights = numbers.copy()
    same(grad(weights, W.numpy(), lambda: weights.fill(0)), want)
    tensor = torch.tensor(numbers.copy())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        grad(tensor, W, tensor.zero_)


def test_only_what_is_needed_is_held():
    """The gradient of a frozen matrix is not; what the caller asks for is his, whatever it is."""
    x, labels = X.clone().requires_grad_(), torch.tensor([1, 0, 4, 2])
    loss = fx.linear_cross_entropy(x, W, labels)
    assert [grad is not None for grad in loss.grad_fn.saved_tensors] == [True, False, False]
    want = fx.linear_cross_entropy(X, W, labels, return_grad=True)[1]
    for reduction in ("mean", "none"):
        loss, grad = fx.linear_cross_entropy(
            x, W, labels, wrt="linear_weight", return_grad=True, reduction=reduction
        )
        assert grad.x is None and grad.linear_bias is None
        if reduction == "mean":
            same(grad.linear_weight, want.linear_weight)
            loss.backward()
            same(x.grad, want.x)
    for leaf, matrix in ((x, W), (X.half().requires_grad_(), W.half())):
        for wrong, error, words in (
            ("y", ValueError, "wrt must be one of x, linear_weight, linear_bias, got 'y'"),
            (("x", "y"), ValueError, "wrt must be one of"), ((), ValueError, "at least one of"),
            (3, TypeError, "iterable of names, got int"), (None, TypeError, "got NoneType"),
        ):  # fmt: skip
            for reduction in ("mean", "none"):
                with pytest.raises(error, match=words):
                    fx.linear_cross_entropy(leaf, matrix, labels, wrt=wrong, reduction=reduction)
    fx.linear_cross_entropy(x, W, labels, wrt={"linear_weight"}).backward()
    assert x.grad.abs().max() > 0


def test_lists_beside_tensors():
    """Labels and weights in lists, to functions and modules, as beside a NumPy array."""
    labels, weights = Y.tolist(), [1.0, 2.0, 0.5]
    same(fx.cross_entropy(X, labels, weight=weights), fx.cross_entropy(X, Y, weight=weights))
    same(modules.CrossEntropyLoss()(X, labels), fx.cross_entropy(X, Y))
    same(modules.CrossEntropyLoss()(X, SOFT.tolist()), fx.cross_entropy(X, SOFT.double()))
    same(modules.BCEWithLogitsLoss()(X, SOFT.tolist()),
         fx.binary_cross_entropy_with_logits(X, SOFT.double()))  # fmt: skip
    head = modules.LinearCrossEntropyLoss(3, 4)
    same(head(X, labels), head(X, Y))


def test_gradients_of_logsumexp_by_the_input():
    """Not by the rounded result: an offset shared by a row does no harm."""
    for kind, offset in ((torch.bfloat16, 256.0), (torch.float32, 1e7)):
        x = torch.full((3,), offset, dtype=kind, requires_grad=True)
        fx.logsumexp(x).backward()
        torch.testing.assert_close(x.grad, torch.full((3,), 1 / 3, dtype=kind))


@each_loss
def test_what_comes_beside_the_loss_is_apart(loss):
    """It has no graph, is the caller's to write to, and changes nothing in the gradient."""
    x = X.clone().requires_grad_()
    want = torch.autograd.grad(loss(x), x)[0]
    value, grad = loss(x, return_grad=True)
    for part in bits(grad):
        part[...] = 7
    parts = grad if isinstance(grad, tuple) else [grad]
    assert not any(part.requires_grad for part in parts)
    value.backward()
    same(x.grad, want)


def test_a_buffer_beside_the_graph():
    """It may be written to again before backward."""
    x = X.clone().requires_grad_()
    want = torch.autograd.grad(fx.cross_entropy(x, Y), x)[0]
    buffer = torch.empty_like(x)
    loss, grad, lse = fx.cross_entropy(x, Y, grad_out=buffer, return_lse=True)
    assert grad is buffer
    torch.testing.assert_close(lse, fx.logsumexp(X))
    torch.testing.assert_close(buffer, want)
    buffer.zero_()
    loss /= 2  # in place, as one does before adding up
    loss.backward()
    torch.testing.assert_close(x.grad, want / 2)


def test_probabilities_beside_the_graph():
    """Without the gradient being asked for, it is not among the results."""
    x = X.clone().requires_grad_()
    loss, probs, argmax = fx.cross_entropy(x, Y, return_probs=True, return_argmax=True)
    assert loss.requires_grad
    assert not probs.requires_grad
    torch.testing.assert_close(probs, fx.softmax(X))
    same(argmax, X.argmax(1))


def test_no_gradient_is_dropped_in_silence():
    """A target or weight that requires grad, and a buffer that does, are refused."""
    with pytest.raises(TypeError, match="target must not require grad"):
        fx.cross_entropy(X, SOFT.clone().requires_grad_())
    for name, size in (("weight", 3), ("sample_weight", 4)):
        with pytest.raises(TypeError, match=f"{name} must not require grad"):
            fx.cross_entropy(X, Y, **{name: torch.ones(size, requires_grad=True)})
    with pytest.raises(ValueError, match="grad_out must not require grad"):
        fx.cross_entropy(X, Y, grad_out=torch.empty(4, 3, requires_grad=True))
    with pytest.raises(TypeError, match="target must not require grad"):
        fx.cross_entropy(X.numpy(), SOFT.clone().requires_grad_())


def test_without_grad_mode():
    """Nothing is held and nothing is connected."""
    x = X.clone().requires_grad_()
    with torch.no_grad():
        assert not fx.cross_entropy(x, Y).requires_grad
        assert not fx.softmax(x).requires_grad
    with torch.inference_mode():
        assert not fx.cross_entropy(x, Y).requires_grad


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_under_a_scaled_loss(kind):
    """A gradient too small for float16 comes through under the factor that AMP gives the loss."""
    x = X.to(kind).requires_grad_()
    tiny, factor = 1e-9, 2.0**20
    loss = fx.cross_entropy(x, Y, reduction="sum") * tiny * factor
    loss.backward()
    want = fx.cross_entropy(x.detach().float(), Y, reduction="sum", return_grad=True)[1]
    torch.testing.assert_close(x.grad.float(), want * tiny * factor, rtol=1e-2, atol=1e-7)
    inside = x.detach().clone()
    loss, grad = fx.cross_entropy(inside.requires_grad_(), Y, grad_out=inside.detach())
    torch.testing.assert_close(loss.detach(), fx.cross_entropy(x.detach(), Y))
    torch.testing.assert_close(torch.autograd.grad(loss, inside)[0].float(), want / 4, rtol=1e-2,
                               atol=1e-7)  # fmt: skip
    loss, grad = fx.cross_entropy(x, Y, normalizer=1e9, return_grad=True)
    assert grad.dtype == kind
    x.grad = None
    (loss * 2.0**30).backward()
    torch.testing.assert_close(x.grad.float(), want * 2.0**30 / 1e9, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=str)
def test_automatic_mixed_precision(kind):
    """A step under autocast and GradScaler: PyTorch's loss and gradients, by half a type's digits.

    The loss is float32, as PyTorch's, where the logits are not.
    """
    steps = []
    for loss_of in (torch.nn.CrossEntropyLoss(), modules.CrossEntropyLoss()):
        torch.manual_seed(3)
        model = torch.nn.Linear(3, 5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu")
        with torch.autocast("cpu", dtype=kind):
            logits = model(X)
            assert logits.dtype == kind
            loss = loss_of(logits, Y)
        assert loss.dtype == torch.float32
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        steps.append([loss.detach(), model.weight.grad, model.bias.grad, model.weight.detach()])
    torch.testing.assert_close(*steps, rtol=float(torch.finfo(kind).eps), atol=1e-3)


# --- modules --------------------------------------------------------------------------------


def both(ours, theirs, *args):
    """Loss and gradient of both modules, for arguments of which the first requires grad."""
    for module in (ours, theirs):
        x = args[0].clone().requires_grad_()
        loss = module(x, *args[1:])
        loss.sum().backward()
        yield loss.detach(), x.grad


@each_reduction
def test_cross_entropy_module(reduction):
    """All constructor arguments, as PyTorch has them."""
    images = torch.randn(2, 3, 4, 5, generator=torch.manual_seed(0))
    labels = torch.randint(0, 3, (2, 4, 5), generator=torch.manual_seed(1))
    labels[0, 0, 0] = -1
    soft = images.flip(0).softmax(1)
    for options in (
        {}, {"ignore_index": -1}, {"weight": torch.tensor([1.0, 2.0, 0.5]), "ignore_index": -1},
        {"label_smoothing": 0.1, "ignore_index": -1},
    ):  # fmt: skip
        pair = [kind(reduction=reduction, **options)
                for kind in (modules.CrossEntropyLoss, torch.nn.CrossEntropyLoss)]  # fmt: skip
        for x, target in ((images, labels), (images, soft), (images[0, :, 0, 0], labels[1, 0, 0])):
            if target is labels and "ignore_index" not in options:
                target = labels.clamp(0)
            for ours, theirs in zip(*both(*pair, x, target), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@each_reduction
def test_binary_module(reduction):
    """All constructor arguments, as PyTorch has them."""
    x = torch.randn(4, 3, generator=torch.manual_seed(0))
    for options in (
        {},
        {"weight": torch.rand(4, 1)},
        {"pos_weight": torch.tensor([1.0, 2.0, 3.0])},
    ):
        pair = [kind(reduction=reduction, **options)
                for kind in (modules.BCEWithLogitsLoss, torch.nn.BCEWithLogitsLoss)]  # fmt: skip
        for ours, theirs in zip(*both(*pair, x, SOFT), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@each_reduction
def test_linear_module(reduction):
    """The same state, the same loss, the same gradients of features and parameters."""
    x = torch.randn(6, 4, generator=torch.manual_seed(0))
    for size, options in (((6,), {}), ((6,), {"bias": True, "label_smoothing": 0.1}),
                          ((6,), {"weight": torch.rand(5), "ignore_index": 2}),
                          ((6, 2), {"out_features": (2,)})):  # fmt: skip
        y = torch.randint(0, 5, size, generator=torch.manual_seed(1))
        ours = modules.LinearCrossEntropyLoss(4, 5, reduction=reduction, **options)
        theirs = torch.nn.LinearCrossEntropyLoss(4, 5, reduction=reduction, **options)
        theirs.load_state_dict(ours.state_dict())
        for a, b in zip(*both(ours, theirs, x, y), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)
