"""The binary losses on the CPU: elements of any shape, weights that broadcast against it."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from fastxent.cpu import binary_kernels, jit
from fastxent.cpu.blocks import Operand, for_each_block
from fastxent.cpu.launch import CLIP, DTYPES, NO_FLOATS, add_up, array_type, constant_vector
from fastxent.terms import Clip, Outputs

Array = NDArray[Any]
DType = np.dtype[Any]

_tuple: Any = types.UniTuple
_STEPS = _tuple(types.int64, 2)


@functools.cache
def _kernel(char: str, of_logits: bool, *wanted: bool) -> Callable[..., Any]:
    given, out = array_type(DTYPES[char], 1), array_type(DTYPES[char], 1, out=True)
    outs = [out, *(out if want else types.none for want in wanted)]
    span = (types.int64, types.int64)
    if of_logits:
        signature = (*[given] * 4, _STEPS, types.float64, *outs, *span)
        return jit.specialise(binary_kernels.binary_logits, signature)
    signature = (*[given] * 3, _STEPS, types.float64, CLIP, *outs, *span)
    return jit.specialise(binary_kernels.binary_probs, signature)


def binary_logits(
    x: Array, target: Array, weight: Array | None, pos_weight: Array | None,
    divisor: float, outputs: Outputs, compute: DType,
) -> float:  # fmt: skip
    """Fill the outputs, shaped as x; return Σ of the losses / divisor."""
    outs = [outputs.loss, outputs.grad, outputs.probs, outputs.hess]
    kernel = _kernel(compute.char, True, *(out is not None for out in outs[1:]))
    return _run(kernel, [x, target], [weight, pos_weight], (), divisor, outs, compute)


def binary_probs(
    x: Array, target: Array, weight: Array | None, clip: Clip,
    divisor: float, outputs: Outputs, compute: DType,
) -> float:  # fmt: skip
    """Fill loss and grad, shaped as x; return Σ of the losses / divisor."""
    outs = [outputs.loss, outputs.grad]
    kernel = _kernel(compute.char, False, outputs.grad is not None)
    return _run(kernel, [x, target], [weight], (tuple(clip),), divisor, outs, compute)


def _run(
    kernel: Callable[..., Any], given: list[Array], weights: list[Array | None],
    options: tuple[Any, ...], divisor: float, outs: list[Array | None], compute: DType,
) -> float:  # fmt: skip
    """The kernel over all elements; weights that are one number stay one vector of it."""
    shape = given[0].shape
    numbers: list[Array | None] = []
    spread: list[Array] = []
    for weight in weights:
        if weight is not None and weight.size != 1:
            numbers.append(None)
            spread.append(np.broadcast_to(weight, shape))
        else:
            numbers.append(constant_vector(1.0 if weight is None else weight.item(), compute))
    steps = (*(int(number is None) for number in numbers), 0)[:2]
    n_given = len(given)

    def call(arrays: list[Array | None], base: int, lo: int, hi: int) -> float:
        varying = iter(arrays[n_given:])
        chosen = [next(varying) if number is None else number for number in numbers]
        loss, *wide = varying
        loss = NO_FLOATS[compute.char] if loss is None else loss
        total: float = kernel(
            *arrays[:n_given], *chosen, steps, 1.0 / divisor, *options, loss, *wide, lo, hi
        )
        return total

    operands = [Operand(array, compute, inner=0) for array in (*given, *spread)]
    written = [None if out is None else Operand(out, compute, inner=0) for out in outs]
    total = add_up(for_each_block(call, operands, written)) if math.prod(shape) else 0.0
    return total / divisor if divisor else math.nan
