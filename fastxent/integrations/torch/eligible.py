"""Decide which calls of PyTorch's functions fastxent computes, and the type of their results.

Each public function returns the type that PyTorch's result would have, or None if PyTorch must
compute the call: because fastxent does not support it, or because PyTorch has to raise its error.
"""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch.utils._device import DeviceContext

from fastxent.arrays.torch import memory, refusals
from fastxent.arrays.torch.storage import ORDINARY

_REDUCTIONS = ("mean", "sum", "none")
_HALVES = (torch.float16, torch.bfloat16)
_FLOATS = (torch.float32, torch.float64, *_HALVES)
# Without these packages fastxent does not support bfloat16 in host memory, and GPUs.
_HAS_BFLOAT16 = find_spec("ml_dtypes") is not None
_HAS_GPU = find_spec("numba_cuda") is not None

_functorch = torch._C._functorch


# --- tensors --------------------------------------------------------------------------------


def _are_readable(inputs: Sequence[Any], constants: Sequence[Any]) -> bool:
    """Whether fastxent computes on these tensors exactly as PyTorch would.

    Only `inputs` may be differentiated.
    """
    if torch._C._len_torch_function_stack() and _modes_override():
        return False
    tensors = (*inputs, *constants)
    for tensor in tensors:
        if not _is_readable(tensor):
            return False
    device = tensors[0].device
    for tensor in tensors[1:]:
        if tensor.device != device:
            return False
    is_transforming = memory.is_transforming()
    if torch.compiler.is_dynamo_compiling():
        # While Dynamo traces a transform, it is unknown which tensors are differentiated.
        return not any(
            t.requires_grad or is_transforming and t.is_floating_point() for t in constants
        )
    if any([tensor._is_zerotensor() for tensor in tensors]):
        return False
    is_careful = is_transforming or refusals.may_have_tangents()
    for tensor in constants:
        if tensor.requires_grad or is_careful and _is_differentiated(tensor):
            return False
    return True


def _present(*tensors: Any) -> tuple[Any, ...]:
    return tuple(tensor for tensor in tensors if tensor is not None)


def _is_readable(tensor: Any) -> bool:
    if type(tensor) not in ORDINARY or tensor.layout != torch.strided or tensor.is_nested:
        return False
    if tensor.is_cpu:
        return _HAS_BFLOAT16 or tensor.dtype != torch.bfloat16
    return bool(_HAS_GPU and tensor.is_cuda)


def is_nan(loss: torch.Tensor) -> bool:
    """Whether a loss, or one of several, is nan; False on a GPU and while tracing."""
    if torch.compiler.is_dynamo_compiling() or memory.is_traced():
        return False
    if not loss.is_cpu or memory.is_virtual(loss):
        return False
    return math.isnan((loss.detach().sum() if loss.ndim else loss).item())


def _modes_override() -> bool:
    """Whether a mode is active that may override PyTorch's functions.

    `torch.set_default_device` is a mode too, but affects new tensors only.
    """
    stack = torch.overrides._get_current_function_mode_stack()
    return any(type(mode) is not DeviceContext for mode in stack)


def _is_differentiated(tensor: torch.Tensor) -> bool:
    """Whether a tensor is differentiated, at any level of torch.func's transforms."""
    while not (tensor.requires_grad or refusals.has_tangent(tensor)):
        if not _functorch.is_functorch_wrapped_tensor(tensor):
            return False
        tensor = _functorch.get_unwrapped(tensor)
    return True


def _fits(weight: Any, shape: Sequence[int]) -> bool:
    """Whether a weight broadcasts to this shape."""
    if weight is None:
        return True
    sizes = tuple(weight.shape)
    if weight.dtype not in _FLOATS or len(sizes) > len(shape):
        return False
    beside = shape[len(shape) - len(sizes) :]
    return all(n in (1, m) for n, m in zip(sizes, beside, strict=True))


def _autocasts(tensor: torch.Tensor) -> bool:
    return bool(torch.is_autocast_enabled(tensor.device.type))


def _type_of(tensor: torch.Tensor, autocast: bool) -> torch.dtype:
    """The type in which PyTorch computes with a tensor: float32 for halves under autocast."""
    return torch.float32 if autocast and tensor.dtype in _HALVES else tensor.dtype


def _computed_type(result: torch.dtype, *inputs: torch.Tensor) -> torch.dtype | None:
    """The type of a result; None if fastxent would compute with less precision."""
    if result == torch.float64 and not any(x.dtype == torch.float64 for x in inputs):
        return None
    return result


# --- losses ---------------------------------------------------------------------------------


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any,
    ignore_index: Any,
    reduction: Any,
    label_smoothing: Any,
) -> torch.dtype | None:
    """The result's type of `torch.nn.functional.cross_entropy`."""
    if not _are_readable((input,), (target, *_present(weight))):
        return None
    shape = tuple(input.shape)
    options = ignore_index, reduction, label_smoothing
    return _loss_of_rows(input, shape, target, weight, *options, _autocasts(input))


def _loss_of_rows(
    input: Any,
    shape: tuple[int, ...],
    target: Any,
    weight: Any,
    ignore_index: Any,
    reduction: Any,
    label_smoothing: Any,
    autocast: bool,
) -> torch.dtype | None:
    """The loss's type for logits of this shape, which are `input` or computed from it."""
    axis = 1 if len(shape) > 1 else 0
    if not shape or not shape[axis] or input.dtype not in _FLOATS or reduction not in _REDUCTIONS:
        return None
    if type(ignore_index) is not int or type(label_smoothing) is bool:
        return None
    if not isinstance(label_smoothing, (int, float)):
        return None
    own = _type_of(input, autocast)
    if not 0 <= label_smoothing <= 1 or weight is not None and weight.shape != (shape[axis],):
        return None
    if tuple(target.shape) == shape:
        if target.dtype not in _FLOATS or ignore_index >= 0:
            return None
        result = torch.promote_types(own, _type_of(target, autocast))
        if weight is not None:
            if weight.dtype not in _FLOATS:
                return None
            result = torch.promote_types(result, _type_of(weight, autocast))
        return _computed_type(result, input)
    if tuple(target.shape) != shape[:axis] + shape[axis + 1 :]:
        return None
    if target.dtype != torch.int64 and (target.dtype != torch.uint8 or target.ndim > 1):
        return None
    return own if weight is None or _type_of(weight, autocast) == own else None


def linear_cross_entropy(
    input: Any,
    linear_weight: Any,
    linear_bias: Any,
    target: Any,
    weight: Any,
    ignore_index: Any,
    reduction: Any,
    label_smoothing: Any,
    options: Any,
) -> torch.dtype | None:
    """The result's type of `torch.nn.functional.linear_cross_entropy`, after `autocast_linear`."""
    if not _are_readable(
        (input, linear_weight, *_present(linear_bias)), (target, *_present(weight))
    ):
        return None
    if not 1 <= input.ndim <= 2 or linear_weight.ndim != 2:
        return None
    classes, features = linear_weight.shape
    if input.shape[-1] != features or linear_weight.dtype != input.dtype:
        return None
    if linear_bias is not None and (
        linear_bias.shape != (classes,) or linear_bias.dtype != input.dtype
    ):
        return None
    shape = (*input.shape[:-1], classes)
    if ignore_index is None:
        ignore_index = -100
    elif tuple(target.shape) == shape:
        return None
    if options is not None:
        # PyTorch warns about calls that it does not compute in chunks.
        if not isinstance(options, torch.nn.LinearCrossEntropyOptions) or label_smoothing:
            return None
        if target.dtype != torch.int64:
            return None
    how = ignore_index, reduction, label_smoothing
    autocast = options is None and _autocasts(input)  # the chunked operator ignores autocast
    return _loss_of_rows(input, shape, target, weight, *how, autocast)


def autocast_linear(options: Any, *tensors: Any) -> tuple[Any, ...]:
    """Convert the tensors of a linear map to the type that autocast uses for matrix products."""
    first = tensors[0]
    if options is not None or not _is_readable(first) or not _autocasts(first):
        return tensors
    dtype = torch.get_autocast_dtype(first.device.type)
    single = (torch.float32, *_HALVES)
    return tuple(
        tensor.to(dtype) if isinstance(tensor, torch.Tensor) and tensor.dtype in single else tensor
        for tensor in tensors
    )


def binary_cross_entropy(
    input: Any, target: Any, weight: Any, reduction: Any
) -> torch.dtype | None:
    """The result's type of `torch.nn.functional.binary_cross_entropy`.

    On CUDA it is not allowed under autocast.
    """
    if not _are_readable((input,), (target, *_present(weight))):
        return None
    if input.dtype not in _FLOATS or target.shape != input.shape or reduction not in _REDUCTIONS:
        return None
    autocast = _autocasts(input)
    own = _type_of(input, autocast)
    if autocast and input.is_cuda or _type_of(target, autocast) != own:
        return None
    return own if _fits(weight, input.shape) else None


def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any, reduction: Any, pos_weight: Any
) -> torch.dtype | None:
    """The result's type of `torch.nn.functional.binary_cross_entropy_with_logits`: the target's."""
    if not _are_readable((input,), (target, *_present(weight, pos_weight))):
        return None
    if input.dtype not in _FLOATS or target.dtype not in _FLOATS:
        return None
    if target.shape != input.shape or reduction not in _REDUCTIONS:
        return None
    if not _fits(weight, input.shape) or not _fits(pos_weight, input.shape):
        return None
    return _computed_type(_type_of(target, _autocasts(input)), input)


# --- softmax --------------------------------------------------------------------------------


def softmax(input: Any, dim: Any, dtype: Any) -> torch.dtype | None:
    """The type of results of `softmax` and `log_softmax`, to which `input` is converted."""
    if not _are_readable((input,), ()) or not input.ndim:
        return None
    if dim is None:
        if torch.compiler.is_dynamo_compiling():  # a graph has no warnings
            return None
    elif type(dim) is not int or not -input.ndim <= dim < input.ndim:
        return None
    if dtype is None:
        # On the CPU autocast does not apply to softmax.
        dtype = _type_of(input, input.is_cuda and _autocasts(input))
    elif input.is_complex():
        return None
    return dtype if dtype in _FLOATS else None
