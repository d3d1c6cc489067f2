"""Check that shapes match, and raise the function's own error if not.

For the error, the function is called with arrays of these shapes that are views of one number,
because it checks shapes first.
"""

from typing import Any, NoReturn

import dask.array as da
import numpy as np

from fastxent import errors
from fastxent.functions import ENTROPY, Arguments, Function, Kind, Role
from fastxent.records import LinearGrad


def misfit(function: Function, x: Any, axis: int, arrays: Arguments) -> str | None:
    """The name of the first argument that is not an array or has a wrong shape; None if none."""
    roles = {name: function.roles.get(name) for name in arrays}
    for name, value in arrays.items():
        if roles[name] is not Role.SCALAR and value is not None and not _is_array(value):
            return name
    present = {name: role for name, role in roles.items() if arrays[name] is not None}
    misfit_vector = None if _vector_fits(function, x, arrays) else "vector"
    if function.kind is Kind.ELEMENTS:
        if arrays["target"] is None or arrays["target"].shape != x.shape:
            return "target"
        weights = (name for name, role in present.items() if role is Role.BROADCAST)
        misfits = (n for n in weights if not _broadcasts(arrays[n].shape, x.shape))
        return next(misfits, misfit_vector)
    if function.kind is Kind.LINEAR:
        _, matrix_name, bias_name = function.inputs
        matrix, bias = arrays[matrix_name], arrays.get(bias_name)
        if matrix is None or matrix.ndim != 2 or not matrix.shape[0]:
            return matrix_name
        if not x.ndim or x.shape[-1] != matrix.shape[1]:
            return function.first
        if bias is not None and bias.shape != matrix.shape[:1]:
            return bias_name
    elif not x.shape[axis] and (function.kind is not Kind.MAP or function is ENTROPY):
        return function.first
    if function.kind is Kind.MAP:
        return None
    if not _target_fits(function, x, axis, arrays):
        return "target"
    expected = {
        Role.PER_CLASS: (count_classes(function, x, axis, arrays),), Role.PER_ROW: _rows(x, axis)
    }  # fmt: skip
    return next(
        (
            n
            for n, role in present.items()
            if role in expected and arrays[n].shape != expected[role]
        ),
        misfit_vector,
    )


def _is_array(value: Any) -> bool:
    if isinstance(value, LinearGrad):
        return all(part is None or _is_array(part) for part in value)
    return isinstance(value, da.Array) or type(value) is np.ndarray


def _vector_fits(function: Function, x: Any, arrays: Arguments) -> bool:
    """Whether a vector has the shapes of the inputs and at least one part; True for a loss."""
    if not function.with_role(Role.VECTOR):
        return True
    vector, inputs = arrays["vector"], [x, *(arrays.get(name) for name in function.inputs[1:])]
    parts = vector if isinstance(vector, LinearGrad) else (vector,)
    return (
        len(parts) == len(inputs)
        and any(part is not None for part in parts)
        and all(
            part is None or of is not None and part.shape == of.shape
            for part, of in zip(parts, inputs, strict=True)
        )
    )


def _broadcasts(shape: tuple[int, ...], over: tuple[int, ...]) -> bool:
    ends = zip(reversed(shape), reversed(over), strict=False)
    return len(shape) <= len(over) and all(n in (1, whole) for n, whole in ends)


def _target_fits(function: Function, x: Any, axis: int, arrays: Arguments) -> bool:
    target, rows = arrays["target"], _rows(x, axis)
    if function.kind is Kind.ELEMENTS or not _is_array(target):
        return False
    whole = x.shape
    if function.kind is Kind.LINEAR:
        matrix = arrays[function.inputs[1]]
        if getattr(matrix, "ndim", 0) != 2:
            return False
        whole = (*rows, matrix.shape[0])
    return target.shape == whole or target.shape == rows and target.dtype.kind in "iu"


def raise_misfit(
    function: Function, arguments: Arguments, x: Any, axis: int | None, arrays: Arguments,
    wrong: Any,
) -> NoReturn:  # fmt: skip
    """Call the function with arrays of these shapes, so that it raises its own error.

    It also gets an invalid buffer (an invalid flag for logsumexp), which it refuses after the check
    of shapes. So it does not start to compute on large arrays if it accepts the shapes.
    """
    shapes = {name: _of_one_number(value) for name, value in arrays.items()}
    if axis is not None and "target" in arrays and _target_fits(function, x, axis, arrays):
        # The target is valid. As probabilities it needs no memory, as labels it would.
        whole = (*_rows(x, axis), count_classes(function, x, axis, arrays))
        shapes["target"] = np.broadcast_to(0.0, whole if function.kind is Kind.LINEAR else x.shape)
    if "axis" in arguments:
        shapes["axis"] = arguments["axis"]
    stop = next(iter([*function.with_role(Role.BUFFER), *function.with_role(Role.FLAG)]))
    try:
        function(**{function.first: _of_one_number(x), stop: "nothing"}, **shapes)
    except (TypeError, ValueError) as error:
        if not str(error).startswith(f"{stop} "):
            raise
    raise errors.does_not_fit(wrong, function.first, x.shape, arguments.get(wrong))


def _of_one_number(value: Any) -> Any:
    """A read-only array of the same shape and type with the memory of one number."""
    if isinstance(value, LinearGrad):
        return LinearGrad(*map(_of_one_number, value))
    if isinstance(value, da.Array):
        return np.broadcast_to(np.zeros((), value.dtype), value.shape)
    return value


def _rows(x: Any, axis: int) -> tuple[int, ...]:
    return (*x.shape[:axis], *x.shape[axis + 1 :])


def count_classes(function: Function, x: Any, axis: int, arrays: Arguments) -> int:
    """The number of classes."""
    if function.kind is Kind.LINEAR:
        return int(arrays[function.inputs[1]].shape[0])
    return int(x.shape[axis])
