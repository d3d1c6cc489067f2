"""Select a kernel for a call, run it over blocks of rows, and sum the losses.

The class axis of an input is the last one; shapes, types and options have been checked.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastxent.cpu import arguments, jit
from fastxent.cpu.arguments import (
    ELEMENTS,
    FLOAT,
    INTEGER,
    NO_WEIGHT_ARRAYS,
    KernelOptions,
    OutputArrays,
    WeightArrays,
    array_type,
    at_row,
    label_mask,
)
from fastxent.cpu.blocks import (
    Operands,
    as_operand,
    boxes,
    chunk_rows,
    collect,
    find_operands,
    for_each_block,
    for_each_chunk,
    row_cost,
    rows_at_once,
)
from fastxent.cpu.label_type import LABEL
from fastxent.options import Clip
from fastxent.records import Call, Options, Weights
from fastxent.results import RULES

Array = NDArray[Any]
DType = np.dtype[Any]
Kernel = Callable[..., Any]

# The largest number of classes for which the kernels of few classes were measured to be faster: of
# softmax, of other results with one number per class (gradients, logarithms), of those without.
MAX_FEW_CLASSES = {
    "softmax": {"f": 144, "d": 88},
    "per class": {"f": 200, "d": 120},
    "per row": {"f": 320, "d": 160},
    "product": {"f": 144, "d": 88},
}

# What kernels of few classes take as `tiles`, by the layout of their arrays.
ROWS: tuple[Any, ...] = (None,)
COLUMNS: tuple[Any, ...] = (0,)

# The letter of class indices among those of the types of targets.
LABELS = "q"

# Column-major rows are computed as they are up to this number of classes.
MAX_COLUMNS = 2048

SCAN_LABELS = jit.Source("kernels", "scan_labels")
_CATEGORICAL_ROWS = jit.Source("kernels", "categorical_rows")
_CATEGORICAL_LABEL_ROWS = jit.Source("categorical_kernels", "categorical_label_rows")

# What the loss of few classes supports: these options, and outputs by the kind of target.
FEW_CLASSES_OPTIONS = {
    "ignoring", "ignore_index", "label_mask", "one_minus_eps", "eps_over_c", "hess_factor"
}  # fmt: skip
FEW_CLASSES_LABELS, FEW_CLASSES_PROBS = (
    arguments.Support(FEW_CLASSES_OPTIONS, outputs)
    for outputs in ({"loss", "grad", "hess", "entropy"}, {"loss", "grad", "entropy"})
)
_DERIVATIVES = [name for name, rule in RULES.items() if rule and rule.is_derivative]

# Costs in elements of a row of logits: of reading a label, and of a row of probabilities of which
# one number is read. The last is the number of elements of such a row's gradient that are written
# in the time of one element of logits.
_LABEL_COST, _GATHER_COST, _ZEROS = 1, 6, 2


def has_few_classes(results: str, char: str, n_classes: int) -> bool:
    """Whether the kernels of few classes compute these results, a key of `MAX_FEW_CLASSES`."""
    return n_classes <= MAX_FEW_CLASSES[results][char]


# --- softmax and its logarithms -------------------------------------------------------------


def map_signature(
    char: str, out_char: str, out_ndim: int, layout: tuple[Any, ...] = ()
) -> tuple[Any, ...]:
    """Return the types of a kernel's arguments (x, out, …, lo, hi)."""
    out = array_type(ELEMENTS[out_char], out_ndim, out=True)
    others = [arguments.numba_type(kind, char) for kind in map(type, layout)]
    return array_type(ELEMENTS[char], 2), out, *others, INTEGER, INTEGER


@functools.cache
def _map_kernel(
    name: str, layout: tuple[Any, ...], char: str, out_char: str, out_ndim: int
) -> Kernel:
    signature = map_signature(char, out_char, out_ndim, layout)
    return jit.specialise(_rows_kernel(name, bool(layout)), signature)


def _rows_kernel(name: str, few: bool) -> jit.Source:
    """The kernel of this name, of few classes or of any."""
    return jit.Source("few_class_kernels" if few else "kernels", name)


def layout_of(few: bool, planes: Any) -> tuple[Any, ...]:
    """The additional argument of kernels of few classes; empty for other kernels."""
    return COLUMNS if planes is not None else ROWS if few else ()


def softmax(call: Call) -> None:
    """Fill out with softmax over the last axis."""
    _map_rows("softmax_rows", "softmax", call)


def log_softmax(call: Call) -> None:
    """Fill out with log-softmax over the last axis."""
    _map_rows("log_softmax_rows", "per class", call)


def _map_rows(name: str, results: str, call: Call) -> None:
    x, out, compute = call.x, call.outputs.out, call.compute
    n_classes = x.shape[-1]
    few = has_few_classes(results, compute.char, n_classes)
    rows, written = as_operand(x, compute, 1), as_operand(out, compute, 1)
    if rows is not None and written is not None:  # the common case: a small call needs no lists
        layout = ROWS if few else ()
        kernel = _map_kernel(name, layout, compute.char, compute.char, 2)
        on_rows = functools.partial(kernel, rows, written, *layout)
        for_each_chunk(on_rows, len(rows), row_cost(n_classes))
        return
    operands = find_operands((x,), (out,), compute, columns=n_classes <= MAX_COLUMNS)
    layout = layout_of(few, operands.planes)
    kernel = _map_kernel(name, layout, operands.types[0].char, operands.types[1].char, 2)
    for_each_block(lambda arrays, base: functools.partial(kernel, *arrays, *layout), operands)


def logsumexp(call: Call) -> None:
    """Fill out, (N,) of its own type, with logsumexp over the last axis."""
    x, out, compute = call.x, call.outputs.out, call.compute
    if not x.size:  # of an empty axis
        out.fill(-math.inf)
        return
    computed = out if out.dtype == compute else np.empty(out.size, compute)
    n_classes = x.shape[-1]
    few, rows = has_few_classes("per row", compute.char, n_classes), as_operand(x, compute, 1)
    if rows is not None:  # as in `_map_rows`
        layout = ROWS if few else ()
        kernel = _map_kernel("logsumexp_rows", layout, compute.char, compute.char, 1)
        on_rows = functools.partial(kernel, rows, computed, *layout)
        for_each_chunk(on_rows, len(rows), row_cost(n_classes))
    else:
        operands = find_operands((x,), (), compute, columns=n_classes <= MAX_COLUMNS)
        layout = layout_of(few, operands.planes)
        kernel = _map_kernel("logsumexp_rows", layout, operands.types[0].char, compute.char, 1)
        for_each_block(
            lambda arrays, base: functools.partial(kernel, *arrays, computed[base:], *layout),
            operands,
        )
    if computed is not out:
        with np.errstate(all="ignore"):  # half precision may not hold it
            out[:] = computed


# --- targets and weights --------------------------------------------------------------------


@functools.cache
def scan_kernel() -> Kernel:
    """The kernel that checks and counts labels."""
    return jit.specialise(SCAN_LABELS, scan_signature())


def scan_signature() -> tuple[Any, ...]:
    """The types of its arguments (labels, classes, weights, options, lo, hi)."""
    weights, options = (arguments.numba_type(kind, "d") for kind in (WeightArrays, KernelOptions))
    return array_type(LABEL, 1), INTEGER, weights, options, INTEGER, INTEGER


def scan_labels(
    labels: Array, n_classes: int, weights: Weights, options: Options, compute: DType, check: bool
) -> tuple[float, int, int]:
    """Return the divisor of the mean, Σ u·w_y over active rows, and the first bad label.

    That is (divisor, row, label), with row -1 if there is none.
    """
    scan = functools.partial(
        scan_kernel(), labels, n_classes, arguments.pack_weights(weights, "d"),
        arguments.pack_options(options, n_classes, label_mask(labels.dtype)),
    )  # fmt: skip
    results = for_each_chunk(scan, len(labels), _LABEL_COST)
    if len(results) == 1:  # the common case
        ((divisor, first_bad),) = results
    else:
        first_bad = next((bad for _, bad in results if bad >= 0), -1)
        divisor = add_up([part for part, _ in results])
    return divisor, first_bad, int(labels[first_bad]) if first_bad >= 0 else 0


def first_beyond_one(integers: Array) -> tuple[int, int]:
    """Return the index in C order of the first integer other than 0 and 1, or -1, and its value."""
    parts = list(boxes(integers.shape, chunk_rows(integers.size, _LABEL_COST)))

    def search(k: int) -> int:
        box, lo, _ = parts[k]
        index: Any = (*box, ...)
        part: Any = integers[index]
        if not int(np.bitwise_or.reduce(part, axis=None)) & ~1:  # the common case
            return -1
        return lo + int(((part < 0) | (part > 1)).argmax())

    results = collect(search, len(parts), integers.size * _LABEL_COST)
    first = next((at for at in results if at >= 0), -1)
    return first, int(integers[np.unravel_index(first, integers.shape)]) if first >= 0 else 0


def total(weights: Array, compute: DType) -> float:
    """Return the pairwise sum of weights in float64; inf without a warning beyond its range."""
    with np.errstate(all="ignore"):
        return float(weights.sum(dtype=np.float64))


def _row_weight(class_weight: Array | None, n_classes: int, compute: DType) -> tuple[Array, float]:
    """The class weights in the type of the arithmetic and their sum; ones if there are none."""
    if class_weight is None:
        return np.ones(n_classes, compute), float(n_classes)
    with np.errstate(all="ignore"):  # float32 may not hold a float64
        row_weight = class_weight.astype(compute)
        return row_weight, float(np.add.reduce(row_weight, dtype=np.float64))


# --- losses ---------------------------------------------------------------------------------


def loss_signature(
    char: str, target_char: str, requested: tuple[str, ...], kinds: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Return the types of a kernel's arguments (x, target, …, divisor, outputs, lo, hi).

    `kinds` are the named tuples after the target, `requested` the per-class outputs that are not
    None; `target_char` is the letter of probabilities, LABELS of class indices.
    """
    rows = array_type(ELEMENTS[char], 2)
    is_labels = target_char == LABELS
    target = array_type(LABEL, 1) if is_labels else array_type(ELEMENTS[target_char], 2)
    types = [arguments.numba_type(kind, char) for kind in kinds]
    outputs = arguments.numba_type(OutputArrays, char, requested)
    return rows, target, *types, FLOAT, outputs, INTEGER, INTEGER


@functools.cache
def _loss_kernel(
    source: jit.Source, char: str, target_char: str, requested: tuple[str, ...],
    kinds: tuple[Any, ...],
) -> Kernel:  # fmt: skip
    return jit.specialise(source, loss_signature(char, target_char, requested, kinds))


def _find_operands(call: Call, columns: bool) -> Operands:
    """The inputs and outputs with one number per class; `columns` allows column-major rows."""
    assert call.target is not None
    x, probs = call.x, call.target.probs
    inputs, outputs = (x,) if probs is None else (x, probs), arguments.per_class(call.outputs)
    return find_operands(inputs, outputs, call.compute, columns=columns)


class Selection(NamedTuple):
    """The kernel of a loss of rows, its arguments after the options, and its arrays.

    `cost` is that of a row of which only a part is read; None otherwise.
    """

    source: jit.Source
    extra: tuple[Any, ...]
    operands: Operands
    cost: int | None = None


def _fill(call: Call, selection: Selection, weights: WeightArrays, options: Any) -> float:
    """Run a kernel over all rows; return Σ of the row losses."""
    assert call.target is not None
    source, extra, operands, cost = selection
    labels, compute, divisor, outputs = call.target.labels, call.compute, call.divisor, call.outputs
    n, kernel = len(operands.inputs), kernel_of(call, selection)

    def bind(arrays: list[Array | None], base: int) -> Callable[[int, int], float]:
        target = arrays[1] if labels is None else labels[base:]
        packed = arguments.pack_outputs(outputs, compute.char, arrays[n:], base)
        return functools.partial(
            kernel, arrays[0], target, at_row(weights, base), options, *extra, divisor, packed
        )

    losses = add_up(for_each_block(bind, operands, cost=cost))
    if not call.divisor:  # the mean of no rows has zero gradient
        for name in _DERIVATIVES:
            if (array := getattr(outputs, name)) is not None:
                array.fill(0)
    return losses


def kernel_of(call: Call, selection: Selection) -> Kernel:
    """The compiled kernel."""
    assert call.target is not None
    types = selection.operands.types
    char, target_char = types[0].char, LABELS if call.target.labels is not None else types[1].char
    kinds = (WeightArrays, KernelOptions, *map(type, selection.extra))
    return _loss_kernel(
        selection.source, char, target_char, arguments.requested(call.outputs), kinds
    )


def select(call: Call, options: Any) -> Selection:
    """Find the kernel of a loss of rows with these options."""
    assert call.target is not None
    n_classes, has_labels = call.x.shape[-1], call.target.labels is not None
    if call.clip is not None:
        operands = _find_operands(call, columns=has_labels)
        if not has_labels:
            return Selection(_CATEGORICAL_ROWS, (call.clip,), operands)
        cost = _gathered_row_cost(n_classes, call.outputs.grad is not None)
        return Selection(_CATEGORICAL_LABEL_ROWS, (call.clip,), operands, cost)
    results = "per class" if arguments.requested(call.outputs) else "per row"
    support = FEW_CLASSES_LABELS if has_labels else FEW_CLASSES_PROBS
    enough = support.is_enough(options, call.outputs)
    operands = _find_operands(call, columns=enough and n_classes <= MAX_COLUMNS)
    layout = layout_of(
        enough and has_few_classes(results, call.compute.char, n_classes), operands.planes
    )
    return Selection(_rows_kernel("cross_entropy_rows", bool(layout)), layout, operands)


def pack_row_weights(
    weights: Weights, smoothing: float, is_soft: bool, of_logits: bool, n_classes: int,
    compute: DType,
) -> WeightArrays:  # fmt: skip
    """The weights of a loss of rows: those of all classes where all are needed."""
    char, class_weight = compute.char, weights.class_weight
    if of_logits:
        if not smoothing and not (is_soft and class_weight is not None):
            return arguments.pack_weights(weights, char)
        row_weight, of_all = _row_weight(class_weight, n_classes, compute)
        return arguments.pack_weights(weights, char, row_weight, total_weight=of_all)
    if not is_soft:
        return arguments.pack_weights(weights, char)
    if class_weight is None:
        ones = arguments.constant_weight(None, char)
        return arguments.pack_weights(weights, char, ones, row_weight_step=0)
    return arguments.pack_weights(weights, char, _row_weight(class_weight, n_classes, compute)[0])


def fill_losses(call: Call) -> float:
    """Fill the outputs of a loss of rows; return Σ of the row losses."""
    assert call.target is not None
    packed = pack_options(call)
    weights = pack_row_weights(
        call.weights, call.options.label_smoothing, call.target.labels is None, call.clip is None,
        call.x.shape[-1], call.compute,
    )  # fmt: skip
    return _fill(call, select(call, packed), weights, packed)


def cross_entropy(call: Call) -> float:
    """Fill the outputs; return Σ of the row losses / divisor."""
    return divided(fill_losses(call), call.divisor)


def categorical_cross_entropy(call: Call) -> float:
    """Fill loss and grad for probabilities x; return Σ of the row losses / divisor."""
    return divided(fill_losses(call), call.divisor)


def pack_options(call: Call) -> Any:
    """The options of a loss of rows."""
    assert call.target is not None
    mask = -1 if call.target.labels is None else label_mask(call.target.labels.dtype)
    return arguments.pack_options(call.options, call.x.shape[-1], mask)


def _gathered_row_cost(n_classes: int, has_grad: bool) -> int:
    """The work of a row of probabilities of which one is read, in elements."""
    return _GATHER_COST + (n_classes // _ZEROS if has_grad else 0)


def plain_cross_entropy(
    x: Array, labels: Array, ignore_index: int, mean: bool, grad: Array | None,
    clip: Clip | None = None,
) -> float | None:  # fmt: skip
    """Fill grad and return the loss of native rows without options, bit-identical to the above.

    The rows are logits or, with `clip`, probabilities. Returns None, before anything is written,
    where a label is bad or no row is active.
    """
    (n, n_classes), char = x.shape, x.dtype.char
    kernel, extra, cost, rows = _plain_kernel(char, n_classes, grad is not None, clip)
    options, scan = _plain_options(ignore_index, labels.dtype.char), scan_kernel()
    scan_args = labels, n_classes, NO_WEIGHT_ARRAYS["d"], options
    # If the rows are one chunk, so are the labels, which cost less; a small call needs no lists.
    at_once = n <= rows or n <= chunk_rows(n, cost)
    if at_once:
        counted, bad = scan(*scan_args, 0, n)
    else:
        results = for_each_chunk(functools.partial(scan, *scan_args), n, _LABEL_COST)
        counted, bad = sum(part for part, _ in results), max(bad for _, bad in results)
    if bad >= 0 or not counted:
        return None
    divisor = counted if mean else 1.0
    outputs, weights = arguments.only_grad(grad, char), NO_WEIGHT_ARRAYS[char]
    if at_once:
        losses: float = kernel(x, labels, weights, options, *extra, divisor, outputs, 0, n)
    else:
        args = x, labels, weights, options, *extra, divisor, outputs
        losses = add_up(for_each_chunk(functools.partial(kernel, *args), n, cost))
    return losses / divisor


def loss_kernel(char: str, has_grad: bool, few: bool) -> tuple[jit.Source, tuple[Any, ...]]:
    """The kernel of a plain call, and the types of its arguments."""
    source = _rows_kernel("cross_entropy_rows", few)
    kinds = (WeightArrays, KernelOptions, *map(type, ROWS if few else ()))
    return source, loss_signature(char, LABELS, ("grad",) * has_grad, kinds)


@functools.lru_cache(1024)
def _plain_kernel(
    char: str, n_classes: int, has_grad: bool, clip: Clip | None
) -> tuple[Kernel, tuple[Any, ...], int, int]:
    """The kernel, its arguments after the options, a row's cost, the rows that are one chunk."""
    if clip is not None:
        kinds = WeightArrays, KernelOptions, Clip
        requested = ("grad",) * has_grad
        kernel = _loss_kernel(_CATEGORICAL_LABEL_ROWS, char, LABELS, requested, kinds)
        cost = _gathered_row_cost(n_classes, has_grad)
        return kernel, (clip,), cost, rows_at_once(cost)
    few = has_few_classes("per class" if has_grad else "per row", char, n_classes)
    kernel = jit.specialise(*loss_kernel(char, has_grad, few))
    cost = row_cost(n_classes)
    return kernel, ROWS if few else (), cost, rows_at_once(cost)


@functools.lru_cache(16)
def _plain_options(ignore_index: int, label_char: str) -> Any:
    return arguments.pack_options(Options(ignore_index), 1, label_mask(np.dtype(label_char)))


def divided(losses: float, divisor: float) -> float:
    """Return a reduced loss; the mean of no rows (divisor 0) is nan."""
    return losses / divisor if divisor else math.nan


def add_up(parts: Iterable[float]) -> float:
    """Return the sum, correctly rounded if all parts are finite."""
    try:
        return math.fsum(parts)
    except (OverflowError, ValueError):  # beyond float64; inf and -inf
        return float(sum(parts, 0.0))
