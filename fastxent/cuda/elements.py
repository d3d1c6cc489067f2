"""Element types of rows: how they are loaded, held in registers and stored, and their exp.

A kernel is written once for all types: it gets an `Element` and calls its functions. Half precision
stays packed in registers, two numbers in 32 bits, and is computed in float32.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from numba import cuda, float32, float64, int32, uint32

from fastxent.cuda.intrinsics import (
    exp2_f32,
    fma_f32,
    high_bfloat16,
    high_float16,
    load_f32,
    load_f64,
    load_u16,
    low_bfloat16,
    low_float16,
    max_f32,
    max_f64,
    pack_bfloat16,
    pack_float16,
    store_f32,
    store_f64,
    store_u16,
    store_vector,
)

Function = Callable[..., Any]

# Inlined by LLVM, not by Numba, which would infer the types of each copy: 3 s instead of a minute.
device: Function = cuda.jit(device=True, forceinline=True)

VECTOR_BYTES = 16
_LOG2_E = float32(1.4426950408889634)


class Element(NamedTuple):
    """A type of rows.

    `compute` is the type of the arithmetic, `word` that of the registers; a vector of 16 bytes is
    `words` words with `width` elements. value(words, i) is the i-th element in registers,
    load(address) and store(address, value) move one element, write(address, values) a vector, and
    pack(values, words) puts one into registers. `minus_inf` is a word of -inf. exp(x) and
    scaled_exp(x, factor) are exp(x) and exp(x·factor) for x <= 0 and a `parameters.Factor`.
    """

    name: str
    size: int
    compute: Any
    word: Any
    words: int
    width: int
    minus_inf: Any
    value: Function
    load: Function
    store: Function
    write: Function
    pack: Function
    exp: Function
    scaled_exp: Function
    maximum: Function

    def __hash__(self) -> int:
        return hash(self.name)  # needed at every call, and a tuple does not keep its hash


@device
def _exp_f32(x):
    """exp(x) for x <= 0, to 2 + 1.25·|x| ulp including the rounding of x itself."""
    return exp2_f32(x * _LOG2_E)


@device
def _scaled_exp_f32(x, factor):
    """exp(x·factor), as exact for x·factor as `_exp_f32` for x: the product is rounded once."""
    return exp2_f32(fma_f32(x, factor.exponent, x * factor.low))


@device
def _exp_f64(x):
    return math.exp(x)


@device
def _scaled_exp_f64(x, factor):
    return math.exp(x * factor.value)


@device
def word_value(words, i):
    """Element i of registers that hold one each."""
    return words[i]


@device
def _write_words(address, values):
    store_vector(address, values, int32(0))


def _make_copy(n: int) -> Function:
    @device
    def copy(values, words):
        for k in range(n):
            words[k] = values[k]

    return copy


def _make_half(name: str, low: Function, high: Function, join: Function, minus_inf: int) -> Element:
    @device
    def value(words, i):
        word = words[i >> 1]
        return high(word) if i & 1 else low(word)

    @device
    def load(address):
        return low(uint32(load_u16(address)))

    @device
    def store(address, number):
        store_u16(address, join(number, number) & uint32(0xFFFF))

    @device
    def pack(values, words):
        for k in range(4):
            words[k] = join(values[2 * k], values[2 * k + 1])

    @device
    def write(address, values):
        packed = cuda.local.array(4, uint32)
        pack(values, packed)
        store_vector(address, packed, int32(0))

    return Element(
        name, 2, float32, uint32, 4, 8, uint32(minus_inf), value, load, store, write,
        pack, _exp_f32, _scaled_exp_f32, max_f32,
    )  # fmt: skip


@functools.cache
def element(name: str) -> Element:
    """The element type of this name."""
    if name == "float32":
        return Element(
            name, 4, float32, float32, 4, 4, float32(-math.inf), word_value, load_f32, store_f32,
            _write_words, _make_copy(4), _exp_f32, _scaled_exp_f32, max_f32,
        )  # fmt: skip
    if name == "float64":
        return Element(
            name, 8, float64, float64, 2, 2, float64(-math.inf), word_value, load_f64, store_f64,
            _write_words, _make_copy(2), _exp_f64, _scaled_exp_f64, max_f64,
        )  # fmt: skip
    if name == "float16":
        return _make_half(name, low_float16, high_float16, pack_float16, 0xFC00FC00)
    return _make_half(name, low_bfloat16, high_bfloat16, pack_bfloat16, 0xFF80FF80)


def number_type(item: Element) -> Element:
    """The type of the arithmetic: that of losses, weights and sums."""
    return element("float64" if item.compute is float64 else "float32")


def repeated(step: Function, n: int) -> Function:
    """run(state, first, arguments): n steps, step(state, k, arguments) for k = first, first + 1, ….

    Not a loop: the registers of a loop too long to be unrolled are placed in memory.
    """
    if n == 1:
        return step
    half = n // 2
    first_half, second_half = repeated(step, half), repeated(step, n - half)

    @device
    def run(state, first, arguments):
        return second_half(first_half(state, first, arguments), first + half, arguments)

    return run


def make_exp(item: Element, scaled: bool) -> Function:
    """exp_of(x, factor): exp(x·factor) of a `parameters.Factor`; if not `scaled`, exp(x)."""
    exp = item.exp

    @device
    def unscaled_exp(x, factor):
        return exp(x)

    return item.scaled_exp if scaled else unscaled_exp


def make_product(scaled: bool) -> Function:
    """times(x, factor): x·factor of a `parameters.Factor`; if not `scaled`, x."""

    @device
    def product(x, factor):
        return x * factor.value

    @device
    def unchanged(x, factor):
        return x

    return product if scaled else unchanged


# --- the scalar functions that `fastxent.formulas` take --------------------------------------


@device
def zero_where_zero(coefficient, value):
    """`value`, but exactly 0 for a coefficient of 0."""
    return value if coefficient else coefficient


@device
def where_less(a, b, c, d):
    """`c` where a < b, else `d`."""
    return c if a < b else d


@device
def log1m(x):
    """-log(1 - x)."""
    return -math.log1p(-x)
