"""The entropy of softmax and its gradient, for rows of any number of classes and of few.

Both layouts are in one module, so the names of the kernels contain the layout. Only the scans of a
row or group are those of the losses.
"""

from fastxent.cpu.few_class_kernels import (
    copy_columns,
    exp_term,
    memory_of_group,
    sum_columns,
    write_entropy,
)
from fastxent.cpu.float_mode import flush_subnormals, restore_mode
from fastxent.cpu.groups import group_at, read_group, reserve, write_group
from fastxent.cpu.jit import inlined_by_llvm, subroutine
from fastxent.cpu.kernels import MAX_PREFETCHED_OUTPUT, exact_log_sum
from fastxent.cpu.lanes import round_to, widen, zero_where_zero
from fastxent.cpu.memory import if_requested, lanes_of, load, row, store, zeros
from fastxent.cpu.row import exp_and_depth_sums, map_rows, row_max
from fastxent.cpu.scratch import release, view, whole_lines
from fastxent.cpu.scratch import reserve as reserve_rows
from fastxent.cpu.tiles import aligned_row, first_group, set_size, write_rest
from fastxent.formulas import entropy_grad_element


@subroutine
def _grad_of_exp(e, x, a, b):
    """∂H/∂x_j from e_j and x_j, for a = 1 / s and b = (m, mean)."""
    m, mean = b
    return entropy_grad_element(e * a, m - x, mean, zero_where_zero)


@inlined_by_llvm
def _write_grad(grad, e, x, inverse, m, mean, n):
    map_rows(_grad_of_exp, e, x, grad, n, inverse, (m, mean))


# logits (N, C) IN, out (N,) OUT, grad (N, C) OUT or None
def entropy_rows(logits, out, grad, lo, hi):
    n, mode = logits.shape[1], flush_subnormals()
    e = reserve_rows(logits, whole_lines(logits, n))
    for i in range(lo, hi):
        x = row(logits, i)
        m = row_max(x, n)
        next_rows = row(logits, i + 1), row(grad, i + (n <= MAX_PREFETCHED_OUTPUT))
        s, _, depths = exp_and_depth_sums(x, m, e, n, n, next_rows)
        # H = log s + Σ_j p_j·(m - x_j)
        mean = 0.0 - depths / s
        out[i] = exact_log_sum(x, m, e, n, s) + mean
        if_requested(row(grad, i), _write_grad, (e, x, 1.0 / s, m, mean, n))
    restore_mode(mode)
    release(e)


@subroutine
def _grad_columns(columns, copy, inverse, of_x, n):
    """The gradients of a group's rows, which replace e_j."""
    for j in range(n):
        at = j * lanes_of(columns)
        store(columns, at, _grad_of_exp(load(columns, at), load(copy, at), inverse, of_x))


@inlined_by_llvm
def _write_grad_of_group(grad, columns, copy, inverse, m, mean, group):
    of_x = m, round_to(mean, columns)
    _grad_columns(columns, copy, round_to(inverse, columns), of_x, grad.shape[1])
    write_group(columns, None, None, (None, None), grad, group)
    write_rest(grad, columns, group)


# logits (N, C) IN, out (N,) OUT, grad (N, C) OUT or None. lo < hi.
def entropy_groups(logits, out, grad, tiles, lo, hi):
    n, width = logits.shape[1], lanes_of(row(logits, lo))
    memory, layout, pad, _ = reserve(logits, n, 2, tiles)
    rows, mode = (lo, hi, aligned_row(grad, lo)), flush_subnormals()
    for begin in range(first_group(rows, width), hi, width):
        at, group = group_at(begin, rows, width, layout, pad)
        columns = view(memory, at, memory)
        copy = view(columns, set_size(memory, n), columns)
        m = read_group(logits, columns, group)
        copy_columns(copy, columns, n)
        beside = memory_of_group(logits, grad, n, columns, group)
        s = sum_columns(exp_term, (columns, m, beside), n)
        none = zeros(columns)
        mean = write_entropy(out, columns, copy, m, (widen(none), widen(none)), s, n, group)
        if_requested(grad, _write_grad_of_group, (columns, copy, 1.0 / s, m, mean, group))
    restore_mode(mode)
    release(memory)
