"""What passes from the public functions to a backend beside the logits: records of arrays."""

from typing import Any, NamedTuple


class Terms(NamedTuple):
    """Weights and options of the row loss, checked.

    class_weight (C,) and sample_weight (N,) are float64, or None if not given. ignore_index None
    ignores nothing.
    """

    class_weight: Any
    sample_weight: Any
    ignore_index: int | None
    label_smoothing: float
    z_loss: float
    logit_scale: float
    softcap: float | None


class LinearGrad(NamedTuple):
    """Gradients with respect to the three inputs of the linear map, each in its input's type."""

    x: Any
    linear_weight: Any
    linear_bias: Any | None


class Outputs(NamedTuple):
    """Arrays to fill, None for what was not asked for: three of shape (N,), three shaped as x."""

    loss: Any
    lse: Any
    argmax: Any
    grad: Any = None
    probs: Any = None
    hess: Any = None

    @classmethod
    def flat(cls, *per_row: Any) -> "Outputs":
        """The three of one number a row, seen as (N,)."""
        return cls(*(None if array is None else array.reshape(-1) for array in per_row))
