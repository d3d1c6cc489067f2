"""PyTorch's losses by fastxent: as modules here, as functions in `functional`.

Constructors, parameters, buffers and saved states are those of PyTorch.
"""

from fastxent.integrations.torch.modules import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    LinearCrossEntropyLoss,
)

__all__ = ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "LinearCrossEntropyLoss"]
