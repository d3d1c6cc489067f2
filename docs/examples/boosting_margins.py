"""XGBoost and LightGBM give the same margins with fastxent's softmax as with their own.

Trains on scikit-learn's digits and wine data. Both objectives start from the same scores, set by
base_score=0.5 (XGBoost) and boost_from_average=False (LightGBM): a library estimates the starting
scores only for its built-in objectives.
"""

from typing import Any, NamedTuple

import lightgbm as lgb
import numpy as np
import xgboost as xgb
from sklearn.datasets import load_digits, load_wine
from sklearn.model_selection import train_test_split

from fastxent.integrations.boosting import lightgbm_softmax, xgboost_softmax

DATA = {"digits": load_digits, "wine": load_wine}
ROUNDS = 20


class Row(NamedTuple):
    """Results on the test rows: largest margin, largest difference, and both accuracies."""

    largest: float
    difference: float
    built_in: float
    fastxent: float


def by_xgboost(objective: Any, x: Any, y: Any, x_test: Any) -> Any:
    """Train XGBoost and return the margins of the test rows."""
    model = xgb.XGBClassifier(
        n_estimators=ROUNDS, objective=objective, base_score=0.5, max_depth=4, n_jobs=1
    )
    return model.fit(x, y).predict(x_test, output_margin=True)


def by_lightgbm(objective: Any, x: Any, y: Any, x_test: Any) -> Any:
    """Train LightGBM and return the margins of the test rows."""
    model = lgb.LGBMClassifier(
        n_estimators=ROUNDS, objective=objective, boost_from_average=False, num_leaves=15,
        n_jobs=1, verbose=-1,
    )  # fmt: skip
    return model.fit(x, y).predict(x_test, raw_score=True)


SIDES = {
    "XGBoost": (by_xgboost, "multi:softprob", xgboost_softmax),
    "LightGBM": (by_lightgbm, "multiclass", lightgbm_softmax),
}


def main() -> dict[tuple[str, str], Row]:
    """Train with both objectives, compare the margins, and print a table."""
    print(
        f"{'':18}{'largest margin':>16}{'largest difference':>20}{'accuracy':>10}{'fastxent':>10}"
    )
    rows = {}
    for name, load in DATA.items():
        x, x_test, y, y_test = train_test_split(*load(return_X_y=True), random_state=0)
        for library, (train, built_in, ours) in SIDES.items():
            theirs, margins = (train(objective, x, y, x_test) for objective in (built_in, ours))
            accuracies = ((m.argmax(axis=1) == y_test).mean() for m in (theirs, margins))
            row = Row(
                float(np.abs(theirs).max()), float(np.abs(margins - theirs).max()), *accuracies
            )
            rows[library, name] = row
            print(
                f"{library + ', ' + name:18}{row.largest:16.4f}{row.difference:20.1e}"
                f"{row.built_in:10.4f}{row.fastxent:10.4f}"
            )
    return rows


if __name__ == "__main__":
    main()
