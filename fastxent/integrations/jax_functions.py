"""What the handlers of `fastxent.cpu.xla_kernels` compute, as functions of JAX with derivatives.

The loss L(x), its gradient g(x), and the product H(x) v of its second derivative and a vector:

    ∂L = ⟨g, ∂x⟩        ∂g = H ∂x        ∂(H v) = H ∂v + H ((v − pᵀv) ∘ (∂x − pᵀ∂x))

with p = softmax(x) and the sums over classes. H is symmetric, so the transpose of its product is
the product itself, and derivatives of any order and in any mode are made of these three.
"""

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.ffi
import numpy as np
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from fastxent.cpu import xla_kernels as xla
from fastxent.functions import CROSS_ENTROPY


class Settings(NamedTuple):
    """The options of a loss, which are constants of a program."""

    reduction: str
    ignore_index: int
    label_smoothing: float
    check_target: bool


def axes_of(a: Any) -> frozenset[str]:
    """The mesh axes along which an array varies, inside `jax.shard_map`."""
    kind = jax.typeof(a)
    manual = getattr(kind, "manual_axis_type", None)
    return frozenset(getattr(kind, "vma", ()) if manual is None else manual.varying)


def varying(a: Any, axes: frozenset[str]) -> Any:
    """The array cast to varying along these axes, so that its gradients are summed."""
    missing = tuple(axes - axes_of(a))
    return jax.lax.pcast(a, missing, to="varying") if missing else a


# --- loss and gradient --------------------------------------------------------------------------


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def loss(x: Any, y: Any, settings: Settings) -> Any:
    """The loss of logits (…, C) and int32 labels (…)."""
    (value,) = _losses(xla.LOSS, x, y, settings)
    return value


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def loss_and_grad(x: Any, y: Any, settings: Settings) -> Any:
    """The loss, and the gradient of its sum (…, C) of the logits' type."""
    return tuple(_losses(xla.GRAD, x, y, settings))


@loss.defjvp
def _loss_jvp(settings: Settings, primals: Any, tangents: Any) -> Any:
    value, grad = loss_and_grad(*primals, settings)
    return value, _inner(grad, tangents[0], settings.reduction)


@loss_and_grad.defjvp
def _loss_and_grad_jvp(settings: Settings, primals: Any, tangents: Any) -> Any:
    (x, y), (tangent, _) = primals, tangents
    value, grad = loss_and_grad(x, y, settings)
    along = _inner(grad, tangent, settings.reduction), product(x, y, tangent, settings)
    return (value, grad), along


# Compiled, so that its transpose makes one pass over the gradient outside of programs, too; within
# them XLA leaves out a factor of 1.
@functools.partial(jax.jit, static_argnums=2)
def _inner(grad: Any, tangent: Any, reduction: str) -> Any:
    """How the loss changes along a tangent: ⟨g, ∂x⟩ of each row, or of all."""
    kind = jnp.promote_types(grad.dtype, jnp.float32)
    rows = (grad.astype(kind) * tangent.astype(kind)).sum(-1)
    return rows if reduction == "none" else rows.sum()


@functools.partial(jax.jit, static_argnums=(0, 3))
def _losses(result: str, x: Any, y: Any, settings: Settings) -> Any:
    """Results of the handler of the loss, or of the loss and its gradient."""
    types = {"loss": jnp.promote_types(x.dtype, jnp.float32), "grad": x.dtype}
    results = [
        jax.ShapeDtypeStruct(CROSS_ENTROPY.shape(name, x.shape, -1, settings.reduction), types[name])
        for name in ("loss", "grad")[: 1 + (result == xla.GRAD)]
    ]
    handler = jax.ffi.ffi_call(
        _target(x.dtype.char, result, x.shape[-1]), results, vmap_method="broadcast_all"
    )
    found = handler(x, y, **_attributes(settings))
    return [varying(value, axes_of(x)) for value in found]


# --- the product of the second derivative and a vector ------------------------------------------


def product(x: Any, y: Any, vector: Any, settings: Settings, n_groups: int = 1) -> Any:
    """The product H(x) v, of the shape and type of x and v.

    The first axes are groups of rows, `n_groups` in all, each with a mean of its own.
    """
    return _product.bind(x, y, vector, settings=settings, n_groups=n_groups)


@functools.partial(jax.jit, static_argnames=("settings", "n_groups"))
def _call_product(x: Any, y: Any, vector: Any, *, settings: Settings, n_groups: int) -> Any:
    """The result of the handler."""
    kind = jax.ShapeDtypeStruct(x.shape, x.dtype)
    handler = jax.ffi.ffi_call(_target(x.dtype.char, xla.PRODUCT, x.shape[-1]), kind)
    return handler(x, y, vector, **_attributes(settings), n_groups=np.int64(n_groups))


def _batch_product(args: Any, axes: Any, *, settings: Settings, n_groups: int) -> Any:
    """A new axis in front; with a mean its elements are groups of rows."""
    size = next(a.shape[axis] for a, axis in zip(args, axes, strict=True) if axis is not None)
    x, y, vector = (
        batching.bdim_at_front(a, axis, size) for a, axis in zip(args, axes, strict=True)
    )
    n_groups = size * n_groups if settings.reduction == "mean" else 1
    return product(x, y, vector, settings, n_groups), 0


def _transpose_product(ct: Any, x: Any, y: Any, vector: Any, **parameters: Any) -> Any:
    return None, None, product(x, y, ct, **parameters)


def _along_vector(tangent: Any, x: Any, y: Any, vector: Any, **parameters: Any) -> Any:
    return product(x, y, tangent, **parameters)


def _along_logits(
    tangent: Any, x: Any, y: Any, vector: Any, *, settings: Settings, n_groups: int
) -> Any:
    """How the product changes along a tangent of x: a third derivative."""
    active = (y != settings.ignore_index)[..., None]
    kind = jnp.promote_types(x.dtype, jnp.float32)
    # An ignored row adds nothing, even where it holds nan.
    p = jax.nn.softmax(jnp.where(active, x, 0).astype(kind))
    v, t = (a.astype(kind) - (p * a).sum(-1, keepdims=True) for a in (vector, tangent))
    return product(x, y, (v * t).astype(x.dtype), settings, n_groups)


_product = Primitive("fastxent_cross_entropy_hvp")
_product.def_impl(_call_product)
_product.def_abstract_eval(lambda x, y, vector, **parameters: vector)
mlir.register_lowering(_product, mlir.lower_fun(_call_product, multiple_results=False))
batching.primitive_batchers[_product] = _batch_product
ad.deflinear2(_product, _transpose_product)
ad.defjvp(_product, _along_logits, None, _along_vector)


# --- handlers -----------------------------------------------------------------------------------


def _attributes(settings: Settings) -> dict[str, Any]:
    """The attributes of a call: they have 64 bits, with or without jax_enable_x64."""
    return {
        "check_target": np.int64(settings.check_target),
        "label_smoothing": np.float64(settings.label_smoothing),
        "ignore_index": np.int64(settings.ignore_index),
        "mode": np.int64(xla.MODES[settings.reduction]),
    }


def _target(char: str, result: str, n_classes: int) -> str:
    """Name of the registered handler for rows of so many classes."""
    return _registered(char, result, xla.has_few_classes(char, result, n_classes))


@functools.cache
def _registered(char: str, result: str, few_classes: bool) -> str:
    """Name of a registered handler, which is compiled or loaded when first traced."""
    name = f"fastxent_cross_entropy_{char}_{result}_{few_classes:d}"
    # Start the backend first: it fails to start if it refuses a handler registered before.
    jax.devices("cpu")
    address = xla.handler(char, result, few_classes, _interface_version())
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform="cpu")
    return name


@functools.cache
def _interface_version() -> int:
    """The minor version of XLA's interface, which a handler has to declare."""
    header = Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    found = re.search(r"#define XLA_FFI_API_MINOR (\d+)", header.read_text())
    if found is None:
        raise RuntimeError(f"jax must state the version of its interface in {header}")
    return int(found[1])
