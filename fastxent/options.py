"""The options of a call: the check of each, and the records that hold them.

Numbers and names alone; arrays are checked in `checks.py`. An option of the row losses is a field
of `Options`, whose annotation names its check: to add one, add a field.
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
# Python's abstract numbers count bools and times among them.
NOT_NUMBERS = (bool, np.bool_, np.timedelta64)
_FLAGS = (int, np.bool_, np.integer)

DType = Any  # np.dtype, or the stand-in for bfloat16 on a GPU


# --- numbers --------------------------------------------------------------------------------


def integer(value: Any, name: str) -> int:
    """An int, or an object that stands for one (`__index__`); not a bool."""
    if isinstance(value, (bool, np.bool_)):
        raise errors.wrong_type(name, "an int", value)
    try:
        return operator.index(value)
    except TypeError:
        raise errors.wrong_type(name, "an int", value) from None


def count_or_none(value: Any, name: str) -> int | None:
    """None, or an int of at least 1."""
    if value is None:
        return None
    number = integer(value, name)
    if number < 1:
        raise errors.wrong_value(name, "at least 1", value)
    return number


def real(value: Any, name: str) -> float:
    """A finite number as a float."""
    if type(value) is not float:
        if isinstance(value, NOT_NUMBERS) or not isinstance(value, numbers.Real):
            raise errors.wrong_type(name, "a real number", value)
        value = to_float(value, name)
    if not math.isfinite(value):
        raise errors.wrong_value(name, "finite", value)
    return float(value)


def to_float(value: Any, name: str) -> float:
    """A real number as a float, if float64 has room for it."""
    try:
        return float(value)
    except OverflowError:
        raise errors.wrong_value(name, "a number that float64 holds", value) from None


def _normal(value: float, name: str, dtype: DType) -> float:
    """A number that is 0 or within the normal range of the type it will be multiplied in."""
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
    """Options of the row losses, checked: their names are those of the public parameters.

    `ignore_index` None ignores nothing. `hess_factor` is no parameter: it multiplies the Hessian
    before that is rounded, a convention of gradient boosting that the CPU alone knows.
    """

    ignore_index: Annotated[int | None, _index_or_none] = -100
    label_smoothing: Annotated[float, _fraction] = 0.0
    z_loss: Annotated[float, _finite] = 0.0
    logit_scale: Annotated[float, _factor] = 1.0
    softcap: Annotated[float | None, _positive_or_none] = None
    hess_factor: float = 1.0


NO_OPTIONS = Options(ignore_index=None)
DEFAULTS = Options()


class Entry(NamedTuple):
    """An option of a function: its place in `Options`, its check and the function's default."""

    at: int
    name: str
    check: Callable[[Any, str, DType], Any]
    default: Any


def entries(defaults: dict[str, Any]) -> tuple[Entry, ...]:
    """The options among the parameters with these defaults."""
    return tuple(
        Entry(at, name, annotation.__metadata__[0], defaults[name])
        for at, (name, annotation) in enumerate(Options.__annotations__.items())
        if name in defaults
    )


def read(options: tuple[Entry, ...], arguments: dict[str, Any], compute: DType) -> Options:
    """The options of a function among its arguments, checked unless they are the defaults."""
    values = None
    for at, name, check, default in options:
        value = arguments[name]
        if value is not default:
            values = values or list(DEFAULTS)
            values[at] = check(value, name, compute)
    return Options._make(values) if values else DEFAULTS


def smoothing(value: Any) -> float:
    """label_smoothing."""
    return _fraction(value, "label_smoothing", None)


# --- other options --------------------------------------------------------------------------


class Clip(NamedTuple):
    """How probabilities are kept from log 0: see `fastxent.formulas.clipped` and `costs`.

    bounds (low, high, below, above) of p and of 1 - p; the largest -log p; the smallest number that
    a gradient is divided by.
    """

    bounds: tuple[float, float, float, float]
    most: float
    floor: float


# That of eps=None.
AS_PYTORCH = Clip((0.0, 1.0, math.nan, math.nan), 100.0, 1e-12)


def clip(value: Any, compute: DType) -> Clip:
    """eps: as PyTorch's BCELoss for None, p outside 0 .. 1 being nan; else a bound of p, 1 - p."""
    if value is None:
        return AS_PYTORCH
    eps = real(value, "eps")
    if not 0.0 < eps < 0.5:
        raise errors.wrong_value("eps", "None or a number between 0 and 0.5", eps)
    eps = _normal(eps, "eps", compute)
    return Clip((eps, 1.0 - eps, eps, 1.0 - eps), math.inf, 0.0)


def reduction(value: Any) -> str:
    """One of the three reductions."""
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
    """One name, or several, as a list."""
    if isinstance(value, single):
        return [value]
    if isinstance(value, bytes) or not isinstance(value, Iterable):
        raise errors.no_name(argument, value)
    return list(value)


def one_of(name: Any, argument: str, choices: Iterable[str]) -> str:
    """A name that is among the choices."""
    if not isinstance(name, str) or name not in choices:
        raise errors.not_among(name, argument, choices)
    return name


def some_of(value: Any, argument: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    """One or several of the choices, at least one."""
    chosen = names(value, argument)
    if not chosen:
        raise errors.none_named(argument, choices)
    return tuple(one_of(name, argument, choices) for name in chosen)


# The types of logits that have kernels of their own.
KERNEL_TYPES = ("float32", "float64", "float16", "bfloat16")


def kernel_type(name: Any) -> DType:
    """A type that has kernels of its own."""
    if isinstance(name, str) and name == "bfloat16":
        with contextlib.suppress(ImportError):
            import ml_dtypes  # noqa: F401 - NumPy knows the name then
    try:
        found = None if name is None else np.dtype(name)
    except TypeError:
        found = None
    if found is None or found.name not in KERNEL_TYPES:
        raise errors.no_compute_type(name)
    return found


def callable_or_none(value: Any, argument: str) -> None:
    """Raise for what cannot be called."""
    if value is not None and not callable(value):
        raise errors.wrong_type(argument, "callable", value)
