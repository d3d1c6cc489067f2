"""PyTorch as a peer: agreement over a grid of all the options that both have."""

import itertools

import numpy as np
import pytest

import fastxent as fx

torch = pytest.importorskip("torch", reason="PyTorch is optional: pip install torch")
functional = torch.nn.functional

INF, NAN = np.inf, np.nan
REDUCTIONS = ("mean", "sum", "none")
# What PyTorch's own arithmetic allows; the bounds of ours are tested against exact arithmetic.
TOLERANCE = {np.float32: dict(rtol=2e-5, atol=1e-6), np.float64: dict(rtol=1e-12, atol=1e-14)}

SHAPES = {"rank 1": ((5,), 0), "rank 2": ((7, 5), 1), "rank 4": ((3, 5, 2, 4), 1)}
each_shape = pytest.mark.parametrize(("shape", "axis"), SHAPES.values(), ids=SHAPES)


@pytest.fixture(autouse=True, scope="module")
def one_thread_for_pytorch():
    """Its threads wait for each other longer than these small arrays take."""
    found = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(found)


def indices(rng, shape, axis):
    return rng.integers(0, shape[axis], (*shape[:axis], *shape[axis + 1 :]))


def one_hot(rng, shape, axis):
    return np.moveaxis(np.eye(shape[axis])[indices(rng, shape, axis)], -1, axis)


def soft(rng, shape, axis):
    return rng.uniform(0, 1, shape)  # which need not sum to 1


KINDS = {
    "indices": indices,
    "integers": lambda *given: one_hot(*given).astype(np.int8),
    "bools": lambda *given: one_hot(*given).astype(bool),
    "floats": one_hot,
    "soft": soft,
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def with_ignored(target):
    """The target and what to ignore: nothing, a class, and the label that is ignored by default.

    Probabilities ignore nothing; a single label that is ignored is left to the corners.
    """
    yield target, -100
    if target.dtype == np.int64 and target.ndim:
        ignored = int(target.flat[0])
        yield target, ignored
        yield np.where(target == ignored, -100, target), -100


def leaf(array):
    return torch.tensor(array, requires_grad=True)


def numbers(array, dtype):
    """Weights or probabilities as PyTorch wants them: in the type of the logits."""
    return None if array is None else torch.tensor(np.asarray(array, dtype))


def wanted(target, dtype):
    """A target as PyTorch wants it: class indices are left as they are."""
    return torch.tensor(target) if target.dtype == np.int64 else numbers(target, dtype)


def agree(ours, loss, leaves, dtype, err_msg="", size=1):
    """Our loss and gradients are PyTorch's loss and what its autograd leaves behind.

    Shape and type too; `size` is that of the terms that are added up.
    """
    for tensor in leaves:
        tensor.grad = None
    loss.sum().backward()
    rtol, atol = TOLERANCE[dtype]["rtol"], TOLERANCE[dtype]["atol"] * size
    for a, b in zip(ours, (loss.detach(), *(t.grad for t in leaves)), strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol, atol, strict=True, err_msg=err_msg)


# ---- cross-entropy ------------------------------------------------------------------------------


@each_kind
@each_shape
def test_cross_entropy(rng, dtype, shape, axis, kind):
    """Target × weights × smoothing × ignore × reduction × rank, loss and gradient."""
    logits = (rng.standard_normal(shape) * 3).astype(dtype)
    target = KINDS[kind](rng, shape, axis)
    weights, x = (None, rng.uniform(0.5, 2, shape[axis])), leaf(logits)
    for weight, smoothing, (y, ignore), reduction in itertools.product(
        weights, (0.0, 0.3, 1.0), with_ignored(target), REDUCTIONS
    ):
        options = dict(label_smoothing=smoothing, ignore_index=ignore, reduction=reduction)
        theirs = functional.cross_entropy(x, wanted(y, dtype), numbers(weight, dtype), **options)
        ours = fx.cross_entropy(logits, y, axis=axis, weight=weight, return_grad=True, **options)
        agree(ours, theirs, [x], dtype, f"{options}, {weight=}")


def test_cross_entropy_of_long_rows(rng, dtype):
    """More classes than a vector or a block holds, and logits far from zero."""
    for classes, offset in itertools.product((1, 17, 1000, 5003), (0, 100)):
        logits = (rng.standard_normal((4, classes)) * 5 + offset).astype(dtype)
        labels = rng.integers(0, classes, 4)
        spread = rng.dirichlet(np.ones(classes), 4)
        for target, smoothing in itertools.product((labels, spread), (0.0, 0.1)):
            x = leaf(logits)
            theirs = functional.cross_entropy(
                x, wanted(target, dtype), label_smoothing=smoothing, reduction="sum"
            )
            ours = fx.cross_entropy(
                logits, target, label_smoothing=smoothing, reduction="sum", return_grad=True
            )
            agree(ours, theirs, [x], dtype, f"{classes=}, {offset=}, {smoothing=}")


def test_cross_entropy_of_special_rows(rng, dtype):
    """Index targets: infinite and nan logits give infinity and nan where PyTorch does."""
    rows = np.array(list(itertools.product([0.0, 1.5, -INF, INF, NAN], repeat=3)), dtype)
    for label, reduction in itertools.product(range(3), REDUCTIONS):
        labels = np.full(len(rows), label)
        x = leaf(rows)
        theirs = functional.cross_entropy(x, torch.tensor(labels), reduction=reduction)
        ours = fx.cross_entropy(rows, labels, reduction=reduction, return_grad=True)
        agree(ours, theirs, [x], dtype, f"{label=}, {reduction=}")


def test_losses_of_nothing(dtype):
    """No rows, or every row ignored: the mean is nan, the sum 0, and no row has a loss."""
    for n, reduction in itertools.product((0, 3), REDUCTIONS):
        logits, labels = np.ones((n, 4), dtype), np.full(n, 2)
        theirs = functional.cross_entropy(
            torch.tensor(logits), torch.tensor(labels), ignore_index=2, reduction=reduction
        )
        ours = fx.cross_entropy(logits, labels, ignore_index=2, reduction=reduction)
        np.testing.assert_array_equal(ours, theirs.numpy(), strict=True)
    for name, reduction in itertools.product(
        ("binary_cross_entropy", "binary_cross_entropy_with_logits"), REDUCTIONS
    ):
        empty = np.empty((2, 0), dtype)
        theirs = getattr(functional, name)(*[torch.tensor(empty)] * 2, reduction=reduction)
        ours = getattr(fx, name)(empty, empty, reduction=reduction)
        np.testing.assert_array_equal(ours, theirs.numpy(), strict=True)


@each_shape
def test_categorical_cross_entropy(rng, dtype, shape, axis):
    """Of probabilities it is nll_loss of their logarithm: weights × ignore × reduction × rank."""
    probs = rng.uniform(0.01, 0.99, shape).astype(dtype)
    labels, x = indices(rng, shape, axis), leaf(probs)
    for weight, (y, ignore), reduction in itertools.product(
        (None, rng.uniform(0.5, 2, 5)), with_ignored(labels), REDUCTIONS
    ):
        options = dict(ignore_index=ignore, reduction=reduction)
        theirs = functional.nll_loss(x.log(), torch.tensor(y), numbers(weight, dtype), **options)
        ours = fx.categorical_cross_entropy(
            probs, y, axis=axis, weight=weight, return_grad=True, **options
        )
        agree(ours, theirs, [x], dtype, f"{options}, {weight=}")


# ---- linear -------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("rows", [(), (8,), (2, 9)], ids=["rank 1", "rank 2", "rank 3"])
def test_linear(rng, dtype, rows, kind):
    """Target × bias × weights × smoothing × ignore × reduction × rank: loss, three gradients."""
    features, classes = 6, 11
    given = [
        rng.standard_normal(shape).astype(dtype)
        for shape in ((*rows, features), (classes, features), (classes,))
    ]
    target = KINDS[kind](rng, (*rows, classes), len(rows))
    x, w, b = leaves = [leaf(array) for array in given]
    weights = (None, rng.uniform(0.5, 2, classes))
    axis = 1 if rows else 0  # PyTorch's class axis
    for biased, weight, smoothing, (y, ignore), reduction in itertools.product(
        (False, True), weights, (0.0, 0.3, 1.0), with_ignored(target), REDUCTIONS
    ):
        options = dict(label_smoothing=smoothing, ignore_index=ignore, reduction=reduction)
        theirs = functional.cross_entropy(
            functional.linear(x, w, b if biased else None).movedim(-1, axis),
            wanted(y if kind == "indices" else np.moveaxis(y, -1, axis), dtype),
            numbers(weight, dtype), **options,
        )  # fmt: skip
        loss, grad = fx.linear_cross_entropy(
            *given[:2], y, linear_bias=given[2] if biased else None, weight=weight,
            return_grad=True, **options,
        )  # fmt: skip
        assert (grad.linear_bias is not None) == biased
        n = 3 if biased else 2
        told = f"{options}, {weight=}, {biased=}"
        agree((loss, *grad[:n]), theirs, leaves[:n], dtype, told, size=10)


@pytest.mark.skipif(
    not hasattr(functional, "linear_cross_entropy"), reason="PyTorch has none before 2.13"
)
def test_linear_is_called_as_pytorchs_own(rng, dtype):
    """PyTorch's own linear_cross_entropy takes the same call, name by name; chunked or not."""
    given = [rng.standard_normal(shape).astype(dtype) for shape in ((8, 6), (11, 6), (11,))]
    leaves, weight = [leaf(array) for array in given], rng.uniform(0.5, 2, 11)
    labels, chunks = indices(rng, (8, 11), 1), torch.nn.LinearCrossEntropyOptions()
    for target, smoothing, how, reduction in (
        (labels, 0.0, None, "mean"),
        (np.where(labels == labels[0], -100, labels), 0.0, chunks, "mean"),
        (labels, 0.0, chunks, "sum"),
        (labels, 0.3, None, "none"),
        (soft(rng, (8, 11), 1), 0.3, None, "mean"),
    ):
        options = dict(label_smoothing=smoothing, reduction=reduction)
        loss, grad = fx.linear_cross_entropy(
            *given[:2], target, linear_bias=given[2], weight=weight, return_grad=True, **options
        )
        theirs = functional.linear_cross_entropy(
            *leaves[:2], wanted(target, dtype), linear_bias=leaves[2],
            weight=numbers(weight, dtype), options=how, **options,
        )  # fmt: skip
        agree((loss, *grad), theirs, leaves, dtype, f"{options}, {how}", size=10)


# ---- binary -------------------------------------------------------------------------------------

BINARY_SHAPES = [(), (6,), (3, 5), (2, 3, 4, 5)]
each_binary_shape = pytest.mark.parametrize("shape", BINARY_SHAPES, ids=str)


def broadcastable(rng, shape):
    """None, and positive numbers of every shape of the kind that broadcasts against this one."""
    shapes = {(), shape, shape[-1:], (*shape[:-1], 1), (1, *shape[1:])} if shape else {()}
    return [None, *(rng.uniform(0.5, 2, s) for s in sorted(shapes))]


def binary_targets(rng, shape):
    return rng.uniform(0, 1, shape), rng.integers(0, 2, shape), rng.integers(0, 2, shape) > 0


@each_binary_shape
def test_binary_cross_entropy(rng, dtype, shape):
    """Target × weight × reduction × rank, loss and gradient."""
    probs = np.asarray(rng.uniform(0.02, 0.98, shape), dtype)
    x = leaf(probs)
    for target, weight, reduction in itertools.product(
        binary_targets(rng, shape), broadcastable(rng, shape), REDUCTIONS
    ):
        theirs = functional.binary_cross_entropy(
            x, numbers(target, dtype), numbers(weight, dtype), reduction=reduction
        )
        ours = fx.binary_cross_entropy(
            probs, target, weight=weight, reduction=reduction, return_grad=True
        )
        agree(ours, theirs, [x], dtype, f"{target=}, {weight=}, {reduction=}")


def test_binary_cross_entropy_at_the_edges(rng, dtype):
    """Probabilities 0, 1 and beside them: logs end at -100, the gradient divides by 1e-12."""
    edge = np.finfo(dtype).epsneg
    probs = [0, 1, 1e-30, 1e-20, 1e-13, 1e-11, 0.5 * edge, 1 - edge, 1 - 2 * edge, 0.5]
    pairs = itertools.product(probs, (0, 1, 0.25))
    p, y = np.array(list(pairs), dtype).T.copy()
    weight = rng.uniform(0.5, 2, p.size).astype(dtype)
    # PyTorch writes its 1e-12 in float32 whatever the type.
    floored = p * (1 - p) < 1e-12
    correction = np.where(floored, np.float64(np.float32(1e-12)) / 1e-12, 1)
    assert floored.any()
    assert not floored.all()
    for w, reduction in itertools.product((None, weight), REDUCTIONS):
        x = leaf(p)
        theirs = functional.binary_cross_entropy(
            x, torch.tensor(y), numbers(w, dtype), reduction=reduction
        )
        theirs.sum().backward()
        loss, grad = fx.binary_cross_entropy(p, y, weight=w, reduction=reduction, return_grad=True)
        rtol = TOLERANCE[dtype]["rtol"]
        np.testing.assert_allclose(loss, theirs.detach().numpy(), rtol=rtol)
        np.testing.assert_allclose(grad, x.grad.numpy() * correction, rtol=rtol)
        if reduction == "none" and w is None:
            np.testing.assert_array_equal(loss[:6], [0, 100, 25, 100, 0, 75])


@each_binary_shape
def test_binary_cross_entropy_with_logits(rng, dtype, shape):
    """Target × weight × pos_weight × reduction × rank, loss and gradient."""
    logits = np.asarray(rng.standard_normal(shape) * 3, dtype)
    x = leaf(logits)
    for target, weight, pos_weight, reduction in itertools.product(
        binary_targets(rng, shape), broadcastable(rng, shape), broadcastable(rng, shape), REDUCTIONS
    ):
        theirs = functional.binary_cross_entropy_with_logits(
            x, numbers(target, dtype), numbers(weight, dtype),
            pos_weight=numbers(pos_weight, dtype), reduction=reduction,
        )  # fmt: skip
        ours = fx.binary_cross_entropy_with_logits(
            logits, target, weight=weight, pos_weight=pos_weight, reduction=reduction,
            return_grad=True,
        )  # fmt: skip
        told = f"{target=}, {weight=}, {pos_weight=}, {reduction=}"
        agree(ours, theirs, [x], dtype, told, size=10)  # of (1 - y)·x, which PyTorch adds up


# ---- softmax, half precision, tensors -----------------------------------------------------------


def test_softmax_family(rng, dtype):
    """Softmax, log_softmax, logsumexp over every axis, with special rows."""
    logits = (rng.standard_normal((4, 6, 5)) * 5).astype(dtype)
    logits[0, 0] = -INF
    logits[1, 1, 2] = -INF
    logits[2, 0, 0] = NAN
    logits[3, 3, 3] = INF
    x = torch.tensor(logits)
    for axis in (0, 1, 2, -1, -3):
        for ours, theirs in (
            (fx.softmax(logits, axis=axis), functional.softmax(x, axis)),
            (fx.log_softmax(logits, axis=axis), functional.log_softmax(x, axis)),
            (fx.logsumexp(logits, axis=axis), torch.logsumexp(x, axis)),
            (fx.logsumexp(logits, axis=axis, keepdims=True), torch.logsumexp(x, axis, True)),
        ):
            np.testing.assert_allclose(ours, theirs.numpy(), strict=True, **TOLERANCE[dtype])


@pytest.fixture(params=["float16", "bfloat16"])
def half(request):
    """A half-precision type of NumPy, PyTorch's, and the tolerance that its last bit asks for."""
    if request.param == "float16":
        kind, eps, least = np.dtype(np.float16), 2.0**-10, 2.0**-24
    else:
        bfloat16 = pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16 itself").bfloat16
        kind, eps, least = np.dtype(bfloat16), 2.0**-7, 0.0
    return kind, getattr(torch, request.param), dict(rtol=eps, atol=least)


def test_half_precision_losses(rng, half):
    """The gradient is PyTorch's of the float64 loss, rounded once; the loss is a float32."""
    kind, torch_kind, last_bit = half
    logits, weight = (rng.standard_normal((7, 5)) * 3).astype(kind), rng.uniform(0.5, 2, 5)
    labels, smooth = indices(rng, (7, 5), 1), {"label_smoothing": 0.3}
    given = soft(rng, (7, 5), 1).astype(np.float32)
    calls = [
        ("cross_entropy", labels, {}),
        ("cross_entropy", labels, smooth),
        ("cross_entropy", given, {}),
        ("cross_entropy", given, smooth),
        ("binary_cross_entropy_with_logits", given, {}),
    ]
    for (name, target, options), reduction in itertools.product(calls, REDUCTIONS):
        x = torch.tensor(logits.astype(float)).to(torch_kind).requires_grad_()
        theirs = getattr(functional, name)(
            x.double(), wanted(target, float), weight=torch.tensor(weight), reduction=reduction,
            **options,
        )  # fmt: skip
        theirs.sum().backward()
        loss, grad = getattr(fx, name)(
            logits, target, weight=weight, reduction=reduction, return_grad=True, **options
        )
        assert (loss.dtype, grad.dtype) == (np.float32, kind)
        np.testing.assert_allclose(loss, theirs.detach().numpy(), rtol=1e-6)
        np.testing.assert_allclose(grad.astype(float), x.grad.double().numpy(), **last_bit)


@pytest.mark.parametrize("factor", [1.0, 2.0**14, -3.0, 0.0, np.inf, np.nan])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy_with_logits"])
def test_float16_gradient_is_rounded_after_the_factor(rng, name, reduction, factor):
    """That of a loss scale: probabilities of 1e-9 are 0 in float16, times 16,384 they are not."""
    logits = torch.tensor(rng.standard_normal((40, 7)) * 4 - [20, 0, 0, 0, 0, 0, 0]).half()
    if name == "cross_entropy":
        target = torch.tensor(indices(rng, (40, 7), 1))
        target[3] = -100
    else:
        target = torch.tensor(soft(rng, (40, 7), 1))
        target[:, 0] = 0
    ours, theirs = logits.clone().requires_grad_(), logits.double().requires_grad_()
    got = getattr(fx, name)(ours, target, reduction=reduction)
    want = getattr(functional, name)(theirs, target, reduction=reduction)
    for loss in (got, want):
        loss.backward(torch.full_like(loss, factor))
    assert ours.grad.dtype == torch.float16
    if name == "cross_entropy":
        assert not ours.grad[target == -100].any()
    if np.isfinite(factor):
        np.testing.assert_allclose(ours.grad.double(), theirs.grad, rtol=2.0**-10, atol=2.0**-25)
    else:
        assert not ours.grad[[0, 39]].isfinite().all(axis=1).any()


def test_half_precision_softmax_family(rng, half):
    """Softmax, log_softmax and logsumexp are PyTorch's in float64, rounded once."""
    kind, torch_kind, last_bit = half
    logits = (rng.standard_normal((4, 6, 5)) * 3).astype(kind)
    x = torch.tensor(logits.astype(float))
    for axis in (0, 1, 2):
        for ours, theirs in (
            (fx.softmax(logits, axis=axis), functional.softmax(x, axis)),
            (fx.log_softmax(logits, axis=axis), functional.log_softmax(x, axis)),
            (fx.logsumexp(logits, axis=axis), torch.logsumexp(x, axis)),
        ):
            assert ours.dtype == kind
            rounded = theirs.to(torch_kind).double().numpy()
            np.testing.assert_allclose(ours.astype(float), rounded, **last_bit)


def test_cpu_tensors_are_taken_as_array_likes(rng):
    """A CPU tensor as target or weight of NumPy logits is read like any array-like."""
    logits = rng.standard_normal((3, 4))
    want = fx.cross_entropy(logits, [0, 3, 1], weight=[1, 2, 3, 4])
    got = fx.cross_entropy(
        logits, torch.tensor([0, 3, 1]), weight=torch.tensor([1.0, 2.0, 3.0, 4.0])
    )
    assert got == want
