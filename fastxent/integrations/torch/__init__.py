"""Drop-in replacements for PyTorch's losses: modules here, functions in `functional`.

Constructors, parameters, buffers and state dicts are those of PyTorch.
"""

from fastxent.integrations.torch.modules import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    LinearCrossEntropyLoss,
)

__all__ = ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "LinearCrossEntropyLoss"]
