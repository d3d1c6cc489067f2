"""JAX arrays on the CPU: read where they lie; what comes back is JAX's own."""

from typing import Any

import jax
import numpy as np

from fastxent.arrays import views
from fastxent.functions import Function


def call(function: Function, *args: Any, **kwargs: Any) -> Any:
    """Call `function` on NumPy's views of the arrays; give back JAX arrays."""
    given = views.by_name(function, args, kwargs)
    if given is None:
        return function(*args, **kwargs)
    for name, value in given.items():
        if name in function.buffers and value is not None:
            raise ValueError(f"{name} must be None, for JAX arrays cannot be written to")
        if isinstance(value, jax.Array):
            _check(name, value)
    (device, *_) = given[function.first].devices()

    def back(result: Any) -> Any:
        return jax.device_put(np.asarray(result), device)

    return views.call(function, given, jax.Array, np.asarray, back)


def _check(name: str, value: Any) -> None:
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name} is being traced by JAX (jit, grad, vmap), expected an array with numbers; in "
            "a JAX program call fastxent.integrations.jax"
        )
    if any(device.platform != "cpu" for device in value.devices()):
        raise TypeError(f"{name} is on {value.devices()}, expected an array in host memory here")
