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
    return TypeError(f"{name} is on a GPU ({kind_of(value)}), expected an array in host memory here")


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


def not_one_hot(
    place: tuple[Any, ...], value: Any, of: str, indices: Shape | None
) -> ValueError:
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
    return ValueError(
        f"normalizer goes with reduction='mean' only, got reduction={reduction!r}"
    )


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
