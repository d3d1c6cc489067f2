"""PyTorch: second derivatives of every function, by double backward and in forward mode.

`gradgradcheck` says whether a chain agrees with itself; the reference says whether it is right.
"""

import gc
import itertools

import numpy as np
import pytest

import fastxent as fx
from fastxent import reference

torch = pytest.importorskip("torch", reason="PyTorch is optional: pip install torch")
from torch.autograd import forward_ad  # noqa: E402 - wants PyTorch

from fastxent.integrations import torch as modules  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own imports

F64 = torch.float64
REDUCTIONS = ("mean", "sum", "none")
each_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
ROWS, CLASSES, FEATURES = 3, 4, 2
INPUTS = ("x", "linear_weight", "linear_bias")


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.manual_seed(seed))


X = random(ROWS, CLASSES)
PROBS = X.softmax(1) * 0.9 + 0.02
TARGETS = {
    "indices": torch.tensor([1, 0, 3]),
    "ignored": torch.tensor([1, -100, 3]),
    "probabilities": random(ROWS, CLASSES, seed=1).abs(),
    "one-hot": torch.eye(CLASSES, dtype=torch.int64)[[1, 0, 3]],
}
OPTIONS = {
    "weight": {"weight": torch.tensor([0.5, 2.0, 0.0, 1.0], dtype=F64)},
    "sample_weight": {"sample_weight": torch.tensor([2.0, 0.5, 0.0], dtype=F64)},
    "label_smoothing": {"label_smoothing": 0.2},
    "z_loss": {"z_loss": 0.3},
    "logit_scale": {"logit_scale": -1.5},
    "softcap": {"softcap": 2.0},
    "normalizer": {"normalizer": 2.5},
    "ignore_index": {"ignore_index": 3},
}
PAIRS = [
    (), *((name,) for name in OPTIONS), ("softcap", "z_loss"),
    *((name, other) for name in OPTIONS for other in ("softcap", "z_loss")
      if name not in ("softcap", "z_loss")),
]  # fmt: skip
each_target = pytest.mark.parametrize("kind", TARGETS)


def cases(kinds, options):
    """Target, names of options and reduction, without what the functions refuse."""
    for kind, names, reduction in itertools.product(kinds, options, REDUCTIONS):
        if "normalizer" in names and reduction != "mean":
            continue
        if "ignore_index" in names and kind != "indices":
            continue
        yield pytest.param(kind, names, reduction, id="-".join((kind, *names, reduction)))


def how_of(names, reduction):
    """The options of these names."""
    how = {"reduction": reduction}
    for name in names:
        how |= OPTIONS[name]
    return how


def as_numpy(how):
    return {n: v.numpy() if isinstance(v, torch.Tensor) else v for n, v in how.items()}


def leaf(tensor):
    return tensor.clone().requires_grad_()


def products(function, inputs, vectors):
    """Hessian times vectors: by double backward, by forward over reverse, by vhp and hvp."""
    leaves = [leaf(tensor) for tensor in inputs]
    grads = torch.autograd.grad(function(*leaves).sum(), leaves, create_graph=True)
    yield torch.autograd.grad(grads, leaves, vectors)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(x, v) for x, v in zip(leaves, vectors, strict=True)]
        grads = torch.autograd.grad(function(*duals).sum(), leaves)
        yield [forward_ad.unpack_dual(grad).tangent for grad in grads]

    def total(*inputs):
        return function(*inputs).sum()

    inputs, vectors = tuple(inputs), tuple(vectors)
    yield torch.autograd.functional.hvp(total, inputs, vectors)[1]
    yield torch.autograd.functional.vhp(total, inputs, vectors)[1]


def agree(function, inputs, vectors, want):
    """All of them are what is wanted."""
    for found in products(function, inputs, vectors):
        for a, b in zip(found, want, strict=True):
            np.testing.assert_allclose(a.detach().numpy(), b, rtol=1e-11, atol=1e-13)


def chain_agrees(function, *inputs):
    """Both derivatives of both, in reverse and in forward mode."""
    leaves = tuple(map(leaf, inputs))
    how = {"fast_mode": True}
    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True, **how)
    assert torch.autograd.gradgradcheck(function, leaves, check_fwd_over_rev=True, **how)


# --- each loss against the reference ---------------------------------------------------------


@pytest.mark.parametrize(("kind", "names", "reduction"), list(cases(TARGETS, PAIRS)))
def test_cross_entropy(kind, names, reduction):
    """Target × options, alone and beside softcap and z_loss × reduction."""
    how, target = how_of(names, reduction), TARGETS[kind]
    vector = random(ROWS, CLASSES, seed=2)

    def loss(x):
        return fx.cross_entropy(x, target, **how)

    want = reference.cross_entropy_hvp(X.numpy(), target.numpy(), vector.numpy(), **as_numpy(how))
    agree(loss, [X], [vector], [want])
    chain_agrees(loss, X)


@each_reduction
def test_other_axes(reduction):
    """Classes that come first, and rows of several dimensions."""
    x, target = random(CLASSES, 2, ROWS), torch.tensor([[1, 0, 3], [-100, 2, 2]])
    vector = random(CLASSES, 2, ROWS, seed=2)
    for axis in (0, -3):
        how = {"axis": axis, "reduction": reduction, "z_loss": 0.1}
        want = reference.cross_entropy_hvp(x.numpy(), target.numpy(), vector.numpy(), **how)
        agree(lambda x, how=how: fx.cross_entropy(x, target, **how), [x], [vector], [want])
    chain_agrees(lambda x: fx.cross_entropy(x, target, **how), x)


SOME = [*((name,) for name in OPTIONS), (), ("softcap", "z_loss")]


@pytest.mark.parametrize(
    ("kind", "names", "reduction"),
    list(cases(("indices", "ignored", "probabilities"), SOME)),
)
def test_linear(kind, names, reduction):
    """The full Hessian, also between the three inputs."""
    how, target = how_of(names, reduction), TARGETS[kind]
    inputs = [random(ROWS, FEATURES), random(CLASSES, FEATURES, seed=1), random(CLASSES, seed=2)]
    vectors = [random(*tensor.shape, seed=3) for tensor in inputs]

    def loss(x, w, b):
        return fx.linear_cross_entropy(x, w, target, linear_bias=b, **how)

    want = reference.linear_cross_entropy_hvp(
        inputs[0].numpy(), inputs[1].numpy(), target.numpy(),
        reference.LinearGrad(*(v.numpy() for v in vectors)), linear_bias=inputs[2].numpy(),
        **as_numpy(how),
    )  # fmt: skip
    agree(loss, inputs, vectors, want)
    chain_agrees(loss, *inputs)


@each_reduction
def test_parts_of_a_linear_map(reduction):
    """Inputs that require no grad have no second derivative, and take no part."""
    inputs = [random(ROWS, FEATURES), random(CLASSES, FEATURES, seed=1), random(CLASSES, seed=2)]
    for needed in itertools.product((False, True), repeat=3):
        if not any(needed):
            continue
        leaves = [t.clone().requires_grad_(n) for t, n in zip(inputs, needed, strict=True)]
        loss = fx.linear_cross_entropy(
            *leaves[:2], TARGETS["ignored"], linear_bias=leaves[2], reduction=reduction
        )
        leaves = [t for t in leaves if t.requires_grad]
        vectors = [random(*t.shape, seed=3) for t in leaves]
        grads = torch.autograd.grad(loss.sum(), leaves, create_graph=True)
        found = torch.autograd.grad(grads, leaves, vectors)
        given = iter(vectors)
        want = reference.linear_cross_entropy_hvp(
            inputs[0].numpy(), inputs[1].numpy(), TARGETS["ignored"].numpy(),
            reference.LinearGrad(*(next(given).numpy() if need else None for need in needed)),
            linear_bias=inputs[2].numpy(), reduction=reduction,
        )  # fmt: skip
        want = [part for part, need in zip(want, needed, strict=True) if need]
        for a, b in zip(found, want, strict=True):
            np.testing.assert_allclose(a.numpy(), b, rtol=1e-11, atol=1e-13)


@each_reduction
@pytest.mark.parametrize("target", [TARGETS["probabilities"] / 4, TARGETS["one-hot"] > 0])
def test_binary_logits(target, reduction):
    """Weights of every shape that broadcasts."""
    vector = random(ROWS, CLASSES, seed=2)
    weights = (None, torch.tensor(0.5, dtype=F64), OPTIONS["weight"]["weight"], X[:, :1].abs())
    for weight, pos_weight in itertools.product(weights, repeat=2):
        how = {"weight": weight, "pos_weight": pos_weight, "reduction": reduction}
        want = reference.binary_cross_entropy_with_logits_hvp(
            X.numpy(), target.numpy(), vector.numpy(), **as_numpy(how)
        )

        def loss(x, how=how):
            return fx.binary_cross_entropy_with_logits(x, target, **how)

        agree(loss, [X], [vector], [want])
    chain_agrees(loss, X)


@each_reduction
@pytest.mark.parametrize("eps", [None, 0.2])
@each_target
def test_categorical(kind, eps, reduction):
    """w·q/p² at the clipped values, which are the derivative even where it clips."""
    target, vector = TARGETS[kind], random(ROWS, CLASSES, seed=2)
    weight, u = OPTIONS["weight"]["weight"], OPTIONS["sample_weight"]["sample_weight"]
    how = {"weight": weight, "sample_weight": u, "eps": eps, "reduction": reduction}
    one_hot = target if target.ndim == 2 else torch.eye(CLASSES, dtype=F64)[target.clamp(0)]
    active = (target != -100).to(F64) if target.ndim == 1 else torch.ones(ROWS, dtype=F64)
    divisor = 1.0
    if reduction == "mean":
        divisor = (u * active * (weight[target.clamp(0)] if target.ndim == 1 else 1)).sum()
    p = PROBS if eps is None else PROBS.clamp(eps, 1 - eps)
    want = (u * active / divisor)[:, None] * weight * one_hot / p**2 * vector

    def loss(x):
        return fx.categorical_cross_entropy(x, target, **how)

    agree(loss, [PROBS], [vector], [want.numpy()])
    if eps is None:
        chain_agrees(loss, PROBS)


@each_reduction
@pytest.mark.parametrize("eps", [None, 0.2])
def test_binary(eps, reduction):
    """w·(y/p² + (1-y)/(1-p)²) at the clipped values."""
    vector, weight = random(ROWS, CLASSES, seed=2), OPTIONS["weight"]["weight"]
    for target in (TARGETS["probabilities"] / 4, TARGETS["one-hot"]):
        p, r = (q if eps is None else q.clamp(eps, 1 - eps) for q in (PROBS, 1 - PROBS))
        divisor = X.numel() if reduction == "mean" else 1
        want = weight / divisor * (target / p**2 + (1 - target) / r**2) * vector

        def loss(x, target=target):
            return fx.binary_cross_entropy(x, target, weight=weight, eps=eps, reduction=reduction)

        agree(loss, [PROBS], [vector], [want.numpy()])
        if eps is None:
            chain_agrees(loss, PROBS)


def test_clamps_of_probabilities():
    """Those of the gradients hold in the second derivative: finite at 0 and 1, 0 without weight."""
    p = torch.tensor([0.0, 1.0, 1e-20, 1.0 - 2.0**-53, 0.5], dtype=F64, requires_grad=True)
    for y in (0.0, 1.0):
        loss = fx.binary_cross_entropy(p, torch.full_like(p, y), reduction="sum")
        (grad,) = torch.autograd.grad(loss, p, create_graph=True)
        (found,) = torch.autograd.grad(grad.sum(), p)
        # The derivative of the other outcome's log: the square of this gradient.
        torch.testing.assert_close(found, grad.detach().square())
    q = torch.tensor([[0.0, 1.0], [1e-20, 1.0]], dtype=F64, requires_grad=True)
    loss = fx.categorical_cross_entropy(q, torch.tensor([0, 1]), reduction="sum")
    (grad,) = torch.autograd.grad(loss, q, create_graph=True)
    (found,) = torch.autograd.grad(grad.sum(), q)
    torch.testing.assert_close(found, torch.tensor([[1e24, 0.0], [0.0, 1.0]], dtype=F64))


# --- softmax, its logarithms and its entropy --------------------------------------------------

MAPS = {
    "softmax": fx.softmax,
    "softmax, axis": lambda x: fx.softmax(x, axis=0),
    "log_softmax": fx.log_softmax,
    "logsumexp": fx.logsumexp,
    "logsumexp, dimensions kept": lambda x: fx.logsumexp(x, axis=0, keepdims=True),
    "entropy": fx.entropy,
    "entropy, axis": lambda x: fx.entropy(x, axis=0),
}
THEIRS = {
    "softmax": lambda x: torch.softmax(x, 1),
    "softmax, axis": lambda x: torch.softmax(x, 0),
    "log_softmax": lambda x: torch.log_softmax(x, 1),
    "logsumexp": lambda x: torch.logsumexp(x, 1),
    "logsumexp, dimensions kept": lambda x: torch.logsumexp(x, 0, keepdim=True),
    "entropy": lambda x: torch.special.entr(torch.softmax(x, 1)).sum(1),
    "entropy, axis": lambda x: torch.special.entr(torch.softmax(x, 0)).sum(0),
}


@pytest.mark.parametrize("name", MAPS)
def test_maps(name):
    """Softmax and its relatives have derivatives of any order: PyTorch's own."""
    ours, theirs = MAPS[name], THEIRS[name]
    vector = random(ROWS, CLASSES, seed=2)
    weights = random(*theirs(X).shape, seed=3)
    both = [
        list(products(lambda x, f=f: (f(x) * weights).sum(), [X], [vector])) for f in (ours, theirs)
    ]
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)
    chain_agrees(ours, X)
    third = []
    for f in (ours, theirs):
        x = leaf(X)
        found = (f(x) * weights).sum()
        for _ in range(3):
            (grad,) = torch.autograd.grad(found, x, create_graph=True)
            found = (grad * vector).sum()
        third.append(grad)
    torch.testing.assert_close(*third, rtol=1e-10, atol=1e-13)


def test_entropy_beside_its_gradient():
    """What is returned has no graph; the entropy's own derivative is that."""
    x = leaf(X)
    entropy, grad = fx.entropy(x, return_grad=True)
    assert not grad.requires_grad
    (own,) = torch.autograd.grad(entropy.sum(), x)
    torch.testing.assert_close(own, grad)
    np.testing.assert_allclose(own, reference.entropy(X.numpy(), return_grad=True)[1], rtol=1e-12)
    minus_inf = torch.tensor([[0.0, 1.0, -torch.inf]], dtype=F64, requires_grad=True)
    (first,) = torch.autograd.grad(fx.entropy(minus_inf).sum(), minus_inf, create_graph=True)
    (second,) = torch.autograd.grad(first[0, 0], minus_inf)
    assert torch.isfinite(second).all() and second[0, 2] == 0
    half = X.half().requires_grad_()
    fx.entropy(half).sum().backward()
    torch.testing.assert_close(half.grad.double(), grad, rtol=2e-3, atol=1e-4)


# --- products as functions --------------------------------------------------------------------


def test_products_are_detached():
    """Of leaves too; a vector, a target or a weight that requires grad is refused by its name."""
    target, vector = TARGETS["indices"], random(ROWS, CLASSES, seed=2)
    x = leaf(X)
    found = fx.cross_entropy_hvp(x, target, vector)
    assert type(found) is torch.Tensor and not found.requires_grad
    torch.testing.assert_close(found, fx.cross_entropy_hvp(X, target, vector), rtol=0, atol=0)
    parts = fx.linear_cross_entropy_hvp(
        x, random(5, CLASSES), target, fx.LinearGrad(vector, None, None), wrt="x"
    )
    assert type(parts) is fx.LinearGrad and not parts.x.requires_grad
    assert not fx.binary_cross_entropy_with_logits_hvp(x, X > 0, vector).requires_grad
    out = torch.empty_like(X)
    assert fx.cross_entropy_hvp(x, target, vector, out=out) is out
    for words, call in (
        ("vector must not", lambda: fx.cross_entropy_hvp(x, target, leaf(vector))),
        ("target must not", lambda: fx.cross_entropy_hvp(x, leaf(PROBS), vector)),
        ("weight must not", lambda: fx.cross_entropy_hvp(x, target, vector, weight=leaf(X[0]))),
        ("vector.x must not", lambda: fx.linear_cross_entropy_hvp(
            x, random(5, CLASSES), target, (leaf(vector), None, None))),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=words):
            call()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(X, X)
        with pytest.raises(RuntimeError, match="no third derivative"):
            fx.cross_entropy_hvp(dual, target, vector)
        with pytest.raises(TypeError, match="vector must have no tangent"):
            fx.cross_entropy_hvp(X, target, dual)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_types(kind):
    """A second derivative has the type of its input, and the numbers that this holds."""
    target, vector = TARGETS["ignored"], random(ROWS, CLASSES, seed=2).to(kind)
    for name, how in (("cross_entropy", {}), ("cross_entropy", {"z_loss": 0.1})):
        x = X.to(kind).requires_grad_()
        loss = getattr(fx, name)(x, target, **how)
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        (found,) = torch.autograd.grad(grad, x, vector)
        assert found.dtype == grad.dtype == kind
        want = reference.cross_entropy_hvp(
            x.detach().double().numpy(), target.numpy(), vector.double().numpy(), **how
        )
        eps = float(torch.finfo(kind).eps)
        np.testing.assert_allclose(found.double().numpy(), want, rtol=8 * eps, atol=4 * eps)


def test_float16_under_a_scaled_loss():
    """The factor by which AMP keeps small gradients from 0 is there before rounding."""
    x, target, factor = X.half().requires_grad_(), TARGETS["indices"], 2.0**12
    vector = random(ROWS, CLASSES, seed=2).half()
    for how in ({"normalizer": 1e6}, {"normalizer": 1e6, "z_loss": 0.1}):
        loss = fx.cross_entropy(x, target, **how) * factor
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        (found,) = torch.autograd.grad(grad, x, vector)
        want = factor * reference.cross_entropy_hvp(
            x.detach().double().numpy(), target.numpy(), vector.double().numpy(), **how
        )
        assert abs(want).max() > 1e-4
        np.testing.assert_allclose(found.double().numpy(), want, rtol=4e-3, atol=1e-7)


# --- the graph ---------------------------------------------------------------------------------


def hessian_row(x, loss, vector):
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    return torch.autograd.grad((grad * vector).sum(), x)[0]


def test_gradients_that_are_parts_of_others():
    """A gradient penalty, and a loss beside a loss: nothing is left out of their derivative."""
    functional, target = torch.nn.functional, TARGETS["indices"]
    found = []
    for loss in (fx.cross_entropy, functional.cross_entropy):
        x = leaf(X)
        value = loss(x * 2, target) ** 2 + x.square().sum()
        (grad,) = torch.autograd.grad(value, x, create_graph=True)
        (value + 3 * grad.square().sum()).backward()
        found.append(x.grad)
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-13)


def test_a_third_derivative_is_refused():
    """By every way; but what does not go through the product's input is there."""
    target = TARGETS["indices"]
    for loss in (
        lambda x: fx.cross_entropy(x, target),
        lambda x: fx.cross_entropy(x, target, reduction="none").sum(),
        lambda x: fx.binary_cross_entropy_with_logits(x, X > 0),
        lambda x: fx.categorical_cross_entropy(x.sigmoid(), target),
        lambda x: fx.linear_cross_entropy(x, random(5, CLASSES), target),
    ):
        x, vector = leaf(X), leaf(random(ROWS, CLASSES, seed=2))
        (grad,) = torch.autograd.grad(loss(x), x, create_graph=True)
        (product,) = torch.autograd.grad((grad * vector).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="no third derivative"):
            torch.autograd.grad(product.sum(), x, retain_graph=True)
        with pytest.raises(RuntimeError, match="no third derivative"):
            product.square().sum().backward(retain_graph=True)
        (by_vector,) = torch.autograd.grad(product.sum(), vector)
        torch.testing.assert_close(by_vector, hessian_row(x, loss(x), torch.ones_like(X)))


@each_reduction
def test_a_plain_backward_does_not_look_at_the_logits(reduction):
    """They may be written to after the forward pass; a second derivative then says so."""
    target = TARGETS["indices"]
    for how in ({}, {"z_loss": 0.1}):
        x = leaf(X)
        logits = x * 1
        loss = fx.cross_entropy(logits, target, reduction=reduction, **how).sum()
        want = fx.cross_entropy(X, target, reduction=reduction, return_grad=True, **how)[1]
        logits.detach().zero_()
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        torch.testing.assert_close(grad.detach(), want)
        with pytest.raises(RuntimeError, match="modified by an inplace operation: logits"):
            torch.autograd.grad(grad.sum(), x, retain_graph=True)
        loss.backward()
        torch.testing.assert_close(x.grad, want)


def test_what_else_is_written_to():
    """Tensors beside the logits are watched too, arrays and lists are copied."""
    target, weight = TARGETS["indices"].clone(), torch.ones(CLASSES, dtype=F64)
    x, vector = leaf(X), random(ROWS, CLASSES, seed=2)
    for tensor in (target, weight):
        loss = fx.cross_entropy(x, target, weight=weight)
        tensor.add_(0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            hessian_row(x, loss, vector)
    labels, weights = TARGETS["indices"].numpy().copy(), [1.0, 2.0, 3.0, 4.0]
    want = hessian_row(x, fx.cross_entropy(x, labels, weight=list(weights)), vector)
    loss = fx.cross_entropy(x, labels, weight=weights)
    labels[:], weights[:] = 0, [0.0] * CLASSES
    torch.testing.assert_close(hessian_row(x, loss, vector), want, rtol=0, atol=0)
    # Over whose gradient's buffer the logits lie: they are gone.
    logits = X.clone().requires_grad_()
    loss, _ = fx.cross_entropy(logits, TARGETS["indices"], grad_out=logits.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace operation: logits"):
        hessian_row(logits, loss, vector)
    with torch.inference_mode():
        target = TARGETS["indices"] + 0
    hessian_row(x, fx.cross_entropy(x, target), vector)


def test_a_gradient_that_was_given_away_is_not_read():
    """Whatever its receiver writes to it, before or after another backward."""
    target, vector = TARGETS["indices"], random(ROWS, CLASSES, seed=2)
    for how in ({}, {"z_loss": 0.1}):
        x = leaf(X)
        want = torch.tensor(
            reference.cross_entropy_hvp(X.numpy(), target.numpy(), vector.numpy(), **how)
        )
        loss = fx.cross_entropy(x, target, **how)
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        (second,) = torch.autograd.grad(loss, x, retain_graph=True)
        loss.backward()  # which may give away what is saved
        second.fill_(7), x.grad.fill_(7), first.detach().fill_(7)
        (found,) = torch.autograd.grad((first * vector).sum(), x)
        torch.testing.assert_close(found, want)


def test_graphs_that_are_not_kept():
    """create_graph without retain_graph: the gradient of the gradient is all there."""
    target, vector = TARGETS["indices"], random(ROWS, CLASSES, seed=2)
    x = leaf(X)
    loss = fx.cross_entropy(x, target)
    (grad,) = torch.autograd.grad(loss, x, create_graph=True, retain_graph=False)
    grad_before = grad.detach().clone()
    want = reference.cross_entropy_hvp(X.numpy(), target.numpy(), vector.numpy())
    for _ in range(2):
        (found,) = torch.autograd.grad(grad, x, vector, retain_graph=True)
        np.testing.assert_allclose(found.numpy(), want, rtol=1e-12, atol=1e-15)
        found.fill_(7)
    torch.testing.assert_close(grad.detach(), grad_before)


def test_hooks_see_what_is_saved():
    """By hooks that pack, the gradient alone; a second derivative works through them."""
    target, vector, seen = TARGETS["indices"], random(ROWS, CLASSES, seed=2), []

    def pack(tensor):
        seen.append(tensor.shape)
        return tensor.clone()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        x = leaf(X)
        loss = fx.cross_entropy(x, target)
        assert seen == [X.shape]
        found = hessian_row(x, loss, vector)
    want = reference.cross_entropy_hvp(X.numpy(), target.numpy(), vector.numpy())
    np.testing.assert_allclose(found.numpy(), want, rtol=1e-12, atol=1e-15)


def test_a_plain_backward_computes_and_allocates_nothing_more(monkeypatch):
    """Not one call of a kernel, and the gradient is the very array that was saved."""
    x = leaf(X)
    loss = fx.cross_entropy(x, TARGETS["indices"], z_loss=0.1)
    saved = loss.grad_fn.saved_tensors[0].data_ptr()
    from fastxent.arrays.torch import second

    def refuse(*_):
        raise AssertionError("a node was applied")

    for node in (second.Gradient, second.Product, second.Slope, second.Loss):
        monkeypatch.setattr(node, "apply", refuse)
    (grad,) = torch.autograd.grad(loss, x)
    assert grad.data_ptr() == saved


# --- what is kept alive ------------------------------------------------------------------------


def alive_after(loss_of, shape=(512, 1024), kind=torch.float32):
    """Whether logits that a program has let go are still in memory: before and after backward."""
    x = torch.ones(shape, dtype=kind, requires_grad=True)
    logits = x * 2
    storage, loss = logits.untyped_storage()._weak_ref(), loss_of(logits)
    del logits
    gc.collect()
    before = not torch.UntypedStorage._expired(storage)
    loss.backward()
    gc.collect()
    after = not torch.UntypedStorage._expired(storage)
    torch.UntypedStorage._free_weak_ref(storage)
    return before, after


def test_logits_that_are_freed():
    """With class indices alone nothing is kept; else the logits are, until backward."""
    labels = torch.arange(512) % 1024
    weight = torch.ones(1024)
    soft = torch.full((512, 1024), 1 / 1024)
    for how, target, kept in (
        ({}, labels, False),
        ({"weight": weight, "ignore_index": 3}, labels, False),
        ({"label_smoothing": 0.1}, labels, True),
        ({"z_loss": 0.1}, labels, True),
        ({"softcap": 30.0}, labels, True),
        ({}, soft, True),
    ):
        found = alive_after(lambda x, how=how, y=target: fx.cross_entropy(x, y, **how))
        assert found == (kept, False), how
    found = alive_after(lambda x: fx.cross_entropy(x, labels), kind=torch.bfloat16)
    assert found == (True, False)


@each_reduction
def test_second_derivatives_of_logits_that_were_freed(reduction, monkeypatch):
    """By the gradient that is held: the numbers of those by the logits."""
    from fastxent.arrays.torch import rebuilt_logits

    monkeypatch.setattr(rebuilt_logits, "LEAST", 0)
    u, w = OPTIONS["sample_weight"]["sample_weight"], OPTIONS["weight"]["weight"]
    for how in (
        {}, {"weight": w}, {"sample_weight": u}, {"weight": w, "sample_weight": u},
        {"ignore_index": 3}, {"normalizer": 2.5},
    ):  # fmt: skip
        if "normalizer" in how and reduction != "mean":
            continue
        for axis, labels in ((1, [1, 0, 3]), (0, [1, 0, 2, 2])):
            if axis == 0 and len(how):
                continue
            target, how = torch.tensor(labels), how | {"reduction": reduction, "axis": axis}
            vector = random(ROWS, CLASSES, seed=2)
            want = reference.cross_entropy_hvp(
                X.numpy(), target.numpy(), vector.numpy(), **as_numpy(how)
            )

            def loss(x, how=how, target=target):
                return fx.cross_entropy(x * 1, target, **how)

            for found in (*itertools.islice(products(loss, [X], [vector]), 1),):
                np.testing.assert_allclose(found[0].numpy(), want, rtol=1e-10, atol=1e-13)
            chain_agrees(loss, X)
    logits = X.clone()
    logits[0, 2] = -torch.inf
    logits[1] = torch.tensor([50.0, 0.0, 0.0, 0.0])  # a confident row
    x = leaf(logits)
    found = hessian_row(x, fx.cross_entropy(x * 1, torch.tensor([1, 0, 3])), vector)
    want = reference.cross_entropy_hvp(logits.numpy(), np.array([1, 0, 3]), vector.numpy())
    np.testing.assert_allclose(found.numpy(), want, rtol=1e-12, atol=1e-30)
    with pytest.raises(RuntimeError, match="no third derivative"):
        (grad,) = torch.autograd.grad(loss(x).sum(), x, create_graph=True)
        (product,) = torch.autograd.grad((grad * vector).sum(), x, create_graph=True)
        product.sum().backward()


@pytest.mark.parametrize("vectorize", [False, True])
def test_hessian(vectorize):
    """torch.autograd.functional's, by row and with a batch of vectors at once."""
    target = TARGETS["ignored"]
    for loss in (
        lambda x: fx.cross_entropy(x, target, z_loss=0.1),
        lambda x: fx.cross_entropy(x, target, reduction="none").sum(),
        lambda x: fx.linear_cross_entropy(x, random(5, CLASSES), target, reduction="none").sum(),
        lambda x: fx.binary_cross_entropy_with_logits(x, X > 0),
    ):
        found = torch.autograd.functional.hessian(loss, X, vectorize=vectorize)
        for k, j in itertools.product(range(ROWS), range(CLASSES)):
            unit = torch.zeros_like(X)
            unit[k, j] = 1
            torch.testing.assert_close(found[k, j], hessian_row(x := leaf(X), loss(x), unit))


def test_modules():
    """Each is as twice differentiable as the function that it calls."""
    functional = torch.nn.functional
    head = modules.LinearCrossEntropyLoss(CLASSES, 5, bias=True, dtype=F64)
    for ours, theirs, target in (
        (modules.CrossEntropyLoss(label_smoothing=0.1),
         torch.nn.CrossEntropyLoss(label_smoothing=0.1), TARGETS["ignored"]),
        (modules.BCEWithLogitsLoss(), torch.nn.BCEWithLogitsLoss(), (X > 0).double()),
        (head, lambda x, y: functional.cross_entropy(head.linear(x), y), TARGETS["ignored"]),
    ):  # fmt: skip
        vector = random(ROWS, CLASSES, seed=2)
        found = [
            list(products(lambda x, f=f, y=target: f(x, y), [X], [vector])) for f in (ours, theirs)
        ]
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)
    x, parameters = leaf(X), list(head.parameters())
    found = []
    for loss in (head, lambda x, y: functional.cross_entropy(head.linear(x), y)):
        grads = torch.autograd.grad(loss(x, TARGETS["ignored"]), parameters, create_graph=True)
        penalty = sum(grad.square().sum() for grad in grads)
        found.append(torch.autograd.grad(penalty, parameters))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-13)
