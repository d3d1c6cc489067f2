"""Hessian-vector products of rows of few classes, in groups as in `few_class_kernels.py`."""

from fastxent.cpu.few_class_kernels import (
    curvature,
    end_group,
    exp_term,
    find_targets,
    load_coefficients,
    load_term,
    load_weights,
    memory_of_group,
    product_sum,
    row_buffers,
    sum_columns,
)
from fastxent.cpu.float_mode import flush_subnormals, restore_mode
from fastxent.cpu.groups import group_at, read_group, reserve, write_group
from fastxent.cpu.hvp_kernels import hvp_of_exp
from fastxent.cpu.jit import inlined_by_llvm, subroutine
from fastxent.cpu.lanes import round_to, where_equal, widen
from fastxent.cpu.memory import lanes_of, load, row, splat, store
from fastxent.cpu.scratch import release, view
from fastxent.cpu.tiles import aligned_row, first_group, read_ahead, set_size


@inlined_by_llvm
def _curvature_of_group(target, weights, options, a_y, a, group):
    """Σ_j a_j of a group's rows."""
    if target.ndim == 1:
        return curvature(weights, options, a_y)
    load_coefficients(target, weights, options, group, a)
    return sum_columns(load_term, (a,), target.shape[1])


@subroutine
def _vector_at_max(columns, m, v, n):
    """v_m: of each lane, v_j at the first j with x_j = m; v_0 if there is none (nan)."""
    v_m = load(v, 0)
    for j in range(n - 1, -1, -1):
        at = j * lanes_of(columns)
        v_m = where_equal(load(columns, at), m, load(v, at), v_m)
    return v_m


@subroutine
def _product_columns(columns, v, of_v, factors, n):
    """The products of a group's rows, which replace e_j."""
    for j in range(n):
        at = j * lanes_of(columns)
        store(columns, at, hvp_of_exp(load(columns, at), load(v, at), of_v, factors))


# logits, vector (N, C) IN; target (N,) labels or (N, C) probabilities IN; out (N, C) OUT. lo < hi.
def hvp_rows(logits, target, vector, weights, options, tiles, divisor, out, lo, hi):
    n, width = logits.shape[1], lanes_of(row(logits, lo))
    memory, layout, pad, places = reserve(logits, n, 2 + (target.ndim == 2), tiles)
    label_buffer, u_buffer, w_buffer, _ = row_buffers(places, width)
    weighted = weights.class_weight.size > 0 or weights.sample_weight.size > 0
    rows, mode = (lo, hi, aligned_row(out, lo)), flush_subnormals()
    for begin in range(first_group(rows, width), hi, width):
        at, group = group_at(begin, rows, width, layout, pad)
        columns, size = view(memory, at, memory), set_size(memory, n)
        v, a = view(columns, size, columns), view(columns, 2 * size, columns)
        first, count, without_class = group[0], group[1], 0
        if target.ndim == 1:
            without_class = find_targets(
                target, options, first, count, label_buffer, n, columns, places
            )
        m = read_group(logits, columns, group)
        read_group(vector, v, group)
        u = a_y = widen(splat(columns, 1.0))
        if weighted or without_class or count < width:
            u, a_y = load_weights(
                target, weights, options, n, first, count, columns, u_buffer, w_buffer
            )
        factor = u / divisor * _curvature_of_group(target, weights, options, a_y, a, group)
        v_m = _vector_at_max(columns, m, v, n)
        beside = memory_of_group(logits, out, n, columns, group)
        inverse = 1.0 / sum_columns(exp_term, (columns, m, beside), n)
        mean = round_to(product_sum(columns, v, v_m, n) * inverse, columns)
        of_v = round_to(inverse, columns), v_m, mean
        factors = round_to(factor, columns), 0.0, round_to(factor * inverse * 0.0, columns)
        _product_columns(columns, v, of_v, factors, n)
        write_group(columns, None, None, (None, None), out, group)
        end_group(out, columns, group, without_class or weighted, u_buffer)
        read_ahead(vector, v, group)
        if target.ndim == 2:
            read_ahead(target, a, group)
    restore_mode(mode)
    release(memory)
