"""A drop-in replacement for `xgboost.XGBClassifier` that uses fastxent's objectives."""

import functools
import json
from typing import Any

import numpy as np
import xgboost

from fastxent import errors
from fastxent.integrations.boosting import classifiers, xgboost_logistic, xgboost_softmax
from fastxent.integrations.boosting.rows import Array

__all__ = ["XGBClassifier"]

_LOGISTIC, _SOFTMAX = "binary:logistic", "multi:softprob"
_METRICS = {_LOGISTIC: "logloss", _SOFTMAX: "mlogloss"}
# Parameters of other libraries, which XGBoost does not know and ignores.
_NOT_KNOWN = ("class_weight", "is_unbalance", "unbalance", "unbalanced_sets")
_WEIGH_ROWS = "pass sample_weight to fit"


class XGBClassifier(xgboost.XGBClassifier):  # type: ignore[misc]
    r"""A `xgboost.XGBClassifier` that is trained with fastxent's softmax or logistic objective.

    With up to two classes it uses the logistic objective, where σ(x) is the probability of the
    second class, and with more the softmax objective of `fastxent.integrations.boosting`:

    .. math::
        g_k = w\,(p_k - [k = y]), \qquad h_k = 2\,w\,p_k (1 - p_k), \qquad
        p = \operatorname{softmax}(x)

    Boosting starts where XGBoost's own objective does: unless `base_score` is passed, it is
    estimated by XGBoost. Probabilities equal those of the built-in objective to 1e-6. The fitted
    booster has the name of the built-in objective, so model files are the same as well.

    Parameters
    ----------
    objective : {"binary:logistic", "multi:softprob"}
        Each value selects fastxent's objective for the number of classes.
    scale_pos_weight : float, optional
        Weight of the second class, for two classes only.
    eval_metric : str, callable or list, optional
        Names are XGBoost's own metrics. A function gets labels and probabilities, as with XGBoost's
        own objective. fastxent's `logloss` and `mlogloss` replace XGBoost's default metric.
    **kwargs
        As for `xgboost.XGBClassifier`.

    Raises
    ------
    ValueError
        By `fit`, for: another objective; `class_weight` and `is_unbalance`, which XGBoost does not
        have; `scale_pos_weight` with more than two classes; labels that are not classes.

    Notes
    -----
    Labels may have any type that scikit-learn can sort, such as strings; `predict` returns them.
    They are pickled with the classifier, but a file of `save_model` holds class indices only.

    References
    ----------
    T. Chen and C. Guestrin, "XGBoost", arXiv:1603.02754.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.integrations.xgboost import XGBClassifier
    >>> x = np.arange(12.0).reshape(12, 1)
    >>> y = np.repeat(["few", "more", "most"], 4)
    >>> model = XGBClassifier(n_estimators=5, n_jobs=1).fit(x, y)
    >>> model.predict(x[::4]).tolist(), model.predict_proba(x).shape
    (['few', 'more', 'most'], (12, 3))
    """

    _encoder: Any = None

    @functools.wraps(xgboost.XGBClassifier.fit)
    def fit(self, X: Any, y: Any, *args: Any, **kwargs: Any) -> "XGBClassifier":
        arguments = classifiers.arguments(xgboost.XGBClassifier.fit, self, X, y, *args, **kwargs)
        encoder, codes = classifiers.encode(y)
        name = _LOGISTIC if len(encoder.classes_) <= 2 else _SOFTMAX
        params = self.get_params()
        changed = {"objective": _objective(params, name), **_metric(params["eval_metric"], name)}
        if params["base_score"] is None and arguments.get("xgb_model") is None:
            changed["base_score"] = _start(name, len(encoder.classes_), codes, params, arguments)
        if arguments.get("eval_set") is not None:
            arguments["eval_set"] = [
                (x, encoder.transform(each)) for x, each in arguments["eval_set"]
            ]
        fitted = xgboost.XGBClassifier(**params | changed).fit(**arguments | {"y": codes})
        classifiers.take_over(self, fitted, "kwargs")
        self._encoder = encoder
        return self

    @functools.wraps(xgboost.XGBClassifier.predict)
    def predict(self, X: Any, **kwargs: Any) -> Any:
        predicted = super().predict(X, **kwargs)
        return predicted if kwargs.get("output_margin") else self.classes_[predicted]

    @functools.wraps(xgboost.XGBClassifier.load_model)
    def load_model(self, fname: Any) -> None:
        super().load_model(fname)
        self._encoder = None

    @functools.wraps(xgboost.XGBClassifier.get_xgb_params)
    def get_xgb_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_xgb_params()
        if hasattr(self, "n_classes_"):  # set_params passes these to a fitted booster
            params["objective"] = _LOGISTIC if self.n_classes_ <= 2 else _SOFTMAX
        return params

    @property
    def classes_(self) -> Array:
        """The labels of the classes, shape (K,); 0 … K-1 for a model from a file."""
        if self._encoder is None:
            return np.arange(self.n_classes_)
        labels: Array = self._encoder.classes_
        return labels

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = False
        return tags


def _objective(params: dict[str, Any], name: str) -> Any:
    """The objective for the built-in one of this name; raise for parameters that it ignores."""
    if params["objective"] not in (_LOGISTIC, _SOFTMAX):
        raise errors.not_our_objective(f"{_LOGISTIC!r} or {_SOFTMAX!r}", params["objective"])
    for refused in _NOT_KNOWN:
        if params.get(refused) not in (None, False):
            raise errors.unsupported_parameter(refused, params[refused], _WEIGH_ROWS)
    positive = params["scale_pos_weight"]
    if name == _SOFTMAX:
        if positive not in (None, 1):
            raise errors.unsupported_parameter(
                "scale_pos_weight", positive, f"it is for two classes; {_WEIGH_ROWS}"
            )
        return xgboost_softmax
    return classifiers.class_weighted(xgboost_logistic, 1, 1 if positive is None else positive)


def _metric(requested: Any, name: str) -> dict[str, Any]:
    """The parameters for these metrics; no name is computed twice."""
    if requested is None or isinstance(requested, str):
        return {}
    several = [requested] if callable(requested) else list(requested)
    metrics = [classifiers.make_margin_metric(m) if callable(m) else m for m in several]
    changed: dict[str, Any] = {"eval_metric": metrics[0] if len(metrics) == 1 else metrics}
    for function in filter(callable, several):
        of_function = getattr(function, "__name__", None)
        if of_function in several:
            raise errors.metric_twice(of_function)
        if of_function == _METRICS[name]:
            changed["disable_default_eval_metric"] = True
    return changed


def _start(
    name: str, n_classes: int, codes: Array, params: dict[str, Any], arguments: dict[str, Any]
) -> Any:
    """Let XGBoost's own objective estimate `base_score`, from labels and weights only."""
    own = {"objective": name, "nthread": 1, "max_depth": 1}
    own |= (
        {"num_class": n_classes} if name == _SOFTMAX
        else {"scale_pos_weight": params["scale_pos_weight"]}
    )  # fmt: skip
    data = xgboost.DMatrix(
        np.zeros((len(codes), 1), np.float32), codes,
        weight=arguments.get("sample_weight"), base_margin=arguments.get("base_margin"),
    )  # fmt: skip
    config = json.loads(xgboost.train(own, data, 1).save_config())
    base_score = json.loads(config["learner"]["learner_model_param"]["base_score"])
    return base_score[0] if isinstance(base_score, list) and len(base_score) == 1 else base_score
