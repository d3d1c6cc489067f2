"""One XLA FFI handler for all functions: a Python function that XLA calls with a call frame.

Buffers become NumPy arrays over XLA's memory, without a copy, and fastxent's functions fill the
results. `ctypes` acquires the GIL for the call; kernels run without it. The handler is never freed,
because programs may live as long as the process. A program holds its request as text, so a program
from JAX's compilation cache is valid in another process.
"""

import ctypes
import functools
import math
from typing import Any

import jax
import jax.ffi
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from fastxent.cpu import xla_interface as xla
from fastxent.integrations.jax import host, requests
from fastxent.integrations.jax.interface import interface_version

TARGET = "fastxent_call"

# XLA_FFI_DataType -> NumPy's type.
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.bool_), 2: np.dtype(np.int8), 3: np.dtype(np.int16), 4: np.dtype(np.int32),
    5: np.dtype(np.int64), 6: np.dtype(np.uint8), 7: np.dtype(np.uint16), 8: np.dtype(np.uint32),
    9: np.dtype(np.uint64), 10: np.dtype(np.float16), 11: np.dtype(np.float32),
    12: np.dtype(np.float64), 16: np.dtype(ml_dtypes.bfloat16),
}  # fmt: skip
# XLA_FFI_Error_Code
_INVALID_ARGUMENT, _INTERNAL = 3, 13
_CODES = {IndexError: xla.OUT_OF_RANGE, ValueError: _INVALID_ARGUMENT, TypeError: _INVALID_ARGUMENT}
_CREATE_ERROR = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)

_request = functools.cache(requests.read)


def _words(address: int, count: int) -> Any:
    """The 64-bit words of a struct or an array."""
    return (ctypes.c_int64 * count).from_address(address)


def _array(address: int) -> NDArray[Any]:
    """Make an array over the memory of a buffer."""
    buffer = _words(address, xla.DIMENSIONS + 1)
    dtype = _DTYPES[buffer[xla.DTYPE] & xla.ENUM]
    shape = tuple(_words(buffer[xla.DIMENSIONS], buffer[xla.RANK]))
    size = math.prod(shape)
    if not size:
        return np.empty(shape, dtype)
    memory = (ctypes.c_char * (size * dtype.itemsize)).from_address(buffer[xla.DATA])
    return np.frombuffer(memory, dtype).reshape(shape)


def _arrays(frame: Any, at: int) -> list[NDArray[Any]]:
    """The arguments or results of a frame; `at` is the index of their addresses."""
    count = frame[at - 2]
    return [_array(address) for address in _words(frame[at], count)] if count else []


def _answer(frame: Any) -> None:
    """Answer a request for metadata, or compute the results of a frame."""
    if frame[xla.EXTENSION]:
        extension = _words(frame[xla.EXTENSION], xla.METADATA + 1)
        if extension[xla.KIND] & xla.ENUM == xla.METADATA_REQUEST:
            metadata = _words(extension[xla.METADATA], xla.TRAITS + 1)
            metadata[xla.VERSION], metadata[xla.TRAITS] = interface_version() << 32, 0
            return
    (attribute,) = _words(frame[xla.ATTRIBUTES], 1)
    text, length = _words(attribute, 2)
    request = _request(ctypes.string_at(text, length))
    host.run(request, _arrays(frame, xla.ARGUMENTS), _arrays(frame, xla.RESULTS))


def _handle(address: int) -> int | None:
    """The handler. Return None, or an XLA error with the message of an exception."""
    frame = _words(address, xla.ATTRIBUTES + 1)
    try:
        _answer(frame)
    except BaseException as error:  # exceptions must not propagate into XLA
        code = next((c for kind, c in _CODES.items() if isinstance(error, kind)), _INTERNAL)
        text = str(error) if code != _INTERNAL else f"{type(error).__name__}: {error}"
        message = ctypes.create_string_buffer(text.encode())
        struct = (ctypes.c_int64 * 4)(xla.ERROR_SIZE, 0, ctypes.addressof(message), code)
        create = _words(frame[xla.API], xla.CREATE_ERROR + 1)[xla.CREATE_ERROR]
        return int(_CREATE_ERROR(create)(ctypes.addressof(struct)))
    return None


# The C function pointer of the handler, never freed.
_C_HANDLE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(_handle)


@functools.cache
def registered() -> str:
    """Register the handler at the first trace; return its name."""
    # Start the backend first: it fails to start if it refuses a handler registered before.
    jax.devices("cpu")
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(_C_HANDLE), platform="cpu")
    return TARGET
