"""Primitives: their values and shapes, and their rules for vmap and several devices."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from fastxent import errors
from fastxent.integrations.jax import sharding
from fastxent.integrations.jax.requests import Request


def define(
    primitive: Primitive,
    compute: Any,
    shape: Any,
    batch: Any,
    request_of: Callable[..., Request] | None = None,
) -> None:
    """Give a primitive its values, their shapes, and its rule for vmap.

    `request_of` makes the request of one that calls a handler, from its operands and parameters:
    over several devices its rows stay where they are.
    """
    parameters = inspect.getfullargspec(compute).kwonlyargs

    def run(*args: Any, **params: Any) -> Any:
        return primitive.bind(*args, **params)

    def lower(ctx: Any, *operands: Any, **params: Any) -> Any:
        function = compute
        if request_of is not None:
            if ctx.module_context.lowering_parameters.for_export:
                raise errors.not_exportable(primitive.name)
            if len(getattr(ctx.module_context.axis_context, "device_assignment", None) or ()) > 1:
                request = request_of(*ctx.avals_in, **params)
                function = sharding.partitioned(request, ctx.avals_in, primitive.multiple_results)
        return mlir.lower_fun(function, multiple_results=primitive.multiple_results)(
            ctx, *operands, **params
        )

    if request_of is not None:
        # By which JAX says which devices a program has: it asks so of what it partitions. Without
        # it arrays over several devices are gathered.
        with contextlib.suppress(ImportError):
            from jax._src.dispatch import prim_requires_devices_during_lowering

            prim_requires_devices_during_lowering.add(primitive)
    primitive.def_impl(jax.jit(run, static_argnames=parameters))
    primitive.def_abstract_eval(shape)
    mlir.register_lowering(primitive, lower)
    batching.primitive_batchers[primitive] = batch
