"""Dask arrays: results are lazy. Errors are raised at the call, errors of labels at compute.

If the classes are in one chunk, the function is called for each block of rows (`rows`). Classes in
several chunks are merged by a tree reduction (`classes`). `labels` checks labels before both,
`request` reads the arguments, `blocks` has the functions that all use.
"""

from typing import Any

from fastxent.arrays import views
from fastxent.arrays.dask import classes, linear, request, rows
from fastxent.functions import Function, Kind


def call(function: Function, *args: Any, **kwargs: Any) -> Any:
    """Call `function` on Dask arrays; return Dask arrays that are not computed yet."""
    arguments = views.by_name(function, args, kwargs)
    if arguments is None:
        return function(*args, **kwargs)
    call = request.read(function, arguments)
    if function.kind is Kind.ELEMENTS:
        return call.answer(rows.elements(call))
    call = call.batched()
    if function.kind is Kind.LINEAR:
        return call.answer(linear.results(call))
    if call.x.numblocks[call.axis] == 1 or not classes.merges(call):
        return call.answer(rows.results(call))
    by_classes = classes.cross_entropy if function.is_loss else classes.softmax
    return call.answer(by_classes(call))
