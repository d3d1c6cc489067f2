"""Convert labels for kernels, and check them."""

from typing import Any

import numpy as np

from fastxent.cuda import driver, reduction_kernels
from fastxent.cuda.conversion import converted_weights, copy_labels
from fastxent.cuda.conversion_kernels import KINDS
from fastxent.cuda.divisors import CHUNK, Divisor, fill_divisor, new_divisor
from fastxent.cuda.launch import FLOAT64, INT64, blocks_of_grid, flat_kernel, launch, name_of
from fastxent.cuda.parameters import DivisorOutputs, Labels
from fastxent.device_array import DeviceArray, Memory, Pointer
from fastxent.records import NO_OPTIONS, NO_WEIGHTS, Options, Weights


def contiguous_labels(labels: DeviceArray) -> DeviceArray:
    """The labels, contiguous: themselves, if they are so already."""
    return labels if labels.is_contiguous else copy_labels(labels)


def labels_of(labels: DeviceArray, ignore_index: int | None, first: int = 0) -> Labels:
    """Contiguous labels from row `first` on as kernels take them.

    Compared as integers of their own type: an ignore_index that it does not hold ignores nothing.
    """
    kind = KINDS[name_of(labels.dtype)]
    bits = 8 << (kind >> 1)
    low, high = (0, 2**bits - 1) if kind & 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if ignore_index is None or not low <= ignore_index <= high:
        return Labels(labels.at(first), kind, 0, 0)
    ignored = ignore_index - 2**64 if ignore_index >= 2**63 else ignore_index
    return Labels(labels.at(first), kind, 1, ignored)


def scan_labels(
    labels: DeviceArray, n_classes: int, weights: Weights, options: Options, compute: Any,
    check: bool,
) -> tuple[Divisor, int, int]:  # fmt: skip
    """Σ u·w_y of the active rows, the divisor of the mean; the first bad row, or -1, and its label.

    The check waits for the GPU, as nothing else in a call does; not while the stream is captured.
    """
    queue, n_rows = labels.queue, labels.size
    labels, weights = contiguous_labels(labels), converted_weights(weights, compute)
    report = driver.report(queue.place) if check and not driver.is_capturing(queue.place) else None
    report_at = None
    if report is not None:
        queue.report = Memory(report, driver.address_of(report))
        report_at = Pointer(queue.report, 0)
    divisor, read = new_divisor(labels, compute), labels_of(labels, options.ignore_index)
    out = DivisorOutputs(divisor.value, divisor.inverse, report_at)
    grid, sums, bad_rows = blocks_of_grid(n_rows, CHUNK), None, None
    alone = grid <= 1  # then the scan itself writes the divisor
    if not alone:
        sums, bad_rows = labels.new((grid,), FLOAT64), labels.new((grid,), INT64)
    launch(
        flat_kernel(reduction_kernels.make_scan_kernel, compute, alone), max(grid, 1), queue,
        labels=read, class_weight=weights.class_weight, sample_weight=weights.sample_weight,
        n=n_classes, n_rows=n_rows, chunk=CHUNK, sums=sums, bad_rows=bad_rows,
        out=out if alone else None,
    )  # fmt: skip
    if sums is not None:
        fill_divisor(sums, compute, out, bad_rows, read)
    if report is None:
        return divisor, -1, 0
    driver.wait(queue.place)
    queue.add_check()
    row, label = map(int, report)
    bad = -1 if row == reduction_kernels.NO_BAD_ROW else row
    is_large = labels.dtype == np.uint64 and label < 0  # reported by its bits
    return divisor, bad, label + 2**64 if is_large else label


def first_beyond_one(integers: DeviceArray) -> tuple[int, int]:
    """The index in C order of the first integer other than 0 and 1, or -1, and its value.

    They are scanned as labels of two classes, which waits for the GPU.
    """
    flat = integers.part(0, (integers.size,)) if integers.is_contiguous else integers
    _, at, value = scan_labels(flat, 2, NO_WEIGHTS, NO_OPTIONS, FLOAT64, True)
    return at, value
