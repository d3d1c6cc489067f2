"""Multiply a gradient by the gradient above it, a number on the GPU."""

from fastxent.cuda import thread_plans
from fastxent.cuda.blocks import can_vectorise
from fastxent.cuda.conversion_kernels import make_scale_kernel
from fastxent.cuda.elements import element
from fastxent.cuda.groups import ThreadPlan
from fastxent.cuda.launch import THREADS, blocks_of_grid, launch, name_of, row_kernel
from fastxent.cuda.parameters import Rows
from fastxent.device_array import DeviceArray


def scale(values: DeviceArray, factor: DeviceArray, out: DeviceArray) -> None:
    """Out = values·factor, a number on the GPU; what is 0 stays 0, whatever the factor is.

    All are contiguous; out may be values: then nothing is written for a factor of 1.
    """
    item, n = element(name_of(values.dtype)), values.size
    vectorised = can_vectorise(Rows(values.pointer, 0), Rows(out.pointer, 0))
    vectors = max(1, thread_plans.MAX_PER_THREAD_OPTIONS // item.width)
    plan = ThreadPlan(THREADS, vectors, 1, vectorised, False)
    chunk = thread_plans.elements_per_block(plan, item)
    launch(
        row_kernel(make_scale_kernel, item, plan), blocks_of_grid(n, chunk), values.queue,
        values=values, factor=factor, out=out, n_values=n, chunk=chunk,
    )  # fmt: skip
