"""Device functions for targets: labels of any integer type, coefficients, rows that are ignored."""

import math
from typing import Any, NamedTuple

from numba import int32, int64, uint32, uint64

from fastxent.cuda.elements import device, number_type, zero_where_zero
from fastxent.cuda.intrinsics import load_i64, load_u8, load_u16, load_u32
from fastxent.formulas import coefficient


@device
def load_label(labels, kind, i):
    """Label i as 64 bits with its sign; `kind` as in `parameters.Labels`."""
    if kind >= 6:
        return load_i64(labels + uint64(i) * uint64(8))
    if kind >= 4:
        label, sign = int64(load_u32(labels + uint64(i) * uint64(4))), int64(0x80000000)
    elif kind >= 2:
        label, sign = int64(load_u16(labels + uint64(i) * uint64(2))), int64(0x8000)
    else:
        label, sign = int64(load_u8(labels + uint64(i))), int64(0x80)
    return label if kind & 1 else (label ^ sign) - sign


@device
def is_class(label, n):
    """Whether 64 bits are a class: compared as unsigned ones, so that negative labels are not."""
    return uint64(label) < uint64(n)


def make_inverse(element):
    """inverse_of(inverse): 1 / D of a `parameters.Inverse`."""
    load_number = number_type(element).load

    @device
    def inverse_of(inverse):
        return load_number(inverse.address) if inverse.address else inverse.number

    return inverse_of


def make_class_weight(element):
    """class_weight_of(class_weight, j): w_j, 1 without class weights."""
    number, one = number_type(element), element.compute(1)
    load_number, number_size = number.load, number.size

    @device
    def class_weight_of(class_weight, j):
        if class_weight:
            return load_number(class_weight + uint64(uint32(j)) * uint64(number_size))
        return one

    return class_weight_of


class CoefficientTerms(NamedTuple):
    """What the coefficients a_j of a row depend on: `probs` is the row of its probabilities."""

    class_weight: Any
    probs: Any
    one_minus_eps: Any
    eps_over_c: Any
    y: Any


def make_coefficient(element, soft):
    """coefficient_of(q, column, terms): a_j of `formulas` for labels, or for probabilities q_j."""
    class_weight_of, zero = make_class_weight(element), element.compute(0)

    @device
    def of_labels(q, column, terms):
        return class_weight_of(terms.class_weight, column)

    @device
    def of_probabilities(q, column, terms):
        if column == terms.y:
            return zero
        w = class_weight_of(terms.class_weight, column)
        return coefficient(q, w, terms.one_minus_eps, terms.eps_over_c, zero_where_zero)

    return of_probabilities if soft else of_labels


class CheckedTarget(NamedTuple):
    """A row's sample weight u and class y, and whether it is active.

    An inactive row has `fill` as loss and gradient: 0 if it is ignored, nan if its label is bad.
    """

    u: Any
    y: Any
    active: Any
    fill: Any


def make_check_target(element, soft):
    """check_target(labels, sample_weight, i, n, exists): the CheckedTarget of row i."""
    compute, number = element.compute, number_type(element)
    zero, one, nan = compute(0), compute(1), compute(math.nan)
    load_number, number_size = number.load, number.size

    @device
    def check_target(labels, sample_weight, i, n, exists):
        if not exists:
            return CheckedTarget(one, int32(0), False, zero)
        u = one
        if sample_weight:
            u = load_number(sample_weight + uint64(i) * uint64(number_size))
        if soft:
            return CheckedTarget(u, int32(0), u != zero, zero)
        label = load_label(labels.address, labels.kind, i)
        ignored = u == zero or (labels.ignoring != 0 and label == labels.ignored)
        if is_class(label, n):
            return CheckedTarget(u, int32(label), not ignored, zero)
        return CheckedTarget(u, int32(0), False, zero if ignored else nan)

    return check_target
