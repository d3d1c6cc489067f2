"""Fast path for contiguous float rows, int64 or smaller class indices, and default options.

Most of a small call's time is Python code before the kernel, and a large call evicts that code from
the CPU caches. cross_entropy and categorical_cross_entropy try this path first. It returns None if
the call needs the general path, which handles all types, options and errors.
"""

from typing import Any

import numpy as np

from fastxent import checks
from fastxent.dispatch import host_backend
from fastxent.options import Clip

_INT64 = np.dtype(np.int64)
# Label types whose values fit in int64, the type of the comparisons; uint64 values may not.
LABELS = frozenset(map(np.dtype, ("i1", "i2", "i4", "i8", "u1", "u2", "u4")))


def plain_cross_entropy(
    logits: Any, target: Any, ignore_index: Any, mean: bool, return_grad: bool, grad_out: Any,
    clip: Clip | None = None,
) -> Any:  # fmt: skip
    """Compute the loss of (N, C) logits (with `clip`: probabilities) and N labels, or None."""
    if type(logits) is not np.ndarray or type(target) is not np.ndarray or target.ndim != 1:
        return None
    dtype, shape, kind = logits.dtype, logits.shape, target.dtype
    if dtype.char not in "fd" or not dtype.isnative or len(shape) != 2:
        return None
    if kind is not _INT64 and kind not in LABELS:
        return None
    flags = logits.flags
    if not (flags.c_contiguous and flags.aligned and target.flags.aligned):
        return None
    if target.shape != shape[:1]:
        return None
    if grad_out is not None and not is_buffer(grad_out, logits, target):
        return None
    if type(ignore_index) is not int or not -(2**63) <= ignore_index < 2**63 or not logits.size:
        return None
    grad = checks.new(logits, shape, dtype) if grad_out is None and return_grad else grad_out
    loss = host_backend().plain_cross_entropy(logits, target, ignore_index, mean, grad, clip)
    if loss is None:
        return None
    value = checks.scalar(loss, dtype)
    return value if grad is None else (value, grad)


def is_buffer(buffer: Any, logits: Any, *others: Any) -> bool:
    """Whether a gradient can be written to this buffer, by inexpensive checks."""
    for other in others:
        if other is not None and np.may_share_memory(buffer, other):
            return False
    if buffer is logits:
        return bool(buffer.flags.writeable)
    return (
        type(buffer) is np.ndarray
        and buffer.dtype == logits.dtype
        and buffer.shape == logits.shape
        and (flags := buffer.flags).c_contiguous
        and flags.aligned
        and flags.writeable
        and not np.may_share_memory(buffer, logits)
    )
