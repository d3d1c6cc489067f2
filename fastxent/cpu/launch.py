"""Kernels chosen and compiled for a call, given rows, their results summed.

`x` is always the array with the class axis last. Shapes, types and options were checked before.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from fastxent.cpu import jit, kernels, narrow_kernels
from fastxent.cpu.blocks import (
    Operand,
    boxes,
    chunk_rows,
    collect,
    for_each_block,
    for_each_chunk,
)
from fastxent.records import Call, Options, Outputs, Target, Weights

Array = NDArray[Any]
DType = np.dtype[Any]

_F8, _I8, _BOOL, _NONE = types.float64, types.int64, types.boolean, types.none
_tuple: Any = types.Tuple
CLIP = _tuple((_tuple((_F8,) * 4), _F8, _F8))
DTYPES = {"f": types.float32, "d": types.float64}

# Up to how many classes a row is a lane of a vector, by what was measured to be faster: of
# softmax, of other rows that are written (gradients, logarithms), and where none are.
NARROW = {
    "softmax": {"f": 144, "d": 88},
    "rows": {"f": 200, "d": 120},
    "numbers": {"f": 320, "d": 160},
}

# The work of reading a label, in elements of a row of logits.
_LABEL_COST = 1

# Absent arrays that kernels ask by their size.
NO_FLOATS: dict[str, Any] = {"f": np.empty(0, np.float32), "d": np.empty(0, np.float64)}
# A weight that is one number, and the weight of what has none.
_ONES = {char: np.ones(kernels.CONSTANT_BYTES // np.dtype(char).itemsize, char) for char in "fd"}
_NO_INTS = np.empty(0, np.int64)


def array_type(dtype: Any, ndim: int, *, out: bool = False) -> Any:
    """Any layout, and for inputs read-only: so one compiled kernel takes every array."""
    return types.Array(dtype, ndim, "A", readonly=not out)


@functools.cache
def _row_kernel(source: Callable[..., Any], char: str, out_ndim: int) -> Callable[..., Any]:
    element = DTYPES[char]
    out = array_type(element, out_ndim, out=True)
    return jit.specialise(source, (array_type(element, 2), out, _I8, _I8))


@functools.cache
def _scan_kernel() -> Callable[..., Any]:
    floats, labels = array_type(_F8, 1), array_type(_I8, 1)
    signature = (labels, _I8, floats, floats, _BOOL, _I8, _I8, _I8)
    return jit.specialise(kernels.scan_labels, signature)


@functools.cache
def _cross_entropy_kernel(
    char: str, soft: bool, grad: bool, probs: bool, hess: bool
) -> Callable[..., Any]:
    floats, per_row, rows, wide_out = _row_types(char)
    target = rows if soft else array_type(_I8, 1)
    outs = [wide_out if wanted else _NONE for wanted in (grad, probs, hess)]
    exps = wide_out if grad or probs or hess else _NONE
    signature = (
        rows, target, array_type(_F8, 1), floats, array_type(_F8, 1), _F8,
        _BOOL, _I8, _F8, _F8, _F8, _F8, _F8, _F8, _F8,
        per_row, per_row, array_type(_I8, 1, out=True), exps, *outs, _I8, _I8,
    )  # fmt: skip
    return jit.specialise(kernels.cross_entropy_rows, signature)


@functools.cache
def _narrow_kernel(char: str, soft: bool, grad: bool, hess: bool) -> Callable[..., Any]:
    floats, per_row, rows, wide_out = _row_types(char)
    signature = (
        rows, rows if soft else array_type(_I8, 1), array_type(_F8, 1), floats,
        array_type(_F8, 1), _F8, _BOOL, _I8, _F8, _F8, _F8, _F8,
        per_row, *(wide_out if wanted else _NONE for wanted in (grad, hess)), _I8, _I8,
    )  # fmt: skip
    return jit.specialise(narrow_kernels.narrow_cross_entropy_rows, signature)


@functools.cache
def _categorical_kernel(char: str, soft: bool, grad: bool) -> Callable[..., Any]:
    floats, per_row, rows, wide_out = _row_types(char)
    signature = (
        rows, rows if soft else array_type(_I8, 1), array_type(_F8, 1), floats, _I8,
        array_type(_F8, 1), _BOOL, _I8, CLIP, _F8,
        per_row, wide_out if grad else _NONE, _I8, _I8,
    )  # fmt: skip
    return jit.specialise(kernels.categorical_rows, signature)


def _row_types(char: str) -> list[Any]:
    """Of an element type: one row to read, one number a row to write, rows to read and to write."""
    element = DTYPES[char]
    return [array_type(element, ndim, out=out) for ndim in (1, 2) for out in (False, True)]


def softmax(call: Call) -> None:
    """Fill out with softmax over the last axis."""
    x, out, compute = call.x, call.outputs.out, call.compute
    narrow = is_narrow("softmax", compute.char, x.shape[-1])
    source = narrow_kernels.narrow_softmax_rows if narrow else kernels.softmax_rows
    _map_rows(_row_kernel(source, compute.char, 2), x, out, compute)


def log_softmax(call: Call) -> None:
    """Fill out with log-softmax over the last axis."""
    x, out, compute = call.x, call.outputs.out, call.compute
    narrow = is_narrow("rows", compute.char, x.shape[-1])
    source = narrow_kernels.narrow_log_softmax_rows if narrow else kernels.log_softmax_rows
    _map_rows(_row_kernel(source, compute.char, 2), x, out, compute)


def is_narrow(written: str, char: str, n_classes: int) -> bool:
    """Whether the kernels of few classes write this, a key of `NARROW`, for so many."""
    return n_classes <= NARROW[written][char]


def _written(*rows: Array | None) -> str:
    for array in rows:
        if array is not None:
            return "rows"
    return "numbers"


def _map_rows(kernel: Callable[..., Any], x: Array, out: Array, compute: DType) -> None:
    for_each_block(
        lambda arrays, base, lo, hi: kernel(*arrays, lo, hi),
        [Operand(x, compute)],
        [Operand(out, compute)],
    )


def logsumexp(call: Call) -> None:
    """Fill out, (N,) of its own type, with logsumexp over the last axis."""
    x, out, compute = call.x, call.outputs.out, call.compute
    if not x.size:  # of no numbers
        out.fill(-math.inf)
        return
    found = out if out.dtype == compute else np.empty(out.size, compute)
    narrow = is_narrow("numbers", compute.char, x.shape[-1])
    source = narrow_kernels.narrow_logsumexp_rows if narrow else kernels.logsumexp_rows
    kernel = _row_kernel(source, compute.char, 1)
    for_each_block(
        lambda arrays, base, lo, hi: kernel(arrays[0], found[base:], lo, hi),
        [Operand(x, compute)],
        [],
    )
    if found is not out:
        with np.errstate(all="ignore"):  # half precision may not hold it
            out[:] = found


def scan_labels(
    labels: Array, n_classes: int, weights: Weights, options: Options, compute: DType, check: bool
) -> tuple[float, int, int]:
    """Σ counted·u·w_y, the divisor of the mean; the first row with a bad label, or -1, and that."""
    kernel = _scan_kernel()
    class_weight, sample_weight, ignoring, ignore_index = _absent_as_empty(weights, options)
    found = for_each_chunk(
        lambda lo, hi: kernel(
            labels, n_classes, class_weight, sample_weight, ignoring, ignore_index, lo, hi
        ),
        len(labels),
        _LABEL_COST,
    )
    first_bad = next((bad for _, bad in found if bad >= 0), -1)
    return (
        add_up([total for total, _ in found]),
        first_bad,
        int(labels[first_bad]) if first_bad >= 0 else 0,
    )


def first_beyond_one(integers: Array) -> tuple[int, int]:
    """The place in C order of the first that is neither 0 nor 1, or -1, and the integer."""
    parts = list(boxes(integers.shape, chunk_rows(integers.size, _LABEL_COST)))

    def search(k: int) -> int:
        box, lo, _ = parts[k]
        index: Any = (*box, ...)
        part: Any = integers[index]
        if not int(np.bitwise_or.reduce(part, axis=None)) & ~1:  # as for all but wrong targets
            return -1
        return lo + int(((part < 0) | (part > 1)).argmax())

    found = collect(search, len(parts), integers.size * _LABEL_COST)
    first = next((at for at in found if at >= 0), -1)
    return first, int(integers[np.unravel_index(first, integers.shape)]) if first >= 0 else 0


def total(weights: Array, compute: DType) -> float:
    """Σ of weights in float64, pairwise; beyond its range infinite, without a warning."""
    with np.errstate(all="ignore"):
        return float(weights.sum(dtype=np.float64))


def divided(losses: float, divisor: float) -> float:
    """A reduced loss; a mean over nothing (divisor 0) is nan."""
    return losses / divisor if divisor else math.nan


def add_up(parts: Iterable[float]) -> float:
    """The sum, correctly rounded where it is a number."""
    try:
        return math.fsum(parts)
    except (OverflowError, ValueError):  # beyond float64; inf and -inf
        return float(sum(parts, 0.0))


def _absent_as_empty(weights: Weights, options: Options) -> tuple[Any, Any, bool, int]:
    return (
        NO_FLOATS["d"] if weights.class_weight is None else weights.class_weight,
        NO_FLOATS["d"] if weights.sample_weight is None else weights.sample_weight,
        options.ignore_index is not None,
        0 if options.ignore_index is None else options.ignore_index,
    )


def cross_entropy(call: Call) -> float:
    """Fill the outputs; return Σ of the row losses / divisor."""
    return divided(fill_cross_entropy(call), call.divisor)


def fill_cross_entropy(call: Call) -> float:
    """Fill the outputs; return Σ of the row losses."""
    x, target, weights, terms = call.x, call.target, call.weights, call.options
    assert target is not None
    divisor, outputs, compute = call.divisor, call.outputs, call.compute
    n_classes = x.shape[-1]
    char = compute.char
    grad, probs, hess = outputs.grad, outputs.probs, outputs.hess
    smoothing = terms.label_smoothing
    labels, target_probs = target
    class_weight, sample_weight, ignoring, ignore_index = _absent_as_empty(weights, terms)
    lane_weight, total_weight = NO_FLOATS[char], 0.0
    if smoothing or (target_probs is not None and weights.class_weight is not None):
        lane_weight = _lane_weight(weights.class_weight, n_classes, compute)
        weighted = weights.class_weight is not None
        total_weight = total(lane_weight, compute) if weighted else float(n_classes)
    loss: Any = NO_FLOATS[char] if outputs.loss is None else outputs.loss
    lse: Any = NO_FLOATS[char] if outputs.lse is None else outputs.lse
    argmax: Any = _NO_INTS if outputs.argmax is None else outputs.argmax
    mix = (ignoring, ignore_index, 1.0 - smoothing, smoothing / n_classes)

    def narrow_call(arrays: list[Array | None], base: int, lo: int, hi: int) -> float:
        logits, *arrays = arrays
        wanted, d, _, h = arrays if labels is None else (labels[base:], *arrays)
        losses: float = kernel(
            logits, wanted, class_weight, lane_weight, sample_weight[base:], total_weight,
            *mix, divisor, terms.hess_factor, loss[base:], d, h, lo, hi,
        )  # fmt: skip
        return losses

    def wide_call(arrays: list[Array | None], base: int, lo: int, hi: int) -> float:
        logits, *arrays = arrays
        wanted, *wide = arrays if labels is None else (labels[base:], *arrays)
        exps = next((array for array in wide if array is not None), None)
        losses: float = kernel(
            logits, wanted, class_weight, lane_weight, sample_weight[base:], total_weight,
            *mix, terms.z_loss, terms.logit_scale, terms.softcap or 0.0, divisor,
            terms.hess_factor, loss[base:], lse[base:], argmax[base:], exps, *wide, lo, hi,
        )  # fmt: skip
        return losses

    few = is_narrow(_written(grad, hess), char, n_classes)
    narrow = few and _is_plain(target, terms, outputs)
    if narrow:
        kernel = _narrow_kernel(char, labels is None, grad is not None, hess is not None)
        run = narrow_call
    else:
        kernel = _cross_entropy_kernel(
            char, labels is None, grad is not None, probs is not None, hess is not None
        )
        run = wide_call
    given, wide = (
        [None if array is None else Operand(array, compute, columns=narrow) for array in arrays]
        for arrays in ((x, target_probs), (grad, probs, hess))
    )
    losses = add_up(for_each_block(run, [a for a in given if a is not None], wide))
    _no_gradient_of_nothing(divisor, grad, hess)
    return losses


def plain_cross_entropy(
    x: Array, labels: Array, ignore_index: int, mean: bool, grad: Array | None
) -> float | None:
    """Fill grad, return the loss of native rows without options, by the bits that they get above.

    None, before anything is written, where a label is bad or none counts.
    """
    n, n_classes = x.shape
    char = x.dtype.char
    empty, floats = NO_FLOATS["d"], NO_FLOATS[char]
    cost = Operand.row_cost(n_classes)
    # Then the labels, which cost less, are done in one piece too, and a small call is spared lists.
    at_once = n <= chunk_rows(n, cost)
    scan = functools.partial(_scan_kernel(), labels, n_classes, empty, empty, True, ignore_index)
    if at_once:
        counted, bad = scan(0, n)
    else:
        found = for_each_chunk(scan, n, _LABEL_COST)
        counted, bad = sum(part for part, _ in found), max(bad for _, bad in found)
    if bad >= 0 or not counted:
        return None
    divisor = counted if mean else 1.0
    rest: tuple[Any, ...]
    if is_narrow(_written(grad), char, n_classes):
        kernel = _narrow_kernel(char, False, grad is not None, False)
        rest = divisor, 1.0, floats, grad, None
    else:
        kernel = _cross_entropy_kernel(char, False, grad is not None, False, False)
        # z_loss, logit_scale and softcap first; loss, lse, argmax; exps; grad, probs, hess
        rest = 0.0, 1.0, 0.0, divisor, 1.0, floats, floats, _NO_INTS, grad, grad, None, None
    call = functools.partial(
        kernel, x, labels, empty, floats, empty, 0.0, True, ignore_index, 1.0, 0.0, *rest
    )
    losses: float = call(0, n) if at_once else add_up(for_each_chunk(call, n, cost))
    return losses / divisor


def _is_plain(target: Target, terms: Options, outputs: Outputs) -> bool:
    """Whether a call is one of those that there are kernels for narrow rows for."""
    moved = terms.z_loss or terms.logit_scale != 1.0 or terms.softcap is not None
    hess = None if target.probs is None else outputs.hess
    others = (outputs.lse, outputs.argmax, outputs.probs, hess)
    return not moved and all(array is None for array in others)


def _no_gradient_of_nothing(divisor: float, *arrays: Array | None) -> None:
    """A mean over nothing does not move."""
    for array in arrays:
        if array is not None and not divisor:
            array.fill(0)


def categorical_cross_entropy(call: Call) -> float:
    """Fill loss and grad; return Σ of the row losses / divisor, for probabilities x."""
    x, weights, clip, divisor = call.x, call.weights, call.clip, call.divisor
    outputs, compute = call.outputs, call.compute
    assert call.target is not None and clip is not None
    labels, target_probs = call.target
    class_weight, sample_weight, ignoring, ignore_index = _absent_as_empty(weights, call.options)
    varying = labels is None and weights.class_weight is not None
    lane_weight = (
        _lane_weight(weights.class_weight, x.shape[-1], compute)
        if varying
        else constant_weight(None, compute)
    )
    kernel = _categorical_kernel(compute.char, labels is None, outputs.grad is not None)
    loss: Any = NO_FLOATS[compute.char] if outputs.loss is None else outputs.loss

    def run(arrays: list[Array | None], base: int, lo: int, hi: int) -> float:
        probs, *arrays = arrays
        wanted, grad = arrays if labels is None else (labels[base:], *arrays)
        losses: float = kernel(
            probs, wanted, class_weight, lane_weight, int(varying), sample_weight[base:], ignoring,
            ignore_index, tuple(clip), divisor, loss[base:], grad, lo, hi,
        )  # fmt: skip
        return losses

    given = [Operand(array, compute) for array in (x, target_probs) if array is not None]
    grad = None if outputs.grad is None else Operand(outputs.grad, compute)
    losses = add_up(for_each_block(run, given, [grad]))
    _no_gradient_of_nothing(divisor, outputs.grad)
    return divided(losses, divisor)


def constant_weight(number: float | None, compute: DType) -> Array:
    """What a kernel reads of a weight that is one number; 1 for None."""
    if number is None:
        return _ONES[compute.char]
    with np.errstate(all="ignore"):  # float32 may not hold it
        return np.full_like(_ONES[compute.char], number)


def _lane_weight(class_weight: Array | None, n_classes: int, compute: DType) -> Array:
    """Class weights in the type that rows are computed in; ones if there are none."""
    weight = np.ones(n_classes, compute)
    if class_weight is not None:
        with np.errstate(all="ignore"):  # float32 may not hold a float64
            weight[:] = class_weight
    return weight
