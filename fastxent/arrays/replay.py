"""Calls like one before: the same launches with other addresses, and nothing asked anew.

What Python does before the first kernel takes longer than a small call's kernels. It depends on
types, shapes, options and on how addresses lie to 16 bytes, but not on the addresses; so while a
call of a kind is computed for the first time its launches are kept, and the next of that kind only
writes its own addresses into them. That each address is known for what it is makes this safe: while
a call is kept, arrays have addresses that know in which array they lie, wherever they are carried
by additions, and a launch with an address of unknown origin is not kept.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastxent.arrays import views
from fastxent.arrays.device import DeviceArray
from fastxent.cuda import driver
from fastxent.cuda.addresses import Address, here
from fastxent.cuda.array_kernels import NONE_BAD
from fastxent.functions import Function
from fastxent.records import Place

Given = dict[str, Any]
# look(array, device) is an array's address, its shape, and what else its kind is; None where that
# does not say all of it, as where it is not on that GPU, or its elements not side by side.
# new(shape, dtype, place) is as a library has it.
Look = Callable[[Any, int], tuple[int, tuple[int, ...], Any] | None]
New = Callable[[tuple[int, ...], Any, Place], tuple[Any, int]]

# Kinds of calls that are kept, and launches of one: a call of more is not short of time.
KINDS, LAUNCHES = 512, 16
# How far apart the arrays of a call lie at least in the memory that they share; to a multiple of
# what the kernels take new arrays to begin.
_APART, _EVEN = 256, 16
_BYTE = np.dtype(np.uint8)

# (position among a launch's arguments, number of an array, distance from its beginning)
_Use = tuple[int, int, int]
# The array that a check of labels answers in.
_REPORT = 0


class _Recording:
    """What a call does, as long as all of it is seen."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.complete = True
        self.steps: list[tuple[driver.Call, list[_Use]]] = []
        self.checked: int | None = None
        # By their numbers, in which the report stands first; those given come before those made.
        self.arrays: list[Any] = [None]
        self.given = 0

    def give(self, array: DeviceArray) -> None:
        """An argument, in the order of the arguments."""
        self.make(array)
        self.given += 1

    def make(self, array: DeviceArray) -> None:
        """A new array."""
        array.address = Address.of(array.address, self, len(self.arrays))
        self.arrays.append(array)

    def miss(self) -> None:
        """Something is done that is no launch."""
        self.complete = False

    def launch(self, call: driver.Call, places: tuple[int, ...], args: tuple[Any, ...]) -> None:
        """A launch, whose arguments at these places are addresses."""
        uses: list[_Use] = []
        for position in places:
            address = args[position]
            if type(address) is Address:
                uses.append((position, address.array, address.offset))
            elif address and address == driver.address_of(driver.report(self.place)):
                uses.append((position, _REPORT, 0))
                self.checked = len(self.steps)
            elif address:
                self.complete = False
        self.steps.append((call, uses))

    def ended(self, results: Any) -> "_Program | None":
        """What is to be done for another call of the kind; None if that is not known."""
        several = results if isinstance(results, tuple) else (results,)
        number_of = {id(array): number for number, array in enumerate(self.arrays[1:], 1)}
        numbers = [number_of.get(id(result), -1) for result in several]
        if not self.complete or -1 in numbers or len(self.steps) > LAUNCHES:
            return None
        made: list[tuple[tuple[int, ...], Any, int | None]] = []
        end = 0
        for array in self.arrays[1 + self.given :]:
            if array.address % _EVEN:
                return None
            at = None if number_of[id(array)] in numbers else end
            made.append((array.shape, array.dtype, at))
            if at is not None:
                end += -(-array.size * array.dtype.itemsize // _APART) * _APART
        results = tuple(numbers) if isinstance(results, tuple) else numbers[0]
        return _Program(self.steps, self.checked, made, end, results)

    def forget(self) -> None:
        """Arrays and this know nothing of each other any more, or they would outlive the call."""
        for array in self.arrays[1:]:
            array.address = int(array.address)
        self.arrays.clear()


class _Program(NamedTuple):
    """A call of a kind: its launches with the addresses to be written into them, and its arrays.

    Arrays are numbered: what a check of labels answers in, those given, those made, of which all
    but the results lie in memory that they share, at a distance from its beginning.
    """

    steps: list[tuple[driver.Call, list[_Use]]]
    checked: int | None
    made: list[tuple[tuple[int, ...], Any, int | None]]
    shared: int
    results: int | tuple[int, ...]

    def run(self, sight: "Sight", place: Place, new: New) -> Any:
        """Launch all of it on other arrays; None at a bad label, and where new ones lie unevenly.

        Then nothing has been written but what was made here.
        """
        report: Any = None
        room, shared = None, 0
        if self.shared:
            # Kept until all is launched: what is freed then, the stream's next user may have.
            room, shared = new((self.shared,), _BYTE, place)
        if self.checked is not None:
            report = driver.report(place)
        arrays = [report, *sight.arrays]
        addresses = [0 if report is None else driver.address_of(report), *sight.addresses]
        for shape, dtype, at in self.made:
            array, address = new(shape, dtype, place) if at is None else (room, shared + at)
            if address % _EVEN:
                return None
            arrays.append(array)
            addresses.append(address)
        with driver.current(place.device):
            for number, (call, uses) in enumerate(self.steps):
                values = call.values
                for position, array, offset in uses:
                    values[position] = addresses[array] + offset
                call.launch(place.stream)
                if number == self.checked:
                    driver.wait(place)
                    if report[0] != NONE_BAD:
                        return None
        if isinstance(self.results, int):
            return arrays[self.results]
        return tuple([arrays[number] for number in self.results])


# --- the calls that are known ---------------------------------------------------------------


class Sight(NamedTuple):
    """A call as far as its launches depend on it, its arrays, and their addresses."""

    kind: tuple[Any, ...]
    arrays: list[Any]
    addresses: list[int]


# The types of arguments that are no arrays, and alike if they are equal.
_SIMPLE = {bool, int, float, str, type(None)}


def sight_of(function: Function, given: Given, device: int, look: Look) -> Sight | None:
    """What is seen of a call whose first argument is on this GPU; None if that is not enough."""
    kind: list[Any] = [function, device]
    arrays: list[Any] = []
    addresses, buffers = [], []
    for name, value in given.items():
        if type(value) in _SIMPLE:
            kind += name, type(value), value or repr(value)  # -0.0 is another option than 0.0
            continue
        # Elsewhere an array is an option, whose value matters.
        found = look(value, device) if name in function.arrays or name in function.buffers else None
        if found is None or not found[0]:
            return None
        address, shape, dtype = found
        kind += name, shape, dtype, address & 15
        if name in function.buffers:
            buffers.append(len(arrays))
        arrays.append(value)
        addresses.append(address)
    for buffer in buffers:  # where one lies decides what may be done
        end = addresses[buffer] + _bytes(arrays[buffer])
        for number, (array, address) in enumerate(zip(arrays, addresses, strict=True)):
            if address == addresses[buffer] and array.shape == arrays[buffer].shape:
                kind.append((buffer, number))
            elif address < end and addresses[buffer] < address + _bytes(array):
                return None
    return Sight(tuple(kind), arrays, addresses)


def _bytes(array: Any) -> int:
    n: int = math.prod(array.shape) * array.dtype.itemsize
    return n


# Programs that nobody runs, by the kind of call: one for each thread that has called at once. None
# where they are not known.
_idle: dict[tuple[Any, ...], list[_Program] | None] = {}


def forget() -> None:
    """Keep no call of before."""
    _idle.clear()


def again(sight: Sight, place: Place, new: New) -> Any:
    """The results of a call of a kind that is known; None where it has to go the long way."""
    idle = _idle.get(sight.kind)
    if not idle:
        return None
    try:
        program = idle.pop()
    except IndexError:  # another thread was quicker
        return None
    results = None
    if program.checked is None or not driver.is_capturing(place):
        results = program.run(sight, place, new)
    idle.append(program)
    return results


def recorded(function: Function, given: Given, sight: Sight | None) -> Any:
    """What a function makes of views: results as views. A call that was seen is kept."""
    place = next(iter(given.values())).place
    if sight is None or _idle.get(sight.kind, ()) is None or driver.is_capturing(place):
        return function.body(**given)  # not for another: while a stream is recorded nothing is checked
    recording = _Recording(place)
    for value in given.values():
        if type(value) is DeviceArray:
            recording.give(value)
    before, here.recording = here.recording, recording
    try:
        results = function.body(**given)
        program = recording.ended(results)
    finally:
        here.recording = before
        recording.forget()
    if len(_idle) >= KINDS:
        _idle.clear()
    if program is None:
        _idle[sight.kind] = None
    else:
        idle = _idle.setdefault(sight.kind, [])
        if idle is not None:
            idle.append(program)
    return results


def computed(function: Function, given: Given, sight: Sight | None = None) -> Any:
    """What a function makes of views of arrays that are all on one GPU, as the library's arrays.

    A call that has been seen, as `sight`, was found to be of no kind that is known.
    """
    results = None
    if sight is None:
        first = next(iter(given.values()))
        sight = sight_of(function, given, first.place.device, _look)
        results = None if sight is None else again(sight, first.place, first.library.new)
    if results is None:
        results = recorded(function, given, sight)
    return views.converted(results, own)


def _look(array: Any, _device: int) -> tuple[int, tuple[int, ...], Any] | None:
    if type(array) is not DeviceArray or not array.is_plain:
        return None
    return array.address, array.shape, (array.dtype, array.writeable)


def own(array: Any) -> Any:
    """A result as an array of its library."""
    return array.owner if type(array) is DeviceArray else array
