"""Cross-entropy with class indices and without weights, by handlers in compiled code."""

from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from fastxent import checks, errors, options
from fastxent.integrations.jax import index_primitives
from fastxent.integrations.jax.arguments import axes_of, floats, int32, varying
from fastxent.integrations.jax.index_primitives import Settings


def cross_entropy(
    logits: Any,
    target: Any,
    axis: int,
    ignore_index: int | None,
    label_smoothing: float,
    reduction: str,
    check_target: bool,
) -> Any:
    """Compute the loss; the arguments are those of `fastxent.integrations.jax.cross_entropy`."""
    x, y = floats(logits, "logits"), target if isinstance(target, jax.Array) else np.asarray(target)
    axis = checks.class_axis(axis, x.shape, "logits")
    rows = (*x.shape[:axis], *x.shape[axis + 1 :])
    if y.shape != rows:
        raise errors.target_shape(rows, x.shape, "logits", axis, y.shape)
    if ignore_index is not None:
        ignore_index = options.integer(ignore_index, "ignore_index")
    how, smoothing = options.reduction(reduction), options.smoothing(label_smoothing)
    labels, ignored = int32(y, x.shape[axis], ignore_index)
    x = jnp.moveaxis(x, axis, -1)
    if x.dtype == jnp.float16:  # a float16 gradient could underflow before scaling
        x = x.astype(jnp.float32)
    axes = axes_of(x) | axes_of(labels)
    settings = Settings(how, ignored, smoothing, bool(check_target))
    return index_primitives.cross_entropy(varying(x, axes), varying(labels, axes), settings)
