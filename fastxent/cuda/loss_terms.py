"""Sums, coefficients and formulas of a row's loss and of its outputs per class."""

from typing import Any, NamedTuple

from fastxent.cuda.elements import device, make_exp, make_product, zero_where_zero
from fastxent.cuda.targets import make_class_weight
from fastxent.formulas import (
    coefficient,
    grad_at_target,
    grad_element,
    grad_scale,
    hess_with_z_loss,
    loss_element,
    prob_coefficient,
    row_loss,
)


class RowSums(NamedTuple):
    """Sums over a row: of `rows.make_exp_sums`; Σ a_j·(m - x_j), Σ a_j; Σ e_j·(m - x_j)."""

    below: Any
    count: Any
    below_a: Any
    a: Any
    depths: Any


CELLS = 1 + len(RowSums._fields)  # what the blocks of a cluster exchange: the maximum and these


def make_shared_sums(sharing, wants):
    """shared_sums(cells, part, thread, sums): the RowSums of a row from those of its parts."""
    publish, barrier, sum_of = sharing.publish, sharing.barrier, sharing.sum_of
    all_classes, with_entropy = wants.all_classes, wants.entropy

    @device
    def shared_sums(cells, part, thread, sums):
        publish(cells, 1, part, thread, sums.below)
        publish(cells, 2, part, thread, sums.count)
        below_a, a, depths = sums.below_a, sums.a, sums.depths
        if all_classes:
            publish(cells, 3, part, thread, below_a)
            publish(cells, 4, part, thread, a)
        if with_entropy:
            publish(cells, 5, part, thread, depths)
        barrier()
        if all_classes:
            below_a, a = sum_of(cells, 3, below_a), sum_of(cells, 4, a)
        if with_entropy:
            depths = sum_of(cells, 5, depths)
        below, count = sum_of(cells, 1, sums.below), sum_of(cells, 2, sums.count)
        return RowSums(below, count, below_a, a, depths)

    return shared_sums


class Coefficients(NamedTuple):
    """The coefficients of a row as in `formulas`, and the class weight of y."""

    target_coef: Any
    other_coef: Any
    a_y: Any
    w_y: Any


def make_row_coefficients(element, wants, class_at):
    """row_coefficients(terms, active): the Coefficients of a row, 0 of an inactive one."""
    load, soft, all_classes = element.load, wants.soft, wants.all_classes
    class_weight_of, zero, one = make_class_weight(element), element.compute(0), element.compute(1)

    @device
    def row_coefficients(terms, active):
        if not active:
            return Coefficients(zero, zero, zero, zero)
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
    """The two coefficients of `formulas.hess_with_z_loss`, multiplied by `by`."""
    prob_coef = prob_coefficient(coefs.other_coef, a_sum, z_loss, lse)
    return by * (coefs.target_coef + prob_coef), by * (z_loss + z_loss)


def make_element_formulas(element, wants, coefficient_of):
    """The formulas of an element of each output per class, and the terms of Σ a_j·(m - x_j).

    The latter and the gradient also take q_j, which they use for soft targets only.
    """
    exp, times = make_exp(element, wants.scaled), make_product(wants.scaled)
    one, all_classes = element.compute(1), wants.all_classes
    # Inactive rows are read for these outputs; otherwise they are treated as rows of -inf.
    reads_all = wants.top or wants.probs or wants.entropy

    @device
    def other_terms(x, q, column, args):
        """a_j·(m - x_j) and a_j."""
        m, factor, terms = args
        a = coefficient_of(q, column, terms)
        return loss_element(a, times(m - x, factor), zero_where_zero), a

    @device
    def grad(x, q, column, args):
        """∂L/∂x_j."""
        m, factor, scale, at_y, y, active, fill, other, terms = args
        e_j = exp(x - m, factor)
        if all_classes:
            g = grad_element(e_j, scale, coefficient_of(q, column, terms), other)
        else:
            g = e_j * scale
        g = at_y if column == y else g
        return fill if (reads_all or all_classes) and not active else g

    @device
    def probs(x, column, args):
        """p_j."""
        m, factor, inverse_s = args
        return exp(x - m, factor) * inverse_s

    @device
    def hess(x, column, args):
        """∂²L/∂x_j², where 1 - p of the largest is the sum of the others."""
        m, factor, inverse_s, others, top, scale, z_loss_coef, active, fill = args
        p = exp(x - m, factor) * inverse_s
        one_minus_p = others * inverse_s if column == top else one - p
        return hess_with_z_loss(p, one_minus_p, scale, z_loss_coef) if active else fill

    return other_terms, grad, probs, hess
