"""Convert arrays between types and layouts, in parts of rank 4."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastxent.cuda import conversion_kernels
from fastxent.cuda.launch import FLOAT64, THREADS, blocks_of_grid, flat_kernel, launch, name_of
from fastxent.cuda.parameters import Inverse, Labels, Strided
from fastxent.device_array import DeviceArray
from fastxent.records import Weights


class Part(NamedTuple):
    """A part of rank 4 of an array: its elements first … first + n in C order."""

    array: Strided
    first: int
    n: int


def merged_dims(shape: tuple[int, ...], strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """Lengths and strides of the fewest dimensions that address the same elements in order."""
    dims: list[tuple[int, int]] = []
    for n, stride in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if dims and dims[-1][1] == n * stride:  # joins the dimension before
            dims[-1] = (dims[-1][0] * n, stride)
        else:
            dims.append((n, stride))
    return dims


def parts_of_rank_4(array: DeviceArray) -> Iterator[Part]:
    """Split an array of any rank and layout into parts that kernels can address."""
    kind = conversion_kernels.KINDS[name_of(array.dtype)]
    dims = merged_dims(array.shape, array.strides)
    dims = [(1, 0)] * (4 - len(dims)) + dims
    outer, inner = dims[:-4], dims[-4:]
    count = math.prod(n for n, _ in inner)
    (_, *sizes), strides = zip(*inner, strict=True)
    for number, index in enumerate(np.ndindex(*(n for n, _ in outer))):
        offset = sum(i * stride for i, (_, stride) in zip(index, outer, strict=True))
        strided = Strided(array.pointer.at(offset), kind, *sizes, *strides)
        yield Part(strided, number * count, count)


def _launch_over(
    factory: Callable[..., Any], compute: Any, array: DeviceArray, first: int, count: int,
    flat: DeviceArray, **others: Any,
) -> None:  # fmt: skip
    """Launch a kernel for each part that contains elements first … first + count of an array.

    `flat`, and any other array, is contiguous and has one element for each of these.
    """
    kernel = flat_kernel(factory, compute)
    for part in parts_of_rank_4(array):
        begin, end = max(first, part.first), min(first + count, part.first + part.n)
        if begin < end:
            at = begin - first
            beside = {
                name: value.at(at) if isinstance(value, DeviceArray) else value
                for name, value in others.items()
            }
            launch(
                kernel, blocks_of_grid(end - begin, THREADS), array.queue, array=part.array,
                first=begin - part.first, count=end - begin, flat=flat.at(at), **beside,
            )  # fmt: skip


def convert(
    array: DeviceArray, compute: Any, first: int, count: int, out: DeviceArray,
    scale: float = 1.0, softcap: float = 0.0,
) -> None:  # fmt: skip
    """Write elements first … of an array to `out`, in its type, scaled and capped as logits."""
    _launch_over(
        conversion_kernels.make_gather_kernel, compute, array, first, count, out, scale=scale,
        softcap=softcap,
    )  # fmt: skip


def apply_chain_rule(
    array: DeviceArray, compute: Any, first: int, count: int, grad: DeviceArray, scale: float,
    softcap: float,
) -> None:  # fmt: skip
    """Convert gradients with respect to the output of `convert` to those of its input, in place."""
    _launch_over(
        conversion_kernels.make_chain_kernel, compute, array, first, count, grad, scale=scale,
        softcap=softcap,
    )  # fmt: skip


def apply_second_chain_rule(
    array: DeviceArray, compute: Any, first: int, count: int, values: DeviceArray, scale: float,
    softcap: float, grad: DeviceArray | None, vector: DeviceArray | None,
) -> None:  # fmt: skip
    """The same for second derivatives: a Hessian's products with a vector, or its diagonal.

    `grad` is the gradient by the output of `convert`, which only a softcap needs.
    """
    _launch_over(
        conversion_kernels.make_second_chain_kernel, compute, array, first, count, values,
        scale=scale, softcap=softcap, grad=grad, vector=vector,
    )  # fmt: skip


def put(
    values: DeviceArray, array: DeviceArray, first: int, count: int, adding: bool = False
) -> None:
    """Write contiguous numbers to elements first … of an array, or add them."""
    _launch_over(
        conversion_kernels.make_scatter_kernel, values.dtype, array, first, count, values,
        adding=int(adding),
    )  # fmt: skip


def copy_labels(labels: DeviceArray) -> DeviceArray:
    """Copy labels of any layout to contiguous 64-bit integers; unsigned ones stay unsigned."""
    unsigned = labels.dtype.kind == "u"
    copy = labels.new((labels.size,), np.dtype(np.uint64 if unsigned else np.int64))
    _launch_over(
        conversion_kernels.make_copy_labels_kernel, FLOAT64, labels, 0, labels.size, copy,
    )  # fmt: skip
    return copy


def as_numbers(array: DeviceArray, compute: Any) -> DeviceArray:
    """The array, contiguous and in the type of the arithmetic: itself, if it is so already."""
    if array.dtype == compute and array.is_contiguous:
        return array
    out = array.new((array.size,), compute)
    convert(array, compute, 0, array.size, out)
    return out


def converted_weights(weights: Weights, compute: Any) -> Weights:
    """The weights of rows and classes as kernels read them."""
    class_weight, sample_weight = weights.class_weight, weights.sample_weight
    if class_weight is not None:
        weights = weights._replace(class_weight=as_numbers(class_weight, compute))
    if sample_weight is not None:
        weights = weights._replace(sample_weight=as_numbers(sample_weight, compute))
    return weights


def clear_ignored(
    rows: DeviceArray, labels: Labels | None, sample_weight: DeviceArray | None, inverse: Inverse,
    n_classes: int,
) -> None:  # fmt: skip
    """Write zeros to rows (N, K) that are ignored; weights as `converted_weights` returns them."""
    launch(
        flat_kernel(conversion_kernels.make_clear_kernel, rows.dtype),
        blocks_of_grid(rows.size, THREADS), rows.queue, rows=rows, n_columns=rows.shape[1],
        labels=labels, sample_weight=sample_weight, inverse=inverse, n=n_classes, count=rows.size,
    )  # fmt: skip
