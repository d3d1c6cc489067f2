"""XLA's side of an FFI handler: the structs of xla/ffi/api/c_api.h, and the functions in them.

XLA calls a handler with the address of one struct, here `frame`: buffers, attributes, and a table
of XLA's functions. The header is a part of jaxlib.
"""

import numpy as np

from fastxent.cpu import jit
from fastxent.cpu.c_interface import address_of, call, struct, words

# Offsets, in words, in the structs of c_api.h: of a call, a buffer, an extension and its metadata,
# and the table of functions.
EXTENSION, API, _CONTEXT, ARGUMENTS, RESULTS, ATTRIBUTES, _FUTURE = 1, 2, 3, 9, 14, 20, 21
DTYPE, DATA, RANK, DIMENSIONS = 2, 3, 4, 5
KIND, METADATA, VERSION, TRAITS = 1, 3, 3, 4
CREATE_ERROR, _DESTROY_ERROR = 6, 8
_SCHEDULE, _COUNT_THREADS, _CREATE_FUTURE, _COMPLETE = 17, 18, 19, 20
# The sizes of these functions' argument structs, their first member: up to the end of the last
# member, an int in that of an error.
ERROR_SIZE, _THREE_WORDS, _FOUR_WORDS, _FIVE_WORDS = 28, 24, 32, 40
# Values of its enums.
METADATA_REQUEST, OUT_OF_RANGE = 1, 11
ENUM = 0xFFFFFFFF

_MESSAGE = np.frombuffer(b"target must hold classes in 0 .. C-1, or ignore_index\0", np.uint8)


@jit.subroutine
def answer_metadata(frame, version):
    """Answer a request for the handler's metadata; return whether the call was one."""
    if frame[EXTENSION] == 0:
        return False
    extension = words(frame[EXTENSION])
    if extension[KIND] & ENUM != METADATA_REQUEST:
        return False
    metadata = words(extension[METADATA])
    metadata[VERSION], metadata[TRAITS] = version, 0
    return True


# --- arguments and results ----------------------------------------------------------------------


@jit.subroutine
def argument(frame, k):
    """The k-th argument, a buffer."""
    return words(words(frame[ARGUMENTS])[k])


@jit.subroutine
def result(frame, k):
    """The k-th result, a buffer."""
    return words(words(frame[RESULTS])[k])


@jit.subroutine
def size(buffer):
    """The number of elements of a buffer."""
    n = 1
    for axis in range(buffer[RANK]):
        n *= words(buffer[DIMENSIONS])[axis]
    return n


@jit.subroutine
def last_dimension(buffer):
    """The last dimension of a buffer."""
    return words(buffer[DIMENSIONS])[buffer[RANK] - 1]


@jit.subroutine
def attribute(frame, k):
    """The k-th attribute in the order of names, a number of 8 bytes, as a word."""
    return words(words(words(frame[ATTRIBUTES])[k])[1])[0]


# --- errors, threads ----------------------------------------------------------------------------


@jit.subroutine
def bad_label(frame):
    """The error of a class index out of range, for the handler to return."""
    message = _MESSAGE.ctypes.data
    error = struct((ERROR_SIZE, 0, message, OUT_OF_RANGE))
    return call(words(frame[API])[CREATE_ERROR], error)


@jit.subroutine
def _is_done(frame, function, arguments):
    """Call a function of XLA; return whether it succeeded. An error is destroyed."""
    api = words(frame[API])
    error = call(api[function], arguments)
    if error:
        call(api[_DESTROY_ERROR], struct((_THREE_WORDS, 0, error)))
    return error == 0


@jit.subroutine
def count_threads(frame):
    """The number of XLA's threads, 0 if there are none."""
    threads = struct((0,))
    count = struct((_FOUR_WORDS, 0, frame[_CONTEXT], address_of(threads)))
    return threads[0] if _is_done(frame, _COUNT_THREADS, count) else 0


@jit.subroutine
def create_future(frame):
    """Let the handler return a future; return it, for `complete_future`, or 0 if it failed."""
    future = struct((_THREE_WORDS, 0, 0))
    if not _is_done(frame, _CREATE_FUTURE, future):
        return 0
    frame[_FUTURE] = future[2]
    return future[2]


@jit.subroutine
def completing(frame):
    """The function of XLA that completes a future, for when the frame is gone."""
    return words(frame[API])[_COMPLETE]


@jit.subroutine
def complete_future(function, future):
    """Complete a future: XLA may go on."""
    call(function, struct((_THREE_WORDS, 0, future)))


@jit.subroutine
def schedule(frame, task, data):
    """Schedule the C function `task` of one address on one of XLA's threads; return success."""
    job = struct((_FIVE_WORDS, 0, frame[_CONTEXT], task, data))
    return _is_done(frame, _SCHEDULE, job)
