"""JAX primitives with derivatives, computed by the handlers of `fastxent.cpu.xla_kernels`.

They are the loss L(x), its gradient g(x), and its Hessian-vector product H(x) v:

    ∂L = ⟨g, ∂x⟩        ∂g = H ∂x        ∂(H v) = H ∂v + H ((v − pᵀv) ∘ (∂x − pᵀ∂x))

with p = softmax(x) and sums over classes. H is symmetric, so the transpose of the product is the
product itself, and derivatives of any order and mode are composed of these.

Logits are (…, C), labels int32 (…). The loss has the first `n_axes` axes of the logits: none if it
is reduced, all but the class axis if not, and those that `jax.vmap` adds in front. With axes of
`jax.vmap` a reduced loss is an array, with one loss for each group of rows.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.ffi
import numpy as np
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching
from jax.sharding import PartitionSpec

from fastxent.cpu import xla_kernels as xla
from fastxent.functions import CROSS_ENTROPY, CROSS_ENTROPY_HVP
from fastxent.integrations.jax.definition import define
from fastxent.integrations.jax.interface import interface_version
from fastxent.integrations.jax.requests import Request


class Settings(NamedTuple):
    """The options of a loss, which are constants in a program."""

    reduction: str
    ignore_index: int
    label_smoothing: float
    check_target: bool


def cross_entropy(x: Any, y: Any, settings: Settings) -> Any:
    """Compute the loss of logits (…, C) and int32 labels (…)."""
    n_axes = x.ndim - 1 if settings.reduction == "none" else 0
    (loss,) = _losses.bind(x, y, result=xla.LOSS, settings=settings, n_axes=n_axes)
    return loss


def _request(x: Any, y: Any, *vector: Any, settings: Settings, n_axes: int, **of: Any) -> Request:
    """Make the request of a call, for partitioning over several devices."""
    options = settings._asdict() | {"axis": -1}
    groups = x.shape[:n_axes] if settings.reduction != "none" else ()
    return Request(
        CROSS_ENTROPY_HVP.name if vector else CROSS_ENTROPY.name,
        ("logits", "target"),
        tuple(sorted(options.items())),
        wrt=("logits",) if vector or of["result"] == xla.GRAD else (),
        vectors=("logits",) if vector else (),
        groups=groups,
        grouped=(bool(groups),) * (2 + len(vector)),
    )


def _sum_type(x: Any) -> Any:
    """The type of losses and of sums."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _of_losses(x: Any, n_axes: int) -> Any:
    """The abstract value of the losses of logits, with the sharding and varying axes of these."""
    sharding = x.sharding.update(spec=PartitionSpec(*x.sharding.spec[:n_axes]))
    return x.update(
        shape=x.shape[:n_axes], dtype=_sum_type(x), weak_type=False, sharding=sharding
    )  # fmt: skip


def _in_front(arrays: Any, axes: Any) -> list[Any]:
    """Move or add the axis of vmap to the front of arrays."""
    pairs = list(zip(arrays, axes, strict=True))
    size = next(a.shape[axis] for a, axis in pairs if axis is not None)
    return [batching.bdim_at_front(a, axis, size) for a, axis in pairs]


# --- loss and gradient --------------------------------------------------------------------------


def _compute_losses(x: Any, y: Any, *, result: str, settings: Settings, n_axes: int) -> Any:
    """Compute the losses and, for GRAD, the gradient of their sum."""
    kinds = [jax.ShapeDtypeStruct(x.shape[:n_axes], _sum_type(x))]
    if result == xla.GRAD:
        kinds.append(jax.ShapeDtypeStruct(x.shape, x.dtype))
    return jax.ffi.ffi_call(_handler(x, result), kinds)(x, y, **_attributes(settings))


def _shape_losses(x: Any, y: Any, *, result: str, settings: Settings, n_axes: int) -> Any:
    losses = _of_losses(x, n_axes)
    return [losses, x] if result == xla.GRAD else [losses]


def _batch_losses(args: Any, axes: Any, *, n_axes: int, **parameters: Any) -> Any:
    results = _losses.bind(*_in_front(args, axes), n_axes=n_axes + 1, **parameters)
    return results, [0] * len(results)


def _along_losses(primals: Any, tangents: Any, *, result: str, **parameters: Any) -> Any:
    x, y = primals
    tangent = ad.instantiate_zeros(tangents[0])
    results = _losses.bind(x, y, result=xla.GRAD, **parameters)
    along = [inner_product(results[1], tangent, parameters["n_axes"])]
    if result == xla.GRAD:
        along.append(_product.bind(x, y, tangent, **parameters))
    return results[: len(along)], along


_losses = Primitive("fastxent_cross_entropy")
_losses.multiple_results = True
define(_losses, _compute_losses, _shape_losses, _batch_losses, _request)
ad.primitive_jvps[_losses] = _along_losses


# --- the derivative of a loss along a tangent ---------------------------------------------------


def _compute_inner(grad: Any, tangent: Any, *, n_axes: int) -> Any:
    """⟨g, ∂x⟩ over all but the first `n_axes` axes; terms with g = 0 are 0, whatever ∂x is."""
    kind = _sum_type(grad)
    products = jnp.where(grad == 0, 0, grad.astype(kind) * tangent.astype(kind))
    if n_axes == grad.ndim:
        return products
    return products.sum(-1).sum(tuple(range(n_axes, grad.ndim - 1)))


def inner_product(grad: Any, tangent: Any, n_axes: int) -> Any:
    """The inner product as a bilinear primitive."""
    return _inner.bind(grad, tangent, n_axes=n_axes)


@functools.partial(jax.jit, inline=True)
def _times(grad: Any, factor: Any) -> Any:
    """Multiply a gradient by the upstream gradient; XLA removes a factor of 1."""
    factor = jax.lax.broadcast_in_dim(factor, grad.shape, range(factor.ndim))
    return (grad * factor).astype(grad.dtype)


def _batch_inner(args: Any, axes: Any, *, n_axes: int) -> Any:
    return _inner.bind(*_in_front(args, axes), n_axes=n_axes + 1), 0


_inner = Primitive("fastxent_inner_product")
define(_inner, _compute_inner, lambda grad, tangent, n_axes: _of_losses(grad, n_axes), _batch_inner)
ad.defbilinear(
    _inner,
    lambda ct, grad, tangent, n_axes: _times(tangent, ct),
    lambda ct, grad, tangent, n_axes: _times(grad, ct),
)


# --- Hessian-vector products --------------------------------------------------------------------


def _compute_product(x: Any, y: Any, vector: Any, *, settings: Settings, n_axes: int) -> Any:
    """Compute H(x) v, of the shape and type of x and v."""
    kind = jax.ShapeDtypeStruct(x.shape, x.dtype)
    n_groups = math.prod(x.shape[:n_axes]) if settings.reduction == "mean" else 1
    handler = jax.ffi.ffi_call(_handler(x, xla.PRODUCT), kind)
    return handler(x, y, vector, **_attributes(settings), n_groups=np.int64(n_groups))


def _batch_product(args: Any, axes: Any, *, n_axes: int, **parameters: Any) -> Any:
    return _product.bind(*_in_front(args, axes), n_axes=n_axes + 1, **parameters), 0


def _transpose_product(ct: Any, x: Any, y: Any, vector: Any, **parameters: Any) -> Any:
    return None, None, _product.bind(x, y, ct, **parameters)


def _along_vector(tangent: Any, x: Any, y: Any, vector: Any, **parameters: Any) -> Any:
    return _product.bind(x, y, tangent, **parameters)


def _along_logits(
    tangent: Any, x: Any, y: Any, vector: Any, *, settings: Settings, n_axes: int
) -> Any:
    """Compute the derivative of the product along a tangent of the logits: a third derivative."""
    active = (y != settings.ignore_index)[..., None]
    # Ignored rows and classes with p = 0 are excluded, whatever their logits, v and ∂x are.
    p = jnp.where(active, jax.nn.softmax(jnp.where(active, x, 0).astype(_sum_type(x))), 0)
    v, t = (jnp.where(p == 0, 0, a) for a in (vector, tangent))
    v, t = (a - (p * a).sum(-1, keepdims=True) for a in (v, t))
    return _product.bind(x, y, (v * t).astype(x.dtype), settings=settings, n_axes=n_axes)


_product = Primitive("fastxent_cross_entropy_hvp")
define(_product, _compute_product, lambda x, y, vector, **_: vector, _batch_product, _request)
ad.deflinear2(_product, _transpose_product)
ad.defjvp(_product, _along_logits, None, _along_vector)


# --- handlers -----------------------------------------------------------------------------------


def _attributes(settings: Settings) -> dict[str, Any]:
    """The attributes of a call; they have 64 bits, with or without jax_enable_x64."""
    return {
        "check_target": np.int64(settings.check_target),
        "label_smoothing": np.float64(settings.label_smoothing),
        "ignore_index": np.int64(settings.ignore_index),
        "mode": np.int64(xla.MODES[settings.reduction]),
    }


def _handler(x: Any, result: str) -> str:
    """The name of the registered handler for these logits."""
    char = x.dtype.char
    return _registered(char, result, xla.has_few_classes(char, result, x.shape[-1]))


@functools.cache
def _registered(char: str, result: str, few_classes: bool) -> str:
    """Compile or load a handler at the first trace, register it, and return its name."""
    name = f"fastxent_cross_entropy_{char}_{result}_{few_classes:d}"
    # Start the backend first: it fails to start if it refuses a handler registered before.
    jax.devices("cpu")
    address = xla.handler(char, result, few_classes, interface_version())
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform="cpu")
    return name
