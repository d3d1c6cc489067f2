"""Convert arguments of PyTorch's losses to those of fastxent."""

from typing import Any

import numpy as np
import torch


def of_rows(
    input: Any,
    target: Any,
    weight: Any,
    ignore_index: int | None,
    reduction: str,
    label_smoothing: float,
) -> dict[str, Any]:
    """The options of a loss of rows that differ from the defaults, so that small calls pass few.

    A negative ignore_index is not passed with class probabilities.
    """
    options: dict[str, Any] = {}
    if weight is not None:
        options["weight"] = weight
    if reduction != "mean":
        options["reduction"] = reduction
    if label_smoothing:
        options["label_smoothing"] = label_smoothing
    if ignore_index is not None and ignore_index != -100:
        rank = target.ndim if isinstance(target, torch.Tensor) else np.ndim(target)
        if ignore_index >= 0 or rank != input.ndim:
            options["ignore_index"] = ignore_index
    return options


def of_logits(input: Any, *arguments: Any) -> dict[str, Any]:
    """The options of cross_entropy, with PyTorch's class axis; `arguments` as for `of_rows`."""
    options = of_rows(input, *arguments)
    if input.ndim > 2:
        options["axis"] = 1
    return options
