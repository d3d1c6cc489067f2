"""The short way of a plain call: nothing converted, no options.

A small call costs what Python does before the kernel, and beside a large one Python's own code and
data have left the caches. So cross_entropy asks here first; the answer None means that the call has
to go the long way, which knows all types, options and errors.
"""

from typing import Any

import numpy as np

from fastxent import checks
from fastxent.dispatch import host_backend

_LABELS = np.dtype(np.int64)


def plain_cross_entropy(
    logits: Any, target: Any, ignore_index: Any, mean: bool, wanted: bool, buffer: Any
) -> Any:
    """What `cross_entropy` returns for (N, C) logits and N labels; None if it is no plain call."""
    if type(logits) is not np.ndarray or type(target) is not np.ndarray:
        return None
    dtype, shape = logits.dtype, logits.shape
    if dtype.char not in "fd" or not dtype.isnative or target.dtype != _LABELS or len(shape) != 2:
        return None
    flags = logits.flags
    if not (flags.c_contiguous and flags.aligned and target.flags.aligned):
        return None
    if target.shape != shape[:1]:
        return None
    if buffer is not None and not _is_free(buffer, logits, target):
        return None
    if type(ignore_index) is not int or not -(2**63) <= ignore_index < 2**63 or not logits.size:
        return None
    grad = checks.new(logits, shape, dtype) if buffer is None and wanted else buffer
    loss = host_backend().plain_cross_entropy(logits, target, ignore_index, mean, grad)
    if loss is None:
        return None
    value = checks.scalar(loss, dtype)
    return value if grad is None else (value, grad)


def _is_ready(array: Any) -> bool:
    flags = array.flags
    return bool(flags.c_contiguous and flags.aligned)


def _is_free(buffer: Any, logits: Any, target: Any) -> bool:
    """Whether a gradient may be written there, at first sight."""
    if buffer is logits:
        return bool(buffer.flags.writeable) and not np.may_share_memory(buffer, target)
    return (
        type(buffer) is np.ndarray
        and buffer.dtype == logits.dtype
        and buffer.shape == logits.shape
        and _is_ready(buffer)
        and buffer.flags.writeable
        and not np.may_share_memory(buffer, logits)
        and not np.may_share_memory(buffer, target)
    )
