"""Partition requests over several devices: each device computes the rows that it holds.

JAX partitions a call by a rule that names the dimensions of its arrays. Rows and groups may be
sharded, classes may not. A mean over all rows becomes a sum of rows that are weighted by 1/D. The
divisor D, the loss, and the gradients by arrays that all rows use, are summed over the devices.
Dimensions whose length is not divisible by the number of devices are gathered.
"""

import itertools
import math
from typing import Any

import jax
from jax import numpy as jnp
from jax.experimental.custom_partitioning import SdyShardingRule, custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from fastxent.functions import Kind, Role
from fastxent.integrations.jax import host, shapes
from fastxent.integrations.jax.requests import Request
from fastxent.results import Extent

# Names of dimensions: groups and rows, which may be sharded; classes and features; and dimensions
# of length 1 that are broadcast.
_GROUP, _ROW, _CLASS, _FEATURE, _ONE = "g", "r", "c", "k", "o"
Names = tuple[str, ...]


def partitioned(request: Request, avals: Any, devices: Any, multiple_results: bool) -> Any:
    """Make a function of the arrays of a request that JAX can partition."""
    operands, results = _operand_names(request, avals), _result_names(request, avals)
    # XLA calls back on its own thread, which does not have this thread's jax_enable_x64.
    x64 = jax.config.jax_enable_x64

    def plain(*arrays: Any) -> Any:
        with jax.enable_x64(x64):
            values = shapes.compute(*arrays, request=request)
        return tuple(values) if multiple_results else values[0]

    def partition(mesh: Any, argument_shapes: Any, result_shapes: Any) -> Any:
        if not isinstance(argument_shapes[0].sharding, NamedSharding):  # an unknown kind of mesh
            whole = type(argument_shapes[0].sharding).get_replicated(devices)
            out = tuple(whole for _ in results) if multiple_results else whole
            return mesh, plain, out, tuple(whole for _ in operands)
        spec = argument_shapes[0].sharding.spec
        axes = {
            name: axis for name, axis in zip(operands[0], spec, strict=False)
            if name[0] in (_GROUP, _ROW)
            and not _has_own_classes(request)
            and not _has_own_weights(request)
        }  # fmt: skip
        mesh = argument_shapes[0].sharding.mesh
        # XLA pads shards of unequal length, and padding would count as rows, so gather these.
        for name, size in zip(operands[0], argument_shapes[0].shape, strict=True):
            if name in axes and size % _n_devices(mesh, _flat([axes[name]])):
                del axes[name]

        def placed(names: Names) -> Any:
            return NamedSharding(mesh, PartitionSpec(*map(axes.get, names)))

        over = _flat(axis for name, axis in axes.items() if name[0] == _ROW)

        def local(*arrays: Any) -> Any:
            with jax.enable_x64(x64):
                made = _local(request, operands, results, over, mesh, arrays)
            return tuple(made) if multiple_results else made[0]

        out = tuple(map(placed, results)) if multiple_results else placed(results[0])
        return mesh, local, out, tuple(map(placed, operands))

    function = custom_partitioning(plain)
    names = dict.fromkeys(name for of in (*operands, *results) for name in of)
    whole = tuple(name for name in names if name[0] in (_CLASS, _FEATURE))
    rule = SdyShardingRule(
        operands, results, **({"need_replication_factors": whole} if whole else {})
    )
    function.def_partition(partition, sharding_rule=rule)
    return lambda *arrays, **_: function(*arrays)


def _flat(axes: Any) -> Names:
    """The names of the mesh axes in entries of a partition spec."""
    names: list[str] = []
    for axis in axes:
        names.extend(() if axis is None else (axis,) if isinstance(axis, str) else axis)
    return tuple(names)


def _n_devices(mesh: Any, axes: Names) -> int:
    """The number of devices along axes of a mesh."""
    return math.prod(mesh.shape[axis] for axis in axes)


# --- the names of dimensions --------------------------------------------------------------------


def _dimensions(request: Request, avals: Any) -> tuple[Names, Names, Names]:
    """Names of the dimensions of groups, of rows, and of the first input without groups."""
    function = request.description
    groups = tuple(f"{_GROUP}{k}" for k in range(len(request.groups)))
    at = request.arrays.index(function.first)
    rank = avals[at].ndim - (len(groups) if request.grouped[at] else 0)
    own = [f"{_ROW}{k}" for k in range(rank)]
    if not function.has_rows:
        return groups, tuple(own), tuple(own)
    axis = request.option("axis", -1) % rank
    own[axis] = _FEATURE if function.kind is Kind.LINEAR else _CLASS
    return groups, tuple(own[:axis] + own[axis + 1 :]), tuple(own)


def _of_input(request: Request, name: str, own: Names) -> Names:
    """The names of the dimensions of an input."""
    if name == request.description.first:
        return own
    return {"linear_weight": (_CLASS, _FEATURE), "linear_bias": (_CLASS,)}[name]


def _operand_names(request: Request, avals: Any) -> tuple[Names, ...]:
    """The names of the dimensions of each operand."""
    function = request.description
    groups, rows, own = _dimensions(request, avals)
    names = [*request.arrays, *request.vectors]
    named, n_ones = [], 0
    for k, (name, aval, has) in enumerate(zip(names, avals, request.grouped, strict=True)):
        front = groups if has else ()
        rank = aval.ndim - len(front)
        role = function.roles[name]
        if k >= len(request.arrays) or role in (Role.INPUT, Role.MATRIX) or name == "linear_bias":
            dims = _of_input(request, name, own)
        elif role is Role.BROADCAST:
            dims = own[len(own) - rank :]
            ones = [size == 1 for size in aval.shape[len(front) :]]
            dims = tuple(
                f"{_ONE}{n_ones + j}" if one else d
                for j, (d, one) in enumerate(zip(dims, ones, strict=True))
            )
            n_ones += rank
        elif role is Role.TARGET and rank != len(rows):
            dims = (*rows, _CLASS) if function.kind is Kind.LINEAR else own
        else:
            dims = {Role.TARGET: rows, Role.PER_ROW: rows, Role.PER_CLASS: (_CLASS,)}.get(role, ())
        named.append((*front, *dims))
    return tuple(named)


def _result_names(request: Request, avals: Any) -> tuple[Names, ...]:
    """The names of the dimensions of each result."""
    function = request.description
    groups, rows, own = _dimensions(request, avals)
    named = []
    for name in host.names_of(request):
        if name in function.inputs:
            dims = _of_input(request, name, own)
        else:
            extent = function.result(name).extent
            is_number = extent is Extent.REDUCED and request.is_reduced
            dims = own if extent is Extent.PER_CLASS else () if is_number else rows
        named.append((*groups, *dims))
    return tuple(named)


def _has_own_classes(request: Request) -> bool:
    """Whether groups differ in class weights or in the linear map; they are not sharded then."""
    roles = [request.description.roles[name] for name in request.arrays]
    common = (Role.PER_CLASS, Role.MATRIX)
    return any(has and role in common for role, has in zip(roles, request.grouped, strict=False))


def _has_own_weights(request: Request) -> bool:
    """Whether groups differ in sample weights or normalizers, but have the same target.

    This occurs only in products of a linear map. The rows are not sharded then, because the weights
    for a mean would need groups that the target does not have.
    """
    own = dict(zip(request.arrays, request.grouped, strict=False))
    return not own.get("target", True) and any(
        own.get(name, False) for name in ("sample_weight", "normalizer")
    )


# --- computation on one device ------------------------------------------------------------------


def _local(
    request: Request, operands: Any, results: Any, over: Names, mesh: Any, arrays: Any
) -> list[Any]:
    """Compute the results of a device's rows; sum results over all rows over the devices."""
    at = request.arrays.index(request.description.first)
    if request.grouped[at]:
        request = request._replace(groups=arrays[at].shape[: len(request.groups)])
    if not over:
        return list(shapes.compute(*arrays, request=request))
    divisor = None
    if request.option("reduction") == "mean":
        if request.description.has_rows:
            request, arrays, divisor = _weighted_rows(request, operands, over, arrays)
        else:
            request, arrays = _weighted_elements(request, arrays, _n_devices(mesh, over))
    made = host.names_of(request)
    summed = [not any(name[0] == _ROW for name in names) for names in results]
    kinds = dict(zip(request.arrays, (a.dtype for a in arrays), strict=False))
    # Parts of a sum have the type of the array that is differentiated; avoid half precision.
    parts = {name for name, is_sum in zip(made, summed, strict=True) if is_sum}
    arrays = [
        a.astype(jnp.promote_types(a.dtype, jnp.float32)) if name in parts else a
        for name, a in itertools.zip_longest(request.arrays, arrays)
    ]
    values = list(shapes.compute(*arrays, request=request))
    for k, (name, is_sum) in enumerate(zip(made, summed, strict=True)):
        if is_sum:
            total = jax.lax.psum(values[k], over)
            values[k] = total.astype(kinds.get(name, total.dtype))
    if divisor is not None and request.description.is_loss:
        values[0] = jnp.where(divisor == 0, jnp.nan, values[0])
    return values


def _weighted_elements(request: Request, arrays: Any, n_devices: int) -> tuple[Request, Any]:
    """Divide the weights of elements by the number of devices, for a mean over all elements."""
    by_name = dict(zip(request.arrays, arrays, strict=False))
    grouped = dict(zip(request.arrays, request.grouped, strict=False))
    w = by_name.get("weight")  # divided in the type of the losses, because it may be half precision
    kind = shapes.loss_type(request, arrays)
    by_name["weight"] = jnp.asarray(1 if w is None else w, kind) / n_devices
    grouped.setdefault("weight", False)
    return _with(request, by_name, grouped, arrays)


def _with(
    request: Request, by_name: dict[str, Any], grouped: dict[str, bool], arrays: Any
) -> tuple[Request, Any]:
    """Replace the arrays of a request, and keep its vectors."""
    n = len(request.arrays)
    flags = (*grouped.values(), *request.grouped[n:])
    return request._replace(arrays=tuple(by_name), grouped=flags), (*by_name.values(), *arrays[n:])


def _weighted_rows(
    request: Request, operands: Any, over: Names, arrays: Any
) -> tuple[Request, Any, Any]:
    """Make a sum with sample weights u/D of a mean; also return D of each group."""
    by_name = dict(zip(request.arrays, arrays, strict=False))
    grouped = dict(zip(request.arrays, request.grouped, strict=False))
    has_groups = grouped["target"]
    n_axes = len(request.groups) if has_groups else 0
    _, rows, _ = _dimensions(request, arrays)
    kind = shapes.loss_type(request, arrays)
    y, u, w = by_name["target"], by_name.get("sample_weight"), by_name.get("weight")
    shape = y.shape[: n_axes + len(rows)]
    if request.description.kind is not Kind.LINEAR and y.ndim == n_axes + len(rows) + 1:
        axis = request.option("axis", -1) % y.ndim
        shape = (*y.shape[:axis], *y.shape[axis + 1 :])
    counted = jnp.ones(shape, kind) if u is None else u.astype(kind)
    divisor = by_name.pop("normalizer", None)
    grouped.pop("normalizer", None)
    if divisor is None:
        if y.shape == shape:
            ignored = request.option("ignore_index", -100)
            active = y == y if ignored is None else _differs(y, ignored)
            if w is None:
                w_y = jnp.ones(shape, kind)
            else:  # a label out of range has no class weight
                w_y = jnp.where((y >= 0) & (y < len(w)), w[y], 1).astype(kind)
            divisor = jnp.where(active & (counted != 0), counted * w_y, 0)
        else:
            divisor = counted
        divisor = jax.lax.psum(divisor.sum(tuple(range(n_axes, len(shape)))), over)
    divisor = jnp.broadcast_to(jnp.asarray(divisor, kind), shape[:n_axes])
    inverses = jnp.where(divisor == 0, 0, 1 / divisor)
    inverses = inverses.reshape(*shape[:n_axes], *(1,) * (len(shape) - n_axes))
    by_name["sample_weight"] = jnp.where(counted == 0, 0, counted * inverses)
    grouped["sample_weight"] = has_groups
    request, arrays = _with(request, by_name, grouped, arrays)
    return request.with_options(reduction="sum"), arrays, divisor


def _differs(y: Any, ignored: int) -> Any:
    """Whether labels differ from ignore_index, without wrap-around."""
    limits = jnp.iinfo(y.dtype)
    if not limits.min <= ignored <= limits.max:
        return y == y
    return y != ignored
