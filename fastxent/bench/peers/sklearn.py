"""scikit-learn: the compiled losses of logistic regression and gradient boosting, and log_loss."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn._loss import HalfBinomialLoss, HalfMultinomialLoss
from sklearn.metrics import log_loss

import fastxent as fx

Call = Callable[[], Any]


def cross_entropy(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""
    labels = target.astype(logits.dtype)  # scikit-learn takes labels as floats
    return _mean(HalfMultinomialLoss(n_classes=logits.shape[1]), labels, logits)


def binary(logits: Any, target: Any) -> Call:
    """Mean loss and gradient."""
    return _mean(HalfBinomialLoss(), target, logits)


def categorical(probs: Any, target: Any) -> Call:
    """Mean loss of probabilities only."""
    classes = np.arange(probs.shape[1])
    return lambda: (log_loss(target, probs, labels=classes),)


def _mean(loss: Any, target: Any, logits: Any) -> Call:
    threads = fx.get_num_threads()

    def call() -> Any:
        losses, grad = loss.loss_gradient(target, logits, n_threads=threads)
        grad /= len(target)
        return losses.mean(), grad

    return call
