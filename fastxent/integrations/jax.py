"""Cross-entropy for JAX programs on the CPU, with all derivatives, as XLA custom calls."""

from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from fastxent import checks, errors, options
from fastxent.integrations import jax_primitives
from fastxent.integrations.jax_primitives import Settings

__all__ = ["cross_entropy"]


def cross_entropy(
    logits: Any,
    target: Any,
    *,
    axis: int = -1,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    check_target: bool = True,
) -> Any:
    r"""Softmax cross-entropy of logits against class indices, as part of a JAX program.

    .. math::
        l = (1 - \epsilon)(\operatorname{lse}(x) - x_y)
            + \frac{\epsilon}{C} \sum_c (\operatorname{lse}(x) - x_c), \qquad
        \frac{\partial L}{\partial x} = \frac{1}{D}\,[\,p - (1 - \epsilon)\,e_y - \epsilon / C\,]

    where D is the number of active rows for "mean", and 1 for "sum" and "none".

    Parameters
    ----------
    logits : jax.Array
        Shape (N, C), or any rank ≥ 1 with the classes along `axis`: float32 or float64; float16 and
        bfloat16 are computed in float32, bfloat16 without a converted copy.
    target : jax.Array
        Integers of the shape of `logits` without `axis`: class indices in 0 … C-1, or
        `ignore_index`.
    axis : int
        The class axis. Any but the last costs a copy. This and the arguments below are static:
        Python values, never traced.
    ignore_index : int or None
        Rows with this class index are ignored: loss and gradient are exactly 0, whatever their
        logits. None ignores nothing.
    label_smoothing : float
        ε between 0 and 1.
    reduction : {"mean", "sum", "none"}
        Of the row losses.
    check_target : bool
        Raise for class indices out of range; if not, such a row is nan.

    Returns
    -------
    jax.Array
        The loss, 0-d or with "none" one per row; float32 for half precision.

    Raises
    ------
    TypeError
        Logits that are not floats, a target that is not integers.
    ValueError
        Shapes that do not match, or an invalid option.
    ValueError or jax.errors.JaxRuntimeError
        A class index out of range. It is found when the program runs and reported by JAX, as one
        or the other.

    Notes
    -----
    The gradient is computed with the loss, if it is needed at all, and multiplied in the backward
    pass, where XLA leaves out a factor of 1. Forward mode multiplies it with the tangent. Second
    derivatives, in any order of the modes, are Hessian-vector products as of
    `fastxent.cross_entropy_hvp`, of which no matrix is made unless `jax.hessian` asks for it; third
    ones and further are made of these. The work is shared among XLA's own threads;
    `fastxent.set_num_threads` has no effect. Under `jax.vmap` each loss is a group of rows, with an
    overhead of about half a microsecond. Arrays sharded over devices are gathered, except inside
    `jax.shard_map`. Subnormal numbers may be treated as 0.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", 4.3.4; B. A. Pearlmutter, "Fast exact
    multiplication by the Hessian", Neural Computation 6 (1994).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from fastxent.integrations.jax import cross_entropy
    >>> logits, target = jnp.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]]), jnp.array([1, 0])
    >>> loss, grad = jax.jit(jax.value_and_grad(cross_entropy))(logits, target)
    >>> round(float(loss), 4), (grad[0] * 1000).round().tolist()
    (2.0185, [330.0, -379.0, 49.0])
    """
    x, y = jnp.asarray(logits), target if isinstance(target, jax.Array) else np.asarray(target)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise errors.no_float_logits(x.dtype)
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise errors.no_integer_target(y.dtype)
    axis = checks.class_axis(axis, x.shape, "logits")
    rows = (*x.shape[:axis], *x.shape[axis + 1 :])
    if y.shape != rows:
        raise errors.index_shape(rows, x.shape, axis, y.shape)
    if ignore_index is not None:
        ignore_index = options.integer(ignore_index, "ignore_index")
    how, smoothing = options.reduction(reduction), options.smoothing(label_smoothing)
    labels, ignored = _int32(y, x.shape[axis], ignore_index)
    x = jnp.moveaxis(x, axis, -1)
    if x.dtype == jnp.float16:  # whose gradient might be 0 before it is scaled
        x = x.astype(jnp.float32)
    axes = _axes_of(x) | _axes_of(labels)
    settings = Settings(how, ignored, smoothing, bool(check_target))
    return jax_primitives.cross_entropy(_varying(x, axes), _varying(labels, axes), settings)


def _int32(y: Any, n_classes: int, ignore_index: int | None) -> tuple[Any, int]:
    """Labels as int32 and the index to ignore in them, without wrap-around.

    In labels of another type, ignored ones become -2 and those out of range -1.
    """
    limits = np.iinfo(np.int32)
    if y.dtype == np.int32 and ignore_index is not None:
        if limits.min <= ignore_index <= limits.max:
            return jnp.asarray(y), ignore_index
    xp = jnp if isinstance(y, jax.Array) else np
    own = np.iinfo(y.dtype)
    classes = (y >= 0) & (y <= min(n_classes - 1, own.max))
    labels = xp.where(classes, y, 0).astype(np.int32)
    labels = xp.where(classes, labels, np.int32(-1))
    if ignore_index is not None and own.min <= ignore_index <= own.max:
        labels = xp.where(y == y.dtype.type(ignore_index), np.int32(-2), labels)
    return jnp.asarray(labels), -2


def _axes_of(a: Any) -> frozenset[str]:
    """The mesh axes along which an array varies, inside `jax.shard_map`."""
    kind = jax.typeof(a)
    manual = getattr(kind, "manual_axis_type", None)
    return frozenset(getattr(kind, "vma", ()) if manual is None else manual.varying)


def _varying(a: Any, axes: frozenset[str]) -> Any:
    """The array cast to varying along these axes, so that its gradients are summed."""
    missing = tuple(axes - _axes_of(a))
    return jax.lax.pcast(a, missing, to="varying") if missing else a
