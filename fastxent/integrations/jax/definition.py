"""Definition of JAX primitives: values, shapes, and rules for vmap and several devices."""

import contextlib
import dataclasses
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
    """Define a primitive's evaluation, shapes and vmap rule.

    `request_of` makes the request of a primitive that calls a handler, from its operands and
    parameters. With it the primitive is partitioned over several devices by rows.
    """
    parameters = inspect.getfullargspec(compute).kwonlyargs

    def program(*args: Any, **params: Any) -> Any:
        return primitive.bind(*args, **params)

    jitted = jax.jit(program, static_argnames=parameters)

    def run(*args: Any, **params: Any) -> Any:
        return (compute if jax.config.jax_disable_jit else jitted)(*args, **params)

    def lower(ctx: Any, *operands: Any, **params: Any) -> Any:
        function = compute
        if request_of is not None:
            if ctx.module_context.lowering_parameters.for_export:
                raise errors.not_exportable(primitive.name)
            devices = getattr(ctx.module_context.axis_context, "device_assignment", None) or ()
            if len(devices) > 1 and jax.config.jax_use_shardy_partitioner:
                request = request_of(*ctx.avals_in, **params)
                several = primitive.multiple_results
                function = sharding.partitioned(request, ctx.avals_in, devices, several)
                ctx = _with_mesh(ctx, len(devices))
        rule = mlir.lower_fun(function, multiple_results=primitive.multiple_results)
        return rule(ctx, *operands, **params)

    if request_of is not None:
        # JAX passes a program's devices to the lowering of these primitives only. Without them
        # arrays over several devices are gathered.
        with contextlib.suppress(ImportError):
            from jax._src.dispatch import prim_requires_devices_during_lowering

            prim_requires_devices_during_lowering.add(primitive)
    primitive.def_impl(run)
    primitive.def_abstract_eval(shape)
    mlir.register_lowering(primitive, lower)
    batching.primitive_batchers[primitive] = batch


def _with_mesh(ctx: Any, n_devices: int) -> Any:
    """Add the mesh of `jax.set_mesh` to the context, if it has no mesh from the arrays."""
    module, mesh = ctx.module_context, jax.sharding.get_abstract_mesh()
    if module.axis_context.abstract_mesh is not None or mesh.empty or mesh.size != n_devices:
        return ctx
    axes = dataclasses.replace(module.axis_context, abstract_mesh=mesh)
    return ctx.replace(module_context=module.replace(axis_context=axes))
