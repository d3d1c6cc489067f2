"""The kernels of softmax, log-softmax, logsumexp and entropy.

Each is made for an element type and a `ThreadPlan`. A thread processes a part of its row, and every
thread of a row computes the numbers of the row for itself.
"""

import math

from numba import cuda, int32, uint64

from fastxent.cuda.elements import device, make_product, number_type, zero_where_zero
from fastxent.cuda.groups import add, make_reduction, smaller
from fastxent.cuda.parameters import Address, Integer, Rows
from fastxent.cuda.parts import SUMS, make_row_sums
from fastxent.cuda.rows import make_row
from fastxent.cuda.sharing import NOT_THERE, make_sharing
from fastxent.formulas import entropy_grad_element, entropy_term

_OF_NAN = int32(-(2**31))
SLOTS = 8  # in shared memory, for the exchanges of a block
_ENTROPY_CELLS = 5  # numbers that the blocks of a cluster exchange: two, then three


def make_softmax_kernel(element, plan, log):
    """Softmax, or its logarithm."""
    row, compute, exp = make_row(element, plan), element.compute, element.exp
    read, position, row_at, from_class = row.read, row.position, row.row_at, row.from_class
    n_words, word, n_shared, one = row.n_words, row.word, SLOTS * plan.slot, compute(1)
    sharing, n_cells = make_sharing(element, plan), SUMS * plan.cluster
    arrive, place, row_sums = sharing.arrive, sharing.place, make_row_sums(element, row, sharing)

    @device
    def probability(x, column, args):
        m, inverse = args
        return exp(x - m) * inverse

    @device
    def log_probability(x, column, args):
        m, log_s = args
        return (x - m) - log_s

    write = row.make_writer(log_probability if log else probability)

    # x, out (N, C) IN, OUT; length: of a part of a row
    def kernel(x: Rows, out: Rows, length: Integer, n_rows: Integer, n: Integer):
        arrive()
        i, thread, part, first, elements = place(length, n_rows, n)
        at = position(x, i)
        shared = cuda.shared.array(n_shared, compute)
        cells = cuda.shared.array(n_cells, compute)
        buffer = cuda.local.array(n_words, word)
        line = read(from_class(row_at(x, at), first), elements, thread, True, buffer)
        m, below, count = row_sums(buffer, line, thread, part, cells, shared)
        # p_j = exp(x_j - m) / s, log p_j = (x_j - m) - log s
        others = below + (count - one)
        norm = math.log1p(others) if log else one / (others + one)
        write(from_class(row_at(out, at), first), buffer, line, thread, (m, norm))

    return kernel


def make_first_top(element, row):
    """first_top(buffer, line, thread, m, shared): the first index of the maximum m.

    Or that of the first nan plus the smallest int32, which is negative.
    """
    least = make_reduction(smaller, row.plan)

    @device
    def key(x, column, m):
        if x != x:
            return _OF_NAN + column
        return column if x == m else NOT_THERE

    fold = row.make_fold(key, smaller)

    @device
    def first_top(buffer, line, thread, m, shared):
        return least(fold(buffer, line, thread, m, NOT_THERE), shared, 0)

    return first_top


def make_lse(compute):
    """lse_of(m, top, log_s): m + log s, with `top` of `first_top`.

    As SciPy defines it: an infinite m is the result, unless the row holds nan.
    """
    zero, nan = compute(0), compute(math.nan)

    @device
    def lse_of(m, top, log_s):
        if m - m == zero:
            return m + log_s
        return nan if top < 0 else m

    return lse_of


def make_logsumexp_kernel(element, plan):
    """m + log s."""
    row, compute = make_row(element, plan), element.compute
    size, store = element.size, element.store
    place, read, row_maximum, exp_sums = row.place, row.read, row.row_maximum, row.exp_sums
    position, row_at, n_shared = row.position, row.row_at, SLOTS * plan.slot
    n_words, word, one = row.n_words, row.word, compute(1)
    first_top, lse_of = make_first_top(element, row), make_lse(compute)
    n_keys, zero = plan.slot, compute(0)
    # A nan matters only in a row whose maximum is infinite; else a streamed row is not read again
    # for it. All threads of a block with one row agree on that, as the exchange in `first_top`
    # requires.
    seldom = plan.streamed and plan.rows == 1

    # x (N, C) IN, out (N,) OUT
    def kernel(x: Rows, out: Address, n_rows: Integer, n: Integer):
        i, thread = place()
        shared = cuda.shared.array(n_shared, compute)
        keys = cuda.shared.array(n_keys, int32)
        buffer = cuda.local.array(n_words, word)
        exists = i < n_rows
        n = int32(n) if exists else int32(0)
        at = position(x, i)
        line = read(row_at(x, at), n, thread, True, buffer)
        m, streamed_part = row_maximum(buffer, line, thread, one, shared)
        top = int32(0)
        if not seldom or m - m != zero:
            top = first_top(buffer, line, thread, m, keys)
        below, count = exp_sums(buffer, line, m, streamed_part, one, shared)
        if exists and thread == 0:  # a row without classes too
            value = lse_of(m, top, math.log1p(below + (count - one)))
            store(out + uint64(i) * uint64(size), value)

    return kernel


def make_depth_sum(element, row, scaled=False):
    """depth_sum(buffer, line, thread, m, factor, shared, slot): Σ e_j·depth_j of a row.

    depth_j is (m - x_j)·factor and e_j exp(-depth_j).
    """
    exp, times, zero = row.exp, make_product(scaled), element.compute(0)
    total = make_reduction(add, row.plan)

    @device
    def terms(x, column, args):
        m, factor = args
        return entropy_term(exp(x - m, factor), times(m - x, factor), zero_where_zero), zero

    sums = row.make_sums(terms)

    @device
    def depth_sum(buffer, line, thread, m, factor, shared, slot):
        return total(sums(buffer, line, thread, (m, factor))[0], shared, slot)

    return depth_sum


def make_entropy_kernel(element, plan, with_grad):
    """Entropy of softmax, and its gradient."""
    row, compute, exp = make_row(element, plan), element.compute, element.exp
    read, row_maximum, exp_sums = row.read, row.row_maximum, row.exp_sums
    position, row_at, from_class = row.position, row.row_at, row.from_class
    n_words, word, n_shared, one = row.n_words, row.word, SLOTS * plan.slot, compute(1)
    sharing, n_cells = make_sharing(element, plan), _ENTROPY_CELLS * plan.cluster
    arrive, wait_for_start, place, publish, barrier = sharing[:5]
    leading, sum_of = sharing.leading, sharing.sum_of
    store_number, number_size = number_type(element).store, number_type(element).size
    depth_sum = make_depth_sum(element, row)

    @device
    def gradient(x, column, args):
        m, inverse_s, mean = args
        return entropy_grad_element(exp(x - m) * inverse_s, m - x, mean, zero_where_zero)

    write = row.make_writer(gradient)

    @device
    def shared_maximum(cells, part, thread, m):
        wait_for_start()
        publish(cells, 0, part, thread, m)
        publish(cells, 1, part, thread, m)
        barrier()
        return leading(cells, m, m)[0]

    @device
    def shared_sums(cells, part, thread, below, count, depths):
        publish(cells, 2, part, thread, below)
        publish(cells, 3, part, thread, count)
        publish(cells, 4, part, thread, depths)
        barrier()
        return sum_of(cells, 2, below), sum_of(cells, 3, count), sum_of(cells, 4, depths)

    # x (N, C) IN; length: of a part of a row; out (N,) OUT; grad (N, C) OUT or 0
    def kernel(x: Rows, length: Integer, out: Address, grad: Rows, n_rows: Integer, n: Integer):
        arrive()
        i, thread, part, first, elements = place(length, n_rows, n)
        at = position(x, i)
        shared = cuda.shared.array(n_shared, compute)
        cells = cuda.shared.array(n_cells, compute)
        buffer = cuda.local.array(n_words, word)
        line = read(from_class(row_at(x, at), first), elements, thread, True, buffer)
        m, streamed_part = row_maximum(buffer, line, thread, one, shared)
        m = shared_maximum(cells, part, thread, m)
        depths = depth_sum(buffer, line, thread, m, one, shared, 4)
        below, count = exp_sums(buffer, line, m, streamed_part, one, shared)
        below, count, depths = shared_sums(cells, part, thread, below, count, depths)
        others = below + (count - one)
        inverse_s = one / (others + one)
        mean = depths * inverse_s
        if i < n_rows and part == 0 and thread == 0:
            store_number(out + uint64(i) * uint64(number_size), math.log1p(others) + mean)
        if with_grad:
            row_out = from_class(row_at(grad, at), first)
            write(row_out, buffer, line, thread, (m, inverse_s, mean))

    return kernel
