"""The kernel that copies rows between layouts and types of floats."""

from fastxent.cpu.groups import copy_rows, group_at, read_group, reserve, steps, write_group
from fastxent.cpu.jit import subroutine
from fastxent.cpu.memory import lanes_of, row
from fastxent.cpu.scratch import release, view
from fastxent.cpu.tiles import (
    aligned_row,
    first_group,
    read_ahead,
    write_behind,
    write_rest,
)


@subroutine
def _convert_rows(source, out):
    """Copy rows (N, C); of each array rows or classes may be contiguous, or neither."""
    lo, hi = 0, len(source)
    n, width = source.shape[1], lanes_of(row(source, lo))
    a, b = steps(source), steps(out)
    # Tiles are for arrays of which one is column-major.
    if (a[1] == 1) == (b[1] == 1) or (a[1] != 1 and a[0] != 1) or (b[1] != 1 and b[0] != 1):
        copy_rows(row(source, lo), a, row(out, lo), b, n, hi)
        return
    memory, layout, pad, _ = reserve(source, n, 1, 0)
    rows = lo, hi, aligned_row(out, lo)
    for begin in range(first_group(rows, width), hi, width):
        at, group = group_at(begin, rows, width, layout, pad)
        columns = view(memory, at, memory)
        read_group(source, columns, group)
        write_group(columns, None, None, (None, None), out, group)
        write_behind(out, columns, group)
        read_ahead(source, columns, group)
        write_rest(out, columns, group)
    release(memory)


# source (P, N, C) IN, out (P, N, C) OUT
def convert_planes(source, out):
    for k in range(len(source)):
        _convert_rows(source[k], out[k])
