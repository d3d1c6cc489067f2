"""The graph break of torch.compile. Importing this module loads the compiler."""

from collections.abc import Callable
from typing import Any

import torch

from fastxent.functions import Function


@torch.compiler.disable  # type: ignore[untyped-decorator]
def outside(eager: Callable[..., Any], function: Function, *args: Any, **kwargs: Any) -> Any:
    """Make an eager call: it has buffers, or arguments that the function converts or refuses."""
    return eager(function, *args, **kwargs)
