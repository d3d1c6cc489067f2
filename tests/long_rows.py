"""Long rows of equal logits but one or two, in which a plain sum of the equal terms would drift.

A float sum made in one chain of additions is off by up to an eighth of an ulp a term, at worst,
where all terms are equal. Which terms are the worst depends on the length of the chain, so they
are searched. Of each function there is a case, for any backend.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from conftest import Bounds, normal, worst

from fastxent import reference

HALF_ULP = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
SAMPLES = 2000  # the constants among which the worst are searched


class Setup(NamedTuple):
    """How cases are run: on rows of `n_classes` of a type, computed in another.

    call(name, *args, **options) runs a public function and returns NumPy arrays; `bounds` makes
    the bounds of a backend. `chains` are numbers of terms, for each of which a row drifts the most;
    a term of these chains is a sum of `at_once` equal ones. `maxima` are the classes of the largest
    logit.
    """

    call: Callable[..., Any]
    bounds: type[Bounds]
    own: Any
    compute: Any
    n_classes: int
    chains: tuple[int, ...]
    at_once: int = 1
    maxima: tuple[int, ...] = (1,)

    @property
    def log_c(self) -> float:
        """The constant part of most bounds, in ulp."""
        return 4 + np.log(self.n_classes) / 2


def chain(terms: np.ndarray, length: int) -> np.ndarray:
    """Of each of the terms the sum of `length` equal ones, made in one chain."""
    total = np.zeros_like(terms)
    for _ in range(length):
        total = total + terms
    return total


def searched(setup: Setup, values: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """The values whose terms drift the most, one for each chain."""
    sums = chain(terms, setup.at_once)
    picks = [
        int(np.abs(chain(sums, length) / (length * wide(sums)) - 1).argmax())
        for length in setup.chains
    ]
    return values[picks]


def some_depths(setup: Setup, low: float, high: float) -> np.ndarray:
    """Numbers of the type of the rows."""
    depths = np.random.default_rng(7).uniform(low, high, SAMPLES).astype(setup.own)
    return np.unique(depths.astype(setup.compute))


def logits_below(setup: Setup, low: float, high: float, factor: float = 0.0) -> np.ndarray:
    """Rows of -d but for 0 at the maxima, a row a chain: the worst d between the two numbers.

    The terms are exp(-d); for another factor than 0 they are d times that.
    """
    d = some_depths(setup, low, high)
    terms = d * setup.compute(factor) if factor else np.exp(-d)
    x = np.repeat(-searched(setup, d, terms)[:, None], setup.n_classes, 1)
    x[:, setup.maxima] = 0
    return x.astype(setup.own)


def share(setup: Setup, got: Any, want: Any, bound: Any, of_terms: Any = None) -> float:
    """The largest error as a share of its bound, relative or of the sum of absolute terms."""
    got, size = np.asarray(got), np.abs(want if of_terms is None else of_terms)
    allowed = bound * size
    if got.dtype != setup.compute:  # half precision is rounded once
        allowed = allowed + HALF_ULP[got.dtype.name] * (np.abs(want) + allowed)
    where = normal(size, got.dtype if got.dtype == setup.compute else np.float16)
    size = np.where(want == 0, 1, np.abs(want))
    return worst(got, want, allowed / size, where & (want != 0))


def wide(values: np.ndarray) -> np.ndarray:
    """The same numbers in longdouble."""
    return values.astype(np.longdouble)


# --- cases: each yields what `share` compares -----------------------------------------------


def softmax(setup):
    """Probabilities, of a maximum that does not dominate."""
    x = logits_below(setup, 0.5, 6)
    z = wide(x)
    yield setup.call("softmax", x), reference.softmax(z), setup.bounds(z, setup.compute).probs()


def log_softmax(setup):
    """Its logarithm, where the largest probability is about a half."""
    x = logits_below(setup, *near_half(setup))
    z = wide(x)
    bound = setup.bounds(z, setup.compute).log_probs()
    yield setup.call("log_softmax", x), reference.log_softmax(z), bound


def logsumexp(setup):
    """Relative to log s, which is small, as the maximum is 0."""
    x = logits_below(setup, *near_half(setup))
    z = wide(x)
    bound = setup.bounds(z, setup.compute).lse()
    yield setup.call("logsumexp", x), reference.logsumexp(z), bound


def near_half(setup):
    """Depths d for which the other classes have together about what the maximum has."""
    d = np.log(setup.n_classes)
    return d - 0.7, d + 0.2


def gradient(setup):
    """Of the maximum, where another class is the target, and of all others."""
    x = logits_below(setup, 0.5, 6)
    z, y = wide(x), np.full(len(x), 2)
    options = {"reduction": "sum", "return_grad": True}
    got = setup.call("cross_entropy", x, y, **options)[1]
    bound = setup.bounds(z, setup.compute).probs()
    bound[:, 2] += 4 * np.finfo(setup.compute).eps  # the target has 8, the others 4
    yield got, reference.cross_entropy(z, y, **options)[1], bound


def small_loss(setup):
    """Of a target that has about half of all."""
    x = logits_below(setup, *near_half(setup))
    z, y = wide(x), np.ones(len(x), int)
    got = setup.call("cross_entropy", x, y, reduction="none")
    bound = setup.bounds(z, setup.compute).log_probs()[:, 1]
    yield got, reference.cross_entropy(z, y, reduction="none"), bound


def outputs(setup):
    """Loss, gradient, probabilities, lse and entropy, in one call."""
    x = logits_below(setup, *near_half(setup))
    z, y = wide(x), np.ones(len(x), int)
    names = "grad", "probs", "lse", "entropy"
    options = {"reduction": "none", **{f"return_{name}": True for name in names}}
    got = setup.call("cross_entropy", x, y, **options)
    want = reference.cross_entropy(z, y, **options)
    bounds = setup.bounds(z, setup.compute)
    log_probs = bounds.log_probs()
    grad = bounds.probs()
    grad[:, 1] = bounds.grad_at_target()[:, 1]
    of = log_probs[:, 1], grad, bounds.probs(), bounds.lse(), log_probs.max(-1)
    yield from zip(got, want, of, strict=True)


def entropy(setup):
    """And its gradient, relative to p_j·(|log p_j| + H)."""
    x = logits_below(setup, *near_half(setup))
    z = wide(x)
    got, grad = setup.call("entropy", x, return_grad=True)
    want, want_grad = reference.entropy(z, return_grad=True)
    bounds = setup.bounds(z, setup.compute)
    yield got, want, bounds.log_probs().max(-1)
    p = reference.softmax(z)
    terms = p * (np.abs(np.log(p)) + want[:, None])
    yield grad, want_grad, bounds.probs() + bounds.log_probs().max(-1)[:, None], terms


def hvp(setup):
    """Of a vector that is the same for all classes but the maximum."""
    x = logits_below(setup, *near_half(setup))
    z, y = wide(x), np.full(len(x), 2)
    v = np.full(x.shape, 0.7).astype(setup.own)
    v[:, 1] = -0.3
    got = setup.call("cross_entropy_hvp", x, y, v, reduction="sum")
    want = reference.cross_entropy_hvp(z, y, wide(v), reduction="sum")
    p, u, bounds = (
        reference.softmax(z),
        np.abs(wide(v) - wide(v[:, 1:2])),
        setup.bounds(z, setup.compute),
    )
    terms = p * (u + (p * u).sum(-1, keepdims=True))
    yield got, want, bounds.probs() + bounds.probs().max(-1, keepdims=True), terms


def hvp_with_z_loss(setup):
    """Likewise, with Σ p_j·v_j besides."""
    x = logits_below(setup, *near_half(setup))
    z, y, options = wide(x), np.full(len(x), 2), {"reduction": "sum", "z_loss": 0.1}
    v = np.full(x.shape, 0.7).astype(setup.own)
    got = setup.call("cross_entropy_hvp", x, y, v, **options)
    want = reference.cross_entropy_hvp(z, y, wide(v), **options)
    p, bounds = reference.softmax(z), setup.bounds(z, setup.compute)
    terms = p * 0.2 * (p * np.abs(wide(v))).sum(-1, keepdims=True)
    yield got, want, 2 * bounds.probs() + bounds.probs().max(-1, keepdims=True), terms


def soft_totals(setup):
    """Σ a_j of equal probabilities, which are not normalised."""
    q = np.random.default_rng(1).uniform(1, 2, SAMPLES).astype(setup.own)
    q = searched(setup, q, q)[:, None] / setup.own(setup.n_classes)
    yield from of_equal_logits(setup, np.repeat(q, setup.n_classes, 1))


def of_equal_logits(setup, target, **options):
    """Loss and gradient of rows of zeros."""
    ulp = np.finfo(setup.compute).eps
    x = np.zeros((len(target), setup.n_classes), setup.own)
    options = options | {"reduction": "none", "return_grad": True}
    exact = {k: wide(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    got, grad = setup.call("cross_entropy", x, target, **options)
    soft = target.ndim == 2
    want, want_grad = reference.cross_entropy(wide(x), wide(target) if soft else target, **exact)
    total = want / np.log(np.longdouble(setup.n_classes))  # Σ a_j, as all logits are equal
    yield got, want, (setup.log_c + 1) * ulp
    terms = np.repeat(2 * total[:, None] / setup.n_classes, setup.n_classes, 1)
    yield grad, want_grad, (setup.log_c + 3) * ulp, terms


def weight_totals(setup):
    """Σ a_j of smoothing, where all class weights are equal: a call each."""
    w = np.random.default_rng(1).uniform(1, 2, SAMPLES).astype(setup.compute)
    terms = w * setup.compute(1 / setup.n_classes)
    for weight in searched(setup, w, terms):
        weights = np.full(setup.n_classes, weight)
        yield from of_equal_logits(setup, np.zeros(1, int), weight=weights, label_smoothing=1.0)


def soft_depths(setup):
    """Σ a_j·(m - x_j) of equal probabilities."""
    for low, high in ((0.5, 2), (14, 20)):
        x = logits_below(setup, low, high, 1 / setup.n_classes)
        q = np.full(x.shape, 1 / setup.n_classes).astype(setup.own)
        z = wide(x)
        got = setup.call("cross_entropy", x, q, reduction="none")
        bound = setup.bounds(z, setup.compute).log_probs().max(-1) + np.finfo(setup.compute).eps
        yield got, reference.cross_entropy(z, wide(q), reduction="none"), bound


def smooth_depths(setup):
    """The same sum of smoothing."""
    for low, high in ((0.5, 2), (14, 20)):
        x = logits_below(setup, low, high, 1 / setup.n_classes)
        z, y, options = wide(x), np.ones(len(x), int), {"reduction": "none", "label_smoothing": 1.0}
        got = setup.call("cross_entropy", x, y, **options)
        bound = setup.bounds(z, setup.compute).log_probs().max(-1) + np.finfo(setup.compute).eps
        yield got, reference.cross_entropy(z, y, **options), bound


def categorical(setup):
    """Σ q_j·(-log p_j) of equal probabilities of both kinds."""
    p = np.random.default_rng(3).uniform(0.01, 0.9, SAMPLES).astype(setup.own)
    q = setup.own(1 / setup.n_classes)
    terms = setup.compute(q) * -np.log(p.astype(setup.compute))
    rows = np.repeat(searched(setup, p, terms)[:, None], setup.n_classes, 1)
    target = np.full(rows.shape, q)
    got = setup.call("categorical_cross_entropy", rows, target, reduction="none")
    want = reference.categorical_cross_entropy(wide(rows), wide(target), reduction="none")
    yield got, want, setup.log_c * np.finfo(setup.compute).eps


CASES = {
    case.__name__: case
    for case in (
        softmax, log_softmax, logsumexp, gradient, small_loss, outputs, entropy, hvp,
        hvp_with_z_loss, soft_totals, weight_totals, soft_depths, smooth_depths, categorical,
    )
}  # fmt: skip


def largest_share(case: str, setup: Setup) -> float:
    """The largest error of a case as a share of its bound; at most 1 if all bounds hold."""
    return max(share(setup, *compared) for compared in CASES[case](setup))
