"""Kernels chosen for a call and launched: rows as they lie, or by blocks where they must change.

`x` is always the array with the class axis last. Shapes, types and options were checked before.
Nothing here waits for the GPU but the check of labels; sums and divisors stay there.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastxent.cuda import array_kernels, driver, kernels, split_kernels
from fastxent.cuda.addresses import noted
from fastxent.cuda.elements import Element, element
from fastxent.cuda.groups import Plan
from fastxent.cuda.jit import Kernel, kernel
from fastxent.records import NO_OPTIONS, NO_WEIGHTS, Call, Options, Place, Weights

Array = Any  # fastxent.arrays.device.DeviceArray, which this layer does not know

# Threads of a block of a sum, and how many numbers a block adds up: so many that few blocks are
# left, and so few that a small array still has several.
THREADS = 256
CHUNK = 4096
# What is converted on its way to a kernel is so much at a time: it stays in the L2 cache.
BLOCK_BYTES = 16 << 20

# Threads a row and vectors of 16 bytes a thread, from the shortest rows to those that do not fit.
PLANS = ((8, 4), (32, 4), (32, 8), (128, 8), (256, 8), (256, 16), (512, 16))
# The same of single elements, for short rows, which seldom begin at a multiple of 16 bytes, and for
# those that do not lie like what is written.
PLANS_OF_SINGLES = ((4, 8), (32, 8), (128, 8), (256, 16))
SHORT = 32  # the classes up to which rows are read as single elements
# How many elements a thread may hold, by how much a kernel makes of each: more would not fit its
# registers, or its loops no longer be unrolled, so that what it holds went to memory.
LITTLE, SOME, MUCH = 64, 16, 4
# Threads on a multiprocessor, by vectors a thread: 65,536 registers are dealt out among them.
RESIDENT = {1: 768, 2: 768, 4: 768, 8: 768, 16: 512}
SMALL_BLOCK = 128  # the threads of a block of rows that take less
PART = 16384  # the elements of a part, at most, where a row is on several blocks by two kernels
CLUSTERS = (2, 4, 8)  # how many blocks may be a cluster, on every GPU that has clusters


@functools.cache
def plan_of(
    item: Element, n_classes: int, wide: bool, effort: int = LITTLE, older: bool = False
) -> Plan:
    """How threads lie on rows of so many classes; on GPUs `older` than compute capability 9."""
    wide = wide and n_classes > SHORT
    width = item.width if wide else 1
    limit = effort if item.size < 8 else min(effort, SOME // 2)  # a double takes two registers
    table = [(t, min(v, max(1, limit // width))) for t, v in (PLANS if wide else PLANS_OF_SINGLES)]
    if older:  # whose code takes more registers: a block of the largest would not have enough
        table = [(t, v) for t, v in table if t * v < 512 * 16]
    # The edges of a row that is read by vectors are single elements, one a thread.
    edges = 2 * (width - 1)
    fitting = [(t, v) for t, v in table if t * v * width >= n_classes and t >= edges]
    threads, vectors = fitting[0] if fitting else table[-1]
    rows = max(1, SMALL_BLOCK // threads)
    blocks = blocks_for(item, vectors, threads * rows, older)
    return Plan(threads, vectors, rows, wide, not fitting, blocks)


def blocks_for(item: Element, vectors: int, block: int, older: bool) -> int:
    """How many blocks of threads with so many vectors a multiprocessor should have room for."""
    resident = RESIDENT[vectors] * 2 // 3 if older or item.size == 2 else RESIDENT[vectors]
    return max(1, resident // block)


def is_older(place: Place) -> bool:
    """Whether a place's GPU is older than compute capability 9."""
    return driver.capability(place.device) < (9, 0)


class Rows(NamedTuple):
    """Rows as kernels take them: an address, the bytes from one to the next, their number."""

    address: int
    pitch: int
    n: int


def rows_of(array: Array) -> Rows | None:
    """An array's rows, if they lie evenly and their elements side by side; None if not."""
    size = array.dtype.itemsize
    *outer, n_classes = array.shape
    *steps, last = array.strides
    if n_classes > 1 and last != size:
        return None
    n, pitch = 1, n_classes * size
    for length, step in zip(reversed(outer), reversed(steps), strict=True):
        if length == 1:
            continue
        if n == 1:
            pitch = step
        elif step != n * pitch:
            return None
        n *= length
    if pitch < 0 or pitch % size or array.address % size:
        return None
    return Rows(array.address, pitch, n)


def is_wide(first: Rows, *others: Rows | None) -> bool:
    """Whether rows begin at the same distance from a multiple of 16 bytes in all arrays."""
    return all(
        o is None or (o.address - first.address) % 16 == 0 and (o.pitch - first.pitch) % 16 == 0
        for o in others
    )


def run(prepared: Kernel, grid: int, place: Place, *args: Any) -> None:
    """Launch, unless there is nothing to do."""
    if grid:
        noted(driver.launch(prepared, grid, place, *args), prepared.addresses, args)


def _grid(n: int, block: int) -> int:
    return -(-n // block)


def _at(array: Array | None) -> int:
    address: int = 0 if array is None else array.address
    return address


@functools.cache
def name_of(dtype: Any) -> str:
    """A type's name, which NumPy puts together anew each time it is asked."""
    return str(dtype.name)


@functools.cache
def number_of(compute: Any) -> Element:
    """The element type that is computed in."""
    return element(name_of(compute))


# --- sums, divisors, labels -----------------------------------------------------------------


_DOUBLE, _LONG = np.dtype(np.float64), np.dtype(np.int64)

# What the kernels that are not about rows take; an array of rank 4 is nine arguments.
_LAYOUT = "ai" + "iii" + "iiii"
SIGNATURES: dict[Callable[..., Any], str] = {
    array_kernels.scan_kernel: "aiiiaaiiiaaaaa",
    array_kernels.sum_kernel: "aiia",
    array_kernels.divisor_kernel: "aaiaiaaa",
    array_kernels.mean_kernel: "aiada",
    array_kernels.copy_labels_kernel: _LAYOUT + "iia",
    array_kernels.gather_kernel: _LAYOUT + "iiffa",
    array_kernels.chain_kernel: _LAYOUT + "iiffa",
    array_kernels.scatter_kernel: "a" + _LAYOUT + "iii",
    array_kernels.clear_kernel: "ai" + "aiii" + "aafii",
}


@functools.cache
def _kernel(factory: Callable[..., Any], compute: Any, *how: Any) -> Kernel:
    number = number_of(compute)
    return kernel(
        factory, number, THREADS, *how, signature=SIGNATURES[factory], compute=number.compute,
        block=THREADS,
    )  # fmt: skip


class Divisor(NamedTuple):
    """What losses are divided by, on the GPU: a float64, and its inverse as it is computed with."""

    value: Array
    inverse: Array


class Labels(NamedTuple):
    """Class indices as kernels take them: contiguous, of a kind, and which one is ignored."""

    address: int
    kind: int
    ignoring: int
    ignored: int
    kept: Array

    @classmethod
    def of(cls, labels: Array, ignore_index: int | None) -> "Labels":
        """As they come, but for those that do not lie side by side."""
        kind = array_kernels.KINDS[name_of(labels.dtype)]
        if not labels.is_contiguous:
            labels = _side_by_side(labels, kind)
            kind = 6 | kind & 1
        bits = 8 << (kind >> 1)
        low, high = (0, 2**bits - 1) if kind & 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        if ignore_index is None or not low <= ignore_index <= high:
            return cls(labels.address, kind, 0, 0, labels)
        ignored = ignore_index - 2**64 if ignore_index >= 2**63 else ignore_index
        return cls(labels.address, kind, 1, ignored, labels)

    def arguments(self) -> tuple[int, int, int, int]:
        """What a kernel is given of them."""
        return self.address, self.kind, self.ignoring, self.ignored


def _side_by_side(labels: Array, kind: int) -> Array:
    copy = labels.new((labels.size,), np.dtype(np.uint64 if kind & 1 else np.int64))
    prepared = _kernel(array_kernels.copy_labels_kernel, _DOUBLE)
    for layout, first, count in layouts(labels):
        run(
            prepared, _grid(count, THREADS), labels.place, layout[0], kind, *layout[1:],
            0, count, copy.address + first * 8,
        )  # fmt: skip
    return copy


def scan_labels(
    labels: Array, n_classes: int, weights: Weights, options: Options, compute: Any, check: bool
) -> tuple[Divisor, int, int]:
    """Σ counted·u·w_y, the divisor of the mean; the first row with a bad label, or -1, and that.

    Where labels are checked this waits for the answer, once; not while the stream is recorded.
    """
    place, n = labels.place, labels.size
    read, terms = Labels.of(labels, options.ignore_index), converted_weights(weights, compute)
    report = driver.report(place) if check and not driver.is_capturing(place) else None
    report_at = 0 if report is None else driver.address_of(report)
    given_weights = _at(terms.class_weight), _at(terms.sample_weight)
    given = (*read.arguments(), *given_weights, n_classes, n, CHUNK)
    found = Divisor(labels.new((), _DOUBLE), labels.new((), compute))
    written = (found.value.address, found.inverse.address, report_at)
    if n <= CHUNK:
        run(_kernel(array_kernels.scan_kernel, compute, True), 1, place, *given, 0, 0, *written)
    else:
        grid = _grid(n, CHUNK)
        sums, bad_rows = labels.new((grid,), _DOUBLE), labels.new((grid,), _LONG)
        scan = _kernel(array_kernels.scan_kernel, compute, False)
        run(scan, grid, place, *given, sums.address, bad_rows.address, 0, 0, 0)
        _fill_divisor(sums, bad_rows, read, compute, written)
    if report is None:
        return found, -1, 0
    driver.wait(place)
    row, label = map(int, report)
    bad = -1 if row == array_kernels.NONE_BAD else row
    return found, bad, _as_unsigned(label, read.kind)


def first_beyond_one(integers: Array) -> tuple[int, int]:
    """The place in C order of the first that is neither 0 nor 1, or -1, and the integer.

    As labels of two classes they are scanned for one that is no class, which waits for the answer.
    """
    flat = integers.part(0, (integers.size,)) if integers.is_contiguous else integers
    _, at, value = scan_labels(flat, 2, NO_WEIGHTS, NO_OPTIONS, _DOUBLE, True)
    return at, value


def _as_unsigned(label: int, kind: int) -> int:
    return label + 2**64 if kind == 7 and label < 0 else label


def _fill_divisor(
    sums: Array, bad_rows: Array | None, labels: Labels | None, compute: Any,
    written: tuple[int, int, int],
) -> None:  # fmt: skip
    address, kind, *_ = (0, 0) if labels is None else labels.arguments()
    run(
        _kernel(array_kernels.divisor_kernel, compute), 1, sums.place,
        sums.address, _at(bad_rows), sums.size, address, kind, *written,
    )  # fmt: skip


def _divisor(sums: Array, compute: Any) -> Divisor:
    """The sum of sums as a divisor."""
    found = Divisor(sums.new((), _DOUBLE), sums.new((), compute))
    _fill_divisor(sums, None, None, compute, (found.value.address, found.inverse.address, 0))
    return found


def total(weights: Array, compute: Any) -> Divisor:
    """Σ of weights, as a divisor."""
    return _divisor(_sums(as_numbers(weights, compute)), compute)


def normalizer(value: Array, compute: Any) -> Divisor:
    """A number on the GPU as a divisor."""
    return _divisor(as_numbers(value, _DOUBLE), compute)


def _sums(values: Array) -> Array:
    """Sums of chunks, of numbers side by side."""
    sums = values.new((max(1, _grid(values.size, CHUNK)),), _DOUBLE)
    run(
        _kernel(array_kernels.sum_kernel, values.dtype), sums.size, values.place,
        values.address, values.size, CHUNK, sums.address,
    )  # fmt: skip
    return sums


def reduced(values: Array, divisor: float | Divisor) -> Array:
    """Σ of losses / divisor, as a number on the GPU of the losses' type."""
    alone = values.size <= CHUNK
    sums, out = values if alone else _sums(values), values.new((), values.dtype)
    known, at = (0.0, divisor.value.address) if isinstance(divisor, Divisor) else (divisor, 0)
    run(
        _kernel(array_kernels.mean_kernel, values.dtype, alone), 1, sums.place,
        sums.address, sums.size, at, float(known), out.address,
    )  # fmt: skip
    return out


def inverse_of(divisor: float | Divisor) -> tuple[int, float]:
    """What kernels take of a divisor: where its inverse is, or that; 0 of 0."""
    if isinstance(divisor, Divisor):
        return divisor.inverse.address, 0.0
    return 0, 1.0 / divisor if divisor else 0.0


# --- other types and layouts ----------------------------------------------------------------


def layouts(array: Array) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """An array as arrays of rank 4, which kernels take, and where their elements are in it.

    Of each: (address, three sizes, four strides); its first element's number; how many it has.
    """
    dims: list[tuple[int, int]] = []
    for n, stride in zip(array.shape, array.strides, strict=True):
        if n == 1:
            continue
        if dims and dims[-1][1] == n * stride:  # one dimension with the one before
            dims[-1] = (dims[-1][0] * n, stride)
        else:
            dims.append((n, stride))
    dims = [(1, 0)] * (4 - len(dims)) + dims
    outer, inner = dims[:-4], dims[-4:]
    count = math.prod(n for n, _ in inner)
    (_, *sizes), strides = zip(*inner, strict=True)
    for number, index in enumerate(np.ndindex(*(n for n, _ in outer))):
        offset = sum(i * stride for i, (_, stride) in zip(index, outer, strict=True))
        yield (array.address + offset, *sizes, *strides), number * count, count


def converted(
    array: Array, compute: Any, first: int, count: int, out: Array,
    scale: float = 1.0, softcap: float = 0.0,
) -> None:  # fmt: skip
    """Elements first … of an array of any kind side by side, as logits are before the loss."""
    _change(array_kernels.gather_kernel, array, compute, first, count, out, scale, softcap)


def chained(
    array: Array, compute: Any, first: int, count: int, grad: Array, scale: float, softcap: float
) -> None:
    """Gradients with respect to what `converted` made, carried back to what it read."""
    _change(array_kernels.chain_kernel, array, compute, first, count, grad, scale, softcap)


def _change(
    factory: Callable[..., Any], array: Array, compute: Any, first: int, count: int, out: Array,
    *change: float,
) -> None:  # fmt: skip
    number, kind = number_of(compute), array_kernels.KINDS[name_of(array.dtype)]
    prepared = _kernel(factory, compute)
    _over(array, first, count, lambda layout, begin, n, done: (
        prepared, layout[0], kind, *layout[1:], begin, n, *change, out.address + done * number.size,
    ))  # fmt: skip


def put(values: Array, array: Array, first: int, count: int, adding: bool = False) -> None:
    """Numbers side by side into elements first … of an array of any kind, or added to them."""
    prepared = _kernel(array_kernels.scatter_kernel, values.dtype)
    size, kind = values.dtype.itemsize, array_kernels.KINDS[name_of(array.dtype)]
    _over(array, first, count, lambda layout, begin, n, done: (
        prepared, values.address + done * size, layout[0], kind, *layout[1:], begin, n, int(adding),
    ))  # fmt: skip


def clear_idle(
    rows: Array, labels: "Labels | None", terms: Weights, divisor: "float | Divisor", n_classes: int
) -> None:
    """Write zeros into rows (N, K) that do not count; weights as `converted_weights` has them."""
    inverse_at, inverse = inverse_of(divisor)
    run(
        _kernel(array_kernels.clear_kernel, rows.dtype), _grid(rows.size, THREADS), rows.place,
        rows.address, rows.shape[1], *((0, 0, 0, 0) if labels is None else labels.arguments()),
        _at(terms.sample_weight), inverse_at, inverse, n_classes, rows.size,
    )  # fmt: skip


def _over(array: Array, first: int, count: int, call: Callable[..., Any]) -> None:
    """Launch for each part of rank 4 of an array that elements first … first + count lie in."""
    for layout, start, n in layouts(array):
        begin, end = max(first, start), min(first + count, start + n)
        if begin < end:
            prepared, *args = call(layout, begin - start, end - begin, begin - first)
            run(prepared, _grid(end - begin, THREADS), array.place, *args)


def as_numbers(array: Array, compute: Any) -> Array:
    """An array side by side in the type that is computed in: itself, if it is that."""
    if array.dtype == compute and array.is_contiguous:
        return array
    out = array.new((array.size,), compute)
    converted(array, compute, 0, array.size, out)
    return out


def converted_weights(terms: Weights, compute: Any) -> Weights:
    """The weights as kernels read them."""
    class_weight, sample_weight = (
        None if weight is None else as_numbers(weight, compute)
        for weight in (terms.class_weight, terms.sample_weight)
    )
    return terms._replace(class_weight=class_weight, sample_weight=sample_weight)


# --- rows of a call, as they lie or by blocks -----------------------------------------------


class Block(NamedTuple):
    """Rows first … first + n of a call as a kernel takes them, None for what there is not."""

    item: Element
    wide: bool
    first: int
    n: int
    x: Rows
    probs: Rows | None
    outs: tuple[Rows | None, ...]


class Change(NamedTuple):
    """What logits are multiplied by, and capped at (0: not), on their way to a kernel."""

    scale: float = 1.0
    softcap: float = 0.0


def blocks_of(
    x: Array, compute: Any, outs: tuple[Array | None, ...], probs: Array | None = None,
    change: Change = Change(),  # noqa: B008 - a tuple
) -> Iterator[Block]:  # fmt: skip
    """All rows at once where kernels can take them as they lie; else a block at a time, converted.

    The first of `outs` is a gradient, or may lie over x for another reason: in a block it does.
    """
    arrays = [a for a in (x, probs, *outs) if a is not None]
    rows = [rows_of(a) for a in arrays] if change == Change() else [None]
    mine = rows[0]
    if name_of(x.dtype) in ROW_TYPES and mine and all(rows) and len({a.dtype for a in arrays}) == 1:
        found = iter(rows[1:])
        its_probs, *its_outs = (None if a is None else next(found) for a in (probs, *outs))
        wide = is_wide(mine, *its_outs)
        item = element(name_of(x.dtype))
        yield Block(item, wide, 0, mine.n, mine, its_probs, tuple(its_outs))
        return
    number, n_classes = number_of(compute), x.shape[-1]
    n = math.prod(x.shape[:-1])
    limit = max(1, min(n, BLOCK_BYTES // max(1, n_classes * number.size)))
    own = [x.new((limit, n_classes), compute)]
    given = None if probs is None else x.new((limit, n_classes), compute)
    for out in outs[1:]:
        own.append(own[0] if out is None else x.new((limit, n_classes), compute))
    for first in range(0, n, limit):
        part = min(limit, n - first)
        begin, count = first * n_classes, part * n_classes
        converted(x, compute, begin, count, own[0], *change)
        if given is not None:
            converted(probs, compute, begin, count, given)
        pitch = n_classes * number.size
        lying = [Rows(a.address, pitch, part) for a in own]
        its_outs = [None if out is None else rows for out, rows in zip(outs, lying, strict=True)]
        its_probs = None if given is None else Rows(given.address, pitch, part)
        yield Block(number, True, first, part, lying[0], its_probs, tuple(its_outs))
        for k, (out, a) in enumerate(zip(outs, own, strict=True)):
            if out is not None:
                if k == 0 and change != Change():
                    chained(x, compute, begin, count, a, *change)
                put(a, out, begin, count)


ROW_TYPES = ("float32", "float64", "float16", "bfloat16")


def _address(rows: Rows | None) -> tuple[int, int]:
    return (0, 0) if rows is None else (rows.address, rows.pitch)


# --- softmax and its logarithms -------------------------------------------------------------


@functools.cache
def row_kernel(
    factory: Callable[..., Any], item: Element, plan: Plan, signature: str, *how: Any
) -> Kernel:
    """The kernel of a factory for rows of these elements on threads that lie like this."""
    return kernel(
        factory, item, plan, *how, signature=signature, compute=item.compute, block=plan.block,
        blocks=plan.blocks, cluster=plan.cluster,
    )  # fmt: skip


def map_effort(item: Element) -> int:
    """Of sums: half precision, whose numbers are unpacked twice, takes registers for that."""
    return LITTLE if item.size > 2 else LITTLE // 2


def softmax_effort(item: Element, older: bool) -> int:
    """In a softmax the code for newer GPUs does without: as much is held as by a loss.

    But of 64 float32 it keeps two too many in registers.
    """
    if older:
        return map_effort(item)
    return LITTLE // 2 if item.size == 4 else LITTLE


def softmax(call: Call, log: bool = False) -> None:
    """Fill out, shaped as x, with softmax over the last axis."""
    x, out, compute = call.x, call.outputs.out, call.compute
    n_classes, older = x.shape[-1], is_older(x.place)
    for block in blocks_of(x, compute, (out,)):
        effort = softmax_effort(block.item, older)
        plan = plan_of(block.item, n_classes, block.wide, effort, older)
        run(
            row_kernel(kernels.softmax_kernel, block.item, plan, "asasii", log),
            _grid(block.n, plan.rows), x.place,
            *_address(block.x), *_address(block.outs[0]), block.n, n_classes,
        )  # fmt: skip


def log_softmax(call: Call) -> None:
    """Fill out, shaped as x, with log-softmax over the last axis."""
    softmax(call, log=True)


def logsumexp(call: Call) -> None:
    """Fill out, (N,) of its own type, with logsumexp over the last axis."""
    x, out, compute = call.x, call.outputs.out, call.compute
    n_classes, older = x.shape[-1], is_older(x.place)
    for block in blocks_of(x, compute, (None,)):
        direct = block.item.name == name_of(out.dtype)
        found = out if direct else x.new((block.n,), compute)
        plan = plan_of(block.item, n_classes, block.wide, map_effort(block.item), older)
        run(
            row_kernel(kernels.logsumexp_kernel, block.item, plan, "asaii"),
            _grid(block.n, plan.rows), x.place, *_address(block.x),
            _from(found, block.first if direct else 0), block.n, n_classes,
        )  # fmt: skip
        if not direct:
            put(found, out, block.first, block.n)


# --- cross-entropy --------------------------------------------------------------------------


def _from(array: Array | None, first: int) -> int:
    """The address of a row's number in an array with one a row; 0 without one."""
    return 0 if array is None else _at(array) + first * int(array.dtype.itemsize)


def cross_entropy(call: Call) -> Array | None:
    """Fill the outputs; return Σ of the row losses / divisor, unless they are asked for."""
    losses = fill_cross_entropy(call)
    return None if call.outputs.loss is not None else reduced(losses, call.divisor)


def effort_of(wants: kernels.Wants) -> int:
    """What a kernel makes of each element."""
    return LITTLE if is_plain(wants._replace(scaled=False)) else SOME


def is_plain(wants: kernels.Wants) -> bool:
    """Whether it is loss, and gradient or not, of class indices."""
    return wants._replace(grad=True) == kernels.Wants()


def fill_cross_entropy(call: Call) -> Array:
    """Fill the outputs; return the row losses."""
    x, target, options, compute = call.x, call.target, call.options, call.compute
    assert target is not None
    n_classes, older = x.shape[-1], is_older(x.place)
    terms = converted_weights(call.weights, compute)
    soft, smoothing, softcap = target.labels is None, options.label_smoothing, options.softcap
    # A kernel takes a scale that is positive; a cap, a sign and 0 change the logits before it.
    change, factor = Change(math.copysign(1.0, options.logit_scale), 0.0), abs(options.logit_scale)
    if softcap is not None or not options.logit_scale:
        change, factor = Change(options.logit_scale, softcap or 0.0), 1.0
    labels = None if soft else Labels.of(target.labels, options.ignore_index)
    _, loss, grad, probs, lse, hess, argmax = call.outputs
    if loss is None:
        loss = x.new((math.prod(x.shape[:-1]),), compute)
    top = soft or any(a is not None for a in (lse, argmax, hess))
    given = (a is not None for a in (grad, probs, hess))
    wants = kernels.Wants(soft, soft or smoothing != 0, factor != 1, top, *given)
    effort = effort_of(wants)
    inverse_at, inverse = inverse_of(call.divisor)
    mix = (1.0 - smoothing, smoothing / n_classes, options.z_loss, factor)
    for block in blocks_of(x, compute, (grad, probs, hess), target.probs, change):
        plan = plan_of(block.item, n_classes, block.wide, effort, older)
        if is_plain(wants) and labels is not None:
            parts = _parts(plan, block, n_classes, x.place)
            if parts[0] > 1:
                _split_rows(x, block, labels, terms, options.z_loss, parts, (inverse_at, inverse), loss)
                continue
            plan = clustered(plan, block.item, n_classes, largest_cluster(x.place))
            if plan.cluster > 1:
                _cluster_rows(x, block, labels, terms, options.z_loss, plan, (inverse_at, inverse), loss)
                continue
        run(
            row_kernel(kernels.cross_entropy_kernel, block.item, plan, _CROSS_ENTROPY, wants),
            _grid(block.n, plan.rows), x.place, *_address(block.x), *_aim(labels, block),
            _at(terms.class_weight), _from(terms.sample_weight, block.first),
            inverse_at, inverse, *mix, block.n, n_classes,
            *(_from(a, block.first) for a in (loss, lse, argmax)),
            *(part for out in block.outs for part in _address(out)),
        )  # fmt: skip
    return loss


def plan_of_parts(item: Element, wide: bool, older: bool) -> Plan:
    """How threads lie on parts of rows: each as much as they hold."""
    return plan_of(item, PART, wide, map_effort(item), older)._replace(tail=False)


@functools.cache
def clustered(plan: Plan, item: Element, n_classes: int, most: int) -> Plan:
    """On clusters, of at most so many blocks, what a single one would read twice."""
    sizes = [k for k in CLUSTERS if k <= most]
    if not plan.tail or not sizes:
        return plan
    held = _held(plan, item)
    cluster = next((k for k in sizes if k * held >= n_classes), sizes[-1])
    return plan._replace(cluster=cluster, tail=cluster * held < n_classes)


def largest_cluster(place: Place) -> int:
    """How many blocks may be a cluster: a part of a GPU may have fewer multiprocessors."""
    return 1 if is_older(place) else driver.processors(place.device)


def _held(plan: Plan, item: Element) -> int:
    """How many elements of a row a block holds."""
    return plan.threads * plan.vectors * (item.width if plan.wide else 1)


def _length(n_classes: int, n_parts: int) -> int:
    """The length of a part of a row."""
    return -(-n_classes // n_parts // 64) * 64  # 16 bytes in every type


def _parts(plan: Plan, block: Block, n_classes: int, place: Place) -> tuple[int, int]:
    """On how many blocks a row is, and how long its parts are.

    On several only where it is so long that it would be read twice, and the GPU idle.
    """
    if not plan.tail or 2 * block.n > driver.processors(place.device):
        return 1, n_classes
    of_part = plan_of_parts(block.item, block.wide, is_older(place))
    length = _length(n_classes, -(-n_classes // _held(of_part, block.item)))
    return -(-n_classes // length), length


def _split_rows(
    x: Array, block: Block, labels: Labels, terms: Weights, z_loss: float, parts: tuple[int, int],
    inverse: tuple[int, float], loss: Array,
) -> None:  # fmt: skip
    """Rows on several blocks each, by two kernels."""
    (n_parts, length), n_classes = parts, x.shape[-1]
    plan = plan_of_parts(block.item, block.wide, is_older(x.place))
    aim, x_rows, grid = _aim(labels, block), _address(block.x), block.n * n_parts
    found = x.new((grid, 3), loss.dtype)
    at_target = x.new((block.n,), loss.dtype)
    how, made = (length, n_parts, n_classes), (found.address, at_target.address)
    run(
        row_kernel(split_kernels.split_sums_kernel, block.item, plan, SPLIT_SUMS), grid, x.place,
        *x_rows, *aim[:2], *how, *made,
    )  # fmt: skip
    run(
        row_kernel(split_kernels.split_rows_kernel, block.item, plan, SPLIT_ROWS), grid, x.place,
        *x_rows, *aim, _at(terms.class_weight), _from(terms.sample_weight, block.first),
        *inverse, z_loss, *how, *made, _from(loss, block.first),
        *_address(block.outs[0]),
    )  # fmt: skip


def _cluster_rows(
    x: Array, block: Block, labels: Labels, terms: Weights, z_loss: float, plan: Plan,
    inverse: tuple[int, float], loss: Array,
) -> None:  # fmt: skip
    """Rows on a cluster of blocks each."""
    n_classes = x.shape[-1]
    run(
        row_kernel(split_kernels.cluster_rows_kernel, block.item, plan, CLUSTER_ROWS),
        block.n * plan.cluster, x.place, *_address(block.x), *_aim(labels, block),
        _at(terms.class_weight), _from(terms.sample_weight, block.first), *inverse, z_loss,
        _length(n_classes, plan.cluster), n_classes, _from(loss, block.first),
        *_address(block.outs[0]),
    )  # fmt: skip


CLUSTER_ROWS = "as" + "aiii" + "aaa" + "ff" + "ii" + "aas"
SPLIT_SUMS = "as" + "ai" + "iii" + "aa"
SPLIT_ROWS = "as" + "aiii" + "aaa" + "ff" + "iii" + "aa" + "aas"
_CROSS_ENTROPY = "as" + "aiii" + "aaa" + "fffff" + "ii" + "aaa" + "asasas"


def categorical_cross_entropy(call: Call) -> Array | None:
    """Fill loss and grad; return Σ of the row losses / divisor, for probabilities x."""
    x, target, clip, compute = call.x, call.target, call.clip, call.compute
    assert target is not None and clip is not None
    outputs, divisor, ignore_index = call.outputs, call.divisor, call.options.ignore_index
    n_classes, older = x.shape[-1], is_older(x.place)
    terms = converted_weights(call.weights, compute)
    labels = None if target.labels is None else Labels.of(target.labels, ignore_index)
    loss = x.new((math.prod(x.shape[:-1]),), compute) if outputs.loss is None else outputs.loss
    inverse_at, inverse = inverse_of(divisor)
    limits = (inverse, *clip.bounds, clip.most, clip.floor)
    how = (labels is None, outputs.grad is not None)
    effort = MUCH if labels is None else SOME
    for block in blocks_of(x, compute, (outputs.grad,), target.probs):
        plan = plan_of(block.item, n_classes, block.wide, effort, older)
        run(
            row_kernel(kernels.categorical_kernel, block.item, plan, _CATEGORICAL, *how),
            _grid(block.n, plan.rows), x.place, *_address(block.x), *_aim(labels, block),
            _at(terms.class_weight), _from(terms.sample_weight, block.first),
            inverse_at, *limits, block.n, n_classes, _from(loss, block.first),
            *_address(block.outs[0]),
        )  # fmt: skip
    return None if outputs.loss is not None else reduced(loss, divisor)


def _aim(labels: Labels | None, block: Block) -> tuple[int, int, int, int]:
    """What a kernel is given of a block's targets."""
    if labels is None:
        return (*_address(block.probs), 0, 0)
    return labels.address + (block.first << (labels.kind >> 1)), *labels.arguments()[1:]


_CATEGORICAL = "as" + "aiii" + "aaa" + "fffffff" + "ii" + "aas"


# --- gradients times what is above them -----------------------------------------------------


def scale(values: Array, factor: Array, out: Array) -> None:
    """Out = values times a number on the GPU; what is 0 stays 0, whatever the number is.

    All lie side by side; out may be values: then nothing is done where the number is 1.
    """
    item, n = element(name_of(values.dtype)), values.size
    wide = is_wide(Rows(values.address, 0, 1), Rows(out.address, 0, 1))
    plan = Plan(THREADS, max(1, SOME // item.width), 1, wide, False)
    chunk = plan.threads * plan.vectors * (item.width if wide else 1)
    run(
        row_kernel(array_kernels.scale_kernel, item, plan, "aaaii"), _grid(n, chunk), values.place,
        values.address, factor.address, out.address, n, chunk,
    )  # fmt: skip
