"""Interface of the backends: a function for each public function, called with a checked `Call`.

Each fills `call.outputs` and returns Σ losses / divisor, which is unused if the losses are returned
unreduced. `fastxent.cpu.backend` and `fastxent.cuda.backend` are modules with these functions.
"""

from typing import Any, Protocol

from fastxent.options import Clip
from fastxent.records import Call, Options, Weights


class Backend(Protocol):
    """The interface that both backends implement."""

    def softmax(self, call: Call) -> None:
        """Fill `out` with softmax over the last axis."""

    def log_softmax(self, call: Call) -> None:
        """Fill `out` with log-softmax over the last axis."""

    def logsumexp(self, call: Call) -> None:
        """Fill `out`, (N,), with logsumexp over the last axis."""

    def entropy(self, call: Call) -> None:
        """Fill `out`, (N,), with the entropy of softmax over the last axis, and `grad`."""

    def cross_entropy(self, call: Call) -> Any:
        """Compute losses of rows of logits."""

    def categorical_cross_entropy(self, call: Call) -> Any:
        """Compute losses of rows of probabilities."""

    def linear_cross_entropy(self, call: Call) -> Any:
        """Compute losses of rows whose logits are a linear map of the input."""

    def binary_cross_entropy(self, call: Call) -> Any:
        """Compute elementwise losses of probabilities."""

    def binary_cross_entropy_with_logits(self, call: Call) -> Any:
        """Compute elementwise losses of logits."""

    def cross_entropy_hvp(self, call: Call) -> None:
        """Fill `out` with the Hessian-vector products of losses of rows of logits."""

    def linear_cross_entropy_hvp(self, call: Call) -> None:
        """Fill `call.linear.grads` with the Hessian-vector product for a linear map."""

    def binary_cross_entropy_with_logits_hvp(self, call: Call) -> None:
        """Fill `out` with the Hessian-vector product of elementwise losses of logits."""

    def scan_labels(
        self, labels: Any, n_classes: int, weights: Weights, options: Options, compute: Any,
        check: bool,
    ) -> tuple[Any, int, int]:  # fmt: skip
        """Return Σ active·u·w_y (the divisor of the mean), the first bad row or -1, its label."""

    def first_beyond_one(self, integers: Any) -> tuple[int, int]:
        """Return the flat index of the first integer other than 0 and 1, or -1, and its value."""

    def total(self, weights: Any, compute: Any) -> Any:
        """Return the sum of weights, as a divisor."""


class HostBackend(Backend, Protocol):
    """Functions of the CPU backend only."""

    def plain_cross_entropy(
        self, x: Any, labels: Any, ignore_index: int, mean: bool, grad: Any, clip: Clip | None
    ) -> float | None:
        """Return the loss of contiguous rows without options; None if a general call is needed.

        `x` holds logits or, with `clip`, probabilities. A general call is needed if a label is out
        of range or all rows are ignored.
        """

    def prepare(self, call: Call, is_mean: bool, check: bool) -> Any:
        """Return a function that runs small losses like this one; None if there is none.

        `is_mean` and `check` are not fields of a `Call`.
        """


class DeviceBackend(Backend, Protocol):
    """Functions of the CUDA backend only, for scalars in GPU memory."""

    def normalizer(self, value: Any, compute: Any) -> Any:
        """Return a scalar in GPU memory as a divisor."""

    def scale(self, values: Any, factor: Any, out: Any) -> None:
        """Set out = values·factor, with the factor in GPU memory; zeros stay 0."""
