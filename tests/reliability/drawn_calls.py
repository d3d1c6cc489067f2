"""Turn bytes into a call of a public function, and say which of its arguments are wrong."""

import numpy as np

import fastxent as fx
from fastxent.functions import FUNCTIONS as DESCRIBED

FLAGS = {name: function.results[1:] for name, function in DESCRIBED.items()}
LOSSES = {name for name, function in DESCRIBED.items() if function.is_loss}
PRODUCTS = {name for name, function in DESCRIBED.items() if "vector" in function.parameters}
MAY_BE_EMPTY = {"softmax", "log_softmax", "logsumexp"}
FUNCTIONS = tuple(DESCRIBED)

# Dyadic numbers, whose few products and sums are exact in float32: what is left to compare is what
# the kernels do. What a type does not hold is infinite in it.
LOGITS = [0.0, 1.0, -1.0, 0.5, 2.0, -3.0, 5.5, -7.25, 10.0, 30.0, -30.0, 1000.0, 1e7, -1e7]
SPECIAL = [-np.inf, -np.inf, np.inf, np.nan]
WILD = [3e38, -3e38, 1e-40, 1e308, -1e308, 5e-324]  # their products leave the type's range
PROBS = [0.0, 1.0, 0.5, 0.25, 0.125, 0.75, 2.0**-20, 1 - 2.0**-10]
PARTS = fx.LinearGrad._fields
BAD_PROBS = [-0.25, 1.5, np.nan, np.inf]
WEIGHTS = [1.0, 0.0, 0.5, 2.0, 0.25, 4.0, 1.5, -1.0]
FEATURES = [0.0, 1.0, -1.0, 0.5, -0.125, 2.0, 3.0, -1.5]

FLOATS = ["f4", "f8", "f2", ">f4", ">f8", ">f2"]
NUMBERS = [*FLOATS, "f4", "f8", "i8", "u1", ">i2", "?"]
INTEGERS = ["i8", "i8", "i4", ">i8", "u1", "i1", "u2", "u8", ">u8"]
MEANINGLESS = ["c16", "O", "U3", "M8[s]", "masked", "fields", "ragged", "none"]

LAYOUTS = ["plain", "plain", "transposed", "sliced", "reversed", "misaligned", "broadcast",
           "inner", "amid"]  # fmt: skip
BUFFERS = ["fresh", "over", "shifted", "read-only", "type", "fresh", "over", "shape", "list",
           "stride 0", "swapped", "reversed", "input", "subclass"]  # fmt: skip
NO_NUMBER = ["0.1", True, [0.1], 1j, np.ones(2)]
LARGE = 10**400  # beyond float64
MARGIN = 3  # elements of the memory around an array that lies amid it


class Call:
    """One call: its arguments, the memory it may touch, and what is wrong with it.

    `wrong` has the expected errors by argument; if it is empty, the call must succeed. `initial`
    has the contents of the buffers; `wild` says that the values cannot be predicted.
    """

    def __init__(self, source):
        self.source = source
        self.name = self.pick(FUNCTIONS)
        self.arguments, self.wrong = {}, {}
        self.memory, self.buffers = [], {}
        self.wild = False
        self.threads = self.pick([1, 2, 3])
        # No options and ordinary arrays, for which there are fast paths.
        self.plain = self.one_in(3)
        if self.name.startswith("linear"):
            self.linear()
        elif self.name.startswith("binary"):
            self.binary()
        else:
            self.rows()
        self.before = [m.tobytes() for m in self.memory]
        self.initial = {name: buffer.copy() for name, buffer in self.buffers.items()}

    def __repr__(self):
        arguments = ", ".join(f"{k}={self.show(v)}" for k, v in self.arguments.items())
        return f"with num_threads({self.threads}): {self.name}({arguments})\nwrong: {self.wrong}"

    def show(self, value):
        """Description of an argument and its memory."""
        if not isinstance(value, np.ndarray):
            return repr(value)
        at = value.ctypes.data - min((m.ctypes.data for m in self.memory), default=0)
        flags = "" if value.flags.writeable else ", read-only"
        contents = value.tolist() if value.size < 200 else "…"
        return (
            f"<{type(value).__name__} {value.dtype.str}{value.shape} strides {value.strides} "
            f"at {at}{flags}: {contents}>"
        )

    # ---- choices -------------------------------------------------------------------------------

    def pick(self, options):
        return options[self.source.ConsumeIntInRange(0, len(options) - 1)]

    def one_in(self, n):
        return self.source.ConsumeIntInRange(0, n - 1) == n - 1

    def is_wrong(self, name, *errors):
        self.wrong.setdefault(name, set()).update(errors)

    def numbers(self, shape, palette):
        """An array of the shape, one byte per number; the bytes repeat if there are too few."""
        size = int(np.prod(shape))
        which = np.frombuffer(self.source.ConsumeBytes(min(size, 32)) or b"\0", np.uint8)
        chosen = np.asarray(palette, object)[np.resize(which, shape) % len(palette)]
        return np.asarray(chosen, object)

    def option(self, name, good, bad=(), types=()):
        """Perhaps an option, good or of a wrong value or type."""
        if self.plain:
            return None
        if self.one_in(3):
            self.arguments[name] = self.pick(good)
        elif bad and self.one_in(40):
            self.arguments[name] = self.pick(bad)
            self.is_wrong(name, ValueError)
        elif types and self.one_in(40):
            self.arguments[name] = self.pick(types)
            self.is_wrong(name, TypeError)
        return self.arguments.get(name)

    # ---- arrays --------------------------------------------------------------------------------

    def lay(self, values):
        """The values in memory of some layout; the memory is checked after the call."""
        layouts = ["plain", "amid"] if self.plain else LAYOUTS
        layout = self.pick(layouts)
        base = view = np.array(values, order="C")
        if layout == "transposed":
            base = values.T.copy()
            view = base.T
        elif layout == "sliced" and values.ndim:
            base = np.repeat(values, 2, -1)
            view = base[..., ::2]
        elif layout == "reversed" and values.ndim:
            base = values[::-1].copy()
            view = base[::-1]
        elif layout == "misaligned" and values.dtype.hasobject is False:
            base = np.zeros(values.nbytes + 1, np.uint8)
            view = base[1:].view(values.dtype).reshape(values.shape)
            view[...] = values
        elif layout == "broadcast" and values.ndim and len(values):
            base = values[:1].copy()
            view = np.broadcast_to(base, values.shape)
        elif layout == "inner" and values.ndim:
            base = np.zeros((*values.shape[:-1], values.shape[-1] + 3), values.dtype)
            view = base[..., 2:-1]
            view[...] = values
        elif layout == "amid":
            base = np.zeros(values.size + MARGIN, values.dtype)
            view = base[2 : 2 + values.size].reshape(values.shape)
            view[...] = values
        self.memory.append(base)
        if self.one_in(6) and view.flags.writeable:
            view.flags.writeable = False
        return view

    def array(self, name, shape, palette, dtypes):
        """An array, a list or a number, sometimes of an invalid type."""
        if self.one_in(40):
            self.is_wrong(name, TypeError)
            return self.meaningless(shape)
        values = self.numbers(shape, palette)
        dtype = np.dtype(self.pick(dtypes))
        with np.errstate(all="ignore"):
            if dtype.kind in "iub":  # other values have no integer form
                values = np.nan_to_num(values.astype(float), posinf=100, neginf=0).clip(0, 100)
            values = values.astype(dtype)
        view = self.lay(values)
        if values.size and self.one_in(8):
            return view.tolist()
        return view

    def input(self, name, shape, palette):
        """An array that the result's type depends on: a longdouble would have to lose digits."""
        if self.one_in(60):
            self.is_wrong(name, TypeError)
            return self.lay(np.ones(shape, np.longdouble))
        return self.array(name, shape, palette, NUMBERS)

    def vector(self, name, shape):
        """What a second derivative multiplies, of any real type; perhaps of a wrong shape."""
        if self.one_in(30):
            shape = self.pick([(*shape, 1), (2, *shape), (*shape[:-1], 11)])
            self.is_wrong(name, ValueError)
        palette = FEATURES
        if self.one_in(12):
            palette, self.wild = FEATURES + WILD + SPECIAL, True
        return self.array(name, shape, palette, [*NUMBERS, "g"])

    def meaningless(self, shape):
        kind = self.pick(MEANINGLESS)
        if kind == "masked":
            return np.ma.masked_array(np.ones(shape))
        if kind == "fields":
            return np.zeros(shape, [("a", float)])
        if kind == "ragged":
            return [[1.0, 2.0], [1.0]]
        if kind == "none":
            return np.full(shape, None)
        return np.ones(shape).astype(kind)

    def shape(self, least):
        """A shape of few numbers; now and then one axis is longer than narrow rows are."""
        rank = 2 if self.plain else self.pick([2, 1, 2, 3, 2, 4, 0])
        if rank < least and not self.one_in(10):
            rank = 2
        shape = [self.pick([3, 2, 1, 4, 5, 7, 9, 0]) for _ in range(rank)]
        if rank and self.one_in(6):
            shape[self.pick(range(rank))] = self.pick([17, 33, 161, 321])
        return tuple(shape)

    def buffer(self, name, shape, dtype, inputs, *owners):
        """A buffer that fits; one that lies over an input, as it may over `owners`; or a wrong one.

        Over an owner it has to be exactly there.
        """
        over = self.pick(owners) if owners else None
        kind = self.pick(BUFFERS[:5] if self.plain else BUFFERS)
        good = self.lay(np.full(shape, 7, dtype))
        if not good.flags.writeable or (good.ndim and 0 in good.strides and good.size > 1):
            good = np.full(shape, 7, dtype)
            self.memory.append(good)
        found, wrong = good, True
        mine = type(over) is np.ndarray and over.dtype == dtype and over.dtype.isnative
        mine = mine and over.shape == shape and over.size
        if kind == "over" and mine:
            found = self.pick([over, over.view()])
            wrong = not found.flags.writeable or _overlaps_itself(found)
            wrong = wrong or any(_shared(found, other) for other in inputs if other is not over)
        elif kind == "type":
            found = np.zeros(shape, self.pick(["i4", "c8", "f4" if dtype == "f8" else "f8"]))
        elif kind == "shape":
            found = np.zeros((*shape, 1), dtype)
        elif kind == "read-only":
            good.flags.writeable = False
        elif kind == "list":
            found = good.tolist()
        elif kind == "stride 0" and len(shape) and shape[0] > 1 and good.size:
            found = np.lib.stride_tricks.as_strided(
                np.zeros(shape[1:], dtype), shape, (0, *np.zeros(shape[1:], dtype).strides)
            )
        elif kind == "swapped":
            found = good.astype(good.dtype.newbyteorder())
        elif kind == "reversed" and mine and len(shape) and shape[0] > 1:
            found = over[::-1]
        elif kind == "shifted" and mine and over.size > 1 and _is_amid(over):
            found = over.base[1 : 1 + over.size].reshape(shape)
        elif kind == "input" and inputs:
            found = self.pick(inputs)
            right = type(found) is np.ndarray and found.shape == shape and found.dtype == dtype
            wrong = not (right and found.dtype.isnative and not found.size)
            wrong = wrong or not found.flags.writeable
        elif kind == "subclass":
            found = good.view(type("Mine", (np.ndarray,), {}))
        else:
            wrong = False
        if kind == "input" and any(found is owner for owner in owners):  # "over" says when
            found, wrong = good, not good.flags.writeable
        self.arguments[name] = found
        if wrong:
            self.is_wrong(name, ValueError)
        else:
            self.buffers[name] = found
        return found

    # ---- functions -----------------------------------------------------------------------------

    def rows(self):
        """The functions of an axis of classes."""
        probs = self.name == "categorical_cross_entropy"
        first = "probs" if probs else "logits"
        shape = self.shape(1)
        if not shape:
            self.is_wrong(first, ValueError)
        x = self.arguments[first] = self.input(first, shape, self.palette(probs))
        axis = self.axis(shape)
        classes = shape[axis] if shape else 0
        if not classes and self.name not in MAY_BE_EMPTY:
            self.is_wrong(first, ValueError)
        if self.name == "logsumexp":
            self.option("keepdims", [True, False])
            return
        own = own_type(x)
        if self.name in ("softmax", "log_softmax"):
            if self.one_in(2):
                self.buffer("out", shape, own, [], x)
            return
        if self.name == "entropy":
            self.outputs(shape, own, x)
            return
        self.row_options(shape, axis, [x])
        if self.name in PRODUCTS:
            self.product(shape, own, x)
            return
        if probs:
            self.option("eps", [None, 1e-15, 0.01, 0.25], [0, 0.5, -0.1, np.nan, 1e-320], NO_NUMBER)
        self.outputs(shape, own, x)

    def axis(self, shape):
        rank = len(shape)
        if self.one_in(40):
            self.arguments["axis"] = self.pick([rank, -rank - 1])
            self.is_wrong("axis", ValueError)
        elif self.one_in(40):
            self.arguments["axis"] = self.pick([(0,), True, 1.0, "0", None])
            self.is_wrong("axis", TypeError)
        elif rank and not self.plain and self.one_in(2):
            return self.arguments.setdefault("axis", self.pick(range(-rank, rank)))
        return -1

    def row_options(self, shape, axis, inputs):
        """Target, weights and the other common arguments of the losses of rows."""
        axis = axis % len(shape) if shape else 0
        classes = shape[axis] if shape else 0
        rows = (*shape[:axis], *shape[axis + 1 :])
        ignore = self.option("ignore_index", [-100, None, 0, 1, np.int8(-1), 2**70], (),
                             [1.5, True, "0"])  # fmt: skip
        ignore = ignore if "ignore_index" in self.arguments else -100
        check = not self.one_in(8)
        if not check:
            self.arguments["check_target"] = False
        self.arguments["target"] = self.target(shape, rows, classes, ignore, check)
        self.weight("weight", (classes,), [(classes + 1,), (1, classes), ()])
        self.weight("sample_weight", rows, [(*rows, 1), (*rows[:-1], 11)])
        how = self.option("reduction", ["mean", "sum", "none"], ["average", None, 3, np.ones(2)])
        if self.name == "categorical_cross_entropy":
            return
        self.option("label_smoothing", [0.0, 0.1, 0.5, 1, np.float32(0.25)],
                    [-0.1, 1.1, np.nan, np.inf], NO_NUMBER)  # fmt: skip
        self.option("z_loss", [0.0, 1e-4, 0.5], [np.nan, np.inf, LARGE], [*NO_NUMBER, None])
        self.option("logit_scale", [1, 0.5, 2.0, -1.0, 0.0], [np.nan, -np.inf, 1e-320],
                    [*NO_NUMBER, None])  # fmt: skip
        self.option("softcap", [None, 1.0, 5, 30.0, 200.0], [0, -1.0, np.nan, 1e-320], NO_NUMBER)
        normalizer = self.option(
            "normalizer", [None, 2, 0.5, 0, np.float32(3), np.array(-2.0)],
            [[2.0], np.ones((1, 1)), LARGE], ["2", 1j, True, np.array(None)],
        )  # fmt: skip
        if normalizer is not None and isinstance(how, str) and how != "mean":
            self.is_wrong("normalizer", ValueError)

    def target(self, shape, rows, classes, ignore, check):
        if self.one_in(4):  # probabilities
            if not _is_default(ignore):
                self.is_wrong("ignore_index", ValueError)
            found = self.array("target", shape, PROBS + [2.0, -0.5], NUMBERS)
            return self.one_hot(found) if check else found
        if self.one_in(40):
            self.is_wrong("target", ValueError)
            odd = (*rows, 11)
            return self.array("target", odd, [0, 1], INTEGERS)
        if self.one_in(40):
            self.is_wrong("target", TypeError)
            return self.lay(np.ones(rows, self.pick(["f8", "?", "c16", "U1"])))
        dtype = np.dtype("i8" if self.plain else self.pick(INTEGERS))
        limits = np.iinfo(dtype)
        labels = list(range(min(classes, 100))) or [0]
        if limits.min < 0:
            labels += [-100]
        if self.one_in(8):
            labels += [classes, limits.min, limits.max, limits.max - 99]
        labels = [label for label in labels if label <= limits.max]
        values = self.numbers(rows, labels).astype(dtype)
        found = self.lay(values)
        if check and not all(0 <= y < classes or y == ignore for y in found.ravel().tolist()):
            self.is_wrong("target", IndexError)
        # NumPy makes floats of a list of large and negative integers.
        if found.size and max(map(abs, found.ravel().tolist())) < 2**62 and self.one_in(8):
            return found.tolist()
        return found

    def one_hot(self, found):
        """Integers in place of probabilities are wrong if they are others than 0 and 1."""
        numbers = as_array(found)
        if numbers.dtype.kind in "iu" and ((numbers != 0) & (numbers != 1)).any():
            self.is_wrong("target", ValueError)
        return found

    def weight(self, name, shape, wrong_shapes):
        """Perhaps weights."""
        if self.plain or not self.one_in(3):
            return
        if self.one_in(12):
            shape = self.pick([wrong for wrong in wrong_shapes if wrong != shape])
            self.is_wrong(name, ValueError)
        palette = WEIGHTS
        if self.one_in(12):
            palette, self.wild = WEIGHTS + WILD + SPECIAL, True
        self.arguments[name] = self.array(name, shape, palette, [*NUMBERS, "g"])

    def outputs(self, shape, own, x):
        """The return flags and buffers."""
        for flag in FLAGS[self.name]:
            if self.one_in(3) and (flag == "grad" or not self.plain):
                self.arguments[f"return_{flag}"] = True
        inputs = [a for a in self.arguments.values() if isinstance(a, np.ndarray)]
        gradient = None
        if self.one_in(3):
            gradient = self.buffer("grad_out", shape, own, inputs, x)
        if self.name == "cross_entropy" and self.one_in(6):
            more = [gradient] if isinstance(gradient, np.ndarray) else []
            self.buffer("probs_out", shape, own, inputs + more)

    def product(self, shape, own, x):
        """The vector, and perhaps a buffer for the product."""
        v = self.arguments["vector"] = self.vector("vector", shape)
        if self.one_in(2):
            inputs = [a for a in self.arguments.values() if isinstance(a, np.ndarray)]
            self.buffer("out", shape, own, inputs, x, v)

    def palette(self, probs):
        """The numbers that the first argument is drawn from."""
        palette = PROBS if probs else LOGITS
        if self.one_in(4):
            palette = palette + (BAD_PROBS if probs else SPECIAL)
        if self.one_in(12):
            palette, self.wild = palette + WILD, True
        return palette

    def binary(self):
        """The two losses of elements, and the product of the one of logits."""
        probs = self.name == "binary_cross_entropy"
        first = "probs" if probs else "logits"
        shape = self.shape(0)
        x = self.arguments[first] = self.input(first, shape, self.palette(probs))
        aim = shape
        if self.one_in(30):
            aim = (*shape, 1)
            self.is_wrong("target", ValueError)
        labels = self.pick([[0.0, 1.0], [0.0, 1.0, 0.5, 0.125], [0.0, 1.0, 2.0]])
        self.arguments["target"] = self.one_hot(self.array("target", aim, labels, NUMBERS))
        fitting = [shape, shape[-1:], (), (1,) * len(shape)]
        for name in ("weight",) if probs else ("weight", "pos_weight"):
            self.weight(name, self.pick(fitting), [(2, *shape), (*shape[:-1], 11)])
        self.option("reduction", ["mean", "sum", "none"], ["average", None, 3, np.ones(2)])
        if probs:
            self.option("eps", [None, 1e-15, 0.01, 0.25], [0, 0.5, -0.1, np.nan, 1e-320], NO_NUMBER)
        if self.name in PRODUCTS:
            self.product(shape, own_type(x), x)
        else:
            self.outputs(shape, own_type(x), x)

    def linear(self):
        """The loss of features and a linear map, and its product."""
        outer = self.shape(1)[:-1]
        classes, features = self.pick([3, 1, 2, 5, 9, 17]), self.pick([3, 1, 2, 5, 9, 0])
        palette = FEATURES
        if self.one_in(12):
            palette, self.wild = FEATURES + WILD + SPECIAL, True
        shapes = {"x": (*outer, features), "linear_weight": (classes, features)}
        if self.one_in(2):
            shapes["linear_bias"] = (classes,)
        if self.one_in(20):
            name = self.pick(sorted(shapes))
            shapes[name] = (*shapes[name][:-1], 11)
            # A mismatch of two is told of the one that comes later, or of the one that has to fit.
            self.is_wrong("linear_bias" if name == "linear_bias" else "x", ValueError)
        for name, shape in shapes.items():
            self.arguments[name] = self.input(name, shape, palette)
        self.row_options((*outer, classes), -1, list(self.arguments.values()))
        for flag in FLAGS[self.name]:
            if self.one_in(3):
                self.arguments[f"return_{flag}"] = True
        made = self.option(
            "wrt", ["x", ("linear_weight",), ("linear_bias", "x")], ["y", (), ("x", "y")], [3, None]
        )
        made = (made,) if isinstance(made, str) else made
        if "wrt" in self.wrong or made is None:
            made = PARTS
        if self.name in PRODUCTS:
            self.linear_vector(shapes)
            if self.one_in(2):
                self.linear_buffers("out", made)
        elif self.one_in(3):
            self.linear_buffers("grad_out", made)
            if self.one_in(2):
                self.arguments["accumulate"] = True
        elif self.one_in(40):
            self.arguments["accumulate"] = True
            self.is_wrong("accumulate", ValueError)

    def linear_vector(self, shapes):
        """A vector of parts, some of them None."""
        parts = {}
        for name in PARTS:
            if name in shapes:
                here = self.vector(f"vector.{name}", shapes[name])
                parts[name] = None if self.one_in(4) else here
                if parts[name] is None:
                    self.wrong.pop(f"vector.{name}", None)
            else:
                parts[name] = None
                if self.one_in(30):
                    parts[name] = np.zeros(3)
                    self.is_wrong(f"vector.{name}", ValueError)
        if all(part is None for part in parts.values()):
            self.is_wrong("vector", ValueError)
        vector = self.pick([fx.LinearGrad(**parts), tuple(parts.values())])
        if self.one_in(40):
            vector = self.pick([vector[:2], list(vector), np.zeros(3), None])
            self.is_wrong("vector", ValueError)
        self.arguments["vector"] = vector

    def linear_buffers(self, argument, made):
        """Buffers for the computed parts; those of a product may lie over parts of the vector."""
        vector = self.arguments.get("vector")
        vector = vector if isinstance(vector, tuple) and len(vector) == 3 else (None,) * 3
        inputs = [*self.arguments.values(), *vector]
        inputs = [a for a in inputs if isinstance(a, np.ndarray)]
        parts = {}
        for name, own in zip(PARTS, vector, strict=True):
            if name in self.arguments and name in made:
                a = self.arguments[name]
                part = f"{argument}.{name}"
                owners = () if own is None else (own,)
                parts[name] = self.buffer(
                    part, np.shape(as_array(a)), own_type(a), inputs, *owners
                )  # fmt: skip
                del self.arguments[part]
            else:
                parts[name] = None
                if self.one_in(30):
                    parts[name] = np.zeros(3)
                    self.is_wrong(f"{argument}.{name}", ValueError)
        buffers = fx.LinearGrad(**parts)
        if self.one_in(40):
            buffers = self.pick([buffers[:2], list(buffers), np.zeros(3)])
            self.is_wrong(argument, ValueError)
        self.arguments[argument] = buffers


def as_array(value):
    """The argument as an array; an empty array if it is not one."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.zeros(0)


def own_type(value):
    """The type of results of the input's shape."""
    dtype = as_array(value).dtype
    return dtype.newbyteorder("=") if dtype.kind == "f" else np.dtype(np.float64)


def _is_default(ignore):
    return not isinstance(ignore, (float, str)) and ignore is not None and ignore == -100


def _overlaps_itself(a):
    return any(stride == 0 and n > 1 for stride, n in zip(a.strides, a.shape, strict=True))


def _is_amid(a):
    base = a.base
    return (
        isinstance(base, np.ndarray)
        and base.shape == (a.size + MARGIN,)
        and (base.dtype == a.dtype and base.flags.writeable)
    )


def _shared(a, b):
    return isinstance(b, np.ndarray) and np.shares_memory(a, b)
