"""Groups of rows as columns in scratch memory: rows are transposed, column-major rows are copied.

A group has as many rows as a vector has lanes; its columns are one vector per class. A group of
column-major rows would touch one cache line per class, each in another page, so those are copied
by tiles of several groups: for each class a run of lines. Two tiles are in scratch memory. With
each group of one that is computed, a part of the classes of the next tile is read, and a part of
the results of the previous tile is written: from and to lines that were prefetched meanwhile. Few
lines wait at any time, since classes that lie powers of two apart share the sets of the caches.

A `group` is (first row, number of rows, pad, tile). `pad` is memory for rows: an incomplete group
is filled up and goes through it. The first group is incomplete, too, if the ones behind it then
are vectors of aligned memory in the column-major output: large outputs are written past the caches,
which aligned stores can do, without reading the lines first.
"""

import math

import numpy as np

from fastxent.cpu.columns import (
    block_of_columns,
    load_strided,
    load_transposed,
    scatter_lanes,
    store_at_places,
    store_strided,
    store_transposed,
)
from fastxent.cpu.jit import inlined, inlined_by_llvm, subroutine
from fastxent.cpu.lanes import VECTOR_BYTES, maximum, scale_by
from fastxent.cpu.memory import (
    advance,
    class_step,
    element,
    element_strides,
    elements_to_vector,
    fence,
    is_half,
    itemsize,
    lanes_of,
    load,
    load_part,
    prefetch,
    prefetch_to_write,
    row,
    set_element,
    splat,
    store,
    store_part,
    stream,
    unless_half,
)
from fastxent.cpu.row import fill_row
from fastxent.cpu.scratch import reserve, view

# A tile has up to so many bytes and 2**MAX_SHIFT groups: two of them fit into the second cache.
TILE_BYTES, MAX_SHIFT = 1 << 18, 3
# Classes between a load or store of a tile and the prefetch of its line.
CLASSES_AHEAD = 8
# Column-major output that spans more than this is written past the caches: its beginning would have
# left them before a reader came.
STREAMED_BYTES = 1 << 22


@inlined
def has_columns(array):
    """Whether the array is column-major: the rows of a class are contiguous; False for None."""
    return class_step(array) != 1


@inlined
def reserve_tiles(like, n, sets, by_tiles):
    """Scratch memory: two tiles (one group unless `by_tiles`), the pad, and the places of a group.

    Returns the memory, the layout of tiles, the pad and the places, which are followed by memory
    for five more 8-byte numbers per row: at most twelve vectors with the places. A group has `sets`
    of n columns, each followed by a vector for their maximum; an odd number of vectors spreads the
    groups over the sets of the caches.
    """
    width = lanes_of(row(like, 0))
    vectors, shift = sets * (n + 1) | 1, 0
    while by_tiles and shift < MAX_SHIFT and vectors * VECTOR_BYTES << (shift + 1) <= TILE_BYTES:
        shift += 1
    size = vectors * width
    tile_size = size << shift if by_tiles else 0
    memory = reserve(like, size + 2 * tile_size + (n + 12) * width)
    pad = view(memory, size + 2 * tile_size, like)
    fill_row(pad, n * width, 0.0)
    return view(memory, 0, like), (shift, size, tile_size), pad, view(pad, n * width, np.int64)


@inlined
def aligned_row(array, lo):
    """The first row from `lo` on that begins a vector of column-major rows; else `lo`."""
    return lo + elements_to_vector(array, lo) if has_columns(array) else lo


@inlined
def first_group(rows, width):
    """Where the first group of the rows (lo, hi, aligned) begins: an incomplete one before `lo`."""
    lo, _, aligned = rows
    return aligned - width if aligned > lo else lo


@inlined
def group_at(at, rows, width, layout, pad):
    """The group from row `at` on of the rows (lo, hi, aligned), and its place in scratch memory.

    A tile is: the number of the group in it, its complete groups and those of the tiles before and
    of the next one, the offset from the group to the other tile, the size of a group, and the
    logarithm of the groups of a whole tile.
    """
    (shift, size, tile_size), (lo, hi, aligned) = layout, rows
    first = max(at, lo)
    count = min(at + width, hi) - first
    if not tile_size:
        return 0, (first, count, pad, (0, 1, 0, 0, 0, size, shift))
    index, complete, whole = (at - aligned) // width, (hi - aligned) // width, 1 << shift
    k = index & (whole - 1)
    before = index - k
    groups, following = min(complete - before, whole), min(complete - before - whole, whole)
    is_second = (before >> shift) & 1
    offset = k * size + is_second * tile_size
    to_other = tile_size - 2 * is_second * tile_size - k * size
    return offset, (first, count, pad, (k, groups, before, following, to_other, size, shift))


@inlined
def _is_complete(columns, group):
    """Whether a group has as many rows as a vector has lanes: then it is part of a tile."""
    return group[1] == lanes_of(columns)


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


@subroutine
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


@inlined
def _goes_through_pad(array, columns, group):
    """Whether the rows of a group are copied: they are too few, or of another type."""
    return is_half(array) or group[1] < lanes_of(columns)


@inlined
def _rows_of(array, columns, group):
    """The first row of a group and the step to the next: in `pad` for one that goes through it."""
    first, count, pad, _ = group
    n = array.shape[1]
    if count < lanes_of(columns):
        return pad, n
    return unless_half(array, row(array, first), pad), unless_half(array, steps(array)[0], n)


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


# --- tiles ----------------------------------------------------------------------------------


@subroutine
def _copy_tile_in(x, step, classes, n, tile, groups, size):
    """Copy a range of classes, `step` apart, into a tile; behind each group m = max_j x_j.

    Classes in blocks: for one class all groups are a run of cache lines, and m is in a register for
    the classes of a block.
    """
    begin, end = classes
    width = lanes_of(tile)
    for first in range(begin, end, CLASSES_AHEAD):
        for k in range(groups):
            at = k * size
            m = load(tile, at + n * width) if first else splat(tile, -math.inf)
            for j in range(first, min(first + CLASSES_AHEAD, end)):
                column = load(x, j * step + k * width)
                prefetch(x, (j + CLASSES_AHEAD) * step + k * width)
                store(tile, at + j * width, column)
                m = maximum(m, column)
            store(tile, at + n * width, m)


@subroutine
def _copy_part_in(x, step, n, columns, count):
    """Copy the columns of an incomplete group, filled up with 0; return their maximum."""
    m = splat(columns, -math.inf)
    for j in range(n):
        column = load_part(advance(x, j * step), 0, count, 0.0)
        store(columns, j * lanes_of(columns), column)
        m = maximum(m, column)
    return m


@subroutine
def _copy_part_out(columns, out, step, n, count):
    """The inverse of `_copy_part_in`."""
    for j in range(n):
        store_part(advance(out, j * step), 0, count, load(columns, j * lanes_of(columns)))


@subroutine
def _copy_tile_out(tile, out, step, classes, groups, size, streamed):
    """Copy a range of classes of a tile to column-major rows, `streamed` past the caches."""
    begin, end = classes
    width = lanes_of(tile)
    for j in range(begin, end):
        for k in range(groups):
            at, column = j * step + k * width, load(tile, k * size + j * width)
            if streamed:
                stream(out, at, column)
            else:
                prefetch_to_write(out, at + CLASSES_AHEAD * step)
                store(out, at, column)


@subroutine
def _scale_columns(columns, factor, n):
    """Multiply the columns by `factor`, unless that is None."""
    for j in range(n):
        at = j * lanes_of(columns)
        store(columns, at, scale_by(load(columns, at), factor))


@inlined
def _part(n, k, groups):
    """The first class of part k of `groups`: parts are whole blocks of classes."""
    return n if k == groups else n * k // groups & -CLASSES_AHEAD


@inlined_by_llvm
def read_ahead(array, columns, group):
    """Read a group's part of the next tile of a column-major array; columns are the group's."""
    n, (first, _, _, (k, _, _, following, to_other, size, shift)) = array.shape[1], group
    if following > 0 and has_columns(array) and _is_complete(columns, group):
        x = row(array, first + ((1 << shift) - k) * lanes_of(columns))
        classes = _part(n, k, 1 << shift), _part(n, k + 1, 1 << shift)
        other = view(columns, to_other, columns)
        _copy_tile_in(x, class_step(array), classes, n, other, following, size)


@inlined
def is_streamed(array, n, first):
    """Whether column-major rows are written past the caches: many, each class at a whole line."""
    span = class_step(array) * itemsize(array)
    aligned = span & (VECTOR_BYTES - 1) == 0 and elements_to_vector(array, first) == 0
    return aligned and span * n > STREAMED_BYTES


@inlined_by_llvm
def write_behind(array, columns, group):
    """Write a group's part of the previous tile to a column-major array; the last tile at once."""
    n, (first, count, _, tile) = array.shape[1], group
    k, groups, before, following, to_other, size, shift = tile
    if not has_columns(array):
        return
    if not _is_complete(columns, group):
        _copy_part_out(columns, row(array, first), class_step(array), n, count)
        return
    step, width, streamed = class_step(array), lanes_of(columns), is_streamed(array, n, first)
    if before:
        out = row(array, first - (k + (1 << shift)) * width)
        classes = _part(n, k, groups), _part(n, k + 1, groups)
        other = view(columns, to_other, columns)
        _copy_tile_out(other, out, step, classes, 1 << shift, size, streamed)
    if k + 1 == groups and following <= 0:
        out, this = row(array, first - k * width), view(columns, -k * size, columns)
        _copy_tile_out(this, out, step, (0, n), groups, size, streamed)
        fence()


@inlined
def lines_ahead(array, n, columns, group):
    """The lines to prefetch for reading, one per class, as `line` takes them.

    Those of the next group of rows, or of a group's part of the next tile.
    """
    first, _, _, (k, _, _, _, _, _, shift) = group
    width = lanes_of(columns)
    if has_columns(array):
        rows, step = (1 << shift) - k, class_step(array)
        return row(array, first + rows * width), (n * k >> shift) * step, step, shift
    return row(array, first + width), 0, width, 0


@inlined
def lines_behind(array, n, columns, group):
    """Likewise for writing: of the next group of rows, or a part of the previous tile.

    Lines that will be streamed are not prefetched.
    """
    first, _, _, (k, _, before, _, _, _, shift) = group
    width = lanes_of(columns)
    if has_columns(array):
        rows, step = (k + (1 << shift)) * width, class_step(array)
        if before > 0 and not is_streamed(array, n, first):
            return row(array, first - rows), (n * k >> shift) * step, step, shift
        return row(array, first), 0, 0, 0
    return row(array, first + width), 0, width, 0


@inlined
def line(lines, j, width):
    """The element where line j begins."""
    _, begin, step, shift = lines
    return begin + (j >> shift) * step + (j & ((1 << shift) - 1)) * width


# --- groups ---------------------------------------------------------------------------------


@inlined
def read_group(array, columns, group):
    """Load a group into columns, filled up with `pad`; return the maximum.

    Groups of a tile were read ahead, those of the first tile are read with its first group.
    """
    n, (first, count, pad, tile) = array.shape[1], group
    k, groups, before, _, _, size, _ = tile
    if has_columns(array):
        if not _is_complete(columns, group):
            return _copy_part_in(row(array, first), class_step(array), n, columns, count)
        if before + k == 0:
            x = row(array, first)
            _copy_tile_in(x, class_step(array), (0, n), n, columns, groups, size)
        return load(columns, n * lanes_of(columns))
    if _goes_through_pad(array, columns, group):
        copy_rows(row(array, first), steps(array), pad, (n, 1), n, count)
    x, step = _rows_of(array, columns, group)
    return _transpose_rows(x, step, n, columns)


@inlined
def write_group(columns, factor, places, elements, array, group):
    """Write the columns, times `factor`, to a group of rows; then `elements` at their places.

    There is one element per lane. An incomplete group is written to `pad` and copied; one of a
    column-major array stays in its columns for `write_behind`. factor and elements may be None. To
    rows the elements are written in the array, not in the columns: a vector load would wait for
    stores to a part of it.
    """
    n, (first, count, pad, _) = array.shape[1], group
    is_whole = count == lanes_of(columns)
    if has_columns(array):
        _scale_columns(columns, factor, n)
        scatter_lanes(columns, places, elements)
        return
    out, step = _rows_of(array, columns, group)
    _transpose_back(columns, factor, out, step, n)
    if not (is_half(array) and is_whole):
        store_at_places(out, step, places, elements)
    if _goes_through_pad(array, columns, group):
        copy_rows(pad, (n, 1), row(array, first), steps(array), n, count)
    if is_half(array) and is_whole:
        store_at_places(row(array, first), steps(array)[0], places, elements)
