"""Shapes and types of the results of a request, and their computation by the handler."""

from typing import Any

import jax
import jax.ffi
import numpy as np
from jax import numpy as jnp
from jax.sharding import PartitionSpec

from fastxent.integrations.jax import handler, host
from fastxent.integrations.jax.requests import Request
from fastxent.results import Extent, Type


def compute(*arrays: Any, request: Request) -> Any:
    """Compute the results by the handler."""
    results = shapes(*map(jax.typeof, arrays), request=request)
    kinds = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in results]
    return jax.ffi.ffi_call(handler.registered(), kinds)(*arrays, request=request.text())


def shapes(*arrays: Any, request: Request) -> list[Any]:
    """The abstract values of the results, with the sharding and varying axes of the first input."""
    function, n_axes = request.description, len(request.groups)
    by_name = dict(zip(request.arrays, arrays, strict=False))
    has_groups = dict(zip(request.arrays, request.grouped, strict=False))
    x = by_name[function.first]
    own, spec = x.shape, (*x.sharding.spec, *(None,) * (x.ndim - len(x.sharding.spec)))
    front: tuple[Any, ...] = (None,) * n_axes
    if has_groups[function.first]:
        own, front, spec = own[n_axes:], spec[:n_axes], spec[n_axes:]
    axis = request.option("axis", -1) if function.has_rows else 0
    types = {
        Type.LOSS: loss_type(request, arrays), Type.OWN: x.dtype, Type.INDEX: jnp.asarray(0).dtype
    }  # fmt: skip

    def of(shape: Any, dtype: Any, axes: Any) -> Any:
        sharding = x.sharding.update(spec=PartitionSpec(*front, *axes))
        return x.update(
            shape=(*request.groups, *shape), dtype=np.dtype(dtype), weak_type=False,
            sharding=sharding,
        )  # fmt: skip

    results = []
    for name in host.names_of(request):
        if name in function.inputs:  # a derivative by one of several inputs
            shape = by_name[name].shape[n_axes if has_groups[name] else 0 :]
            results.append(of(shape, by_name[name].dtype, (None,) * len(shape)))
            continue
        rule = function.result(name)
        if rule.extent is Extent.PER_CLASS:
            results.append(of(own, types[rule.type], spec))
        elif rule.extent is Extent.REDUCED and request.is_reduced:
            results.append(of((), types[rule.type], ()))
        else:
            rows = function.rows(own, axis)
            results.append(of(rows, types[rule.type], function.rows(spec, axis)))
    return results


def loss_type(request: Request, arrays: Any) -> Any:
    """The type of losses: that of the computation."""
    by_name = dict(zip(request.arrays, arrays, strict=False))
    inputs = [by_name[name] for name in request.description.inputs if name in by_name]
    return np.result_type(np.float32, *(jnp.promote_types(a.dtype, np.float32) for a in inputs))
