"""Unusual but valid calls: the argument to replace, its replacement, and the plain equivalent.

A row of a table is one fault, as in `faults.py`.
"""

import array
import collections
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from calls import BINARY, MAPS, ROWS, WEIGHTS, WITH_BUFFER, first_of, out_of
from odd_values import (
    Animal,
    Arrayed,
    Described,
    Exported,
    How,
    Index,
    Mine,
    Share,
    Text,
    always,
    backwards,
    bytes_of,
    ctypes_array,
    double,
    every_other,
    every_other_row,
    first_class,
    first_row,
    inside,
    listed,
    on_disk,
    part,
    read_only,
    same,
    swapped,
    to,
    to_labels,
    unaligned,
    windows,
    with_row,
)

import fastxent as fx


class Odd(NamedTuple):
    """One argument is replaced: the results are the bits of the call with `plain` in its place.

    They are also those of `fastxent.reference`. Without `plain`, the odd value is its own.
    """

    name: str
    where: tuple[str, ...]
    instead: Callable[[Any], Any]
    plain: Callable[[Any], Any] | None = None
    of: tuple[str, ...] | None = None
    given: dict[str, Any] = {}


class Place(NamedTuple):
    """An unusual buffer: `instead` makes the changed arguments from all arguments."""

    name: str
    of: tuple[str, ...]
    instead: Callable[[dict[str, Any]], dict[str, Any]]


_ROWS_OF = ("logits", "probs")
_TARGET = ("target",)
_PLAIN = np.ascontiguousarray
_ROWWISE = (*MAPS, *ROWS)
_LABELS = np.array([0, 2, 1, 2])
_LABELLED = {"target": _LABELS}
_SOFT = tuple(f"{name} of probabilities" for name in ROWS)


def looks(name, instead, where=("logits", "probs", "x", "linear_weight")):
    """Another layout of the same numbers."""
    return Odd(f"{name} as logits", where, instead, same)


def typed(name, instead, plain=None):
    """Another type of the first argument."""
    return Odd(f"{name} as logits", ("logits", "probs"), instead, plain)


def labels(name, instead, plain=(0, 2, 1, 2), given=None):
    """Class indices of another kind."""
    usual = None if plain is None else always(np.array(plain))
    return Odd(f"{name} as labels", _TARGET, instead, usual, ROWS, given or {})


def option(name, argument, value, plain=None, given=None, of=None):
    """An option of another type, or of an odd value."""
    return Odd(f"{argument}={name}", (argument,), always(value),
               None if plain is None else always(plain), of, given or {})  # fmt: skip


def below_one(a):
    return np.abs(np.asarray(a)) > 0.4


ODD = [
    # layouts
    looks("Fortran's order", np.asfortranarray),
    looks("every other column", every_other),
    looks("every other row", every_other_row),
    looks("a part of a wider array", inside),
    looks("both axes backwards", backwards),
    looks("swapped bytes", swapped),
    looks("an unaligned array", unaligned),
    looks("an unaligned array of swapped bytes", lambda a: unaligned(swapped(a))),
    looks("a read-only array", read_only),
    looks("a read-only file", on_disk("r")),
    looks("a private file", on_disk("c")),
    looks("a subclass", lambda a: a.view(Mine)),
    looks("a record array of plain numbers", lambda a: a.view(np.recarray)),
    looks("an array over bytes", lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape)),
    looks("a memoryview", memoryview),
    looks("a read-only memoryview", lambda a: memoryview(a).toreadonly()),
    looks("a memoryview with steps", lambda a: memoryview(every_other(a))),
    looks("an object with __array__", Arrayed),
    looks("an object with __array_interface__", lambda a: Described(a.__array_interface__, a)),
    Odd("an object with DLPack", _ROWS_OF, Exported, same, MAPS),
    looks("an object with a buffer", ctypes_array),
    looks("a type with metadata", lambda a: a.astype(np.dtype(a.dtype, metadata={"unit": "nat"}))),
    Odd("one row again and again", _ROWS_OF, first_row, lambda a: first_row(a).copy()),
    Odd("one class again and again", _ROWS_OF, first_class, lambda a: first_class(a).copy()),
    Odd("windows of a line", _ROWS_OF, windows, lambda a: windows(a).copy()),
    Odd("an axis by its NumPy number", ("axis",), always(np.int8(-1)), always(-1)),
    Odd("an axis in an array without dimensions", ("axis",), always(np.array(1)), always(1)),
    Odd("an axis by __index__", ("axis",), always(Index(-1)), always(-1)),
    # kinds
    typed("a list", listed, double),
    typed("a tuple of lists", lambda a: tuple(listed(a)), double),
    typed("a list of arrays", list, _PLAIN),
    typed("a deque of lists", lambda a: collections.deque(listed(a)), double),
    typed("a user's list", lambda a: collections.UserList(listed(a)), double),
    typed("an array module's rows", lambda a: [array.array("d", row) for row in a.tolist()],
          double),
    typed("ranges", lambda a: [range(3), range(1, 4), range(3), range(3)],
          lambda a: np.array([[0, 1, 2], [1, 2, 3], [0, 1, 2], [0, 1, 2]])),
    typed("bools", below_one, lambda a: below_one(a) * 1.0),
    typed("bools in a list", lambda a: below_one(a).tolist(), lambda a: below_one(a) * 1.0),
    *(typed(f"integers of {kind}", lambda a, kind=kind: np.ceil(np.abs(a)).astype(kind),
            lambda a: np.ceil(np.abs(a)).astype(float))
      for kind in ("i1", "u1", ">i2", "u4", "i8", ">u8")),
    typed("the largest uint64", lambda a: np.full(a.shape, 2**64 - 1, "u8"),
          lambda a: np.full(a.shape, 2.0**64)),
    typed("float16", to("f2")),
    typed("swapped float16", to(">f2"), to("f2")),
    typed("bfloat16", to("bfloat16")),
    typed("NumPy's numbers in a list", lambda a: [list(row) for row in a], same),
    # shapes
    Odd("no rows", _ROWS_OF, lambda a: a[:0], given={"target": np.zeros(0, int)}, of=_ROWWISE),
    Odd("no rows in a list", ("target",), always([]), of=ROWS[:2],
        given={"logits": np.zeros((0, 3)), "probs": np.zeros((0, 3))},
        plain=always(np.zeros(0, int))),
    Odd("one class", _ROWS_OF, lambda a: a[:, :1], of=_ROWWISE,
        given={"target": np.zeros(4, int)}),
    Odd("one row", _ROWS_OF, lambda a: a[:1], of=_ROWWISE, given={"target": [2]}),
    Odd("one sample without a batch", _ROWS_OF, lambda a: a[0], of=_ROWWISE, given={"target": 2}),
    Odd("one sample and NumPy's label", _ROWS_OF, lambda a: a[0], of=_ROWWISE,
        given={"target": np.uint8(2)}),
    Odd("63 dimensions", _ROWS_OF, lambda a: a.reshape(4, *[1] * 61, 3),
        of=_ROWWISE, given={"target": _LABELS.reshape(4, *[1] * 61)}),
    Odd("an empty axis in the middle", _ROWS_OF, lambda a: a[:, None, :][:, :0], of=_ROWWISE,
        given={"target": np.zeros((4, 0), int)}),
    Odd("no logits of a binary loss", _ROWS_OF, lambda a: a[:0], of=BINARY,
        given={"target": np.zeros((0, 3))}),
    Odd("one number in a binary loss", _ROWS_OF, lambda a: a[0, 0], of=BINARY,
        given={"target": 1}),
    Odd("a Python number in a binary loss", _ROWS_OF, always(0.25), of=BINARY,
        given={"target": True}),
    Odd("no numbers in a row", _ROWS_OF, lambda a: a[:, :0], of=MAPS),
    Odd("no numbers and no row", _ROWS_OF, lambda a: a[:0, :0], of=MAPS),
    Odd("a list of no numbers", _ROWS_OF, always([]), always(np.zeros(0)), of=MAPS),
    Odd("many classes and no row", _ROWS_OF, lambda a: np.empty((0, 2**20), a.dtype), of=MAPS),
    # numbers
    *(Odd(f"a row of {value}", _ROWS_OF, with_row(value))
      for value in (math.inf, -math.inf, math.nan, 0.0, -0.0, 1e-45, 3e38, -3e38)),
    Odd("a row with one inf", _ROWS_OF, with_row(0, math.inf, 1)),
    Odd("a row with one nan", _ROWS_OF, with_row(0, math.nan, 1)),
    Odd("a row with one -inf", ("logits",), with_row(0.5, -math.inf, 1)),
    Odd("a row with inf and -inf", _ROWS_OF, with_row(math.inf, -math.inf, 0)),
    Odd("a shared offset", ("logits",), lambda a: np.round(a * 8) / 8 + 2**20),
    Odd("probabilities outside 0 to 1", ("probs",), with_row(-0.5, 1.5, 0)),
    Odd("probabilities of 0 and 1", ("probs",), with_row(0, 1, 0)),
    # labels
    *(labels(f"{kind} integers", to_labels(kind))
      for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "u8", ">i2", ">u4", ">i8", ">u8")),
    labels("a list", lambda y: [0, 2, 1, 2]),
    labels("a tuple", lambda y: (0, 2, 1, 2)),
    labels("a range", lambda y: range(-1, 3), (-1, 0, 1, 2), {"ignore_index": -1}),
    labels("an enumeration's members", lambda y: [Animal.CAT, Animal.EEL, Animal.DOG, Animal.EEL]),
    labels("an array module's array", lambda y: array.array("h", [0, 2, 1, 2])),
    labels("bytes in a memoryview", lambda y: memoryview(bytes([0, 2, 1, 2]))),
    labels("a bytearray's bytes", lambda y: np.frombuffer(bytearray([0, 2, 1, 2]), np.uint8)),
    labels("an object with __array__", lambda y: Arrayed(_LABELS)),
    labels("every other one", lambda y: every_other(_LABELS)),
    labels("reversed ones", lambda y: np.array([2, 1, 2, 0])[::-1]),
    labels("one for all", lambda y: np.broadcast_to(np.int16(2), 4), (2, 2, 2, 2)),
    labels("a read-only array", lambda y: read_only(_LABELS)),
    labels("an unaligned array", lambda y: unaligned(_LABELS)),
    labels("a subclass", lambda y: _LABELS.view(Mine)),
    labels("a file", lambda y: on_disk("r")(_LABELS)),
    labels("every row ignored", always([-100] * 4), (-100,) * 4),
    labels("an ignored 255", always(np.uint8([0, 255, 1, 2])), (0, 255, 1, 2),
           {"ignore_index": 255}),
    labels("an ignored 2**64 - 1", always(np.uint64([0, 2**64 - 1, 1, 2])), None,
           {"ignore_index": 2**64 - 1}),
    labels("a swapped ignored 2**64 - 1", always(np.array([0, 2**64 - 1, 1, 2], ">u8")),
           None, {"ignore_index": 2**64 - 1}),
    labels("int64's least, ignored,", always([0, -(2**63), 1, 2]), None,
           {"ignore_index": -(2**63)}),
    labels("an ignored class", always([0, 2, 1, 2]), given={"ignore_index": 2}),
    option("a list", "wrt", ["x", "linear_weight", "linear_bias"], ("x", "linear_weight",
                                                                 "linear_bias")),
    option("one name", "wrt", "linear_weight", ("linear_weight",)),
    option("a name twice", "wrt", ("x", "x"), "x"),
    option("a NumPy int", "ignore_index", np.int8(2), 2, _LABELLED, ROWS),
    option("an array without dimensions", "ignore_index", np.array(1), 1, _LABELLED, ROWS),
    option("by __index__", "ignore_index", Index(-100), -100, _LABELLED, ROWS),
    option("2**70, that no label is,", "ignore_index", 2**70, None, _LABELLED, ROWS),
    option("None", "ignore_index", None, None, _LABELLED, ROWS),
    # probabilities
    *(Odd(f"one-hot rows of {kind}", _TARGET,
          lambda y, kind=kind: np.eye(3)[[0, 2, 1, 2]].astype(kind),
          lambda y: np.eye(3)[[0, 2, 1, 2]], (*_SOFT, *BINARY))
      for kind in ("?", "i1", ">i8", "u8", "f2", ">f4", "g", "bfloat16")),
    Odd("one-hot rows in a list", _TARGET, lambda y: np.eye(3, dtype=int)[[0, 2, 1, 2]].tolist(),
        lambda y: np.eye(3)[[0, 2, 1, 2]], (*_SOFT, *BINARY)),
    Odd("rows of several ones", _TARGET, lambda y: np.array([[1, 1, 0]] * 4), of=(*_SOFT, *BINARY),
        plain=lambda y: np.array([[1.0, 1.0, 0.0]] * 4)),
    Odd("integers beyond 1 that nobody checks", _TARGET, lambda y: np.array([[3, 1, -2]] * 4),
        of=_SOFT, plain=lambda y: np.array([[3.0, 1.0, -2.0]] * 4),
        given={"check_target": False}),
    Odd("probabilities that do not add up to 1", _TARGET, lambda y: 3 * y, of=_SOFT),
    Odd("a row of no probability", _TARGET, with_row(0.0), of=(*_SOFT, *BINARY)),
    Odd("probabilities in Fortran's order", _TARGET, np.asfortranarray, same, (*_SOFT, *BINARY)),
    Odd("one row of probabilities for all", _TARGET, first_row, lambda y: first_row(y).copy(),
        (*_SOFT, *BINARY)),
    Odd("swapped probabilities", _TARGET, swapped, same, (*_SOFT, *BINARY)),
    # weights
    *(Odd(f"weights of {kind}", ("weight", "sample_weight", "pos_weight"),
          lambda w, kind=kind: np.ceil(w).astype(kind), np.ceil)
      for kind in ("i1", "u8", ">i4", "f2", ">f4", "g", "bfloat16")),
    Odd("bools as weights", WEIGHTS, lambda w: w > 1, lambda w: (w > 1) * 1.0),
    Odd("a list of weights", WEIGHTS, listed, same),
    Odd("a memoryview of weights", WEIGHTS, memoryview, same),
    Odd("every other weight", WEIGHTS, every_other, same),
    Odd("one weight for all", WEIGHTS, lambda w: np.broadcast_to(w[:1], w.shape),
        lambda w: np.broadcast_to(w[:1], w.shape).copy()),
    Odd("read-only weights", WEIGHTS, read_only, same),
    Odd("weights of 0", WEIGHTS, np.zeros_like),
    Odd("negative weights", WEIGHTS, np.negative),
    Odd("a weight of nan", WEIGHTS, with_row(math.nan), None,
        ("cross_entropy", "linear_cross_entropy", *BINARY)),
    Odd("a weight of 0 among others", WEIGHTS, with_row(0.0)),
    Odd("one number as a weight", ("weight", "pos_weight"), always(2), of=BINARY),
    Odd("weights of each row", ("weight", "pos_weight"), lambda w: np.array([[1], [2], [0], [3]]),
        of=BINARY),
    # options
    option("the int 0", "label_smoothing", 0, 0.0),
    option("the int 1", "label_smoothing", 1, 1.0),
    option("a Fraction", "label_smoothing", Fraction(1, 4), 0.25),
    option("float16's 0.25", "label_smoothing", np.float16(0.25), 0.25),
    option("a longdouble", "label_smoothing", np.longdouble(0.25), 0.25),
    option("a subclass of float", "label_smoothing", Share(0.25), 0.25),
    option("5e-324", "label_smoothing", 5e-324),
    option("1 but for a rounding", "label_smoothing", math.nextafter(1.0, 0)),
    option("a negative number", "z_loss", -0.5),
    option("an int", "z_loss", 2, 2.0),
    option("NumPy's int8", "z_loss", np.int8(2), 2.0),
    option("0", "logit_scale", 0, 0.0),
    option("a negative number", "logit_scale", -1.5),
    option("an int", "logit_scale", 2, 2.0),
    option("an int", "softcap", 2, 2.0),
    option("float32's 2", "softcap", np.float32(2), 2.0),
    option("hardly any", "softcap", 1e30),
    option("almost a half", "eps", 0.4999),
    option("float32's least normal number", "eps", 2.0**-126),
    *(Odd(f"{name} as reduction", ("reduction",), always(value), always("mean"))
      for name, value in (("a NumPy string", np.str_("mean")), ("a subclass of str", Text("mean")),
                          ("a member of a string enumeration", How.MEAN))),
    *(option(repr(value), "normalizer", value, plain) for value, plain in (
        (0, 0.0), (-3.0, None), (math.nan, None), (math.inf, None), (2, 2.0), (np.int8(2), 2.0),
        (np.float16(2), 2.0), (np.longdouble(2), 2.0), (Fraction(5, 2), 2.5), (np.array(2.0), 2.0),
        (np.array(2), 2.0), (np.array(2, ">f4"), 2.0), (10**300, 1e300))),
    option("a list's number", "normalizer", Arrayed(np.array(2.0)), 2.0),
    *(Odd(f"{value!r} as a flag", ("check_target", "keepdims", "return_grad"), always(value),
          always(bool(value))) for value in (0, 1, 2, np.True_, np.False_, np.int8(1))),
]  # fmt: skip


# --- buffers in odd places ------------------------------------------------------------------------


def filled(lay):
    """The buffer laid out in another way."""
    return lambda a: {out_of(a): lay(a[out_of(a)])}


def beside(lay):
    """The first argument and the buffer in one memory, apart: `lay` makes both of a line of it."""

    def instead(a):
        x = a[first_of(a)]
        line = np.full(3 * x.size + 4, 7, x.dtype)
        given, buffer = lay(line, x.shape)
        given[...] = x
        return {first_of(a): given, out_of(a): buffer}

    return instead


def split(a, lay):
    return {"grad_out": fx.LinearGrad(*map(lay, a["grad_out"]))}


ODD_PLACES = [
    *(Place(f"a buffer {name}", WITH_BUFFER, filled(lay)) for name, lay in {
        "in C order": same, "in Fortran's order": np.asfortranarray,
        "in every other column": every_other, "in every other row": every_other_row,
        "inside another": inside, "backwards": backwards, "unaligned": unaligned,
        "in a file": on_disk("c"), "of bytes": lambda a: bytes_of(a),
        "with metadata": lambda a: a.astype(np.dtype(a.dtype, metadata={"unit": "nat"})),
        "full of nan": lambda a: np.full_like(a, math.nan),
    }.items()),
    Place("a buffer that is the input", WITH_BUFFER, lambda a: {out_of(a): a[first_of(a)]}),
    Place("a buffer that is a view of the input", WITH_BUFFER,
          lambda a: {out_of(a): a[first_of(a)][:]}),
    Place("a buffer that is the strided input", WITH_BUFFER,
          beside(lambda m, s: (part(m, 0, s, 2), part(m, 0, s, 2)))),
    Place("a buffer right behind the input", WITH_BUFFER,
          beside(lambda m, s: (part(m, 0, s), part(m, 12, s)))),
    Place("a buffer right before the input", WITH_BUFFER,
          beside(lambda m, s: (part(m, 12, s), part(m, 0, s)))),
    Place("a buffer between the input's elements", WITH_BUFFER,
          beside(lambda m, s: (part(m, 0, s, 2), part(m, 1, s, 2)))),
    Place("the gradient between the probabilities", ("cross_entropy",),
          lambda a: (lambda m: {"grad_out": part(m, 0, (4, 3), 2),
                                "probs_out": part(m, 1, (4, 3), 2)})(
              np.full(24, 7, a["grad_out"].dtype))),
    Place("a plain tuple of buffers", ("linear_cross_entropy",),
          lambda a: {"linear_bias": a["linear_bias"], "grad_out": tuple(a["grad_out"])}),
    Place("strided buffers of the linear map", ("linear_cross_entropy",),
          lambda a: {"linear_bias": a["linear_bias"]} | split(a, every_other)),
    Place("reversed buffers of the linear map", ("linear_cross_entropy",),
          lambda a: {"linear_bias": a["linear_bias"]} | split(a, backwards)),
    Place("buffers without a bias", ("linear_cross_entropy",),
          lambda a: {"grad_out": a["grad_out"]._replace(linear_bias=None)}),
    Place("buffers that are added to", ("linear_cross_entropy",),
          lambda a: {"accumulate": True, "linear_bias": a["linear_bias"],
                     "grad_out": a["grad_out"]}),
]  # fmt: skip
