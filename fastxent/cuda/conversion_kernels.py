"""The kernels that convert arrays between types and layouts, or change single elements."""

import math

from numba import cuda, float32, float64, int32, int64, uint32, uint64

from fastxent.cuda.elements import device, element, number_type, zero_where_zero
from fastxent.cuda.intrinsics import (
    bits_f32,
    float16_bits,
    load_f32,
    load_f64,
    load_i64,
    store_f32,
    store_f64,
    store_i64,
    store_u16,
)
from fastxent.cuda.parameters import Address, Integer, Inverse, Labels, Number, Strided
from fastxent.cuda.rows import make_row
from fastxent.cuda.targets import load_label, make_check_target, make_inverse
from fastxent.formulas import capped_product, softcap_bend, softcap_parts

_load_bfloat16, _load_float16 = element("bfloat16").load, element("float16").load

# The kinds of `load_any` and `store_any` by type; a bool is a uint8.
KINDS = {
    "int8": 0, "uint8": 1, "bool": 1, "int16": 2, "uint16": 3, "int32": 4, "uint32": 5, "int64": 6,
    "uint64": 7, "float16": 8, "bfloat16": 9, "float32": 10, "float64": 11,
}  # fmt: skip


@device
def load_any(address, kind):
    """A number of any kind as float64."""
    if kind >= 8:
        if kind == 8:
            return float64(_load_float16(address))
        if kind == 9:
            return float64(_load_bfloat16(address))
        return float64(load_f32(address)) if kind == 10 else load_f64(address)
    if kind == 7:
        return float64(uint64(load_i64(address)))
    return float64(load_label(address, kind, 0))


@device
def _bfloat16_bits(x):
    """The upper half of float32's bits, rounded to even: older GPUs have no instruction for it."""
    bits = bits_f32(x)
    rounded = (bits + uint32(0x7FFF) + ((bits >> uint32(16)) & uint32(1))) >> uint32(16)
    return rounded if x == x else uint32(0x7FFF)


@device
def store_any(address, kind, value):
    """A number rounded once to a kind that results have."""
    if kind == 8:
        store_u16(address, float16_bits(float32(value)))
    elif kind == 9:
        store_u16(address, _bfloat16_bits(float32(value)))
    elif kind == 10:
        store_f32(address, float32(value))
    else:
        store_f64(address, value)


@device
def _element_at(array, at):
    """The address of element number `at` of a `parameters.Strided`, in C order."""
    inner, at = at % array.size_3, at // array.size_3
    middle, at = at % array.size_2, at // array.size_2
    outer, at = at % array.size_1, at // array.size_1
    offset = (
        inner * array.stride_3 + middle * array.stride_2 + outer * array.stride_1
        + at * array.stride_0
    )  # fmt: skip
    return uint64(int64(array.address) + offset)


def make_copy_labels_kernel(number, threads):
    """Copy integers of any kind and layout to contiguous int64; uint64 keeps its bits."""

    # array, from element `first` on, IN; flat (count,) OUT
    def kernel(array: Strided, first: Integer, count: Integer, flat: Address):
        i = int64(cuda.blockIdx.x) * threads + int64(cuda.threadIdx.x)
        if i < count:
            at = _element_at(array, first + i)
            store_i64(flat + uint64(i) * uint64(8), load_label(at, array.kind, 0))

    return kernel


def make_gather_kernel(number, threads):
    """Copy elements of any kind and layout to contiguous ones, scaled and capped as logits."""
    store, size, compute = number.store, number.size, number.compute
    zero, one, two = compute(0), compute(1), compute(2)

    # array, from element `first` on, IN; flat (count,) OUT
    def kernel(
        array: Strided, first: Integer, count: Integer, scale: Number, softcap: Number,
        flat: Address,
    ):  # fmt: skip
        i = int64(cuda.blockIdx.x) * threads + int64(cuda.threadIdx.x)
        if i < count:
            z = compute(load_any(_element_at(array, first + i), array.kind)) * scale
            if softcap > zero:
                a = z / softcap
                t, _ = softcap_parts(math.exp(-two * abs(a)), math.expm1(-two * abs(a)), one)
                z = math.copysign(t, a) * softcap
            store(flat + uint64(i) * uint64(size), z)

    return kernel


def make_chain_kernel(number, threads):
    """Convert gradients of the output of `make_gather_kernel` to those of its input."""
    load, store, size, compute = number.load, number.store, number.size, number.compute
    zero, one, two = compute(0), compute(1), compute(2)

    # array as above IN; flat (count,), the gradients, IN, OUT
    def kernel(
        array: Strided, first: Integer, count: Integer, scale: Number, softcap: Number,
        flat: Address,
    ):  # fmt: skip
        i = int64(cuda.blockIdx.x) * threads + int64(cuda.threadIdx.x)
        if i < count:
            at = flat + uint64(i) * uint64(size)
            g = load(at)
            slope = scale
            if softcap > zero:
                a = compute(load_any(_element_at(array, first + i), array.kind)) * scale / softcap
                e, expm1 = math.exp(-two * abs(a)), math.expm1(-two * abs(a))
                slope *= softcap_parts(e, expm1, one)[1]
            # The gradient of an ignored row stays 0, whatever its logits hold.
            store(at, g * slope if g != zero else g)

    return kernel


def make_second_chain_kernel(number, threads):
    """Convert second derivatives of the output of `make_gather_kernel` to those of its input.

    Products of the Hessian with t′∘vector, or its diagonal without a vector.
    """
    load, store, size, compute = number.load, number.store, number.size, number.compute
    zero, one, two = compute(0), compute(1), compute(2)

    # array as above IN; grad (count,) by the same output, 0 without a softcap, vector (count,) or
    # 0, IN; flat (count,), the second derivatives, IN, OUT
    def kernel(
        array: Strided, first: Integer, count: Integer, scale: Number, softcap: Number,
        grad: Address, vector: Address, flat: Address,
    ):  # fmt: skip
        i = int64(cuda.blockIdx.x) * threads + int64(cuda.threadIdx.x)
        if i < count:
            offset = uint64(i) * uint64(size)
            h, v = load(flat + offset), load(vector + offset) if vector else one
            g, t1, t2 = zero, scale, zero
            if softcap > zero:
                g, a = load(grad + offset), load_any(_element_at(array, first + i), array.kind)
                a = compute(a) * scale / softcap
                t, slope = softcap_parts(math.exp(-two * abs(a)), math.expm1(-two * abs(a)), one)
                bend = -two * (scale / softcap) * (scale / softcap)
                t1 *= slope
                t2 = softcap_bend(math.copysign(t, a) * softcap, slope, bend)
            # Those of an ignored row stay 0, whatever its logits and vector hold.
            if h != zero or g != zero:
                h = h if vector else h * t1
                store(flat + offset, capped_product(h, t1, g, t2, v, zero_where_zero))

    return kernel


def make_scatter_kernel(number, threads):
    """Write contiguous numbers to elements of any kind and layout, or add them."""
    load, size, compute = number.load, number.size, number.compute

    # flat (count,) IN; array, from element `first` on, OUT
    def kernel(flat: Address, array: Strided, first: Integer, count: Integer, adding: Integer):
        i = int64(cuda.blockIdx.x) * threads + int64(cuda.threadIdx.x)
        if i < count:
            at = _element_at(array, first + i)
            value = load(flat + uint64(i) * uint64(size))
            if adding:
                value += compute(load_any(at, array.kind))
            store_any(at, array.kind, float64(value))

    return kernel


def make_clear_kernel(number, threads):
    """Write zeros to ignored rows, whatever they hold; to all rows for the mean of no rows."""
    check_target, inverse_of = make_check_target(number, False), make_inverse(number)
    load, store, size, zero = number.load, number.store, number.size, number.compute(0)

    # rows (N, K) IN, OUT; labels (N,) IN or 0; sample_weight (N,) IN or 0
    def kernel(
        rows: Address, n_columns: Integer, labels: Labels, sample_weight: Address,
        inverse: Inverse, n: Integer, count: Integer,
    ):  # fmt: skip
        i = int64(cuda.blockIdx.x) * threads + int64(cuda.threadIdx.x)
        if i < count:
            row, ignored = i // n_columns, False
            scale = inverse_of(inverse)
            if labels.address:
                _, _, active, fill = check_target(labels, sample_weight, row, n, True)
                ignored = not active and fill == zero
            elif sample_weight:
                ignored = load(sample_weight + uint64(row) * uint64(size)) == zero
            if ignored or scale == zero:
                store(rows + uint64(i) * uint64(size), zero)

    return kernel


def make_scale_kernel(element, plan):
    """Multiply numbers by a factor; zeros stay 0, as in ignored rows."""
    row, size, load_number = make_row(element, plan), element.size, number_type(element).load
    place, read, n_words, word = row.place, row.read, row.n_words, row.word
    zero, one = element.compute(0), element.compute(1)

    @device
    def scaled(x, column, factor):
        return x * factor if x != zero else x

    write = row.make_writer(scaled)

    # values (n,) IN; factor (1,) IN; out (n,), which may be values, OUT
    def kernel(values: Address, factor: Address, out: Address, n_values: Integer, chunk: Integer):
        i, thread = place()
        buffer = cuda.local.array(n_words, word)
        by = load_number(factor)
        offset = uint64(i) * uint64(chunk) * uint64(size)
        if by != one or values != out:
            length = int32(min(chunk, n_values - i * chunk))
            line = read(values + offset, length, thread, True, buffer)
            write(out + offset, buffer, line, thread, by)

    return kernel
