"""The check of labels, and the divisor of a mean, on which all blocks of rows depend."""

import functools
import operator
from typing import Any

import dask.array as da
import numpy as np

from fastxent import errors
from fastxent.arrays.dask import blocks
from fastxent.arrays.dask.blocks import CLASSES, Layout, only
from fastxent.arrays.dask.request import DaskRequest


def divisor(call: DaskRequest) -> Any:
    """The 0-d array that every block depends on, or None.

    It is the divisor of a mean. Computing it raises the error for a bad label, or for integers that
    are not one-hot. For other reductions it is computed for this check only.
    """
    arrays, options = call.arrays, call.options
    u, w = arrays.get("sample_weight"), arrays.get("weight")
    checked = None
    if options.get("check_target", True) and (call.is_index or _is_integer(arrays["target"])):
        checked = _checked(call)
    if not call.is_mean:
        return checked
    if arrays.get("normalizer") is not None:
        return _after(checked, arrays["normalizer"])
    if not call.is_index:
        if u is None:
            size = np.prod([call.x.shape[k] for k in call.rows], dtype=np.float64)
            return _after(checked, da.asarray(size))
        return _after(checked, blocks.total(u, np.float64, tuple(range(u.ndim))))
    if w is None and checked is not None:
        return checked
    rows = call.rows
    task = functools.partial(_part, n_classes=call.n_classes, ignore_index=call.ignore_index)
    operands = blocks.operands((arrays["target"], rows), (u, rows), (w, (CLASSES,)))
    parts = blocks.single(task, Layout(rows, np.float64, single=rows), operands)
    return _after(checked, blocks.total(parts, np.float64, tuple(range(parts.ndim))))


def checked_elements(call: DaskRequest) -> Any:
    """The target of a binary loss, whose blocks depend on the check of all its integers."""
    target = call.arrays["target"]
    if not _is_integer(target):
        return target
    index = tuple(range(target.ndim))
    operands = (_checked(call), (), target, index)
    return blocks.single(_second, Layout(index, target.dtype), operands)


def _is_integer(target: Any) -> bool:
    return bool(target.dtype.kind in "iu")


def _after(checked: Any, number: Any) -> Any:
    """The number, as an array that depends on the check of labels."""
    if checked is None:
        return number
    return blocks.single(_second, Layout((), np.float64), (checked, (), number, ()))


def _second(checked: Any, number: Any) -> Any:
    return number


# --- weights of labels --------------------------------------------------------------------------


@np.errstate(all="ignore")
def _part(labels: Any, u: Any, w: Any, *, n_classes: int, ignore_index: int | None) -> Any:
    """A block's part of Σ active·u·w_y, in an array of the rank of the labels."""
    weights = weights_of(labels, only(w), n_classes)
    weights = weights if u is None else np.where(u != 0, u * weights, 0.0)
    if ignore_index is not None:
        weights = np.where(labels == ignore_index, 0.0, weights)
    return weights.sum(dtype=np.float64).reshape((1,) * labels.ndim)


def weights_of(labels: Any, w: Any, n_classes: int) -> Any:
    """The class weights of labels, in float64; 1 for a label out of range."""
    if w is None:
        return np.ones(labels.shape)
    there = (labels >= 0) & (labels < n_classes)
    return np.where(there, w.astype(np.float64)[np.where(there, labels, 0).astype(np.int64)], 1.0)


# --- the check -------------------------------------------------------------------


def _checked(call: DaskRequest) -> Any:
    """Σ active·u of labels; computing it raises the error for the first bad label."""
    target, u = call.arrays["target"], call.arrays.get("sample_weight")
    if call.is_index:
        check = functools.partial(
            _check_labels, n_classes=call.n_classes, ignore_index=call.ignore_index,
            unbatched=call.unbatched,
        )  # fmt: skip
    else:
        check = functools.partial(_check_one_hot, text=call.not_one_hot)
    weights = [u] if call.is_index and u is not None else []
    checks = da.map_blocks(
        check, target, *weights, dtype=object,
        chunks=tuple((1,) * n for n in target.numblocks), meta=np.empty((0,) * target.ndim, object),
    )  # fmt: skip
    return da.reduction(
        checks, _merged, _raised, axis=tuple(range(target.ndim)), combine=_merged,
        dtype=np.float64, concatenate=True, meta=np.empty(()), split_every=blocks.NUMBERS,
    )  # fmt: skip


def _check_labels(
    labels: Any, u: Any = None, *, n_classes: int, ignore_index: int | None, unbatched: bool,
    block_info: Any,
) -> Any:  # fmt: skip
    """One element: a block's Σ active·u, and index and error of its first bad label, or None."""
    counted = _part(labels, u, None, n_classes=n_classes, ignore_index=ignore_index).item()
    bad = (labels < 0) | (labels >= n_classes)
    if ignore_index is not None:
        bad &= labels != ignore_index

    def error(place: tuple[int, ...], label: Any) -> Exception:
        named = () if unbatched else place
        return errors.bad_label(named, label, n_classes, ignore_index)

    return _element(counted, labels, bad, error, block_info)


def _check_one_hot(integers: Any, *, text: tuple[str, Any, int], block_info: Any) -> Any:
    """One element, as above, for a block's first integer other than 0 and 1."""
    of, indices, skipped = text

    def error(place: tuple[int, ...], value: Any) -> Exception:
        return errors.not_one_hot(place[skipped:], value, of, indices)

    return _element(0.0, integers, (integers < 0) | (integers > 1), error, block_info)


def _element(counted: float, target: Any, bad: Any, error: Any, block_info: Any) -> Any:
    """An array of one element: a sum, and the index and error of the first bad value, or None."""
    first = None
    if bad.any():
        at = np.unravel_index(int(bad.argmax()), bad.shape)
        starts = (start for start, _ in block_info[0]["array-location"])
        place = tuple(int(i) + start for i, start in zip(at, starts, strict=True))
        first = place, error(place, target[at])
    element = np.empty((1,) * target.ndim, object)
    element.fill((counted, first))
    return element


def _merged(elements: Any, axis: Any, keepdims: bool) -> Any:
    """Merge elements: the sum, and the first error in the order of rows."""
    counted, first = zip(*elements.flat, strict=True)
    merged = np.empty((1,) * elements.ndim if keepdims else (), object)
    merged.fill((sum(counted), min(filter(None, first), default=None, key=operator.itemgetter(0))))
    return merged


def _raised(elements: Any, axis: Any, keepdims: bool) -> Any:
    """Return the sum, or raise the first error."""
    counted, first = _merged(elements, axis, keepdims).item()
    if first is not None:
        raise first[1]
    return np.full((1,) * elements.ndim if keepdims else (), counted)
