"""Dask arrays: lazy ones out. What is wrong but labels is an error at the call, labels at compute.

Rows whose classes lie in one chunk go block by block to the function itself (`rows`); classes in
several chunks are merged by a tree (`classes`). `labels` come before both; `request` reads the
arguments; `blocks` is what all share.
"""

from collections.abc import Callable
from typing import Any

from fastxent.arrays import views
from fastxent.arrays.dask import classes, linear, request, rows

_SOFTMAX = ("softmax", "log_softmax", "logsumexp")


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `function` gives for Dask arrays, as Dask arrays without numbers yet."""
    given = views.named(function, args, kwargs)
    if given is None:
        return function(*args, **kwargs)
    asked = request.read(function, given)
    if asked.name.startswith("binary"):
        return rows.elements(asked)
    asked = asked.batched()
    if asked.name == "linear_cross_entropy":
        results = linear.results(asked)
    elif asked.name == "categorical_cross_entropy" or asked.x.numblocks[asked.axis] == 1:
        results = rows.results(asked)
    elif asked.name in _SOFTMAX:
        results = classes.softmax(asked)
    else:
        results = classes.cross_entropy(asked)
    return asked.answer(results)
