"""How many threads and registers a row gets, by element type, row length and architecture."""

import functools

from fastxent.cuda import driver
from fastxent.cuda.elements import Element
from fastxent.cuda.groups import WARP, ThreadPlan
from fastxent.records import Place

# Threads a row and vectors of 16 bytes a thread, from the shortest rows to those that are streamed.
PLANS = ((8, 4), (32, 4), (32, 8), (128, 8), (256, 8), (256, 16), (512, 16))
# The same for rows of single elements: short rows, which seldom begin at a multiple of 16 bytes,
# and rows that are aligned unlike the output.
PLANS_OF_SINGLES = ((4, 8), (32, 8), (128, 8), (256, 16))
# Threads a row and elements a thread in columns: a thread of few classes has a row for itself.
PLANS_OF_COLUMNS = (
    (1, 8), (1, 16), (1, 32), (2, 32), (4, 32), (8, 32), (16, 32), (16, 64),
)  # fmt: skip
SHORT = 32  # the number of classes up to which rows are read as single elements
# How many elements a thread may hold. Beyond that its registers spill to memory, or its loops are
# no longer unrolled and the array of registers is placed in memory.
MAX_PER_THREAD = 64  # of sums, and of the loss of labels with its gradient
MAX_PER_THREAD_OPTIONS = 16  # with options or further outputs, whose formulas are longer
MAX_PER_THREAD_LOGARITHMS = 4  # with a logarithm of each element
MAX_PER_THREAD_PAIRS = 32  # of each row of a pair
MAX_PER_THREAD_TRANSPOSED = 32  # of vectors in columns, whose transposes are code too
MAX_PER_THREAD_EXACT = 4  # of float64, with sums that keep their rounding errors
# Threads on a multiprocessor, by vectors a thread: they share 65,536 registers.
RESIDENT = {1: 768, 2: 768, 4: 768, 8: 768, 16: 512}
SMALL_BLOCK = 128  # the threads of a block, for rows that take fewer
PART = 16384  # the most elements of a part of a row that is split by two kernels
CLUSTERS = (2, 4, 8)  # sizes of clusters, on every GPU that has clusters
# Threads of a block and elements a thread, by the bytes of an element, for rows that clusters would
# otherwise stream. With half the threads each has twice the registers.
Budgets = dict[int, tuple[int, int]]
LONG_OPTIONS: Budgets = {4: (256, 64), 2: (512, 32)}
LONG_SOFTMAX: Budgets = {4: (256, 128)}
LONG_OLDER: Budgets = {4: (256, 32)}  # where there are no clusters
# Of rows in columns: the threads of a block for few classes, the most classes that a block holds,
# the most threads of a row with options, and the threads on a multiprocessor, with options or not.
COLUMN_BLOCK, SHORT_COLUMNS, MAX_THREADS_OPTIONS = 128, 1024, 8
RESIDENT_COLUMNS = (256, 384)


@functools.cache
def plan_of(
    item: Element, n_classes: int, vectorised: bool, max_per_thread: int = MAX_PER_THREAD,
    older: bool = False, columns: bool = False,
) -> ThreadPlan:  # fmt: skip
    """The plan for rows of so many classes; `older` is for GPUs before compute capability 9."""
    if columns:
        return _plan_of_columns(item, n_classes, vectorised, max_per_thread, older)
    if item.size == 8:  # a float64 takes two registers
        max_per_thread = min(max_per_thread, MAX_PER_THREAD_OPTIONS // 2)
    vectorised = vectorised and n_classes > SHORT
    width = item.width if vectorised else 1
    plans = PLANS if vectorised else PLANS_OF_SINGLES
    table = [(t, min(v, max(1, max_per_thread // width))) for t, v in plans]
    if older:  # its code takes more registers than the largest blocks have
        table = [(t, v) for t, v in table if t * v < 512 * 16]
    # The unaligned head and end of a vectorised row are single elements, one a thread.
    singles = 2 * (width - 1)
    fitting = [(t, v) for t, v in table if t * v * width >= n_classes and t >= singles]
    threads, vectors = fitting[0] if fitting else table[-1]
    rows = max(1, SMALL_BLOCK // threads)
    blocks = blocks_for(item, vectors, threads * rows, older)
    return ThreadPlan(threads, vectors, rows, vectorised, not fitting, blocks)


def _plan_of_columns(
    item: Element, n_classes: int, vectorised: bool, max_per_thread: int, older: bool
) -> ThreadPlan:
    """The plan for rows in columns: the fewest threads and registers that hold a row."""
    width = item.width if vectorised else 1
    is_plain = max_per_thread > MAX_PER_THREAD_OPTIONS
    limit = min(max_per_thread, MAX_PER_THREAD_TRANSPOSED) if vectorised else max_per_thread
    if item.size == 8:
        limit = min(limit, MAX_PER_THREAD_OPTIONS // 2)
    if older and vectorised and not is_plain:  # its code takes more registers
        limit //= 2
    table = list(PLANS_OF_COLUMNS)
    if not is_plain or (vectorised and (older or item.size == 8)):  # more than large blocks have
        table = [(t, n) for t, n in table if t <= MAX_THREADS_OPTIONS]
    plans = [(t, max(1, min(n, limit) // width)) for t, n in table]
    fitting = [(t, v) for t, v in plans if t * v * width >= n_classes]
    if vectorised and not fitting:  # a thread can hold more single elements
        plan = _plan_of_columns(item, n_classes, False, max_per_thread, older)
        if not plan.streamed:
            return plan
    threads, vectors = fitting[0] if fitting else plans[-1]
    rows = WARP * max(1, COLUMN_BLOCK // (WARP * threads))
    blocks = max(1, RESIDENT_COLUMNS[is_plain] // (threads * rows))
    return ThreadPlan(threads, vectors, rows, vectorised, not fitting, blocks, columns=True)


def suit_columns(n_rows: int, n_classes: int, place: Place) -> bool:
    """Whether rows in columns, of which a block takes 32, are short or occupy half of the GPU."""
    return n_classes <= SHORT_COLUMNS or 2 * n_rows > WARP * driver.processors(place.device)


def blocks_for(item: Element, vectors: int, block: int, older: bool) -> int:
    """How many blocks of this size and use of registers a multiprocessor should have room for."""
    resident = RESIDENT[vectors] * 2 // 3 if older or item.size == 2 else RESIDENT[vectors]
    return max(1, resident // block)


@functools.cache
def plan_of_options(
    item: Element, n_classes: int, vectorised: bool, older: bool, columns: bool, largest: int
) -> ThreadPlan:
    """The plan with options or further outputs, on clusters of at most so many blocks."""
    plan = plan_of(item, n_classes, vectorised, MAX_PER_THREAD_OPTIONS, older, columns)
    budgets = LONG_OLDER if older else LONG_OPTIONS
    return _on_clusters(plan, item, n_classes, largest, budgets)


@functools.cache
def plan_of_softmax(
    item: Element, n_classes: int, vectorised: bool, older: bool, columns: bool, largest: int
) -> ThreadPlan:
    """The plan for softmax, on clusters of at most so many blocks."""
    limit = _max_per_thread_of_softmax(item, older)
    plan = plan_of(item, n_classes, vectorised, limit, older, columns)
    plan = _on_clusters(plan, item, n_classes, largest, {} if older else LONG_SOFTMAX)
    # Of half precision the code without streaming spills on clusters.
    return plan._replace(streamed=True) if item.size == 2 and plan.cluster > 1 else plan


def _on_clusters(
    plan: ThreadPlan, item: Element, n_classes: int, largest: int, budgets: Budgets
) -> ThreadPlan:
    """The plan on clusters; with more elements a thread if these would stream the row.

    The code for more elements can always stream, so one kernel serves every row length.
    """
    shared = clustered(plan, item, n_classes, largest)
    if not shared.streamed or not plan.vectorised or plan.columns or item.size not in budgets:
        return shared
    threads, limit = budgets[item.size]
    plan = plan._replace(threads=threads, vectors=limit // item.width, blocks=1)
    return clustered(plan, item, n_classes, largest)._replace(streamed=True)


def max_per_thread_of_sums(item: Element) -> int:
    """For sums: half precision is unpacked twice and takes registers for that."""
    return MAX_PER_THREAD if item.size > 2 else MAX_PER_THREAD // 2


def _max_per_thread_of_softmax(item: Element, older: bool) -> int:
    """For softmax: code for newer GPUs unpacks half precision once, but spills 2 of 64 float32."""
    if older:
        return max_per_thread_of_sums(item)
    return MAX_PER_THREAD // 2 if item.size == 4 else MAX_PER_THREAD


def plan_of_pairs(
    item: Element, n_classes: int, vectorised: bool, older: bool, columns: bool = False
) -> ThreadPlan:
    """The plan where each thread holds as much of a second row: older GPUs spill a part of it."""
    limit = MAX_PER_THREAD_OPTIONS if older or columns else MAX_PER_THREAD_PAIRS
    return _plan_of_exact_sums(item, n_classes, vectorised, limit, older, columns, 2)


def plan_of_entropy(
    item: Element, n_classes: int, vectorised: bool, older: bool, columns: bool, largest: int
) -> ThreadPlan:
    """The plan for entropy and its gradient, on clusters of at most so many blocks."""
    limit = MAX_PER_THREAD_OPTIONS
    plan = _plan_of_exact_sums(item, n_classes, vectorised, limit, older, columns, 1)
    budgets = {} if older else LONG_OPTIONS
    return _on_clusters(plan, item, n_classes, largest, budgets)


def _plan_of_exact_sums(
    item: Element, n_classes: int, vectorised: bool, limit: int, older: bool, columns: bool,
    n_rows: int,
) -> ThreadPlan:  # fmt: skip
    """The plan for `n_rows` rows read together, with sums that keep their rounding errors.

    In float64 such a thread takes as many registers as one with the most vectors.
    """
    limit = MAX_PER_THREAD_EXACT if item.size == 8 else limit
    plan = plan_of(item, n_classes, vectorised, limit, older, columns)
    if columns:
        return plan
    vectors = max(RESIDENT) if item.size == 8 else min(max(RESIDENT), n_rows * plan.vectors)
    return plan._replace(blocks=blocks_for(item, vectors, plan.block, older))


def is_older(place: Place) -> bool:
    """Whether a place's GPU is older than compute capability 9."""
    return driver.capability(place.device) < (9, 0)


# --- rows on several blocks -----------------------------------------------------------------


def elements_per_block(plan: ThreadPlan, item: Element) -> int:
    """How many elements of a row a block holds in registers."""
    return plan.threads * plan.vectors * (item.width if plan.vectorised else 1)


def length_of_part(n_classes: int, n_parts: int) -> int:
    """The length of a part of a row: a multiple of 16 bytes in every type."""
    return -(-n_classes // n_parts // 64) * 64


@functools.cache
def clustered(plan: ThreadPlan, item: Element, n_classes: int, largest: int) -> ThreadPlan:
    """The plan on clusters of at most so many blocks, if a single block would stream the row."""
    sizes = [k for k in CLUSTERS if k <= largest]
    if plan.columns or not plan.streamed or not sizes:
        return plan
    per_block = elements_per_block(plan, item)
    cluster = next((k for k in sizes if k * per_block >= n_classes), sizes[-1])
    return plan._replace(cluster=cluster, streamed=cluster * per_block < n_classes)


def largest_cluster(place: Place) -> int:
    """The largest cluster of a GPU: a slice of one (MIG) may have fewer multiprocessors."""
    return 1 if is_older(place) else driver.processors(place.device)


def plan_of_parts(item: Element, vectorised: bool, older: bool) -> ThreadPlan:
    """The plan for parts of rows, each as long as a block can hold."""
    plan = plan_of(item, PART, vectorised, max_per_thread_of_sums(item), older)
    return plan._replace(streamed=False)


def parts_of(
    plan: ThreadPlan, item: Element, n_rows: int, n_classes: int, place: Place
) -> tuple[int, int]:
    """How many blocks a row is split into by two kernels, and the length of a part.

    1 unless a single block would stream the row and most of the GPU be idle.
    """
    fits = plan.columns or not (plan.streamed or plan.cluster > 1)
    if fits or 2 * n_rows > driver.processors(place.device):
        return 1, n_classes
    part_plan = plan_of_parts(item, plan.vectorised, is_older(place))
    length = length_of_part(n_classes, -(-n_classes // elements_per_block(part_plan, item)))
    return -(-n_classes // length), length
