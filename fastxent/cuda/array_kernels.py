"""Kernels that are not about rows: labels scanned, numbers added up, arrays of one type to another.

Sums are in float64, over chunks of a fixed length and then over these: the same bits on every run.
"""

import math

from numba import cuda, float32, float64, int32, int64, uint32, uint64

from fastxent.cuda.elements import device, element, numbers
from fastxent.cuda.groups import WARP, add, reduction
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
from fastxent.cuda.kernels import aim_of, is_class, load_label, smaller
from fastxent.cuda.rows import row_of
from fastxent.formulas import softcap_parts

_PLACES = WARP  # for one exchange
NONE_BAD = 2**63 - 1  # the row that a report names where all labels are classes
_NO_ROW = int64(NONE_BAD)
_ZERO, _ONE = float64(0), float64(1)


def scan_kernel(number, threads, alone):
    """Σ u·w_y over the rows of a chunk that count, and its first row whose label is no class.

    A block that is `alone` writes what `divisor_kernel` makes of the sums of several.
    """
    total, least, put = reduction(add, threads), reduction(smaller, threads), _put_of(number)
    load, size = number.load, number.size

    # labels (N,) of a kind IN; class_weight (C,), sample_weight (N,) IN or 0; sums, bad_rows, or
    # divisor, inverse, report as in `divisor_kernel` OUT
    def kernel(
        labels, kind, ignoring, ignored, class_weight, sample_weight, n_classes, n_rows, chunk,
        sums, bad_rows, divisor, inverse, report,
    ):  # fmt: skip
        shared = cuda.shared.array(_PLACES, float64)
        rows = cuda.shared.array(_PLACES, int64)
        first = int64(cuda.blockIdx.x) * chunk
        end = min(first + chunk, n_rows)
        found, bad = _ZERO, _NO_ROW
        i = first + int64(cuda.threadIdx.x)
        while i < end:
            label = load_label(labels, kind, i)
            if not (ignoring and label == ignored):
                u, w = _ONE, _ONE
                if sample_weight:
                    u = float64(load(sample_weight + uint64(i) * uint64(size)))
                if not is_class(label, n_classes):
                    bad = min(bad, i)
                elif class_weight:
                    w = float64(load(class_weight + uint64(label) * uint64(size)))
                if u != _ZERO:
                    found += u * w
            i += threads
        found, bad = total(found, shared, 0), least(bad, rows, 0)
        if cuda.threadIdx.x == 0:
            if alone:
                put(found, bad, labels, kind, divisor, inverse, report)
            else:
                block = uint64(cuda.blockIdx.x)
                store_f64(sums + block * uint64(8), found)
                store_i64(bad_rows + block * uint64(8), bad)

    return kernel


def _put_of(number):
    """A function that writes a divisor, its inverse, and the first bad row for whoever asks."""
    store, compute = number.store, number.compute

    @device
    def put(found, bad, labels, kind, divisor, inverse, report):
        store_f64(divisor, found)
        store(inverse, compute(_ONE / found if found != _ZERO else _ZERO))
        if report:
            store_i64(report, bad)
            if bad != _NO_ROW:
                store_i64(report + uint64(8), load_label(labels, kind, bad))

    return put


def divisor_kernel(number, threads):
    """The divisor D of a mean and 1 / D (0 if D is 0); the first bad row, for whoever asks."""
    total, least, put = reduction(add, threads), reduction(smaller, threads), _put_of(number)

    # sums, bad_rows (n,) IN or 0 without; labels of a kind IN; divisor (1,), inverse (1,) OUT;
    # report (2,): a row, or the largest int64, and its label OUT or 0
    def kernel(sums, bad_rows, n, labels, kind, divisor, inverse, report):
        shared = cuda.shared.array(_PLACES, float64)
        rows = cuda.shared.array(_PLACES, int64)
        found, bad, i = _ZERO, _NO_ROW, int64(cuda.threadIdx.x)
        while i < n:
            found += load_f64(sums + uint64(i) * uint64(8))
            if bad_rows:
                bad = min(bad, load_i64(bad_rows + uint64(i) * uint64(8)))
            i += threads
        found, bad = total(found, shared, 0), least(bad, rows, 0)
        if cuda.threadIdx.x == 0:
            put(found, bad, labels, kind, divisor, inverse, report)

    return kernel


def sum_kernel(number, threads):
    """Σ of the numbers of a chunk."""
    total = reduction(add, threads)
    load, size = number.load, number.size

    # values (N,) IN, sums OUT
    def kernel(values, n, chunk, sums):
        shared = cuda.shared.array(_PLACES, float64)
        first = int64(cuda.blockIdx.x) * chunk
        end = min(first + chunk, n)
        found, i = _ZERO, first + int64(cuda.threadIdx.x)
        while i < end:
            found += float64(load(values + uint64(i) * uint64(size)))
            i += threads
        found = total(found, shared, 0)
        if cuda.threadIdx.x == 0:
            store_f64(sums + uint64(cuda.blockIdx.x) * uint64(8), found)

    return kernel


def mean_kernel(number, threads, alone):
    """Σ of sums over the divisor; nan where that is 0. A block that is `alone` adds up numbers."""
    total = reduction(add, threads)
    store, compute = number.store, number.compute
    load, size = (number.load, number.size) if alone else (load_f64, 8)

    # sums, or the numbers of one chunk, (n,) IN; divisor (1,) IN, or 0 if it is `known`; out OUT
    def kernel(sums, n, divisor, known, out):
        shared = cuda.shared.array(_PLACES, float64)
        found, i = _ZERO, int64(cuda.threadIdx.x)
        while i < n:
            found += float64(load(sums + uint64(i) * uint64(size)))
            i += threads
        found = total(found, shared, 0)
        if cuda.threadIdx.x == 0:
            by = load_f64(divisor) if divisor else known
            store(out, compute(found / by if by != _ZERO else math.nan))

    return kernel


# --- from one type and layout to another ----------------------------------------------------


_BFLOAT16, _FLOAT16 = element("bfloat16"), element("float16")
_load_bfloat16, _load_float16 = _BFLOAT16.load, _FLOAT16.load

# Types by what `load_any` and `store_any` call them; bool is uint8.
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
def _place(array, at, size_1, size_2, size_3, stride_0, stride_1, stride_2, stride_3):
    """The address of element number `at` of an array of rank 4."""
    inner, at = at % size_3, at // size_3
    middle, at = at % size_2, at // size_2
    outer, at = at % size_1, at // size_1
    offset = inner * stride_3 + middle * stride_2 + outer * stride_1 + at * stride_0
    return uint64(int64(array) + offset)


def copy_labels_kernel(number, threads):
    """Integers of any kind and layout side by side as int64; uint64 keeps its bits."""

    # labels: an array of rank 4 of a kind, from element `first` on, IN; out (count,) OUT
    def kernel(
        labels, kind, size_1, size_2, size_3, stride_0, stride_1, stride_2, stride_3,
        first, count, out,
    ):  # fmt: skip
        i = int64(cuda.blockIdx.x) * threads + int64(cuda.threadIdx.x)
        if i < count:
            where = _place(
                labels, first + i, size_1, size_2, size_3, stride_0, stride_1, stride_2, stride_3
            )
            store_i64(out + uint64(i) * uint64(8), load_label(where, kind, 0))

    return kernel


def gather_kernel(number, threads):
    """Elements of an array of any kind and layout, as logits are before the loss: side by side."""
    store, size, compute = number.store, number.size, number.compute
    zero, one, two = compute(0), compute(1), compute(2)

    # source: an array of rank 4 of a kind IN, from element `first` on; out (count,) OUT
    def kernel(
        source, kind, size_1, size_2, size_3, stride_0, stride_1, stride_2, stride_3,
        first, count, scale, softcap, out,
    ):  # fmt: skip
        i = int64(cuda.blockIdx.x) * threads + int64(cuda.threadIdx.x)
        if i < count:
            where = _place(
                source, first + i, size_1, size_2, size_3, stride_0, stride_1, stride_2, stride_3
            )
            z = compute(load_any(where, kind)) * scale
            if softcap > zero:
                a = z / softcap
                t, _ = softcap_parts(math.exp(-two * abs(a)), math.expm1(-two * abs(a)), one)
                z = math.copysign(t, a) * softcap
            store(out + uint64(i) * uint64(size), z)

    return kernel


def chain_kernel(number, threads):
    """Gradients with respect to what `gather_kernel` made, carried back to what it read."""
    load, store, size, compute = number.load, number.store, number.size, number.compute
    zero, one, two = compute(0), compute(1), compute(2)

    # source as above IN; grad (count,) IN, OUT
    def kernel(
        source, kind, size_1, size_2, size_3, stride_0, stride_1, stride_2, stride_3,
        first, count, scale, softcap, grad,
    ):  # fmt: skip
        i = int64(cuda.blockIdx.x) * threads + int64(cuda.threadIdx.x)
        if i < count:
            at = grad + uint64(i) * uint64(size)
            g = load(at)
            slope = scale
            if softcap > zero:
                where = _place(
                    source, first + i, size_1, size_2, size_3,
                    stride_0, stride_1, stride_2, stride_3,
                )  # fmt: skip
                a = compute(load_any(where, kind)) * scale / softcap
                e, expm1 = math.exp(-two * abs(a)), math.expm1(-two * abs(a))
                slope *= softcap_parts(e, expm1, one)[1]
            # What does not count has no gradient, whatever its logits hold.
            store(at, g * slope if g != zero else g)

    return kernel


def clear_kernel(number, threads):
    """Rows that do not count as zeros, whatever they hold; all of them in a mean over nothing."""
    aim, zero = aim_of(number, False), number.compute(0)
    load, store, size = number.load, number.store, number.size

    # rows (N, K) IN, OUT; labels of a kind IN or 0; sample_weight (N,) IN or 0; inverse_at as in
    # `cross_entropy_kernel`
    def kernel(
        rows, n_columns, labels, kind, ignoring, ignored, sample_weight, inverse_at, inverse,
        n_classes, count,
    ):  # fmt: skip
        i = int64(cuda.blockIdx.x) * threads + int64(cuda.threadIdx.x)
        if i < count:
            row, silent = i // n_columns, False
            scale = load(inverse_at) if inverse_at else inverse
            if labels:
                _, _, counted, blank = aim(
                    labels, kind, ignoring, ignored, sample_weight, row, n_classes, True
                )
                silent = not counted and blank == zero
            elif sample_weight:
                silent = load(sample_weight + uint64(row) * uint64(size)) == zero
            if silent or scale == zero:
                store(rows + uint64(i) * uint64(size), zero)

    return kernel


def scatter_kernel(number, threads):
    """Numbers side by side to the elements of an array of any kind and layout, or added to them."""
    load, size, number_of = number.load, number.size, number.compute

    # values (count,) IN; out: an array of rank 4 of a kind, from element `first` on, OUT
    def kernel(
        values, out, kind, size_1, size_2, size_3, stride_0, stride_1, stride_2, stride_3,
        first, count, adding,
    ):  # fmt: skip
        i = int64(cuda.blockIdx.x) * threads + int64(cuda.threadIdx.x)
        if i < count:
            where = _place(
                out, first + i, size_1, size_2, size_3, stride_0, stride_1, stride_2, stride_3
            )
            value = load(values + uint64(i) * uint64(size))
            if adding:
                value += number_of(load_any(where, kind))
            store_any(where, kind, float64(value))

    return kernel


def scale_kernel(element, plan):
    """Numbers times a number; what is 0 stays 0, as in rows that do not count."""
    row, number, size = row_of(element, plan), numbers(element), element.size
    place, read, _, _, held, word = row.parts()
    load_number, zero, one = number.load, element.compute(0), element.compute(1)

    @device
    def scaled(x, column, factor):
        return x * factor if x != zero else x

    write = row.writer(scaled)

    # values (n,) IN; factor (1,) IN; out (n,), which may be values, OUT
    def kernel(values, factor_at, out, n, chunk):
        i, thread = place()
        buffer = cuda.local.array(held, word)
        factor = load_number(factor_at)
        on = uint64(i) * uint64(chunk) * uint64(size)
        if factor != one or values != out:
            line = read(values + on, int32(min(chunk, n - i * chunk)), thread, True, buffer)
            write(out + on, buffer, line, thread, factor)

    return kernel
