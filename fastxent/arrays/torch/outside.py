"""The graph break of torch.compile; imported while one is made, as it loads the compiler."""

from collections.abc import Callable
from typing import Any

import torch

from fastxent.functions import Function


@torch.compiler.disable  # type: ignore[untyped-decorator]
def outside(eager: Callable[..., Any], function: Function, *args: Any, **kwargs: Any) -> Any:
    """An eager call: one with buffers, or one that the function refuses or converts first."""
    return eager(function, *args, **kwargs)
