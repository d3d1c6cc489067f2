"""Cross-entropy as an XLA FFI handler: compiled JAX programs call it without Python.

XLA calls a handler with the address of one struct: buffers, attributes, and a table of XLA's
functions (xla/ffi/api/c_api.h, part of jaxlib). Leading dimensions are rows. A reduced loss may
have dimensions too, from vmap: it then reduces that many groups of rows separately.

Blocks of rows are shared with XLA's threads and nothing blocks: the thread that ends the last block
completes the future that the handler has returned. The shared state is on the heap, as a thread may
begin after all work is done.
"""

import functools
from typing import Any

import numba
import numpy as np
from numba import types

from fastxent.cpu import jit, kernel_calls, launch
from fastxent.cpu.arguments import (
    ARITHMETIC,
    ELEMENTS,
    NO_OUTPUTS,
    KernelOptions,
    OutputArrays,
    WeightArrays,
    pack_options,
)
from fastxent.cpu.blocks import HALF, chunk_rows, row_cost
from fastxent.cpu.c_interface import (
    add_to,
    address_of,
    array_memory,
    c_function,
    call,
    pointer,
    struct,
    words,
)
from fastxent.cpu.labels import labels_at
from fastxent.cpu.scratch import release, reserve
from fastxent.cpu.threads import SERIAL_BELOW
from fastxent.options import Options

# The reduction, as the value of the attribute `mode`.
MODES = {"none": -1, "sum": 0, "mean": 1}

# Offsets, in words, in the structs of c_api.h: of a call, a buffer, an extension and its metadata,
# and the table of functions.
_EXTENSION, _API, _CONTEXT, _ARGS, _RESULTS, _ATTRIBUTES, _FUTURE = 1, 2, 3, 9, 14, 20, 21
_DATA, _RANK, _DIMENSIONS = 3, 4, 5
_KIND, _METADATA, _VERSION, _TRAITS = 1, 3, 3, 4
_CREATE_ERROR, _DESTROY_ERROR = 6, 8
_SCHEDULE, _COUNT_THREADS, _CREATE_FUTURE, _COMPLETE = 17, 18, 19, 20
# The sizes of these functions' argument structs, their first member: up to the end of the last
# member, an int in that of an error.
_ERROR_SIZE, _THREE_WORDS, _FOUR_WORDS, _FIVE_WORDS = 28, 24, 32, 40
# Values of its enums.
_METADATA_REQUEST, _OUT_OF_RANGE = 1, 11
_ENUM = 0xFFFFFFFF

# Offsets, in words, in the state that the threads of a call share. After these words, as float64:
# the divisor of each group, and the sum of each block.
(_NEXT, _DONE, _USERS, _COMPLETING, _PROMISE, _X, _Y, _LOSS, _GRAD, _ROWS, _CLASSES, _GROUPS,
 _MODE, _IGNORED, _SMOOTHING, _STEP, _PARTS, _NUMBERS) = range(18)  # fmt: skip

_MESSAGE = np.frombuffer(b"target must hold classes in 0 .. C-1, or ignore_index\0", np.uint8)

_chunk_rows = jit.subroutine(chunk_rows)
_row_cost = jit.subroutine(row_cost)
_DEFAULTS = pack_options(Options(), 1)


@jit.subroutine
def _answer_metadata(frame, version):
    """Answer a request for the handler's metadata; return whether the call was one."""
    if frame[_EXTENSION] == 0:
        return False
    extension = words(frame[_EXTENSION])
    if extension[_KIND] & _ENUM != _METADATA_REQUEST:
        return False
    metadata = words(extension[_METADATA])
    metadata[_VERSION], metadata[_TRAITS] = version, 0
    return True


@jit.subroutine
def _buffer(buffers, k):
    """The k-th buffer of the arguments or results."""
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
    """The k-th attribute in the order of names, a number of 8 bytes, as a word."""
    return words(words(words(frame[_ATTRIBUTES])[k])[1])[0]


@jit.inlined
def _weights(ones):
    """The weights of a call: row_weight alone, ones for smoothing."""
    absent = np.empty(0)
    return WeightArrays(
        class_weight=absent, sample_weight=absent, row_weight=ones, row_weight_step=1,
        total_weight=float(ones.size),
    )  # fmt: skip


@jit.inlined
def _options(state, n):
    """The options of a call."""
    smoothing = pointer(address_of(state) + 8 * _SMOOTHING, types.float64)[0]
    return KernelOptions(True, state[_IGNORED], 1.0 - smoothing, smoothing / n, *_DEFAULTS[4:])


@jit.subroutine
def _numbers(state):
    """The divisors of the groups and the sums of the blocks."""
    return pointer(address_of(state) + 8 * _NUMBERS, types.float64)


@functools.cache
def _make_block(char: str, grad: bool, few_classes: bool) -> Any:
    """Make a function that computes the rows lo..hi of a call and returns the sum of losses."""
    element, arithmetic = ELEMENTS[char], ARITHMETIC[char]
    itemsize, loss_size = element.bitwidth // 8, arithmetic.bitwidth // 8
    dtype = np.float64 if loss_size == 8 else np.float32
    absent, layout = NO_OUTPUTS[np.dtype(dtype).char], launch.ROWS if few_classes else ()
    rows_of = kernel_calls.by_name(*launch.loss_kernel(char, grad, few_classes))

    @jit.owner
    def block(state, lo, hi, divisor):
        n, count = state[_CLASSES], hi - lo
        start = itemsize * lo
        x = numba.carray(array_memory(state[_X] + start * n, element), (count, n))
        if grad:
            d = numba.carray(array_memory(state[_GRAD] + start * n, element), (count, n))
        else:
            d = None
        loss = numba.carray(
            pointer(state[_LOSS] + loss_size * lo, arithmetic),
            (count if state[_MODE] < 0 else 0,),
        )
        weights = _weights(np.ones(n if state[_SMOOTHING] else 0, dtype))
        outputs = OutputArrays(loss, d, *absent[2:])  # in the order of its fields
        target = labels_at(state[_Y] + 4 * lo, 4, count)
        options = _options(state, n)
        return rows_of((x, target, weights, options, *layout, divisor, outputs, 0, count))

    return block


@functools.cache
def _make_work(char: str, grad: bool, few_classes: bool) -> Any:
    """Make a function that computes blocks of a call until none is left."""
    block, arithmetic = _make_block(char, grad, few_classes), ARITHMETIC[char]

    @jit.owner
    def complete(state):
        numbers, groups, parts = _numbers(state), state[_GROUPS], state[_PARTS]
        for g in range(groups if state[_MODE] >= 0 else 0):
            losses = 0.0
            for k in range(groups + g * parts, groups + (g + 1) * parts):
                losses += numbers[k]
            pointer(state[_LOSS], arithmetic)[g] = losses / numbers[g]
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
    """Whether a function of XLA has returned an error, which is then destroyed."""
    if error:
        call(api[_DESTROY_ERROR], struct((_THREE_WORDS, 0, error)))
    return error != 0


@jit.subroutine
def _schedule(frame, state, task):
    """Schedule the work on XLA's threads, too; without any, the calling thread does all of it."""
    api, threads = words(frame[_API]), struct((0,))
    count = struct((_FOUR_WORDS, 0, frame[_CONTEXT], address_of(threads)))
    if _failed(api, call(api[_COUNT_THREADS], count)):
        return
    helpers = min(threads[0], state[_GROUPS] * state[_PARTS]) - 1
    future = struct((_THREE_WORDS, 0, 0))
    if helpers < 1 or _failed(api, call(api[_CREATE_FUTURE], future)):
        return
    state[_PROMISE] = frame[_FUTURE] = future[2]
    state[_USERS] += helpers
    for _ in range(helpers):
        job = struct((_FIVE_WORDS, 0, frame[_CONTEXT], task, address_of(state)))
        if _failed(api, call(api[_SCHEDULE], job)):
            add_to(state, _USERS, -1)


@jit.subroutine
def _new_state(frame, grad):
    """The state that the threads share, before any of them has begun.

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


@functools.cache
def _make_divide() -> Any:
    """Make a function that finds the divisors and checks the labels."""
    scan = kernel_calls.by_name(launch.SCAN_LABELS, launch.scan_signature())

    @jit.owner
    def divide(state, checking):
        """Set the divisor of each group; return whether no bad label was found or looked for."""
        numbers, rows, n, good = _numbers(state), state[_ROWS], state[_CLASSES], True
        weights, options = _weights(np.empty(0)), _options(state, n)
        for g in range(state[_GROUPS]):
            numbers[g] = 1.0
            if checking or state[_MODE] > 0:
                y = labels_at(state[_Y] + 4 * g * rows, 4, rows)
                counted, bad = scan((y, n, weights, options, 0, rows))
                good &= bad < 0
                if state[_MODE] > 0:
                    numbers[g] = counted
        return good or not checking

    return divide


@functools.cache
def handler(char: str, grad: bool, few_classes: bool, minor: int) -> int:
    """Return the address of the handler for one type of logits and version 0.`minor` of the FFI.

    Its arguments are logits (…, C) and int32 labels (…); its results are the loss and, with `grad`,
    the gradient (…, C).
    """
    work, arithmetic = _make_work(char, grad, few_classes), ARITHMETIC[char]
    divide = _make_divide()
    version = minor << 32

    def cross_entropy(address):
        frame = words(address)
        if _answer_metadata(frame, version):
            return 0
        state = _new_state(frame, grad)
        blocks = state[_GROUPS] * state[_PARTS]
        if not divide(state, _attribute(frame, 0)):
            release(state)
            message = _MESSAGE.ctypes.data
            error = struct((_ERROR_SIZE, 0, message, _OUT_OF_RANGE))
            return call(words(frame[_API])[_CREATE_ERROR], error)
        if not blocks:  # without rows the sum is 0, the mean is nan
            for g in range(state[_GROUPS] if state[_MODE] >= 0 else 0):
                pointer(state[_LOSS], arithmetic)[g] = np.nan if state[_MODE] > 0 else 0.0
            release(state)
            return 0
        cost = state[_GROUPS] * state[_ROWS] * _row_cost(state[_CLASSES])
        if blocks > 1 and cost >= SERIAL_BELOW:
            _schedule(frame, state, c_function(work))
        work(address_of(state))
        return 0

    # The name in the cache; the version is a constant in the code.
    cross_entropy.__qualname__ = f"xla_cross_entropy_{char}_{grad:d}_{few_classes:d}_{minor}"
    result = jit.compiled(cross_entropy, (types.int64,))
    address: int = result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name)
    return address


def has_few_classes(char: str, grad: bool, n_classes: int) -> bool:
    """Whether rows of so many classes have the handler of few classes."""
    char = "f" if char in HALF else char
    return launch.has_few_classes("per class" if grad else "per row", char, n_classes)
