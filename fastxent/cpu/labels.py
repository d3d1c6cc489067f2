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
def are_plain(labels):
    """Whether labels are int64, side by side."""
    return labels.itemsize == 8 and labels.strides[0] == 8


@inlined
def plain_labels(labels, first):
    """A pointer to labels that are plain."""
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


# Labels that are widened at a time.
_WIDTH = 16


@intrinsic
def _widen(typingctx, labels, mask, out):
    """Write _WIDTH labels that lie side by side as int64."""
    width, kind = _WIDTH, labels.dtype

    def lower(context, builder, sig, args):
        pointer, mask, out = args
        narrow = ir.VectorType(ir.IntType(kind.bitwidth), width)
        value = builder.load(builder.bitcast(pointer, narrow.as_pointer()), align=1)
        wide = ir.VectorType(I64, width)
        value = value if kind.bitwidth == 64 else builder.sext(value, wide)
        value = builder.and_(value, build_splat(builder, mask, wide))
        builder.store(value, builder.bitcast(out, wide.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.none(labels, types.int64, out), lower


@inlined
def _copy(labels, step, count, mask, out):
    whole = count & -_WIDTH if step == 1 else 0
    for k in range(0, whole, _WIDTH):
        _widen(advance(labels, k), mask, advance(out, k))
    for k in range(whole, count):
        out[k] = np.int64(labels[k * step]) & mask


@subroutine
def copy_labels(labels, first, count, mask, out):
    """Copy labels to int64, each read once."""
    at, step = row(labels, first), labels.strides[0] // labels.itemsize
    if labels.itemsize == 8:
        _copy(view(at, 0, np.int64), step, count, -1, out)
    elif labels.itemsize == 4:
        _copy(view(at, 0, np.int32), step, count, mask, out)
    elif labels.itemsize == 2:
        _copy(view(at, 0, np.int16), step, count, mask, out)
    else:
        _copy(view(at, 0, np.int8), step, count, mask, out)
