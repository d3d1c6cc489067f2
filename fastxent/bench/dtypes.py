"""bfloat16, which NumPy supports by ml_dtypes only: by name, in files, in PyTorch's tensors."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def named(name: str) -> np.dtype[Any]:
    """NumPy's type of this name."""
    if name == "bfloat16":
        import ml_dtypes  # noqa: F401 - registers the name with NumPy
    return np.dtype(name)


def restored(array: Array) -> Array:
    """Restore the type of an array from a file: `numpy.save` writes bfloat16 as two raw bytes."""
    return array.view(named("bfloat16")) if array.dtype == "V2" else array


def as_array(result: Any) -> Array:
    """Convert a result to a NumPy array without a copy; bfloat16 tensors by their bits."""
    if str(getattr(result, "dtype", "")) == "torch.bfloat16":
        import torch  # imported already

        bits: Array = result.view(torch.int16).numpy()
        return bits.view(named("bfloat16"))
    return np.asarray(result)
