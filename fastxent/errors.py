"""Error messages of the public functions, grouped by subject.

A `Text` is called with the values of its fields, in their order, and returns the exception:
`raise errors.not_real(name, dtype)`. A message gives the argument's name, what was expected, and
what was passed. Errors that do not concern an argument are defined where they occur: those of GPU,
driver and toolkit in `cuda/driver.py` and `cuda/jit.py`; those of threads, memory and a disabled
compiler in `cpu/helpers.py`, `cpu/scratch.py` and `cpu/jit.py`; those of the command line in `cli`.
"""

import string
from collections.abc import Iterable
from typing import Any

Shape = tuple[int, ...]


class Text:
    """A type of exception with a format string for its message."""

    def __init__(self, kind: type[Exception], text: str) -> None:
        self.kind, self.text = kind, text

    def __call__(self, *values: Any) -> Exception:
        """Return the exception with these values of the fields."""
        parts = string.Formatter().parse(self.text)
        names = dict.fromkeys(name.partition(".")[0] for _, name, _, _ in parts if name)
        return self.kind(self.text.format(**dict(zip(names, values, strict=True))))


def type_name(value: Any) -> str:
    """The name of a value's type, for messages."""
    return type(value).__name__


# --- arrays ---------------------------------------------------------------------------------


not_real = Text(TypeError, "{name} must hold real numbers, got {dtype}")
no_precision = Text(
    TypeError, "{name} must be float16, bfloat16, float32, float64, integer or bool, got {dtype}"
)
wrong_shape = Text(ValueError, "{name} must have shape {expected} ({meaning}), got {got}")
not_broadcastable = Text(ValueError, "{name} must broadcast to shape {shape}, got {got}")
masked = Text(TypeError, "{name} must not be a masked array; ignore rows by ignore_index instead")
on_gpu = Text(
    TypeError,
    "{name} is on a GPU ({value.__class__.__name__}), expected an array in host memory here",
)
sparse = Text(
    TypeError,
    "{name} must be a dense array, got the sparse {value.__class__.__name__}: call toarray(), or "
    "make it dense (OneHotEncoder(sparse_output=False))",
)


no_array = Text(TypeError, "{name} must be an array or a nested sequence, got {got}{reason}")
missing_values = Text(ValueError, "{name} must have no missing values, got one in row {row}")


# --- the class axis -------------------------------------------------------------------------


no_class_axis = Text(ValueError, "{name} must have a class axis, got an array without dimensions")


def no_such_axis(axis: int, shape: Shape, name: str) -> ValueError:
    """The error for an axis that an array of this shape does not have."""
    return ValueError(
        f"axis must be in -{len(shape)} .. {len(shape) - 1} for {name} of shape {shape}, got {axis}"
    )


no_classes = Text(
    ValueError, "{name} must have at least one class, got shape {shape} with axis={axis}"
)


# --- targets --------------------------------------------------------------------------------


target_shape = Text(
    ValueError,
    "target must have shape {indices} (class indices) or {shape} (class probabilities) for {of} "
    "of shape {shape} with axis={axis}, got {got}",
)
indices_not_integer = Text(
    TypeError,
    "target must hold integer class indices, got {dtype}: cast to int, or pass probabilities of "
    "shape {shape}",
)


def bad_label(
    place: tuple[Any, ...], label: Any, n_classes: int, ignore_index: int | None,
    name: str = "target",
) -> IndexError:  # fmt: skip
    """The error for a label out of range, at index `place` of the argument `name`."""
    otherwise = "" if ignore_index is None else " or ignore_index"
    return IndexError(
        f"{name}[{_at(place)}] must be a class in 0 .. {n_classes - 1}{otherwise}, got {label}"
    )


def not_one_hot(place: tuple[Any, ...], value: Any, of: str, indices: Shape | None) -> ValueError:
    """The error for an integer other than 0 and 1 in a target with the shape of `of`.

    `indices` is the shape that class indices would have; None for a binary loss.
    """
    meant = "" if indices is None else f"class indices have shape {indices}; "
    return ValueError(
        f"target[{_at(place)}] must be 0 or 1, since an integer target of the shape of {of} is "
        f"one-hot, got {value}: {meant}for counts or soft labels pass floats"
    )


ignored_probabilities = Text(
    ValueError,
    "ignore_index must be left at -100 with class probabilities as target (to ignore rows, set "
    "their sample_weight to 0), got {ignore_index}",
)


def _at(place: tuple[Any, ...]) -> str:
    return ", ".join(map(str, place)) or "()"


# --- the linear map -------------------------------------------------------------------------


weight_shape = Text(
    ValueError, "linear_weight must have shape (C, K) with at least one class, got {got}"
)
linear_shape = Text(
    ValueError, "{name} must have shape {expected} for linear_weight of shape {matrix}, got {got}"
)


def vector_kind(names: tuple[str, ...], value: Any) -> ValueError:
    """The error for a vector of a linear map that is not a tuple of three parts."""
    is_tuple = isinstance(value, tuple)
    got = f"a tuple of length {len(value)}" if is_tuple else value.__class__.__name__
    return ValueError(f"vector must be a LinearGrad or a tuple ({', '.join(names)}), got {got}")


def no_vector(names: tuple[str, ...]) -> ValueError:
    """The error for a vector whose parts are all None."""
    return ValueError(f"vector must have at least one of {', '.join(names)}, got None for each")


# --- buffers --------------------------------------------------------------------------------


buffer_kind = Text(ValueError, "{name} must be {expected}, got {value.__class__.__name__}")
buffer_shape = Text(ValueError, "{name} must have shape {shape}, got {got}")
buffer_type = Text(ValueError, "{name} must have dtype {dtype} in native byte order, got {got!r}")
buffer_read_only = Text(ValueError, "{name} must be writeable, got a read-only array")
buffer_overlaps_itself = Text(
    ValueError,
    "{name} must have separate memory for each element, got a broadcast or overlapping view with "
    "strides {strides}",
)


def buffer_overlaps(name: str, other: str, over: list[str]) -> ValueError:
    """The error for a buffer that overlaps another array; it may be exactly an array of `over`."""
    may = f" (it may be exactly the memory of {' or '.join(over)})" if over else ""
    return ValueError(f"{name} must not overlap {other}{may}")


accumulate_without_buffers = Text(
    ValueError, "accumulate=True needs buffers in grad_out to add to, got None"
)


# --- options --------------------------------------------------------------------------------


wrong_type = Text(TypeError, "{name} must be {expected}, got {value.__class__.__name__}")
wrong_value = Text(ValueError, "{name} must be {expected}, got {value}")
not_of_type = Text(TypeError, "{name} must be {expected}, got {dtype}")
no_reduction = Text(ValueError, "reduction must be one of {names}, got {value!r}")
normalizer_without_mean = Text(
    ValueError, "normalizer is only allowed with reduction='mean', got reduction={reduction!r}"
)
normalizer_shape = Text(ValueError, "normalizer must be a scalar or 0-d array, got shape {shape}")
not_names = Text(
    TypeError, "{argument} must be a name or an iterable of names, got {value.__class__.__name__}"
)


def not_among(name: Any, argument: str, names: Iterable[str]) -> ValueError:
    """The error for an unknown name."""
    return ValueError(f"{argument} must be one of {', '.join(names)}, got {name!r}")


def none_named(argument: str, names: Iterable[str]) -> ValueError:
    """The error for an empty iterable of names."""
    return ValueError(f"{argument} must name at least one of {', '.join(names)}")


no_compute_type = Text(
    ValueError,
    "dtypes must hold 'float32', 'float64', 'float16' or 'bfloat16' (which needs ml_dtypes), "
    "got {name!r}",
)


# --- tensors of PyTorch ---------------------------------------------------------------------


no_plain_tensor = Text(TypeError, "{name} must be a plain tensor, got {kind}: {remedy}")
no_dense_tensor = Text(TypeError, "{name} must be a dense tensor, got {layout}: call to_dense()")
zero_tensor = Text(TypeError, "{name} must have memory, got zeros without any: call clone()")
quantised = Text(TypeError, "{name} must hold plain numbers, got {dtype}: call dequantize()")


def not_numpys_type(name: str, dtype: Any, is_float: bool) -> TypeError:
    """The error for a tensor of a type that NumPy does not have."""
    remedy = ": call float()" if is_float else ""
    return TypeError(f"{name} must have a type that NumPy has, got {dtype}{remedy}")


no_own_memory = Text(
    TypeError,
    "{name} must have memory of its own, got {tensor.__class__.__name__}: pass the tensor that it"
    " wraps",
)
unreadable_tensor = Text(TypeError, "{name} must be a tensor whose memory can be read: {reason}")
storage_too_small = Text(
    ValueError,
    "{name} must have its data in memory, but its storage has {there} of the required {end} bytes: "
    "it was freed or shrunk (by FSDP, offloading or resize_) and must be filled again first",
)


no_data = Text(
    TypeError,
    "{name} must be a tensor with data, as the first argument is a NumPy array, got "
    "{tensor.__class__.__name__} on {tensor.device}",
)
no_bfloat16 = Text(
    TypeError,
    "bfloat16 tensors need the package ml_dtypes, since NumPy has no such type: pip install "
    "'fastxent[torch]'",
)
no_result_memory = Text(
    RuntimeError, "PyTorch allocates no memory for the results: it is tracing the call"
)


def on_other_device(name: str, device: Any, on_gpu: bool) -> TypeError:
    """The error for a tensor in host memory with one on a GPU, or the other way around."""
    where = "on the GPU where the first argument is" if on_gpu else "in host memory here"
    return TypeError(f"{name} is on {device}, expected a tensor {where}")


on_another_device = Text(
    TypeError, "{name} is on {device}, expected a tensor on {first}, where the first argument is"
)
host_value_with_tensors = Text(
    TypeError,
    "{name} is in host memory ({value.__class__.__name__}), expected an array on {first}, where "
    "the first argument is",
)
under_transform = Text(
    TypeError,
    "{name} must be a plain tensor here, got one that torch.func (grad, vmap, jvp) transforms",
)
no_gradient = Text(
    TypeError, "{name} must not require grad: its gradient is not implemented; call detach()"
)
no_forward_mode = Text(
    TypeError, "{name} must have no tangent: its derivative is not implemented; call detach()"
)
no_third_derivative = Text(
    RuntimeError,
    "fastxent's losses have no third derivative: it is not implemented, nor is the derivative of a "
    "Hessian-vector product",
)
modified_in_place = Text(
    RuntimeError,
    "one of the variables needed for a second derivative has been modified by an inplace "
    "operation: {name}, of shape {tensor.shape}, is at version {found}; expected version {version} "
    "instead",
)
out_in_graph = Text(ValueError, "out must be None where logits require grad")
buffer_requires_grad = Text(ValueError, "{name} must not require grad")
buffer_negated = Text(ValueError, "{name} must not be a negative view (see torch.is_neg)")
buffer_in_graph = Text(
    ValueError,
    "{name} must be None where PyTorch traces the call or tensors have no data (fake, meta), got "
    "{value.__class__.__name__}: graphs do not support buffers",
)
missing_argument = Text(TypeError, "{function}() is missing {name!r}")
unknown_argument = Text(TypeError, "{function}() has no argument {name!r}")
deprecated_reduction = Text(
    ValueError, "size_average and reduce must be None: pass reduction={reduction!r} instead"
)


# --- arrays of JAX, Dask and DLPack ------------------------------------------------------------


unwritable_buffer = Text(ValueError, "{name} must be None, for {library} arrays {reason}")
traced_by_jax = Text(
    TypeError,
    "{name} is being traced by JAX (jit, grad, vmap), expected a concrete array; in a JAX program "
    "call fastxent.integrations.jax",
)
not_in_host_memory = Text(TypeError, "{name} is on {where}, expected an array in host memory here")
jax_on_gpu = Text(
    TypeError,
    "{name} is a JAX array on {where}, expected one in host memory: convert it with "
    "cupy.from_dlpack, and the result with jax.dlpack.from_dlpack",
)
unreadable_export = Text(
    TypeError,
    "{name} must be an array that NumPy can import by DLPack, got {value.__class__.__name__}: "
    "{reason}",
)
dask_meta = Text(TypeError, "{name} must be a Dask array of NumPy arrays, got one of {kind}")
unknown_chunks = Text(
    ValueError,
    "{name} must have chunks of known sizes (call compute_chunk_sizes()), got shape {shape}",
)
does_not_fit = Text(
    ValueError,
    "{name} must be an array that fits {first} of shape {shape}, got {value.__class__.__name__}",
)


# --- JAX programs and boosting ------------------------------------------------------------------


not_floats = Text(TypeError, "{name} must hold floats in a JAX program, got {dtype}")


def no_derivative_in_jax(name: str, function: str, inputs: Iterable[str]) -> TypeError:
    """The error for a derivative with respect to an array other than the inputs."""
    return TypeError(
        f"{name} must not be differentiated: {function} has derivatives with respect to "
        f"{', '.join(inputs)} only; use jax.lax.stop_gradient({name})"
    )


no_third_derivative_in_jax = Text(
    NotImplementedError,
    "{function} has no derivatives: no third derivative of this loss is implemented",
)
no_second_derivative_by_row = Text(
    NotImplementedError,
    "{function} with reduction='none' has second derivatives only for a sum of its losses with "
    "constant weights, with reverse mode applied first: for others use cross_entropy of the logits",
)
no_derivative_of_result = Text(
    NotImplementedError,
    "{name} of {function} has no derivative: use jax.lax.stop_gradient, or compute the logits and "
    "call fastxent.integrations.jax.{name}",
)
not_exportable = Text(
    NotImplementedError,
    "{primitive} cannot be exported by jax.export: it calls fastxent by an address that is valid "
    "in this process only. Export the function with a loss written in JAX (optax) instead, or "
    "distribute the source and jit it in the process that runs it",
)
per_row_shape = Text(
    ValueError, "{name} must have shape {rows}, one for each row of y_pred, got {got}"
)
margins_shape = Text(ValueError, "y_pred must have shape {expected}, got {got}")
not_integral = Text(
    ValueError, "y_true must hold class indices 0, 1, 2 …, got y_true[{first}] = {label}"
)
not_binary = Text(ValueError, "y_true must be from 0 to 1, got y_true[{first}] = {label}")
not_our_objective = Text(
    ValueError, "objective must be {names}: the classifier's is fastxent's, got {value!r}"
)
unsupported_parameter = Text(
    ValueError, "{name} must be left out with fastxent's objective, got {value!r}: {remedy}"
)
metric_needs_probabilities = Text(
    ValueError,
    "LightGBM would compute the metric {name!r} from raw scores as if they were probabilities: "
    "use one of {names}, or a function of labels and probabilities",
)
no_feature = Text(
    ValueError,
    "X must have a feature that varies: without one LightGBM accepts no custom objective",
)
metric_twice = Text(
    ValueError, "eval_metric must name {name!r} once, got it as a name and as a function"
)


# --- arrays on a GPU -------------------------------------------------------------------------


def in_host_memory(name: str, value: Any, device: int | None) -> TypeError:
    """The error for an array in host memory where one on a GPU is expected.

    `device` is the number of the GPU, None for the first argument.
    """
    where = "a GPU" if device is None else f"GPU {device}"
    return TypeError(
        f"{name} is in host memory ({type_name(value)}), expected an array on {where}, "
        "where the first argument is: arrays are not copied between devices implicitly"
    )


no_device_memory = Text(
    TypeError, "{name} has no memory that can be read ({value.__class__.__name__})"
)
misaligned = Text(ValueError, "{name} must have elements aligned to {size} bytes")
too_long = Text(ValueError, "{name} must have at most {most} elements along an axis here")
on_other_gpu = Text(TypeError, "{name} is on GPU {device}, expected it on GPU {first}")
masked_on_gpu = Text(TypeError, "an array must not be masked; ignore rows by ignore_index instead")
byte_order_on_gpu = Text(
    TypeError, "an array on a GPU must have the GPU's byte order, got {dtype!r}"
)
no_numba_bfloat16 = Text(
    TypeError, "bfloat16 arrays must be CuPy's or PyTorch's: Numba has no such type"
)
no_matrix_products = Text(
    TypeError,
    "linear_cross_entropy needs arrays of a library with matrix products that fastxent can use, "
    "such as CuPy or PyTorch, got {owner.__class__.__name__}",
)


# --- other libraries ------------------------------------------------------------------------


unknown_scikit_learn = Text(
    ImportError,
    "scikit-learn {version} is not supported: its {function} does not use {name}; use "
    "sklearn.linear_model.LogisticRegression, or scikit-learn 1.5 to 1.9",
)
