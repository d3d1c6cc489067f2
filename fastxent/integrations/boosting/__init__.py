"""Objectives and metrics for XGBoost and LightGBM; neither library is imported.

Classifiers made of them are in `fastxent.integrations.xgboost` and
`fastxent.integrations.lightgbm`.
"""

from fastxent.integrations.boosting.metrics import (
    binary_logloss,
    logloss,
    mlogloss,
    multi_logloss,
)
from fastxent.integrations.boosting.objectives import (
    lightgbm_logistic,
    lightgbm_softmax,
    xgboost_logistic,
    xgboost_softmax,
)

__all__ = [
    "binary_logloss",
    "lightgbm_logistic",
    "lightgbm_softmax",
    "logloss",
    "mlogloss",
    "multi_logloss",
    "xgboost_logistic",
    "xgboost_softmax",
]
