"""Kernel arguments by name: named tuples, the Numba type of each field, and their packing.

A kernel takes arrays, tuples of this file, and the rows lo..hi. Signatures and tuples are built
from the fields alone: a new option or output is a field here and a line in a kernel.
"""

import functools
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, get_type_hints

import numpy as np
from numba import types
from numpy.typing import NDArray

from fastxent.cpu.lanes import VECTOR_BYTES
from fastxent.records import Options, Outputs, Weights

Array = NDArray[Any]

FLOAT, INTEGER, FLAG = types.float64, types.int64, types.boolean
ELEMENTS = {"f": types.float32, "d": types.float64}
_Tuple: Any = types.Tuple
_NamedTuple: Any = types.NamedTuple


class Field(NamedTuple):
    """What a field of an argument holds: a number, or an array where it has a shape.

    The shape is "C", "N" or "NC", with one element per class, per row or both; dtype None is the
    element type of the rows. Absent is an empty array or, for outputs of shape "NC", None: their
    code is then gone from the compiled variant.
    """

    dtype: Any = None
    shape: str = ""
    out: bool = False


class WeightArrays(NamedTuple):
    """Weights of classes and rows.

    row_weight is class_weight in the element type, or ones without it, where the coefficients of
    all classes are needed (smoothing, weighted probabilities); total_weight is its sum. The weight
    of class j is element j·row_weight_step.
    """

    class_weight: Annotated[Any, Field(FLOAT, "C")]
    sample_weight: Annotated[Any, Field(FLOAT, "N")]
    row_weight: Annotated[Any, Field(shape="C")]
    row_weight_step: Annotated[int, Field(INTEGER)] = 1
    total_weight: Annotated[float, Field(FLOAT)] = 0.0


class KernelOptions(NamedTuple):
    """Options of a row's loss; softcap 0 is none.

    Rows with the label ignore_index are ignored if `ignoring`. hess_factor multiplies the Hessian
    before it is rounded.
    """

    ignoring: Annotated[bool, Field(FLAG)] = False
    ignore_index: Annotated[int, Field(INTEGER)] = 0
    one_minus_eps: Annotated[float, Field(FLOAT)] = 1.0
    eps_over_c: Annotated[float, Field(FLOAT)] = 0.0
    z_loss: Annotated[float, Field(FLOAT)] = 0.0
    logit_scale: Annotated[float, Field(FLOAT)] = 1.0
    softcap: Annotated[float, Field(FLOAT)] = 0.0
    hess_factor: Annotated[float, Field(FLOAT)] = 1.0


class OutputArrays(NamedTuple):
    """Arrays to fill. Of a binary loss, grad, probs and hess have one element per row."""

    loss: Annotated[Any, Field(shape="N", out=True)]
    lse: Annotated[Any, Field(shape="N", out=True)]
    argmax: Annotated[Any, Field(INTEGER, "N", out=True)]
    grad: Annotated[Any, Field(shape="NC", out=True)] = None
    probs: Annotated[Any, Field(shape="NC", out=True)] = None
    hess: Annotated[Any, Field(shape="NC", out=True)] = None


class BinaryWeights(NamedTuple):
    """Weights of a binary loss: arrays with step 1, or one vector of one number with step 0."""

    weight: Annotated[Any, Field(shape="N")]
    step: Annotated[int, Field(INTEGER)]
    pos_weight: Annotated[Any, Field(shape="N")]
    pos_step: Annotated[int, Field(INTEGER)]


class ClipBounds(NamedTuple):
    """Clipping of probabilities: see `fastxent.formulas.clipped` and `costs`."""

    bounds: Annotated[Any, Field(_Tuple((FLOAT,) * 4))]
    most: Annotated[float, Field(FLOAT)]
    floor: Annotated[float, Field(FLOAT)]


Kind = Any  # one of these classes


@functools.cache
def fields(kind: Kind) -> dict[str, Field]:
    """Return the fields of a named tuple of this file, in order."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: hints[name].__metadata__[0] for name in kind._fields}


def _positions(kind: Kind, shape: str) -> list[int]:
    return [k for k, field in enumerate(fields(kind).values()) if field.shape == shape]


PER_CLASS = [OutputArrays._fields[k] for k in _positions(OutputArrays, "NC")]
_PER_ROW = {kind: _positions(kind, "N") for kind in (WeightArrays, OutputArrays)}
_PER_CLASS = {kind: _positions(kind, "NC") for kind in (WeightArrays, OutputArrays)}
_EMPTY: dict[Any, Array] = {
    dtype: np.empty(0, char)
    for dtype, char in (("f", "f"), ("d", "d"), (FLOAT, "d"), (INTEGER, np.int64))
}


def array_type(dtype: Any, ndim: int, *, out: bool = False) -> Any:
    """Return the type of arrays of any layout, for inputs read-only: it takes every array."""
    return types.Array(dtype, ndim, "A", readonly=not out)


@functools.cache
def numba_type(kind: Kind, char: str, requested: tuple[str, ...] = (), ndim: int = 2) -> Any:
    """Return the Numba type of a named tuple for rows of an element type.

    `requested` are the outputs of shape "NC" that are not None, `ndim` is their dimensions.
    """
    members = []
    for name, (dtype, shape, out) in fields(kind).items():
        if not shape:
            members.append(dtype)
        elif shape == "NC" and name not in requested:
            members.append(types.none)
        else:
            dims = ndim if shape == "NC" else 1
            members.append(array_type(dtype or ELEMENTS[char], dims, out=out))
    return _NamedTuple(members, kind)


# The array fields that a call has by the same name, with what stands for an absent array.
_ABSENT: dict[Any, list[tuple[str, Array | None]]] = {
    (kind, char): [
        (name, None if shape == "NC" else _EMPTY[dtype or char])
        for name, (dtype, shape, _) in fields(kind).items()
        if name in record._fields
    ]
    for kind, record in ((WeightArrays, Weights), (OutputArrays, Outputs))
    for char in ELEMENTS
}
_SAME_OPTIONS = [name for name in KernelOptions._fields if name in Options._fields]


def _pack_arrays(kind: Kind, record: Any, char: str) -> dict[str, Any]:
    """Return the array fields of a named tuple from a record of the call."""
    return {
        name: absent if (array := getattr(record, name)) is None else array
        for name, absent in _ABSENT[kind, char]
    }


def pack_weights(
    weights: Weights, char: str, row_weight: Array | None = None, **numbers: Any
) -> WeightArrays:
    """Return the weights of a call, and those that a row needs of all classes."""
    row_weight = _EMPTY[char] if row_weight is None else row_weight
    arrays = _pack_arrays(WeightArrays, weights, char)
    return WeightArrays(**arrays, row_weight=row_weight, **numbers)


def pack_outputs(outputs: Outputs, char: str) -> OutputArrays:
    """Return the outputs of a call."""
    return OutputArrays(**_pack_arrays(OutputArrays, outputs, char))


@functools.lru_cache(256)
def pack_options(options: Options, n_classes: int) -> KernelOptions:
    """Return the options of a call; those that are None become 0."""
    smoothing = options.label_smoothing
    return KernelOptions(
        ignoring=options.ignore_index is not None,
        one_minus_eps=1.0 - smoothing,
        eps_over_c=smoothing / n_classes,
        **{name: getattr(options, name) or 0 for name in _SAME_OPTIONS},
    )


@functools.lru_cache(256)
def are_default(options: KernelOptions, known: frozenset[str]) -> bool:
    """Whether all options but the known ones have their default values."""
    defaults = KernelOptions._field_defaults
    return all(
        getattr(options, name) == defaults[name]
        for name in KernelOptions._fields
        if name not in known
    )


def are_absent(outputs: Outputs, known: frozenset[str]) -> bool:
    """Whether all outputs but the known ones are absent."""
    for name, array in zip(Outputs._fields, outputs, strict=True):
        if array is not None and name not in known:
            return False
    return True


def requested(outputs: OutputArrays | Outputs) -> tuple[str, ...]:
    """Return the names of the outputs of shape "NC" that are not None."""
    return tuple([name for name in PER_CLASS if getattr(outputs, name) is not None])


def at_row(arguments: Any, base: int, per_class: Sequence[Any] | None = None) -> Any:
    """Return the arguments from row `base` on, with these arrays for those of shape "NC"."""
    if not base and per_class is None:
        return arguments
    members, kind = list(arguments), type(arguments)
    if base:
        for k in _PER_ROW[kind]:
            members[k] = members[k][base:]
    for k, array in zip(_PER_CLASS[kind], per_class or (), strict=True):
        members[k] = array
    return kind._make(members)


_CONSTANTS = {char: np.ones(VECTOR_BYTES // np.dtype(char).itemsize, char) for char in "fd"}


def constant_weight(number: float | None, char: str) -> Array:
    """Return one vector of a weight that is the same everywhere, to be read with step 0."""
    if number is None:
        return _CONSTANTS[char]
    with np.errstate(all="ignore"):  # float32 may not hold it
        return np.full_like(_CONSTANTS[char], number)
