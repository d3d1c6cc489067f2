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
def labels_from(labels, first):
    """A pointer to labels from `first` on, for a reader that knows how many bytes each has."""
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


def build_labels(builder, pointer, itemsize, mask, width):
    """A vector of labels that lie side by side, each of `itemsize` bytes, by one load."""
    wide = ir.VectorType(I64, width)
    blocks = [(size, builder.append_basic_block(f"labels_of_{size}")) for size in (1, 2, 4, 8)]
    end = builder.append_basic_block("labels_are_read")
    switch = builder.switch(itemsize, blocks[0][1])
    found = []
    for size, block in blocks:
        if block is not blocks[0][1]:
            switch.add_case(I64(size), block)
        builder.position_at_end(block)
        narrow = ir.VectorType(ir.IntType(8 * size), width)
        value = builder.load(builder.bitcast(pointer, narrow.as_pointer()), align=size)
        found.append((value if size == 8 else builder.sext(value, wide), block))
        builder.branch(end)
    builder.position_at_end(end)
    y = builder.phi(wide)
    for value, block in found:
        y.add_incoming(value, block)
    return builder.and_(y, build_splat(builder, mask, wide))


# Labels that are widened at a time.
_WIDTH = 16


@intrinsic
def _widen(typingctx, labels, itemsize, mask, out):
    """Write _WIDTH labels that lie side by side as int64."""

    def lower(context, builder, sig, args):
        *labels, out = args
        y = build_labels(builder, *labels, _WIDTH)
        builder.store(y, builder.bitcast(out, y.type.as_pointer()), align=8)
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
