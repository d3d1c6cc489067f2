"""The words of an error that is raised in more than one layer."""

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


def _at(place: tuple[Any, ...]) -> str:
    return ", ".join(map(str, place)) or "()"
