"""The steps of a run, the most important first, because a run may have only minutes.

First come checks of the answers, then the figures of docs/gpu.md, then those on which changes
depend. A step that several lines contain is run once.
"""

from typing import NamedTuple

from gpu_bench.cases import Shape


class Line(NamedTuple):
    """A kind of step for each of these shapes and jobs (names in `cases.ARRAYS`)."""

    group: str
    shapes: tuple[Shape, ...] = ()
    jobs: tuple[str, ...] = ()


def lengths(*classes: int) -> tuple[Shape, ...]:
    """Rows of these lengths, as many as fill a gigabyte."""
    return tuple(Shape(0, c) for c in classes)


PLAIN = ("cross_entropy", "softmax")
OTHER = ("hvp", "entropy", "soft_targets", "smoothing", "probs")

MAIN = lengths(32768, 128256, 4096, 1024)
LONG = lengths(32768, 128256, 262144)
ALL = lengths(256, 1024, 4096, 8192, 16384, 32768, 65536, 128256, 262144)
FEW_ROWS = (Shape(16, 128256), Shape(256, 4096), Shape(1, 128256), Shape(16, 32768))
# Segmentation, and classification of few pixels.
IMAGES = (Shape(0, 21, 256), Shape(0, 150, 128), Shape(0, 1000, 32))

TABLE = (
    Line("check", lengths(21, 256) + MAIN, PLAIN),  # in two types, a dozen
    Line("race", MAIN, PLAIN),
    Line("ceiling"),
    Line("launch"),
    Line("plans", MAIN, ("cross_entropy",)),
    Line("check", LONG, OTHER),
    Line("check", lengths(65536, 262144), ("softmax",)),
    Line("race", lengths(65536, 262144), ("softmax",)),
    Line("race", LONG, OTHER),
    Line("check", IMAGES, PLAIN),
    Line("race", IMAGES, PLAIN),
    Line("check", FEW_ROWS, PLAIN),
    Line("race", FEW_ROWS, PLAIN),
    Line("check", ALL, (*PLAIN, "loss")),
    Line("race", ALL, (*PLAIN, "loss")),
    Line("plans", ALL + FEW_ROWS, ("cross_entropy",)),
    Line("host", ALL),
)
