"""Class indices as int64, read from integers of any width.

Arrays of labels have one type in kernels, whatever their width: the array holds the number of bytes
of a label. `label_mask` is applied after sign extension: it is -1 or, for unsigned labels of fewer
than 8 bytes, their largest value.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np import arrayobj

from fastxent.cpu.jit import inlined, subroutine
from fastxent.cpu.label_type import LABEL
from fastxent.cpu.lanes import I64, build_splat
from fastxent.cpu.memory import advance, row
from fastxent.cpu.scratch import view


@inlined
def are_contiguous(labels):
    """Whether labels are contiguous."""
    return labels.strides[0] == labels.itemsize


@inlined
def are_int64s(labels):
    """Whether labels are contiguous and of 8 bytes, so that they need no copy."""
    return labels.strides[0] == labels.itemsize == 8


@inlined
def labels_from(labels, first):
    """A pointer to labels from `first` on, whatever their width."""
    return view(row(labels, first), 0, np.int64)


@intrinsic
def labels_at(typingctx, address, itemsize, count):
    """An array of `count` contiguous labels of this size from an address on."""
    kind = types.Array(LABEL, 1, "A", readonly=True)

    def lower(context, builder, sig, args):
        at, size, n = args
        array = context.make_array(kind)(context, builder)
        data = builder.inttoptr(at, context.get_data_type(LABEL).as_pointer())
        arrayobj.populate_array(array, data, (n,), (size,), size, None)
        return array._getvalue()

    return kind(types.int64, types.int64, types.int64), lower


# Labels that are widened at a time: no more than a vector has lanes, of any type.
_WIDTH = 8


def _build_labels(builder, pointer, itemsize, mask, width=None):
    """Load a label, or a vector of contiguous labels, of `itemsize` bytes each by one load.

    Labels of 8 bytes need no mask.
    """

    def of(bits):
        return ir.VectorType(ir.IntType(bits), width) if width else ir.IntType(bits)

    widened, end = of(64), builder.append_basic_block("labels_are_read")
    mask = build_splat(builder, mask, widened) if width else mask
    blocks = {size: builder.append_basic_block(f"labels_of_{size}") for size in (8, 4, 2, 1)}
    switch, loads = builder.switch(itemsize, blocks[1]), []
    for size, block in blocks.items():
        if size > 1:
            switch.add_case(I64(size), block)
        builder.position_at_end(block)
        label = builder.load(builder.bitcast(pointer, of(8 * size).as_pointer()), align=size)
        if size < 8:
            label = builder.and_(builder.sext(label, widened), mask)
        loads.append((label, block))
        builder.branch(end)
    builder.position_at_end(end)
    y = builder.phi(widened)
    for incoming in loads:
        y.add_incoming(*incoming)
    return y


@intrinsic
def _label_at(typingctx, pointer, itemsize, mask):
    def lower(context, builder, sig, args):
        return _build_labels(builder, *args)

    return types.int64(pointer, types.int64, types.int64), lower


@inlined
def read_label(labels, i, mask):
    """Label i."""
    return _label_at(labels_from(labels, i), labels.itemsize, mask)


@intrinsic
def _widen(typingctx, pointer, itemsize, mask, out):
    """Write _WIDTH contiguous labels as int64."""

    def lower(context, builder, sig, args):
        *labels, out = args
        y = _build_labels(builder, *labels, _WIDTH)
        builder.store(y, builder.bitcast(out, y.type.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.none(pointer, types.int64, types.int64, out), lower


@subroutine
def copy_labels(labels, first, count, mask, out):
    """Copy labels to int64, each read once."""
    whole = count & -_WIDTH if are_contiguous(labels) else 0
    for k in range(0, whole, _WIDTH):
        _widen(labels_from(labels, first + k), labels.itemsize, mask, advance(out, k))
    for k in range(whole, count):
        out[k] = read_label(labels, first + k, mask)
