"""The CUDA backend: kernels for rows on a GPU, compiled for its architecture at the first call."""

import importlib.util

if importlib.util.find_spec("numba_cuda") is None:
    # The cuda module that Numba itself brings is no longer kept, and makes other machine code.
    raise ImportError(
        "arrays on a GPU need numba-cuda: pip install 'fastxent[cuda13]', or fastxent[cuda12] for "
        "a driver of CUDA 12"
    )
