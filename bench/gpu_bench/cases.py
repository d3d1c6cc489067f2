"""Jobs, shapes and types of the GPU benchmark, and the bytes that each must move."""

from typing import NamedTuple

SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
# For `answers.error`: the error of a row relative to its values, each of which is rounded once.
TOLERANCE = {"float32": 2e-5, "bfloat16": 8e-3, "float16": 1e-3}
# How many arrays of the logits' size a job has to read or write. "cross_entropy" and those with
# its options are loss and gradient; "probs" returns the probabilities too.
ARRAYS = {
    "cross_entropy": 2, "loss": 1, "softmax": 2, "soft_targets": 3, "smoothing": 2, "probs": 3,
    "entropy": 2, "hvp": 3,
}  # fmt: skip
_WITHOUT_LABELS = ("softmax", "entropy", "soft_targets")
_SMALL_IMAGE = 16  # height and width where times mean nothing


class Shape(NamedTuple):
    """(N, C), or with an image's height and width (n, C, image, image) for N = n·image² rows."""

    rows: int
    classes: int
    image: int = 0

    @property
    def logits(self) -> tuple[int, ...]:
        """The shape of the logits."""
        if not self.image:
            return self.rows, self.classes
        return self.rows // self.image**2, self.classes, self.image, self.image

    @property
    def labels(self) -> tuple[int, ...]:
        """The shape of the labels."""
        return self.logits[:1] + self.logits[2:]

    @property
    def options(self) -> dict[str, int]:
        """Where the classes are, for fastxent."""
        return {"axis": 1} if self.image else {}

    @property
    def fields(self) -> dict[str, int]:
        """The fields of a row of results."""
        shape = {"rows": self.rows, "classes": self.classes}
        return shape | ({"image": self.image} if self.image else {})


SMOOTHING = 0.1  # of the job of that name
SMALL = Shape(32, 1000)  # for calls whose time is spent in Python


def parsed(text: str) -> Shape:
    """The shape that an option names: classes, rows and classes as 16x128256."""
    rows, _, classes = text.rpartition("x")
    return Shape(int(rows or 0), int(classes))


def filled(shape: Shape, dtype: str, size: int, small: bool, least: int = 1) -> Shape:
    """The shape with as many rows as fill `size` bytes where it names none; whole images.

    There are at least so many rows, with which the GPU is busy.
    """
    if shape.rows:
        return shape
    image = min(shape.image, _SMALL_IMAGE) if small else shape.image
    step = max(1, image**2)
    rows = size // SIZES[dtype] // shape.classes // step * step
    return Shape(max(step if image else least, rows), shape.classes, image)


def copied(job: str, length: int) -> int:
    """The length along the first axis with which a copy moves as many bytes as a job."""
    return max(1, length // 2) if ARRAYS[job] == 1 else length


def bytes_moved(job: str, peer: str, shape: Shape, dtype: str) -> int:
    """The least number of bytes that a job reads and writes."""
    if peer == "copy":
        length = shape.logits[0]
        return 2 * copied(job, length) * (shape.rows // length) * shape.classes * SIZES[dtype]
    labels = 0 if job in _WITHOUT_LABELS else 8
    results = 0 if job in ("softmax", "hvp") else 4
    arrays = ARRAYS[job] * shape.rows * shape.classes * SIZES[dtype]
    return arrays + shape.rows * (labels + results)
