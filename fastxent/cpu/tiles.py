"""Tiles: groups of column-major rows in scratch memory, each class a run of cache lines.

A group of column-major rows touches one cache line per class, each in another page, and classes
that lie powers of two apart share the sets of the caches. So groups are copied by tiles of several:
then a class is a run of lines, which are read in order, each prefetched a few lines ahead. A line
is a vector: one class of one group.

Two tiles are in scratch memory. While a group of one is computed, with each of its classes a line
of the previous tile's results is written, then one of the next tile is read to the same place:
memory transfers overlap with the arithmetic, and few lines are in flight at any time.

A `group` is (first row, number of rows, pad, tile). The tile is None where all arrays are rows;
then no code for tiles is compiled. `pad` is memory for rows: an incomplete group is filled up and
copied through it. The first group is also incomplete where this aligns the vectors of the next
groups in a column-major output: large outputs are written past the caches by aligned stores, which
need not read the lines first.
"""

import math

import numpy as np

from fastxent.cpu.jit import inlined, inlined_by_llvm, subroutine
from fastxent.cpu.lanes import VECTOR_BYTES, larger, maximum, scale_by, smaller
from fastxent.cpu.memory import (
    advance,
    class_step,
    elements_to_vector,
    fence,
    if_requested,
    itemsize,
    lanes_of,
    load,
    load_part,
    prefetch,
    prefetch_to_write,
    row,
    splat,
    store,
    store_part,
    stream,
)
from fastxent.cpu.row import fill_row
from fastxent.cpu.scratch import reserve, view

# A tile has at most so many bytes and 2**MAX_SHIFT groups. Two tiles may fill the L2 cache: that
# was measured to cost less than shorter runs of lines.
TILE_BYTES, MAX_SHIFT = 1 << 19, 3
# Lines between a load or store of one and its prefetch, and classes in the first tile.
LINES_AHEAD, _CLASSES_AHEAD = 32, 8
# Column-major output that spans more than this is written past the caches: its beginning would be
# evicted before it is read.
STREAMED_BYTES = 1 << 22


@inlined
def has_columns(array):
    """Whether the array is column-major: the rows of a class are contiguous; False for None."""
    return class_step(array) != 1


@inlined
def set_size(columns, n):
    """The elements of n columns, of their maximum, and of the factor of the results in them."""
    return (n + 2) * lanes_of(columns)


@inlined
def reserve_groups(like, n, size):
    """Scratch memory of `size` elements for groups, the pad, and the places of a group.

    The places are followed by memory for five more 8-byte numbers per row: at most twelve vectors
    with the places.
    """
    width = lanes_of(row(like, 0))
    memory = reserve(like, size + (n + 12) * width)
    pad = view(memory, size, like)
    fill_row(pad, n * width, 0.0)
    return view(memory, 0, like), pad, view(pad, n * width, np.int64)


@inlined_by_llvm
def reserve_tiles(like, n, sets):
    """The same for two tiles of groups with so many sets of columns, and the layout of tiles.

    An odd number of vectors spreads the groups over the sets of the caches.
    """
    vectors, shift = sets * (n + 2) | 1, 0
    while shift < MAX_SHIFT and vectors * VECTOR_BYTES << (shift + 1) <= TILE_BYTES:
        shift += 1
    size = vectors * lanes_of(row(like, 0))
    memory, pad, places = reserve_groups(like, n, 2 * (size << shift))
    return memory, (shift, size, size << shift), pad, places


@inlined
def aligned_row(array, lo):
    """The first row from `lo` on that begins a vector of column-major rows; else `lo`."""
    return lo + elements_to_vector(array, lo) if has_columns(array) else lo


@inlined
def first_group(rows, width):
    """Where the first group of the rows (lo, hi, aligned) begins: an incomplete one before `lo`."""
    lo, _, aligned = rows
    return aligned - width if aligned > lo else lo


@inlined_by_llvm
def group_of_tile(at, rows, width, layout, pad):
    """The group from row `at` on of the rows (lo, hi, aligned), and its place in scratch memory.

    A tile is: the number of the group in it, its complete groups and those of the tiles before and
    of the next one, the offset from the group to the other tile, the size of a group, and the
    logarithm of the groups of a whole tile.
    """
    (shift, size, tile_size), (lo, hi, aligned) = layout, rows
    first = larger(at, lo)
    count = smaller(at + width, hi) - first
    index, complete, whole = (at - aligned) // width, (hi - aligned) // width, 1 << shift
    k = index & (whole - 1)
    before = index - k
    groups, following = smaller(complete - before, whole), smaller(complete - before - whole, whole)
    is_second = (before >> shift) & 1
    offset = k * size + is_second * tile_size
    to_other = tile_size - 2 * is_second * tile_size - k * size
    return offset, (first, count, pad, (k, groups, before, following, to_other, size, shift))


@inlined
def is_complete(columns, group):
    """Whether a group has as many rows as a vector has lanes: then it is part of a tile."""
    return group[1] == lanes_of(columns)


# --- the first tile, incomplete groups ------------------------------------------------------


@subroutine
def read_first_tile(x, step, n, tile, groups, size):
    """Copy n classes, `step` apart, into a tile, and m = max_j x_j of each group after it.

    The copy is by blocks of classes, so that m is in a register during a block.
    """
    width = lanes_of(tile)
    for first in range(0, n, _CLASSES_AHEAD):
        for k in range(groups):
            at = k * size
            m = load(tile, at + n * width) if first else splat(tile, -math.inf)
            for j in range(first, smaller(first + _CLASSES_AHEAD, n)):
                column = load(x, j * step + k * width)
                prefetch(x, (j + _CLASSES_AHEAD) * step + k * width)
                store(tile, at + j * width, column)
                m = maximum(m, column)
            store(tile, at + n * width, m)


@subroutine
def read_part(x, step, n, columns, count):
    """Copy the columns of an incomplete group, filled up with 0; return their maximum."""
    m = splat(columns, -math.inf)
    for j in range(n):
        column = load_part(advance(x, j * step), 0, count, 0.0)
        store(columns, j * lanes_of(columns), column)
        m = maximum(m, column)
    return m


@inlined
def set_factor(columns, n, factor):
    """Store the factor of a group's results until they are written; None for 1."""
    store(columns, (n + 1) * lanes_of(columns), scale_by(splat(columns, 1.0), factor))


@subroutine
def _write_part(columns, out, step, n, count):
    """Write the results of an incomplete group."""
    factor = load(columns, (n + 1) * lanes_of(columns))
    for j in range(n):
        column = load(columns, j * lanes_of(columns))
        store_part(advance(out, j * step), 0, count, scale_by(column, factor))


# --- lines ----------------------------------------------------------------------------------


@inlined
def _portion_of(n, columns, group):
    """A group's portion of the lines of the other tile: as many as there are classes."""
    _, _, _, (k, _, _, _, to_other, size, shift) = group
    return view(columns, to_other, columns), k * n, size, shift


@inlined
def _line(portion, j):
    """Class and group of line j."""
    _, begin, _, shift = portion
    q = begin + j
    return q >> shift, q & ((1 << shift) - 1)


@inlined
def _first_of_rows(array, portion, first):
    """Where line 0 of a tile would be if those of this portion were the rows from `first` on."""
    tile, begin, _, _ = portion
    return advance(row(array, first), -begin * lanes_of(tile))


@inlined_by_llvm
def _lines_ahead(array, n, columns, portion, group):
    """What `read_line` takes: the lines of the next tile, or the next group of rows."""
    (first, _, _, (k, _, _, following, _, _, _)), (tile, _, size, shift) = group, portion
    width = lanes_of(columns)
    if not has_columns(array):
        return _first_of_rows(array, portion, first + width), width << shift, 0, 0, n
    groups = larger(following, 0) if is_complete(columns, group) else 0
    if k == 0:
        for i in range(groups):
            store(tile, i * size + n * width, splat(columns, -math.inf))
    step = class_step(array)
    x = row(array, first + ((1 << shift) - k) * width)
    return x, step, (LINES_AHEAD >> shift) * step, groups, n


@inlined
def read_line(lines, portion, j):
    """Read line j of a portion of the next tile, and prefetch a later one."""
    (x, step, ahead, groups, n), (tile, _, size, _), (c, k) = lines, portion, _line(portion, j)
    width = lanes_of(tile)
    at = c * step + k * width
    prefetch(x, at + ahead)
    if k < groups:
        column, columns = load(x, at), k * size
        store(tile, columns + c * width, column)
        m = columns + n * width
        store(tile, m, maximum(load(tile, m), column))


@inlined
def _is_streamed(array, n, first):
    """Whether column-major rows are written past the caches: many, each class at a whole line."""
    span = class_step(array) * itemsize(array)
    aligned = span & (VECTOR_BYTES - 1) == 0 and elements_to_vector(array, first) == 0
    return aligned and span * n > STREAMED_BYTES


@inlined_by_llvm
def _lines_behind(array, n, columns, portion, group):
    """What `write_line` takes: the lines of the previous tile, or the next group of rows."""
    (first, _, _, (k, _, before, _, _, _, shift)), width = group, lanes_of(columns)
    if not has_columns(array):
        return _first_of_rows(array, portion, first + width), width << shift, 0, n, (False, False)
    if before <= 0 or not is_complete(columns, group):
        return row(array, first), 0, 0, n, (False, False)
    out, step = row(array, first - (k + (1 << shift)) * width), class_step(array)
    return out, step, (LINES_AHEAD >> shift) * step, n, (True, _is_streamed(array, n, first))


@inlined
def write_line(lines, portion, j):
    """Write line j of a portion of the previous tile, or prefetch one of the next rows."""
    (out, step, ahead, n, (is_there, streamed)), (c, k) = lines, _line(portion, j)
    tile, _, size, _ = portion
    width = lanes_of(tile)
    at = c * step + k * width
    if not is_there:
        prefetch_to_write(out, at)
        return
    columns = k * size
    column = load(tile, columns + c * width) * load(tile, columns + (n + 1) * width)
    if streamed:
        stream(out, at, column)
    else:
        prefetch_to_write(out, at + ahead)
        store(out, at, column)


@inlined_by_llvm
def lines_of_group(x, out, n, columns, group):
    """A group's portion, and what `read_line` takes for x, `write_line` for out."""
    portion = _portion_of(n, columns, group)
    ahead = _lines_ahead(x, n, columns, portion, group)
    return portion, ahead, _lines_behind(out, n, columns, portion, group)


@inlined_by_llvm
def _read_ahead(tile, array, columns, group):
    n = array.shape[1]
    if has_columns(array):
        portion = _portion_of(n, columns, group)
        lines = _lines_ahead(array, n, columns, portion, group)
        for j in range(n):
            read_line(lines, portion, j)


@inlined
def read_ahead(array, columns, group):
    """Read a group's portion of the next tile at once."""
    if_requested(group[3], _read_ahead, (array, columns, group))


@inlined_by_llvm
def _write_behind(tile, array, columns, group):
    n = array.shape[1]
    if has_columns(array):
        portion = _portion_of(n, columns, group)
        lines = _lines_behind(array, n, columns, portion, group)
        for j in range(n):
            write_line(lines, portion, j)


@inlined
def write_behind(array, columns, group):
    """Write a group's portion of the previous tile at once."""
    if_requested(group[3], _write_behind, (array, columns, group))


@subroutine
def _write_lines(lines, portion, groups, begin, end):
    """Write the lines of the first `groups` groups among lines begin..end."""
    shift = portion[3]
    for j in range(begin, end):
        if j & ((1 << shift) - 1) < groups:
            write_line(lines, portion, j)


@inlined_by_llvm
def _write_rest(tile, array, columns, group):
    n, (first, count, _, _) = array.shape[1], group
    k, groups, before, following, _, size, shift = tile
    if not has_columns(array):
        return
    if not is_complete(columns, group):
        _write_part(columns, row(array, first), class_step(array), n, count)
    elif k + 1 == groups and following <= 0:
        whole, portion = 1 << shift, _portion_of(n, columns, group)
        if before > 0:  # portions are those of a whole tile
            lines = _lines_behind(array, n, columns, portion, group)
            _write_lines(lines, portion, whole, n, (whole - k) * n)
        out, step = row(array, first - k * lanes_of(columns)), class_step(array)
        flags = True, _is_streamed(array, n, first)
        last = out, step, (LINES_AHEAD >> shift) * step, n, flags
        this = view(columns, -k * size, columns), 0, size, shift
        _write_lines(last, this, groups, 0, whole * n)
        fence()


@inlined
def write_rest(array, columns, group):
    """Write what no later group writes: an incomplete group; after the last one, both tiles."""
    if_requested(group[3], _write_rest, (array, columns, group))
