"""The CUDA backend: kernels compiled for a GPU's architecture at the first call."""

import importlib.util

if importlib.util.find_spec("numba_cuda") is None:
    # The cuda module of Numba itself is deprecated, and its machine code is not tested.
    raise ImportError(
        "arrays on a GPU need numba-cuda: pip install 'fastxent[cuda13]', or fastxent[cuda12] for "
        "a driver of CUDA 12"
    )
