"""What passes from the public functions to a backend beside the logits: records of arrays."""

import math
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Where work is done: a GPU's number, and the handle of a stream on it."""

    device: int
    stream: int


class Terms(NamedTuple):
    """Weights and options of the row loss, checked.

    class_weight (C,) and sample_weight (N,) are float64, or None if not given. ignore_index None
    ignores nothing. hess_factor multiplies the Hessian before it is rounded: a convention of
    gradient boosting, which the CPU alone knows.
    """

    class_weight: Any
    sample_weight: Any
    ignore_index: int | None
    label_smoothing: float
    z_loss: float
    logit_scale: float
    softcap: float | None
    hess_factor: float = 1.0


# Of labels that all count for the same.
NO_TERMS = Terms(None, None, None, 0.0, 0.0, 1.0, None)


class Target(NamedTuple):
    """Checked targets: labels (N,) int64 or probs shaped as the logits; the other is None."""

    labels: Any
    probs: Any


class LinearGrad(NamedTuple):
    """Gradients with respect to the three inputs of the linear map, each in its input's type.

    None for an input that there is not, and for one whose gradient was not asked for.
    """

    x: Any
    linear_weight: Any
    linear_bias: Any


class Outputs(NamedTuple):
    """Arrays to fill, None for what was not asked for: three of shape (N,), three shaped as x.

    Of a binary loss all are shaped as x.
    """

    loss: Any
    lse: Any = None
    argmax: Any = None
    grad: Any = None
    probs: Any = None
    hess: Any = None

    @classmethod
    def flat(cls, *per_row: Any) -> "Outputs":
        """The three of one number a row, seen as (N,)."""
        return cls(*(None if array is None else array.reshape(-1) for array in per_row))


class Clip(NamedTuple):
    """How probabilities are kept from log 0: see `fastxent.formulas.clipped` and `costs`.

    bounds (low, high, below, above) of p and of 1 - p; the most that -log p may be; the least that
    a gradient may be divided by.
    """

    bounds: tuple[float, float, float, float]
    most: float
    floor: float

    @classmethod
    def of(cls, eps: float | None) -> "Clip":
        """As PyTorch's BCELoss for None, p outside 0 .. 1 being nan; else both within eps."""
        if eps is None:
            return cls((0.0, 1.0, math.nan, math.nan), 100.0, 1e-12)
        return cls((eps, 1.0 - eps, eps, 1.0 - eps), math.inf, 0.0)
