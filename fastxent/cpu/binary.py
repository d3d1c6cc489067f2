"""The binary losses: elements of any shape, weights that broadcast to it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastxent.cpu import arguments, jit
from fastxent.cpu.arguments import (
    ELEMENTS,
    FLOAT,
    INTEGER,
    NONE,
    BinaryWeights,
    OutputArrays,
    array_type,
)
from fastxent.cpu.blocks import find_operands, for_each_block
from fastxent.cpu.launch import add_up, divided
from fastxent.records import Call

Array = NDArray[Any]

_LOGITS, _PROBS, _PRODUCT = (
    jit.Source("binary_kernels", name) for name in ("binary_logits", "binary_probs", "binary_hvp")
)


def signature(
    char: str,
    target_char: str,
    requested: tuple[str, ...],
    kinds: tuple[Any, ...] = (),
    weighted: bool = True,
) -> tuple[Any, ...]:
    """Return the types of a kernel's arguments (x, target, weights, scale, …, outputs, lo, hi).

    `kinds` are the named tuples after the scale, `requested` the outputs that are not None; the
    weights are None unless `weighted`.
    """
    x, target = (array_type(ELEMENTS[letter], 1) for letter in (char, target_char))
    weights = arguments.numba_type(BinaryWeights, char) if weighted else NONE
    others = [arguments.numba_type(kind, char) for kind in kinds]
    outputs = arguments.numba_type(OutputArrays, char, requested, ndim=1)
    return x, target, weights, FLOAT, *others, outputs, INTEGER, INTEGER


@functools.cache
def _kernel(
    source: jit.Source, chars: tuple[str, str], requested: tuple[str, ...],
    kinds: tuple[Any, ...], weighted: bool,
) -> Callable[..., Any]:  # fmt: skip
    return jit.specialise(source, signature(*chars, requested, kinds, weighted))


class BinarySelection(NamedTuple):
    """A compiled kernel, whether it takes weights, and its extra arguments after the scale."""

    kernel: Callable[..., Any]
    weighted: bool
    extra: tuple[Any, ...]


def select(call: Call, chars: tuple[str, str]) -> BinarySelection:
    """The kernel for a call, of a logit or probability and of a target of these types."""
    source = _PROBS
    extra: tuple[Any, ...] = (call.clip,)
    weighted = True
    if call.clip is None:
        source, extra = _LOGITS, ()
        weighted = call.weights.weight is not None or call.weights.pos_weight is not None
    requested, kinds = arguments.requested(call.outputs), tuple(map(type, extra))
    return BinarySelection(_kernel(source, chars, requested, kinds, weighted), weighted, extra)


def binary_cross_entropy_with_logits(call: Call) -> float:
    """Fill the outputs, shaped as x; return Σ of the losses / divisor."""
    return _fill_losses(call)


def binary_cross_entropy(call: Call) -> float:
    """Fill loss and grad, shaped as x; return Σ of the losses / divisor."""
    return _fill_losses(call)


class _BroadcastWeights:
    """The weights of a call: constants, as kernels read them, and arrays."""

    def __init__(self, call: Call) -> None:
        weights, shape = (call.weights.weight, call.weights.pos_weight), call.x.shape
        self._constants = [_constant(weight, call.compute.char) for weight in weights]
        pairs = zip(weights, self._constants, strict=True)
        self.varying = [np.broadcast_to(w, shape) for w, one in pairs if one is None]

    def pack(self, blocks: list[Array | None]) -> BinaryWeights:
        """Pack the weights for a kernel; the blocks of varying ones are taken from the list."""
        members: list[Any] = []
        for constant in self._constants:
            members += [blocks.pop(0), 1] if constant is None else [constant, 0]
        return BinaryWeights(*members)


def _fill_losses(call: Call) -> float:
    """Run a kernel over all elements; return Σ of the losses / divisor."""
    assert call.target is not None
    x, weights = call.x, _BroadcastWeights(call)
    inputs = [x, call.target.probs, *weights.varying]
    absent = arguments.NO_OUTPUTS[call.compute.char]
    places = [k for k, array in enumerate(call.outputs[1:]) if array is not None]
    written = [array for array in call.outputs if array is not None]
    # Kernels take weights in the type of the arithmetic.
    as_half = x.dtype not in [w.dtype for w in weights.varying]
    operands = find_operands(inputs, written, call.compute, 0, as_half=as_half)
    kernel, weighted, extra = select(call, (operands.types[0].char, operands.types[1].char))

    def bind(arrays: list[Array | None], base: int) -> Callable[[int, int], float]:
        logits, target, *rest = arrays
        packed = weights.pack(rest)
        outputs = list(absent)
        for k, array in zip(places, rest, strict=True):
            outputs[k] = array
        return functools.partial(
            kernel, logits, target, packed if weighted else None, 1.0 / call.divisor, *extra,
            OutputArrays._make(outputs),
        )  # fmt: skip

    if not x.size:
        return divided(0.0, call.divisor)
    return divided(add_up(for_each_block(bind, operands, 0)), call.divisor)


def _constant(weight: Array | None, char: str) -> Array | None:
    """Return a constant weight as a kernel reads it; None if the weight varies."""
    if weight is None:
        return arguments.constant_weight(None, char)
    return arguments.constant_weight(weight.item(), char) if weight.size == 1 else None


# --- Hessian-vector products ----------------------------------------------------------------


def product_signature(chars: tuple[str, ...], weighted: bool) -> tuple[Any, ...]:
    """Return the types of a kernel's arguments (x, target, vector, weights, scale, out, lo, hi).

    `chars` are the letters of the first three and of the result.
    """
    *inputs, out = (
        array_type(ELEMENTS[char], 1, out=k == 3) for k, char in enumerate(chars)
    )  # fmt: skip
    weights = arguments.numba_type(BinaryWeights, chars[0]) if weighted else NONE
    return *inputs, weights, FLOAT, out, INTEGER, INTEGER


@functools.cache
def _product_kernel(chars: tuple[str, ...], weighted: bool) -> Callable[..., Any]:
    return jit.specialise(_PRODUCT, product_signature(chars, weighted))


def binary_cross_entropy_with_logits_hvp(call: Call) -> None:
    """Fill `out`, shaped as x, with the second derivative of the loss, times `vector`."""
    assert call.target is not None
    x, weights = call.x, _BroadcastWeights(call)
    if not x.size:
        return
    weighted = call.weights.weight is not None or call.weights.pos_weight is not None
    as_half = x.dtype not in [w.dtype for w in weights.varying]
    inputs = [x, call.target.probs, call.vector, *weights.varying]
    operands = find_operands(inputs, [call.outputs.out], call.compute, 0, as_half=as_half)
    chars = [dtype.char for dtype in operands.types]
    kernel = _product_kernel((*chars[:3], chars[-1]), weighted)

    def bind(arrays: list[Array | None], base: int) -> Callable[[int, int], Any]:
        logits, target, vector, *rest = arrays
        packed = weights.pack(rest)
        (out,) = rest
        return functools.partial(
            kernel, logits, target, vector, packed if weighted else None, 1.0 / call.divisor, out
        )

    for_each_block(bind, operands, 0)
