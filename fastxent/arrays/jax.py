"""JAX arrays on the CPU, read without a copy; results are JAX arrays."""

from typing import Any

import jax
import numpy as np

from fastxent import errors
from fastxent.arrays import views
from fastxent.functions import Function


def call(function: Function, *args: Any, **kwargs: Any) -> Any:
    """Call `function` on NumPy views of the arrays; return JAX arrays."""
    arguments = views.by_name(function, args, kwargs)
    if arguments is None:
        return function(*args, **kwargs)
    for name, value in arguments.items():
        if name in function.buffers and value is not None:
            raise errors.unwritable_buffer(name, "JAX", "cannot be written to")
        if isinstance(value, jax.Array):
            _check(name, value)
    (device, *_) = arguments[function.first].devices()

    def back(result: Any) -> Any:
        return jax.device_put(np.asarray(result), device)

    return views.call(function, arguments, jax.Array, np.asarray, back)


def _check(name: str, value: Any) -> None:
    if isinstance(value, jax.core.Tracer):
        raise errors.traced_by_jax(name)
    platforms = {device.platform for device in value.devices()}
    if "gpu" in platforms:  # docs/gpu.md says why
        raise errors.jax_on_gpu(name, str(value.devices()))
    if platforms != {"cpu"}:
        raise errors.not_in_host_memory(name, str(value.devices()))
