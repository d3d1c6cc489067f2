"""Records that pass a call from the public function to a backend."""

from typing import Any, NamedTuple

from fastxent.functions import Function
from fastxent.options import NO_OPTIONS as NO_OPTIONS
from fastxent.options import Clip
from fastxent.options import Options as Options
from fastxent.results import Outputs as Outputs


class Place(NamedTuple):
    """A GPU's number and the handle of a stream on it."""

    device: int
    stream: int


class Target(NamedTuple):
    """A checked target: labels (N,), or probs of the input's shape; the other is None.

    Labels have one of the integer types that kernels read. A binary loss has probs.
    """

    labels: Any
    probs: Any


class Weights(NamedTuple):
    """Weights of a loss, None if not passed.

    `class_weight` (C,) and `sample_weight` (N,) of the row losses are float64 on the CPU, and have
    their own types on a GPU. `weight` and `pos_weight` of the binary losses broadcast to the input.
    """

    class_weight: Any = None
    sample_weight: Any = None
    weight: Any = None
    pos_weight: Any = None


NO_WEIGHTS = Weights()


class LinearGrad(NamedTuple):
    """Derivatives with respect to the inputs of `linear_cross_entropy`, in the inputs' types.

    None for a missing input and for an input that is not in `wrt`. In the `vector` of
    `linear_cross_entropy_hvp`, None stands for zeros.
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
    """The checked arguments of one call; fields that the function does not use are None.

    `x` is the input with the class axis last. `divisor` divides the losses and gradients: a float,
    or a scalar in GPU memory. `outputs` are the arrays as a backend fills them, `results` the same
    arrays as they are returned. `compute` is the type of the computation.
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
    vector: Any = None  # of a Hessian-vector product, with the class axis last as in x
