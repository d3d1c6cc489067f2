"""The binary losses on the CPU: elements of any shape, weights that broadcast against it."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from fastxent.cpu import binary_kernels, jit
from fastxent.cpu.blocks import Operand, for_each_block
from fastxent.cpu.launch import (
    CLIP,
    DTYPES,
    NO_FLOATS,
    add_up,
    array_type,
    constant_weight,
    divided,
)
from fastxent.records import Call

Array = NDArray[Any]
DType = np.dtype[Any]


@functools.cache
def _kernel(char: str, of_logits: bool, *wanted: bool) -> Callable[..., Any]:
    given, out = array_type(DTYPES[char], 1), array_type(DTYPES[char], 1, out=True)
    outs = [out, *(out if want else types.none for want in wanted)]
    weight, span = (given, types.int64), (types.int64, types.int64)
    if of_logits:
        signature = (given, given, *weight, *weight, types.float64, *outs, *span)
        return jit.specialise(binary_kernels.binary_logits, signature)
    signature = (given, given, *weight, types.float64, CLIP, *outs, *span)
    return jit.specialise(binary_kernels.binary_probs, signature)


def binary_cross_entropy_with_logits(call: Call) -> float:
    """Fill the outputs, shaped as x; return Σ of the losses / divisor."""
    assert call.target is not None
    x, target, outputs, compute = call.x, call.target.probs, call.outputs, call.compute
    weight, pos_weight, divisor = call.weights.weight, call.weights.pos_weight, call.divisor
    outs = [outputs.loss, outputs.grad, outputs.probs, outputs.hess]
    kernel = _kernel(compute.char, True, *(out is not None for out in outs[1:]))
    return _run(kernel, x, target, [weight, pos_weight], (), divisor, outs, compute)


def binary_cross_entropy(call: Call) -> float:
    """Fill loss and grad, shaped as x; return Σ of the losses / divisor."""
    assert call.target is not None and call.clip is not None
    x, target, outputs, compute = call.x, call.target.probs, call.outputs, call.compute
    weight, clip, divisor = call.weights.weight, call.clip, call.divisor
    outs = [outputs.loss, outputs.grad]
    kernel = _kernel(compute.char, False, outputs.grad is not None)
    return _run(kernel, x, target, [weight], (tuple(clip),), divisor, outs, compute)


def _run(
    kernel: Callable[..., Any], x: Array, target: Array, weights: list[Array | None],
    options: tuple[Any, ...], divisor: float, outs: list[Array | None], compute: DType,
) -> float:  # fmt: skip
    """The kernel over all elements; a weight that is one number stays one vector of it."""
    numbers = [_number(w, compute) for w in weights]
    varying = [w for w, k in zip(weights, numbers, strict=True) if w is not None and k is None]

    def call(arrays: list[Array | None], base: int, lo: int, hi: int) -> float:
        logits, labels, *rest = arrays
        read: list[Any] = []
        for number in numbers:
            # Beside each weight its step: 1 through an array, 0 on the spot.
            read += [rest.pop(0), 1] if number is None else [number, 0]
        loss, *wide = rest
        loss = NO_FLOATS[compute.char] if loss is None else loss
        losses: float = kernel(logits, labels, *read, 1.0 / divisor, *options, loss, *wide, lo, hi)
        return losses

    given = [x, target, *(np.broadcast_to(w, x.shape) for w in varying)]
    operands = [Operand(array, compute, inner=0) for array in given]
    written = [None if out is None else Operand(out, compute, inner=0) for out in outs]
    return divided(add_up(for_each_block(call, operands, written)) if x.size else 0.0, divisor)


def _number(weight: Array | None, compute: DType) -> Array | None:
    """What a kernel reads of a weight that is the same everywhere; None of one that varies."""
    if weight is None:
        return constant_weight(None, compute)
    return constant_weight(weight.item(), compute) if weight.size == 1 else None
