"""Results of the functions: their shapes and types, and the record that holds them.

A result is a field of `Outputs`, whose annotation is its shape and type. To add one, add a field.
"""

import enum
from typing import Annotated, Any, NamedTuple


class Extent(enum.Enum):
    """The shape of a result."""

    REDUCED = "0-d; with reduction='none' as PER_ROW"
    PER_ROW = "the input's shape without the class axis; for an elementwise loss, the input's shape"
    PER_CLASS = "the input's shape"


class Type(enum.IntEnum):
    """The type of a result, by its index in `fastxent.checks.Precision`."""

    LOSS = 0  # the type of the computation: float32 for half precision
    OWN = 1  # the input's type; float64 for integers
    INDEX = 2  # int64


class Result(NamedTuple):
    """The shape and type of one result, and whether it is a derivative of the reduced loss.

    Derivatives are divided as the loss is; the mean of no rows has zero derivative. `scans_rows`
    marks a result per row that takes work for each class, as all results per class do.
    """

    extent: Extent
    type: Type
    is_derivative: bool = False
    scans_rows: bool = False

    @property
    def costs_per_class(self) -> bool:
        """Whether it takes work for each class of a row."""
        return self.scans_rows or self.extent is Extent.PER_CLASS


class Outputs(NamedTuple):
    """Arrays to fill, in the order in which a call returns them; None if not requested.

    A field is a result of every function that has a parameter `return_<field>`; its annotation is
    the shape and type. A backend gets results per row as (N,), results per class with the class
    axis last. `out` is the first result of a function that is not a loss.
    """

    out: Annotated[Any, None] = None
    loss: Annotated[Any, Result(Extent.REDUCED, Type.LOSS)] = None
    grad: Annotated[Any, Result(Extent.PER_CLASS, Type.OWN, True)] = None
    probs: Annotated[Any, Result(Extent.PER_CLASS, Type.OWN)] = None
    lse: Annotated[Any, Result(Extent.PER_ROW, Type.LOSS)] = None
    hess: Annotated[Any, Result(Extent.PER_CLASS, Type.OWN, True)] = None
    argmax: Annotated[Any, Result(Extent.PER_ROW, Type.INDEX)] = None
    entropy: Annotated[Any, Result(Extent.PER_ROW, Type.LOSS, scans_rows=True)] = None


RULES: dict[str, Any] = {
    name: annotation.__metadata__[0] for name, annotation in Outputs.__annotations__.items()
}
