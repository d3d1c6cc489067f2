"""Invalid calls: the argument to replace, its replacement, and the expected error.

A row of a table is one fault, whatever the number of functions, arguments and types it is tried
with. `instead` makes the replacement from the valid value.
"""

import datetime
import io
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import calls
import numpy as np
import scipy.sparse
from calls import (
    BINARY,
    FIRST,
    FLAGS,
    FLAT,
    MAPS,
    MATRICES,
    PRODUCTS,
    ROWS,
    WEIGHTS,
    WITH_BUFFER,
    first_of,
    out_of,
)
from numpy.lib.stride_tricks import as_strided
from odd_values import (
    Arrayed,
    Described,
    Exported,
    Floating,
    HalfExported,
    Index,
    Kind,
    Mine,
    OnGpu,
    Unclear,
    always,
    every_other,
    label,
    on_disk,
    part,
    read_only,
    read_only_view,
    released,
    structured,
    swapped,
    to,
    unaligned,
)

import fastxent as fx
from fastxent.functions import LINEAR as LINEAR_MAP

REALS = ("label_smoothing", "z_loss", "logit_scale", "softcap", "eps")
PARTS = tuple(f"{of}.{name}" for of in ("grad_out", "out") for name in LINEAR_MAP.inputs)
VECTORS = ("vector", *(f"vector.{name}" for name in LINEAR_MAP.inputs))
BUFFERS = (*calls.BUFFERS, *PARTS)
MATRICES_OUT = tuple(name for name in BUFFERS if not name.endswith("bias"))


class Bad(NamedTuple):
    """A replacement of one argument, the error, and its message after the argument's name.

    `where` are the arguments that it replaces, one at a time; `of` the functions (by default all
    that take it), `given` further arguments, `on` the types of the logits.
    """

    name: str
    where: tuple[str, ...]
    instead: Callable[[Any], Any]
    error: type[Exception]
    says: str
    of: tuple[str, ...] | None = None
    given: dict[str, Any] = {}
    on: tuple[type, ...] = (np.float16, np.float32, np.float64)


class Clash(NamedTuple):
    """Arguments that do not match: `instead` makes new ones from all; the rest as in `Bad`."""

    name: str
    of: tuple[str, ...]
    instead: Callable[[dict[str, Any]], dict[str, Any]]
    argument: str
    error: type[Exception]
    says: str


# --- the first argument, and other factors --------------------------------------------------------

_NO_LOGITS = "must be float16, bfloat16, float32, float64, integer or bool, got "
_NO_ARRAY = "must be an array or a nested sequence, got "
_SPARSE = r"must be a dense array, got the sparse {}: call toarray\(\)"
_NO_EXPORT = "must be an array that NumPy can import by DLPack, got Exported: "

LOGITS = [
    *(Bad(f"logits of {kind}", MATRICES, to(kind), TypeError, _NO_LOGITS + says) for kind, says in {
        "c8": "complex64", "c16": "complex128", "G": "complex256", "g": "float128",
        "O": "object", "U": "<U", "S": r"\|S", "T": "StringDType", "M8[s]": "datetime64",
        "m8[s]": "timedelta64", "V8": r"\|V8", ">c8": ">c8",
    }.items()),
    *(Bad(f"logits of {kind}", MATRICES, to(kind), TypeError, _NO_LOGITS + kind) for kind in (
        "float8_e5m2", "float8_e4m3fn", "float8_e8m0fnu", "float6_e2m3fn", "float4_e2m1fn",
        "int4", "uint2")),
    Bad("logits of records", MATRICES, structured, TypeError, _NO_LOGITS + r"\[\('a'"),
    Bad("masked logits", MATRICES, np.ma.masked_array, TypeError, "must not be a masked array"),
    Bad("the masked constant as logits", MATRICES, always(np.ma.masked), TypeError,
        "must not be a masked array"),
    Bad("a record array as logits", MATRICES, lambda a: structured(a).view(np.recarray),
        TypeError, _NO_LOGITS),
    Bad("no logits", ("logits", "probs", "x", "linear_weight"), always(None), TypeError,
        _NO_ARRAY + "None"),
    Bad("a dict as logits", MATRICES, always({"a": 1.0}), TypeError, _NO_ARRAY + "dict"),
    Bad("a set as logits", MATRICES, always({1.0}), TypeError, _NO_ARRAY + "set"),
    Bad("a generator as logits", MATRICES, lambda a: (row for row in a), TypeError,
        _NO_ARRAY + "generator"),
    Bad("an iterator as logits", MATRICES, iter, TypeError, _NO_ARRAY + "iterator"),
    Bad("a file as logits", MATRICES, always(io.BytesIO(b"1")), TypeError, _NO_ARRAY + "BytesIO"),
    Bad("a class as logits", MATRICES, always(np.ndarray), TypeError, _NO_ARRAY + "type"),
    Bad("a function as logits", MATRICES, always(len), TypeError, _NO_ARRAY + "builtin_function"),
    Bad("a string as logits", MATRICES, always("1, 2"), TypeError, _NO_ARRAY + "str"),
    Bad("bytes as logits", MATRICES, always(b"1"), TypeError, _NO_ARRAY + "bytes"),
    Bad("a complex number as logits", MATRICES, always(1j), TypeError, _NO_LOGITS + "complex128"),
    Bad("strings in a list", MATRICES, lambda a: [["1"]], TypeError, _NO_LOGITS + "<U1"),
    Bad("None in a list", MATRICES, always([[1.0, None]]), TypeError, _NO_LOGITS + "object"),
    Bad("decimals in a list", MATRICES, always([Decimal(1)]), TypeError, _NO_LOGITS + "object"),
    Bad("fractions in a list", MATRICES, always([Fraction(1, 2)]), TypeError,
        _NO_LOGITS + "object"),
    Bad("dates in a list", MATRICES, always([datetime.date(2020, 2, 2)]), TypeError,
        _NO_LOGITS + "object"),
    Bad("an int beyond 64 bits in a list", MATRICES, always([1, 2**70]), TypeError,
        _NO_LOGITS + "object"),
    Bad("a ragged list", MATRICES, always([[1.0, 2.0], [1.0]]), TypeError, _NO_ARRAY + "list"),
    Bad("a list of unlike arrays", MATRICES, lambda a: [np.ones(2), np.ones((2, 2))], TypeError,
        _NO_ARRAY + "list"),
    Bad("a number beside a row", MATRICES, always([1.0, [1.0, 2.0]]), TypeError,
        _NO_ARRAY + "list"),
    Bad("a list that holds itself", MATRICES, lambda a: (lambda it: it.append(it) or it)([1.0]),
        TypeError, _NO_ARRAY + "list"),
    Bad("a sparse matrix", MATRICES, lambda a: scipy.sparse.csr_matrix(np.eye(3)), TypeError,
        _SPARSE.format("csr_matrix")),
    Bad("a sparse array", MATRICES, lambda a: scipy.sparse.coo_array(np.eye(3)), TypeError,
        _SPARSE.format("coo_array")),
    Bad("characters in a memoryview", MATRICES, lambda a: memoryview(b"abc").cast("c"), TypeError,
        _NO_LOGITS + r"\|S1"),
    Bad("a released memoryview", MATRICES, released, TypeError, _NO_ARRAY + "memoryview"),
    *(Bad(f"__array__ raises {type(error).__name__}", MATRICES, always(Arrayed(error)), TypeError,
          _NO_ARRAY + "Arrayed: .*broken")
      for error in (TypeError("broken"), KeyError("broken"), OSError("broken"),
                    AttributeError("broken"), ZeroDivisionError("broken"))),
    Bad("__array__ makes a list", MATRICES, always(Arrayed([1.0])), TypeError,
        _NO_ARRAY + "Arrayed: .*not producing an array"),
    Bad("__array__ makes complex numbers", MATRICES, lambda a: Arrayed(np.ones(3) * 1j), TypeError,
        _NO_LOGITS + "complex128"),
    Bad("an array interface that is no dict", MATRICES, lambda a: Described(3), TypeError,
        _NO_ARRAY + "Described: Invalid"),
    Bad("an empty array interface", MATRICES, lambda a: Described({}), TypeError,
        _NO_ARRAY + "Described: Missing"),
    Bad("an array interface of no type", MATRICES,
        lambda a: Described(a.__array_interface__ | {"typestr": "<q9"}, a), TypeError,
        _NO_ARRAY + "Described: "),
    Bad("an array interface of no shape", MATRICES,
        lambda a: Described(a.__array_interface__ | {"shape": "ab"}, a), TypeError,
        _NO_ARRAY + "Described: "),
    Bad("DLPack without a device", MATRICES, lambda a: HalfExported(), TypeError,
        _NO_ARRAY + "HalfExported"),
    Bad("DLPack that refuses", FIRST, lambda a: Exported(BufferError("no")), TypeError,
        _NO_EXPORT + "no"),
    Bad("DLPack without a capsule", FIRST, lambda a: Exported(5), TypeError, _NO_EXPORT),
    Bad("DLPack nowhere", FIRST, lambda a: Exported(a, None), TypeError, _NO_EXPORT),
    Bad("DLPack on another device", FIRST, lambda a: Exported(a, (8, 1)), TypeError,
        "is on DLPack's device 8:1, expected an array in host memory"),
    Bad("DLPack of swapped bytes", FIRST, lambda a: Exported(swapped(a)), TypeError,
        _NO_EXPORT + ".*native byte order"),
    Bad("DLPack of complex numbers", FIRST, lambda a: Exported(a.astype("c16")), TypeError,
        _NO_LOGITS + "complex128"),
    Bad("a number as logits", ("logits", "probs"), always(1.0), ValueError,
        "must have a class axis, got an array without dimensions", (*MAPS, *ROWS)),
    Bad("an array without dimensions", ("logits", "probs"), lambda a: a[0, 0, ...], ValueError,
        "must have a class axis, got an array without dimensions", (*MAPS, *ROWS)),
    Bad("no classes", ("logits", "probs"), lambda a: a[:, :0], ValueError,
        r"must have at least one class, got shape \(4, 0\) with axis=1", FLAT),
    Bad("no classes and no rows", ("logits", "probs"), lambda a: a[:0, :0], ValueError,
        r"must have at least one class, got shape \(0, 0\)", FLAT),
    Bad("an empty list as logits", ("logits", "probs"), always([]), ValueError,
        r"must have at least one class, got shape \(0,\) with axis=0", FLAT),
    Bad("no classes along another axis", ("logits", "probs"), lambda a: a[:0], ValueError,
        r"must have at least one class, got shape \(0, 3\) with axis=0", FLAT, {"axis": 0}),
]  # fmt: skip

LINEAR = [
    Bad("features that do not fit", ("x",), lambda a: a[:, :2], ValueError,
        r"must have shape \(\.\.\., 5\) for linear_weight of shape \(3, 5\), got \(4, 2\)"),
    Bad("a number as features", ("x",), always(1.0), ValueError, r"must have shape .*got \(\)"),
    Bad("transposed features", ("x",), lambda a: a.T, ValueError, r"must have shape .*got \(5, 4"),
    Bad("a vector as the map", ("linear_weight",), lambda a: a[0], ValueError,
        r"must have shape \(C, K\) with at least one class, got \(5,\)"),
    Bad("a map of rank 3", ("linear_weight",), lambda a: a[None], ValueError,
        r"must have shape \(C, K\).*got \(1, 3, 5\)"),
    Bad("a number as the map", ("linear_weight",), always(2.0), ValueError,
        r"must have shape \(C, K\).*got \(\)"),
    Bad("a map to no class", ("linear_weight",), lambda a: a[:0], ValueError,
        r"must have shape \(C, K\) with at least one class, got \(0, 5\)"),
    Bad("a bias too short", ("linear_bias",), lambda a: a[:2], ValueError,
        r"must have shape \(3,\) for linear_weight of shape \(3, 5\), got \(2,\)"),
    Bad("a bias in a row", ("linear_bias",), lambda a: a[None], ValueError, r"got \(1, 3\)"),
    Bad("a bias in a column", ("linear_bias",), lambda a: a[:, None], ValueError, r"got \(3, 1\)"),
    Bad("a number as bias", ("linear_bias",), always(0.0), ValueError, r"got \(\)"),
    Bad("a GPU's map", ("linear_weight", "linear_bias"), always(OnGpu()), TypeError,
        "is on a GPU"),
    Clash("a transposed map", ("linear_cross_entropy",),
          lambda a: {"linear_weight": a["linear_weight"].T}, "x", ValueError,
          r"must have shape \(\.\.\., 3\) for linear_weight of shape \(5, 3\), got \(4, 5\)"),
]  # fmt: skip

# --- targets --------------------------------------------------------------------------------------

_NO_INDEX = "must hold integer class indices, got "
_NO_NUMBER = "must hold real numbers, got "
_SHAPE = r"must have shape \(4,\) \(class indices\) or \(4, 3\) \(class probabilities\) .*got "
_TARGET = ("target",)


def labels_of(name, instead, says):
    return Bad(name, _TARGET, instead, TypeError, _NO_INDEX + says + ": cast to int, or pass", ROWS)


def out_of_range(name, position, value, kind="i8", given=None):
    return Bad(
        f"{name} as a label", _TARGET, label(position, value, kind), IndexError,
        rf"\[{position % 4}\] must be a class in 0 .. 2.*, got {value}$", ROWS, given or {},
    )  # fmt: skip


TARGETS = [
    *(Bad(name, _TARGET, instead, ValueError, _SHAPE + says, ROWS) for name, instead, says in (
        ("labels for fewer rows", lambda y: label(0, 0)(y)[:3], r"\(3,\)"),
        ("labels for more rows", lambda y: np.zeros(5, int), r"\(5,\)"),
        ("no labels", lambda y: np.zeros(0, int), r"\(0,\)"),
        ("an empty list as labels", always([]), r"\(0,\)"),
        ("labels in a column", lambda y: np.zeros((4, 1), int), r"\(4, 1\)"),
        ("labels in a row", lambda y: np.zeros((1, 4), int), r"\(1, 4\)"),
        ("one label for all", always(1), r"\(\)"),
                ("transposed probabilities", lambda y: np.ones((3, 4)), r"\(3, 4\)"),
        ("probabilities of a class too many", lambda y: np.ones((4, 4)), r"\(4, 4\)"),
        ("probabilities of fewer rows", lambda y: np.ones((3, 3)), r"\(3, 3\)"),
        ("one row of probabilities", lambda y: np.ones((1, 3)), r"\(1, 3\)"),
        ("probabilities in one line", lambda y: np.ones(12), r"\(12,\)"),
        ("probabilities of another rank", lambda y: np.ones((4, 3, 1)), r"\(4, 3, 1\)"),
        ("labels of the class axis", lambda y: np.zeros(3, int), r"\(3,\)"),
    )),
    *(Bad(f"{name} as target", _TARGET, instead, TypeError, _NO_ARRAY + says)
      for name, instead, says in (
        ("no labels, None,", always(None), "None$"),
        ("a generator", lambda y: (0 for _ in range(4)), "generator$"),
        ("a set", always({0, 1}), "set$"), ("a dict", always({0: 1}), "dict$"),
        ("a released memoryview", lambda y: released(np.zeros(4, int)), "memoryview$"),
        ("a string", always("0121"), "str$"), ("bytes", always(b"0121"), "bytes$"),
        ("a range's iterator", lambda y: iter(range(4)), "range_iterator$"),
    )),
    *(Bad(f"a sparse {kind.__name__} as target", _TARGET,
          lambda y, kind=kind: kind(np.eye(4, 3)), TypeError, _SPARSE.format(kind.__name__))
      for kind in (scipy.sparse.csr_matrix, scipy.sparse.csc_array, scipy.sparse.dia_array)),
    *(labels_of(f"labels of {kind}", lambda _, kind=kind: np.array([0, 2, 1, 2]).astype(kind), says)
      for kind, says in {
        "f8": "float64", "f4": "float32", "f2": "float16", ">f8": ">f8", "g": "float128",
        "?": "bool", "O": "object", "U": r"<U\d+", "S": r"\|S\d+", "c16": "complex128",
        "M8[s]": r"datetime64\[s\]", "m8[s]": r"timedelta64\[s\]", "V8": r"\|V8",
        "bfloat16": "bfloat16", "int4": "int4", "float8_e5m2": "float8_e5m2",
    }.items()),
    labels_of("labels of records", lambda y: structured(np.zeros(4)), ".*"),
    labels_of("floats in a list of labels", always([0, 1.0, 2, 1]), "float64"),
    labels_of("a nan among labels", always([0, math.nan, 2, 1]), "float64"),
    labels_of("bools in a list of labels", always([True, False, True, False]), "bool"),
    labels_of("None in a list of labels", always([0, None, 2, 1]), "object"),
    labels_of("strings in a list of labels", always(["0", "1", "2", "1"]), "<U1"),
    labels_of("a label beyond 64 bits", always([0, 2**64, 2, 1]), "object"),
    labels_of("labels that no integer type holds", always([0, -1, 2**63, 1]), "float64"),
    labels_of("2**63 among small labels", always([0, 2**63, 2, 1]), "float64"),
    labels_of("an object with float labels", lambda y: Arrayed(np.zeros(4)), "float64"),
    Bad("masked labels", _TARGET, lambda y: np.ma.masked_array([0, 1, 2, 1]), TypeError,
        "must not be a masked array; ignore rows by ignore_index", ROWS),
    *(Bad(f"probabilities of {kind}", _TARGET, lambda _, kind=kind: np.ones((4, 3)).astype(kind),
          TypeError, _NO_NUMBER + says)
      for kind, says in {
        "c8": "complex64", "G": "complex256", "O": "object", "U": "<U", "S": r"\|S",
        "T": "StringDType", "M8[s]": "datetime64", "m8[s]": "timedelta64", "V8": r"\|V8",
        "float8_e4m3fn": "float8_e4m3fn", "float4_e2m1fn": "float4_e2m1fn", "int4": "int4",
    }.items()),
    Bad("probabilities of records", _TARGET, lambda y: structured(np.ones((4, 3))), TypeError,
        _NO_NUMBER),
    Bad("masked probabilities", _TARGET, lambda y: np.ma.masked_array(np.ones((4, 3))), TypeError,
        "must not be a masked array"),
    Bad("ragged targets", _TARGET, always([[1], [1, 2], [1], [1]]), TypeError, _NO_ARRAY + "list"),
    Bad("a GPU's target", _TARGET, always(OnGpu()), TypeError,
        r"is on a GPU \(OnGpu\), expected an array in host memory"),
    Bad("targets whose __array__ raises", _TARGET, always(Arrayed(LookupError("broken"))),
        TypeError, _NO_ARRAY + "Arrayed: broken"),
    *(out_of_range(name, *rest) for name, *rest in (
        ("C in the first row", 0, 3), ("C in the last row", -1, 3), ("-1 in the first row", 0, -1),
        ("-1 in the last row", -1, -1), ("beside ignore_index, above,", 1, -99),
        ("beside ignore_index, below,", 1, -101), ("2**31", 2, 2**31), ("2**32", 2, 2**32),
        ("2**32 + 1, a class if it is cut,", 2, 2**32 + 1),
        ("int8's least", 0, -128, "i1"), ("int8's largest", -1, 127, "i1"),
        ("uint8's largest", 0, 255, "u1"), ("int16's least", -1, -(2**15), "i2"),
        ("uint16's largest", 0, 2**16 - 1, "u2"), ("int32's least", 0, -(2**31), "i4"),
        ("int32's largest", -1, 2**31 - 1, "i4"), ("uint32's largest", 0, 2**32 - 1, "u4"),
        ("int64's least", -1, -(2**63)), ("int64's least but one", 0, 1 - 2**63),
        ("int64's largest", 0, 2**63 - 1), ("uint64's largest", 2, 2**64 - 1, "u8"),
        ("2**63 in uint64", 0, 2**63, "u8"), ("2**64 + ignore_index", -1, 2**64 - 100, "u8"),
        ("2**64 + ignore_index in swapped bytes", 1, 2**64 - 100, ">u8"),
        ("2**32 + ignore_index", 1, 2**32 - 100, "u4"),
        ("2**16 + ignore_index", 1, 2**16 - 100, "u2"),
        ("2**8 + ignore_index", 1, 2**8 - 100, "u1"), ("C in swapped bytes", 3, 3, ">i4"),
        ("-100 where nothing is ignored", 2, -100, "i8", {"ignore_index": None}),
        ("-1 for an ignored 255", 2, -1, "i1", {"ignore_index": 255}),
        ("-1 for an ignored 2**64 - 1", 2, -1, "i8", {"ignore_index": 2**64 - 1}),
        ("0 + 2**8 for an ignored 0", 2, 2**8, "i2", {"ignore_index": 0}),
        ("int64's least for an ignored 2**70", 2, -(2**63), "i8", {"ignore_index": 2**70}),
    )),
    *(Bad(name, _TARGET, instead, IndexError, says, ROWS) for name, instead, says in (
        ("two bad labels", always([0, 7, 1, 5]), r"\[1\] must .*got 7$"),
        ("a bad label in a strided array", lambda y: every_other(np.array([0, 1, 9, 0])),
         r"\[2\] must .*got 9$"),
        ("a bad label in a reversed array", lambda y: np.array([0, 1, 1, 9])[::-1],
         r"\[0\] must .*got 9$"),
        ("a bad label for every row", lambda y: np.broadcast_to(np.int8(-3), 4),
         r"\[0\] must .*got -3$"),
        ("a bad label in an unaligned array", lambda y: unaligned(np.array([0, 1, 1, 9])),
         r"\[3\] must .*got 9$"),
    )),
]  # fmt: skip


def no_one_hot(name, value, position, kind="i8", of=ROWS):
    """Ones and zeros but for one integer."""

    def instead(y):
        rows = np.eye(4, 3).astype(kind)
        rows[position] = value
        return rows

    at = r", ".join(str(n % size) for n, size in zip(position, (4, 3), strict=True))
    meant = r": class indices have shape \(4,\); for counts" if of is ROWS else ": for counts"
    return Bad(f"{name} among integers of 0 and 1", _TARGET, instead, ValueError,
               rf"\[{at}\] must be 0 or 1, .*, got {value}{meant}", of)  # fmt: skip


INTEGERS = [
    no_one_hot("2", 2, (0, 0)), no_one_hot("2 in the last place,", 2, (-1, -1)),
    no_one_hot("-1", -1, (1, 2)), no_one_hot("int64's least", -(2**63), (2, 0)),
    no_one_hot("uint8's largest", 255, (0, 1), "u1"), no_one_hot("int8's -1", -1, (3, 0), "i1"),
    no_one_hot("uint64's largest", 2**64 - 1, (3, 1), "u8"),
    no_one_hot("3 in swapped bytes", 3, (2, 2), ">i4"),
    no_one_hot("2 to the 8th", 256, (2, 1), ">u2"),
    no_one_hot("-1 as the other label", -1, (1, 1), of=BINARY),
    no_one_hot("2 as a binary label", 2, (0, 2), "u1", of=BINARY),
    Bad("class numbers in a list of the logits' shape", _TARGET, always([[0, 1, 2]] * 4),
        ValueError, r"\[0, 2\] must be 0 or 1, .*got 2: class indices have shape \(4,\)", ROWS),
    Bad("counts", _TARGET, lambda y: np.full((4, 3), 7)[::-1], ValueError,
        r"\[0, 0\] must be 0 or 1, .*got 7: .*floats", (*ROWS, *BINARY)),
    Clash("one sample's label for each class", ("cross_entropy",),
          lambda a: {"logits": np.ones(3), "target": [0, 1, 2], "sample_weight": None,
                     "grad_out": None, "probs_out": None},
          "target", ValueError, r"\[2\] must be 0 or 1, .*got 2: class indices have shape \(\)"),
]  # fmt: skip

_BINARY_SHAPE = r"must have shape \(4, 3\) \(that of (probs|logits)\), got "

BINARY_TARGETS = [
    Bad(f"{name} as a binary target", _TARGET, instead, ValueError, _BINARY_SHAPE + says, BINARY)
    for name, instead, says in (
        ("fewer rows", lambda y: y[:3], r"\(3, 3\)"),
        ("one row", lambda y: y[0], r"\(3,\)"),
        ("one column", lambda y: y[:, :1], r"\(4, 1\)"),
        ("one number", always(1), r"\(\)"),
        ("the transposed", lambda y: y.T, r"\(3, 4\)"),
        ("one axis more", lambda y: y[None], r"\(1, 4, 3\)"),
        ("labels", lambda y: np.zeros(4, int), r"\(4,\)"),
        ("an empty list", always([]), r"\(0,\)"),
    )
]  # fmt: skip

# --- weights --------------------------------------------------------------------------------------


def shaped(name, where, shape, expected, of):
    return Bad(
        f"{name} of shape {shape}", where, lambda _: np.ones(shape), ValueError,
        f"{expected}, got \\({', '.join(map(str, shape))},?\\)$", of,
    )  # fmt: skip


_EACH_CLASS = r"must have shape \(3,\) \(one for each class\)"
_EACH_ROW = r"must have shape \(4,\) \(one for each row\)"
_SPREAD = r"must broadcast to shape \(4, 3\)"

WEIGHT = [
    *(Bad(f"weights of {kind}", WEIGHTS, to(kind), TypeError, _NO_NUMBER + says)
      for kind, says in {
        "c16": "complex128", "O": "object", "U": "<U", "S": r"\|S", "M8[s]": "datetime64",
        "m8[s]": "timedelta64", "V8": r"\|V8", "int4": "int4", "float8_e4m3fn": "float8_e4m3fn",
    }.items()),
    Bad("weights of records", WEIGHTS, structured, TypeError, _NO_NUMBER),
    Bad("masked weights", WEIGHTS, np.ma.masked_array, TypeError, "must not be a masked array"),
    Bad("ragged weights", WEIGHTS, always([[1.0], [1.0, 2.0]]), TypeError, _NO_ARRAY + "list"),
    Bad("strings as weights", WEIGHTS, always(["1"] * 3), TypeError, _NO_NUMBER + "<U1"),
    Bad("an imaginary number as weight", WEIGHTS, always(1j), TypeError, _NO_NUMBER + "complex"),
    Bad("a dict as weights", WEIGHTS, always({0: 1.0}), TypeError, _NO_ARRAY + "dict"),
    Bad("a generator as weights", WEIGHTS, lambda w: (v for v in w), TypeError,
        _NO_ARRAY + "generator"),
    Bad("a sparse vector as weights", WEIGHTS, lambda w: scipy.sparse.eye(1, 3), TypeError,
        _SPARSE.format("dia_matrix")),
    Bad("weights whose __array__ raises", WEIGHTS, always(Arrayed(IndexError("broken"))),
        TypeError, _NO_ARRAY + "Arrayed: broken"),
    Bad("a GPU's weights", WEIGHTS, always(OnGpu()), TypeError, "is on a GPU"),
    *(shaped("class weights", ("weight",), shape, _EACH_CLASS, ROWS)
      for shape in [(), (2,), (4,), (0,), (1,), (1, 3), (3, 1), (4, 3)]),
    *(shaped("rows' weights", ("sample_weight",), shape, _EACH_ROW, ROWS)
      for shape in [(), (3,), (5,), (0,), (1,), (4, 1), (1, 4), (4, 3)]),
    *(shaped("binary weights", ("weight", "pos_weight"), shape, _SPREAD, BINARY)
      for shape in [(2,), (4,), (0,), (3, 4), (1, 4, 3), (2, 4, 3), (8, 3), (1,) * 64]),
]  # fmt: skip

# --- options --------------------------------------------------------------------------------------

_NO_REAL = "must be a real number, got "
_NO_INT = "must be an int, got "
_NO_FLAG = "must be True or False, got "
_COUNTED = ("axis", "ignore_index", "n")

OPTIONS = [
    *(Bad(f"{name} as a number", REALS, always(value), TypeError, _NO_REAL + type(value).__name__)
      for name, value in {
        "a string": "0.1", "bytes": b"0.1", "True": True, "numpy.True_": np.True_,
        "an imaginary number": 0.1j, "a complex number without imaginary part": 0.1 + 0j,
        "a complex64": np.complex64(0.1), "a list": [0.1], "a tuple": (0.1,), "a dict": {},
        "an array without dimensions": np.array(0.1), "an array of one": np.array([0.1]),
        "an array of three": np.full(3, 0.1), "a Decimal": Decimal("0.1"),
        "something with __float__": Floating(), "a type": float, "a timedelta": np.timedelta64(1),
        "the masked constant": np.ma.masked,
    }.items()),
    Bad("None as a number", REALS[:3], always(None), TypeError, _NO_REAL + "NoneType"),
    *(Bad(f"{name} as a number", REALS, always(value), ValueError, "must be finite, got " + says)
      for name, value, says in (
        ("nan", math.nan, "nan"), ("inf", math.inf, "inf"), ("-inf", -math.inf, "-inf"),
        ("float32's nan", np.float32("nan"), "nan"),
        ("more than float64 holds in longdouble", np.longdouble("1e4000"), "inf"))),
    Bad("an int beyond float64", (*REALS, "normalizer"), always(10**400), ValueError,
        "must be a number that float64 holds, got 1000"),
    Bad("a fraction beyond float64", (*REALS, "normalizer"), always(Fraction(-(10**400), 3)),
        ValueError, "must be a number that float64 holds, got -1000"),
    *(Bad(f"smoothing of {value!r}", ("label_smoothing",), always(value), ValueError,
          r"must be in 0 .. 1, got ") for value in (
        1.1, 2, -1, -0.1, math.nextafter(1.0, 2), -5e-324, np.nextafter(np.float32(1), 2))),
    *(Bad(f"softcap of {value!r}", ("softcap",), always(value), ValueError,
          "must be greater than 0, got ") for value in (0, -0.0, -1.0, -5e-324)),
    *(Bad(f"eps of {value!r}", ("eps",), always(value), ValueError,
          "must be None or a number between 0 and 0.5, got ")
      for value in (0.0, 0.5, 1, -0.1, -1e-300, math.nextafter(0.5, 1))),
    *(Bad(f"{value!r}, that no type holds,", ("softcap", "eps", "logit_scale"), always(value),
          ValueError, r"must be a number that float\d\d holds, got ")
      for value in (5e-324, math.nextafter(2.0**-1022, 0))),
    Bad("what float32 cannot hold", ("softcap", "eps", "logit_scale"), always(1e-39), ValueError,
        "must be a number that float32 holds, got 1e-39", on=(np.float16, np.float32)),
    Bad("what is infinite in float32", ("softcap", "logit_scale"), always(1e39), ValueError,
        r"must be a number that float32 holds, got 1e\+39", on=(np.float16, np.float32)),
    Bad("a scale that is 0 in float32", ("logit_scale",), always(-1e-50), ValueError,
        "must be a number that float32 holds, got -1e-50", on=(np.float32,)),
    *(Bad(f"{name} as an int", _COUNTED, always(value), TypeError, _NO_INT + type(value).__name__)
      for name, value in {
        "1.5": 1.5, "1.0": 1.0, "numpy's 1.0": np.float64(1), "nan": math.nan, "a string": "1",
        "bytes": b"1", "an imaginary number": 1j, "a tuple": (0, 1), "a list": [1],
        "an array of one": np.array([1]), "an array of 1.0": np.array(1.0),
        "an array of True": np.array(True), "a Decimal": Decimal(1), "a Fraction": Fraction(1),
        "an index that is a float": Index(1.0), "a dict": {}, "a slice": slice(1),
        "an ellipsis": ..., "a type": int, "a date": np.datetime64(1, "s"),
    }.items()),
    Bad("True as an int", _COUNTED, always(True), TypeError, _NO_INT + "bool"),
    Bad("numpy.True_ as an int", _COUNTED, always(np.True_), TypeError, _NO_INT + "bool"),
    Bad("None as an int", ("axis", "n"), always(None), TypeError, _NO_INT + "NoneType"),
    *(Bad(f"axis={value!r}", ("axis",), always(value), ValueError,
          rf"must be in -2 .. 1 for (logits|probs) of shape \(4, 3\), got {int(value)}$")
      for value in (2, -3, 2**70, -(2**70), np.int8(127), np.uint64(2**64 - 1))),
    *(Bad(f"n={value!r}", ("n",), always(value), ValueError, rf"must be at least 1, got {value}$")
      for value in (0, -1, -(2**70), np.int8(-128))),
    *(Bad(f"reduction={value!r}", ("reduction",), always(value), ValueError,
          r"must be one of \('none', 'mean', 'sum'\), got ")
      for value in ("average", "MEAN", "Sum", " mean", "", "batchmean", "mean,sum", "m\u0435an",
                    b"mean", None, 0, True, math.nan, ["mean"], ("mean",), {"mean"}, Kind.MEAN,
                    len, np.array("mean"), np.array(["mean", "sum"]), np.ones(2))),
    *(Bad(f"{name} as normalizer", ("normalizer",), always(value), TypeError, says)
      for name, value, says in (
        ("a string", "2", _NO_REAL + "<U1"), ("bytes", b"2", _NO_REAL + r"\|S1"),
        ("True", True, _NO_REAL + "bool"), ("numpy.True_", np.True_, _NO_REAL + "bool"),
        ("an array of True", np.array(True), _NO_REAL + "bool"),
        ("an imaginary number", 1j, _NO_REAL + "complex128"),
        ("an imaginary array", np.array(1j), _NO_REAL + "complex128"),
        ("a Decimal", Decimal(2), _NO_REAL + "object"), ("a dict", {}, _NO_REAL + "object"),
        ("something with __float__", Floating(), _NO_REAL + "object"),
        ("a date", np.datetime64(1, "s"), _NO_REAL + "datetime64"),
        ("a timedelta", np.timedelta64(2), _NO_REAL + "timedelta64"),
        ("a ragged list", [[1.0], [1.0, 2.0]], _NO_ARRAY + "list"),
        ("the masked constant", np.ma.masked, "must not be a masked array"),
        ("a record", np.zeros((), [("a", float)]), _NO_REAL),
        ("a GPU's number", OnGpu(), "is on a GPU"))),
    *(Bad(f"a normalizer of shape {np.shape(value)}", ("normalizer",), always(value), ValueError,
          rf"must be a scalar or 0-d array, got shape \({len(value)}")
      for value in ([2.0], np.ones(4), [], np.ones((1, 1)))),
    *(Bad(f"a normalizer with reduction={how!r}", ("normalizer",), always(2.0), ValueError,
          f"is only allowed with reduction='mean', got reduction='{how}'", given={"reduction": how})
      for how in ("sum", "none")),
    *(Bad(f"{name} as a flag", FLAGS, always(value), TypeError, _NO_FLAG + type(value).__name__)
      for name, value in {
        "a buffer": np.ones((4, 3)), "an array of True": np.array(True), "'yes'": "yes",
        "'False'": "False", "an empty string": "", "None": None, "1.0": 1.0, "nan": math.nan,
        "0j": 0j, "an empty list": [], "what is neither": Unclear(),
        "a timedelta": np.timedelta64(1),
    }.items()),
    *(Bad(f"ignore_index={value!r} with probabilities", ("ignore_index",), always(value),
          ValueError, f"must be left at -100 with class probabilities as target .*, got {value}$",
          of=tuple(f"{name} of probabilities" for name in ROWS))
      for value in (0, -1, None, 255, 2**70)),
    *(Bad(f"wrt={value!r}", ("wrt",), always(value), ValueError,
          "must (be one of x, linear_weight, linear_bias, got|name at least one of x, linear_w)")
      for value in ("y", "", (), [], ("x", "weight"), "x,linear_weight", ("x", None))),
    *(Bad(f"wrt={value!r}", ("wrt",), always(value), TypeError,
          f"must be a name or an iterable of names, got {type(value).__name__}")
      for value in (None, 3, True, b"x")),
    *(Clash(f"a buffer for {name}, which is not in wrt", ("linear_cross_entropy",),
            lambda a, name=name: {"wrt": tuple({"x", "linear_weight", "linear_bias"} - {name})},
            f"grad_out.{name}", ValueError, f" must be None without {name} in wrt, got ndarray")
      for name in ("x", "linear_weight", "linear_bias")),
    Clash("adding to no buffers", ("linear_cross_entropy",),
          lambda a: {"accumulate": True, "grad_out": None}, "accumulate", ValueError,
          "=True needs buffers in grad_out to add to, got None"),
]  # fmt: skip

# --- errors of Python itself ----------------------------------------------------------------------

SIGNATURES = [
    Clash("an unknown option", (*MAPS, *ROWS, *BINARY), lambda a: {"temperature": 2.0}, "",
          TypeError, "unexpected keyword argument 'temperature'"),
    Clash("a misspelt option", ROWS, lambda a: {"ignore_idx": 0}, "", TypeError,
          "unexpected keyword argument 'ignore_idx'"),
    Clash("an option of PyTorch's", (*ROWS, *BINARY), lambda a: {"size_average": True}, "",
          TypeError, "unexpected keyword argument 'size_average'"),
    Clash("another function's softcap", ("categorical_cross_entropy", *MAPS, *BINARY),
          lambda a: {"softcap": 1.0}, "", TypeError, "unexpected keyword argument 'softcap'"),
    Clash("another function's eps", ("cross_entropy", "linear_cross_entropy", *MAPS),
          lambda a: {"eps": 0.1}, "", TypeError, "unexpected keyword argument 'eps'"),
    Clash("another function's axis", ("linear_cross_entropy", *BINARY), lambda a: {"axis": 0}, "",
          TypeError, "unexpected keyword argument 'axis'"),
    Clash("another function's buffer", (*ROWS, *BINARY), lambda a: {"out": np.ones(3)}, "",
          TypeError, "unexpected keyword argument 'out'"),
    Clash("a target for none", MAPS, lambda a: {"target": np.zeros(4, int)}, "", TypeError,
          "unexpected keyword argument 'target'"),
]  # fmt: skip

# Positional arguments of the logits, and what Python says.
POSITIONAL = {
    "nothing": (fx.cross_entropy, lambda x: (), {}, "missing .*'logits'"),
    "no target": (fx.cross_entropy, lambda x: (x,), {}, "missing .*'target'"),
    "no map": (fx.linear_cross_entropy, lambda x: (x,), {}, "missing .*'linear_weight'"),
    "an option by position": (fx.cross_entropy, lambda x: (x, x, 1), {}, "takes 2 positional arg"),
    "an axis by position": (fx.softmax, lambda x: (x, 1), {}, "takes 1 positional argument but 2"),
    "logits twice": (fx.cross_entropy, lambda x: (x, x), {"logits": 1}, "multiple .*'logits'"),
    "a target twice": (fx.cross_entropy, lambda x: (x, x), {"target": 1}, "multiple .*'target'"),
}

_NO_TYPE = "dtypes must hold 'float32', 'float64', 'float16' or 'bfloat16' .*, got "
_NO_FUNCTION = "functions must be one of softmax, .* got "

WARMUP = {
    "complex numbers": ({"dtypes": "complex64"}, ValueError, _NO_TYPE + "'complex64'"),
    "integers": ({"dtypes": [np.int64]}, ValueError, _NO_TYPE),
    "no type's name": ({"dtypes": ["single precision"]}, ValueError, _NO_TYPE),
    "an array among types": ({"dtypes": [np.ones(2)]}, ValueError, _NO_TYPE),
    "a number of types": ({"dtypes": 32}, TypeError, "dtypes must be a name or .*got int"),
    "no types": ({"dtypes": None}, TypeError, "dtypes must be a name or .*got NoneType"),
    "a type in bytes": ({"dtypes": b"f4"}, TypeError, "dtypes must be a name or .*got byt"),
    "no such function": ({"functions": "argmax"}, ValueError, _NO_FUNCTION + "'argmax'"),
    "a function's empty name": ({"functions": ""}, ValueError, _NO_FUNCTION + "''"),
    "None among functions": ({"functions": ["softmax", None]}, ValueError, _NO_FUNCTION + "None"),
    "a number of functions": ({"functions": 1}, TypeError, "functions must be a name or an it"),
    "the function itself": ({"functions": fx.softmax}, TypeError, "functions must be a name or an"),
    "a function in bytes": ({"functions": b"softmax"}, TypeError, "functions must be a name or an"),
    "progress that cannot be called": (
        {"functions": "softmax", "progress": 3}, TypeError, "progress must be callable, got int"),
    "no processes": ({"processes": 0}, ValueError, "processes must be at least 1, got 0"),
    "half a process": ({"processes": 1.5}, TypeError, "processes must be an int, got float"),
    "True processes": ({"processes": True}, TypeError, "processes must be an int, got bool"),
}  # fmt: skip

# --- buffers --------------------------------------------------------------------------------------

_NO_BUFFER = "must be a numpy.ndarray, got "
_NO_PLACE = "must have separate memory for each element, got a broadcast or overlapping view"


def buffer(name, instead, says):
    return Bad(f"{name} as a buffer", BUFFERS, instead, ValueError, says)


def zero_stride(axis):
    def strided(a):
        strides = [0 if k == axis % a.ndim else step for k, step in enumerate(a.strides)]
        return as_strided(a, a.shape, strides)

    return strided


def half_step(a):
    """Each row begins inside the one before; of one axis, each element."""
    wide = np.full(2 * a.size, 7, a.dtype)
    if a.ndim == 1:
        return as_strided(wide, a.shape, (a.itemsize // 2,))
    return as_strided(wide, a.shape, (2 * a.itemsize, a.itemsize))


BUFFER = [
    buffer("a list", lambda a: a.tolist(), _NO_BUFFER + "list"),
    buffer("a number", always(1.0), _NO_BUFFER + "float"),
    buffer("True", always(True), _NO_BUFFER + "bool"),
    buffer("a string", always("out"), _NO_BUFFER + "str"),
    buffer("a type", always(np.float64), _NO_BUFFER + "type"),
    buffer("a bytearray", lambda a: bytearray(a.nbytes), _NO_BUFFER + "bytearray"),
    buffer("a memoryview", memoryview, _NO_BUFFER + "memoryview"),
    buffer("a NumPy scalar", lambda a: a.flat[0], _NO_BUFFER + "float"),
    buffer("a subclass", lambda a: a.view(Mine), _NO_BUFFER + "Mine"),
    buffer("a record array", lambda a: a.view(np.recarray), _NO_BUFFER + "recarray"),
    buffer("a masked array", np.ma.masked_array, _NO_BUFFER + "MaskedArray"),
    buffer("an object with __array__", Arrayed, _NO_BUFFER + "Arrayed"),
    buffer("an array interface", lambda a: Described(a.__array_interface__, a), _NO_BUFFER),
    buffer("a sparse matrix", lambda a: scipy.sparse.eye(4, 3), _NO_BUFFER + "dia_"),
    buffer("a GPU's array", always(OnGpu()), _NO_BUFFER + "OnGpu"),
    *(buffer(f"an array of {kind}", to(kind), r"must have dtype .* in native byte order, got ")
      for kind in ("i8", "u4", "?", "c8", "c16", "O", "g", "U8", "M8[s]", "V8", "bfloat16")),
    buffer("the other float type", lambda a: a.astype("f4" if a.itemsize == 8 else "f8"),
           "must have dtype"),
    buffer("swapped bytes", swapped, "must have dtype .* in native byte order, got dtype"),
    buffer("raw bytes of the right size", lambda a: a.view(f"V{a.itemsize}"), "must have dtype"),
    buffer("records", structured, "must have dtype"),
    buffer("fewer elements", lambda a: a[:-1], r"must have shape \(.*got \("),
    buffer("more elements", lambda a: np.repeat(a, 2, 0), "must have shape"),
    buffer("an axis more", lambda a: a[None], "must have shape"),
    buffer("an axis more at the end", lambda a: a[..., None], "must have shape"),
    buffer("one element", lambda a: a[(slice(1),) * a.ndim], "must have shape"),
    buffer("no dimensions", lambda a: np.array(7, a.dtype), "must have shape .*got \\(\\)"),
    buffer("nothing", lambda a: a[:0], "must have shape"),
    Bad("one line as a buffer", MATRICES_OUT, np.ravel, ValueError, "must have shape"),
    Bad("the transposed as a buffer", MATRICES_OUT, np.transpose, ValueError, "must have shape"),
    buffer("a read-only array", read_only, "must be writeable, got a read-only array"),
    buffer("a read-only view", read_only_view, "must be writeable"),
    buffer("read-only bytes", lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
           "must be writeable"),
    buffer("a read-only file", on_disk("r"), "must be writeable"),
    buffer("a broadcast array", lambda a: np.broadcast_to(a[:1], a.shape), "must be writeable"),
    buffer("one row for all", zero_stride(0), _NO_PLACE),
    buffer("one class for all", zero_stride(-1), _NO_PLACE),
    buffer("one element for all", lambda a: as_strided(a, a.shape, (0,) * a.ndim), _NO_PLACE),
    buffer("overlapping rows", half_step, _NO_PLACE),
    *(Bad(f"{name} as grad_out of the linear map", ("grad_out",), instead, ValueError,
          r"must be a LinearGrad of buffers \(x, linear_weight, linear_bias\), got ",
          ("linear_cross_entropy",)) for name, instead in (
        ("one array", lambda g: g.x), ("two buffers", lambda g: (g.x, g.linear_weight)),
        ("a list of buffers", list), ("a dict of buffers", lambda g: g._asdict()),
        ("an empty tuple", always(())), ("a function", always(fx.LinearGrad)))),
    *(Bad(f"no buffer for {part}", (part,), always(None), ValueError, _NO_BUFFER + "NoneType")
      for part in PARTS),
    Clash("a buffer for no bias", ("linear_cross_entropy",), lambda a: {"linear_bias": None},
          "grad_out.linear_bias", ValueError, " must be None without linear_bias, got ndarray"),
]  # fmt: skip

# --- buffers that overlap inputs ------------------------------------------------------------------


def over_input(lay):
    """The buffer and the first argument in one memory: `lay` makes both of a line of it."""

    def instead(a):
        x = a[first_of(a)]
        line = np.arange(2 * x.size + 4, dtype=x.dtype) / 64
        logits, buffer = lay(line, x.shape)
        return {first_of(a): logits, out_of(a): buffer}

    return instead


def overlap(name, lay):
    place = "(logits|probs)"
    says = rf" must not overlap {place} \(it may be exactly the memory of {place}( or vector)?\)"
    return Clash(name, WITH_BUFFER, over_input(lay), "out|grad_out", ValueError, says)


def shared(name, argument, other, instead, of=ROWS[:2]):
    return Clash(name, of, instead, argument, ValueError, f" must not overlap {other}")


def _bytes_later(line, s):
    raw = line.view(np.uint8)
    size = int(np.prod(s)) * line.itemsize
    return part(line, 0, s), raw[1 : 1 + size].view(line.dtype).reshape(s)


PLACES = [
    overlap("a buffer one element later", lambda m, s: (part(m, 0, s), part(m, 1, s))),
    overlap("a buffer one element earlier", lambda m, s: (part(m, 1, s), part(m, 0, s))),
    overlap("a buffer a row later", lambda m, s: (part(m, 0, s), part(m, s[-1], s))),
    overlap("a buffer over the last element", lambda m, s: (part(m, 0, s), part(m, 11, s))),
    overlap("a buffer over the first element", lambda m, s: (part(m, 11, s), part(m, 0, s))),
    overlap("a buffer one byte later", _bytes_later),
    overlap("a buffer with reversed rows", lambda m, s: (part(m, 0, s), part(m, 0, s)[::-1])),
    overlap("a buffer with reversed classes", lambda m, s: (part(m, 0, s), part(m, 0, s)[:, ::-1])),
    overlap("a buffer of every other element", lambda m, s: (part(m, 0, s), part(m, 0, s, 2))),
    overlap("logits of every other element", lambda m, s: (part(m, 0, s, 2), part(m, 0, s))),
    overlap("a buffer in Fortran's order over the input",
            lambda m, s: (part(m, 0, s), part(m, 0, s[::-1]).T)),
    overlap("a buffer over a broadcast row",
            lambda m, s: (np.broadcast_to(m[: s[-1]], s), part(m, 0, s))),
    overlap("logits of swapped bytes in the buffer",
            lambda m, s: (part(m, 0, s).view(m.dtype.newbyteorder()), part(m, 0, s))),
    Clash("integers in the buffer", WITH_BUFFER,
          lambda a: (lambda m: {first_of(a): m.view(np.int64), out_of(a): m})(np.zeros((4, 3))),
          "out|grad_out", ValueError, " must not overlap (logits|probs)"),
    shared("a gradient over the labels", "grad_out", "target",
           lambda a: (lambda m: {first_of(a): np.zeros((4, 3)), "probs_out": None, "grad_out": m,
                                 "target": m.reshape(-1)[2:6].view(np.int64)})(np.zeros((4, 3)))),
    shared("a gradient over labels in a memoryview", "grad_out", "target",
           lambda a: (lambda m: {first_of(a): np.zeros((4, 3)), "probs_out": None, "grad_out": m,
                                 "target": memoryview(m.reshape(-1)[8:].view(np.int64))})(
                                     np.zeros((4, 3)))),
    shared("a gradient over labels in the logits", "grad_out", "target",
           lambda a: (lambda m: {first_of(a): m, "grad_out": m, "probs_out": None,
                                 "target": m.reshape(-1)[:4].view(np.int64)})(np.zeros((4, 3)))),
    shared("a gradient over the target", "grad_out", "target",
           lambda a: {"grad_out": a["grad_out"], "target": a["grad_out"]}, (*ROWS[:2], *BINARY)),
    shared("a gradient over a part of the target", "grad_out", "target",
           lambda a: (lambda m: {"grad_out": m[:4], "target": m[3:7]})(
               np.full((7, 3), 0.5, a["grad_out"].dtype)), (*ROWS[:2], *BINARY)),
    shared("a gradient over the class weights", "grad_out", "weight",
           lambda a: {"weight": a["grad_out"][0]}, (*ROWS[:2], *BINARY)),
    shared("a gradient over weights in a memoryview", "grad_out", "weight",
           lambda a: {"weight": memoryview(a["grad_out"][3])}, ROWS[:2]),
    shared("a gradient over the rows' weights", "grad_out", "sample_weight",
           lambda a: {"sample_weight": a["grad_out"][:, 2]}),
    shared("a gradient over the positive weights", "grad_out", "pos_weight",
           lambda a: {"pos_weight": a["grad_out"][:, :1]}, BINARY[1:]),
    shared("probabilities over the logits", "probs_out", "logits",
           lambda a: {"probs_out": a["logits"]}, ROWS[:1]),
    shared("probabilities over the gradient", "probs_out", "grad_out",
           lambda a: {"probs_out": a["grad_out"]}, ROWS[:1]),
    shared("probabilities over the gradient's end", "probs_out", "grad_out",
           lambda a: (lambda m: {"grad_out": part(m, 0, (4, 3)), "probs_out": part(m, 11, (4, 3))})(
               np.full(30, 7, a["grad_out"].dtype)), ROWS[:1]),
    shared("probabilities over the logits in place of both", "probs_out", "logits",
           lambda a: {"grad_out": a["logits"], "probs_out": a["logits"]}, ROWS[:1]),
    shared("probabilities over the class weights", "probs_out", "weight",
           lambda a: {"weight": a["probs_out"][2], "probs_out": a["probs_out"]}, ROWS[:1]),
    *(shared(f"the gradient of {name} over it", f"grad_out.{name}", name,
             lambda a, name=name: {"grad_out": a["grad_out"]._replace(**{name: a[name]})}, ROWS[2:])
      for name in ("x", "linear_weight", "linear_bias")),
    shared("the gradient of the map over the features", "grad_out.linear_weight", "x",
           lambda a: {"grad_out": a["grad_out"]._replace(linear_weight=a["x"][:3])}, ROWS[2:]),
    shared("the gradients of the map and the features in one", "grad_out.linear_weight",
           "grad_out.x",
           lambda a: {"grad_out": a["grad_out"]._replace(linear_weight=a["grad_out"].x[1:])},
           ROWS[2:]),
    shared("the gradients of the bias and the map in one", "grad_out.linear_bias",
           "grad_out.linear_weight",
           lambda a: {"grad_out": a["grad_out"]._replace(
               linear_bias=a["grad_out"].linear_weight[:, 2])}, ROWS[2:]),
    shared("the gradient of the features over a memoryview of weights", "grad_out.x", "weight",
           lambda a: {"weight": memoryview(a["grad_out"].x[0, :3])}, ROWS[2:]),
    shared("the gradient of the map over a memoryview of weights", "grad_out.linear_weight",
           "weight", lambda a: {"weight": memoryview(a["grad_out"].linear_weight[0, :3])},
           ROWS[2:]),
    shared("the gradient of the bias over class weights", "grad_out.linear_bias", "weight",
           lambda a: {"weight": a["grad_out"].linear_bias}, ROWS[2:]),
    shared("the gradient of the features over a target", "grad_out.x", "target",
           lambda a: (lambda m: {"grad_out": a["grad_out"]._replace(x=m), "target": m[:, :3]})(
               np.full((4, 5), 0.5, a["x"].dtype)), ROWS[2:]),
]  # fmt: skip

_OF_VECTOR = r"must have shape \(.*\) \(that of (logits|x|linear_weight|linear_bias)\), got "
NO_LINEAR_VECTOR = r"must be a LinearGrad or a tuple \(x, linear_weight, linear_bias\), got "
MAP_PRODUCT = tuple(name for name in PRODUCTS if name.startswith("linear"))

VECTOR = [
    *(Bad(f"a vector of {kind}", VECTORS, to(kind), TypeError, "must hold real numbers, got ")
      for kind in ("c8", "O", "U", "M8[s]")),
    Bad("a masked vector", VECTORS, np.ma.masked_array, TypeError, "must not be a masked array"),
    Bad("a vector of one row less", VECTORS, lambda v: v[1:], ValueError, _OF_VECTOR),
    Bad("a vector of an axis more", VECTORS, lambda v: v[None], ValueError, _OF_VECTOR),
    Bad("a number as a vector", VECTORS, always(2.0), ValueError, _OF_VECTOR + r"\(\)"),
    *(Bad(f"{name} as the map's vector", VECTORS[:1], instead, ValueError, NO_LINEAR_VECTOR,
          MAP_PRODUCT)
      for name, instead in (
        ("None", always(None)), ("one array", lambda v: v.x), ("a list", list),
        ("two parts", lambda v: v[:2]), ("an empty tuple", always(())))),
    Bad("a vector of no parts", VECTORS[:1], always((None,) * 3), ValueError,
        "must have at least one of x, linear_weight, linear_bias", MAP_PRODUCT),
    Clash("a vector for no bias", MAP_PRODUCT,
          lambda a: {"linear_bias": None, "out": a["out"]._replace(linear_bias=None)},
          "vector.linear_bias", ValueError, " must be None without linear_bias"),
    *(shared(f"the product by {name} over it", f"out.{name}", name,
             lambda a, name=name: {"out": a["out"]._replace(**{name: a[name]})}, MAP_PRODUCT)
      for name in LINEAR_MAP.inputs),
    shared("the product by the map over the vector of the features", "out.linear_weight",
           "vector.x", lambda a: {"out": a["out"]._replace(linear_weight=a["vector"].x[:3])},
           MAP_PRODUCT),
    Clash("a product a row behind its vector", PRODUCTS[:1],
          lambda a: (lambda m: {"vector": m[:4], "out": m[1:]})(np.ones((5, 3), a["out"].dtype)),
          "out", ValueError, " must not overlap vector .it may be exactly the memory of logits"),
]  # fmt: skip

REFUSED = [*LOGITS, *LINEAR, *TARGETS, *INTEGERS, *BINARY_TARGETS, *WEIGHT, *OPTIONS, *SIGNATURES,
           *BUFFER, *PLACES, *VECTOR]  # fmt: skip
