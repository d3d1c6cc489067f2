"""The handwritten digits of scikit-learn, split into training and test data."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

C = 1.0  # inverse strength of the penalty, as in scikit-learn


class Digits(NamedTuple):
    """Images as rows of pixels in 0 .. 1 and their classes, in a fixed split."""

    x: Array  # (N, K)
    y: Array  # (N,)
    x_test: Array
    y_test: Array
    n_classes: int

    @property
    def penalty(self) -> float:
        """λ: scikit-learn minimises C·Σ loss + ½‖W‖², which is C·N times mean loss + ½λ‖W‖²."""
        return 1.0 / (C * len(self.y))


def load_digits() -> Digits:
    """Load scikit-learn's handwritten digits, 8 by 8 pixels of 0 .. 16, and split them."""
    from sklearn import datasets, model_selection

    pixels, classes = datasets.load_digits(return_X_y=True)
    x, x_test, y, y_test = model_selection.train_test_split(
        pixels / 16.0, classes, random_state=0, stratify=classes
    )
    return Digits(x, y, x_test, y_test, len(np.unique(classes)))
