"""The records that carry a call from the public function to a backend."""

from typing import Any, NamedTuple

from fastxent.functions import Function
from fastxent.options import NO_OPTIONS as NO_OPTIONS
from fastxent.options import Clip
from fastxent.options import Options as Options
from fastxent.results import Outputs as Outputs


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
    """A derivative with respect to the three inputs of the linear map, each in its input's type.

    None for an input that was not given, and for one whose part was not requested. As the `vector`
    of `linear_cross_entropy_hvp`, None stands for zeros.
    """

    x: Any
    linear_weight: Any
    linear_bias: Any


class Linear(NamedTuple):
    """The linear map of a call: its weights (C, K) and bias (C,), and the derivatives to fill."""

    weight: Any
    bias: Any
    grads: LinearGrad | None
    accumulate: bool


class Call(NamedTuple):
    """The checked arguments of one call; a field that its function has no use for is None.

    `x` is the input with the class axis last. `divisor` is what the losses and gradients are
    divided by: a float, or a number on the GPU. `outputs` are the arrays as a backend fills them,
    `results` the same arrays as they are returned. `compute` is the type of the arithmetic.
    """

    function: Function
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
    vector: Any = None  # what the second derivative is multiplied by, laid out as x
