"""NumPy views of tensors, and new tensors for results.

`tensor.numpy()` would mark the storage, which then could not be resized or freed any more. So views
are made from the address, after a check that the storage is large enough.
"""

from typing import Any

import numpy as np
import torch

from fastxent import errors
from fastxent.arrays.borrowed import NOWHERE, Borrowed
from fastxent.cpu import pages
from fastxent.cpu.pages import LARGE

# PyTorch's types -> NumPy's. bfloat16, which NumPy does not have, is added at the first use.
DTYPES: dict[torch.dtype, Any] = {
    getattr(torch, name): np.dtype(name)
    for name in (
        "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
        "float16", "float32", "float64", "complex64", "complex128",
    )
}  # fmt: skip
_OWN = {dtype: own for own, dtype in DTYPES.items()}
# The classes whose instances have their data in their own storage.
ORDINARY = {torch.Tensor, torch.nn.Parameter}
NUMBERS = {np.float32: torch.float32, np.float64: torch.float64}
_CPU = torch.device("cpu")  # whatever the default device is


class Storage(Borrowed):
    """The memory of a tensor, which is its `owner`."""

    __slots__ = ()

    def new(self, like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """Allocate an uninitialised array in a new tensor's memory."""
        owner = self.owner
        if (
            shape == like.shape and dtype is like.dtype and like.flags.c_contiguous
            and type(owner) in ORDINARY
        ):  # fmt: skip
            tensor = torch.empty_like(owner)  # takes half the time
        else:
            tensor = _empty(shape, dtype)
        address, size = tensor.data_ptr(), tensor.nbytes
        if size >= LARGE:
            pages.use_huge(address, size)
        elif size and not address:
            raise errors.no_result_memory()
        memory: Any = _from_address(address or NOWHERE)
        memory.owner = tensor
        return np.ndarray(shape, dtype, memory)


_from_address = Storage.from_address


def _empty(shape: tuple[int, ...], dtype: Any) -> torch.Tensor:
    if dtype not in _OWN:  # an argument is another library's bfloat16 array
        _late(torch.bfloat16)
    try:
        return torch.empty(shape, dtype=_OWN[dtype], device=_CPU)
    except RuntimeError as error:  # as PyTorch raises it
        raise MemoryError(str(error)) from None


def view(name: str, tensor: torch.Tensor) -> Any:
    """Make a NumPy view of a tensor.

    Raises KeyError for a type that NumPy does not have, RuntimeError if the tensor has no memory,
    and ValueError if its storage is too small.
    """
    try:
        dtype = DTYPES[tensor.dtype]
    except KeyError:
        dtype = _late(tensor.dtype)
    if tensor.is_neg():  # a lazily negated view
        if not is_whole(tensor):
            raise too_small(name, tensor)
        tensor = tensor.detach().resolve_neg()
    address, strides = tensor.data_ptr(), None
    if tensor.is_contiguous():
        size = tensor.nbytes
        end = size and size + dtype.itemsize * tensor.storage_offset()
    else:
        strides = tuple([dtype.itemsize * step for step in tensor.stride()])
        end = _end(tensor)
    if end:
        if end > tensor.untyped_storage().nbytes():
            raise too_small(name, tensor)
        if not address:
            raise RuntimeError("it has none")
    memory: Any = _from_address(address or NOWHERE)
    memory.owner = tensor
    if strides is None:
        return np.ndarray(tensor.shape, dtype, memory)
    return np.ndarray(tensor.shape, dtype, memory, 0, strides)


def _end(tensor: torch.Tensor) -> int:
    """The bytes from the beginning of the storage to the end of a tensor; 0 for no elements."""
    if not tensor.numel():
        return 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = tensor.storage_offset() + sum([(n - 1) * step for n, step in steps])
    return int(tensor.itemsize * (last + 1))


def is_whole(tensor: torch.Tensor) -> bool:
    """Whether a tensor's storage is large enough; it may have been freed or shrunk."""
    return _end(tensor) <= int(tensor.untyped_storage().nbytes())


def too_small(name: str, tensor: torch.Tensor) -> Exception:
    """The error for a tensor whose storage is too small."""
    return errors.storage_too_small(name, tensor.untyped_storage().nbytes(), _end(tensor))


def _late(dtype: torch.dtype) -> Any:
    """Add bfloat16 to the types, at the first such tensor; raise KeyError for other types."""
    if dtype is not torch.bfloat16:
        raise KeyError(dtype)
    try:
        import ml_dtypes
    except ImportError:
        raise errors.no_bfloat16() from None
    own = np.dtype(ml_dtypes.bfloat16)
    DTYPES[dtype], _OWN[own] = own, dtype
    return own


def tensor_of(number: Any) -> torch.Tensor:
    """Convert a NumPy scalar to a 0-d tensor."""
    return torch.scalar_tensor(float(number), dtype=NUMBERS[type(number)], device=_CPU)
