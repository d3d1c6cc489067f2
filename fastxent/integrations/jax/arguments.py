"""Check the arguments of the public functions during tracing; make a request and its arrays.

The checks are those of calls with NumPy arrays, made with broadcast zeros that need no memory.
"""

from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from fastxent import calls, checks, errors, options
from fastxent.functions import ENTROPY, Arguments, Function, Kind, Role
from fastxent.integrations.jax import host, primitives
from fastxent.integrations.jax.requests import Request
from fastxent.results import Type

_READERS = {
    Kind.MAP: calls.read_map, Kind.ROWS: calls.read_rows, Kind.LINEAR: calls.read_linear,
    Kind.ELEMENTS: calls.read_elements,
}  # fmt: skip


def loss(function: Function, arguments: Arguments) -> Any:
    """Compute a loss, or a tuple that begins with it, from the arguments of a public function."""
    arguments = dict(arguments)
    request, arrays = read(function, arguments)
    own = arrays[0].dtype
    for k, name in enumerate(request.arrays):  # float16 gradients could underflow before scaling
        if name in function.inputs and arrays[k].dtype == jnp.float16:
            arrays[k] = arrays[k].astype(jnp.float32)
    results = primitives.call(request, arrays)
    for k, name in enumerate(host.names_of(request)):
        if function.result(name).type is Type.OWN:
            results[k] = results[k].astype(own)
    return results[0] if len(results) == 1 else tuple(results)


def read(function: Function, arguments: Arguments) -> tuple[Request, list[Any]]:
    """Check a call; return its request and its arrays."""
    arrays = {
        name: _array(function, name, arguments[name])
        for name in function.arrays
        if arguments.get(name) is not None
    }
    if "target" in arrays and isinstance(arrays["target"], np.ndarray):
        _convert_target(function, arguments, arrays)
    check(function, arguments | arrays)
    extras = [n for n in function.results[1:] if arguments.get(f"return_{n}")]
    left_out = {*function.arrays, *function.with_role(Role.REQUEST)}
    static = {name: value for name, value in arguments.items() if name not in left_out}
    if "axis" in static:  # counted from the end, because jax.vmap adds axes in front
        rank = arrays[function.first].ndim
        static["axis"] = checks.class_axis(static["axis"], (1,) * rank, function.first) - rank
    if static.get("ignore_index") is not None:  # a Python int, because JAX scalars are not hashable
        static["ignore_index"] = options.integer(static["ignore_index"], "ignore_index")
    request = Request(function.name, tuple(arrays), tuple(sorted(static.items())), (), (*extras,))
    axes = frozenset[str]().union(*map(axes_of, arrays.values()))
    return request, [varying(jnp.asarray(a), axes) for a in arrays.values()]


def floats(value: Any, name: str) -> Any:
    """Convert a value to an array of floats; raise for other types."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise errors.not_floats(name, array.dtype)
    return array


def _array(function: Function, name: str, value: Any) -> Any:
    """Convert an argument to a JAX array, or a concrete target to a NumPy array.

    Integers other than a target become floats, because JAX would wrap them around at 32 bits.
    """
    if name in function.inputs:
        return floats(value, name)
    if isinstance(value, jax.Array):
        return value
    if name == "target":
        return np.asarray(value)
    if not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value)):
        numbers = np.asarray(value)
        value = numbers.astype(np.float64) if numbers.dtype.kind in "iu" else value
    return jnp.asarray(value)


def _convert_target(function: Function, arguments: Arguments, arrays: Arguments) -> None:
    """Map integers that JAX would wrap around to values that its integer type can represent."""
    y, x = arrays["target"], arrays[function.first]
    if not y.size and not isinstance(arguments["target"], np.ndarray):
        y = arrays["target"] = y.astype(np.int32)  # an empty list has no type of its own
    kind = jax.dtypes.canonicalize_dtype(y.dtype)
    if y.dtype.kind not in "iu" or kind == y.dtype:
        return
    limits = np.iinfo(kind)
    if not y.size or limits.min <= y.min() and y.max() <= limits.max:
        return
    if function.kind is Kind.ELEMENTS or y.ndim == x.ndim and function.kind is Kind.ROWS:
        arrays["target"] = np.clip(y, limits.min, limits.max).astype(kind)
        return
    ignored, axis = arguments.get("ignore_index", -100), arguments.get("axis", -1)
    if ignored is not None:
        ignored = options.integer(ignored, "ignore_index")
    if function.kind is Kind.LINEAR:
        n_classes = arrays["linear_weight"].shape[0]
    else:
        n_classes = x.shape[checks.class_axis(axis, x.shape, function.first)]
    arrays["target"], arguments["ignore_index"] = int32(y, n_classes, ignored)


def check(function: Function, arguments: Arguments) -> None:
    """Raise the function's errors for these types, shapes and options; labels are not read."""
    zeros: Arguments = {}
    for name in function.arrays:
        value = arguments.get(name)
        if value is None:
            continue
        dtype = np.dtype(value.dtype)
        shape = tuple(value.shape)
        if name == "target" and shape == tuple(arguments[function.first].shape):
            dtype = np.dtype(np.float32) if dtype.kind in "biu" else dtype
        zeros[name] = np.broadcast_to(np.zeros((), dtype), shape)
    options.flags(function.flags, function.defaults() | arguments)
    requests = dict.fromkeys(function.with_role(Role.REQUEST), False)
    complete = function.defaults() | arguments | zeros | requests
    if "check_target" in complete:
        complete["check_target"] = False
    if complete.get("reduction") == "mean" and complete.get("normalizer") is None:
        complete["reduction"] = "sum"  # needs no divisor from labels
    reader = calls.read_entropy if function is ENTROPY else _READERS[function.kind]
    reader(function, complete)


def int32(y: Any, n_classes: int, ignore_index: int | None) -> tuple[Any, int]:
    """Convert labels to int32 without wrap-around; also return the index to ignore in them.

    In labels of another type, ignored labels become -2 and labels out of range -1.
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


def axes_of(a: Any) -> frozenset[str]:
    """The mesh axes along which an array varies, inside `jax.shard_map`."""
    kind = jax.typeof(a)
    manual = getattr(kind, "manual_axis_type", None)
    return frozenset(getattr(kind, "vma", ()) if manual is None else manual.varying)


def varying(a: Any, axes: frozenset[str]) -> Any:
    """Cast an array to vary along these mesh axes, so that its gradients are summed."""
    missing = tuple(axes - axes_of(a))
    return jax.lax.pcast(a, missing, to="varying") if missing else a
