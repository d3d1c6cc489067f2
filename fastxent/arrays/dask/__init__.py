"""Dask arrays: lazy ones out. What is wrong but labels is an error at the call, labels at compute.

Rows whose classes lie in one chunk go block by block to the function itself (`rows`); classes in
several chunks are merged by a tree (`classes`). `labels` come before both; `request` reads the
arguments; `blocks` is what all share.
"""

from collections.abc import Callable
from typing import Any

from fastxent.arrays import views
from fastxent.arrays.dask import classes, linear, request, rows

# How each function goes; those by classes go by rows where the classes lie in one chunk.
_BY_CLASSES = {
    "softmax": classes.softmax, "log_softmax": classes.softmax, "logsumexp": classes.softmax,
    "cross_entropy": classes.cross_entropy,
}  # fmt: skip
_OTHERS = {
    "categorical_cross_entropy": rows.results, "linear_cross_entropy": linear.results,
    "binary_cross_entropy": rows.elements, "binary_cross_entropy_with_logits": rows.elements,
}  # fmt: skip


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `function` gives for Dask arrays, as Dask arrays without numbers yet."""
    name = function.__name__
    way = (_BY_CLASSES | _OTHERS).get(name)
    if way is None:
        raise NotImplementedError(f"{name} does not take Dask arrays")
    given = views.by_name(function, args, kwargs)
    if given is None:
        return function(*args, **kwargs)
    asked = request.read(function, given)
    if way is not rows.elements:
        asked = asked.batched()
    if name in _BY_CLASSES and asked.x.numblocks[asked.axis] == 1:
        way = rows.results
    return asked.answer(way(asked))
