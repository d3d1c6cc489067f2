"""What a backend offers: the functions of one call, by the names of the public functions.

Each takes the record of a call, fills `call.outputs`, and returns Σ of the losses / divisor, which
means nothing where the losses themselves were requested. `fastxent.cpu.backend` and
`fastxent.cuda.backend` are modules with these functions.
"""

from typing import Any, Protocol

from fastxent.options import Clip
from fastxent.records import Call, Options, Weights


class Backend(Protocol):
    """What both backends offer."""

    def softmax(self, call: Call) -> None:
        """Fill `out` with softmax over the last axis."""

    def log_softmax(self, call: Call) -> None:
        """Fill `out` with log-softmax over the last axis."""

    def logsumexp(self, call: Call) -> None:
        """Fill `out`, (N,), with logsumexp over the last axis."""

    def entropy(self, call: Call) -> None:
        """Fill `out`, (N,), with the entropy of softmax over the last axis, and its `grad`."""

    def cross_entropy(self, call: Call) -> Any:
        """Losses of rows of logits."""

    def categorical_cross_entropy(self, call: Call) -> Any:
        """Losses of rows of probabilities."""

    def linear_cross_entropy(self, call: Call) -> Any:
        """Losses of the rows of a linear map."""

    def binary_cross_entropy(self, call: Call) -> Any:
        """Losses of probabilities, element by element."""

    def binary_cross_entropy_with_logits(self, call: Call) -> Any:
        """Losses of logits, element by element."""

    def cross_entropy_hvp(self, call: Call) -> None:
        """Fill `out` with the second derivative of losses of rows of logits, times `vector`."""

    def linear_cross_entropy_hvp(self, call: Call) -> None:
        """Fill the parts of `linear` with the same for the rows of a linear map."""

    def binary_cross_entropy_with_logits_hvp(self, call: Call) -> None:
        """Fill `out` with the same for losses of logits, element by element."""

    def scan_labels(
        self, labels: Any, n_classes: int, weights: Weights, options: Options, compute: Any,
        check: bool,
    ) -> tuple[Any, int, int]:  # fmt: skip
        """Σ counted·u·w_y, the divisor of the mean; the first row with a bad label or -1; that."""

    def first_beyond_one(self, integers: Any) -> tuple[int, int]:
        """The place in C order of the first that is neither 0 nor 1, or -1, and the integer."""

    def total(self, weights: Any, compute: Any) -> Any:
        """Σ of weights, as a divisor."""


class HostBackend(Backend, Protocol):
    """What the CPU alone offers."""

    def plain_cross_entropy(
        self, x: Any, labels: Any, ignore_index: int, mean: bool, grad: Any, clip: Clip | None
    ) -> float | None:
        """The loss of contiguous rows without options; None where a label is bad or none counts.

        Of logits or, with `clip`, of probabilities.
        """

    def prepare(self, call: Call, is_mean: bool, check: bool) -> Any:
        """What runs small losses like this one at once; None if there is no such way.

        Whether the loss is a mean and labels are checked a call does not say.
        """


class DeviceBackend(Backend, Protocol):
    """What a GPU alone offers: numbers that stay there."""

    def normalizer(self, value: Any, compute: Any) -> Any:
        """A number on the GPU as a divisor."""

    def scale(self, values: Any, factor: Any, out: Any) -> None:
        """Out = values·factor, a number on the GPU; what is 0 stays 0."""
