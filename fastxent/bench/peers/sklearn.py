"""scikit-learn: the compiled loss that its logistic regression and gradient boosting share."""

from collections.abc import Callable
from typing import Any

from sklearn._loss import HalfMultinomialLoss

import fastxent as fx

Call = Callable[[], Any]


def cross_entropy(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""
    multinomial = HalfMultinomialLoss(n_classes=logits.shape[1])
    labels = target.astype(logits.dtype)  # it takes labels as floats
    threads = fx.get_num_threads()

    def call() -> Any:
        losses, grad = multinomial.loss_gradient(labels, logits, n_threads=threads)
        grad /= len(target)
        return losses.mean(), grad

    return call
