"""The records that carry a call from the public function to a backend, and its results back."""

import enum
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from fastxent.options import NO_OPTIONS, Clip, Options

if TYPE_CHECKING:
    from fastxent.functions import Function

__all__ = [
    "NO_OPTIONS", "NO_WEIGHTS", "Call", "Clip", "Extent", "Linear", "LinearGrad", "Options",
    "Outputs", "Place", "Result", "Target", "Type", "Weights",
]  # fmt: skip


class Place(NamedTuple):
    """Where work is done: a GPU's number, and the handle of a stream on it."""

    device: int
    stream: int


class Target(NamedTuple):
    """A checked target: labels (N,), or probs of the input's shape; the other is None.

    Labels are int64 on the CPU, and as they come on a GPU. Of a binary loss, probs.
    """

    labels: Any
    probs: Any


class Weights(NamedTuple):
    """Weights of a loss, None if not given.

    `class_weight` (C,) and `sample_weight` (N,) of the row losses are float64 on the CPU, and as
    they come on a GPU; `weight` and `pos_weight` of the binary losses broadcast to the input.
    """

    class_weight: Any = None
    sample_weight: Any = None
    weight: Any = None
    pos_weight: Any = None


NO_WEIGHTS = Weights()


class LinearGrad(NamedTuple):
    """Gradients with respect to the three inputs of the linear map, each in its input's type.

    None for an input that was not given, and for one whose gradient was not requested.
    """

    x: Any
    linear_weight: Any
    linear_bias: Any


class Linear(NamedTuple):
    """The linear map of a call: its weights (C, K) and bias (C,), and the gradients to fill."""

    weight: Any
    bias: Any
    grads: LinearGrad | None
    accumulate: bool


# --- results --------------------------------------------------------------------------------


class Extent(enum.Enum):
    """The shape of a result."""

    REDUCED = "a number; with reduction='none' as PER_ROW"
    PER_ROW = "the input's shape without the class axis; of a loss of elements, the input's"
    PER_CLASS = "the input's shape"


class Type(enum.Enum):
    """The type of a result."""

    OWN = "the input's type; float64 for integers"
    LOSS = "the type of the arithmetic: float32 for half precision"
    INDEX = "int64"


class Result(NamedTuple):
    """The shape and type of one result."""

    extent: Extent
    type: Type


class Outputs(NamedTuple):
    """Arrays to fill, None for what was not requested; in the order in which a call returns them.

    A field is a result of every function that has a parameter `return_<field>`; its annotation says
    the shape and type. A backend sees those per row as (N,), those per class with the class axis
    last. `out` is the only result of softmax and its logarithms.
    """

    out: Annotated[Any, None] = None
    loss: Annotated[Any, Result(Extent.REDUCED, Type.LOSS)] = None
    grad: Annotated[Any, Result(Extent.PER_CLASS, Type.OWN)] = None
    probs: Annotated[Any, Result(Extent.PER_CLASS, Type.OWN)] = None
    lse: Annotated[Any, Result(Extent.PER_ROW, Type.LOSS)] = None
    hess: Annotated[Any, Result(Extent.PER_CLASS, Type.OWN)] = None
    argmax: Annotated[Any, Result(Extent.PER_ROW, Type.INDEX)] = None


class Call(NamedTuple):
    """The checked arguments of one call; a field that its function has no use for is None.

    `x` is the input with the class axis last. `divisor` is what the losses and gradients are
    divided by: a float, or a number on the GPU. `outputs` are the arrays as a backend fills them,
    `results` the same arrays as they are returned. `compute` is the type of the arithmetic.
    """

    function: "Function"
    x: Any
    compute: Any
    outputs: Outputs
    results: Outputs
    target: Target | None = None
    weights: Weights = NO_WEIGHTS
    options: Options = NO_OPTIONS
    clip: Clip | None = None
    divisor: Any = 1.0
    linear: Linear | None = None
    buffers: tuple[str, ...] = ()  # the results that are the caller's arrays
