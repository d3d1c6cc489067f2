"""Arguments read once into a `Call`, with memory for its results; and the answer made of it.

The order is: inputs, options, target, weights, flags, buffers, labels, memory. Nothing is written
before everything has been checked.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastxent import checks, errors, options
from fastxent.checks import Named, Precision, Shape
from fastxent.device_array import DeviceArray
from fastxent.dispatch import backend_of, device_backend
from fastxent.functions import Arguments, Function
from fastxent.options import Options
from fastxent.records import Call, Linear, LinearGrad, Outputs, Target, Weights
from fastxent.results import Extent


def read_map(function: Function, arguments: Arguments) -> Call:
    """A call of softmax or of one of its logarithms, over an axis that may be empty."""
    name = function.first
    x = checks.array(arguments[name], name)
    types = checks.precision(x.dtype, name)
    axis = checks.class_axis(arguments["axis"], x.shape, name, empty=True)
    keepdims, out = arguments.get("keepdims", False), arguments.get("out")
    options.flags((flag, arguments[flag]) for flag in function.flags)
    shape = function.shape("out", x.shape, axis, keepdims=keepdims)
    if out is None:
        out = checks.new(x, shape, types.own)
    else:
        out = checks.buffer(out, "out", shape, types.own, [], (name, x))
    per_class = function.result("out").extent is Extent.PER_CLASS
    view = checks.classes_last(out, axis) if per_class else out.reshape(-1)
    return Call(function, checks.classes_last(x, axis), types.compute, Outputs(view), Outputs(out))


# --- losses of rows ---------------------------------------------------------------------------


def read_rows(function: Function, arguments: Arguments) -> Call:
    """A call of a loss of rows whose classes lie along an axis of its input."""
    name = function.first
    x = checks.array(arguments[name], name)
    types = checks.precision(x.dtype, name)
    axis = checks.class_axis(arguments["axis"], x.shape, name)
    rows = _rows(function, arguments, name, x.shape, axis, types.compute)
    clip = None
    if "eps" in arguments:
        clip = options.clip(arguments["eps"], types.compute)
    options.flags((flag, arguments[flag]) for flag in function.flags)
    buffers = _buffers(function, arguments, x, types, rows.arrays)
    divisor = _divisor(rows, x, x.shape[axis], arguments["check_target"], types.compute)
    results = _results(function, arguments, x, types, axis, rows.reduction, buffers)
    return Call(
        function, checks.classes_last(x, axis), types.compute, _views(function, results, axis),
        results, rows.target, rows.weights, rows.options, clip, divisor, buffers=tuple(buffers),
    )  # fmt: skip


class CheckedRows(NamedTuple):
    """What was given for the rows of a loss beside its input, checked.

    `indices` are the class indices as they came, None for probabilities. `divisor` is what
    `normalizer` and `reduction` say without a look at the rows, None for a mean of what counts.
    `arrays` are those that were read, which no buffer may overlap.
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
    """Check the arguments that speak of rows and classes, for logits `of` this name and shape."""
    given = Options(**{n: check(arguments[n], n, compute) for n, check in function.checks})
    found = checks.target(arguments["target"], shape, axis, of)
    rows = (*shape[:axis], *shape[axis + 1 :])
    reduction = options.reduction(arguments["reduction"])
    divisor = checks.normalizer(arguments.get("normalizer"), reduction)
    if found.ndim == len(shape):
        if given.ignore_index != -100:
            raise errors.ignored_probabilities(given.ignore_index)
        indices, target, ignored = None, Target(None, checks.classes_last(found, axis)), None
    else:
        labels, ignored = checks.flat_labels(found, given.ignore_index)
        indices, target = found, Target(labels, None)
    arrays: list[Named] = [("target", found)]
    for name in ("weight", "sample_weight"):
        value = arguments[name]
        arrays.append((name, None if value is None else checks.array(value, name)))
    per_row = checks.weights(arrays[2][1], "sample_weight", rows, "one for each row")
    weights = Weights(
        checks.weights(arrays[1][1], "weight", (shape[axis],), "one for each class"),
        per_row.reshape(-1) if isinstance(per_row, np.ndarray) else per_row,
    )
    return CheckedRows(
        of, rows, indices, target, weights, given._replace(ignore_index=ignored), reduction,
        divisor if reduction == "mean" else 1.0, arrays,
    )  # fmt: skip


def _divisor(
    rows: CheckedRows, x: Any, n_classes: int, check: bool, compute: "np.dtype[Any]"
) -> Any:
    """What losses are divided by, and the check of the target: one pass over the labels does both.

    Raises IndexError for the first label that is no class, ValueError for the first integer of
    probabilities other than 0 and 1. On a GPU the divisor stays there.
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
    """A call of the loss of rows whose logits are x @ linear_weight.T + linear_bias."""
    inputs: Arguments = {
        name: None if arguments[name] is None and name == "linear_bias"
        else checks.array(arguments[name], name)
        for name in function.inputs
    }  # fmt: skip
    x, matrix, bias = (inputs[name] for name in function.inputs)
    types = {n: checks.precision(a.dtype, n) for n, a in inputs.items() if a is not None}
    checks.linear_map(x, matrix, bias)
    compute = np.result_type(*(precision.compute for precision in types.values()))
    shape = (*x.shape[:-1], matrix.shape[0])
    of = f"x @ {function.inputs[1]}.T"
    rows = _rows(function, arguments, of, shape, len(shape) - 1, compute)
    options.flags((flag, arguments[flag]) for flag in function.flags)
    grads = _linear_grads(function, arguments, inputs, types, rows.arrays)
    divisor = _divisor(rows, x, matrix.shape[0], arguments["check_target"], compute)
    own = Precision(compute, compute)
    results = _results(function, arguments, x, own, -1, rows.reduction, {"grad": grads})
    return Call(
        function, x, compute, _views(function, results, -1), results, rows.target, rows.weights,
        rows.options, None, divisor, Linear(matrix, bias, grads, arguments["accumulate"]),
    )  # fmt: skip


def _linear_grads(
    function: Function, arguments: Arguments, inputs: Arguments, types: dict[str, Precision],
    arrays: list[Named],
) -> LinearGrad | None:  # fmt: skip
    """The gradients to fill, of the inputs in `wrt`: buffers or new arrays; None if unrequested."""
    wrt = options.some_of(arguments["wrt"], "wrt", function.inputs)
    buffers = checks.linear_buffers(arguments["grad_out"], arguments["accumulate"])
    if not arguments["return_grad"] and buffers is None:
        return None
    others = [*inputs.items(), *arrays]
    parts: list[Any] = []
    for (name, a), given in zip(inputs.items(), buffers or (None,) * 3, strict=True):
        if a is None or name not in wrt:
            if given is not None:
                reason = f"without {name}" + ("" if name in wrt else " in wrt")
                raise errors.buffer_unused(f"grad_out.{name}", reason, given)
            parts.append(None)
        elif buffers is None:
            parts.append(checks.new(inputs["x"], a.shape, types[name].own))
        else:
            out = checks.buffer(given, f"grad_out.{name}", a.shape, types[name].own, others)
            others.append((f"grad_out.{name}", out))
            parts.append(out)
    return LinearGrad(*parts)


# --- losses of elements -----------------------------------------------------------------------


def read_elements(function: Function, arguments: Arguments) -> Call:
    """A call of a binary loss, whose arrays all have the input's shape or broadcast to it."""
    name = function.first
    x = checks.array(arguments[name], name)
    types = checks.precision(x.dtype, name)
    target = checks.element_target(arguments["target"], x.shape, name)
    weights = {
        n: checks.broadcast(arguments[n], n, x.shape)
        for n in ("weight", "pos_weight") if n in arguments
    }  # fmt: skip
    reduction = options.reduction(arguments["reduction"])
    if type(target) is not DeviceArray:  # on a GPU that would wait for it
        checks.one_hot(backend_of(x), target, name)
    clip = None
    if "eps" in arguments:
        clip = options.clip(arguments["eps"], types.compute)
    options.flags((flag, arguments[flag]) for flag in function.flags)
    arrays = [("target", target), *weights.items()]
    buffers = _buffers(function, arguments, x, types, arrays)
    results = _results(function, arguments, x, types, -1, reduction, buffers)
    return Call(
        function, x, types.compute, results, results, Target(None, target), Weights(**weights),
        clip=clip, divisor=float(x.size) if reduction == "mean" else 1.0, buffers=tuple(buffers),
    )  # fmt: skip


# --- results ----------------------------------------------------------------------------------


def _buffers(
    function: Function, arguments: Arguments, x: Any, types: Precision, arrays: list[Named]
) -> Arguments:
    """The buffers by the names of their results; that of the gradient may lie over the input."""
    buffers: Arguments = {}
    over: Named = (function.first, x)
    for name in function.results:
        buffer = arguments.get(f"{name}_out")
        if buffer is None:
            continue
        argument, kind = f"{name}_out", types.of(function.result(name).type)
        if name == "grad":
            buffers[name] = checks.buffer(buffer, argument, x.shape, kind, arrays, over)
        else:
            others = [*arrays, over, ("grad_out", arguments["grad_out"])]
            buffers[name] = checks.buffer(buffer, argument, x.shape, kind, others)
    return buffers


def _results(
    function: Function, arguments: Arguments, x: Any, types: Precision, axis: int, reduction: str,
    buffers: Arguments,
) -> Outputs:  # fmt: skip
    """Memory for what was requested; a loss that is reduced to a number needs none."""
    results = dict(buffers)
    if reduction == "none":
        shape = function.shape("loss", x.shape, axis)
        results["loss"] = checks.new(x, shape, types.compute)
    for name in function.results[1:]:
        if name not in results and arguments[f"return_{name}"]:
            shape = function.shape(name, x.shape, axis)
            results[name] = checks.new(x, shape, types.of(function.result(name).type))
    return Outputs(**results)


def _views(function: Function, results: Outputs, axis: int) -> Outputs:
    """The results as a backend fills them: (N,) those per row, classes last those per class."""
    views: Arguments = {}
    for name, array in zip(Outputs._fields, results, strict=True):
        if array is None or isinstance(array, LinearGrad):
            continue
        if function.result(name).extent is Extent.PER_CLASS:
            views[name] = checks.classes_last(array, axis)
        else:
            views[name] = array.reshape(-1)
    return Outputs(**views)


def answer(call: Call, reduced: Any = None) -> Any:
    """What the function returns: its only result, or a tuple of them in order.

    `reduced` is the loss where that is a number. Arrays without dimensions become NumPy scalars,
    but the caller's buffers are returned as they are.
    """
    results = [
        array if name in call.buffers else checks.result(array)
        for name, array in zip(Outputs._fields, call.results, strict=True)
        if array is not None
    ]
    if call.function.is_loss and call.results.loss is None:
        results.insert(0, checks.scalar(reduced, call.compute))
    return results[0] if len(results) == 1 else tuple(results)
