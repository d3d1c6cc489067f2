"""The entropy of softmax on the CPU: select a kernel and run it over blocks of rows."""

import functools
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from fastxent.cpu import arguments, jit
from fastxent.cpu.arguments import ARITHMETIC, ELEMENTS, INTEGER, NONE, array_type
from fastxent.cpu.blocks import find_operands, for_each_block
from fastxent.cpu.launch import MAX_COLUMNS, has_few_classes, layout_of
from fastxent.records import Call

Array = NDArray[Any]


def signature(char: str, grad_char: str | None, layout: tuple[Any, ...] = ()) -> tuple[Any, ...]:
    """Return the types of a kernel's arguments (logits, out, grad, …, lo, hi)."""
    grad = NONE if grad_char is None else array_type(ELEMENTS[grad_char], 2, out=True)
    others = [arguments.numba_type(kind, char) for kind in map(type, layout)]
    out = array_type(ARITHMETIC[char], 1, out=True)
    return array_type(ELEMENTS[char], 2), out, grad, *others, INTEGER, INTEGER


@functools.cache
def _kernel(char: str, grad_char: str | None, layout: tuple[Any, ...]) -> Callable[..., Any]:
    source = jit.Source("entropy_kernels", "entropy_groups" if layout else "entropy_rows")
    return jit.specialise(source, signature(char, grad_char, layout))


def entropy(call: Call) -> None:
    """Fill out, (N,), and grad, of the last axis."""
    x, compute, (out, grad) = call.x, call.compute, (call.outputs.out, call.outputs.grad)
    n_classes = x.shape[-1]
    few = has_few_classes("product", compute.char, n_classes)
    operands = find_operands((x,), (grad,), compute, columns=n_classes <= MAX_COLUMNS)
    layout, char = layout_of(few, operands.planes), operands.types[0].char
    kernel = _kernel(char, None if grad is None else operands.types[1].char, layout)

    def bind(arrays: list[Array | None], base: int) -> Callable[[int, int], Any]:
        return functools.partial(kernel, arrays[0], out[base:], arrays[1], *layout)

    for_each_block(bind, operands)
