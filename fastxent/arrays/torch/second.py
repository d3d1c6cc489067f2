"""Autograd nodes for the losses and their derivatives, which can be differentiated once more.

With G_i the gradient of a loss by input i, H_ij its second derivatives, `up` the gradient of the
loss or losses, and vectors v_j shaped as the inputs:

    Gradient_i = Σ up·G_i           linear in up
    Slope      = Σ_i G_i·v_i        of each loss; linear in the vectors
    Product_i  = Σ up·Σ_j H_ij·v_j  linear in up and in the vectors

The derivative of each node is another of these nodes, except the derivative of Product by the
inputs, which would be a third derivative. The same rules serve double backward, forward mode and
torch.func. `gradients` and `products` compute the values.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from fastxent import errors
from fastxent.arrays.torch import batches, gradients, memory, products, refusals
from fastxent.arrays.torch.batches import PackedCall
from fastxent.functions import Kind

_functorch = torch._C._functorch

Tensors = Sequence[torch.Tensor]
Names = tuple[str, ...]


class Derivative:
    """Which derivative a node computes.

    `wrt` are the inputs of the derivative, `along` the inputs that have vectors. `made` are the
    gradients of the loss before the multiplication by `up`, if they have been computed.
    """

    __slots__ = ("along", "made", "wrt")

    def __init__(self, wrt: Names = (), along: Names = (), made: Any = None) -> None:
        self.wrt, self.along, self.made = wrt, along, made


class Parts(NamedTuple):
    """The tensors of a node, or a value for each: `up`, the vectors, and the call's tensors."""

    up: Any
    vectors: Any
    tensors: Any


class Node(torch.autograd.Function):  # type: ignore[misc]
    """A node that takes a `Call`, an `Of`, `up` if it `has_up`, vectors, and the call's tensors."""

    has_up = True
    # Whether a batch of calls of a linear map can be one unreduced call: not for nodes that need a
    # value per row that no kernel computes.
    maps_linear = True

    @classmethod
    def parts(cls, call: PackedCall, values: Any) -> Parts:
        """Split the values of a node's tensors."""
        k, n = int(cls.has_up), len(values) - len(call.names)
        return Parts(values[0] if k else None, values[k:n], values[n:])

    @classmethod
    def setup_context(cls, ctx: Any, inputs: Any, output: Any) -> None:
        """Save the tensors; raise for one that requires grad but is not an input."""
        ctx.call, ctx.of, *tensors = inputs
        ctx.call.refuse_gradients(cls.parts(ctx.call, ctx.needs_input_grad[2:]).tensors)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @classmethod
    def read(cls, ctx: Any) -> tuple[PackedCall, Derivative, Parts, Parts]:
        """The node's arguments, and which of its tensors need a gradient."""
        saved = ctx.saved_tensors
        ctx.call.check_versions(cls.parts(ctx.call, saved).tensors)
        needs = cls.parts(ctx.call, ctx.needs_input_grad[2:])
        return ctx.call, ctx.of, cls.parts(ctx.call, saved), needs

    @classmethod
    def tangents(
        cls, ctx: Any, tangents: Any
    ) -> tuple[PackedCall, Derivative, Parts, Parts, Names, Any]:
        """The node's arguments, their tangents, and the inputs that have tangents."""
        of_tensors = cls.parts(ctx.call, tangents[2:])
        known = {
            name: tangent
            for name, tangent in zip(ctx.call.names, of_tensors.tensors, strict=True)
            if tangent is not None
        }
        for name in known:
            if name not in ctx.call.function.inputs:
                raise errors.no_forward_mode(name)
        saved = cls.parts(ctx.call, ctx.saved_tensors)
        return ctx.call, ctx.of, saved, of_tensors, tuple(known), list(known.values())

    @classmethod
    def mapped(cls, info: Any, dims: Any, call: PackedCall, of: Derivative, *tensors: Any) -> Any:
        """Apply a batch of nodes as one node, with the batch axis first; None if not possible."""
        values, dims = cls.parts(call, tensors), cls.parts(call, dims[2:])
        one = (call.function.first,)
        if not {*of.wrt, *of.along} <= {*one}:
            return None
        if not cls.maps_linear and call.function.kind is Kind.LINEAR:
            return None
        batch = batches.folded(call, info.batch_size, dims.tensors, values.tensors)
        if batch is None:
            return None
        up = [batch.by_rows(values.up, dims.up)] if cls.has_up else []
        vectors = batch.vectors(values.vectors, dims.vectors)
        tensors = (*up, *vectors, *batch.tensors)
        # Outside of all transforms no node is needed if nothing requires grad.
        plain = not memory.is_transforming() and not refusals.may_have_tangents()
        if plain and not any(t.requires_grad for t in tensors):
            return batch, cls.forward(batch.call, Derivative(of.wrt, of.along), *tensors)
        return batch, cls.apply(batch.call, Derivative(of.wrt, of.along), *tensors)

    @classmethod
    def vmap(cls, info: Any, dims: Any, call: PackedCall, of: Derivative, *tensors: Any) -> Any:
        """The vmap rule of nodes whose results are shaped as the inputs."""
        batched = cls.mapped(info, dims, call, of, *tensors)
        if batched is None:
            return batches.one_by_one(
                cls, info.batch_size, dims, call, Derivative(of.wrt, of.along), *tensors
            )
        return batched[1], (0,) * len(batched[1])


class _PerLossNode(Node):
    """A node with one value per loss."""

    has_up = False
    is_loss = False

    @classmethod
    def vmap(cls, info: Any, dims: Any, call: PackedCall, of: Derivative, *tensors: Any) -> Any:
        """The rule of vmap."""
        batched = cls.mapped(info, dims, call, of, *tensors)
        if batched is None:
            return batches.one_by_one(cls, info.batch_size, dims, call, of, *tensors)
        batch, rows = batched
        return batch.reduced(rows, cls.is_loss), 0


class Loss(_PerLossNode):
    """A loss, or unreduced losses; `backward` computes the gradients."""

    is_loss = True

    @staticmethod
    def forward(call: PackedCall, of: Derivative, *tensors: torch.Tensor) -> torch.Tensor:
        """Compute them."""
        loss: torch.Tensor = gradients.run(call.function, call.arguments(tensors))
        return loss

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        """Gradient."""
        call, _, saved, needs = Loss.read(ctx)
        if up is None:
            return (None,) * (2 + len(saved.tensors))
        wrt = call.inputs_where(needs.tensors)
        grads = for_each_in_batch(
            [up], lambda up: Gradient.apply(call, Derivative(wrt), up, *saved.tensors)
        )
        return None, None, *_by_name(call, wrt, grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Slope."""
        call, _, saved, _, along, vectors = Loss.tangents(ctx, tangents)
        return (
            Slope.apply(call, Derivative(along=along), *vectors, *saved.tensors) if along else None
        )


class LossAndGradient(Node):
    """A loss of one input, or unreduced losses, and the gradient of their sum.

    Both results are differentiable, so `backward` of the loss can return the gradient without
    another node.
    """

    has_up = False

    @staticmethod
    def forward(call: PackedCall, of: Derivative, *tensors: torch.Tensor) -> Any:
        """Compute both."""
        arguments = call.arguments(tensors) | {"return_grad": True}
        loss, grad = gradients.run(call.function, arguments)
        return loss, grad

    @classmethod
    def setup_context(cls, ctx: Any, inputs: Any, output: Any) -> None:
        """Save the gradient too."""
        ctx.call, ctx.of, *tensors = inputs
        ctx.call.refuse_gradients(ctx.needs_input_grad[2:])
        ctx.save_for_backward(*tensors, output[1])
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.is_returned = False

    @staticmethod
    def backward(ctx: Any, up: Any, by_gradient: Any) -> Any:
        """Return the saved gradient the first time, else Gradient; Product for the gradient."""
        call, wrt = ctx.call, (ctx.call.function.first,)
        *tensors, grad = ctx.saved_tensors
        terms = []
        if up is not None and not ctx.is_returned and _is_one(up):
            # The receiver may write to it, so it is returned only once.
            ctx.is_returned = True
            terms.append([grad])
        elif up is not None:
            terms.append(Gradient.apply(call, Derivative(wrt), up, *tensors))
        if by_gradient is not None:
            up = _ones(call, tensors)
            terms.append(_products(call, wrt, wrt, up, [by_gradient], tensors))
        return None, None, *_by_name(call, wrt, _sums(terms, 1))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Slope of the loss, Product of the gradient."""
        call, _, saved, _, along, vectors = LossAndGradient.tangents(ctx, tangents)
        if not along:
            return None, None
        slope = Slope.apply(call, Derivative(along=along), *vectors, *saved.tensors)
        up = _ones(call, saved.tensors)
        return slope, *_products(call, along, along, up, vectors, saved.tensors)

    @classmethod
    def vmap(cls, info: Any, dims: Any, call: PackedCall, of: Derivative, *tensors: Any) -> Any:
        """The rule of vmap."""
        batched = cls.mapped(info, dims, call, of, *tensors)
        if batched is None:
            return batches.one_by_one(cls, info.batch_size, dims, call, of, *tensors)
        batch, (rows, grad) = batched
        return (batch.reduced(rows, True), grad), (0, 0)


class Gradient(Node):
    """The gradients by the inputs `wrt` of losses with the upstream gradient `up`."""

    @staticmethod
    def forward(call: PackedCall, of: Derivative, up: torch.Tensor, *tensors: torch.Tensor) -> Any:
        """Compute the gradients, from those in `made` if there are any."""
        arguments = call.arguments(tensors)
        if of.made is None:
            grads = gradients.gradients(call.function, arguments, up, of.wrt)
        else:
            axis = gradients.rows_axis(call.function, arguments) if up.ndim else None
            factor = up if axis is None else up.unsqueeze(axis)
            grads = [gradients.product(grad, factor, False) for grad in of.made]
        return _typed(grads, of.wrt, arguments)

    @staticmethod
    def backward(ctx: Any, *ups: Any) -> Any:
        """Slope by `up`, Product by the inputs."""
        call, of, saved, needs = Gradient.read(ctx)
        along, vectors = _present(of.wrt, ups)
        wrt = call.inputs_where(needs.tensors)
        up = None
        if along and needs.up:
            (up,) = for_each_in_batch(
                vectors, lambda *v: [Slope.apply(call, Derivative(along=along), *v, *saved.tensors)]
            )
        by_inputs = _products(call, wrt, along, saved.up, vectors, saved.tensors)
        return None, None, up, *_by_name(call, wrt, by_inputs)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Gradient along a tangent of `up`, Product along those of the inputs."""
        call, of, saved, directions, along, vectors = Gradient.tangents(ctx, tangents)
        terms = []
        if directions.up is not None:
            terms.append(Gradient.apply(call, Derivative(of.wrt), directions.up, *saved.tensors))
        if along:
            terms.append(_products(call, of.wrt, along, saved.up, vectors, saved.tensors))
        return _sums(terms, len(of.wrt))


class Slope(_PerLossNode):
    """The derivative of each loss along vectors."""

    maps_linear = False

    @staticmethod
    def forward(call: PackedCall, of: Derivative, *tensors: torch.Tensor) -> torch.Tensor:
        """Compute it."""
        values = Slope.parts(call, tensors)
        vectors = dict(zip(of.along, values.vectors, strict=True))
        return products.slope(call.function, call.arguments(values.tensors), vectors)

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        """Gradient by the vectors, Product by the inputs."""
        call, of, saved, needs = Slope.read(ctx)
        if up is None:
            return (None,) * (2 + len(saved.vectors) + len(saved.tensors))
        by_vectors: Any = [None] * len(of.along)
        if any(needs.vectors):
            by_vectors = for_each_in_batch(
                [up], lambda up: Gradient.apply(call, Derivative(of.along), up, *saved.tensors)
            )
        wrt = call.inputs_where(needs.tensors)
        by_inputs = _products(call, wrt, of.along, up, saved.vectors, saved.tensors)
        return None, None, *by_vectors, *_by_name(call, wrt, by_inputs)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Slope along tangents of the vectors, and the second derivative along both."""
        call, of, saved, directions, along, vectors = Slope.tangents(ctx, tangents)
        terms = []
        changed, changes = _present(of.along, directions.vectors)
        if changed:
            terms.append([Slope.apply(call, Derivative(along=changed), *changes, *saved.tensors)])
        if along:
            pair = (
                dict(zip(of.along, saved.vectors, strict=True)),
                dict(zip(along, vectors, strict=True)),
            )
            terms.append([_curvature(call, saved.tensors, *pair)])
        (total,) = _sums(terms, 1)
        return total


class Product(Node):
    """The products of second derivatives by the inputs `wrt` with vectors and `up`."""

    maps_linear = False

    @staticmethod
    def forward(call: PackedCall, of: Derivative, up: torch.Tensor, *tensors: torch.Tensor) -> Any:
        """Compute them."""
        _, vectors, rest = Product.parts(call, (up, *tensors))
        arguments = call.arguments(rest)
        named = dict(zip(of.along, vectors, strict=True))
        if of.made is not None:
            result = [of.made(arguments, up, *vectors)]
        else:
            result = products.products(call.function, arguments, up, of.wrt, named)
        return _typed(result, of.wrt, arguments)

    @staticmethod
    def backward(ctx: Any, *ups: Any) -> Any:
        """Product by the vectors (second derivatives are symmetric); an error by the inputs."""
        call, of, saved, needs = Product.read(ctx)
        wrt, cotangents = _present(of.wrt, ups)
        by_vectors: Any = [None] * len(of.along)
        up = None
        if wrt and any(needs.vectors):
            by_vectors = _products(call, of.along, wrt, saved.up, cotangents, saved.tensors)
        if wrt and needs.up:
            along = dict(zip(of.along, saved.vectors, strict=True))
            cotangents_by_name = dict(zip(wrt, cotangents, strict=True))
            up = _curvature(call, saved.tensors, along, cotangents_by_name)
        return None, None, up, *by_vectors, *[None] * len(saved.tensors)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Product along tangents of `up` and of the vectors; an error along the inputs."""
        call, of, saved, directions, along, _ = Product.tangents(ctx, tangents)
        if along:
            raise errors.no_third_derivative()
        terms = []
        changed, changes = _present(of.along, directions.vectors)
        if changed:
            terms.append(_products(call, of.wrt, changed, saved.up, changes, saved.tensors))
        if directions.up is not None:
            terms.append(
                _products(call, of.wrt, of.along, directions.up, saved.vectors, saved.tensors)
            )
        return _sums(terms, len(of.wrt))


class _Undifferentiable(torch.autograd.Function):  # type: ignore[misc]
    """The identity, whose derivative is an error."""

    @staticmethod
    def forward(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, up: Any) -> Any:
        raise errors.no_third_derivative()

    @staticmethod
    def jvp(ctx: Any, tangent: Any) -> Any:
        raise errors.no_third_derivative()

    @staticmethod
    def vmap(info: Any, dims: Any, tensor: Any) -> Any:
        return _Undifferentiable.apply(tensor), dims[0]


def _products(
    call: PackedCall, wrt: Names, along: Names, up: Any, vectors: Any, tensors: Tensors
) -> list[Any]:
    """Apply Product, to each of a batch of vectors; None for each input if there are no vectors."""
    if not wrt or not along:
        return [None] * len(wrt)
    last = [
        _Undifferentiable.apply(t) if name in call.function.inputs and _is_watched(t) else t
        for name, t in zip(call.names, tensors, strict=True)
    ]
    return for_each_in_batch(
        [up, *vectors], lambda up, *v: Product.apply(call, Derivative(wrt, along), up, *v, *last)
    )


def _is_watched(tensor: torch.Tensor) -> bool:
    """Whether a tensor may be differentiated with respect to, at any level of transforms."""
    wrapped: bool = _functorch.is_functorch_wrapped_tensor(tensor)
    return wrapped or tensor.requires_grad


def _curvature(call: PackedCall, tensors: Tensors, a: dict[str, Any], b: dict[str, Any]) -> Any:
    """The second derivative of each loss along two sets of vectors."""
    function, arguments = call.function, call.arguments(tensors)
    if arguments.get("reduction", "mean") == "none" and function.kind is Kind.LINEAR:
        raise errors.no_third_derivative()
    up = _ones(call, tensors)
    made = _products(call, tuple(b), tuple(a), up, list(a.values()), tensors)
    terms = [
        products.per_loss(function, arguments, _widened(h) * _widened(b[name]))
        for name, h in zip(b, made, strict=True)
    ]
    return sum(terms[1:], terms[0])


def _ones(call: PackedCall, tensors: Tensors) -> torch.Tensor:
    """The upstream gradient of the sum of a call's losses: ones."""
    function, arguments = call.function, call.arguments(tensors)
    first = arguments[function.first]
    shape: tuple[int, ...] = ()
    if arguments.get("reduction", "mean") == "none":
        axis = -1 if function.kind is Kind.LINEAR else arguments.get("axis", -1)
        shape = function.rows(first.shape, axis)
    kind = torch.float64 if first.dtype == torch.float64 else torch.float32
    return torch.ones(shape, dtype=kind, device=first.device)


def needs_gradient(tensor: torch.Tensor) -> bool:
    """Whether a tensor within torch.func's transforms requires grad at one of their levels."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if tensor.requires_grad:
            return True
        tensor = _functorch.get_unwrapped(tensor)
    return bool(tensor.requires_grad)


def _is_one(up: torch.Tensor) -> bool:
    """Whether an upstream gradient is 1 everywhere and is not differentiated itself."""
    if needs_gradient(up) or refusals.may_have_tangents():
        return False
    while _functorch.is_functorch_wrapped_tensor(up):
        up = _functorch.get_unwrapped(up)
    if memory.is_recorded() or not up.is_cpu or memory.is_virtual(up):
        return False
    return bool(torch.equal(up, up.new_ones(()).expand(up.shape)))


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _typed(derivatives: Tensors, names: Names, arguments: Any) -> tuple[torch.Tensor, ...]:
    """Convert derivatives to the types of their inputs."""
    return tuple(
        tensor.to(arguments[name].dtype) for name, tensor in zip(names, derivatives, strict=True)
    )


def _by_name(call: PackedCall, names: Names, derivatives: Any) -> list[Any]:
    """The gradients of these inputs, None for the call's other tensors."""
    known = dict(zip(names, derivatives, strict=True))
    return [known.get(name) for name in call.names]


def _present(names: Names, values: Any) -> tuple[Names, list[Any]]:
    """The values that are not None, and their names."""
    pairs = [(n, value) for n, value in zip(names, values, strict=True) if value is not None]
    return tuple(n for n, _ in pairs), [value for _, value in pairs]


def _sums(terms: list[Any], n: int) -> tuple[Any, ...]:
    """The elementwise sum of tuples; n times None if there are none."""
    if not terms:
        return (None,) * n
    return tuple(sum(each[1:], each[0]) for each in zip(*terms, strict=True))


# Whether a tensor is a batch of PyTorch's legacy vmap, as in is_grads_batched=True. Not public.
is_batch = getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda _: True)


def for_each_in_batch(values: Sequence[Any], compute: Callable[..., Any]) -> list[Any]:
    """Call compute(*values), for each item of a batch of PyTorch's legacy vmap.

    Legacy vmap has rules for PyTorch's own operators only, so the batch is unpacked and computed
    one by one.
    """
    if not any(map(is_batch, values)):
        return list(compute(*values))
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    each = [torch._remove_batch_dim(v, level, 0, 0) if is_batch(v) else v for v in values]
    size = max(len(e) for v, e in zip(values, each, strict=True) if is_batch(v))
    results = [
        compute(*[e[k] if is_batch(v) else e for v, e in zip(values, each, strict=True)])
        for k in range(size)
    ]
    return [
        torch._add_batch_dim(torch.stack(parts), 0, level) for parts in zip(*results, strict=True)
    ]
