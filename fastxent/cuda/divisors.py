"""Sums, divisors and reduced losses, which all stay on the GPU."""

from typing import Any, NamedTuple

from fastxent.cuda import reduction_kernels
from fastxent.cuda.conversion import as_numbers
from fastxent.cuda.launch import FLOAT64, blocks_of_grid, flat_kernel, launch
from fastxent.cuda.parameters import DivisorOutputs, Inverse, Labels
from fastxent.device_array import DeviceArray

# Numbers that a block adds up: a large array has few blocks, a small one still has several.
CHUNK = 4096


class Divisor(NamedTuple):
    """A divisor on the GPU: a float64, and its inverse in the type of the arithmetic."""

    value: DeviceArray
    inverse: DeviceArray


def new_divisor(like: DeviceArray, compute: Any) -> Divisor:
    """Memory for a divisor."""
    return Divisor(like.new((), FLOAT64), like.new((), compute))


def fill_divisor(
    sums: DeviceArray, compute: Any, out: DivisorOutputs, bad_rows: DeviceArray | None = None,
    labels: Labels | None = None,
) -> None:  # fmt: skip
    """Write the sum of sums as a divisor, and the first bad row to the report."""
    launch(
        flat_kernel(reduction_kernels.make_divisor_kernel, compute), 1, sums.queue, sums=sums,
        bad_rows=bad_rows, n_sums=sums.size, labels=labels, out=out,
    )  # fmt: skip


def _divisor_of(sums: DeviceArray, compute: Any) -> Divisor:
    divisor = new_divisor(sums, compute)
    fill_divisor(sums, compute, DivisorOutputs(divisor.value, divisor.inverse, None))
    return divisor


def total(weights: DeviceArray, compute: Any) -> Divisor:
    """Σ of weights, as a divisor."""
    return _divisor_of(_chunk_sums(as_numbers(weights, compute)), compute)


def normalizer(value: DeviceArray, compute: Any) -> Divisor:
    """A number on the GPU as a divisor."""
    return _divisor_of(as_numbers(value, FLOAT64), compute)


def inverse_of(divisor: float | Divisor) -> Inverse:
    """1 / divisor as kernels take it, 0 of 0."""
    if isinstance(divisor, Divisor):
        return Inverse(divisor.inverse, 0.0)
    return Inverse(None, 1.0 / divisor if divisor else 0.0)


def _chunk_sums(values: DeviceArray) -> DeviceArray:
    """The sums of chunks of contiguous numbers."""
    sums = values.new((max(1, blocks_of_grid(values.size, CHUNK)),), FLOAT64)
    launch(
        flat_kernel(reduction_kernels.make_sum_kernel, values.dtype), sums.size, values.queue,
        values=values, n_values=values.size, chunk=CHUNK, sums=sums,
    )  # fmt: skip
    return sums


def reduced(losses: DeviceArray, divisor: float | Divisor) -> DeviceArray:
    """Σ of losses / divisor, a number on the GPU of the losses' type."""
    alone = losses.size <= CHUNK
    sums, out = losses if alone else _chunk_sums(losses), losses.new((), losses.dtype)
    value, known = (divisor.value, 0.0) if isinstance(divisor, Divisor) else (None, float(divisor))
    launch(
        flat_kernel(reduction_kernels.make_mean_kernel, losses.dtype, alone), 1, losses.queue,
        sums=sums, n_sums=sums.size, divisor=value, known_divisor=known, out=out,
    )  # fmt: skip
    return out
