"""Read and check the arguments of a call into a `Call`, and make its return value.

The order of the checks is: inputs, options, target, weights, flags, buffers, labels. Results are
allocated after them. Nothing is written before everything has been checked.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from fastxent import checks, errors, options
from fastxent.checks import Named, Precision, Shape
from fastxent.device_array import DeviceArray
from fastxent.dispatch import backend_of, device_backend
from fastxent.functions import FUNCTIONS, Arguments, Function
from fastxent.options import Options
from fastxent.records import NO_WEIGHTS, Call, Linear, LinearGrad, Outputs, Target, Weights

# --- softmax, its logarithms and its entropy --------------------------------------------------


def read_map(function: Function, arguments: Arguments) -> Call:
    """Read a call of softmax, log_softmax or logsumexp, whose axis may be empty."""
    name, (slot,) = function.first, function.slots
    x = checks.array(arguments[name], name)
    types = checks.precision(x.dtype, name)
    axis = checks.class_axis(arguments["axis"], x.shape, name, empty=True)
    options.flags(function.flags, arguments)
    shape, buffer = x.shape, arguments.get("out")
    if not slot.per_class:
        unit_axis = (1,) if arguments["keepdims"] else ()
        shape = (*shape[:axis], *unit_axis, *shape[axis + 1 :])
    if buffer is None:
        out = checks.new(x, shape, types.own)
    else:
        out = checks.buffer(buffer, "out", shape, types.own, [], [(name, x)])
    if slot.per_class:
        view = checks.classes_last(out, axis)
    else:
        view = out if len(shape) == 1 else out.reshape(-1)
    results = Outputs(out)
    outputs = results if view is out else Outputs(view)
    return Call(function, checks.classes_last(x, axis), types.compute, outputs, results)


def read_entropy(function: Function, arguments: Arguments) -> Call:
    """Read a call of entropy, whose axis may not be empty."""
    name = function.first
    x = checks.array(arguments[name], name)
    types = checks.precision(x.dtype, name)
    axis = checks.class_axis(arguments["axis"], x.shape, name)
    options.flags(function.flags, arguments)
    rows = (*x.shape[:axis], *x.shape[axis + 1 :])
    buffers = _buffers(function, arguments, x, types, [])
    outputs = _outputs(function, arguments, x, types, rows, axis, "none", buffers)
    moved = checks.classes_last(x, axis)
    return Call(function, moved, types.compute, *outputs, buffers=tuple(buffers))


# --- losses of rows ---------------------------------------------------------------------------


def read_rows(function: Function, arguments: Arguments) -> Call:
    """Read a call of a loss, or of its Hessian-vector product, of rows along an axis."""
    name = function.first
    x = checks.array(arguments[name], name)
    types = checks.precision(x.dtype, name)
    axis = checks.class_axis(arguments["axis"], x.shape, name)
    rows = _rows(function, arguments, name, x.shape, axis, types.compute)
    clip = options.clip(arguments["eps"], types.compute) if "eps" in arguments else None
    options.flags(function.flags, arguments)
    vector = _vector(arguments, x, name)
    buffers = _buffers(function, arguments, x, types, rows.arrays, vector)
    divisor = _divisor(rows, x, x.shape[axis], arguments["check_target"], types.compute)
    outputs = _outputs(function, arguments, x, types, rows.shape, axis, rows.reduction, buffers)
    return Call(
        function, checks.classes_last(x, axis), types.compute, *outputs, rows.target, rows.weights,
        rows.options, clip, divisor, None, tuple(buffers),
        None if vector is None else checks.classes_last(vector, axis),
    )  # fmt: skip


def _vector(arguments: Arguments, x: Any, of: str) -> Any:
    """The vector of a Hessian-vector product; None for a loss."""
    if "vector" not in arguments:
        return None
    return checks.vector(arguments["vector"], "vector", x.shape, of)


class CheckedRows(NamedTuple):
    """The checked arguments of a loss of rows, other than its input.

    `indices` are the class indices as passed, None for probabilities. `divisor` is the normalizer,
    1 for other reductions than "mean", or None if it is the sum of the active rows' weights.
    `arrays` are the arrays that are read, which no buffer may overlap.
    """

    of: str
    shape: Shape
    indices: Any
    target: Target
    weights: Weights
    options: Options
    reduction: str
    divisor: Any
    arrays: list[Named]


def _rows(
    function: Function, arguments: Arguments, of: str, shape: Shape, axis: int,
    compute: "np.dtype[Any]",
) -> CheckedRows:  # fmt: skip
    """Check the arguments about rows and classes, for an array `of` this name and shape."""
    checked_options = options.read(function.options, arguments, compute)
    checked_target = checks.target(arguments["target"], shape, axis, of)
    rows = (*shape[:axis], *shape[axis + 1 :])
    reduction = options.reduction(arguments["reduction"])
    divisor = checks.normalizer(arguments.get("normalizer"), reduction)
    if checked_target.ndim == len(shape):
        if checked_options.ignore_index != -100:
            raise errors.ignored_probabilities(checked_options.ignore_index)
        indices, target = None, Target(None, checks.classes_last(checked_target, axis))
    else:
        labels, ignored = checks.flat_labels(checked_target, checked_options.ignore_index)
        indices, target = checked_target, Target(labels, None)
        if ignored is not checked_options.ignore_index:
            checked_options = checked_options._replace(ignore_index=ignored)
    arrays: list[Named] = [("target", checked_target)]
    weights = NO_WEIGHTS
    if arguments["weight"] is not None or arguments["sample_weight"] is not None:
        weights = _weights(arguments, shape[axis], rows, arrays)
    if reduction != "mean":
        divisor = 1.0
    return CheckedRows(
        of, rows, indices, target, weights, checked_options, reduction, divisor, arrays
    )


def _weights(arguments: Arguments, n_classes: int, rows: Shape, arrays: list[Named]) -> Weights:
    """Check the weights of classes and rows, and append them to `arrays`."""
    w, u = arguments["weight"], arguments["sample_weight"]
    if w is not None:
        w = checks.array(w, "weight")
        arrays.append(("weight", w))
        w = checks.weights(w, "weight", (n_classes,), "one for each class")
    if u is not None:
        u = checks.array(u, "sample_weight")
        arrays.append(("sample_weight", u))
        u = checks.weights(u, "sample_weight", rows, "one for each row")
        if len(rows) != 1 and type(u) is not DeviceArray:
            u = u.reshape(-1)
    return Weights(w, u)


def _divisor(
    rows: CheckedRows, x: Any, n_classes: int, check: bool, compute: "np.dtype[Any]"
) -> Any:
    """Compute the divisor of the losses and check the target, in one pass over the labels.

    Raises IndexError for the first label out of range, ValueError for the first integer other than
    0 and 1 in a target of probabilities. On a GPU the divisor stays in GPU memory.
    """
    backend, divisor = backend_of(x), rows.divisor
    if isinstance(divisor, DeviceArray):
        divisor = device_backend().normalizer(divisor, compute)
    if rows.indices is None:
        if check:
            checks.one_hot(backend, rows.arrays[0][1], rows.of, rows.shape)
        if divisor is not None:
            return divisor
        u = rows.weights.sample_weight
        return float(math.prod(rows.shape)) if u is None else backend.total(u, compute)
    if divisor is not None and not check:
        return divisor
    total, first_bad, label = backend.scan_labels(
        rows.target.labels, n_classes, rows.weights, rows.options, compute, check
    )
    if check and first_bad >= 0:
        ignored = rows.options.ignore_index
        raise checks.bad_label(rows.indices, first_bad, label, n_classes, ignored)
    return total if divisor is None else divisor


# --- the linear map ---------------------------------------------------------------------------


def read_linear(function: Function, arguments: Arguments) -> Call:
    """Read a call for rows whose logits are x @ linear_weight.T + linear_bias."""
    names = function.inputs
    x, matrix = (checks.array(arguments[name], name) for name in names[:2])
    bias = arguments[names[2]]
    if bias is not None:
        bias = checks.array(bias, names[2])
    inputs = (x, matrix, bias)
    types = [
        None if a is None else checks.precision(a.dtype, name)
        for name, a in zip(names, inputs, strict=True)
    ]
    checks.linear_map(x, matrix, bias)
    compute = checks.wider([t.compute for t in types if t is not None])
    shape = (*x.shape[:-1], matrix.shape[0])
    rows = _rows(function, arguments, f"x @ {names[1]}.T", shape, len(shape) - 1, compute)
    options.flags(function.flags, arguments)
    vector, slot = None, "grad"
    if "vector" in arguments:
        vector, slot = checks.linear_vector(arguments["vector"], names, inputs), "out"
    grads = _linear_parts(function, arguments, inputs, types, rows.arrays, vector)
    divisor = _divisor(rows, x, matrix.shape[0], arguments["check_target"], compute)
    own, derivatives = Precision(compute, compute), {slot: grads}
    outputs = _outputs(function, arguments, x, own, rows.shape, -1, rows.reduction, derivatives)
    return Call(
        function, x, compute, *outputs, rows.target, rows.weights, rows.options, None, divisor,
        Linear(matrix, bias, grads, arguments.get("accumulate", False)), vector=vector,
    )  # fmt: skip


def _linear_parts(
    function: Function, arguments: Arguments, inputs: tuple[Any, ...],
    types: list[Precision | None], arrays: list[Named], vector: LinearGrad | None,
) -> LinearGrad | None:  # fmt: skip
    """The buffers or new arrays for the derivatives by the inputs in `wrt`; None if not requested.

    A buffer may be exactly the same part of `vector`, which is None for a loss.
    """
    wrt, names = arguments["wrt"], function.inputs
    if wrt is not names:
        wrt = options.checked_names(wrt, "wrt", names)
    is_product, of = vector is not None, vector or LinearGrad(None, None, None)
    buffer_name = "out" if is_product else "grad_out"
    buffers = checks.linear_buffers(
        arguments[buffer_name], buffer_name, arguments.get("accumulate", False)
    )
    if not is_product and not arguments["return_grad"] and buffers is None:
        return None
    read = [(f"vector.{name}", part) for name, part in zip(names, of, strict=True)]
    others = [*zip(names, inputs, strict=True), *arrays]
    parts: list[Any] = []
    for k, (name, a, own) in enumerate(zip(names, inputs, types, strict=True)):
        buffer = None if buffers is None else buffers[k]
        if a is None or own is None or name not in wrt:
            if buffer is not None:
                reason = f"None without {name}" + ("" if name in wrt else " in wrt")
                raise errors.buffer_kind(f"{buffer_name}.{name}", reason, buffer)
            parts.append(None)
        elif buffers is None:
            parts.append(checks.new(inputs[0], a.shape, own.own))
        else:
            disjoint = [*others, *read[:k], *read[k + 1 :]]
            over = [read[k]] if of[k] is not None else []
            out = checks.buffer(buffer, f"{buffer_name}.{name}", a.shape, own.own, disjoint, over)
            others.append((f"{buffer_name}.{name}", out))
            parts.append(out)
    return LinearGrad(*parts)


# --- losses of elements -----------------------------------------------------------------------


def read_elements(function: Function, arguments: Arguments) -> Call:
    """Read a call of an elementwise loss, whose arrays broadcast to the input's shape."""
    name = function.first
    x = checks.array(arguments[name], name)
    types = checks.precision(x.dtype, name)
    target = checks.element_target(arguments["target"], x.shape, name)
    weights = {
        n: checks.broadcast(arguments[n], n, x.shape)
        for n in ("weight", "pos_weight") if n in arguments
    }  # fmt: skip
    reduction = options.reduction(arguments["reduction"])
    if type(target) is not DeviceArray:  # on a GPU the check would synchronise
        checks.one_hot(backend_of(x), target, name)
    clip = options.clip(arguments["eps"], types.compute) if "eps" in arguments else None
    options.flags(function.flags, arguments)
    vector = _vector(arguments, x, name)
    arrays = [("target", target), *weights.items()]
    buffers = _buffers(function, arguments, x, types, arrays, vector)
    outputs = _outputs(function, arguments, x, types, x.shape, None, reduction, buffers)
    divisor = float(x.size) if reduction == "mean" else 1.0
    return Call(
        function, x, types.compute, *outputs, Target(None, target), Weights(**weights),
        options.NO_OPTIONS, clip, divisor, None, tuple(buffers), vector,
    )  # fmt: skip


# --- results ----------------------------------------------------------------------------------


def _buffers(
    function: Function, arguments: Arguments, x: Any, types: Precision, arrays: list[Named],
    vector: Any = None,
) -> Arguments:  # fmt: skip
    """The checked buffers by the names of their results.

    The buffer of a derivative may be exactly the input, or the vector of the product.
    """
    buffers: Arguments = {}
    first = function.first, x
    inputs = [first] if vector is None else [first, ("vector", vector)]
    for slot in function.buffer_slots:
        buffer = arguments[slot.buffer]
        if buffer is None:
            continue
        others, over = arrays, inputs
        if not function.result(slot.name).is_derivative:
            others, over = [*arrays, first, ("grad_out", arguments["grad_out"])], []
        kind = types[slot.type]
        buffers[slot.name] = checks.buffer(buffer, slot.buffer, x.shape, kind, others, over)
    return buffers


def _outputs(
    function: Function, arguments: Arguments, x: Any, types: Precision, rows: Shape,
    axis: int | None, reduction: str, arrays: Arguments,
) -> tuple[Outputs, Outputs]:  # fmt: skip
    """The results of a call, from `arrays` or newly allocated: as filled, and as returned.

    A backend fills results per row as (N,) and results per class with that axis last; elementwise
    results (without an axis) have the input's shape. A reduced loss needs no array, and the
    gradients of a linear map are in `Call.linear`.
    """
    views: list[Any] = [None] * len(Outputs._fields)
    results = views.copy()
    for at, name, flag, _, per_class, kind in function.slots:
        if name in arrays:
            array = arrays[name]
        elif name == "out" or (reduction == "none" if name == "loss" else arguments[flag]):
            array = checks.new(x, x.shape if per_class else rows, types[kind])
        else:
            continue
        results[at] = array
        if axis is None:
            views[at] = array
        elif not per_class:
            views[at] = array.reshape(-1)
        elif type(array) is not LinearGrad and array is not None:
            views[at] = checks.classes_last(array, axis)
    return Outputs._make(views), Outputs._make(results)


def answer(call: Call, reduced: Any = None) -> Any:
    """The return value of the function: its only result, or a tuple of results in order.

    `reduced` is the reduced loss. 0-d arrays become NumPy scalars, except for the caller's buffers.
    """
    results = call.results
    is_reduced = call.function.is_loss and results.loss is None
    answers = [checks.scalar(reduced, call.compute)] if is_reduced else []
    for name, array in zip(Outputs._fields, results, strict=True):
        if array is not None:
            answers.append(array if name in call.buffers else checks.result(array))
    return answers[0] if len(answers) == 1 else tuple(answers)


# --- gradients without losses -----------------------------------------------------------------


def scaled_gradient(function: Function, arguments: Arguments, factor: float) -> Any:
    """The gradient of a reduced loss of one input, times a finite, nonzero `factor`.

    The product is rounded once, because the gradient alone may underflow in half precision.
    """
    read = read_rows if function.has_rows else read_elements
    call = read(function, function.defaults() | arguments | {"return_grad": True})
    call = call._replace(divisor=call.divisor / factor)
    getattr(backend_of(call.x), function.name)(call)
    return checks.result(call.results.grad)


for _function in FUNCTIONS.values():
    if _function.is_loss and len(_function.inputs) == 1:
        _function.scaled_gradient = functools.partial(scaled_gradient, _function)
