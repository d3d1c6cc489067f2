"""Calls packed for graph nodes, and vmap: a batch of calls becomes one call with more rows.

A batch of losses becomes one unreduced call whose sample weights include each loss's divisor. A
batch for which this is impossible, such as one over the weights of a linear map, is computed one by
one.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from fastxent import errors
from fastxent.arrays import views
from fastxent.functions import Arguments, Function, Kind, Role

_BATCHED = {Role.INPUT, Role.TARGET, Role.PER_ROW, Role.BROADCAST, Role.VECTOR}


class PackedCall:
    """The arguments of a call without its tensors, which are passed separately, ordered as `names`.

    An item of a tuple has a name with a dot. `versions` are the tensors' versions in the forward
    pass, if autograd does not check them.
    """

    __slots__ = ("fixed", "function", "names", "versions")

    def __init__(
        self, function: Function, fixed: Arguments, names: tuple[str, ...],
        versions: tuple[int | None, ...] | None = None,
    ) -> None:  # fmt: skip
        self.function, self.fixed, self.names, self.versions = function, fixed, names, versions

    def arguments(self, tensors: Sequence[Any]) -> Arguments:
        """The arguments by name; the input that selects the backend comes first."""
        named = dict(zip(self.names, tensors, strict=True))
        for name, parts in self.fixed.items():
            if name in self.function.compound and isinstance(parts, tuple):
                filled = [named.pop(f"{name}.{k}", part) for k, part in enumerate(parts)]
                named[name] = views.like(parts, filled)
        return {self.function.first: None} | self.fixed | named

    def refuse_gradients(self, needs: Sequence[bool]) -> None:
        """Raise for a tensor that requires a gradient and is not an input."""
        for name, need in zip(self.names, needs, strict=True):
            if need and name not in self.function.inputs:
                raise errors.no_gradient(name.partition(".")[0])

    def inputs_where(self, needs: Sequence[bool]) -> tuple[str, ...]:
        """The names of the inputs that need a gradient."""
        inputs = self.function.inputs
        pairs = zip(self.names, needs, strict=True)
        return tuple(name for name, need in pairs if need and name in inputs)

    def check_versions(self, tensors: Sequence[torch.Tensor]) -> None:
        """Raise if a tensor has been written to since the forward pass."""
        if self.versions is not None:
            written(self.names, tensors, self.versions)


def versions_of(tensors: Iterable[torch.Tensor]) -> tuple[int | None, ...]:
    """The version counter of each tensor; None for tensors of inference mode."""
    return tuple([None if t.is_inference() else t._version for t in tensors])


def written(
    names: Sequence[str], tensors: Sequence[torch.Tensor], versions: Sequence[int | None]
) -> None:
    """Raise for a tensor whose version has changed."""
    for name, tensor, version in zip(names, tensors, versions, strict=True):
        if version is not None and tensor._version != version:
            raise errors.modified_in_place(name, tensor, tensor._version, version)


def packed(function: Function, arguments: Arguments) -> tuple[PackedCall, list[torch.Tensor]]:
    """Split arguments into a `PackedCall` and its tensors."""
    fixed, named = {}, {}
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor):
            named[name] = value
        elif name in function.compound and isinstance(value, tuple):
            parts = {f"{name}.{k}": part for k, part in enumerate(value)}
            named |= {k: part for k, part in parts.items() if isinstance(part, torch.Tensor)}
            fixed[name] = views.like(value, [None if k in named else a for k, a in parts.items()])
        else:
            fixed[name] = value
    return PackedCall(function, fixed, tuple(named)), list(named.values())


class Batch:
    """A batch of calls as one unreduced call: `call` with `tensors`.

    `size` is the number of calls, `shape` the shape of one unreduced loss, `active` marks the means
    with a nonzero divisor, None for all.
    """

    def __init__(
        self, call: PackedCall, tensors: list[Any], size: int, shape: tuple[int, ...]
    ) -> None:
        self.call, self.tensors, self.size, self.shape = call, tensors, size, shape
        self.by_row = True
        self.active: torch.Tensor | None = None

    def reduced(self, rows: torch.Tensor, is_loss: bool = False) -> torch.Tensor:
        """Reduce losses by row, or their slopes, to one number per call."""
        if self.by_row:
            return rows
        if self.shape:
            rows = rows.flatten(1).sum(1, dtype=torch.float64).to(rows.dtype)
        if is_loss and self.active is not None:
            rows = rows.masked_fill(~self.active, torch.nan)
        return rows

    def by_rows(self, up: torch.Tensor, dim: int | None) -> torch.Tensor:
        """Expand the gradients of reduced losses to those of the losses by row."""
        up = in_front(up, dim, self.size)
        if self.by_row:
            return up
        return up.reshape(self.size, *[1] * len(self.shape)).expand(self.size, *self.shape)

    def vectors(self, vectors: Sequence[Any], dims: Sequence[int | None]) -> list[torch.Tensor]:
        """The vectors with the batch as their first axis."""
        return [in_front(v, dim, self.size) for v, dim in zip(vectors, dims, strict=True)]


def in_front(tensor: torch.Tensor, dim: int | None, size: int) -> torch.Tensor:
    """Move or add the batch axis to the front."""
    if dim is None:
        return tensor.expand(size, *tensor.shape)
    return tensor if not dim else tensor.movedim(dim, 0)


def folded(call: PackedCall, size: int, dims: Sequence[int | None], tensors: Any) -> Batch | None:
    """Make one unreduced call of a batch of calls; None if that is not possible."""
    function = call.function
    is_linear, has_rows = function.kind is Kind.LINEAR, function.has_rows
    for name, dim in zip(call.names, dims, strict=True):
        role = function.roles[name.partition(".")[0]]
        if dim is not None and (role not in _BATCHED or "." in name):
            return None
    batched = dict(zip(call.names, zip(tensors, dims, strict=True), strict=True))
    if function.first not in batched or "target" not in batched:
        return None
    x, dim = batched[function.first]
    rank = x.ndim - (dim is not None)
    reduction, axis = call.fixed.get("reduction", "mean"), call.fixed.get("axis", -1)
    if has_rows and (type(axis) is not int or not -rank <= axis < rank):
        return None  # the function raises the error
    axis %= max(rank, 1)
    moved: Arguments = {}
    for name, (tensor, dim) in batched.items():
        role = function.roles[name]
        own = tensor.ndim - (dim is not None)
        if role is Role.BROADCAST:
            if own > rank:
                return None
            if dim is not None:
                tensor = tensor.movedim(dim, 0)
                tensor = tensor.reshape(size, *[1] * (rank - own), *tensor.shape[1:])
        elif role in _BATCHED:
            tensor = in_front(tensor, dim, size)
        moved[name] = tensor
    shape = tuple(moved[function.first].shape[1:])
    shape = function.rows(shape, -1 if is_linear else axis) if has_rows else shape
    fixed = call.fixed | {"reduction": "none"}
    if "axis" in fixed:
        fixed["axis"] = axis + 1
    arguments = {**fixed, **moved}
    batch = Batch(call, [], size, shape)
    if function.out is not None:  # a Hessian-vector product
        batch.by_row = reduction == "none"
    if reduction in ("sum", "mean"):
        batch.by_row = False
    elif reduction != "none":
        return None
    if reduction == "mean":
        _divide(function, arguments, batch, axis)
    elif arguments.get("normalizer") is not None:
        return None
    arguments = {n: a for n, a in arguments.items() if n != "normalizer"}
    batch.call, batch.tensors = packed(function, arguments)
    return batch


def _divide(function: Function, arguments: Arguments, batch: Batch, axis: int) -> None:
    """Divide the weights of rows or elements by each loss's divisor."""
    device = arguments[function.first].device
    if not function.has_rows:
        n = 1
        for length in batch.shape:
            n *= length
        if not n:
            batch.active = torch.zeros((), dtype=torch.bool, device=device)
        elif n > 1:
            weight = arguments.get("weight")
            arguments["weight"] = (1.0 if weight is None else weight) / n
        return
    target, u, divisor = arguments["target"], arguments.get("sample_weight"), None
    normalizer, weight = arguments.get("normalizer"), arguments.get("weight")
    if u is not None and not isinstance(u, torch.Tensor):
        u = arguments["sample_weight"] = torch.as_tensor(u).expand(batch.size, *batch.shape)
    rows_rank = len(batch.shape)
    if normalizer is not None:
        if isinstance(normalizer, (int, float)):  # filled on the GPU: a copy would synchronise
            normalizer = torch.full((), normalizer, dtype=torch.float64, device=device)
        divisor = torch.as_tensor(normalizer, dtype=torch.float64, device=device)
        divisor = divisor.expand(batch.size)
    elif target.ndim > rows_rank + 1:  # class probabilities
        if u is None:
            counted = torch.ones(batch.size, *batch.shape, dtype=torch.float64, device=device)
        else:
            counted = u.double()
    else:
        ignored = arguments.get("ignore_index", -100)
        labels = target if target.dtype is torch.int64 else target.long()
        active = None if ignored is None else labels != ignored
        if u is None and weight is None and not rows_rank:
            batch.active = active
            return
        counted = (torch.ones_like(labels) if active is None else active).double()
        if weight is not None:
            w = torch.as_tensor(weight).double()
            counted = w[labels.clamp(0, max(len(w) - 1, 0))].masked_fill(counted == 0, 0.0)
        if u is not None:
            counted = (counted * u).masked_fill((counted == 0) | (u == 0), 0.0)
    if divisor is None:
        divisor = counted.flatten(1).sum(1) if rows_rank else counted
    batch.active = divisor != 0
    scale = (1.0 / divisor).masked_fill(divisor == 0, 0.0)
    scale = scale.reshape(batch.size, *[1] * rows_rank).expand(batch.size, *batch.shape)
    if u is not None:
        scale = (u * scale).masked_fill(u == 0, 0.0)
    arguments["sample_weight"] = scale


def one_by_one(node: Any, size: int, dims: Sequence[Any], *args: Any) -> tuple[Any, Any]:
    """Apply a node to each call of a batch, and stack the results."""
    each = [
        node.apply(*[a if d is None else a.select(d, k) for a, d in zip(args, dims, strict=True)])
        for k in range(size)
    ]
    if not isinstance(each[0], tuple):
        return torch.stack(each), 0
    return tuple(map(torch.stack, zip(*each, strict=True))), (0,) * len(each[0])
