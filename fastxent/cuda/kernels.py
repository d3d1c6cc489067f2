"""The cross-entropy kernel: loss, gradient and more of rows of logits.

A new option or output needs an edit of this file alone: launches pass options (`options_of`) and
outputs by the names that the kernel's parameters have, and compile it for what a call requests
(`Wants`). The kernels of shared rows are not taken for what they do not know.
"""

import functools
import math
from typing import Any, NamedTuple

from numba import cuda, int32, int64, uint64

from fastxent.cuda.elements import device, number_type, zero_where_zero
from fastxent.cuda.groups import add, add_pairs, make_reduction
from fastxent.cuda.intrinsics import store_i64
from fastxent.cuda.parameters import Address, Integer, Inverse, Labels, Number, Rows
from fastxent.cuda.rows import make_row, make_split_sum
from fastxent.cuda.softmax_kernels import SLOTS, make_depth_sum, make_first_top, make_lse
from fastxent.cuda.targets import (
    CheckedTarget,
    CoefficientTerms,
    make_check_target,
    make_class_weight,
    make_coefficient,
    make_inverse,
)
from fastxent.formulas import (
    coefficient,
    grad_at_target,
    grad_element,
    grad_scale,
    hess_with_z_loss,
    log_sum,
    loss_element,
    prob_coefficient,
    row_loss,
)
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


def options_of(options: Options, n_classes: int) -> dict[str, float]:
    """The options of the row loss by the names of the kernel's parameters.

    The kernel takes a positive logit_scale; its sign, 0 and a softcap change the logits before.
    """
    return {
        "one_minus_eps": 1.0 - options.label_smoothing,
        "eps_over_c": options.label_smoothing / n_classes,
        "z_loss": options.z_loss,
        "factor": 1.0 if options.softcap is not None else abs(options.logit_scale) or 1.0,
    }


def wants_of(soft: bool, options: dict[str, float], outputs: Outputs) -> Wants:
    """What the kernel of a call is compiled for."""
    all_classes, scaled = soft or options["eps_over_c"] != 0.0, options["factor"] != 1.0
    return _wants(soft, all_classes, scaled, tuple([array is not None for array in outputs]))


@functools.cache
def _wants(soft: bool, all_classes: bool, scaled: bool, is_requested: tuple[bool, ...]) -> Wants:
    requested = {name for name, wanted in zip(Outputs._fields, is_requested, strict=True) if wanted}
    top = soft or not requested.isdisjoint(_NEED_TOP)
    pruned = {name: name in requested for name in (*PER_CLASS, "entropy")}
    return Wants(soft, all_classes, scaled, top, **pruned)


class Coefficients(NamedTuple):
    """The coefficients of a row as in `formulas`, and the class weight of y."""

    target_coef: Any
    other_coef: Any
    a_y: Any
    w_y: Any


def make_row_coefficients(element, wants, class_at):
    """row_coefficients(terms): the Coefficients of a row."""
    load, soft, all_classes = element.load, wants.soft, wants.all_classes
    class_weight_of, zero, one = make_class_weight(element), element.compute(0), element.compute(1)

    @device
    def row_coefficients(terms):
        w_y = class_weight_of(terms.class_weight, terms.y)
        if soft:
            q_y = load(class_at(terms.probs, terms.y))
            a_y = coefficient(q_y, w_y, terms.one_minus_eps, terms.eps_over_c, zero_where_zero)
            return Coefficients(a_y, one, zero, w_y)
        other_coef = terms.eps_over_c if all_classes else zero
        return Coefficients(terms.one_minus_eps * w_y, other_coef, w_y, w_y)

    return row_coefficients


@device
def loss_value(checked, coefs, z_loss, margin, log_s, other_loss, lse):
    """The loss of a row, from its numbers."""
    value = row_loss(
        coefs.target_coef, coefs.other_coef, z_loss, margin, log_s, other_loss, lse,
        zero_where_zero,
    )  # fmt: skip
    return checked.u * value if checked.active else checked.fill


def make_gradient_terms(element):
    """gradient_terms(...): (m, scale, at_y) of a row's gradient, exp(x_j - m)·scale for j ≠ y."""
    zero = element.compute(0)

    @device
    def gradient_terms(checked, coefs, z_loss, up, m, a_sum, rest, e_y, inverse_s, lse):
        prob_coef = prob_coefficient(coefs.other_coef, a_sum, z_loss, lse)
        at_y = up * grad_at_target(
            coefs.target_coef, prob_coef, coefs.other_coef, coefs.a_y, rest, e_y, inverse_s
        )
        scale = grad_scale(up, coefs.target_coef, prob_coef, inverse_s)
        # The elements of an inactive row are -inf, as they were not read: exp(-inf - 0)·fill is 0
        # or nan.
        if not checked.active:
            m, scale, at_y = zero, checked.fill, checked.fill
        return m, scale, at_y

    return gradient_terms


@device
def hess_terms(coefs, z_loss, by, a_sum, lse):
    """`factor` and `pull` of `formulas.hess_with_z_loss`, multiplied by `by`."""
    prob_coef = prob_coefficient(coefs.other_coef, a_sum, z_loss, lse)
    return by * (coefs.target_coef + prob_coef), by * (z_loss + z_loss)


def make_element_formulas(element, wants, coefficient_of):
    """The formulas of an element of each output per class, and the terms of Σ a_j·(m - x_j)."""
    exp, one, all_classes = element.exp, element.compute(1), wants.all_classes
    # Rows that are inactive are read for these; without them they are as rows of -inf.
    reads_all = wants.top or wants.probs or wants.entropy

    @device
    def other_terms(x, column, args):
        """a_j·(m - x_j) and a_j."""
        m, factor, terms = args
        a = coefficient_of(column, terms)
        return loss_element(a, (m - x) * factor, zero_where_zero), a

    @device
    def grad(x, column, args):
        """∂L/∂x_j."""
        m, factor, scale, at_y, y, active, fill, other, terms = args
        e_j = exp((x - m) * factor)
        if all_classes:
            g = grad_element(e_j, scale, coefficient_of(column, terms), other)
        else:
            g = e_j * scale
        g = at_y if column == y else g
        return fill if (reads_all or all_classes) and not active else g

    @device
    def probs(x, column, args):
        """p_j."""
        m, factor, inverse_s = args
        return exp((x - m) * factor) * inverse_s

    @device
    def hess(x, column, args):
        """∂²L/∂x_j², where 1 - p of the largest is the sum of the others."""
        m, factor, inverse_s, others, top, scale, pull, active, fill = args
        p = exp((x - m) * factor) * inverse_s
        one_minus_p = others * inverse_s if column == top else one - p
        return hess_with_z_loss(p, one_minus_p, scale, pull) if active else fill

    return other_terms, grad, probs, hess


def make_cross_entropy_kernel(element, plan, wants):
    """Cross-entropy of rows of logits, and what a call wants with it."""
    soft, all_classes, scaled, with_top, with_grad, with_probs, with_hess, with_entropy = wants
    reads_all = with_top or with_probs or with_entropy
    row, compute, load, n_keys = make_row(element, plan), element.compute, element.load, plan.slot
    place, read, row_maximum, exp_sums = row.place, row.read, row.row_maximum, row.exp_sums
    position, row_at, class_at, n_shared = row.position, row.row_at, row.class_at, SLOTS * n_keys
    n_words, word, number = row.n_words, row.word, number_type(element)
    store_number, number_size = number.store, number.size
    first_top, lse_of = make_first_top(element, row), make_lse(compute)
    check_target, inverse_of = make_check_target(element, soft), make_inverse(element)
    row_coefficients = make_row_coefficients(element, wants, class_at)
    gradient_terms = make_gradient_terms(element)
    total, split_sum = make_reduction(add, plan), make_split_sum(element)
    depth_sum, zero, one = make_depth_sum(element, row), compute(0), compute(1)
    formulas = make_element_formulas(element, wants, make_coefficient(element, soft, class_at))
    other_terms, grad_formula, probs_formula, hess_formula = formulas
    fold_others = row.make_fold(other_terms, add_pairs)
    write_grad, write_probs = row.make_writer(grad_formula), row.make_writer(probs_formula)
    write_hess = row.make_writer(hess_formula)

    @device
    def other_sums(buffer, line, thread, args, shared):
        """Σ a_j·(m - x_j) and Σ a_j."""
        below_a, a_sum = zero, zero
        if all_classes:
            below_a, a_sum = fold_others(buffer, line, thread, args, (zero, zero))
            below_a, a_sum = total(below_a, shared, 4), total(a_sum, shared, 5)
        return below_a, a_sum

    @device
    def put(out, i, value):
        """One number of a row, if it is requested."""
        if out:
            store_number(out + i * uint64(number_size), value)

    @device
    def put_entropy(out, i, others, mean):
        """H = log s + Σ p_j·(m - x_j)."""
        if with_entropy:
            put(out, i, math.log1p(others) + mean)

    # x (N, C) IN; labels (N,), or target_probs (N, C) for soft targets, IN; class_weight (C,),
    # sample_weight (N,) IN or 0; loss, lse, argmax, entropy (N,) OUT or 0; grad, probs, hess (N, C)
    # OUT or 0
    def kernel(
        x: Rows, labels: Labels, target_probs: Rows, class_weight: Address, sample_weight: Address,
        inverse: Inverse, one_minus_eps: Number, eps_over_c: Number, z_loss: Number,
        factor: Number, n_rows: Integer, n: Integer, loss: Address, lse: Address, argmax: Address,
        entropy: Address, grad: Rows, probs: Rows, hess: Rows,
    ):  # fmt: skip
        i, thread = place()
        shared = cuda.shared.array(n_shared, compute)
        keys = cuda.shared.array(n_keys, int32)
        buffer = cuda.local.array(n_words, word)
        exists, at, pos = i < n_rows, uint64(i), position(x, i)
        u, y, active, fill = check_target(labels, sample_weight, i, n, exists)
        scale = inverse_of(inverse)
        active = active and scale != zero  # the mean of no rows has zero gradient, and is nan
        x_row = row_at(x, pos)
        line = read(x_row, int32(n) if exists else int32(0), thread, active or reads_all, buffer)
        factor, top = factor if scaled else one, int32(0)
        m, streamed_part = row_maximum(buffer, line, thread, factor, shared)
        if with_top:
            top = first_top(buffer, line, thread, m, keys)
        if soft:
            y = top & int32(0x7FFFFFFF) if active else int32(0)
        # All that is read of x besides the thread's own elements is read before `exp_sums`: behind
        # its barrier a thread may write, and grad may lie over x.
        checked = CheckedTarget(u, y, active, fill)
        q = row_at(target_probs, pos)
        terms = CoefficientTerms(class_weight, q, one_minus_eps, eps_over_c, y)
        margin, target_coef, other_coef, a_y, w_y = zero, zero, zero, zero, zero
        if active:
            margin = (m - load(class_at(x_row, y))) * factor
            target_coef, other_coef, a_y, w_y = row_coefficients(terms)
        coefs = Coefficients(target_coef, other_coef, a_y, w_y)
        below_a, a_sum = other_sums(buffer, line, thread, (m, factor, terms), shared)
        depths = depth_sum(buffer, line, thread, m, factor, shared, 6) if with_entropy else zero
        below, count = exp_sums(buffer, line, m, streamed_part, factor, shared)
        rest, e_y, others, inverse_s = split_sum(margin, below, count)
        log_s = log_sum(rest, e_y, one)
        row_lse = lse_of(m * factor, top, math.log1p(others)) if with_top or z_loss else zero
        if thread == 0 and exists:
            other_loss = below_a + a_sum * log_s
            value = loss_value(checked, coefs, z_loss, margin, log_s, other_loss, row_lse)
            put(loss, at, value)
            put(lse, at, row_lse)
            if argmax:
                store_i64(argmax + at * uint64(8), int64(top & int32(0x7FFFFFFF)))
            put_entropy(entropy, at, others, depths * inverse_s)
        if with_probs:
            args_p = m, factor, inverse_s
            write_probs(row_at(probs, pos), buffer, line, thread, args_p)
        if with_hess:
            h, pull = hess_terms(coefs, z_loss, u * scale * factor * factor, a_sum, row_lse)
            args_h = (m, factor, inverse_s, others, top, h, pull, active, fill)
            write_hess(row_at(hess, pos), buffer, line, thread, args_h)
        if with_grad:
            up = u * scale * factor
            m, c, at_y = gradient_terms(
                checked, coefs, z_loss, up, m, a_sum, rest, e_y, inverse_s, row_lse
            )
            args_g = (m, factor, c, at_y, y, active, fill, up * coefs.other_coef, terms)
            write_grad(row_at(grad, pos), buffer, line, thread, args_g)

    return kernel
