"""The words of an error that is raised in more than one layer."""

from typing import Any


def bad_label(
    place: tuple[Any, ...], label: Any, n_classes: int, ignore_index: int | None,
    name: str = "target",
) -> str:  # fmt: skip
    """What is wrong with the label at a place of the argument `name`: it is no class."""
    where = ", ".join(map(str, place)) or "()"
    otherwise = "" if ignore_index is None else " or ignore_index"
    return f"{name}[{where}] must be a class in 0 .. {n_classes - 1}{otherwise}, got {label}"
