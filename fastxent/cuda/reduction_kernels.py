"""The kernels of label checks, divisors and sums.

Sums are in float64, over chunks of a fixed length and then over these: the same bits on every run.
"""

import math

from numba import cuda, float64, int64, uint64

from fastxent.cuda.elements import device
from fastxent.cuda.groups import WARP, add, make_row_reduction, smaller
from fastxent.cuda.intrinsics import load_f64, load_i64, store_f64, store_i64
from fastxent.cuda.parameters import Address, DivisorOutputs, Double, Integer, Labels
from fastxent.cuda.targets import is_class, load_label

_SLOTS = WARP  # shared memory for one exchange
NO_BAD_ROW = 2**63 - 1  # the row in a report where all labels are classes
_NO_ROW = int64(NO_BAD_ROW)
_ZERO, _ONE = float64(0), float64(1)


def make_put_divisor(number):
    """put_divisor(total, bad, labels, out): write a divisor, its inverse (0 of 0), and the report.

    The report is the row, or NO_BAD_ROW, and its label.
    """
    store, compute = number.store, number.compute

    @device
    def put_divisor(total, bad, labels, out):
        store_f64(out.divisor, total)
        store(out.inverse, compute(_ONE / total if total != _ZERO else _ZERO))
        if out.report:
            store_i64(out.report, bad)
            if bad != _NO_ROW:
                store_i64(out.report + uint64(8), load_label(labels.address, labels.kind, bad))

    return put_divisor


def make_scan_kernel(number, threads, alone):
    """Σ u·w_y over the active rows of a chunk, and its first row whose label is bad.

    A block that is `alone` writes the divisor itself, like `make_divisor_kernel`.
    """
    sum_of, least = make_row_reduction(add, threads), make_row_reduction(smaller, threads)
    put_divisor, load, size = make_put_divisor(number), number.load, number.size

    # labels (N,) IN; class_weight (C,), sample_weight (N,) IN or 0; sums, bad_rows (blocks,), or
    # out, OUT
    def kernel(
        labels: Labels, class_weight: Address, sample_weight: Address, n: Integer, n_rows: Integer,
        chunk: Integer, sums: Address, bad_rows: Address, out: DivisorOutputs,
    ):  # fmt: skip
        shared = cuda.shared.array(_SLOTS, float64)
        rows = cuda.shared.array(_SLOTS, int64)
        first = int64(cuda.blockIdx.x) * chunk
        end = min(first + chunk, n_rows)
        total, bad = _ZERO, _NO_ROW
        i = first + int64(cuda.threadIdx.x)
        while i < end:
            label = load_label(labels.address, labels.kind, i)
            if not (labels.ignoring and label == labels.ignored):
                u, w = _ONE, _ONE
                if sample_weight:
                    u = float64(load(sample_weight + uint64(i) * uint64(size)))
                if not is_class(label, n):
                    bad = min(bad, i)
                elif class_weight:
                    w = float64(load(class_weight + uint64(label) * uint64(size)))
                if u != _ZERO:
                    total += u * w
            i += threads
        total, bad = sum_of(total, shared, 0), least(bad, rows, 0)
        if cuda.threadIdx.x == 0:
            if alone:
                put_divisor(total, bad, labels, out)
            else:
                block = uint64(cuda.blockIdx.x)
                store_f64(sums + block * uint64(8), total)
                store_i64(bad_rows + block * uint64(8), bad)

    return kernel


def make_divisor_kernel(number, threads):
    """The divisor D of a mean and 1 / D from the sums of chunks; the first bad row of all."""
    sum_of, least = make_row_reduction(add, threads), make_row_reduction(smaller, threads)
    put_divisor = make_put_divisor(number)

    # sums (n,) IN, bad_rows (n,) IN or 0; labels (N,) IN; out: (1,), (1,), (2,) OUT
    def kernel(
        sums: Address, bad_rows: Address, n_sums: Integer, labels: Labels, out: DivisorOutputs
    ):  # fmt: skip
        shared = cuda.shared.array(_SLOTS, float64)
        rows = cuda.shared.array(_SLOTS, int64)
        total, bad, i = _ZERO, _NO_ROW, int64(cuda.threadIdx.x)
        while i < n_sums:
            total += load_f64(sums + uint64(i) * uint64(8))
            if bad_rows:
                bad = min(bad, load_i64(bad_rows + uint64(i) * uint64(8)))
            i += threads
        total, bad = sum_of(total, shared, 0), least(bad, rows, 0)
        if cuda.threadIdx.x == 0:
            put_divisor(total, bad, labels, out)

    return kernel


def make_sum_kernel(number, threads):
    """Σ of the numbers of a chunk."""
    sum_of = make_row_reduction(add, threads)
    load, size = number.load, number.size

    # values (n,) IN, sums (blocks,) OUT
    def kernel(values: Address, n_values: Integer, chunk: Integer, sums: Address):
        shared = cuda.shared.array(_SLOTS, float64)
        first = int64(cuda.blockIdx.x) * chunk
        end = min(first + chunk, n_values)
        total, i = _ZERO, first + int64(cuda.threadIdx.x)
        while i < end:
            total += float64(load(values + uint64(i) * uint64(size)))
            i += threads
        total = sum_of(total, shared, 0)
        if cuda.threadIdx.x == 0:
            store_f64(sums + uint64(cuda.blockIdx.x) * uint64(8), total)

    return kernel


def make_mean_kernel(number, threads, alone):
    """Σ of sums over the divisor; nan where that is 0. A block that is `alone` adds up numbers."""
    sum_of = make_row_reduction(add, threads)
    store, compute = number.store, number.compute
    load, size = (number.load, number.size) if alone else (load_f64, 8)

    # sums, or the numbers of one chunk, (n,) IN; divisor (1,) IN, or 0 for `known_divisor`; out
    # (1,) OUT
    def kernel(
        sums: Address, n_sums: Integer, divisor: Address, known_divisor: Double, out: Address
    ):
        shared = cuda.shared.array(_SLOTS, float64)
        total, i = _ZERO, int64(cuda.threadIdx.x)
        while i < n_sums:
            total += float64(load(sums + uint64(i) * uint64(size)))
            i += threads
        total = sum_of(total, shared, 0)
        if cuda.threadIdx.x == 0:
            by = load_f64(divisor) if divisor else known_divisor
            store(out, compute(total / by if by != _ZERO else math.nan))

    return kernel
