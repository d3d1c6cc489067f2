"""The data of the fits: scikit-learn's handwritten digits, and a larger random problem."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

C = 1.0  # inverse strength of the penalty, as in scikit-learn


class Data(NamedTuple):
    """Features and classes, split into training and test rows."""

    x: Array  # (N, K)
    y: Array  # (N,)
    x_test: Array
    y_test: Array
    n_classes: int

    @property
    def penalty(self) -> float:
        """λ: scikit-learn minimises C·Σ loss + ½‖W‖², which is C·N times mean loss + ½λ‖W‖²."""
        return 1.0 / (C * len(self.y))


def load_digits() -> Data:
    """Load scikit-learn's handwritten digits, 8 by 8 pixels of 0 .. 16, and split them."""
    from sklearn import datasets, model_selection

    pixels, classes = datasets.load_digits(return_X_y=True)
    x, x_test, y, y_test = model_selection.train_test_split(
        pixels / 16.0, classes, random_state=0, stratify=classes
    )
    return Data(x, y, x_test, y_test, len(np.unique(classes)))


LARGER = 20_000, 100, 20  # rows, features, classes


def make_larger() -> Data:
    """Make a larger problem; a tenth of its rows are test rows."""
    from sklearn import datasets, model_selection, preprocessing

    n, n_features, n_classes = LARGER
    x, y = datasets.make_classification(
        n, n_features, n_classes=n_classes, n_informative=n_features // 3,
        n_redundant=0, n_clusters_per_class=1, class_sep=1.5, random_state=0,
    )  # fmt: skip
    x = preprocessing.scale(x)
    x, x_test, y, y_test = model_selection.train_test_split(
        x, y, test_size=0.1, random_state=0, stratify=y
    )
    return Data(x, y, x_test, y_test, n_classes)
