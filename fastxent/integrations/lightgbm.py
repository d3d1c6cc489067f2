"""A drop-in replacement for `lightgbm.LGBMClassifier` that uses fastxent's objectives."""

import functools
from typing import Any

import lightgbm
import numpy as np
from sklearn.utils.class_weight import compute_sample_weight

from fastxent import errors
from fastxent.integrations.boosting import (
    binary_logloss,
    classifiers,
    lightgbm_logistic,
    lightgbm_softmax,
    multi_logloss,
)
from fastxent.integrations.boosting.rows import Array

__all__ = ["LGBMClassifier"]

# LightGBM's aliases of parameters.
_ALIASES = {
    "boosting": ("boosting_type", "boost"),
    "is_unbalance": ("unbalance", "unbalanced_sets"),
    "linear_tree": ("linear_trees",),
    "metric": ("metrics", "metric_types"),
    "neg_bagging_fraction": ("neg_sub_row", "neg_subsample", "neg_bagging"),
    "num_class": ("num_classes",),
    "objective": ("objective_type", "app", "application", "loss"),
    "pos_bagging_fraction": ("pos_sub_row", "pos_subsample", "pos_bagging"),
}
_OBJECTIVES = (None, "binary", "multiclass", "softmax")
_LOGLOSS = ("logloss", "binary_logloss", "binary", "multi_logloss", "multiclass", "softmax")
_ERROR = ("error", "binary_error", "multi_error")
# These depend on the order of the scores only, so LightGBM may compute them from raw scores.
_OF_ORDER = ("auc", "average_precision", "auc_mu")
_NO_METRIC = ("", "none", "null", "na", "custom")


# LightGBM's lower bound of the relative frequency of a class.
_MIN_FREQUENCY = 1e-15


class LGBMClassifier(lightgbm.LGBMClassifier):  # type: ignore[misc]
    r"""A `lightgbm.LGBMClassifier` that is trained with fastxent's softmax or logistic objective.

    With up to two classes it uses the logistic objective, where σ(x) is the probability of the
    second class, and with more the softmax objective of `fastxent.integrations.boosting`:

    .. math::
        g_k = w\,(p_k - [k = y]), \qquad h_k = \frac{K}{K - 1}\,w\,p_k (1 - p_k), \qquad
        p = \operatorname{softmax}(x)

    Boosting starts where LightGBM's own objective does: unless `boost_from_average=False`, at the
    logarithms of the class frequencies (for two classes at the log-odds), which are added to the
    leaves of the first trees. Probabilities equal those of the built-in objective to 1e-6, unless
    features or trees are sampled (`colsample_bytree`, `boosting_type="dart"`): with a custom
    objective LightGBM draws other samples.

    Parameters
    ----------
    objective : {None, "binary", "multiclass"}
        Each value selects fastxent's objective for the number of classes.
    class_weight : dict, "balanced" or None
        As for `lightgbm.LGBMClassifier`. `is_unbalance` and `scale_pos_weight` are supported too,
        for two classes only.
    metric : str or list of str, optional
        Log loss, error, `auc`, `average_precision` and `auc_mu`, also as `eval_metric` of `fit`. A
        function passed there gets labels and probabilities, as with LightGBM's own objective.
    **kwargs
        As for `lightgbm.LGBMClassifier`.

    Raises
    ------
    ValueError
        By `fit`, for: another objective; a metric that LightGBM would compute from raw scores as if
        they were probabilities; parameters that only built-in objectives read (`sigmoid`,
        `pos_bagging_fraction`, `neg_bagging_fraction`); `is_unbalance` or `scale_pos_weight` with
        more than two classes, or both; `linear_tree` without `boost_from_average=False`.

    Notes
    -----
    The booster has no objective, so `booster_.predict` and boosters loaded from a file return raw
    scores. LightGBM's own metrics come before the others in `evals_result_`.

    References
    ----------
    G. Ke et al., "LightGBM", NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from fastxent.integrations.lightgbm import LGBMClassifier
    >>> x = np.arange(60.0).reshape(60, 1)
    >>> y = np.repeat(["few", "more", "most"], 20)
    >>> model = LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1).fit(x, y)
    >>> model.predict(x[10::20]).tolist(), model.predict_proba(x).shape
    (['few', 'more', 'most'], (60, 3))
    """

    _encoder: Any = None

    @functools.wraps(lightgbm.LGBMClassifier.fit)
    def fit(self, X: Any, y: Any, *args: Any, **kwargs: Any) -> "LGBMClassifier":
        arguments = classifiers.arguments(lightgbm.LGBMClassifier.fit, self, X, y, *args, **kwargs)
        encoder, codes = classifiers.encode(y)
        n_classes, params = len(encoder.classes_), self.get_params()
        names, functions = _metrics(params, arguments.get("eval_metric"), n_classes)
        changed = {"objective": _objective(params, codes, n_classes), "class_weight": None}
        changed |= {"metric": names or "None"}
        arguments |= {"y": codes, "eval_metric": functions}
        _add_class_weights(arguments, self.class_weight, y)
        labels = _encode_eval_sets(arguments, X, y, codes, encoder)
        start = _start(params, arguments, codes, n_classes)
        if start is not None:
            arguments["init_score"], *arguments["eval_init_score"] = (
                np.tile(start, (len(rows), *[1] * np.ndim(start))) for rows in (codes, *labels)
            )
        for alias in (*_ALIASES["objective"], *_ALIASES["metric"]):
            params.pop(alias, None)
        fitted = _fit(params | changed, arguments)
        if start is not None:
            _add_to_leaves(fitted.booster_, start)
        classifiers.take_over(self, fitted, "_class_weight", "_objective", "_other_params")
        self._encoder, self._objective = encoder, "None"  # used in predictions
        return self

    @functools.wraps(lightgbm.LGBMClassifier.predict_proba)
    def predict_proba(self, X: Any, *args: Any, **kwargs: Any) -> Any:
        method = lightgbm.LGBMClassifier.predict_proba
        arguments = classifiers.arguments(method, self, X, *args, **kwargs)
        if _is_raw(arguments):
            return super().predict_proba(**arguments)
        return classifiers.probabilities(super().predict_proba(**arguments | {"raw_score": True}))

    @functools.wraps(lightgbm.LGBMClassifier.predict)
    def predict(self, X: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = classifiers.arguments(lightgbm.LGBMClassifier.predict, self, X, *args, **kwargs)
        predicted = super().predict(**arguments)
        return predicted if _is_raw(arguments) else self.classes_[predicted]

    @property
    def classes_(self) -> Array:
        """The labels of the classes, shape (K,)."""
        codes: Array = super().classes_  # raises unless fitted
        labels: Array = codes if self._encoder is None else self._encoder.classes_
        return labels


def _is_raw(arguments: dict[str, Any]) -> bool:
    """Whether raw scores, leaves or contributions are predicted rather than classes."""
    return any(arguments.get(name) for name in ("raw_score", "pred_leaf", "pred_contrib"))


def _option(params: dict[str, Any], name: str) -> Any:
    """The value of a parameter under any of its names, in LightGBM's order; or None."""
    values = (params.get(each) for each in (name, *_ALIASES.get(name, ())))
    return next((value for value in values if value is not None), None)


def _flag(params: dict[str, Any], name: str, default: bool) -> bool:
    """The value of a boolean parameter, which LightGBM also accepts as text."""
    value = _option(params, name)
    return default if value is None else str(value).lower() in ("true", "+", "1")


def _number(params: dict[str, Any], name: str) -> float:
    """The value of a number whose default is 1."""
    value = _option(params, name)
    return 1.0 if value is None else float(value)


def _objective(params: dict[str, Any], codes: Array, n_classes: int) -> Any:
    """The objective for this number of classes; raise for parameters that it would ignore."""
    requested = _option(params, "objective")
    if requested not in _OBJECTIVES:
        names = "None, 'binary' or 'multiclass'"
        raise errors.not_our_objective(names, requested)
    for name in ("boosting", *_ALIASES["boosting"]):
        if params.get(name) in ("rf", "random_forest"):
            remedy = "LightGBM's random forest accepts no custom objective"
            raise errors.unsupported_parameter(name, params[name], remedy)
    for name in ("sigmoid", "pos_bagging_fraction", "neg_bagging_fraction"):
        if _number(params, name) != 1:
            remedy = "only LightGBM's own objectives read it"
            raise errors.unsupported_parameter(name, _option(params, name), remedy)
    if _number(params, "num_class") not in (1, n_classes):
        remedy = f"y has {n_classes} classes"
        raise errors.unsupported_parameter("num_class", _option(params, "num_class"), remedy)
    positive, balanced = _number(params, "scale_pos_weight"), _flag(params, "is_unbalance", False)
    if positive != 1 and (balanced or n_classes > 2):
        remedy = "is_unbalance is given" if balanced else "it is for two classes; use class_weight"
        raise errors.unsupported_parameter("scale_pos_weight", positive, remedy)
    if not balanced:
        logistic = classifiers.class_weighted(lightgbm_logistic, 1, positive)
        return lightgbm_softmax if n_classes > 2 else logistic
    if n_classes > 2:
        remedy = "it is for two classes; use class_weight"
        raise errors.unsupported_parameter("is_unbalance", balanced, remedy)
    # As in LightGBM: the total weights of both classes are equal.
    counts = np.maximum(np.bincount(codes, minlength=2), 1)
    return classifiers.class_weighted(lightgbm_logistic, *(counts.max() / counts))


def _metrics(
    params: dict[str, Any], eval_metric: Any, n_classes: int
) -> tuple[list[str], list[Any]]:
    """Split metrics into names that LightGBM computes itself, and functions for the others."""
    own = _option(params, "metric")
    own = "logloss" if own is None else own
    names = own.split(",") if isinstance(own, str) else list(own)
    several = eval_metric if isinstance(eval_metric, list) else [eval_metric]
    names = [m for m in several if isinstance(m, str) and m not in names] + names
    by_lightgbm: list[str] = []
    functions: list[Any] = []
    for name in dict.fromkeys(str(each).strip().lower() for each in names):
        if name in _LOGLOSS:
            functions.append(multi_logloss if n_classes > 2 else binary_logloss)
        elif name in _ERROR and n_classes <= 2:
            functions.append(_binary_error)
        elif name in _OF_ORDER or name in _ERROR:
            by_lightgbm.append("multi_error" if name in _ERROR else name)
        elif name not in _NO_METRIC:
            known = (_LOGLOSS[1], _LOGLOSS[3], *_ERROR[1:], *_OF_ORDER)
            raise errors.metric_needs_probabilities(name, ", ".join(known))
    functions = list(dict.fromkeys(functions)) + [
        classifiers.make_margin_metric(m) for m in several if callable(m)
    ]
    return list(dict.fromkeys(by_lightgbm)), functions


def _binary_error(y_true: Array, y_pred: Array, weight: Any) -> tuple[str, float, bool]:
    """Compute LightGBM's binary_error from raw scores."""
    wrong = (y_pred > 0) != (y_true > 0)
    return "binary_error", float(np.average(wrong, weights=weight)), False


def _add_class_weights(arguments: dict[str, Any], class_weight: Any, y: Any) -> None:
    """Multiply the sample weights by the class weights."""
    if class_weight is not None:
        weight, of_class = arguments.get("sample_weight"), compute_sample_weight(class_weight, y)
        arguments["sample_weight"] = of_class if weight is None else np.multiply(weight, of_class)


def _encode_eval_sets(
    arguments: dict[str, Any], X: Any, y: Any, codes: Array, encoder: Any
) -> list[Array]:
    """Replace the labels of evaluation sets by class indices; return these for each set."""
    encoded: list[Array] = []
    if arguments.get("eval_set") is not None:
        sets = arguments["eval_set"]
        pairs = [sets] if isinstance(sets, tuple) else list(sets)
        # LightGBM recognises the training set by identity.
        encoded = [codes if x is X and each is y else encoder.transform(each) for x, each in pairs]
        arguments["eval_set"] = [(x, each) for (x, _), each in zip(pairs, encoded, strict=True)]
    elif arguments.get("eval_y") is not None:
        several = arguments["eval_y"]
        is_tuple = isinstance(several, tuple)
        encoded = [encoder.transform(each) for each in (several if is_tuple else [several])]
        arguments["eval_y"] = tuple(encoded) if is_tuple else encoded[0]
    if arguments.get("eval_class_weight") is not None:
        index = dict(zip(encoder.classes_, range(len(encoder.classes_)), strict=True))
        arguments["eval_class_weight"] = [
            {index[label]: value for label, value in each.items()} if isinstance(each, dict)
            else each for each in arguments["eval_class_weight"]
        ]  # fmt: skip
    return encoded


def _start(params: dict[str, Any], arguments: dict[str, Any], codes: Array, n_classes: int) -> Any:
    """The raw score, or K of them, at which LightGBM's own objective starts; None for zeros."""
    has_start = arguments.get("init_score") is not None or arguments.get("init_model") is not None
    if has_start or not _flag(params, "boost_from_average", True):
        return None
    if _flag(params, "linear_tree", False):
        remedy = "boost_from_average=False allows it"
        raise errors.unsupported_parameter("linear_tree", True, remedy)
    if arguments.get("eval_init_score") is not None:
        remedy = "boost_from_average=False or init_score allows it"
        raise errors.unsupported_parameter("eval_init_score", "arrays", remedy)
    weight = arguments.get("sample_weight")  # LightGBM stores them as float32
    weight = None if weight is None else np.asarray(weight, np.float32)
    sums = np.bincount(codes, weight, minlength=2)
    frequency = np.clip(sums / sums.sum(), _MIN_FREQUENCY, 1)
    return np.log(frequency) if n_classes > 2 else np.log(frequency[1]) - np.log(frequency[0])


def _fit(params: dict[str, Any], arguments: dict[str, Any]) -> Any:
    """Fit LightGBM's own classifier.

    LightGBM raises an error for a custom objective if no feature can be split. If there are too few
    rows for that, `feature_pre_filter=False` avoids the error, and no feature is split.
    """
    try:
        return lightgbm.LGBMClassifier(**params).fit(**arguments)
    except lightgbm.basic.LightGBMError as error:
        if "num_features" not in str(error):
            raise
        if not _flag(params, "feature_pre_filter", True):
            raise errors.no_feature() from error
    return _fit(params | {"feature_pre_filter": False}, arguments)


def _add_to_leaves(booster: Any, start: Any) -> None:
    """Add each class's starting score to all leaves of its first tree."""
    trees = booster.dump_model(num_iteration=1)["tree_info"]
    for k, (tree, shift) in enumerate(zip(trees, np.atleast_1d(start), strict=True)):
        for leaf in range(tree["num_leaves"]):
            booster.set_leaf_output(k, leaf, booster.get_leaf_output(k, leaf) + shift)
