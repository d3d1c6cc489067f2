"""The public functions as operators of torch.library, which PyTorch can record in its graphs.

torch.compile, torch.export, make_fx, torch.jit.trace, functionalize and fake tensors record
operators only. Eager calls do not use them: an operator costs more than an autograd node. An
operator has the parameters of its function, without buffers, and `with_grads`: whether gradients
are returned with the loss, for autograd to multiply. It returns a list, without None results.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch._library.autograd import Info, make_autograd_impl

from fastxent import errors
from fastxent.arrays.torch import memory, refusals
from fastxent.arrays.torch.operator_arguments import filled
from fastxent.arrays.torch.operator_rules import Operator
from fastxent.functions import FUNCTIONS, Arguments, Function


def compiled(eager: Callable[..., Any], function: Function, *args: Any, **kwargs: Any) -> Any:
    """Compute eager(function, ...) by operators, in the graph that Dynamo is building."""
    operator = _OPERATORS[function.name]
    arguments = dict(zip(operator.positional, args, strict=False)) | kwargs
    if memory.is_transforming() and len(arguments) == len(args) + len(kwargs):
        return _transformed(function.name, tuple(arguments), *arguments.values())
    buffers = [arguments.pop(name, None) for name in operator.left_out if name in arguments]
    wrong = len(arguments) + len(buffers) != len(args) + len(kwargs)
    arguments = operator.other_defaults | arguments
    for name, number in operator.float_defaults.items():
        if name not in arguments:
            arguments[name] = float(number)
    if wrong or any(buffer is not None for buffer in buffers) or not operator.takes(arguments):
        from fastxent.arrays.torch.outside import outside

        return outside(eager, function, *args, **kwargs)
    first = arguments[operator.inputs[0]]
    for name in operator.arrays:
        value = arguments[name]
        if value is None or isinstance(value, torch.Tensor):
            continue
        if first.is_cuda:
            arguments[name] = filled(value, first)
        else:
            arguments[name] = torch.as_tensor(np.asarray(value), device=first.device)
    return _called(operator, arguments)


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def _transformed(name: str, names: tuple[str, ...], *values: Any) -> Any:
    """A call within transforms of torch.func, as one node of the graph that Dynamo builds.

    The compiler's later stages run the transforms on the nodes of `second`.
    """
    from fastxent.arrays.torch import functional

    return functional.call(FUNCTIONS[name], dict(zip(names, values, strict=True)))


def traced(function: Function, arguments: Arguments) -> Any:
    """Compute a call by operators; its tensors may be fake or part of a graph."""
    operator = _OPERATORS[function.name]
    for name in operator.left_out:
        if arguments.get(name) is not None and arguments[name] is not False:
            raise errors.buffer_in_graph(name, arguments[name])
    arguments = {n: value for n, value in arguments.items() if n not in operator.left_out}
    if missing := [n for n in operator.names[:-1] if n not in operator.defaults | arguments]:
        raise errors.missing_argument(function.name, missing[0])
    if unknown := arguments.keys() - set(operator.names):
        raise errors.unknown_argument(function.name, unknown.pop())
    if not isinstance(arguments[operator.inputs[0]], torch.Tensor):
        return function(**arguments)  # raises the error
    return _called(operator, operator.converted(operator.defaults | arguments))


def _called(operator: Operator, arguments: Arguments) -> Any:
    """Call an operator with all its arguments; return what the function returns."""
    if "wrt" in arguments and not isinstance(arguments["wrt"], str):
        arguments["wrt"] = ",".join(arguments["wrt"])
    function, run = operator.function, getattr(torch.ops.fastxent, operator.function.name)
    requested = [n for n in function.results[1:] if arguments[f"return_{n}"]]
    inputs = {n: arguments[n] for n in operator.inputs if arguments[n] is not None}
    if operator.is_product:
        arguments = arguments | {name: tensor.detach() for name, tensor in inputs.items()}
        return operator.results(run(**arguments, with_grads=False), [], arguments)
    needed = [name for name, tensor in inputs.items() if tensor.requires_grad]
    if not torch.is_grad_enabled() or not needed:
        return operator.results(run(**arguments, with_grads=False), requested, arguments)
    # The other results are computed by a separate call, because they are not in the graph.
    alone = arguments | operator.no_requests
    if "wrt" in arguments:
        alone["wrt"] = ",".join(needed)
    loss = run(**alone, with_grads=True)[0]
    if not requested:
        return loss
    detached = {name: tensor.detach() for name, tensor in inputs.items()}
    flat = run(**arguments | detached, with_grads=False)
    _, *others = operator.results(flat, requested, arguments)
    return loss, *others


_OPERATORS = {name: Operator(function) for name, function in FUNCTIONS.items()}


def _refusing_tangents(operator: Operator, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the operator's autograd kernel, which ignores tangents, so that it raises for them."""

    def checked(keyset: Any, *args: Any) -> Any:
        if refusals.may_have_tangents():
            for name, value in zip(operator.names, args, strict=False):
                if isinstance(value, torch.Tensor):
                    refusals.tangent(name, value)
        return kernel(keyset, *args)

    return checked


_LIBRARY = torch.library.Library("fastxent", "DEF")

for _name, _new in _OPERATORS.items():
    _LIBRARY.define(_name + _new.schema(), tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(_name, _new.compute, "CompositeExplicitAutograd")
    _LIBRARY.impl(_name, _new.compute_on_gpu, "CUDA")
    torch.library.register_fake(f"fastxent::{_name}", _new.fake, lib=_LIBRARY)
    # As in torch.library.register_autograd; only this kernel can see tangents.
    _kernel = make_autograd_impl(
        getattr(torch.ops.fastxent, _name).default, Info(_new.backward, _new.setup_context)
    )
    _LIBRARY.impl(_name, _refusing_tangents(_new, _kernel), "Autograd", with_keyset=True)
