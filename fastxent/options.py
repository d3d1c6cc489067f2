"""Options of a call: their checks, and the records that hold them.

These are numbers and names; arrays are checked in `checks.py`. An option of the row losses is a
field of `Options`, whose annotation is its check. To add an option, add a field.
"""

import contextlib
import math
import numbers
import operator
from collections.abc import Callable, Iterable
from typing import Annotated, Any, NamedTuple

import numpy as np

from fastxent import errors

REDUCTIONS = ("none", "mean", "sum")
# numbers.Real includes bools and timedelta64.
NOT_NUMBERS = (bool, np.bool_, np.timedelta64)
_FLAGS = (int, np.bool_, np.integer)

DType = Any  # np.dtype, or the stand-in for bfloat16 on a GPU


# --- numbers --------------------------------------------------------------------------------


def integer(value: Any, name: str) -> int:
    """Convert an int or an object with `__index__` to an int; bools are refused."""
    if isinstance(value, (bool, np.bool_)):
        raise errors.wrong_type(name, "an int", value)
    try:
        return operator.index(value)
    except TypeError:
        raise errors.wrong_type(name, "an int", value) from None


def count_or_none(value: Any, name: str) -> int | None:
    """Check None or an int of at least 1."""
    if value is None:
        return None
    number = integer(value, name)
    if number < 1:
        raise errors.wrong_value(name, "at least 1", value)
    return number


def real(value: Any, name: str) -> float:
    """Convert a finite real number to a float."""
    if type(value) is not float:
        if isinstance(value, NOT_NUMBERS) or not isinstance(value, numbers.Real):
            raise errors.wrong_type(name, "a real number", value)
        value = to_float(value, name)
    if not math.isfinite(value):
        raise errors.wrong_value(name, "finite", value)
    return float(value)


def to_float(value: Any, name: str) -> float:
    """Convert a real number to a float; raise if it overflows float64."""
    try:
        return float(value)
    except OverflowError:
        raise errors.wrong_value(name, "a number that float64 holds", value) from None


def _normal(value: float, name: str, dtype: DType) -> float:
    """Check a number that must be 0 or a normal number of the type of the computation."""
    if value not in (0.0, 1.0):
        limits = np.finfo(dtype)
        if not float(limits.tiny) <= abs(value) <= float(limits.max):
            raise errors.wrong_value(name, f"a number that {dtype} holds", value)
    return value


# --- the options of row losses: check(value, name, type of the arithmetic) ---------------------


def _index_or_none(value: Any, name: str, compute: DType) -> int | None:
    return value if value is None or type(value) is int else integer(value, name)


def _fraction(value: Any, name: str, compute: DType) -> float:
    number = real(value, name)
    if not 0.0 <= number <= 1.0:
        raise errors.wrong_value(name, "in 0 .. 1", number)
    return number


def _finite(value: Any, name: str, compute: DType) -> float:
    return real(value, name)


def _factor(value: Any, name: str, compute: DType) -> float:
    return _normal(real(value, name), name, compute)


def _positive_or_none(value: Any, name: str, compute: DType) -> float | None:
    if value is None:
        return None
    bound = real(value, name)
    if bound <= 0.0:
        raise errors.wrong_value(name, "greater than 0", bound)
    return _normal(bound, name, compute)


class Options(NamedTuple):
    """The checked options of the row losses, named as the public parameters.

    `ignore_index` None ignores no row. `hess_factor` is not a public parameter: it multiplies the
    Hessian before rounding, for gradient boosting, on the CPU only.
    """

    ignore_index: Annotated[int | None, _index_or_none] = -100
    label_smoothing: Annotated[float, _fraction] = 0.0
    z_loss: Annotated[float, _finite] = 0.0
    logit_scale: Annotated[float, _factor] = 1.0
    softcap: Annotated[float | None, _positive_or_none] = None
    hess_factor: float = 1.0


NO_OPTIONS = Options(ignore_index=None)
DEFAULTS = Options()


class OptionEntry(NamedTuple):
    """An option of a function: its index in `Options`, its check and the function's default."""

    at: int
    name: str
    check: Callable[[Any, str, DType], Any]
    default: Any


def entries(defaults: dict[str, Any]) -> tuple[OptionEntry, ...]:
    """The options among the parameters with these defaults."""
    return tuple(
        OptionEntry(at, name, annotation.__metadata__[0], defaults[name])
        for at, (name, annotation) in enumerate(Options.__annotations__.items())
        if name in defaults
    )


def read(options: tuple[OptionEntry, ...], arguments: dict[str, Any], compute: DType) -> Options:
    """Read a function's options from its arguments; options other than the defaults are checked."""
    values = None
    for at, name, check, default in options:
        value = arguments[name]
        if value is not default:
            values = values or list(DEFAULTS)
            values[at] = check(value, name, compute)
    return Options._make(values) if values else DEFAULTS


def smoothing(value: Any) -> float:
    """Check label_smoothing."""
    return _fraction(value, "label_smoothing", None)


# --- other options --------------------------------------------------------------------------


class Clip(NamedTuple):
    """How probabilities are clipped: see `fastxent.formulas.clipped` and `costs`.

    `bounds` are (low, high, below, above) of p and of 1 - p, `most` is the largest -log p, `floor`
    the smallest divisor of a gradient.
    """

    bounds: tuple[float, float, float, float]
    most: float
    floor: float


# That of eps=None.
AS_PYTORCH = Clip((0.0, 1.0, math.nan, math.nan), 100.0, 1e-12)


def clip(value: Any, compute: DType) -> Clip:
    """Check eps: None clips as PyTorch's BCELoss, a number clips p and 1 - p to [eps, 1 - eps]."""
    if value is None:
        return AS_PYTORCH
    eps = real(value, "eps")
    if not 0.0 < eps < 0.5:
        raise errors.wrong_value("eps", "None or a number between 0 and 0.5", eps)
    eps = _normal(eps, "eps", compute)
    return Clip((eps, 1.0 - eps, eps, 1.0 - eps), math.inf, 0.0)


def reduction(value: Any) -> str:
    """Check the reduction."""
    if not isinstance(value, str) or value not in REDUCTIONS:
        raise errors.no_reduction(REDUCTIONS, value)
    return value


def flags(names: Iterable[str], arguments: dict[str, Any]) -> None:
    """Raise for a flag that is neither a bool nor an int."""
    for name in names:
        value = arguments[name]
        if value is True or value is False:
            continue
        if isinstance(value, np.timedelta64) or not isinstance(value, _FLAGS):
            raise errors.wrong_type(name, "True or False", value)


# --- names ----------------------------------------------------------------------------------


def names(value: Any, argument: str, single: tuple[type, ...] = (str,)) -> list[Any]:
    """Convert a name or an iterable of names to a list."""
    if isinstance(value, single):
        return [value]
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise errors.not_names(argument, value)
    return list(value)


def one_of(name: Any, argument: str, choices: Iterable[str]) -> str:
    """Check a name that must be one of the choices."""
    if not isinstance(name, str) or name not in choices:
        raise errors.not_among(name, argument, choices)
    return name


def checked_names(value: Any, argument: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    """Check a name or an iterable of names among the choices, at least one."""
    chosen = names(value, argument)
    if not chosen:
        raise errors.none_named(argument, choices)
    return tuple(one_of(name, argument, choices) for name in chosen)


# The types of logits that kernels are compiled for.
KERNEL_TYPES = ("float32", "float64", "float16", "bfloat16")


def kernel_type(name: Any) -> DType:
    """Convert a name to a type that kernels are compiled for."""
    if isinstance(name, str) and name == "bfloat16":
        with contextlib.suppress(ImportError):
            import ml_dtypes  # noqa: F401 - registers the name with NumPy
    try:
        dtype = None if name is None else np.dtype(name)
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in KERNEL_TYPES:
        raise errors.no_compute_type(name)
    return dtype


def callable_or_none(value: Any, argument: str) -> None:
    """Raise unless a value is callable or None."""
    if value is not None and not callable(value):
        raise errors.wrong_type(argument, "callable", value)
