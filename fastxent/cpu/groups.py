"""Groups of rows as columns in scratch memory: rows are transposed, column-major ones use tiles.

A group has as many rows as a vector has lanes; its columns are one vector per class. A kernel is
compiled for rows, or for tiles, where an array may be of either layout.
"""

import math

from fastxent.cpu.columns import (
    block_of_columns,
    load_strided,
    load_transposed,
    scatter_lanes,
    store_at_places,
    store_strided,
    store_transposed,
)
from fastxent.cpu.jit import inlined, inlined_by_llvm, never_inlined, rare, subroutine
from fastxent.cpu.lanes import maximum, scale_by, smaller
from fastxent.cpu.memory import (
    advance,
    class_step,
    either,
    element,
    element_strides,
    is_half,
    lanes_of,
    load,
    load_part,
    row,
    set_element,
    splat,
    store,
    store_part,
    unless_half,
)
from fastxent.cpu.tiles import (
    group_of_tile,
    has_columns,
    is_complete,
    read_first_tile,
    read_part,
    reserve_groups,
    reserve_tiles,
    set_factor,
)

# --- rows -----------------------------------------------------------------------------------


@subroutine
def _copy_run(source, out, n):
    """Copy n elements, by vectors."""
    width = lanes_of(source)
    whole = n & -width
    for j in range(0, whole, width):
        store(out, j, load(source, j))
    if whole < n:
        store_part(out, whole, n - whole, load_part(source, whole, n - whole, 0.0))


@never_inlined
def copy_rows(source, source_steps, out, out_steps, n, count):
    """Copy `count` rows of n elements; steps are those of rows and of classes, in elements."""
    (a, b), (c, d) = source_steps, out_steps
    if b == d == 1 and a == c == n:
        _copy_run(source, out, count * n)
    elif b == d == 1:
        for i in range(count):
            _copy_run(advance(source, i * a), advance(out, i * c), n)
    elif a == 1 or c == 1:  # for each class a run of rows
        for j in range(n):
            for i in range(count):
                set_element(out, i * c + j * d, element(source, i * a + j * b))
    else:
        for i in range(count):
            for j in range(n):
                set_element(out, i * c + j * d, element(source, i * a + j * b))


@inlined
def steps(array):
    """The steps of rows and of classes."""
    return element_strides(array)[0], class_step(array)


@subroutine
def _transpose_rows(x, step, n, columns):
    """Transpose the rows of a group into columns; return m = max_j x_j.

    A nan may be lost in m; the sum of exponentials has it.
    """
    block, m = block_of_columns(x), splat(columns, -math.inf)
    for k in range(n // block):
        m = load_transposed(x, step, k * block, columns, m)
    if n >= block:
        if n % block:  # the last block overlaps the one before
            m = load_transposed(x, step, n - block, columns, m)
    else:
        for j in range(n):
            column = load_strided(x, step, j)
            store(columns, j * lanes_of(x), column)
            m = maximum(m, column)
    return m


@subroutine
def _transpose_back(columns, factor, out, step, n):
    """Transpose columns, times `factor`, into the rows of a group."""
    block = block_of_columns(out)
    for k in range(n // block):
        store_transposed(out, step, k * block, columns, factor)
    if n >= block:
        if n % block:
            store_transposed(out, step, n - block, columns, factor)
    else:
        for j in range(n):
            store_strided(out, step, j, scale_by(load(columns, j * lanes_of(out)), factor))


@rare
def _read_incomplete(source, steps, pad, n, columns, count):
    """Copy `count` rows into columns, filled up with what is in `pad`; return the maximum."""
    m = splat(columns, -math.inf)
    copy_rows(source, steps, pad, (n, 1), n, count)
    for j in range(n):
        column = load_strided(pad, n, j)
        store(columns, j * lanes_of(columns), column)
        m = maximum(m, column)
    return m


@rare
def _write_incomplete(columns, factor, places, elements, pad, out, steps, n, count):
    """Write columns, times `factor`, and the elements at their places to `count` rows."""
    for j in range(n):
        store_strided(pad, n, j, scale_by(load(columns, j * lanes_of(columns)), factor))
    store_at_places(pad, n, places, elements)
    copy_rows(pad, (n, 1), out, steps, n, count)


@inlined
def _whole_rows(array, pad, group):
    """The first row of a complete group and the step to the next: half precision is in `pad`."""
    first = unless_half(array, row(array, group[0]), pad)
    return first, unless_half(array, steps(array)[0], array.shape[1])


@inlined_by_llvm
def _read_rows(array, columns, group):
    n, (first, count, pad, _) = array.shape[1], group
    if count < lanes_of(columns):
        return _read_incomplete(row(array, first), steps(array), pad, n, columns, count)
    if is_half(array):
        copy_rows(row(array, first), steps(array), pad, (n, 1), n, count)
    x, step = _whole_rows(array, pad, group)
    return _transpose_rows(x, step, n, columns)


@inlined_by_llvm
def _write_rows(columns, factor, places, elements, array, group):
    n, (first, count, pad, _) = array.shape[1], group
    begin, strides = row(array, first), steps(array)
    if count < lanes_of(columns):
        _write_incomplete(columns, factor, places, elements[0], pad, begin, strides, n, count)
        return
    out, step = _whole_rows(array, pad, group)
    _transpose_back(columns, factor, out, step, n)
    if is_half(array):
        copy_rows(pad, (n, 1), begin, strides, n, count)
    store_at_places(begin, strides[0], places, elements[0])


@inlined_by_llvm
def _reserve_rows(like, n, sets):
    size = sets * (n + 2) * lanes_of(row(like, 0))
    memory, pad, places = reserve_groups(like, n, size)
    return memory, None, pad, places


@inlined_by_llvm
def _group_of_rows(at, rows, width, layout, pad):
    return 0, (at, smaller(rows[1] - at, width), pad, None)


# --- rows or tiles --------------------------------------------------------------------------


@inlined
def reserve(like, n, sets, tiles):
    """Scratch memory: groups with so many sets of columns, the layout, the pad, the places.

    The memory is for one group, or for two tiles. The layout is None, as `tiles` is, where all
    arrays are rows.
    """
    return either(tiles, reserve_tiles, _reserve_rows, (like, n, sets))


@inlined
def group_at(at, rows, width, layout, pad):
    """The place in scratch memory of the group from row `at` on, and the group."""
    return either(layout, group_of_tile, _group_of_rows, (at, rows, width, layout, pad))


@inlined_by_llvm
def _read_of_tile(array, columns, group):
    if not has_columns(array):
        return _read_rows(array, columns, group)
    n, (first, count, _, (k, groups, before, _, _, size, _)) = array.shape[1], group
    if not is_complete(columns, group):
        return read_part(row(array, first), class_step(array), n, columns, count)
    if before + k == 0:
        read_first_tile(row(array, first), class_step(array), n, columns, groups, size)
    return load(columns, n * lanes_of(columns))


@inlined
def read_group(array, columns, group):
    """Load a group into columns, filled up with `pad`; return the maximum.

    Groups of a tile were read ahead, those of the first tile are read with its first group.
    """
    return either(group[3], _read_of_tile, _read_rows, (array, columns, group))


@inlined_by_llvm
def _write_of_tile(columns, factor, places, elements, array, group):
    if has_columns(array):
        set_factor(columns, array.shape[1], factor)
        scatter_lanes(columns, places, elements[1])
    else:
        _write_rows(columns, factor, places, elements, array, group)


@inlined
def write_group(columns, factor, places, elements, array, group):
    """Write the columns, times `factor`, to a group of rows; then `elements` at their places.

    `elements` is a pair: one element per lane, and the same as a multiple of the factor. An
    incomplete group is written to `pad` and copied; a group of a column-major array stays in its
    columns, which `write_line` multiplies. factor and elements may be None. With rows the elements
    are written to the array, not to the columns: a vector load would wait for the scalar stores.
    """
    arguments = columns, factor, places, elements, array, group
    either(group[3], _write_of_tile, _write_rows, arguments)
