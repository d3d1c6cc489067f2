"""Descriptions of the public functions: parameters, roles of parameters, and results.

The signature defines names, types and defaults. This module adds what each parameter is (`Role`)
and what the function is computed over (`Kind`). Checks, allocation, Dask's chunks, PyTorch's
operators, GPU look-ups, warm-up and tests use the descriptions instead of function names.
"""

import enum
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from fastxent.options import entries
from fastxent.results import RULES, Extent, Outputs, Result, Type

Arguments = dict[str, Any]
Shape = tuple[int, ...]


class Kind(enum.Enum):
    """What a function is computed over."""

    MAP = "softmax, log_softmax, logsumexp and entropy: rows to rows or to numbers"
    ROWS = "a loss of rows of classes, or its Hessian-vector product"
    LINEAR = "the same for rows whose logits are a linear map of the input"
    ELEMENTS = "the same for elements of two classes, with one logit or probability each"


class Role(enum.Enum):
    """The meaning of a parameter."""

    INPUT = "the array that is computed on, (…, C); its type chooses the backend"
    MATRIX = "weights of a linear map, (C, K)"
    VECTOR = "the vector of a Hessian-vector product, shaped as the inputs"
    TARGET = "class indices (…), or class probabilities of the input's shape"
    PER_ROW = "one number for each row"
    PER_CLASS = "one number for each class, (C,)"
    BROADCAST = "an array or a number that broadcasts to the input"
    SCALAR = "a 0-d array, or a number"
    AXIS = "the class axis"
    OPTION = "a number or a name with a check"
    FLAG = "True or False"
    REQUEST = "a flag by which a result is requested"
    BUFFER = "memory for a result"
    BUFFER_FLAG = "a flag about buffers"


_ROLES = {
    "logits": Role.INPUT, "probs": Role.INPUT, "x": Role.INPUT,
    "linear_weight": Role.MATRIX, "linear_bias": Role.PER_CLASS, "vector": Role.VECTOR,
    "target": Role.TARGET, "weight": Role.PER_CLASS, "sample_weight": Role.PER_ROW,
    "pos_weight": Role.BROADCAST, "normalizer": Role.SCALAR, "axis": Role.AXIS,
    "keepdims": Role.FLAG, "check_target": Role.FLAG, "accumulate": Role.BUFFER_FLAG,
    "out": Role.BUFFER, "grad_out": Role.BUFFER, "probs_out": Role.BUFFER,
}  # fmt: skip
_OF_ELEMENTS = {"weight": Role.BROADCAST}
# The roles of arrays that are read, and those among them that accept a number.
ARRAYS = {
    Role.INPUT, Role.MATRIX, Role.TARGET, Role.VECTOR, Role.PER_ROW, Role.PER_CLASS, Role.BROADCAST,
    Role.SCALAR,
}  # fmt: skip
NUMBERS = {Role.PER_CLASS, Role.BROADCAST, Role.SCALAR}


class Slot(NamedTuple):
    """A result of a function: its index in `Outputs`, and the parameters that request it."""

    at: int
    name: str
    flag: str
    buffer: str
    per_class: bool
    type: Type


class Function:
    """The description of a public function, completed by `fastxent.dispatch.public`.

    `inputs` are the differentiable parameters. The first selects the backend; it holds
    probabilities if `of_probabilities`, else logits. `out` is the first result of a function that
    is not a loss: of a map, or of a Hessian-vector product.
    `parameters` are those of the signature and `roles` their meanings. `positional` are the
    parameters that may be passed by position, `arrays` the arrays that are read, `buffers` those
    that are written, `compound` the buffers and the vectors that may be tuples of arrays.
    `results` are the names of the results in order. All but the first have a flag `return_<name>`,
    and some a buffer `<name>_out`; the buffer of `out` is called `out`. `slots` has the same
    information for the code that reads every call, `buffer_slots` those with a buffer.
    """

    body: Callable[..., Any]  # takes NumPy arrays and views of GPU arrays
    public: Callable[..., Any]  # takes arrays of all families
    # From the arguments of the body and a factor: see `fastxent.calls.scaled_gradient`.
    scaled_gradient: Callable[[Arguments, float], Any]

    def __init__(
        self, name: str, kind: Kind, inputs: tuple[str, ...], *, out: Result | None = None,
        of_probabilities: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.kind, self.inputs, self.out = name, kind, inputs, out
        self.of_probabilities = of_probabilities
        self.first = inputs[0]

    def complete(self, body: Callable[..., Any], public: Callable[..., Any]) -> None:
        """Complete the description from the signature of `body`."""
        self.body, self.public = body, public
        roles = _ROLES | (_OF_ELEMENTS if self.kind is Kind.ELEMENTS else {})
        self.parameters = inspect.signature(body).parameters
        self.roles = {
            name: Role.REQUEST if name.startswith("return_") else roles.get(name, Role.OPTION)
            for name in self.parameters
        }
        self.positional = tuple(
            name for name, p in self.parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD
        )
        self.arrays = self.with_role(*ARRAYS)
        self.buffers = frozenset(self.with_role(Role.BUFFER))
        vectors = self.with_role(Role.VECTOR) if self.kind is Kind.LINEAR else ()
        self.compound = self.buffers.union(vectors)
        self.flags = self.with_role(Role.FLAG, Role.REQUEST, Role.BUFFER_FLAG)
        # The parameters that request further results or pass buffers.
        self.requests = frozenset(self.with_role(Role.REQUEST, Role.BUFFER, Role.BUFFER_FLAG))
        requested = (name for name in Outputs._fields if f"return_{name}" in self.parameters)
        self.results = ("out" if self.out else "loss", *requested)
        self.options = entries(self.defaults())
        self.slots = tuple(map(self._slot, self.results))
        self.buffer_slots = tuple(slot for slot in self.slots if slot.buffer in self.buffers)
        self.has_one_gradient = self.is_loss and len(self.inputs) == 1

    def _slot(self, name: str) -> Slot:
        rule, buffer = self.result(name), "out" if name == "out" else f"{name}_out"
        return Slot(
            Outputs._fields.index(name), name, f"return_{name}", buffer,
            rule.extent is Extent.PER_CLASS, rule.type,
        )  # fmt: skip

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the body."""
        return self.body(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<description of fastxent.{self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return by_name, (self.name,)

    def with_role(self, *roles: Role) -> tuple[str, ...]:
        """The names of the parameters with one of these roles."""
        return tuple(name for name, role in self.roles.items() if role in roles)

    def defaults(self) -> Arguments:
        """The defaults of the parameters that have one."""
        empty = inspect.Parameter.empty
        return {n: p.default for n, p in self.parameters.items() if p.default is not empty}

    @property
    def is_loss(self) -> bool:
        """Whether the function computes a loss."""
        return self.out is None

    @property
    def has_rows(self) -> bool:
        """Whether the input has a class axis, which results per row lack."""
        return self.kind is not Kind.ELEMENTS

    def result(self, name: str) -> Result:
        """The shape and type of a result."""
        return self.out if name == "out" and self.out else RULES[name]

    def is_requested(self, name: str, arguments: Arguments) -> bool:
        """Whether the arguments request a result, by its flag or by a buffer."""
        flag = bool(arguments.get(f"return_{name}"))
        return flag or arguments.get(f"{name}_out") is not None

    def rows(self, shape: Shape, axis: int) -> Shape:
        """The shape of results per row, for an input of this shape."""
        if not self.has_rows:
            return tuple(shape)
        axis %= len(shape)
        return (*shape[:axis], *shape[axis + 1 :])

    def shape(
        self, name: str, shape: Shape, axis: int, reduction: Any = "none", keepdims: Any = False
    ) -> Shape:
        """The shape of a result, for an input of this shape.

        For the gradient of a linear map see each input's shape.
        """
        extent = self.result(name).extent
        if extent is Extent.PER_CLASS:
            return tuple(shape)
        if extent is Extent.REDUCED and reduction != "none":
            return ()
        rows = self.rows(shape, axis)
        if not keepdims:
            return rows
        axis %= len(shape)
        return (*rows[:axis], 1, *rows[axis:])


SOFTMAX = Function("softmax", Kind.MAP, ("logits",), out=Result(Extent.PER_CLASS, Type.OWN))
LOG_SOFTMAX = Function("log_softmax", Kind.MAP, ("logits",), out=Result(Extent.PER_CLASS, Type.OWN))
LOGSUMEXP = Function("logsumexp", Kind.MAP, ("logits",), out=Result(Extent.PER_ROW, Type.OWN))
ENTROPY = Function("entropy", Kind.MAP, ("logits",), out=Result(Extent.PER_ROW, Type.LOSS))
CROSS_ENTROPY = Function("cross_entropy", Kind.ROWS, ("logits",))
CATEGORICAL = Function("categorical_cross_entropy", Kind.ROWS, ("probs",), of_probabilities=True)
LINEAR = Function("linear_cross_entropy", Kind.LINEAR, ("x", "linear_weight", "linear_bias"))
BINARY = Function("binary_cross_entropy", Kind.ELEMENTS, ("probs",), of_probabilities=True)
BINARY_WITH_LOGITS = Function("binary_cross_entropy_with_logits", Kind.ELEMENTS, ("logits",))

_PRODUCT = Result(Extent.PER_CLASS, Type.OWN, True)
CROSS_ENTROPY_HVP = Function("cross_entropy_hvp", Kind.ROWS, ("logits",), out=_PRODUCT)
LINEAR_HVP = Function("linear_cross_entropy_hvp", Kind.LINEAR, LINEAR.inputs, out=_PRODUCT)
BINARY_HVP = Function(
    "binary_cross_entropy_with_logits_hvp", Kind.ELEMENTS, ("logits",), out=_PRODUCT
)

FUNCTIONS: dict[str, Function] = {
    function.name: function
    for function in (
        SOFTMAX, LOG_SOFTMAX, LOGSUMEXP, ENTROPY, CROSS_ENTROPY, LINEAR, CATEGORICAL, BINARY,
        BINARY_WITH_LOGITS, CROSS_ENTROPY_HVP, LINEAR_HVP, BINARY_HVP,
    )
}  # fmt: skip


def by_name(name: str) -> Function:
    """The description of the function of this name; pickles of descriptions call this."""
    return FUNCTIONS[name]
