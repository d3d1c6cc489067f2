"""Cache of launch plans: record a call's kernel launches once, repeat them with new pointers.

For a small call, the Python code before the first launch takes longer than the kernels. Its
decisions depend on types, shapes, options and the alignment of addresses, but not on the addresses.
These form a key, and a call whose key is in the cache runs the `CachedPlan` of an earlier call: see
`fastxent.cuda.plans`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from fastxent.arrays import views
from fastxent.cuda import driver
from fastxent.cuda.plans import CachedPlan, New, plan_of_call
from fastxent.device_array import DeviceArray
from fastxent.functions import Arguments, Function
from fastxent.records import Place

# The cache is cleared when it has this many keys.
MAX_KEYS = 512

# Function, device and options; shape, dtype and alignment of each array; which buffers are exactly
# which arrays.
CallKey = tuple[Any, ...]
# describe(array, device) returns (pointer, shape, dtype), or None if the array cannot be cached: it
# is not on that GPU, or not contiguous. The last may hold more that belongs to the key.
Describe = Callable[[Any, int], tuple[int, tuple[int, ...], Any] | None]

# Plans that no thread is running, by key: as many as threads have made the call at the same time.
# None if a call cannot have a plan.
_plans: dict[CallKey, list[CachedPlan] | None] = {}

# Types of options for which equal values have the same effect.
_SIMPLE = {bool, int, float, str, type(None)}


def clear() -> None:
    """Drop all plans."""
    _plans.clear()


class KeyedCall(NamedTuple):
    """The key of a call, its arrays and their addresses."""

    key: CallKey
    arrays: list[Any]
    addresses: list[int]


def keyed(
    function: Function, arguments: Arguments, device: int, describe: Describe
) -> KeyedCall | None:
    """Make the key of a call whose first argument is on this GPU; None if it cannot be cached."""
    key: list[Any] = [function, device]
    arrays: list[Any] = []
    addresses, buffers = [], []
    for name, value in arguments.items():
        if type(value) in _SIMPLE:
            key += name, type(value), value or repr(value)  # distinguishes -0.0 from 0.0
            continue
        # An array passed as an option is not cached: its value may change.
        is_buffer = name in function.buffers
        described = describe(value, device) if is_buffer or name in function.arrays else None
        if described is None or not described[0]:
            return None
        address, shape, dtype = described
        key += name, shape, dtype, address & 15
        if is_buffer:
            buffers.append(len(arrays))
        arrays.append(value)
        addresses.append(address)
    for buffer in buffers:  # it may be exactly another array, but must not overlap one partly
        end = addresses[buffer] + _n_bytes(arrays[buffer])
        for number, (array, address) in enumerate(zip(arrays, addresses, strict=True)):
            if address == addresses[buffer] and array.shape == arrays[buffer].shape:
                key.append((buffer, number))
            elif address < end and addresses[buffer] < address + _n_bytes(array):
                return None
    return KeyedCall(tuple(key), arrays, addresses)


def _n_bytes(array: Any) -> int:
    return int(math.prod(array.shape) * array.dtype.itemsize)


def run_cached(call: KeyedCall, place: Place, new: New) -> Any:
    """Run the plan of a call and return its results; None if it has none."""
    plans = _plans.get(call.key)
    if not plans:
        return None
    try:
        plan = plans.pop()  # other threads must not write to its arguments while it runs
    except IndexError:  # another thread took the last one
        return None
    results = None
    if not plan.checked or not driver.is_capturing(place):
        results = plan.run(call.arrays, call.addresses, place, new)
    plans.append(plan)
    return results


def run_recorded(function: Function, arguments: Arguments, call: KeyedCall | None) -> Any:
    """Call a function on views, and cache the plan of a keyed call."""
    queue = next(iter(arguments.values())).queue
    # During stream capture labels are not checked, so a plan recorded then would never check them.
    if call is None or _plans.get(call.key, ()) is None or driver.is_capturing(queue.place):
        queue.not_cacheable()
        return function.body(**arguments)
    results = function.body(**arguments)
    # In the order of the addresses in the keyed call.
    memories = [value.memory for value in arguments.values() if type(value) is DeviceArray]
    plan = plan_of_call(queue, memories, results)
    if len(_plans) >= MAX_KEYS:
        _plans.clear()
    if plan is None:
        _plans[call.key] = None
    else:
        plans = _plans.setdefault(call.key, [])
        if plans is not None:
            plans.append(plan)
    return results


def computed(function: Function, arguments: Arguments, call: KeyedCall | None = None) -> Any:
    """Call a function on views on one GPU; return the library's arrays.

    If `call` is passed, it has no plan yet.
    """
    results = None
    if call is None:
        first = next(iter(arguments.values()))
        call = keyed(function, arguments, first.place.device, _describe)
        results = None if call is None else run_cached(call, first.place, first.library.new)
    if results is None:
        results = run_recorded(function, arguments, call)
    return views.converted(results, own)


def _describe(array: Any, _device: int) -> tuple[int, tuple[int, ...], Any] | None:
    if type(array) is not DeviceArray or not array.is_plain:
        return None
    return array.address, array.shape, (array.dtype, array.writeable)


def own(array: Any) -> Any:
    """Convert a result to an array of its library."""
    return array.owner if type(array) is DeviceArray else array
