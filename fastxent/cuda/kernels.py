"""The cross-entropy kernel: loss, gradient and more of rows of logits.

A new option or output needs an edit of this file, and of `loss_terms` for its formula: launches
pass options (`options_of`) and outputs by the names that the kernel's parameters have, and compile
it for what a call requests (`Wants`). Kernels that share a row among blocks are not used for other
options and outputs than those that they support.
"""

import functools
import math
from typing import Any, NamedTuple

from numba import cuda, int32, int64, uint64

from fastxent.cuda.elements import device, make_product, number_type
from fastxent.cuda.groups import add, make_reduction
from fastxent.cuda.intrinsics import store_i64
from fastxent.cuda.loss_terms import (
    CELLS,
    RowSums,
    hess_terms,
    loss_value,
    make_element_formulas,
    make_gradient_terms,
    make_row_coefficients,
    make_shared_sums,
)
from fastxent.cuda.parameters import Address, Factor, Integer, Inverse, Labels, Number, Rows
from fastxent.cuda.rows import make_row, make_split_sum
from fastxent.cuda.scans import Pair, make_sums, make_writer
from fastxent.cuda.sharing import make_sharing
from fastxent.cuda.softmax_kernels import SLOTS, make_depth_sum, make_first_top, make_lse
from fastxent.cuda.targets import (
    CheckedTarget,
    CoefficientTerms,
    make_check_target,
    make_coefficient,
    make_inverse,
)
from fastxent.formulas import log_sum
from fastxent.options import Options
from fastxent.results import RULES, Extent, Outputs

# The outputs with a value for each class, as Rows; and those with one for each row.
PER_CLASS = tuple(n for n, r in RULES.items() if r and r.extent is Extent.PER_CLASS)
PER_ROW = tuple(n for n, r in RULES.items() if r and r.extent is not Extent.PER_CLASS)
_NEED_TOP = ("lse", "argmax", "hess")


class Wants(NamedTuple):
    """What a call needs besides the loss of labels; the rest is pruned from its kernel.

    `soft`: targets are probabilities; `all_classes`: coefficients a_j of all classes, for soft
    targets and label smoothing; `scaled`: a scale of the logits; `top`: the index of the largest
    logit, for lse, argmax, the Hessian and soft targets. Then the requested outputs per class, and
    the entropy.
    """

    soft: bool = False
    all_classes: bool = False
    scaled: bool = False
    top: bool = False
    grad: bool = True
    probs: bool = False
    hess: bool = False
    entropy: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is the loss of labels, with or without its gradient."""
        return self._replace(grad=True) == Wants()


def options_of(options: Options, n_classes: int) -> dict[str, Any]:
    """The options of the row loss by the names of the kernel's parameters.

    The kernel takes a positive logit_scale; its sign, 0 and a softcap change the logits before.
    """
    return {
        "one_minus_eps": 1.0 - options.label_smoothing,
        "eps_over_c": options.label_smoothing / n_classes,
        "z_loss": options.z_loss,
        "factor": Factor.of(
            1.0 if options.softcap is not None else abs(options.logit_scale) or 1.0
        ),
    }


def wants_of(soft: bool, options: dict[str, Any], outputs: Outputs) -> Wants:
    """What the kernel of a call is compiled for."""
    all_classes, scaled = soft or options["eps_over_c"] != 0.0, options["factor"].value != 1.0
    return _wants(soft, all_classes, scaled, tuple([array is not None for array in outputs]))


@functools.cache
def _wants(soft: bool, all_classes: bool, scaled: bool, is_requested: tuple[bool, ...]) -> Wants:
    requested = {name for name, wanted in zip(Outputs._fields, is_requested, strict=True) if wanted}
    top = soft or not requested.isdisjoint(_NEED_TOP)
    pruned = {name: name in requested for name in (*PER_CLASS, "entropy")}
    return Wants(soft, all_classes, scaled, top, **pruned)


def make_cross_entropy_kernel(element, plan, wants):
    """Cross-entropy of rows of logits, and what a call wants with it."""
    soft, all_classes, scaled, with_top, with_grad, with_probs, with_hess, with_entropy = wants
    reads_all = with_top or with_probs or with_entropy
    row, times, n_keys = make_row(element, plan, scaled), make_product(scaled), plan.slot
    compute, load, n_shared = element.compute, element.load, SLOTS * n_keys
    read, row_maximum, exp_sums = row.read, row.row_maximum, row.exp_sums
    position, row_at, class_at, from_class = row.position, row.row_at, row.class_at, row.from_class
    n_words, word, number = row.n_words, row.word, number_type(element)
    sharing, cluster, n_cells = make_sharing(element, plan), plan.cluster, CELLS * plan.cluster
    arrive, place, shared_top = sharing.arrive, sharing.place, sharing.first_top
    shared_sums = make_shared_sums(sharing, wants)
    store_number, number_size = number.store, number.size
    first_top, lse_of = make_first_top(element, row), make_lse(compute)
    check_target, inverse_of = make_check_target(element, soft), make_inverse(element)
    row_coefficients = make_row_coefficients(element, wants, class_at)
    gradient_terms = make_gradient_terms(element)
    total, split_sum = make_reduction(add, plan), make_split_sum(element, scaled)
    depth_sum, zero, one = make_depth_sum(element, row, scaled), compute(0), compute(1)
    formulas = make_element_formulas(element, wants, make_coefficient(element, soft))
    other_terms, grad_formula, probs_formula, hess_formula = formulas
    sums_of_others = make_sums(element, plan, other_terms, paired=soft)
    write_grad = make_writer(element, plan, grad_formula, paired=soft)
    write_probs, write_hess = row.make_writer(probs_formula), row.make_writer(hess_formula)

    @device
    def row_sums(buffer, beside, pair, thread, part, args, shared, cells):
        """The RowSums of a row; after it threads may write."""
        line, (m, streamed_part, factor, terms) = pair.line, args
        below_a, a_sum, depths = zero, zero, zero
        if all_classes:
            below_a, a_sum = sums_of_others(buffer, beside, pair, thread, (m, factor, terms))
            below_a, a_sum = total(below_a, shared, 4), total(a_sum, shared, 5)
        if with_entropy:
            depths = depth_sum(buffer, line, thread, m, factor, shared, 6)
        below, count = exp_sums(buffer, line, m, streamed_part, factor, shared)
        sums = RowSums(below, count, below_a, a_sum, depths)
        return shared_sums(cells, part, thread, sums)

    @device
    def own_part(terms, first):
        """The terms of the classes from the first of a part on."""
        w, q = terms.class_weight, from_class(terms.probs, first)
        if cluster > 1:
            w = w + uint64(first) * uint64(number_size) if w else w
        own_y = int32(int64(terms.y) - first)
        return CoefficientTerms(w, q, terms.one_minus_eps, terms.eps_over_c, own_y)

    @device
    def put(out, i, value):
        """One number of a row, if it is requested."""
        if out:
            store_number(out + i * uint64(number_size), value)

    @device
    def put_top(argmax, i, top):
        """The index of the largest logit, without the mark of nan."""
        if argmax:
            store_i64(argmax + i * uint64(8), int64(top & int32(0x7FFFFFFF)))

    @device
    def put_entropy(out, i, others, mean):
        """H = log s + Σ p_j·(m - x_j)."""
        if with_entropy:
            put(out, i, math.log1p(others) + mean)

    # x (N, C) IN; labels (N,), or target_probs (N, C) for soft targets, IN; class_weight (C,),
    # sample_weight (N,) IN or 0; length: of a part of a row; loss, lse, argmax, entropy (N,) OUT or
    # 0; grad, probs, hess (N, C) OUT or 0
    def kernel(
        x: Rows, labels: Labels, target_probs: Rows, class_weight: Address, sample_weight: Address,
        inverse: Inverse, one_minus_eps: Number, eps_over_c: Number, z_loss: Number,
        factor: Factor, length: Integer, n_rows: Integer, n: Integer, loss: Address, lse: Address,
        argmax: Address, entropy: Address, grad: Rows, probs: Rows, hess: Rows,
    ):  # fmt: skip
        arrive()
        i, thread, part, first, elements = place(length, n_rows, n)
        at, pos, exists = uint64(i), position(x, i), i < n_rows
        shared = cuda.shared.array(n_shared, compute)
        cells = cuda.shared.array(n_cells, compute)
        tops = cuda.shared.array(cluster, int32)
        keys = cuda.shared.array(n_keys, int32)
        buffer = cuda.local.array(n_words, word)
        beside = cuda.local.array(n_words, word) if soft else buffer
        u, y, active, fill = check_target(labels, sample_weight, i, n, exists)
        scale = inverse_of(inverse)
        active = active and scale != zero  # the mean of no rows has zero gradient, and is nan
        x_row, q = row_at(x, pos), row_at(target_probs, pos)
        line = read(from_class(x_row, first), elements, thread, active or reads_all, buffer)
        q_line = read(from_class(q, first), elements, thread, active, beside) if soft else line
        own_m, streamed_part = row_maximum(buffer, line, thread, factor, shared)
        own_top = first_top(buffer, line, thread, own_m, keys) if with_top else int32(0)
        m, top = shared_top(cells, tops, part, thread, own_m, own_top, first)
        if soft:
            y = top & int32(0x7FFFFFFF) if active else int32(0)
        # All elements of x but the thread's own are read before `row_sums`: after it threads may
        # write, and grad may overlap x.
        checked = CheckedTarget(u, y, active, fill)
        terms = CoefficientTerms(class_weight, q, one_minus_eps, eps_over_c, y)
        own_terms, coefs = own_part(terms, first), row_coefficients(terms, active)
        lead = m - load(class_at(x_row, y)) if active else zero
        args_s, pair = (m, streamed_part, factor, own_terms), Pair(line, q_line)
        sums = row_sums(buffer, beside, pair, thread, part, args_s, shared, cells)
        rest, e_y, others, inverse_s = split_sum(lead, factor, sums.below, sums.count)
        log_s = log_sum(rest, e_y, one)
        row_lse = lse_of(times(m, factor), top, math.log1p(others)) if with_top or z_loss else zero
        if thread == 0 and part == 0 and exists:
            margin, other_loss = times(lead, factor), sums.below_a + sums.a * log_s
            put(loss, at, loss_value(checked, coefs, z_loss, margin, log_s, other_loss, row_lse))
            put(lse, at, row_lse)
            put_top(argmax, at, top)
            put_entropy(entropy, at, others, sums.depths * inverse_s)
        if with_probs:
            out = from_class(row_at(probs, pos), first)
            write_probs(out, buffer, line, thread, (m, factor, inverse_s))
        if with_hess:
            by, own_top = times(times(u * scale, factor), factor), int32(int64(top) - first)
            h, z_loss_coef = hess_terms(coefs, z_loss, by, sums.a, row_lse)
            args_h = (m, factor, inverse_s, others, own_top, h, z_loss_coef, active, fill)
            write_hess(from_class(row_at(hess, pos), first), buffer, line, thread, args_h)
        if with_grad:
            up = times(u * scale, factor)
            m, c, at_y = gradient_terms(
                checked, coefs, z_loss, up, m, sums.a, rest, e_y, inverse_s, row_lse
            )
            other = up * coefs.other_coef
            args_g = (m, factor, c, at_y, own_terms.y, active, fill, other, own_terms)
            out = from_class(row_at(grad, pos), first)
            write_grad(out, buffer, beside, pair, thread, args_g)

    return kernel
