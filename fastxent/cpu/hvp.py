"""Hessian-vector products of rows on the CPU: select a kernel and run it over blocks of rows."""

import functools
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from fastxent.cpu import arguments, jit
from fastxent.cpu.arguments import (
    ELEMENTS,
    FLOAT,
    INTEGER,
    KernelOptions,
    WeightArrays,
    array_type,
    at_row,
)
from fastxent.cpu.blocks import find_operands, for_each_block
from fastxent.cpu.label_type import LABEL
from fastxent.cpu.launch import (
    FEW_CLASSES_OPTIONS,
    LABELS,
    MAX_COLUMNS,
    ROWS,
    has_few_classes,
    layout_of,
    pack_options,
    pack_row_weights,
)
from fastxent.records import Call

Array = NDArray[Any]

_SUPPORT = arguments.Support(FEW_CLASSES_OPTIONS, {"out"})


def signature(
    chars: tuple[str, ...], target_char: str, layout: tuple[Any, ...] = ()
) -> tuple[Any, ...]:
    """Return the types of a kernel's arguments (logits, target, vector, …, lo, hi).

    `chars` are the letters of the logits, the vector and the result; `target_char` is that of
    probabilities, LABELS of class indices.
    """
    x, vector = (array_type(ELEMENTS[char], 2) for char in chars[:2])
    is_labels = target_char == LABELS
    target = array_type(LABEL, 1) if is_labels else array_type(ELEMENTS[target_char], 2)
    records = [arguments.numba_type(kind, chars[0]) for kind in (WeightArrays, KernelOptions)]
    others = [arguments.numba_type(kind, chars[0]) for kind in map(type, layout)]
    out = array_type(ELEMENTS[chars[2]], 2, out=True)
    return x, target, vector, *records, *others, FLOAT, out, INTEGER, INTEGER


def _source(layout: tuple[Any, ...]) -> jit.Source:
    return jit.Source("few_class_hvp_kernels" if layout else "hvp_kernels", "hvp_rows")


@functools.cache
def _kernel(
    chars: tuple[str, ...], target_char: str, layout: tuple[Any, ...]
) -> Callable[..., Any]:
    return jit.specialise(_source(layout), signature(chars, target_char, layout))


def product_kernel(char: str, few: bool) -> tuple[jit.Source, tuple[Any, ...]]:
    """The kernel of class indices for rows of one type, and the types of its arguments."""
    layout = ROWS if few else ()
    return _source(layout), signature((char,) * 3, LABELS, layout)


def cross_entropy_hvp(call: Call) -> None:
    """Fill `out` with the products of all rows; zeros for the mean of no rows."""
    assert call.target is not None
    x, vector, out, compute = call.x, call.vector, call.outputs.out, call.compute
    labels, probs = call.target
    if not call.divisor:
        out.fill(0)
        return
    n_classes, packed = x.shape[-1], pack_options(call)
    weights = pack_row_weights(
        call.weights, call.options.label_smoothing, labels is None, True, n_classes, compute
    )
    enough = _SUPPORT.is_enough(packed, call.outputs)
    inputs = (x, vector) if probs is None else (x, vector, probs)
    operands = find_operands(inputs, (out,), compute, columns=enough and n_classes <= MAX_COLUMNS)
    few = enough and has_few_classes("product", compute.char, n_classes)
    layout, chars = layout_of(few, operands.planes), [dtype.char for dtype in operands.types]
    target_char = LABELS if probs is None else chars[2]
    kernel = _kernel((*chars[:2], chars[-1]), target_char, layout)

    def bind(arrays: list[Array | None], base: int) -> Callable[[int, int], Any]:
        target = labels[base:] if probs is None else arrays[2]
        return functools.partial(
            kernel, arrays[0], target, arrays[1], at_row(weights, base), packed, *layout,
            call.divisor, arrays[-1],
        )  # fmt: skip

    for_each_block(bind, operands)
