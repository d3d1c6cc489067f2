"""JAX primitives with derivatives for all functions, computed by the handler in `handler`.

They are a loss L of the inputs x, its gradient g, and its Hessian-vector product H v:

    ∂L = ⟨g, ∂x⟩        ∂g = H ∂x        H symmetric

Derivatives with respect to other arrays, and third derivatives, raise errors. A `Request` says what
is computed; its groups are the batches of `jax.vmap`.
"""

import math
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from fastxent import errors
from fastxent.functions import (
    BINARY,
    BINARY_HVP,
    BINARY_WITH_LOGITS,
    CATEGORICAL,
    CROSS_ENTROPY,
    CROSS_ENTROPY_HVP,
    LINEAR,
    LINEAR_HVP,
    Kind,
    Role,
)
from fastxent.integrations.jax import host
from fastxent.integrations.jax.definition import define
from fastxent.integrations.jax.index_primitives import inner_product
from fastxent.integrations.jax.requests import Request
from fastxent.integrations.jax.shapes import compute, loss_type, shapes

_PRODUCTS = {CROSS_ENTROPY: CROSS_ENTROPY_HVP, LINEAR: LINEAR_HVP, BINARY_WITH_LOGITS: BINARY_HVP}


def call(request: Request, arrays: list[Any]) -> list[Any]:
    """Compute the results of a request without groups: of a loss or of a map."""
    request = request._replace(grouped=(False,) * len(arrays))
    results: list[Any] = _call.bind(*arrays, request=request)
    return results


# --- groups ---------------------------------------------------------------------------------------


def _batch(args: Any, axes: Any, *, request: Request, primitive: Primitive) -> Any:
    """The vmap rule: make one call with a new axis of groups in front.

    Arrays per row always get this axis, so that groups can be folded into rows. Arrays per class
    and those of the linear map get it only if they are batched.
    """
    function = request.description
    size = next(a.shape[k] for a, k in zip(args, axes, strict=True) if k is not None)
    roles = [function.roles[name] for name in request.arrays]
    roles += [Role.VECTOR] * len(request.vectors)
    always = {Role.INPUT, Role.TARGET, Role.PER_ROW}
    if function.kind is not Kind.LINEAR:
        always.add(Role.VECTOR)
    elif request.vectors:
        always = set()
    n_axes, moved, grouped = len(request.groups), [], []
    for a, axis, role, had in zip(args, axes, roles, request.grouped, strict=True):
        has = had or axis is not None or role in always
        if has and not had and n_axes:  # the axes of groups that exist already
            at = 0 if axis is None else 1
            a = a if axis is None else jnp.moveaxis(a, axis, 0)
            shape = (*a.shape[:at], *request.groups, *a.shape[at:])
            dimensions = [k for k in range(len(shape)) if not at <= k < at + n_axes]
            a, axis = jax.lax.broadcast_in_dim(a, shape, dimensions), None if axis is None else 0
        moved.append(batching.bdim_at_front(a, axis, size) if has else a)
        grouped.append(has)
    request = request._replace(groups=(size, *request.groups), grouped=tuple(grouped))
    results = primitive.bind(*moved, request=request)
    return results, [0] * len(results)


def _primitive(name: str) -> Primitive:
    primitive = Primitive(name)
    primitive.multiple_results = True

    def batch(args: Any, axes: Any, *, request: Request) -> Any:
        return _batch(args, axes, request=request, primitive=primitive)

    define(primitive, compute, shapes, batch, lambda *_, request: request)
    return primitive


_call = _primitive("fastxent_call")
_product = _primitive("fastxent_hvp")
_slopes = _primitive("fastxent_slopes")


# --- derivatives of losses ----------------------------------------------------------------------


def _moving(names: tuple[str, ...], tangents: Any) -> dict[str, Any]:
    """The nonzero tangents, by the arrays' names."""
    pairs = zip(names, tangents, strict=True)
    return {
        name: t for name, t in pairs
        if type(t) is not ad.Zero and t.dtype != jax.dtypes.float0
    }  # fmt: skip


def _inputs_alone(request: Request, moving: dict[str, Any]) -> tuple[str, ...]:
    """The inputs that have tangents; raise if another array has one."""
    function = request.description
    for name in moving:
        if name == "sample_weight" and request.weighted:
            raise errors.no_second_derivative_by_row(function.name)
        if name not in function.inputs:
            raise errors.no_derivative_in_jax(name, function.name, function.inputs)
    return tuple(name for name in function.inputs if name in moving)


def _along(primals: Any, tangents: Any, *, request: Request) -> Any:
    """The jvp rule: the results, and their derivatives along tangents."""
    function, moving = request.description, _moving(request.arrays, tangents)
    names = _inputs_alone(request, moving)
    by_row = function.kind is Kind.LINEAR and not request.is_reduced
    wrt = tuple(n for n in function.inputs if n in (*request.wrt, *(() if by_row else names)))
    full = request._replace(wrt=wrt)
    results = dict(zip(_result_names(full), _call.bind(*primals, request=full), strict=True))
    vectors = [moving[name] for name in names]
    along = {}
    if by_row:
        (along["loss"],) = _slopes.bind(
            *primals, *vectors, request=_with_vectors(request, names, wrt=())
        )
    else:
        along["loss"] = sum(
            _inner(full, name, results[name], moving[name], primals) for name in names
        )
    if request.wrt:
        parts = _derivatives_of_gradients(request, primals, results, names, vectors)
        along |= dict(zip(request.wrt, parts, strict=True))
    for name in request.extras:
        along[name] = _along_extra(request, name, primals, results[name], names, vectors)
    chosen = _result_names(request)
    return [results[name] for name in chosen], [along[name] for name in chosen]


ad.primitive_jvps[_call] = _along


def _result_names(request: Request) -> list[str]:
    """The names of the results; a gradient has its input's name, even if there is only one."""
    function = request.description
    return [function.first if n == "grad" else n for n in host.names_of(request)]


def _inner(request: Request, name: str, grad: Any, tangent: Any, primals: Any) -> Any:
    """⟨g, ∂x⟩ of one input, for each loss."""
    function, n_axes = request.description, len(request.groups)
    at = request.arrays.index(name)
    if n_axes and not request.grouped[at]:
        dimensions = range(n_axes, grad.ndim)
        tangent = jax.lax.broadcast_in_dim(tangent, grad.shape, dimensions)
    if request.is_reduced:
        pass
    elif not function.has_rows:
        n_axes = grad.ndim
    else:
        axis, n_axes = request.option("axis", -1), grad.ndim - 1
        grad, tangent = (jnp.moveaxis(a, axis, -1) for a in (grad, tangent))
    return inner_product(grad, tangent, n_axes).astype(loss_type(request, primals))


def _with_vectors(request: Request, vectors: tuple[str, ...], **changes: Any) -> Request:
    """Add vectors to the operands of a request; each has groups if its input has."""
    own = dict(zip(request.arrays, request.grouped, strict=True))
    grouped = (*request.grouped, *(own[name] for name in vectors))
    return request._replace(vectors=vectors, grouped=grouped, extras=(), **changes)


def _derivatives_of_gradients(
    request: Request, primals: Any, results: Any, names: tuple[str, ...], vectors: list[Any]
) -> list[Any]:
    """The derivatives of a request's gradients along vectors, one for each input in `names`."""
    function = request.description
    arrays = dict(zip(request.arrays, primals, strict=True))
    if function is CATEGORICAL:
        return [_categorical_product(request, results[function.first], arrays, vectors[0])]
    if function is BINARY:
        return [_binary_product(request, arrays, vectors[0])]
    other = _with_vectors(request, names, function=_PRODUCTS[function].name)
    results = _product.bind(*primals, *vectors, request=other)
    return list(results)


def _categorical_product(request: Request, grad: Any, arrays: Any, v: Any) -> Any:
    """H v of a loss of probabilities; H is diagonal, -g/p for the gradient g = -κ·q/p."""
    kind = jnp.promote_types(grad.dtype, np.float32)
    p, eps = arrays[CATEGORICAL.first].astype(kind), request.option("eps")
    clipped = jnp.maximum(p, 1e-12) if eps is None else jnp.clip(p, eps, 1 - eps)
    return jnp.where(grad == 0, 0, -grad.astype(kind) / clipped * v.astype(kind)).astype(v.dtype)


def _binary_product(request: Request, arrays: Any, v: Any) -> Any:
    """H v of a binary loss of probabilities: w/D·(y·g₁² + (1-y)·g₀²)·v.

    g₁ = -1/p and g₀ = 1/(1-p) are the gradients for y = 1 and y = 0.
    """
    kind, eps = jnp.promote_types(v.dtype, np.float32), request.option("eps")
    p, y = arrays[BINARY.first].astype(kind), arrays["target"].astype(kind)
    if eps is None:
        p = jnp.where((p >= 0) & (p <= 1), p, jnp.nan)
        divisor = jnp.maximum(p * (1 - p), 1e-12)
        by_one, by_zero = (p - 1) / divisor, p / divisor
    else:
        by_one, by_zero = -1 / jnp.clip(p, eps, 1 - eps), 1 / jnp.clip(1 - p, eps, 1 - eps)
    terms = jnp.where(y == 0, 0, y * by_one**2) + jnp.where(y == 1, 0, (1 - y) * by_zero**2)
    n_axes = len(request.groups)
    if request.option("reduction") == "mean":
        terms = terms / max(1, math.prod(p.shape[n_axes:]))
    w = arrays.get("weight")
    if w is not None:
        if request.grouped[request.arrays.index("weight")]:
            w = w.reshape(*w.shape[:n_axes], *(1,) * (p.ndim - w.ndim), *w.shape[n_axes:])
        terms = jnp.where(w == 0, 0, terms * w)
    return (terms * v.astype(kind)).astype(v.dtype)


# --- further results of a loss ------------------------------------------------------------------


def _along_extra(
    request: Request, name: str, primals: Any, value: Any, names: tuple[str, ...], vectors: Any
) -> Any:
    """The derivative of a further result (probs, lse, entropy) along vectors."""
    function = request.description
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return ad.Zero(jax.typeof(value).to_tangent_aval())
    if function.kind is Kind.LINEAR:
        return _refused.bind(*vectors, like=jax.typeof(value), name=name, function=function.name)
    from fastxent.integrations.jax import maps

    arrays = dict(zip(request.arrays, primals, strict=True))
    axis = request.option("axis", -1)

    def of(x: Any) -> Any:
        if function is BINARY_WITH_LOGITS:
            return jax.nn.sigmoid(x)
        z = x.astype(jnp.promote_types(x.dtype, np.float32)) * request.option("logit_scale", 1.0)
        cap = request.option("softcap")
        z = z if cap is None else cap * jnp.tanh(z / cap)
        made = {"probs": maps.softmax, "lse": maps.logsumexp, "entropy": maps.entropy}[name]
        return made(z, axis=axis).astype(value.dtype)

    return jax.jvp(of, (arrays[function.first],), (vectors[0],))[1]


def _refuse(*_: Any, name: str, function: str, **__: Any) -> Any:
    raise errors.no_derivative_of_result(name, function)


# Stands for a derivative that is not implemented; raises an error if the program uses it.
_refused = Primitive("fastxent_no_derivative")
_refused.def_impl(_refuse)
_refused.def_abstract_eval(lambda *_, like, name, function: like)
ad.primitive_transposes[_refused] = _refuse
mlir.register_lowering(_refused, _refuse)


def _batch_refused(args: Any, axes: Any, *, like: Any, **of: Any) -> Any:
    size = next(a.shape[k] for a, k in zip(args, axes, strict=True) if k is not None)
    return _refused.bind(*args, like=like.update(shape=(size, *like.shape)), **of), 0


batching.primitive_batchers[_refused] = _batch_refused


# --- products -----------------------------------------------------------------------------------


def _split(operands: Any, request: Request) -> tuple[list[Any], list[Any]]:
    """Split operands into arrays and vectors."""
    n = len(request.arrays)
    return list(operands[:n]), list(operands[n:])


def _along_product(primals: Any, tangents: Any, *, request: Request) -> Any:
    """The jvp rule of a product, which is linear in its vectors; others are not implemented."""
    (arrays, vectors), (of_arrays, of_vectors) = (_split(a, request) for a in (primals, tangents))
    if moving := _moving(request.arrays, of_arrays):
        _inputs_alone(request, moving)
        raise errors.no_third_derivative_in_jax(request.description.name)
    moving = _moving(request.vectors, of_vectors)
    product = _product.bind(*primals, request=request)
    along = _product.bind(*arrays, *moving.values(), request=_chosen(request, tuple(moving)))
    return product, along


def _chosen(request: Request, vectors: tuple[str, ...], **changes: Any) -> Request:
    """Select some of the vectors of a request."""
    n = len(request.arrays)
    by_name = dict(zip(request.vectors, request.grouped[n:], strict=True))
    grouped = (*request.grouped[:n], *(by_name[name] for name in vectors))
    return request._replace(vectors=vectors, grouped=grouped, **changes)


def _transpose_product(cts: Any, *operands: Any, request: Request) -> Any:
    """The transpose rule of a product, which is a product because H is symmetric."""
    arrays, vectors = _split(operands, request)
    cotangents = {
        name: ct for name, ct in zip(request.wrt, cts, strict=True) if type(ct) is not ad.Zero
    }
    n_arrays = len(request.arrays)
    if not cotangents:
        return [None] * n_arrays + [ad.Zero(v.aval) for v in vectors]
    groups = (bool(request.groups),) * len(cotangents)
    other = request._replace(
        vectors=tuple(cotangents),
        wrt=request.vectors,
        grouped=(*request.grouped[:n_arrays], *groups),
    )
    products = _product.bind(*arrays, *cotangents.values(), request=other)
    parts = _ungrouped(products, request)
    return [None] * n_arrays + parts


def _ungrouped(parts: Any, request: Request) -> list[Any]:
    """Sum the parts for vectors over groups, if the vector has no groups."""
    over = tuple(range(len(request.groups)))
    flags = request.grouped[len(request.arrays) :]
    return [part if has else part.sum(over) for part, has in zip(parts, flags, strict=True)]


ad.primitive_jvps[_product] = _along_product
ad.primitive_transposes[_product] = _transpose_product


# --- slopes of losses by row of a linear map ----------------------------------------------------


def _along_slopes(primals: Any, tangents: Any, *, request: Request) -> Any:
    """The jvp rule of slopes, which are linear in the vectors; others are not implemented."""
    (arrays, _), (of_arrays, of_vectors) = (_split(a, request) for a in (primals, tangents))
    if moving := _moving(request.arrays, of_arrays):
        _inputs_alone(request, moving)
        raise errors.no_second_derivative_by_row(request.description.name)
    moving = _moving(request.vectors, of_vectors)
    slopes = _slopes.bind(*primals, request=request)
    return slopes, _slopes.bind(*arrays, *moving.values(), request=_chosen(request, tuple(moving)))


def _transpose_slopes(cts: Any, *operands: Any, request: Request) -> Any:
    """The transpose rule of slopes: gradients of the losses' sum, weighted by the cotangents."""
    arrays, vectors = _split(operands, request)
    (ct,) = cts
    n_arrays = len(request.arrays)
    if type(ct) is ad.Zero:
        return [None] * n_arrays + [ad.Zero(v.aval) for v in vectors]
    by_name = dict(zip(request.arrays, arrays, strict=True))
    grouped = dict(zip(request.arrays, request.grouped, strict=False))
    u = by_name.get("sample_weight")
    by_name["sample_weight"] = ct if u is None else jnp.where(u == 0, 0, u * ct)
    grouped["sample_weight"] = bool(request.groups)
    summed = request._replace(
        arrays=tuple(by_name), grouped=tuple(grouped[n] for n in by_name), vectors=(),
        wrt=request.vectors, weighted=True,
    ).with_options(reduction="sum")  # fmt: skip
    _, *grads = _call.bind(*by_name.values(), request=summed)
    return [None] * n_arrays + _ungrouped(grads, request)


ad.primitive_jvps[_slopes] = _along_slopes
ad.primitive_transposes[_slopes] = _transpose_slopes
