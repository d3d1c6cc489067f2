"""Options and argument types of several commands."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path


def add_output(parser: argparse.ArgumentParser, *, progress: bool = True) -> None:
    """Add --json and, with `progress`, --quiet."""
    parser.add_argument("--json", action="store_true", help="print only one JSON object on stdout")
    if progress:
        parser.add_argument("--quiet", action="store_true", help="show no progress")


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """Argument type of finite numbers above 0; argparse prints its name in messages."""

    def convert(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    convert.__name__ = f"positive {kind.__name__}"
    return convert


def new_file(text: str) -> Path:
    """Argument type of a file to be written, checked before the command starts."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder")
    return path
