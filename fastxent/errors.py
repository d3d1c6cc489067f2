"""The texts of the errors that a user of the functions can meet, by what they are about.

Each function makes one exception: the argument's name first, then what was expected and what came.
The rooms that speak of other things than arguments keep their texts with what they know: of a GPU
and its toolkit `cuda/driver.py` and `cuda/jit.py`; of the command line `cli`.
"""

from collections.abc import Iterable
from typing import Any

Shape = tuple[int, ...]


def kind_of(value: Any) -> str:
    """The name of a value's type, as messages give it."""
    return type(value).__name__


# --- arrays ---------------------------------------------------------------------------------


def not_real(name: str, dtype: Any) -> TypeError:
    """An array of something else than real numbers."""
    return TypeError(f"{name} must hold real numbers, got {dtype}")


def no_precision(name: str, dtype: Any) -> TypeError:
    """Logits or probabilities of a type that nothing is computed for."""
    return TypeError(
        f"{name} must be float16, bfloat16, float32, float64, integer or bool, got {dtype}"
    )


def wrong_shape(name: str, expected: Shape, meaning: str, got: Shape) -> ValueError:
    """An array of another shape than the only one that fits."""
    return ValueError(f"{name} must have shape {expected} ({meaning}), got {got}")


def not_broadcastable(name: str, shape: Shape, got: Shape) -> ValueError:
    """A weight that does not broadcast to the input, or would enlarge it."""
    return ValueError(f"{name} must broadcast to shape {shape}, got {got}")


def masked(name: str) -> TypeError:
    """A masked array."""
    return TypeError(f"{name} must not be a masked array; ignore rows by ignore_index instead")


def on_gpu(name: str, value: Any) -> TypeError:
    """An array in a GPU's memory beside one in host memory."""
    return TypeError(
        f"{name} is on a GPU ({kind_of(value)}), expected an array in host memory here"
    )


def sparse(name: str, value: Any) -> TypeError:
    """A sparse matrix."""
    return TypeError(
        f"{name} must be a dense array, got the sparse {kind_of(value)}: call toarray(), "
        "or make it dense (OneHotEncoder(sparse_output=False))"
    )


def no_array(name: str, got: str, reason: str = "") -> TypeError:
    """A value that NumPy makes no array of."""
    return TypeError(f"{name} must be an array or nested numbers, got {got}{reason}")


def missing_values(name: str, row: int) -> ValueError:
    """A nullable column with a missing value."""
    return ValueError(f"{name} must have no missing values, got one in row {row}")


# --- the class axis -------------------------------------------------------------------------


def no_class_axis(name: str) -> ValueError:
    """Logits without dimensions."""
    return ValueError(f"{name} must have a class axis, got an array without dimensions")


def no_such_axis(axis: int, shape: Shape, name: str) -> ValueError:
    """An axis that logits of this shape do not have."""
    return ValueError(
        f"axis must be in -{len(shape)} .. {len(shape) - 1} for {name} of shape {shape}, got {axis}"
    )


def no_classes(name: str, shape: Shape, axis: int) -> ValueError:
    """A loss over an empty class axis."""
    return ValueError(f"{name} must have at least one class, got shape {shape} with axis={axis}")


# --- targets --------------------------------------------------------------------------------


def target_shape(indices: Shape, shape: Shape, of: str, axis: int, got: Shape) -> ValueError:
    """A target of neither of the two shapes."""
    return ValueError(
        f"target must have shape {indices} (class indices) or {shape} (class probabilities) "
        f"for {of} of shape {shape} with axis={axis}, got {got}"
    )


def indices_not_integer(dtype: Any, shape: Shape) -> TypeError:
    """Class indices that are no integers."""
    return TypeError(
        f"target must hold integer class indices, got {dtype}: cast to int, or give "
        f"probabilities of shape {shape}"
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


def ignored_probabilities(ignore_index: int | None) -> ValueError:
    """An ignore_index beside class probabilities, which have no index."""
    return ValueError(
        "ignore_index must be left at -100 with class probabilities as target (ignore rows by "
        f"sample_weight), got {ignore_index}"
    )


def _at(place: tuple[Any, ...]) -> str:
    return ", ".join(map(str, place)) or "()"


# --- the linear map -------------------------------------------------------------------------


def weight_shape(got: Shape) -> ValueError:
    """Weights of a linear map that are no matrix with rows."""
    return ValueError(f"linear_weight must have shape (C, K) with at least one class, got {got}")


def linear_shape(name: str, expected: str, matrix: Shape, got: Shape) -> ValueError:
    """Features or a bias that do not fit the weights of a linear map."""
    return ValueError(
        f"{name} must have shape {expected} for linear_weight of shape {matrix}, got {got}"
    )


# --- buffers --------------------------------------------------------------------------------


def buffer_kind(name: str, value: Any) -> ValueError:
    """A buffer that is no array of NumPy's."""
    return ValueError(f"{name} must be a numpy.ndarray, got {kind_of(value)}")


def buffer_shape(name: str, shape: Shape, got: Shape) -> ValueError:
    """A buffer of another shape than its result."""
    return ValueError(f"{name} must have shape {shape}, got {got}")


def buffer_type(name: str, dtype: Any, got: Any) -> ValueError:
    """A buffer of another type than its result."""
    return ValueError(f"{name} must have dtype {dtype} in native byte order, got {got!r}")


def buffer_read_only(name: str) -> ValueError:
    """A buffer that cannot be written to."""
    return ValueError(f"{name} must be writeable, got a read-only array")


def buffer_overlaps_itself(name: str, strides: Shape) -> ValueError:
    """A buffer two of whose elements share memory."""
    return ValueError(
        f"{name} must have an element of its own for each result, got a broadcast or "
        f"overlapping view with strides {strides}"
    )


def buffer_overlaps(name: str, other: str, over: str | None) -> ValueError:
    """A buffer that overlaps another array; it may lie exactly over the input `over`."""
    may = f" (it may lie exactly over {over})" if over else ""
    return ValueError(f"{name} must not overlap {other}{may}")


def buffer_unused(name: str, reason: str, value: Any) -> ValueError:
    """A buffer for a result that there is not."""
    return ValueError(f"{name} must be None {reason}, got {kind_of(value)}")


def nothing_to_add_to() -> ValueError:
    """accumulate=True without buffers."""
    return ValueError("accumulate=True needs buffers in grad_out to add to, got None")


def no_linear_grad(value: Any) -> ValueError:
    """A grad_out of the linear map that is no triple."""
    return ValueError(
        "grad_out must be a LinearGrad of buffers (x, linear_weight, linear_bias), "
        f"got {kind_of(value)}"
    )


# --- options --------------------------------------------------------------------------------


def wrong_type(name: str, expected: str, value: Any) -> TypeError:
    """An option of another type."""
    return TypeError(f"{name} must be {expected}, got {kind_of(value)}")


def wrong_value(name: str, expected: str, value: Any) -> ValueError:
    """An option outside its range."""
    return ValueError(f"{name} must be {expected}, got {value}")


def not_of_type(name: str, expected: str, dtype: Any) -> TypeError:
    """An array of another type than the option's."""
    return TypeError(f"{name} must be {expected}, got {dtype}")


def no_reduction(names: tuple[str, ...], value: Any) -> ValueError:
    """A reduction that does not exist."""
    return ValueError(f"reduction must be one of {names}, got {value!r}")


def normalizer_without_mean(reduction: str) -> ValueError:
    """A normalizer beside another reduction than the mean."""
    return ValueError(f"normalizer goes with reduction='mean' only, got reduction={reduction!r}")


def normalizer_shape(shape: Shape) -> ValueError:
    """A normalizer with dimensions."""
    return ValueError(f"normalizer must be a scalar or 0-d array, got shape {shape}")


def no_name(argument: str, value: Any) -> TypeError:
    """Something else than a name or an iterable of names."""
    return TypeError(f"{argument} must be a name or several, got {kind_of(value)}")


def not_among(name: Any, argument: str, names: Iterable[str]) -> ValueError:
    """An unknown name."""
    return ValueError(f"{argument} must be among {', '.join(names)}, got {name!r}")


def none_named(argument: str, names: Iterable[str]) -> ValueError:
    """An empty iterable of names."""
    return ValueError(f"{argument} must name at least one of {', '.join(names)}")


def no_compute_type(name: Any) -> ValueError:
    """A type that no kernel computes in."""
    return ValueError(f"dtypes must hold 'float32' or 'float64', got {name!r}")


# --- tensors of PyTorch ---------------------------------------------------------------------


def no_plain_tensor(name: str, kind: str, remedy: str) -> TypeError:
    """A tensor of a class that has no plain numbers."""
    return TypeError(f"{name} must be a plain tensor, got {kind}: {remedy}")


def no_dense_tensor(name: str, layout: Any) -> TypeError:
    """A sparse tensor."""
    return TypeError(f"{name} must be a dense tensor, got {layout}: call to_dense()")


def no_memory_of_zeros(name: str) -> TypeError:
    """PyTorch's tensor of zeros without memory."""
    return TypeError(f"{name} must have memory, got zeros without any: call clone()")


def quantised(name: str, dtype: Any) -> TypeError:
    """A quantised tensor."""
    return TypeError(f"{name} must hold plain numbers, got {dtype}: call dequantize()")


def not_numpys_type(name: str, dtype: Any, is_float: bool) -> TypeError:
    """A tensor of a type that NumPy does not have."""
    remedy = ": call float()" if is_float else ""
    return TypeError(f"{name} must hold NumPy's numbers, got {dtype}{remedy}")


def no_own_memory(name: str, tensor: Any) -> TypeError:
    """A tensor that wraps another."""
    return TypeError(
        f"{name} must have memory of its own, got {kind_of(tensor)}: give the tensor that it wraps"
    )


def unreadable_tensor(name: str, reason: Exception) -> TypeError:
    """A tensor that NumPy cannot view, for PyTorch's reason."""
    return TypeError(f"{name} must be a tensor whose memory can be read: {reason}")


def cut_off(name: str, there: int, end: int) -> ValueError:
    """A tensor whose storage is smaller than it."""
    return ValueError(
        f"{name} must have its numbers in memory, but its storage holds {there} of the "
        f"{end} bytes up to the last: freed or shrunk (by FSDP, offloading or resize_), "
        "it has to be filled again first"
    )


def no_numbers(name: str, tensor: Any) -> TypeError:
    """A tensor without numbers beside a NumPy array."""
    return TypeError(
        f"{name} must have numbers beside a NumPy array, got {kind_of(tensor)} on {tensor.device}"
    )


def no_bfloat16() -> TypeError:
    """Tensors of bfloat16 without the package that gives NumPy this type."""
    return TypeError(
        "tensors of bfloat16 need the package ml_dtypes, for NumPy has no such type: "
        "pip install 'fastxent[torch]'"
    )


def no_result_memory() -> RuntimeError:
    """A new tensor without memory."""
    return RuntimeError("PyTorch gives no memory for results here: it traces the call")


def on_other_device(name: str, device: Any, on_gpu: bool) -> TypeError:
    """A tensor in host memory beside one on a GPU, or the other way around."""
    where = "on the GPU where the first argument is" if on_gpu else "in host memory here"
    return TypeError(f"{name} is on {device}, expected a tensor {where}")


def not_beside(name: str, device: Any, first: Any) -> TypeError:
    """A tensor on another device than the first argument, in a traced call."""
    return TypeError(
        f"{name} is on {device}, expected a tensor on {first}, where the first argument is"
    )


def host_value_beside(name: str, value: Any, first: Any) -> TypeError:
    """A value in host memory beside a tensor on a GPU, in a traced call."""
    return TypeError(
        f"{name} is in host memory ({kind_of(value)}), expected an array on "
        f"{first}, where the first argument is"
    )


def transformed(name: str) -> TypeError:
    """A tensor inside torch.func."""
    return TypeError(
        f"{name} must have numbers of its own, not be transformed by torch.func (grad, "
        "vmap, jvp), for which there are no rules: differentiate by backward() or "
        "torch.autograd.grad"
    )


def no_gradient(name: str) -> TypeError:
    """A target or weight that requires grad."""
    return TypeError(f"{name} must not require grad: no gradient flows to it; detach it")


def no_forward_mode(name: str) -> TypeError:
    """A tensor with a tangent."""
    return TypeError(f"{name} must have no tangent: there is no derivative in forward mode")


def no_second_derivative() -> RuntimeError:
    """backward() with create_graph=True."""
    return RuntimeError("fastxent's functions have no second derivative (create_graph=True)")


def out_in_graph() -> ValueError:
    """A buffer where the input requires grad."""
    return ValueError("out must be None where logits require grad")


def no_tensor_buffer(name: str, value: Any) -> ValueError:
    """A buffer that is no tensor."""
    return ValueError(f"{name} must be a torch.Tensor, got {kind_of(value)}")


def buffer_requires_grad(name: str) -> ValueError:
    """A buffer in the graph."""
    return ValueError(f"{name} must not require grad")


def buffer_negated(name: str) -> ValueError:
    """A buffer whose memory holds other numbers than it."""
    return ValueError(f"{name} must not be a view of negated numbers")


def buffer_in_graph(name: str, value: Any) -> ValueError:
    """A buffer in a traced call."""
    return ValueError(
        f"{name} must be None where PyTorch traces the call or has no numbers for it yet, "
        f"got {kind_of(value)}: a graph has no buffers"
    )


def missing_argument(function: str, name: str) -> TypeError:
    """A traced call without an argument."""
    return TypeError(f"{function}() is missing {name!r}")


def unknown_argument(function: str, name: str) -> TypeError:
    """A traced call with an argument too many."""
    return TypeError(f"{function}() has no argument {name!r}")


# --- arrays of JAX, Dask and DLPack ------------------------------------------------------------


def unwritable_buffer(name: str, library: str, reason: str) -> ValueError:
    """A buffer of a library whose arrays are not written to."""
    return ValueError(f"{name} must be None, for {library} arrays {reason}")


def traced_by_jax(name: str) -> TypeError:
    """An array inside jax.jit, grad or vmap."""
    return TypeError(
        f"{name} is being traced by JAX (jit, grad, vmap), expected an array with numbers; in "
        "a JAX program call fastxent.integrations.jax"
    )


def elsewhere(name: str, where: str) -> TypeError:
    """An array on another device beside one in host memory."""
    return TypeError(f"{name} is on {where}, expected an array in host memory here")


def unreadable_export(name: str, value: object, reason: Exception) -> TypeError:
    """An array whose __dlpack__ fails."""
    return TypeError(
        f"{name} must be an array that NumPy reads by DLPack, got {kind_of(value)}: {reason}"
    )


def no_dask_array(name: str, value: Any) -> TypeError:
    """A first argument that is no Dask array."""
    return TypeError(f"{name} must be a dask.array.Array, got {kind_of(value)}")


def dask_of_others(name: str, kind: str) -> TypeError:
    """A Dask array whose blocks are no NumPy arrays."""
    return TypeError(f"{name} must be a Dask array of NumPy arrays, got one of {kind}")


def unknown_chunks(name: str, shape: Shape) -> ValueError:
    """A Dask array with chunks of unknown sizes."""
    return ValueError(
        f"{name} must have chunks of known sizes (compute_chunk_sizes() finds them), "
        f"got shape {shape}"
    )


def does_not_fit(name: str, first: str, shape: Shape, value: Any) -> ValueError:
    """An argument that does not fit, for a reason that the function has no text for."""
    return ValueError(
        f"{name} must be an array that fits {first} of shape {shape}, got {kind_of(value)}"
    )


# --- JAX programs and boosting ------------------------------------------------------------------


def no_float_logits(dtype: Any) -> TypeError:
    """Logits of a JAX program that are no floats."""
    return TypeError(f"logits must hold floats, got {dtype}")


def no_integer_target(dtype: Any) -> TypeError:
    """A target of a JAX program that holds no integers."""
    return TypeError(f"target must hold integer class indices, got {dtype}")


def index_shape(rows: Shape, shape: Shape, axis: int, got: Shape) -> ValueError:
    """A target of a JAX program of another shape."""
    return ValueError(
        f"target must have shape {rows} for logits of shape {shape} with axis={axis}, got {got}"
    )


def per_row_shape(name: str, rows: Shape, got: Shape) -> ValueError:
    """Labels or weights of a boosting objective of another shape than one for each row."""
    return ValueError(f"{name} must have shape {rows}, one for each row of y_pred, got {got}")


def margins_shape(expected: str, got: Shape) -> ValueError:
    """Margins of another shape."""
    return ValueError(f"y_pred must have shape {expected}, got {got}")


def not_integral(first: int, label: Any) -> ValueError:
    """A float label that is no integer."""
    return ValueError(f"y_true must hold class indices 0, 1, 2 …, got y_true[{first}] = {label}")


def not_binary(first: int, label: Any) -> ValueError:
    """A binary label outside 0 … 1."""
    return ValueError(f"y_true must be from 0 to 1, got y_true[{first}] = {label}")
