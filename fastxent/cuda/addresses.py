"""Addresses that know where they come from, so that a launch can be told again with others.

Everything here takes and gives addresses as integers, and some of them are these: whoever records a
call gives its arrays such ones. An addition keeps what they know.
"""

import threading
from typing import Any


class Address(int):
    """An address of which is known in which array it lies, and how far from its beginning."""

    recording: Any
    array: int
    offset: int

    @classmethod
    def of(cls, value: int, recording: Any, array: int, offset: int = 0) -> "Address":
        """The address of a byte of the array of this number in a recording."""
        address = cls(value)
        address.recording, address.array, address.offset = recording, array, offset
        return address

    def __add__(self, distance: int) -> "Address":
        at = self.offset + int(distance)
        return Address.of(int(self) + distance, self.recording, self.array, at)

    __radd__ = __add__


class _Here(threading.local):
    """What records the launches of this thread, or None."""

    recording: Any = None


here = _Here()


def noted(call: Any, places: tuple[int, ...], args: tuple[Any, ...]) -> None:
    """Tell of a launch, whose arguments at these places are addresses."""
    if here.recording is not None:
        here.recording.launch(call, places, args)
