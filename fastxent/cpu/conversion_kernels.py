"""The kernel that copies rows between layouts and types of floats."""

from fastxent.cpu.groups import (
    aligned_row,
    copy_rows,
    first_group,
    group_at,
    has_columns,
    read_ahead,
    read_group,
    reserve_tiles,
    steps,
    write_behind,
    write_group,
)
from fastxent.cpu.memory import lanes_of, row
from fastxent.cpu.scratch import release, view


# source (N, C) IN, out (N, C) OUT; of one of them rows or classes may be contiguous, or neither
def convert_rows(source, out, lo, hi):
    n, width = source.shape[1], lanes_of(row(source, lo))
    if has_columns(source) == has_columns(out):
        copy_rows(row(source, lo), steps(source), row(out, lo), steps(out), n, hi - lo)
        return
    memory, layout, pad, _ = reserve_tiles(source, n, 1, True)
    rows = lo, hi, aligned_row(out, lo)
    for begin in range(first_group(rows, width), hi, width):
        at, group = group_at(begin, rows, width, layout, pad)
        columns = view(memory, at, memory)
        read_group(source, columns, group)
        write_group(columns, None, None, None, out, group)
        write_behind(out, columns, group)
        read_ahead(source, columns, group)
    release(memory)
