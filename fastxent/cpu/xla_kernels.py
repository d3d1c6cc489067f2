"""Cross-entropy as XLA FFI handlers: compiled JAX programs call them without Python.

One computes the loss, one the loss and its gradient, one the product of the second derivative and a
vector. Leading dimensions are rows. Under vmap they hold several groups of rows, each with a
divisor, and a reduced loss, of its own.

XLA's threads compute blocks of rows too, and no thread waits for another: the one that finishes the
last block completes the future that the handler has returned. The state that they share is on the
heap, as a thread may begin after all work is done.
"""

import functools
from typing import Any

import numba
import numpy as np
from numba import types

from fastxent.cpu import hvp, jit, kernel_calls, launch
from fastxent.cpu import xla_interface as xla
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
    pointer,
    words,
)
from fastxent.cpu.labels import labels_at
from fastxent.cpu.scratch import release, reserve
from fastxent.cpu.threads import SERIAL_BELOW
from fastxent.options import Options

# What a handler computes, and by which limit of classes (`launch.MAX_FEW_CLASSES`) it has few.
LOSS, GRAD, PRODUCT = "loss", "grad", "product"
_LIMITS = {LOSS: "per row", GRAD: "per class", PRODUCT: "product"}
# The reduction, as the value of the attribute `mode`.
MODES = {"none": -1, "sum": 0, "mean": 1}
# The attributes, in the order of their names; `n_groups` is that of a product alone.
_CHECK_TARGET, _IGNORE_INDEX, _LABEL_SMOOTHING, _REDUCTION, _N_GROUPS = range(5)

# Offsets, in words, in the state that the threads of a call share. After these words, as float64:
# the divisor of each group, and the sum of each block. `OUT` is the gradient or the product.
(_NEXT, _DONE, _USERS, _COMPLETING, _FUTURE, _X, _Y, _VECTOR, _LOSS, _OUT, _ROWS, _CLASSES, _GROUPS,
 _MODE, _IGNORED, _SMOOTHING, _STEP, _PARTS, _NUMBERS) = range(19)  # fmt: skip

_chunk_rows = jit.subroutine(chunk_rows)
_row_cost = jit.subroutine(row_cost)
_DEFAULTS = pack_options(Options(), 1)


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


# --- blocks of rows -----------------------------------------------------------------------------


@functools.cache
def _make_rows_at(char: str) -> Any:
    """Make a function that gives the rows lo..hi of a buffer (…, C), by the address of its data."""
    element = ELEMENTS[char]
    itemsize = element.bitwidth // 8

    @jit.owner
    def rows_at(data, lo, hi, n):
        return numba.carray(array_memory(data + itemsize * lo * n, element), (hi - lo, n))

    return rows_at


@functools.cache
def _make_loss_block(char: str, grad: bool, few_classes: bool) -> Any:
    """Make a function that computes the rows lo..hi of a call and returns the sum of losses."""
    arithmetic, rows_at = ARITHMETIC[char], _make_rows_at(char)
    loss_size = arithmetic.bitwidth // 8
    dtype = np.float64 if loss_size == 8 else np.float32
    absent, layout = NO_OUTPUTS[np.dtype(dtype).char], launch.ROWS if few_classes else ()
    rows_of = kernel_calls.by_name(*launch.loss_kernel(char, grad, few_classes))

    @jit.owner
    def block(state, lo, hi, divisor):
        n, count = state[_CLASSES], hi - lo
        x = rows_at(state[_X], lo, hi, n)
        d = rows_at(state[_OUT], lo, hi, n) if grad else None
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
def _make_product_block(char: str, few_classes: bool) -> Any:
    """Make a function that computes the rows lo..hi of a product, and returns 0."""
    rows_at, dtype = _make_rows_at(char), np.float64 if char == "d" else np.float32
    layout = launch.ROWS if few_classes else ()
    rows_of = kernel_calls.by_name(*hvp.product_kernel(char, few_classes))

    @jit.owner
    def block(state, lo, hi, divisor):
        n, count = state[_CLASSES], hi - lo
        x, v, out = (
            rows_at(state[_X], lo, hi, n), rows_at(state[_VECTOR], lo, hi, n),
            rows_at(state[_OUT], lo, hi, n),
        )  # fmt: skip
        weights = _weights(np.ones(n if state[_SMOOTHING] else 0, dtype))
        target = labels_at(state[_Y] + 4 * lo, 4, count)
        options = _options(state, n)
        rows_of((x, target, v, weights, options, *layout, divisor, out, 0, count))
        return 0.0

    return block


@functools.cache
def _make_work(char: str, result: str, few_classes: bool) -> Any:
    """Make a function that computes blocks of a call until none is left."""
    arithmetic = ARITHMETIC[char]
    if result == PRODUCT:
        block = _make_product_block(char, few_classes)
    else:
        block = _make_loss_block(char, result == GRAD, few_classes)

    @jit.owner
    def complete(state):
        numbers, groups, parts = _numbers(state), state[_GROUPS], state[_PARTS]
        for g in range(groups if state[_MODE] >= 0 and state[_LOSS] else 0):
            losses = 0.0
            for k in range(groups + g * parts, groups + (g + 1) * parts):
                losses += numbers[k]
            pointer(state[_LOSS], arithmetic)[g] = losses / numbers[g]
        if state[_FUTURE]:
            xla.complete_future(state[_COMPLETING], state[_FUTURE])

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


# --- a call -------------------------------------------------------------------------------------


@jit.subroutine
def _schedule(frame, state, task):
    """Schedule the work on XLA's threads, too; without any, the calling thread does all of it."""
    helpers = min(xla.count_threads(frame), state[_GROUPS] * state[_PARTS]) - 1
    if helpers < 1:
        return
    state[_FUTURE] = xla.create_future(frame)
    if not state[_FUTURE]:
        return
    state[_USERS] += helpers
    for _ in range(helpers):
        if not xla.schedule(frame, task, address_of(state)):
            add_to(state, _USERS, -1)


@jit.subroutine
def _new_state(frame, loss, out, vector, groups):
    """The state that the threads share, before any of them has begun.

    `loss`, `out` and `vector` are the addresses of these buffers' data, 0 for those that the
    handler does not have.
    """
    x = xla.argument(frame, 0)
    n = xla.last_dimension(x)
    rows = xla.size(x) // max(n * groups, 1)
    step = _chunk_rows(rows, _row_cost(n))
    parts = -(-rows // step)
    state = reserve(types.int64, _NUMBERS + groups + groups * parts)
    state[_NEXT], state[_DONE], state[_USERS], state[_FUTURE] = 0, 0, 1, 0
    state[_COMPLETING] = xla.completing(frame)
    state[_X], state[_Y] = x[xla.DATA], xla.argument(frame, 1)[xla.DATA]
    state[_VECTOR], state[_LOSS], state[_OUT] = vector, loss, out
    state[_ROWS], state[_CLASSES], state[_GROUPS] = rows, n, groups
    state[_MODE] = xla.attribute(frame, _REDUCTION)
    state[_IGNORED] = xla.attribute(frame, _IGNORE_INDEX)
    state[_SMOOTHING] = xla.attribute(frame, _LABEL_SMOOTHING)
    state[_STEP], state[_PARTS] = step, parts
    return state


@functools.cache
def _make_reader(result: str) -> Any:
    """Make a function that reads the buffers of a call, and how many groups of rows it has."""

    @jit.owner
    def read_product(frame):
        out, vector = xla.result(frame, 0)[xla.DATA], xla.argument(frame, 2)[xla.DATA]
        return _new_state(frame, 0, out, vector, xla.attribute(frame, _N_GROUPS))

    @jit.owner
    def read_loss(frame):
        loss = xla.result(frame, 0)
        groups = xla.size(loss) if xla.attribute(frame, _REDUCTION) >= 0 else 1
        return _new_state(frame, loss[xla.DATA], 0, 0, groups)

    @jit.owner
    def read_grad(frame):
        state = read_loss(frame)
        state[_OUT] = xla.result(frame, 1)[xla.DATA]
        return state

    return {LOSS: read_loss, GRAD: read_grad, PRODUCT: read_product}[result]


@functools.cache
def _make_divide() -> Any:
    """Make a function that computes the divisors and checks the labels."""
    scan = kernel_calls.by_name(launch.SCAN_LABELS, launch.scan_signature())

    @jit.owner
    def divide(state, checking):
        """Set the divisor of each group; return False if `checking` and a label is bad."""
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
def handler(char: str, result: str, few_classes: bool, minor: int) -> int:
    """Return the address of the handler for one type of logits and version 0.`minor` of the FFI.

    Its arguments are logits (…, C), int32 labels (…) and, for PRODUCT, a vector (…, C). Its results
    are the loss, for GRAD the gradient (…, C) too; or the product (…, C).
    """
    work, arithmetic = _make_work(char, result, few_classes), ARITHMETIC[char]
    read, divide = _make_reader(result), _make_divide()
    version = minor << 32

    def cross_entropy(address):
        frame = words(address)
        if xla.answer_metadata(frame, version):
            return 0
        state = read(frame)
        blocks = state[_GROUPS] * state[_PARTS]
        if not divide(state, xla.attribute(frame, _CHECK_TARGET)):
            release(state)
            return xla.bad_label(frame)
        if not blocks:  # without rows the sum is 0, the mean is nan
            for g in range(state[_GROUPS] if state[_MODE] >= 0 and state[_LOSS] else 0):
                pointer(state[_LOSS], arithmetic)[g] = np.nan if state[_MODE] > 0 else 0.0
            release(state)
            return 0
        cost = state[_GROUPS] * state[_ROWS] * _row_cost(state[_CLASSES])
        if blocks > 1 and cost >= SERIAL_BELOW:
            _schedule(frame, state, c_function(work))
        work(address_of(state))
        return 0

    # The name in the cache; the version is a constant in the code.
    cross_entropy.__qualname__ = f"xla_cross_entropy_{char}_{result}_{few_classes:d}_{minor}"
    compiled = jit.compiled(cross_entropy, (types.int64,))
    address: int = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)
    return address


def has_few_classes(char: str, result: str, n_classes: int) -> bool:
    """Whether rows of so many classes have the handler of few classes."""
    return launch.has_few_classes(_LIMITS[result], "f" if char in HALF else char, n_classes)
