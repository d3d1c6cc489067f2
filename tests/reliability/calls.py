"""Valid calls of every function, from which the invalid and the unusual ones are made."""

import array
import functools
import hashlib
import inspect

import numpy as np

import fastxent as fx
from fastxent import reference
from fastxent.functions import FUNCTIONS, Kind, Role

OF_PROBABILITIES = " of probabilities"
# Only logits, labels and a gradient, which has a fast path.
PLAIN, NOT_PLAIN = "cross_entropy without options", ("weight", "sample_weight", "probs_out")
NAMES = (
    "softmax", "log_softmax", "logsumexp", "entropy",
    "cross_entropy", PLAIN, "cross_entropy" + OF_PROBABILITIES,
    "categorical_cross_entropy", "categorical_cross_entropy" + OF_PROBABILITIES,
    "linear_cross_entropy", "linear_cross_entropy" + OF_PROBABILITIES,
    "binary_cross_entropy", "binary_cross_entropy_with_logits",
    "cross_entropy_hvp", "cross_entropy_hvp" + OF_PROBABILITIES,
    "linear_cross_entropy_hvp", "binary_cross_entropy_with_logits_hvp",
)  # fmt: skip


def of_kind(*kinds):
    """The names of the losses and maps of these kinds, from their descriptions."""
    return tuple(
        name for name, function in FUNCTIONS.items()
        if function.kind in kinds and name not in (*PRODUCTS, ENTROPY)
    )  # fmt: skip


def with_role(*roles):
    """The names of all parameters with these roles."""
    found = (name for function in FUNCTIONS.values() for name in function.with_role(*roles))
    return tuple(dict.fromkeys(found))


PRODUCTS = tuple(name for name, f in FUNCTIONS.items() if f.with_role(Role.VECTOR))
ENTROPY = "entropy"  # a map like the others, but of one class at least, and with a gradient
FLAT, BINARY, MAPS = map(of_kind, (Kind.ROWS, Kind.ELEMENTS, Kind.MAP))
ROWS = (*FLAT, *of_kind(Kind.LINEAR))
# Those whose gradient or result may lie exactly over the first argument.
WITH_BUFFER = tuple(
    name for name, function in FUNCTIONS.items()
    if function.buffers and function.kind is not Kind.LINEAR
)  # fmt: skip
FIRST = with_role(Role.INPUT)
MATRICES = tuple(dict.fromkeys(name for f in FUNCTIONS.values() for name in f.inputs))
WEIGHTS = tuple(
    name for name in with_role(Role.PER_CLASS, Role.PER_ROW, Role.BROADCAST)
    if name not in MATRICES
)  # fmt: skip
FLOATS = (np.float32, np.float64)
REQUIRED = tuple(dict.fromkeys(name for f in FUNCTIONS.values() for name in f.positional))
FLAGS = with_role(Role.FLAG, Role.REQUEST, Role.BUFFER_FLAG)
BUFFERS = with_role(Role.BUFFER)
POISON = 7


def function_of(name, module=fx):
    """The function of a call's name."""
    return getattr(module, name.partition(" ")[0])


@functools.cache
def takes(name):
    """The names of a call's arguments."""
    taken = inspect.signature(function_of(name)).parameters
    return [argument for argument in taken if name != PLAIN or argument not in NOT_PLAIN]


def poisoned(like):
    """A buffer for an array's gradient, filled with a value that is never computed."""
    return np.full_like(like, POISON)


@functools.cache
def _good(dtype):
    rng = np.random.default_rng(3)
    return {
        "logits": rng.standard_normal((4, 3)).astype(dtype),
        "probs": reference.softmax(rng.standard_normal((4, 3))).astype(dtype),
        "x": rng.standard_normal((4, 5)).astype(dtype),
        "linear_weight": rng.standard_normal((3, 5)).astype(dtype),
        "linear_bias": rng.standard_normal(3).astype(dtype),
        "vector": rng.standard_normal((4, 3)).astype(dtype),
        "weight": rng.uniform(0.5, 2, 3),
        "sample_weight": rng.uniform(0.5, 2, 4),
        "pos_weight": rng.uniform(0.5, 2, 3),
        "soft": rng.dirichlet(np.ones(3), 4).astype(dtype),
        "labels": np.array([0, 2, 1, -100]),
    }


def good(name, dtype):
    """All arrays that the function takes, buffers included; new ones for each call."""
    found = {argument: value.copy() for argument, value in _good(dtype).items()}
    soft = name.startswith("binary") or name.endswith(OF_PROBABILITIES)
    found["target"] = found["soft" if soft else "labels"]
    found |= {buffer: poisoned(found["logits"]) for buffer in BUFFERS}
    if name.startswith("linear"):
        inputs = [found[part] for part in fx.LinearGrad._fields]
        found["grad_out"], found["out"] = (fx.LinearGrad(*map(poisoned, inputs)) for _ in range(2))
        found["vector"] = fx.LinearGrad(*(part[::-1].copy() for part in inputs))
    return {argument: value for argument, value in found.items() if argument in takes(name)}


def fitting(a):
    """The arguments, the vector of a linear map without a part for a bias that is not there."""
    if isinstance(a.get("vector"), tuple) and "linear_bias" not in a:
        return a | {"vector": a["vector"]._replace(linear_bias=None)}
    return a


def first_of(a):
    """The name of the first argument."""
    return next(name for name in FIRST if name in a)


def out_of(a):
    """The name of the buffer over it."""
    return "out" if "out" in a else "grad_out"


def get(arguments, path):
    """An argument, or a part of one: "grad_out.x"."""
    name, _, part = path.partition(".")
    return getattr(arguments[name], part) if part else arguments.get(name)


def replaced(arguments, path, value):
    """The arguments with another one, or another part of one."""
    name, _, part = path.partition(".")
    return arguments | {name: arguments[name]._replace(**{part: value}) if part else value}


def arrays(value):
    """The NumPy arrays of an argument: itself, its parts, or those whose memory it shares."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, tuple):
        return [a for part in value for a in arrays(part)]
    if isinstance(value, (memoryview, bytearray, array.array)):
        return [np.asarray(value)]
    # Objects that make an array of themselves hold it under this name; a list may hold itself.
    inside = value if type(value) is list else [getattr(value, "found", None)]
    return [part for part in inside if isinstance(part, np.ndarray)]


def memory(array):
    """The array that owns an array's memory: views show only a part of it."""
    owner, base = array, array
    while base is not None:
        owner = base if isinstance(base, np.ndarray) else owner
        base = getattr(base, "base", None)
    return owner


def fingerprints(arguments):
    """A digest of each argument, with all memory that it is a view of."""
    return {name: _fingerprint(value) for name, value in arguments.items()}


def _fingerprint(value):
    plain = isinstance(value, (list, dict, set, str, int, float))
    found = [repr(value) if plain else id(value)]
    for part in arrays(value):
        bits = hashlib.sha256(np.ndarray.tobytes(memory(part))).digest()
        found.append((part.dtype, part.shape, part.strides, part.flags.writeable, bits))
    return found
