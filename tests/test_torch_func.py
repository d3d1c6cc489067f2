"""torch.func: every transform of every function gives what it gives for PyTorch's own."""

import itertools

import numpy as np
import pytest

import fastxent as fx
from fastxent import reference

torch = pytest.importorskip("torch", reason="PyTorch is optional: pip install torch")
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap  # noqa: E402 - wants PyTorch

from fastxent.integrations import torch as modules  # noqa: E402

functional = torch.nn.functional
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",  # of PyTorch's own imports
    "ignore:There is a performance drop",  # of PyTorch's own loss under vmap
)

F64 = torch.float64
REDUCTIONS = ("mean", "sum", "none")
each_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def random(*shape, seed=0):
    return torch.randn(shape, dtype=F64, generator=torch.manual_seed(seed))


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


X = random(3, 4)
LABELS, WEIGHT = torch.tensor([1, -100, 3]), torch.tensor([0.5, 2.0, 0.3, 1.0], dtype=F64)
SOFT = random(3, 4, seed=1).abs()
U = torch.tensor([2.0, 0.5, 1.5], dtype=F64)
W = random(5, 4, seed=2)


def logits_of(x):
    return x @ W.T


# Ours and PyTorch's: functions of x (…, 3, 4) or of one row of it.
PAIRS = {
    "indices": (
        lambda x, how: fx.cross_entropy(x, LABELS, **how),
        lambda x, how: functional.cross_entropy(x, LABELS, **how),
    ),
    "probabilities": (
        lambda x, how: fx.cross_entropy(x, SOFT, weight=WEIGHT, label_smoothing=0.1, **how),
        lambda x, how: functional.cross_entropy(
            x, SOFT, weight=WEIGHT, label_smoothing=0.1, **how
        ),
    ),
    "weights": (
        lambda x, how: fx.cross_entropy(x, LABELS, weight=WEIGHT, label_smoothing=0.1, **how),
        lambda x, how: functional.cross_entropy(
            x, LABELS, weight=WEIGHT, label_smoothing=0.1, **how
        ),
    ),
    "binary logits": (
        lambda x, how: fx.binary_cross_entropy_with_logits(
            x, SOFT, weight=WEIGHT, pos_weight=WEIGHT, **how
        ),
        lambda x, how: functional.binary_cross_entropy_with_logits(
            x, SOFT, weight=WEIGHT, pos_weight=WEIGHT, **how
        ),
    ),
    "categorical": (
        lambda x, how: fx.categorical_cross_entropy(x.sigmoid(), LABELS, weight=WEIGHT, **how),
        lambda x, how: functional.nll_loss(x.sigmoid().log(), LABELS, WEIGHT, **how),
    ),
    "binary": (
        lambda x, how: fx.binary_cross_entropy(x.sigmoid(), SOFT, weight=WEIGHT, **how),
        lambda x, how: _reduced(
            -WEIGHT * (SOFT * x.sigmoid().log() + (1 - SOFT) * (1 - x.sigmoid()).log()), how
        ),
    ),
    "linear": (
        lambda x, how: fx.linear_cross_entropy(x, W, LABELS, **how),
        lambda x, how: functional.cross_entropy(logits_of(x), LABELS, **how),
    ),
}  # fmt: skip
each_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def _reduced(terms, how):
    reduction = how["reduction"]
    return terms if reduction == "none" else getattr(terms, reduction)()


def both(pair, reduction):
    return [lambda x, f=f: f(x, {"reduction": reduction}) for f in pair]


# --- derivatives --------------------------------------------------------------------------------


@each_reduction
@each_pair
def test_derivatives(pair, reduction):
    """First and second, in both modes and mixed."""
    tangent = random(3, 4, seed=3)
    results = []
    for f in both(pair, reduction):

        def total(x, f=f):
            return f(x).sum() ** 2  # whose gradient depends on the loss

        found = {
            "jacrev": jacrev(f)(X),
            "jacfwd": jacfwd(f)(X),
            "jvp": jvp(f, (X,), (tangent,)),
            "vjp": vjp(f, X)[1](torch.full_like(f(X), 0.7)),
            "grad": grad(total)(X),
            "hessian": hessian(total)(X),
            "reverse over reverse": jacrev(jacrev(total))(X),
            "reverse over forward": jacrev(jacfwd(total))(X),
            "forward over reverse": jvp(grad(total), (X,), (tangent,)),
            "gradient of a slope": grad(lambda x, f=f: jvp(f, (x,), (tangent,))[1].sum())(X),
        }
        if pair is not PAIRS["linear"] or reduction != "none":
            found["forward over forward"] = jacfwd(jacfwd(f))(X)
        results.append(found)
    ours, theirs = results
    for name, value in ours.items():
        close(value, theirs[name])


def test_hessian_is_the_references_matrix():
    """Column by column."""
    options = {"softcap": 2.0, "z_loss": 0.1, "logit_scale": 1.5, "label_smoothing": 0.1}
    for reduction in ("mean", "sum"):
        how = options | {"reduction": reduction}
        found = hessian(lambda x, how=how: fx.cross_entropy(x, LABELS, **how))(X)
        for k, j in itertools.product(range(3), range(4)):
            unit = np.zeros((3, 4))
            unit[k, j] = 1
            want = reference.cross_entropy_hvp(X.numpy(), LABELS.numpy(), unit, **how)
            np.testing.assert_allclose(found[:, :, k, j], want, rtol=1e-11, atol=1e-13)


MAPS = {
    "softmax": (lambda x: fx.softmax(x), lambda x: x.softmax(-1)),
    "softmax, axis": (lambda x: fx.softmax(x, axis=0), lambda x: x.softmax(0)),
    "log_softmax": (lambda x: fx.log_softmax(x), lambda x: x.log_softmax(-1)),
    "logsumexp": (lambda x: fx.logsumexp(x, axis=0), lambda x: x.logsumexp(0)),
    "logsumexp, dimensions kept": (
        lambda x: fx.logsumexp(x, keepdims=True), lambda x: x.logsumexp(-1, True)
    ),
    "entropy": (lambda x: fx.entropy(x), lambda x: torch.special.entr(x.softmax(-1)).sum(-1)),
}  # fmt: skip


@pytest.mark.parametrize("pair", MAPS.values(), ids=MAPS)
def test_maps(pair):
    """Softmax and its relatives, third derivatives too; mapped over any axis, once or twice."""
    ours, theirs = pair
    tangent, batch = random(3, 4, seed=3), random(2, 3, 4, 5, seed=4)
    for transform in (
        jacrev, jacfwd, hessian, lambda f: jacrev(hessian(f)), lambda f: jacfwd(jacrev(f)),
        lambda f: lambda x: jvp(f, (x,), (tangent,)),
    ):  # fmt: skip
        close(transform(ours)(X), transform(theirs)(X))
    for dims in (-1, (3,)):
        close(vmap(vmap(ours), dims)(batch), vmap(vmap(theirs), dims)(batch))
        sums = [lambda x, f=f: f(x).square().sum() for f in pair]
        close(*(vmap(vmap(grad(f)), dims)(batch) for f in sums))
    with pytest.raises(ValueError, match="axis must be in"):
        vmap(lambda x: fx.softmax(x, axis=2))(X[None])


# --- batches --------------------------------------------------------------------------------------


BATCH = random(6, 3, 4, seed=5)
Y = torch.tensor([[1, -100, 3], [0, 0, 2], [-100, -100, 1], [3, 2, 1], [1, 1, 1], [2, -100, 0]])
Q = random(6, 3, 4, seed=6).abs()


def one_by_one(f, *batches):
    """What vmap is to give."""
    each = [f(*arguments) for arguments in zip(*batches, strict=True)]
    if isinstance(each[0], tuple):
        return tuple(map(torch.stack, zip(*each, strict=True)))
    return torch.stack(each)


CALLS = {
    "indices": (lambda x, y, **how: fx.cross_entropy(x, y, z_loss=0.1, **how), (BATCH, Y)),
    "axis": (lambda x, y, **how: fx.cross_entropy(x.T, y, axis=0, **how), (BATCH, Y)),
    "class weights": (
        lambda x, y, **how: fx.cross_entropy(x, y, weight=WEIGHT, **how), (BATCH, Y)
    ),
    "batched class weights": (
        lambda x, y, w, **how: fx.cross_entropy(x, y, weight=w, **how),
        (BATCH, Y, random(6, 4, seed=7).abs()),
    ),
    "sample weights": (
        lambda x, y, u, **how: fx.cross_entropy(x, y, sample_weight=u, softcap=3.0, **how),
        (BATCH, Y, random(6, 3, seed=7).abs() * torch.tensor([1.0, 0.0, 2.0])),
    ),
    "shared sample weights": (
        lambda x, y, **how: fx.cross_entropy(x, y, weight=WEIGHT, sample_weight=U, **how),
        (BATCH, Y),
    ),
    "probabilities": (lambda x, q, **how: fx.cross_entropy(x, q, weight=WEIGHT, **how), (BATCH, Q)),
    "probabilities, sample weights": (
        lambda x, q, **how: fx.cross_entropy(x, q, sample_weight=U, **how), (BATCH, Q)
    ),
    "shared target": (lambda x, **how: fx.cross_entropy(x, LABELS, **how), (BATCH,)),
    "listed target": (lambda x, **how: fx.cross_entropy(x, [1, -100, 3], **how), (BATCH,)),
    "row": (
        lambda x, y, **how: fx.cross_entropy(x, y, weight=WEIGHT, **how),
        (BATCH.flatten(0, 1), Y.flatten()),
    ),
    "plain row": (lambda x, y, **how: fx.cross_entropy(x, y, **how), (BATCH[:, 0], Y[:, 0])),
    "binary logits": (
        lambda x, q, w, **how: fx.binary_cross_entropy_with_logits(
            x, q, weight=w, pos_weight=WEIGHT, **how
        ),
        (BATCH, Q, random(6, 4, seed=7).abs()),
    ),
    "binary element": (
        lambda x, q, **how: fx.binary_cross_entropy_with_logits(x, q, **how),
        (BATCH[:, 0, 0], Q[:, 0, 0]),
    ),
    "categorical": (
        lambda x, y, **how: fx.categorical_cross_entropy(x.sigmoid(), y, **how), (BATCH, Y)
    ),
    "binary": (
        lambda x, q, **how: fx.binary_cross_entropy(x.sigmoid(), q / 5, **how), (BATCH, Q)
    ),
    "linear": (lambda x, y, **how: fx.linear_cross_entropy(x, W, y, **how), (BATCH, Y)),
    "batched matrix": (
        lambda x, y, w, **how: fx.linear_cross_entropy(x, w, y, **how),
        (BATCH, Y, random(6, 5, 4, seed=7)),
    ),
}  # fmt: skip
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@each_reduction
@each_call
def test_vmap(call, reduction):
    """A batch of losses, of gradients, of slopes and of Hessians: those of each sample."""
    loss, batches = call
    tangent = random(*batches[0].shape[1:], seed=8)

    def f(*args):
        return loss(*args, reduction=reduction)

    def total(*args):
        return f(*args).sum()

    for transformed in (
        f, jacrev(f), grad(total), jacfwd(grad(total)), jacrev(grad(total)),
        lambda x, *rest: jvp(lambda x: f(x, *rest), (x,), (tangent,)),
    ):  # fmt: skip
        got, want = vmap(transformed)(*batches), one_by_one(transformed, *batches)
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12, equal_nan=True)


@each_reduction
def test_vmap_over_other_axes(reduction):
    """The batch may lie anywhere, and in more than one axis."""

    def f(x, y):
        return fx.cross_entropy(x, y, reduction=reduction)

    def total(x, y):
        return f(x, y).sum()

    x, y = BATCH.movedim(0, 2), Y.T
    close(vmap(f, (2, 1), 0)(x, y), one_by_one(f, BATCH, Y))
    close(vmap(grad(total), (2, 1))(x, y), one_by_one(grad(total), BATCH, Y))
    twice, labels = BATCH.view(2, 3, 3, 4), Y.view(2, 3, 3)
    want = one_by_one(grad(total), BATCH, Y).view(2, 3, 3, 4)
    close(vmap(vmap(grad(total)))(twice, labels), want)
    close(
        vmap(vmap(grad(total), 1), (1, 0))(twice.permute(2, 0, 1, 3), labels.transpose(1, 2)), want
    )
    # Gradients of a batch, and a batch of targets alone.
    close(grad(lambda x: vmap(total)(x, Y).sum())(BATCH), want.view(6, 3, 4))
    close(vmap(grad(total), (None, 0))(X, Y), one_by_one(lambda y: grad(total)(X, y), Y))


def test_samples_that_are_ignored():
    """Their mean is nan and their gradient 0, as in a call of their own."""
    for y in (torch.tensor([-100, 1]), torch.tensor([[-100, -100], [1, -100]])):
        x = random(*y.shape, 4)
        loss = vmap(fx.cross_entropy)(x, y)
        assert loss.isnan().tolist() == [True, False]
        found = vmap(grad(fx.cross_entropy))(x, y)
        assert not found[0].any() and found[1].any()


def test_results_beside_the_loss():
    """All of them, for each sample; nothing flows to them."""
    flags = dict.fromkeys(
        [f"return_{n}" for n in ("grad", "probs", "lse", "hess", "argmax", "entropy")], True
    )

    def call(x, y):
        return fx.cross_entropy(x, y, weight=WEIGHT, **flags)

    close(vmap(call)(BATCH, Y), one_by_one(call, BATCH, Y))
    found = grad(lambda x: sum(part.double().sum() for part in call(x, LABELS)))(X)
    close(found, fx.cross_entropy(X, LABELS, weight=WEIGHT, return_grad=True)[1])

    def linear(x, y):
        loss, parts, lse = fx.linear_cross_entropy(x, W, y, return_grad=True, return_lse=True)
        return loss, parts.x, parts.linear_weight, lse

    close(vmap(linear)(BATCH, Y), one_by_one(linear, BATCH, Y))


def test_products():
    """A batch of Hessian-vector products is one call."""
    vectors = random(6, 3, 4, seed=8)
    close(
        vmap(fx.cross_entropy_hvp)(BATCH, Y, vectors),
        one_by_one(fx.cross_entropy_hvp, BATCH, Y, vectors),
    )

    def binary(x, q, v):
        return fx.binary_cross_entropy_with_logits_hvp(x, q, v)

    close(vmap(binary)(BATCH, Q, vectors), one_by_one(binary, BATCH, Q, vectors))

    def linear(x, y, v):
        return fx.linear_cross_entropy_hvp(x, W, y, fx.LinearGrad(v, None, None))[:2]

    close(vmap(linear)(BATCH, Y, vectors), one_by_one(linear, BATCH, Y, vectors))


def test_a_gradient_that_was_given_away_is_not_read():
    """It is made once and given to the first that asks; the others get new ones."""
    _, pull = vjp(lambda x: fx.cross_entropy(x, LABELS), X)
    one, want = torch.ones((), dtype=F64), fx.cross_entropy(X, LABELS, return_grad=True)[1]
    first = pull(one)[0]
    close(first, want)
    first.fill_(7)
    close(pull(one)[0], want)
    close(pull(one * 2)[0], want * 2)
    _, pull = vjp(lambda x: vmap(fx.cross_entropy)(x, Y), BATCH)
    found = pull(torch.ones(6, dtype=F64))[0]
    found.fill_(7)
    close(pull(torch.ones(6, dtype=F64))[0], one_by_one(grad(fx.cross_entropy), BATCH, Y))


def test_constant_factors_and_tangents_of_them():
    """A factor above the loss that is 1, but that has a derivative, is not left out."""
    factor = torch.ones((), dtype=F64)

    def scaled(s, loss=fx.cross_entropy):
        return grad(lambda x: s * loss(x, LABELS))(X)

    def theirs(s):
        return scaled(s, functional.cross_entropy)

    close(jvp(scaled, (factor,), (factor,)), jvp(theirs, (factor,), (factor,)))
    close(jacrev(scaled)(factor), jacrev(theirs)(factor))


# --- what is refused ----------------------------------------------------------------------------


def test_third_derivatives():
    """They are refused at whatever level the third is."""

    def loss(x):
        return fx.cross_entropy(x, LABELS)

    tangent = random(3, 4, seed=3)

    def slope(f):
        return lambda x: jvp(f, (x,), (tangent,))[1]

    for first, second, third in itertools.product((grad, slope), repeat=3):
        f = loss
        for transform in (first, second, third):
            g = transform(f)
            f = lambda x, g=g: g(x).sum()  # noqa: E731
        with pytest.raises(RuntimeError, match="no third derivative"):
            f(X)


def test_what_has_no_derivative():
    """A target, a weight or a vector that is differentiated is refused by its name."""
    for transform in (grad, lambda f: lambda q: jvp(f, (q,), (q,))):
        for name, f, value in (
            ("target", lambda q: fx.cross_entropy(X, q), SOFT),
            ("weight", lambda w: fx.cross_entropy(X, LABELS, weight=w), WEIGHT),
            ("vector", lambda v: fx.cross_entropy_hvp(X, LABELS, v).sum(), X),
        ):
            with pytest.raises(TypeError, match=f"{name} must (not require grad|have no tangent)"):
                transform(f)(value)
            with pytest.raises(TypeError, match=f"{name} must (not require grad|have no tangent)"):
                transform(lambda v, f=f: grad(lambda x: (x * 0).sum() + f(v))(X).sum())(value)
        with pytest.raises(RuntimeError, match="no third derivative"):
            transform(lambda x: fx.cross_entropy_hvp(x, LABELS, X).sum())(X)


def test_buffers_and_wrong_arguments():
    """The words are those of an eager call."""
    with pytest.raises(ValueError, match="out must be None"):
        vmap(lambda x: fx.softmax(x, out=torch.empty(4)))(X)
    for error, words, call in (
        (IndexError, "must be a class", lambda x: fx.cross_entropy(x, torch.tensor(9))),
        (ValueError, "axis must be in", lambda x: fx.cross_entropy(x, torch.tensor(1), axis=1)),
        (ValueError, "reduction must be one of",
         lambda x: fx.cross_entropy(x, torch.tensor(1), reduction="max")),
        (TypeError, "missing 1 required positional argument", lambda x: fx.cross_entropy(x)),
    ):  # fmt: skip
        for transform in (vmap, lambda f: vmap(grad(f))):
            with pytest.raises(error, match=words):
                transform(call)(X)


# --- modules and compiled functions -------------------------------------------------------------


def test_modules():
    """Per-sample gradients of the parameters of a model, as for PyTorch's losses."""
    model = torch.nn.Linear(4, 5, dtype=F64)
    parameters = dict(model.named_parameters())
    labels = torch.tensor([1, 0, 4])
    ours, theirs = modules.CrossEntropyLoss(), torch.nn.CrossEntropyLoss()
    results = []
    for loss in (ours, theirs):

        def of_sample(parameters, x, y, loss=loss):
            out = torch.func.functional_call(model, parameters, (x[None],))
            return loss(out, y[None])

        results.append(vmap(grad(of_sample), (None, 0, 0))(parameters, X, labels))
    close(*results)
    head = modules.LinearCrossEntropyLoss(4, 5, dtype=F64)

    def of_head(parameters, x, y):
        return torch.func.functional_call(head, parameters, (x[None], y[None]))

    def plain(parameters, x, y):
        return functional.cross_entropy((x @ parameters["linear.weight"].T)[None], y[None])

    parameters = {n: p.detach() for n, p in head.named_parameters()}
    close(*(vmap(grad(f), (None, 0, 0))(parameters, X, labels) for f in (of_head, plain)))
    close(*(hessian(f)(parameters, X[0], labels[0]) for f in (of_head, plain)))


V32, X32 = random(3, 4, seed=3).float(), X.float()
CLASSES3 = torch.tensor([1, 0, 3])
PROGRAMS = {
    "grad": lambda f: grad(lambda x: f(x, CLASSES3)),
    "grad and value": lambda f: torch.func.grad_and_value(lambda x: f(x, CLASSES3)),
    "vmap": lambda f: lambda x: vmap(f)(x, CLASSES3),
    "per-sample gradients": lambda f: lambda x: vmap(grad(f))(x, CLASSES3),
    "vjp": lambda f: lambda x: vjp(lambda x: f(x, CLASSES3), x)[1](torch.ones(())),
    "jvp": lambda f: lambda x: jvp(lambda x: f(x, CLASSES3), (x,), (V32,)),
    "jacrev": lambda f: lambda x: jacrev(lambda x: f(x, CLASSES3))(x),
    "jacfwd": lambda f: lambda x: jacfwd(lambda x: f(x, CLASSES3))(x),
    "hessian": lambda f: lambda x: hessian(lambda x: f(x, CLASSES3))(x),
    "forward over reverse": lambda f: lambda x: jvp(grad(lambda x: f(x, CLASSES3)), (x,), (V32,)),
    "reverse over reverse": lambda f: grad(
        lambda x: grad(lambda x: f(x, CLASSES3))(x).square().sum()
    ),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_compiled_functions(name, backend):
    """In one graph, wherever that works for PyTorch's own loss: the table is `PROGRAMS`."""
    outcomes = []
    for loss in (functional.cross_entropy, fx.cross_entropy):
        torch._dynamo.reset()
        program = PROGRAMS[name](loss)
        try:
            found = torch.compile(program, backend=backend, fullgraph=True)(X32)
        except Exception as error:
            outcomes.append(type(error))
        else:
            torch.testing.assert_close(found, program(X32))
            outcomes.append("works")
    theirs, ours = outcomes
    assert ours == "works" or theirs != "works", outcomes
    if theirs == "works":
        torch.testing.assert_close(found, PROGRAMS[name](functional.cross_entropy)(X32))
