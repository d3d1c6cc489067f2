"""Kernel arguments by name: named tuples, the Numba type of each field, and their packing.

A kernel takes arrays, tuples of this file, and the rows lo..hi. Options and outputs are those of
the records `Options` and `Outputs`: a new one takes a field there and a line in a kernel.
Signatures and tuples are built from the fields alone.
"""

import collections
import functools
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from fastxent.cpu.half_lanes import BFLOAT16, FLOAT16
from fastxent.cpu.lanes import VECTOR_BYTES, arithmetic_type
from fastxent.options import Clip, Options
from fastxent.records import NO_WEIGHTS, Outputs, Weights
from fastxent.results import RULES, Extent, Type

Array = NDArray[Any]

FLOAT, INTEGER, FLAG, NONE = types.float64, types.int64, types.boolean, types.none
# By the letter of a NumPy type: its Numba type in memory, and that of its arithmetic.
ELEMENTS = {"f": types.float32, "d": types.float64, "e": FLOAT16, "E": BFLOAT16}
ARITHMETIC = {char: arithmetic_type(dtype) for char, dtype in ELEMENTS.items()}
_Tuple: Any = types.Tuple
_NamedTuple: Any = types.NamedTuple
_namedtuple: Any = collections.namedtuple


class Field(NamedTuple):
    """What a field of an argument holds: a number, or an array where it has a shape.

    The shape is "C", "N" or "NC", with one element per class, per row or both. dtype None is the
    element type of the rows for "NC", else that of their arithmetic. An absent array is empty or,
    for outputs that cost work per element, None: then their code is not compiled.
    """

    dtype: Any = None
    shape: str = ""
    out: bool = False
    may_be_none: bool = False


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


class BinaryWeights(NamedTuple):
    """Weights of a binary loss: arrays with step 1, or one vector of one number with step 0."""

    weight: Annotated[Any, Field(shape="N")]
    step: Annotated[int, Field(INTEGER)]
    pos_weight: Annotated[Any, Field(shape="N")]
    pos_step: Annotated[int, Field(INTEGER)]


# The other options are numbers that kernels take as they are; 0 for None.
_IGNORE_INDEX, _SMOOTHING, *_NUMBERS = Options._fields
_OPTION_FIELDS = {
    "ignoring": Field(FLAG), _IGNORE_INDEX: Field(INTEGER), "one_minus_eps": Field(FLOAT),
    "eps_over_c": Field(FLOAT), **dict.fromkeys(_NUMBERS, Field(FLOAT)),
    "label_mask": Field(INTEGER),
}  # fmt: skip
_OUTPUT_FIELDS = {
    name: Field(
        INTEGER if rule.type is Type.INDEX else None,
        "NC" if rule.extent is Extent.PER_CLASS else "N", True, rule.costs_per_class,
    )
    for name, rule in RULES.items() if name != "out"
}  # fmt: skip
# Options of a row's loss: rows with the label ignore_index are ignored if `ignoring`.
KernelOptions: Any = _namedtuple("KernelOptions", _OPTION_FIELDS)
# Arrays to fill. Of a binary loss those per class have one element per row.
OutputArrays: Any = _namedtuple("OutputArrays", _OUTPUT_FIELDS)

FIELDS: dict[Any, dict[str, Field]] = {
    **{
        record: {name: of.__metadata__[0] for name, of in record.__annotations__.items()}
        for record in (WeightArrays, BinaryWeights)
    },
    Clip: {
        "bounds": Field(_Tuple((FLOAT,) * 4)), "most": Field(FLOAT), "floor": Field(FLOAT)
    },
    KernelOptions: _OPTION_FIELDS,
    OutputArrays: _OUTPUT_FIELDS,
}  # fmt: skip


_PER_ROW = [k for k, field in enumerate(_OUTPUT_FIELDS.values()) if field.shape == "N"]
_MAY_BE_NONE = [
    (name, k) for k, (name, field) in enumerate(_OUTPUT_FIELDS.items()) if field.may_be_none
]
_PER_CLASS = [
    (name, k) for k, (name, field) in enumerate(_OUTPUT_FIELDS.items()) if field.shape == "NC"
]
_EMPTY: dict[Any, Array] = {"f": np.empty(0, "f"), "d": np.empty(0), INTEGER: np.empty(0, np.int64)}
NO_OUTPUTS: dict[str, Any] = {
    char: OutputArrays._make(
        None if field.may_be_none else _EMPTY[field.dtype or char]
        for field in _OUTPUT_FIELDS.values()
    )
    for char in "fd"
}
NO_WEIGHT_ARRAYS = {char: WeightArrays(_EMPTY["d"], _EMPTY["d"], _EMPTY[char]) for char in "fd"}


def array_type(dtype: Any, ndim: int, *, out: bool = False) -> Any:
    """The type of arrays of any layout; inputs are read-only, so that every array is accepted."""
    return types.Array(dtype, ndim, "A", readonly=not out)


@functools.cache
def numba_type(kind: Any, char: str, requested: tuple[str, ...] = (), ndim: int = 2) -> Any:
    """The Numba type of a named tuple for rows of an element type, of None, or of an integer.

    `requested` names the optional outputs that are not None; `ndim` is the number of dimensions of
    outputs of shape "NC".
    """
    if kind not in FIELDS:
        return NONE if kind is type(None) else INTEGER
    members = []
    for name, (dtype, shape, out, may_be_none) in FIELDS[kind].items():
        if not shape:
            members.append(dtype)
        elif may_be_none and name not in requested:
            members.append(types.none)
        else:
            dims, of_rows = (ndim, ELEMENTS) if shape == "NC" else (1, ARITHMETIC)
            members.append(array_type(dtype or of_rows[char], dims, out=out))
    return _NamedTuple(members, kind)


def pack_weights(
    weights: Weights, char: str, row_weight: Array | None = None, row_weight_step: int = 1,
    total_weight: float = 0.0,
) -> WeightArrays:  # fmt: skip
    """Pack the weights of a call, and those of all classes where a row needs them."""
    if weights is NO_WEIGHTS and row_weight is None:
        return NO_WEIGHT_ARRAYS[char]
    empty = _EMPTY["d"]
    return WeightArrays(
        empty if weights.class_weight is None else weights.class_weight,
        empty if weights.sample_weight is None else weights.sample_weight,
        _EMPTY[char] if row_weight is None else row_weight, row_weight_step, total_weight,
    )  # fmt: skip


@functools.lru_cache(256)
def pack_options(options: Options, n_classes: int, label_mask: int = -1) -> Any:
    """The options of a call."""
    ignore_index, smoothing, *numbers = options
    return KernelOptions(
        ignore_index is not None, ignore_index or 0, 1.0 - smoothing, smoothing / n_classes,
        *[number or 0.0 for number in numbers], label_mask,
    )  # fmt: skip


def label_mask(dtype: np.dtype[Any]) -> int:
    """The bits of a label of this type that are used; see `labels.py`."""
    return (1 << 8 * dtype.itemsize) - 1 if dtype.kind == "u" and dtype.itemsize < 8 else -1


def pack_outputs(outputs: Outputs, char: str, blocks: Sequence[Array | None], base: int = 0) -> Any:
    """The outputs of a call from row `base` on, with these blocks for those of shape "NC"."""
    pairs = zip(outputs[1:], NO_OUTPUTS[char], strict=True)
    members = [absent if array is None else array for array, absent in pairs]
    if base:
        for k in _PER_ROW:
            if members[k] is not None:
                members[k] = members[k][base:]
    for (_, k), array in zip(_PER_CLASS, blocks, strict=True):
        members[k] = array
    return OutputArrays._make(members)


_AROUND_GRAD = {char: (outputs[:1], outputs[2:]) for char, outputs in NO_OUTPUTS.items()}


def only_grad(grad: Array | None, char: str) -> tuple[Any, ...]:
    """The outputs of a plain call, as a plain tuple: to make a named one takes time."""
    before, after = _AROUND_GRAD[char]
    return (*before, grad, *after)


def per_class(outputs: Outputs) -> list[Array | None]:
    """The outputs of shape "NC"."""
    return [outputs[k + 1] for _, k in _PER_CLASS]


def requested(outputs: Outputs) -> tuple[str, ...]:
    """The names of the optional outputs that are not None."""
    return tuple([name for name, k in _MAY_BE_NONE if outputs[k + 1] is not None])


def at_row(weights: WeightArrays, base: int) -> WeightArrays:
    """The weights from row `base` on."""
    if not base:
        return weights
    return weights._replace(sample_weight=weights.sample_weight[base:])


class Support:
    """The options and outputs that a kernel supports."""

    def __init__(self, options: set[str], outputs: set[str]) -> None:
        defaults = pack_options(Options(), 1)
        self.options, self.outputs = options, outputs
        self._others = [
            (k, defaults[k]) for k, name in enumerate(KernelOptions._fields) if name not in options
        ]
        self._absent = [k for k, name in enumerate(Outputs._fields) if name not in outputs]

    def is_enough(self, options: Any, outputs: Outputs) -> bool:
        """Whether all other options have their defaults, and all other outputs are absent."""
        for k, default in self._others:
            if options[k] != default:
                return False
        for k in self._absent:
            if outputs[k] is not None:
                return False
        return True


_CONSTANTS = {char: np.ones(VECTOR_BYTES // np.dtype(char).itemsize, char) for char in "fd"}


def constant_weight(number: float | None, char: str) -> Array:
    """One vector of a constant weight, to be read with step 0."""
    if number is None:
        return _CONSTANTS[char]
    with np.errstate(all="ignore"):  # float32 may not hold it
        return np.full_like(_CONSTANTS[char], number)
