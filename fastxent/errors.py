"""The texts of the errors that a user of the functions can meet, by what they are about.

A text is called with the values of its fields, in the order in which they stand in it, and makes
the exception: `raise errors.not_real(name, dtype)`. The argument's name comes first, then what was
expected and what came. What is no argument's fault is said where it is found: a GPU, its driver and
its toolkit in `cuda/driver.py` and `cuda/jit.py`; threads, memory and a compiler that is switched
off in `cpu/helpers.py`, `cpu/scratch.py` and `cpu/jit.py`; the command line in `cli`.
"""

import string
from collections.abc import Iterable
from typing import Any

Shape = tuple[int, ...]


class Text:
    """An exception to be made of a text and the values of its fields."""

    def __init__(self, kind: type[Exception], text: str) -> None:
        self.kind, self.text = kind, text

    def __call__(self, *values: Any) -> Exception:
        """The exception."""
        parts = string.Formatter().parse(self.text)
        names = dict.fromkeys(name.partition(".")[0] for _, name, _, _ in parts if name)
        return self.kind(self.text.format(**dict(zip(names, values, strict=True))))


def type_name(value: Any) -> str:
    """The name of a value's type, as messages give it."""
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


no_array = Text(TypeError, "{name} must be an array or nested numbers, got {got}{reason}")
missing_values = Text(ValueError, "{name} must have no missing values, got one in row {row}")


# --- the class axis -------------------------------------------------------------------------


no_class_axis = Text(ValueError, "{name} must have a class axis, got an array without dimensions")


def no_such_axis(axis: int, shape: Shape, name: str) -> ValueError:
    """An axis that logits of this shape do not have."""
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
    "target must hold integer class indices, got {dtype}: cast to int, or give probabilities of "
    "shape {shape}",
)


def bad_label(
    place: tuple[Any, ...], label: Any, n_classes: int, ignore_index: int | None,
    name: str = "target",
) -> IndexError:  # fmt: skip
    """A label that is neither a class nor ignored, at a place of the argument `name`."""
    otherwise = "" if ignore_index is None else " or ignore_index"
    return IndexError(
        f"{name}[{_at(place)}] must be a class in 0 .. {n_classes - 1}{otherwise}, got {label}"
    )


def not_one_hot(place: tuple[Any, ...], value: Any, of: str, indices: Shape | None) -> ValueError:
    """An integer other than 0 and 1 in a target that has the shape of `of`.

    `indices` is the shape that class indices would have; None for a binary loss.
    """
    meant = "" if indices is None else f"class indices have shape {indices}; "
    return ValueError(
        f"target[{_at(place)}] must be 0 or 1, as integers of the shape of {of} are one-hot rows, "
        f"got {value}: {meant}for counts or soft labels give floats"
    )


ignored_probabilities = Text(
    ValueError,
    "ignore_index must be left at -100 with class probabilities as target (ignore rows by "
    "sample_weight), got {ignore_index}",
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
    """A vector of the linear map that is no tuple of three parts."""
    came = f"{len(value)} of them" if isinstance(value, tuple) else value.__class__.__name__
    return ValueError(f"vector must be a LinearGrad or a tuple ({', '.join(names)}), got {came}")


def no_vector(names: tuple[str, ...]) -> ValueError:
    """A vector without any part."""
    return ValueError(f"vector must have at least one of {', '.join(names)}, got None for each")


# --- buffers --------------------------------------------------------------------------------


buffer_kind = Text(ValueError, "{name} must be {expected}, got {value.__class__.__name__}")
buffer_shape = Text(ValueError, "{name} must have shape {shape}, got {got}")
buffer_type = Text(ValueError, "{name} must have dtype {dtype} in native byte order, got {got!r}")
buffer_read_only = Text(ValueError, "{name} must be writeable, got a read-only array")
buffer_overlaps_itself = Text(
    ValueError,
    "{name} must have an element of its own for each result, got a broadcast or overlapping view "
    "with strides {strides}",
)


def buffer_overlaps(name: str, other: str, over: list[str]) -> ValueError:
    """A buffer that overlaps another array; it may lie exactly over one of the inputs `over`."""
    may = f" (it may lie exactly over {' or '.join(over)})" if over else ""
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
    ValueError, "normalizer goes with reduction='mean' only, got reduction={reduction!r}"
)
normalizer_shape = Text(ValueError, "normalizer must be a scalar or 0-d array, got shape {shape}")
not_names = Text(TypeError, "{argument} must be a name or several, got {value.__class__.__name__}")


def not_among(name: Any, argument: str, names: Iterable[str]) -> ValueError:
    """An unknown name."""
    return ValueError(f"{argument} must be among {', '.join(names)}, got {name!r}")


def none_named(argument: str, names: Iterable[str]) -> ValueError:
    """An empty iterable of names."""
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
    """A tensor of a type that NumPy does not have."""
    remedy = ": call float()" if is_float else ""
    return TypeError(f"{name} must hold NumPy's numbers, got {dtype}{remedy}")


no_own_memory = Text(
    TypeError,
    "{name} must have memory of its own, got {tensor.__class__.__name__}: give the tensor that it"
    " wraps",
)
unreadable_tensor = Text(TypeError, "{name} must be a tensor whose memory can be read: {reason}")
storage_too_small = Text(
    ValueError,
    "{name} must have its numbers in memory, but its storage holds {there} of the {end} bytes up "
    "to the last: freed or shrunk (by FSDP, offloading or resize_), it has to be filled again "
    "first",
)


no_data = Text(
    TypeError,
    "{name} must have numbers beside a NumPy array, got {tensor.__class__.__name__} on "
    "{tensor.device}",
)
no_bfloat16 = Text(
    TypeError,
    "tensors of bfloat16 need the package ml_dtypes, for NumPy has no such type: pip install "
    "'fastxent[torch]'",
)
no_result_memory = Text(
    RuntimeError, "PyTorch gives no memory for results here: it traces the call"
)


def on_other_device(name: str, device: Any, on_gpu: bool) -> TypeError:
    """A tensor in host memory beside one on a GPU, or the other way around."""
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
    "{name} must have numbers of its own here, not be transformed by torch.func (grad, vmap, jvp)",
)
no_gradient = Text(TypeError, "{name} must not require grad: no gradient flows to it; detach it")
no_forward_mode = Text(
    TypeError, "{name} must have no tangent: no derivative by it is known; detach it"
)
no_third_derivative = Text(
    RuntimeError, "fastxent's losses have no third derivative, nor one of a Hessian-vector product"
)
modified_in_place = Text(
    RuntimeError,
    "one of the variables needed for a second derivative has been modified by an inplace "
    "operation: {name}, of shape {tensor.shape}, is at version {found}; expected version {version} "
    "instead",
)
out_in_graph = Text(ValueError, "out must be None where logits require grad")
buffer_requires_grad = Text(ValueError, "{name} must not require grad")
buffer_negated = Text(ValueError, "{name} must not be a view of negated numbers")
buffer_in_graph = Text(
    ValueError,
    "{name} must be None where PyTorch traces the call or has no numbers for it yet, got "
    "{value.__class__.__name__}: a graph has no buffers",
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
    "{name} is being traced by JAX (jit, grad, vmap), expected an array with numbers; in a JAX "
    "program call fastxent.integrations.jax",
)
not_in_host_memory = Text(TypeError, "{name} is on {where}, expected an array in host memory here")
jax_on_gpu = Text(
    TypeError,
    "{name} is a JAX array on {where}, expected one in host memory: give cupy.from_dlpack of it, "
    "and take the result by jax.dlpack.from_dlpack",
)
unreadable_export = Text(
    TypeError,
    "{name} must be an array that NumPy reads by DLPack, got {value.__class__.__name__}: {reason}",
)
dask_meta = Text(TypeError, "{name} must be a Dask array of NumPy arrays, got one of {kind}")
unknown_chunks = Text(
    ValueError,
    "{name} must have chunks of known sizes (compute_chunk_sizes() finds them), got shape {shape}",
)
does_not_fit = Text(
    ValueError,
    "{name} must be an array that fits {first} of shape {shape}, got {value.__class__.__name__}",
)


# --- JAX programs and boosting ------------------------------------------------------------------


not_floats = Text(TypeError, "{name} must hold floats in a JAX program, got {dtype}")


def no_derivative_in_jax(name: str, function: str, inputs: Iterable[str]) -> TypeError:
    """A derivative by an array that is no input of a loss."""
    return TypeError(
        f"{name} has a derivative taken by it, but {function} has derivatives by "
        f"{', '.join(inputs)} alone: use jax.lax.stop_gradient({name})"
    )


no_third_derivative_in_jax = Text(
    NotImplementedError, "{function} has no derivatives: no third derivative of this loss is known"
)
no_second_derivative_by_row = Text(
    NotImplementedError,
    "{function} with reduction='none' has second derivatives in reverse mode first, of a sum of "
    "its losses with constant weights: for others take cross_entropy of the logits",
)
no_derivative_of_result = Text(
    NotImplementedError,
    "{name} beside {function} has no derivative: use jax.lax.stop_gradient, or make the logits and "
    "take fastxent.integrations.jax.{name}",
)
not_exportable = Text(
    NotImplementedError,
    "{primitive} cannot be exported by jax.export: it calls fastxent in the process that runs it, "
    "by an address that another process does not have. Export the function with a loss in terms of "
    "JAX (optax) in its place, or ship the source and jit it where it runs",
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
    "LightGBM would compute the metric {name!r} of raw scores as if they were probabilities: "
    "use one of {names}, or a function of labels and probabilities",
)
no_feature = Text(
    ValueError, "X must have a feature that varies: LightGBM takes no function as objective without"
)
metric_twice = Text(
    ValueError, "eval_metric must name {name!r} once, got it as a name and as a function"
)


# --- arrays on a GPU -------------------------------------------------------------------------


def in_host_memory(name: str, value: Any, device: int | None) -> TypeError:
    """An array in host memory beside one on a GPU; `device` None for the first argument."""
    where = "a GPU" if device is None else f"GPU {device}"
    return TypeError(
        f"{name} is in host memory ({type_name(value)}), expected an array on {where}, "
        "where the first argument is: nothing is copied between them unasked"
    )


no_device_memory = Text(
    TypeError, "{name} has no memory that can be read ({value.__class__.__name__})"
)
misaligned = Text(ValueError, "{name} must have its elements at multiples of their {size} bytes")
too_long = Text(ValueError, "{name} must have at most {most} elements along an axis here")
on_other_gpu = Text(TypeError, "{name} is on GPU {device}, expected it on GPU {first}")
masked_on_gpu = Text(TypeError, "an array must not be masked; ignore rows by ignore_index instead")
byte_order_on_gpu = Text(
    TypeError, "an array on a GPU must have the GPU's byte order, got {dtype!r}"
)
no_numba_bfloat16 = Text(
    TypeError, "arrays of bfloat16 must be CuPy's or PyTorch's: Numba has none"
)
no_matrix_products = Text(
    TypeError,
    "linear_cross_entropy needs arrays of a library whose matrix products can be used here, as "
    "CuPy's or PyTorch's, got {owner.__class__.__name__}",
)


# --- other libraries ------------------------------------------------------------------------


unknown_scikit_learn = Text(
    ImportError,
    "scikit-learn {version} is not known: its {function} does not use {name}; use "
    "sklearn.linear_model.LogisticRegression, or scikit-learn 1.5 to 1.9",
)
