"""Tensors whose storage does not hold them: each would be read beyond."""


def freed(tensor):
    """The tensor, whose storage is empty, as FSDP and offloading leave it."""
    tensor.untyped_storage().resize_(0)
    return tensor


def shrunk(tensor):
    """The tensor, whose storage ends one byte before its last number."""
    tensor.untyped_storage().resize_(tensor.nbytes - 1)
    return tensor
