"""bfloat16, which NumPy knows through ml_dtypes alone: by name, in files, in PyTorch's tensors."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def named(name: str) -> np.dtype[Any]:
    """NumPy's type of this name."""
    if name == "bfloat16":
        import ml_dtypes  # noqa: F401 - from then on NumPy knows the name
    return np.dtype(name)


def restored(array: Array) -> Array:
    """An array that was read from a file: `numpy.save` writes bfloat16 as two bytes of any type."""
    return array.view(named("bfloat16")) if array.dtype == "V2" else array


def as_array(result: Any) -> Array:
    """A result as a NumPy array, without a copy: tensors of bfloat16 by their bits."""
    if str(getattr(result, "dtype", "")) == "torch.bfloat16":
        import torch  # loaded already: it made the result

        bits: Array = result.view(torch.int16).numpy()
        return bits.view(named("bfloat16"))
    return np.asarray(result)
