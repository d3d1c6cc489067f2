"""Cross-entropy as a handler of XLA's foreign functions: called by compiled JAX code, no Python.

XLA calls a handler with the address of one struct: buffers, attributes, and a table of functions
of its own (xla/ffi/api/c_api.h, which comes with jaxlib). Leading dimensions are rows. A reduced
loss may have dimensions too, as vmap makes them: then it reduces that many groups of rows, each by
itself.

Blocks of rows are shared with XLA's threads, and nobody waits: who ends the last block completes
the future that the handler has returned. What they share lies on the heap, for a thread may begin
when all is done.
"""

import functools
from typing import Any

import numba
import numpy as np
from numba import types

from fastxent.cpu import jit, kernels, launch, narrow_kernels
from fastxent.cpu.blocks import SERIAL_BELOW, Operand, chunk_rows
from fastxent.cpu.c_interface import (
    add_to,
    address_of,
    c_function,
    call,
    pointer,
    struct,
    words,
)
from fastxent.cpu.launch import DTYPES
from fastxent.cpu.scratch import release, reserve

# How the losses are reduced: a value of the attribute `mode`.
MODES = {"none": -1, "sum": 0, "mean": 1}

# Words of the structs of c_api.h: of a call, of a buffer, of an extension and what it asks for,
# and of the table of functions.
_EXTENSION, _API, _CONTEXT, _ARGS, _RESULTS, _ATTRIBUTES, _FUTURE = 1, 2, 3, 9, 14, 20, 21
_DATA, _RANK, _DIMENSIONS = 3, 4, 5
_KIND, _METADATA, _VERSION, _TRAITS = 1, 3, 3, 4
_CREATE_ERROR, _DESTROY_ERROR = 6, 8
_SCHEDULE, _COUNT_THREADS, _CREATE_FUTURE, _COMPLETE = 17, 18, 19, 20
# The sizes of their arguments, which come first: to the end of the last member, which is an int in
# that of an error.
_ERROR_SIZE, _THREE_WORDS, _FOUR_WORDS, _FIVE_WORDS = 28, 24, 32, 40
# Its enums.
_ASKS_METADATA, _OUT_OF_RANGE = 1, 11
_ENUM = 0xFFFFFFFF

# Words of what the threads of a call share. After them, as float64: the divisor of each group, and
# the sum of each block.
(_NEXT, _DONE, _USERS, _COMPLETING, _PROMISE, _X, _Y, _LOSS, _GRAD, _ROWS, _CLASSES, _GROUPS,
 _MODE, _IGNORED, _SMOOTHING, _STEP, _PARTS, _NUMBERS) = range(18)  # fmt: skip

_MESSAGE = np.frombuffer(b"target must hold classes in 0 .. C-1, or ignore_index\0", np.uint8)

_chunk_rows = jit.subroutine(chunk_rows)
_row_cost = jit.subroutine(Operand.row_cost)
_scan_labels = jit.subroutine(kernels.scan_labels)
_wide_rows = jit.subroutine(kernels.cross_entropy_rows)
_narrow_rows = jit.subroutine(narrow_kernels.narrow_cross_entropy_rows)


@jit.subroutine
def _has_answered(frame, version):
    """Whether XLA asked what the handler is, as it does once, and has been told."""
    if frame[_EXTENSION] == 0:
        return False
    extension = words(frame[_EXTENSION])
    if extension[_KIND] & _ENUM != _ASKS_METADATA:
        return False
    metadata = words(extension[_METADATA])
    metadata[_VERSION], metadata[_TRAITS] = version, 0
    return True


@jit.subroutine
def _buffer(buffers, k):
    return words(words(buffers)[k])


@jit.subroutine
def _size(buffer, axes):
    """The product of the first dimensions of a buffer."""
    n = 1
    for axis in range(axes):
        n *= words(buffer[_DIMENSIONS])[axis]
    return n


@jit.subroutine
def _attribute(frame, k):
    """The k-th attribute by name, a number of 8 bytes, as a word."""
    return words(words(words(frame[_ATTRIBUTES])[k])[1])[0]


@jit.owner
def _labels(state, lo, hi):
    """The labels of some rows as int64."""
    labels, given = np.empty(hi - lo, np.int64), pointer(state[_Y] + 4 * lo, types.int32)
    for i in range(hi - lo):
        labels[i] = given[i]
    return labels


@jit.owner
def _scan(state, lo, hi):
    """How many of some rows count, and the first bad label, or -1."""
    given, nothing = numba.carray(pointer(state[_Y], types.int32), (hi,)), np.empty(0)
    return _scan_labels(given, state[_CLASSES], nothing, nothing, True, state[_IGNORED], lo, hi)


@jit.subroutine
def _numbers(state):
    return pointer(address_of(state) + 8 * _NUMBERS, types.float64)


@functools.cache
def _block(char: str, grad: bool, narrow: bool) -> Any:
    """A function that does rows lo..hi of a call and returns the sum of their losses."""
    element, dtype, bytes_each = DTYPES[char], np.dtype(char), np.dtype(char).itemsize

    @jit.owner
    def block(state, lo, hi, divisor):
        n, count = state[_CLASSES], hi - lo
        start = bytes_each * lo
        x = numba.carray(pointer(state[_X] + start * n, element), (count, n))
        if grad:
            d = numba.carray(pointer(state[_GRAD] + start * n, element), (count, n))
        else:
            d = None
        kept = count if state[_MODE] < 0 else 0
        loss = numba.carray(pointer(state[_LOSS] + start, element), (kept,))
        smoothing = pointer(address_of(state) + 8 * _SMOOTHING, types.float64)[0]
        ones, no = np.ones(n if smoothing else 0, dtype), np.empty(0)
        target, total = _labels(state, lo, hi), float(ones.size)
        mix = True, state[_IGNORED], 1.0 - smoothing, smoothing / n
        if narrow:
            return _narrow_rows(
                x, target, no, ones, no, total, *mix, divisor, 1.0, loss, d, None, 0, count
            )  # fmt: skip
        return _wide_rows(
            x, target, no, ones, no, total, *mix, 0.0, 1.0, 0.0, divisor, 1.0,
            loss, loss[:0], np.empty(0, np.int64), d, d, None, None, 0, count,
        )  # fmt: skip

    return block


@functools.cache
def _work(char: str, grad: bool, narrow: bool) -> Any:
    """A function that does blocks of a call until none is left."""
    block, element = _block(char, grad, narrow), DTYPES[char]

    @jit.owner
    def complete(state):
        numbers, groups, parts = _numbers(state), state[_GROUPS], state[_PARTS]
        for g in range(groups if state[_MODE] >= 0 else 0):
            losses = 0.0
            for k in range(groups + g * parts, groups + (g + 1) * parts):
                losses += numbers[k]
            pointer(state[_LOSS], element)[g] = losses / numbers[g]
        if state[_PROMISE]:
            call(state[_COMPLETING], struct((_THREE_WORDS, 0, state[_PROMISE])))

    @jit.owner
    def work(address):
        state = words(address)
        numbers, rows, parts = _numbers(state), state[_ROWS], state[_PARTS]
        blocks = state[_GROUPS] * parts
        k = add_to(state, _NEXT, 1)
        while k < blocks:
            g, lo = k // parts, k % parts * state[_STEP]
            hi = min(lo + state[_STEP], rows)
            numbers[state[_GROUPS] + k] = block(state, g * rows + lo, g * rows + hi, numbers[g])
            if add_to(state, _DONE, 1) == blocks - 1:
                complete(state)
            k = add_to(state, _NEXT, 1)
        if add_to(state, _USERS, -1) == 1:
            release(state)

    return work


@jit.subroutine
def _failed(api, error):
    """Whether a function of XLA's has returned an error, which is then done with."""
    if error:
        call(api[_DESTROY_ERROR], struct((_THREE_WORDS, 0, error)))
    return error != 0


@jit.subroutine
def _ask_for_help(frame, state, task):
    """Give the work to XLA's threads too; if there are none, the caller does all by itself."""
    api, threads = words(frame[_API]), struct((0,))
    count = struct((_FOUR_WORDS, 0, frame[_CONTEXT], address_of(threads)))
    if _failed(api, call(api[_COUNT_THREADS], count)):
        return
    wanted = min(threads[0], state[_GROUPS] * state[_PARTS]) - 1
    future = struct((_THREE_WORDS, 0, 0))
    if wanted < 1 or _failed(api, call(api[_CREATE_FUTURE], future)):
        return
    state[_PROMISE] = frame[_FUTURE] = future[2]
    state[_USERS] += wanted
    for _ in range(wanted):
        what = struct((_FIVE_WORDS, 0, frame[_CONTEXT], task, address_of(state)))
        if _failed(api, call(api[_SCHEDULE], what)):
            add_to(state, _USERS, -1)


@jit.subroutine
def _state(frame, grad):
    """What the threads share, as it is before any of them has begun.

    Attributes come in the order of their names: check_target, ignore_index, label_smoothing, mode.
    """
    x, y = _buffer(frame[_ARGS], 0), _buffer(frame[_ARGS], 1)
    loss, mode = _buffer(frame[_RESULTS], 0), _attribute(frame, 3)
    n, rows = words(x[_DIMENSIONS])[x[_RANK] - 1], _size(x, x[_RANK] - 1)
    groups = _size(loss, loss[_RANK]) if mode >= 0 else 1
    rows //= max(groups, 1)
    step = _chunk_rows(rows, _row_cost(n))
    parts = -(-rows // step)
    state = reserve(types.int64, _NUMBERS + groups + groups * parts)
    state[_NEXT], state[_DONE], state[_USERS], state[_PROMISE] = 0, 0, 1, 0
    state[_COMPLETING] = words(frame[_API])[_COMPLETE]
    state[_X], state[_Y], state[_LOSS] = x[_DATA], y[_DATA], loss[_DATA]
    state[_GRAD] = _buffer(frame[_RESULTS], 1)[_DATA] if grad else 0
    state[_ROWS], state[_CLASSES], state[_GROUPS], state[_MODE] = rows, n, groups, mode
    state[_IGNORED], state[_SMOOTHING] = _attribute(frame, 1), _attribute(frame, 2)
    state[_STEP], state[_PARTS] = step, parts
    return state


@jit.subroutine
def _divide(state, checking):
    """Set the divisor of each group; whether no label is bad, if that is to be known."""
    numbers, rows, good = _numbers(state), state[_ROWS], True
    for g in range(state[_GROUPS]):
        numbers[g] = 1.0
        if checking or state[_MODE] > 0:
            counted, bad = _scan(state, g * rows, (g + 1) * rows)
            good &= bad < 0
            if state[_MODE] > 0:
                numbers[g] = counted
    return good or not checking


@functools.cache
def handler(char: str, grad: bool, narrow: bool, minor: int) -> int:
    """The address of the handler of logits of one type, for version 0.`minor` of the interface.

    Its arguments are logits (…, C) and int32 labels (…), its results the loss and, with `grad`,
    the gradient (…, C).
    """
    work, element, version = _work(char, grad, narrow), DTYPES[char], minor << 32

    def cross_entropy(address):
        frame = words(address)
        if _has_answered(frame, version):
            return 0
        state = _state(frame, grad)
        blocks = state[_GROUPS] * state[_PARTS]
        if not _divide(state, _attribute(frame, 0)):
            release(state)
            message = _MESSAGE.ctypes.data
            error = struct((_ERROR_SIZE, 0, message, _OUT_OF_RANGE))
            return call(words(frame[_API])[_CREATE_ERROR], error)
        if not blocks:  # without rows the sum is 0, the mean is not a number
            for g in range(state[_GROUPS] if state[_MODE] >= 0 else 0):
                pointer(state[_LOSS], element)[g] = np.nan if state[_MODE] > 0 else 0.0
            release(state)
            return 0
        cost = state[_GROUPS] * state[_ROWS] * _row_cost(state[_CLASSES])
        if blocks > 1 and cost >= SERIAL_BELOW:
            _ask_for_help(frame, state, c_function(work))
        work(address_of(state))
        return 0

    # The cache knows a kernel by this name; the version is a constant in its code.
    cross_entropy.__qualname__ = f"xla_cross_entropy_{char}_{grad:d}_{narrow:d}_{minor}"
    compiled = jit.specialise(cross_entropy, (types.int64,))
    (result,) = compiled.overloads.values()  # type: ignore[attr-defined]
    place: int = result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name)
    return place


def is_narrow(char: str, grad: bool, n_classes: int) -> bool:
    """Whether rows of so many classes have handlers of their own."""
    return launch.is_narrow("rows" if grad else "numbers", char, n_classes)
