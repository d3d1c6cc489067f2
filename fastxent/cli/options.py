"""Types of options; argparse turns their ValueError and their name into a message."""

import math
from collections.abc import Callable


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """A finite number above 0."""

    def convert(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    convert.__name__ = f"positive {kind.__name__}"
    return convert
