"""Convert lists and objects of other libraries to NumPy arrays, or raise an error."""

import sys
from typing import Any

import numpy as np

from fastxent import errors
from fastxent.device_array import DeviceArray


def array(value: Any, name: str, *, number: bool = False) -> Any:
    """Convert a value to a NumPy array, without a copy if possible; keep a `DeviceArray`.

    A value that NumPy converts to a 0-d array of objects or strings is refused, except for a
    `number`, which has its own check.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise errors.masked(name)
    if isinstance(value, np.ndarray):
        return value.view(np.ndarray)
    if type(value) is DeviceArray:
        return value
    if hasattr(value, "__cuda_array_interface__"):
        raise errors.on_gpu(name, value)
    roots = {base.__module__.partition(".")[0] for base in type(value).__mro__}
    if hasattr(value, "tocoo"):
        raise errors.sparse(name, value)
    if "torch" in sys.modules:
        value = _without_tensors(value, name)
    if "pandas" in roots and (converted := _of_nullable(value, name)) is not None:
        return converted
    if "polars" in roots and (row := _first_null(value)) is not None:
        raise errors.missing_values(name, row)
    try:
        made = np.asarray(value)
    except MemoryError:
        raise
    except Exception as error:  # the object's own code may raise any exception
        program = "; in a JAX program call fastxent.integrations.jax"
        hint = program if {"jax", "jaxlib"} & roots else ""
        raise errors.no_array(name, errors.type_name(value), f": {error}{hint}") from error
    if not number and not made.ndim and made.dtype.kind in "OUST":
        lazy = ": call collect()" if "polars" in roots and hasattr(value, "collect") else ""
        raise errors.no_array(name, "None" if value is None else errors.type_name(value), lazy)
    return made


def _without_tensors(value: Any, name: str) -> Any:
    """Replace tensors by NumPy views, because NumPy's own conversion would change the tensors."""
    from torch import Tensor

    if isinstance(value, Tensor):
        from fastxent.arrays.torch import memory

        return memory.beside_numpy(name, value)
    if type(value) in (list, tuple) and any(isinstance(v, (Tensor, list, tuple)) for v in value):
        try:
            return [_without_tensors(part, name) for part in value]
        except RecursionError:  # a list that contains itself, for which NumPy raises an error
            return value
    return value


def _of_nullable(value: Any, name: str) -> Any:
    """Convert pandas' nullable or Arrow columns without missing values; None for other values."""
    if not (hasattr(value, "isna") and hasattr(value, "to_numpy") and hasattr(value, "dtype")
            or hasattr(value, "iloc") and getattr(value, "ndim", 0) == 2):  # fmt: skip
        return None
    columns = list(value.dtypes) if value.ndim == 2 else [value.dtype]
    # Extension types have a `numpy_dtype`, but so do those that only wrap NumPy arrays.
    plain = [
        None if type(dtype).__name__ == "NumpyEADtype" else getattr(dtype, "numpy_dtype", None)
        for dtype in columns
    ]
    nullable = [dtype is not None for dtype in plain]
    if not any(nullable):
        return None
    missing = np.asarray(value.isna()).reshape(-1, len(columns)) & nullable
    if missing.any():
        row = int(np.argwhere(missing)[0, 0])
        raise errors.missing_values(name, row)
    try:
        common = np.result_type(*(p or own for p, own in zip(plain, columns, strict=True)))
    except TypeError:  # columns that are not numeric
        return None
    return value.to_numpy(dtype=common)


def _first_null(value: Any) -> int | None:
    """The first row of a Polars frame or series with a null, which NumPy would convert to nan.

    None if there is none.
    """
    if not hasattr(value, "to_numpy"):  # a lazy frame, or not a column
        return None
    columns = value.get_columns() if hasattr(value, "get_columns") else [value]
    rows = (column.is_null().arg_max() for column in columns if column.null_count())
    return min(rows, default=None)
