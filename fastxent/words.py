"""The words of an error that is raised in more than one layer."""

from collections.abc import Iterable
from typing import Any


def bad_label(
    place: tuple[Any, ...], label: Any, n_classes: int, ignore_index: int | None,
    name: str = "target",
) -> str:  # fmt: skip
    """What is wrong with the label at a place of the argument `name`: it is no class."""
    otherwise = "" if ignore_index is None else " or ignore_index"
    return f"{name}[{_at(place)}] must be a class in 0 .. {n_classes - 1}{otherwise}, got {label}"


def no_one_hot_row(
    place: tuple[Any, ...], value: Any, of: str, indices: tuple[int, ...] | None
) -> str:
    """What is wrong with an integer at a place of a target that has the shape of `of`.

    `indices` is the shape that class indices would have; None where there are none.
    """
    meant = "" if indices is None else f"class indices have shape {indices}; "
    return (
        f"target[{_at(place)}] must be 0 or 1, as integers of the shape of {of} are one-hot rows, "
        f"got {value}: {meant}for counts or soft labels give floats"
    )


def not_among(name: Any, argument: str, names: Iterable[str]) -> str:
    """What is wrong with a name that is none of those there are."""
    return f"{argument} must be among {', '.join(names)}, got {name!r}"


def none_named(argument: str, names: Iterable[str]) -> str:
    """What is wrong with no name at all."""
    return f"{argument} must name at least one of {', '.join(names)}"


def no_class_axis(name: str) -> str:
    """What is wrong with logits without dimensions."""
    return f"{name} must have a class axis, got an array without dimensions"


def bad_axis(axis: int, shape: tuple[int, ...], name: str) -> str:
    """What is wrong with an axis that logits of this shape do not have."""
    return (
        f"axis must be in -{len(shape)} .. {len(shape) - 1} for {name} of shape {shape}, got {axis}"
    )


def no_precision(name: str, dtype: Any) -> str:
    """What is wrong with the type of what is computed on."""
    return f"{name} must be float16, bfloat16, float32, float64, integer or bool, got {dtype}"


def _at(place: tuple[Any, ...]) -> str:
    return ", ".join(map(str, place)) or "()"
