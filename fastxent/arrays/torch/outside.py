"""The way out of a graph of torch.compile; imported while one is made, as it loads the compiler."""

from typing import Any

import torch

from fastxent.arrays.torch.memory import Function


@torch.compiler.disable  # type: ignore[untyped-decorator]
def outside(eager: Function, function: Function, *args: Any, **kwargs: Any) -> Any:
    """A call with buffers, or one that is refused, or has to be converted first."""
    return eager(function, *args, **kwargs)
