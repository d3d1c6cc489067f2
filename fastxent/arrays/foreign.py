"""Objects of other libraries as NumPy arrays: what stands beside an array of NumPy's, or as one."""

from typing import Any

import numpy as np

_IN_A_PROGRAM = "in a JAX program call fastxent.integrations.jax"


def array(value: Any, name: str) -> Any:
    """The value as a NumPy array, sharing its memory where it is one."""
    roots = {base.__module__.partition(".")[0] for base in type(value).__mro__}
    if "torch" in roots:
        found = _of_tensor(value, name)
    elif "pandas" in roots:
        found = _of_nullable(value, name)
    else:
        found = None
    if found is not None:
        return found
    if hasattr(value, "tocoo"):
        raise TypeError(
            f"{name} must be a dense array, got the sparse {type(value).__name__}: call toarray(), "
            "or make it dense (OneHotEncoder(sparse_output=False))"
        )
    try:
        return np.asarray(value)
    except MemoryError:
        raise
    except Exception as error:  # of whatever kind the object's own code raises
        hint = f"; {_IN_A_PROGRAM}" if {"jax", "jaxlib"} & roots else ""
        raise TypeError(
            f"{name} must be an array or nested numbers, got {type(value).__name__}: {error}{hint}"
        ) from error


def _of_tensor(value: Any, name: str) -> Any:
    """A tensor's memory, which NumPy would ask for in a way that changes it."""
    import torch

    if not isinstance(value, torch.Tensor):
        return None
    from fastxent.arrays.torch import memory

    return memory.beside_numpy(name, value)


def _of_nullable(value: Any, name: str) -> Any:
    """pandas' nullable columns, or those of Arrow, without missing values; None for others."""
    columns = list(value.dtypes) if value.ndim == 2 else [getattr(value, "dtype", None)]
    plain = [getattr(dtype, "numpy_dtype", None) for dtype in columns]
    if all(dtype is None for dtype in plain):
        return None
    missing = np.asarray(value.isna())
    if missing.any():
        row = int(np.argwhere(missing)[0, 0])
        raise ValueError(f"{name} must have no missing values, got one in row {row}")
    try:
        common = np.result_type(*(p or own for p, own in zip(plain, columns, strict=True)))
    except TypeError:  # of columns that hold no numbers
        return None
    return value.to_numpy(dtype=common)
