"""Cached plans: a call's kernel launches, repeated with other arrays.

A call records its launches in its `Queue`, with a pointer for each address among their arguments.
A `CachedPlan` numbers the arrays that these point into; to run it writes the addresses of other
arrays into the packed arguments and launches again. A repeated call does nothing else in Python.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastxent.cuda import driver
from fastxent.cuda.reduction_kernels import NO_BAD_ROW
from fastxent.device_array import DeviceArray, LaunchedCall, Memory, Queue
from fastxent.records import Place

# new(shape, dtype, place): as `device_array.Library` has it.
New = Callable[[tuple[int, ...], Any, Place], tuple[Any, int]]

# Kernels were chosen for new arrays aligned to this.
_ALIGNMENT = 16
# Arrays in the shared scratch memory begin at multiples of this.
_SCRATCH_ALIGNMENT = 256
_BYTE = np.dtype(np.uint8)


class _Argument(NamedTuple):
    """An address among a launch's arguments: its position, the array's number, the byte in it."""

    position: int
    array: int
    offset: int


class _Step(NamedTuple):
    """A launch and the addresses among its arguments."""

    call: LaunchedCall
    arguments: list[_Argument]


class _NewArray(NamedTuple):
    """An array to allocate; `scratch_offset` is its place in scratch memory, None of a result."""

    shape: tuple[int, ...]
    dtype: Any
    scratch_offset: int | None


class CachedPlan(NamedTuple):
    """The launches of a call, those before and those after its check of labels.

    Arrays are numbered: the report, the arguments, the new arrays. `results` are the numbers of the
    results. All new arrays that are not results share one scratch memory.
    """

    checked: list[_Step]
    steps: list[_Step]
    new_arrays: list[_NewArray]
    scratch_bytes: int
    results: int | tuple[int, ...]

    def run(self, arguments: Sequence[Any], addresses: list[int], place: Place, new: New) -> Any:
        """Launch it on other arrays and return the library's results.

        None at a bad label, or if a new array is not aligned: then the call has to be computed, and
        nothing but new arrays has been written.
        """
        scratch, scratch_at = None, 0
        if self.scratch_bytes:
            # Kept until all is launched: the stream's next user may get memory that is freed then.
            scratch, scratch_at = new((self.scratch_bytes,), _BYTE, place)
        report, report_at = None, 0
        if self.checked:
            report = driver.report(place)
            report_at = driver.address_of(report)
        arrays, addresses = [report, *arguments], [report_at, *addresses]
        for shape, dtype, offset in self.new_arrays:
            if offset is None:
                array, address = new(shape, dtype, place)
            else:
                array, address = scratch, scratch_at + offset
            if address % _ALIGNMENT:
                return None
            arrays.append(array)
            addresses.append(address)
        with driver.current(place.device):
            if report is not None:
                _launch(self.checked, addresses, place.stream)
                driver.wait(place)
                if report[0] != NO_BAD_ROW:
                    return None
            _launch(self.steps, addresses, place.stream)
        if isinstance(self.results, int):
            return arrays[self.results]
        return tuple([arrays[number] for number in self.results])


def _launch(steps: list[_Step], addresses: list[int], stream: int) -> None:
    for call, arguments in steps:
        values = call.values
        for position, array, offset in arguments:
            values[position] = addresses[array] + offset
        call.launch(stream)


def plan_of_call(queue: Queue, arguments: list[Memory], results: Any) -> CachedPlan | None:
    """The plan of a call with these arrays as arguments and results; None if it has none."""
    several = results if isinstance(results, tuple) else (results,)
    if not queue.is_cacheable or any(type(result) is not DeviceArray for result in several):
        return None
    memories = [queue.report, *arguments, *(array.memory for array in queue.new_arrays)]
    numbers = {memory: number for number, memory in enumerate(memories)}
    try:
        result_numbers = tuple([numbers[result.memory] for result in several])
        steps = [
            _Step(call, [_Argument(k, numbers[memory], at) for k, (memory, at) in pointers])
            for call, pointers in queue.launches
        ]
    except KeyError:  # an array that is neither an argument nor new
        return None
    new_arrays: list[_NewArray] = []
    scratch_bytes = 0
    for memory, shape, dtype in queue.new_arrays:
        if memory.address % _ALIGNMENT:
            return None
        if numbers[memory] in result_numbers:
            new_arrays.append(_NewArray(shape, dtype, None))
            continue
        new_arrays.append(_NewArray(shape, dtype, scratch_bytes))
        n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        scratch_bytes += -(-n_bytes // _SCRATCH_ALIGNMENT) * _SCRATCH_ALIGNMENT
    n_checked = queue.n_checked or 0
    return CachedPlan(
        steps[:n_checked], steps[n_checked:], new_arrays, scratch_bytes,
        result_numbers if isinstance(results, tuple) else result_numbers[0],
    )  # fmt: skip
