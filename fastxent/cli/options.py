"""What options of several commands share: two of them, and types with words for a wrong value."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path


def add_output(parser: argparse.ArgumentParser, *, progress: bool = True) -> None:
    """The options that say what is printed."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout, and nothing else"
    )
    if progress:
        parser.add_argument("--quiet", action="store_true", help="no progress on the terminal")


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """A finite number above 0; argparse makes its message of the ValueError and the name."""

    def convert(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    convert.__name__ = f"positive {kind.__name__}"
    return convert


def new_file(text: str) -> Path:
    """A file to be written in the end: where it cannot be, that is said in the beginning."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder")
    return path
