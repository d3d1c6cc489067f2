"""Labels before the first block of rows: whether all are classes, what a mean is divided by."""

import functools
from typing import Any

import dask.array as da
import numpy as np

from fastxent import words
from fastxent.arrays.dask import blocks
from fastxent.arrays.dask.blocks import CLASSES, Part, only
from fastxent.arrays.dask.request import Request


def divisor(asked: Request) -> Any:
    """What every block waits for: an array without dimensions, or None if there is no such thing.

    It is what a mean is divided by; computing it raises the IndexError of a bad label. For other
    reductions it does that alone, and its value means nothing.
    """
    arrays, options = asked.arrays, asked.options
    u, w = arrays.get("sample_weight"), arrays.get("weight")
    checked = None
    if asked.is_index and options.get("check_target", True):
        checked = _checked(asked)
    if not asked.is_mean:
        return checked
    if arrays.get("normalizer") is not None:
        return _after(checked, arrays["normalizer"])
    if not asked.is_index:
        if u is None:
            size = np.prod([asked.x.shape[k] for k in asked.rows], dtype=np.float64)
            return da.asarray(size)
        return blocks.total(u, np.float64, tuple(range(u.ndim)))
    if w is None and checked is not None:
        return checked
    rows = asked.rows
    task = functools.partial(_part, n_classes=asked.n_classes, ignore_index=asked.ignore_index)
    operands = [
        arrays["target"], rows, u, None if u is None else rows,
        w, None if w is None else (CLASSES,),
    ]  # fmt: skip
    parts = blocks.single(task, Part(rows, np.float64, once=rows), operands)
    return _after(checked, blocks.total(parts, np.float64, tuple(range(parts.ndim))))


def _after(checked: Any, number: Any) -> Any:
    """The number, after labels have been looked at."""
    if checked is None:
        return number
    return blocks.single(_second, Part((), np.float64), (checked, (), number, ()))


def _second(checked: Any, number: Any) -> Any:
    return number


# --- what labels weigh --------------------------------------------------------------------------


@np.errstate(all="ignore")
def _part(labels: Any, u: Any, w: Any, *, n_classes: int, ignore_index: int | None) -> Any:
    """A block's part of Σ counted·u·w_y, in an array of as many dimensions as the labels have."""
    weights = weights_of(labels, None if w is None else only(w), n_classes)
    weights = weights if u is None else np.where(u != 0, u * weights, 0.0)
    if ignore_index is not None:
        weights = np.where(labels == ignore_index, 0.0, weights)
    return weights.sum(dtype=np.float64).reshape((1,) * labels.ndim)


def weights_of(labels: Any, w: Any, n_classes: int) -> Any:
    """The class weights of labels, in float64; 1 for what is no class."""
    if w is None:
        return np.ones(labels.shape)
    there = (labels >= 0) & (labels < n_classes)
    return np.where(there, w.astype(np.float64)[np.where(there, labels, 0).astype(np.int64)], 1.0)


# --- whether they are classes -------------------------------------------------------------------


def _checked(asked: Request) -> Any:
    """Σ counted·u; IndexError for the first label of all that is no class."""
    target, u = asked.arrays["target"], asked.arrays.get("sample_weight")
    check = functools.partial(
        _check, n_classes=asked.n_classes, ignore_index=asked.ignore_index,
        unbatched=asked.unbatched,
    )  # fmt: skip
    found = da.map_blocks(
        check, target, *([] if u is None else [u]), dtype=object,
        chunks=tuple((1,) * n for n in target.numblocks), meta=np.empty((0,) * target.ndim, object),
    )  # fmt: skip
    return da.reduction(
        found, _merged, _raised, axis=tuple(range(target.ndim)), combine=_merged,
        dtype=np.float64, concatenate=True, meta=np.empty(()), split_every=blocks.NUMBERS,
    )  # fmt: skip


def _check(
    labels: Any, u: Any = None, *, n_classes: int, ignore_index: int | None, unbatched: bool,
    block_info: Any,
) -> Any:  # fmt: skip
    """One element: a block's Σ counted·u, and its first bad label's place and message, or None."""
    counted = _part(labels, u, None, n_classes=n_classes, ignore_index=ignore_index).item()
    bad = (labels < 0) | (labels >= n_classes)
    if ignore_index is not None:
        bad &= labels != ignore_index
    first = None
    if bad.any():
        at = np.unravel_index(int(bad.argmax()), bad.shape)
        starts = (start for start, _ in block_info[0]["array-location"])
        place = tuple(int(i) + start for i, start in zip(at, starts, strict=True))
        named = () if unbatched else place
        first = place, words.bad_label(named, labels[at], n_classes, ignore_index)
    found = np.empty((1,) * labels.ndim, object)
    found.fill((counted, first))
    return found


def _merged(found: Any, axis: Any, keepdims: bool) -> Any:
    """The sum of all, and the first bad label in the order of rows."""
    counted, first = zip(*found.flat, strict=True)
    merged = np.empty((1,) * found.ndim if keepdims else (), object)
    merged.fill((sum(counted), min(filter(None, first), default=None)))
    return merged


def _raised(found: Any, axis: Any, keepdims: bool) -> Any:
    """The sum, if no label is bad."""
    counted, first = _merged(found, axis, keepdims).item()
    if first is not None:
        raise IndexError(first[1])
    return np.full((1,) * found.ndim if keepdims else (), counted)
