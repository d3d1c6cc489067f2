"""Derivatives of losses along vectors, and Hessian-vector products.

`arguments` are the arguments of a loss by name, `vectors` are tensors by the names of the inputs.
"""

import torch

from fastxent.arrays import views
from fastxent.arrays.torch import memory
from fastxent.arrays.torch.gradients import (
    gradients,
    masked_product,
    product,
    run,
    weighted_rows,
    with_gradients,
    without_half,
    without_requests,
)
from fastxent.functions import (
    BINARY_HVP,
    BINARY_WITH_LOGITS,
    CATEGORICAL,
    CROSS_ENTROPY,
    CROSS_ENTROPY_HVP,
    LINEAR,
    LINEAR_HVP,
    Arguments,
    Function,
    Kind,
)  # fmt: skip
from fastxent.records import LinearGrad

Vectors = dict[str, torch.Tensor]
_PRODUCTS = {CROSS_ENTROPY: CROSS_ENTROPY_HVP, LINEAR: LINEAR_HVP, BINARY_WITH_LOGITS: BINARY_HVP}
_BLOCK = 1 << 22  # logits per block


def slope(function: Function, arguments: Arguments, vectors: Vectors) -> torch.Tensor:
    """Compute the derivative of each loss along the vectors."""
    by_row = arguments.get("reduction", "mean") == "none"
    if function.kind is Kind.LINEAR and by_row:
        return _slopes_of_rows(arguments, vectors)
    arguments = without_half(function, arguments)
    _, grads = run(function, with_gradients(function, arguments, tuple(vectors)))
    made = [grad for grad in views.parts(grads) if grad is not None]
    names = [name for name in function.inputs if name in vectors]
    terms = [
        per_loss(function, arguments, masked_product(g, vectors[n]))
        for n, g in zip(names, made, strict=True)
    ]
    return sum(terms[1:], terms[0])


def per_loss(function: Function, arguments: Arguments, terms: torch.Tensor) -> torch.Tensor:
    """Sum the terms of each loss."""
    kind = torch.float64 if terms.dtype == torch.float64 else torch.float32
    if arguments.get("reduction", "mean") != "none":
        return terms.sum(dtype=torch.float64).to(kind)
    if not function.has_rows:
        return terms.to(kind)
    return terms.sum(int(arguments.get("axis", -1)), dtype=torch.float64).to(kind)


def _slopes_of_rows(arguments: Arguments, vectors: Vectors) -> torch.Tensor:
    """Compute the derivatives of unreduced losses of a linear map along vectors, by blocks."""
    x, w = (arguments[name].detach() for name in LINEAR.inputs[:2])
    kind = torch.promote_types(x.dtype, w.dtype)
    kind = torch.float64 if kind == torch.float64 else torch.float32
    bias = arguments.get("linear_bias")
    weight = w.to(kind).T
    rest = without_requests(LINEAR, arguments)
    rest = {n: a for n, a in rest.items() if n not in (*LINEAR.inputs, "wrt")}
    per_row = {n: rest.pop(n) for n in ("target", "sample_weight") if rest.get(n) is not None}
    shape = x.shape[:-1]
    x = x.reshape(-1, x.shape[-1]).to(kind)
    moved = {n: v.reshape(x.shape if n == "x" else v.shape).to(kind) for n, v in vectors.items()}
    flat = {}
    for name, value in per_row.items():
        value = value if isinstance(value, torch.Tensor) else torch.as_tensor(value)
        flat[name] = value.reshape(len(x), *value.shape[len(shape) :])
    step, slopes = max(1, _BLOCK // max(1, w.shape[0])), []
    for k in range(0, max(len(x), 1), step):
        part = x[k : k + step]
        logits, along = part @ weight, torch.zeros((), dtype=kind)
        if bias is not None:
            logits = logits + torch.as_tensor(bias).to(kind)
        if "x" in moved:
            along = along + moved["x"][k : k + step] @ weight
        if "linear_weight" in moved:
            along = along + part @ moved["linear_weight"].T
        if "linear_bias" in moved:
            along = along + moved["linear_bias"]
        block = {n: v[k : k + step] for n, v in flat.items()}
        call = {"logits": logits, **rest, **block, "return_grad": True}
        _, grad = run(CROSS_ENTROPY, call)
        slopes.append(masked_product(grad, along).sum(-1))
    return torch.cat(slopes).reshape(shape)


def products(
    function: Function, arguments: Arguments, up: torch.Tensor, wrt: tuple[str, ...],
    vectors: Vectors,
) -> list[torch.Tensor]:  # fmt: skip
    """Compute the Hessian-vector products by the inputs `wrt`, times `up`."""
    if function.of_probabilities:
        return [_of_probabilities(function, arguments, up, vectors[function.first])]
    factor: torch.Tensor | None = up
    arguments = without_half(function, without_requests(function, arguments))
    if up.ndim and function.has_rows:
        arguments, factor = weighted_rows(arguments, up), None
    named = [vectors.get(name) for name in function.inputs]
    if function.kind is Kind.LINEAR:
        call = arguments | {"vector": LinearGrad(*named), "wrt": wrt}
    else:
        call = arguments | {"vector": named[0]}
    result = run(_PRODUCTS[function], call)
    made = [part for part in views.parts(result) if part is not None]
    if factor is None:
        return made
    has_value = not memory.is_traced() and not memory.is_virtual(up)
    return [product(h, up, True) if has_value else masked_product(h, up) for h in made]


def _of_probabilities(
    function: Function, arguments: Arguments, up: torch.Tensor, vector: torch.Tensor
) -> torch.Tensor:
    """Compute the products for losses of probabilities, whose Hessian is diagonal.

    For a categorical loss with the gradient g = -κ·a/p the diagonal is -g/p. A binary loss is
    linear in its target: with g₁ = -1/p and g₀ = 1/(1-p), its gradients for y = 1 and y = 0, the
    gradient is w·(y·g₁ + (1-y)·g₀) and the diagonal w·(y·g₁² + (1-y)·g₀²).
    """
    first, eps = function.first, arguments.get("eps")
    arguments = without_half(function, without_requests(function, arguments))
    p = arguments[first].detach()
    p = p.float() if p.dtype == torch.bfloat16 else p
    floor = 1e-12 if eps is None else float(eps)
    if function is CATEGORICAL:
        (grad,) = gradients(function, arguments | {first: p}, up, (first,))
        clipped = p.clamp(min=floor) if eps is None else p.clamp(floor, 1 - floor)
        return (-grad / clipped * vector).masked_fill(grad == 0, 0.0)
    ones = arguments | {first: p, "weight": None, "reduction": "sum"}
    kind = p.dtype
    by_one, by_zero = (
        gradients(function, ones | {"target": torch.full_like(p, y)}, p.new_ones(()), (first,))[0]
        for y in (1.0, 0.0)
    )
    y = torch.as_tensor(arguments["target"]).to(p)
    w = arguments.get("weight")
    w = up.to(kind) if w is None else torch.as_tensor(w).to(p) * up.to(kind)
    if arguments.get("reduction", "mean") == "mean" and p.numel():
        w = w / p.numel()
    terms = _times(y, by_one.square()) + _times(1 - y, by_zero.square())
    return _times(w.expand(p.shape), terms * vector)


def _times(coefficient: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The product, exactly 0 where the coefficient is 0."""
    return (coefficient * value).masked_fill(coefficient == 0, 0.0)
