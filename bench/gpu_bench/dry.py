"""A stand-in for the GPU for `--dry`: arrays in host memory, launches counted but not made."""

import time

import numpy as np

from gpu_bench import internals
from gpu_bench.cases import SIZES


class HostArray:
    """An array in host memory with the interface of a GPU array; bfloat16 is two bytes of any."""

    def __init__(self, array):
        self.array = array

    @property
    def __cuda_array_interface__(self):
        a = self.array
        return {"shape": a.shape, "typestr": a.dtype.str, "strides": a.strides, "version": 3,
                "data": (a.ctypes.data, False), "stream": None}  # fmt: skip

    device = "gpu:0"

    def __array_namespace__(self):
        return HostArray

    float16, bfloat16, float32, float64 = np.float16, np.dtype("V2"), np.float32, np.float64
    int64, uint8 = np.int64, np.uint8

    @staticmethod
    def empty(shape, *, dtype, device):
        """Zeros, so that two dry runs give the same numbers."""
        return HostArray(np.zeros(shape, dtype))

    @classmethod
    def of(cls, numbers, dtype):
        """An array of numbers in this type."""
        half = numbers.astype(np.float16) if SIZES[dtype] == 2 else numbers.astype(np.float32)
        return cls(half.view(getattr(cls, dtype)))


class Dry:
    """A stand-in for a GPU: kernel launches are counted and nothing is computed."""

    l2, processors = 1 << 16, 8  # so small that a few rows fill them

    def __init__(self, capability=(9, 0)):
        self.launches, self.kernels, self.capability = 0, {}, capability
        self.rng = np.random.default_rng(0)

    def driver(self):
        """A context in which kernel launches are counted instead of made."""
        return internals.counted_launches(self, self.capability)

    @property
    def torch(self):
        """Not available."""
        raise RuntimeError("a dry run has no PyTorch")

    def facts(self):
        """No GPU."""
        return {"name": "none: a dry run, whose numbers mean nothing"}

    def free(self):
        """Bytes of free memory: enough for small arrays."""
        return 1 << 24

    def logits(self, shape, dtype):
        """Normal logits with a standard deviation of 3."""
        return HostArray.of(3 * self.rng.standard_normal(shape), dtype)

    def labels(self, shape, classes):
        """Random classes."""
        return HostArray(self.rng.integers(0, classes, shape))

    def probabilities(self, shape, dtype):
        """Equal probabilities of all classes."""
        return HostArray.of(np.full(shape, 1 / shape[1]), dtype)

    def like(self, array):
        """An array of zeros of the same shape and type."""
        return HostArray(np.zeros_like(array.array))

    def bytes_of(self, array):
        """The size of an array."""
        return array.array.nbytes

    def copy(self, source, out, length=None):
        """Copy all or the first of the first axis."""
        out.array[:length] = source.array[:length]

    def host(self, array):
        """The array as a NumPy array in float64."""
        numbers = array.array
        return np.float64(numbers.view(np.float16) if numbers.dtype.kind == "V" else numbers)

    def seconds(self, call):
        """Seconds that the call takes in Python."""
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    def wait(self):
        """Return at once."""

    def extra_bytes(self, call):
        """Unknown: 0."""
        call()
        return 0
