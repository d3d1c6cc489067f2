"""Class indices as int64, read from integers of any width.

Arrays of labels have one type in kernels, whatever their width: an array says how many bytes a
label has, `label_mask` which of their bits count after the sign has been extended; it is -1, but
for unsigned labels of fewer than 8 bytes the largest of them.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from fastxent.cpu.jit import inlined, subroutine
from fastxent.cpu.lanes import I64, build_splat
from fastxent.cpu.memory import advance, row
from fastxent.cpu.scratch import view


class Label(types.Type):
    """The Numba type of a class index in memory: an integer of any width."""

    bitwidth = 64


LABEL = Label("label")
register_model(Label)(models.OpaqueModel)


@inlined
def are_contiguous(labels):
    """Whether labels lie side by side."""
    return labels.strides[0] == labels.itemsize


@inlined
def are_int64s(labels):
    """Whether labels lie side by side and need no copy: 8 bytes each."""
    return labels.strides[0] == labels.itemsize == 8


@inlined
def labels_from(labels, first):
    """A pointer to labels from `first` on, whatever their width."""
    return view(row(labels, first), 0, np.int64)


@subroutine
def read_label(labels, i, mask):
    """Label i."""
    at = row(labels, i)
    if labels.itemsize == 8:
        return view(at, 0, np.int64)[0]
    if labels.itemsize == 4:
        return np.int64(view(at, 0, np.int32)[0]) & mask
    if labels.itemsize == 2:
        return np.int64(view(at, 0, np.int16)[0]) & mask
    return np.int64(view(at, 0, np.int8)[0]) & mask


# Labels that are widened at a time: no more than a vector has lanes, of any type.
_WIDTH = 8


@intrinsic
def _widen(typingctx, labels, itemsize, mask, out):
    """Write _WIDTH labels that lie side by side as int64, read by one load."""
    wide = ir.VectorType(I64, _WIDTH)

    def lower(context, builder, sig, args):
        pointer, itemsize, mask, out = args
        out = builder.bitcast(out, wide.as_pointer())
        end = builder.append_basic_block("labels_are_wide")
        blocks = {size: builder.append_basic_block(f"labels_of_{size}") for size in (1, 2, 4, 8)}
        switch = builder.switch(itemsize, blocks[1])
        for size, block in blocks.items():
            if size > 1:
                switch.add_case(I64(size), block)
            builder.position_at_end(block)
            narrow = ir.VectorType(ir.IntType(8 * size), _WIDTH)
            value = builder.load(builder.bitcast(pointer, narrow.as_pointer()), align=size)
            if size < 8:
                value = builder.and_(builder.sext(value, wide), build_splat(builder, mask, wide))
            builder.store(value, out, align=8)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.none(labels, types.int64, types.int64, out), lower


@subroutine
def copy_labels(labels, first, count, mask, out):
    """Copy labels to int64, each read once."""
    whole = count & -_WIDTH if are_contiguous(labels) else 0
    for k in range(0, whole, _WIDTH):
        _widen(labels_from(labels, first + k), labels.itemsize, mask, advance(out, k))
    for k in range(whole, count):
        out[k] = read_label(labels, first + k, mask)
