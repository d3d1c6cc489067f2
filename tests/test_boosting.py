"""XGBoost and LightGBM: margins are those of the built-in objectives, metrics those built in."""

import pickle

import numpy as np
import pytest
from scripts import python

from fastxent import reference
from fastxent.integrations import boosting

datasets = pytest.importorskip("sklearn.datasets", reason="pip install scikit-learn")

ROUNDS = 8
DATA = {"digits": "load_digits", "wine": "load_wine", "cancer": "load_breast_cancer"}


def table(name, weighted=False):
    """Features, labels, weights (or None) and the number of classes."""
    x, y = getattr(datasets, DATA[name])(return_X_y=True)
    weight = np.random.default_rng(0).uniform(0.3, 3, len(y)) if weighted else None
    return x, y, weight, int(y.max()) + 1


@pytest.fixture
def xgb():
    return pytest.importorskip("xgboost", reason="pip install xgboost-cpu")


@pytest.fixture
def lgb():
    return pytest.importorskip("lightgbm", reason="pip install lightgbm")


every_data = pytest.mark.parametrize("name", DATA)
both_ways = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])


# --- the libraries --------------------------------------------------------------------------


@both_ways
@every_data
def test_xgboost(xgb, name, weighted):
    """Margins and metric of both interfaces are those of the built-in objective."""
    x, y, weight, n_classes = table(name, weighted)
    multi = n_classes > 2
    objective = boosting.xgboost_softmax if multi else boosting.xgboost_logistic
    metric = boosting.mlogloss if multi else boosting.logloss
    built_in = "multi:softprob" if multi else "binary:logistic"
    common = {"base_score": 0.5, "max_depth": 3}
    params = {**common, "objective": built_in, "nthread": 1, "disable_default_eval_metric": True}
    if multi:
        params["num_class"] = n_classes
    data, theirs, ours = xgb.DMatrix(x, y, weight=weight), {}, {}
    watch = {"evals": [(data, "train")], "verbose_eval": False}
    peer = xgb.train(
        params | {"eval_metric": metric.__name__}, data, ROUNDS, evals_result=theirs, **watch
    )
    model = xgb.train(
        params, data, ROUNDS, obj=objective, custom_metric=metric, evals_result=ours, **watch
    )
    want = peer.predict(data, output_margin=True)
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(model.predict(data, output_margin=True), want, rtol=0, atol=1e-5)
    # XGBoost rounds what a metric returns to six decimal places.
    assert list(ours["train"]) == list(theirs["train"]) == [metric.__name__]
    np.testing.assert_allclose(
        ours["train"][metric.__name__], theirs["train"][metric.__name__], rtol=0, atol=2e-6
    )
    estimator = xgb.XGBClassifier(
        n_estimators=ROUNDS, n_jobs=1, objective=objective, eval_metric=metric,
        disable_default_eval_metric=True, **common,
    )  # fmt: skip
    estimator.fit(
        x, y, sample_weight=weight, eval_set=[(x, y)], verbose=False,
        sample_weight_eval_set=None if weight is None else [weight],
    )  # fmt: skip
    estimator = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_allclose(estimator.predict(x, output_margin=True), want, rtol=0, atol=1e-5)
    found = estimator.evals_result()["validation_0"][metric.__name__]
    assert len(found) == ROUNDS
    assert found[-1] == pytest.approx(theirs["train"][metric.__name__][-1], abs=2e-6)
    assert (estimator.predict(x) == y).mean() > 0.9


@both_ways
@every_data
def test_lightgbm(lgb, name, weighted):
    """Margins and metric of both interfaces are those of the built-in objective."""
    x, y, weight, n_classes = table(name, weighted)
    multi = n_classes > 2
    objective = boosting.lightgbm_softmax if multi else boosting.lightgbm_logistic
    metric = boosting.multi_logloss if multi else boosting.binary_logloss
    common = {"boost_from_average": False, "num_leaves": 8, "learning_rate": 0.3}
    params = common | {"verbose": -1, "num_threads": 1}
    if multi:
        params["num_class"] = n_classes

    def train(own, objective, feval):
        data, result = lgb.Dataset(x, y, weight=weight), {}
        model = lgb.train(
            params | {"objective": objective, "metric": own}, data, ROUNDS, valid_sets=[data],
            feval=feval, callbacks=[lgb.record_evaluation(result)],
        )  # fmt: skip
        return model.predict(x, raw_score=True), result["training"]

    want, theirs = train(metric.__name__, "multiclass" if multi else "binary", None)
    margins, ours = train("None", objective, metric)
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(margins, want, rtol=0, atol=1e-5)
    assert list(ours) == list(theirs) == [metric.__name__]
    np.testing.assert_allclose(ours[metric.__name__], theirs[metric.__name__], rtol=1e-6)
    estimator = lgb.LGBMClassifier(
        n_estimators=ROUNDS, n_jobs=1, verbose=-1, objective=objective, metric="None", **common
    )
    weights = None if weight is None else [weight]
    estimator.fit(
        x, y, sample_weight=weight, eval_X=x, eval_y=y, eval_sample_weight=weights,
        eval_metric=metric,
    )  # fmt: skip
    (found,) = estimator.evals_result_.values()
    assert list(found) == [metric.__name__]
    np.testing.assert_allclose(found[metric.__name__], theirs[metric.__name__], rtol=1e-6)
    estimator = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_allclose(estimator.predict(x, raw_score=True), want, rtol=0, atol=1e-5)


def test_early_stopping(xgb, lgb):
    """Rows that were held back stop both libraries where their own metric stops them."""
    x, y, _, _ = table("cancer")
    half = np.arange(len(y)) % 2 == 0
    params = {"base_score": 0.5, "nthread": 1, "eta": 1.0, "objective": "binary:logistic"}
    params["disable_default_eval_metric"] = True
    data, held = xgb.DMatrix(x[half], y[half]), xgb.DMatrix(x[~half], y[~half])
    watch = {"evals": [(held, "held")], "early_stopping_rounds": 3, "verbose_eval": False}
    peer = xgb.train(params | {"eval_metric": "logloss"}, data, 60, **watch)
    model = xgb.train(
        params, data, 60, obj=boosting.xgboost_logistic, custom_metric=boosting.logloss, **watch
    )
    assert model.best_iteration == peer.best_iteration < 50
    params = {"boost_from_average": False, "num_threads": 1, "verbose": -1, "learning_rate": 1.0}
    stops = []
    for more, feval in (
        ({"objective": "binary", "metric": "binary_logloss"}, None),
        ({"objective": boosting.lightgbm_logistic, "metric": "None"}, boosting.binary_logloss),
    ):
        data = lgb.Dataset(x[half], y[half])
        model = lgb.train(
            params | more, data, 60, valid_sets=[lgb.Dataset(x[~half], y[~half], reference=data)],
            feval=feval, callbacks=[lgb.early_stopping(3, verbose=False)],
        )  # fmt: skip
        stops.append(model.best_iteration)
    assert stops[0] == stops[1] < 50


# --- by themselves --------------------------------------------------------------------------


class Data:
    """What is asked of a DMatrix and of a Dataset."""

    def __init__(self, label, weight):
        self.label, self.weight = label, weight

    def get_label(self):
        return self.label

    def get_weight(self):
        return self.weight


@both_ways
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("n", "n_classes"), [(1, 2), (37, 10), (5, 400)])
def test_softmax(rng, dtype, n, n_classes, order, weighted):
    """The formulas, in the predictions' type and layout; both interfaces give the same."""
    margins = np.asarray(rng.standard_normal((n, n_classes)) * 3, dtype, order)
    labels = rng.integers(0, n_classes, n)
    weight = rng.uniform(0.5, 2, n).astype(np.float32) if weighted else None
    _, grad, hess = reference.cross_entropy(
        margins, labels, sample_weight=weight, reduction="sum", return_grad=True, return_hess=True
    )
    floats = labels.astype(np.float32)
    for function, want in (
        (boosting.xgboost_softmax, np.maximum(2 * hess, 1e-16)),
        (boosting.lightgbm_softmax, n_classes / (n_classes - 1) * hess),
    ):
        got = function(floats, margins, weight)
        for a, b in zip(got, (grad, want), strict=True):
            np.testing.assert_allclose(a, b, rtol=3e-6)
            assert a.dtype == dtype and a.flags[f"{order}_CONTIGUOUS"]
        again = function(margins, Data(floats, np.empty(0) if weight is None else weight))
        np.testing.assert_array_equal(got, again)
    want = float(reference.cross_entropy(margins, labels, sample_weight=weight))
    data = Data(floats, weight)
    for name, value, larger_is_better in (
        boosting.multi_logloss(floats, margins, weight), boosting.multi_logloss(margins, data)
    ):  # fmt: skip
        assert (name, larger_is_better) == ("multi_logloss", False)
        assert value == pytest.approx(want, rel=1e-6)
    assert boosting.mlogloss(floats, margins, weight) == value
    assert boosting.mlogloss(margins, data) == ("mlogloss", value)


@both_ways
@pytest.mark.parametrize("shape", [(23,), (23, 1)])
def test_logistic(rng, dtype, shape, weighted):
    """The formulas, of labels 0 and 1 and between; both interfaces give the same."""
    margins = (rng.standard_normal(shape) * 3).astype(dtype)
    weight = rng.uniform(0.5, 2, 23).astype(np.float32) if weighted else None
    w = np.ones(shape) if weight is None else weight.reshape(shape)
    for labels in (rng.integers(0, 2, 23).astype(np.float32), rng.random(23, np.float32)):
        data, y = Data(labels, weight), labels.reshape(shape)
        losses, grad, hess = reference.binary_cross_entropy_with_logits(
            margins, y, weight=w, reduction="none", return_grad=True, return_hess=True
        )
        for function in (boosting.xgboost_logistic, boosting.lightgbm_logistic):
            got = function(labels, margins, weight)
            for a, b in zip(got, (grad, hess), strict=True):
                np.testing.assert_allclose(a, b, rtol=3e-6, atol=3e-7)
                assert a.dtype == dtype and a.shape == shape
            np.testing.assert_array_equal(got, function(margins, data))
        want = losses.sum() / w.sum()
        name, value, larger_is_better = boosting.binary_logloss(labels, margins, weight)
        assert (name, larger_is_better) == ("binary_logloss", False)
        assert value == pytest.approx(want, rel=1e-6)
        assert boosting.logloss(labels, margins, weight) == value
        assert boosting.logloss(margins, data) == ("logloss", value)


def test_xgboost_has_a_least_hessian():
    """Sure rows and rows of weight 0 keep what XGBoost lets them keep."""
    sure = np.array([[90, 0], [0, 0]], np.float32)
    hess = boosting.xgboost_softmax([0, 1], sure, [1, 0])[1]
    np.testing.assert_array_equal(hess, np.float32(1e-16))
    hess = boosting.xgboost_logistic([0, 1], np.array([-90, 90], np.float32), np.array([1, 0.5]))[1]
    assert hess.tolist() == pytest.approx([1e-16, 5e-17])


def test_a_metric_without_weight_is_nan():
    """Nothing to take a mean of, and no warning."""
    assert np.isnan(boosting.mlogloss([0], np.zeros((1, 2)), [0]))
    assert np.isnan(boosting.logloss([0], np.zeros(1), np.zeros(1)))


SCORES = np.zeros((3, 4))
WRONG = [
    ([0, 1, 1.5], SCORES, None, ValueError, r"y_true must hold class indices .*y_true\[2\] = 1.5"),
    ([0, np.nan, 1], SCORES, None, ValueError, r"y_true\[1\] = nan"),
    ([0, 1e30, 1], SCORES, None, IndexError, r"y_true\[1\] must be a class in 0 .. 3, got 1e\+30"),
    ([0, np.inf, 1], SCORES, None, IndexError, r"y_true\[1\] must be a class in 0 .. 3, got inf"),
    ([0.0, 4.0, 1.0], SCORES, None, IndexError, r"y_true\[1\] must be a class in 0 .. 3, got 4"),
    ([0.0, 1.0, -1.0], SCORES, None, IndexError, r"y_true\[2\] must be a class in 0 .. 3, got -1"),
    ([0.0, 1.0], SCORES, None, ValueError, r"y_true must have shape \(3,\)"),
    (np.eye(3, 4), SCORES, None, ValueError, r"y_true must have shape \(3,\).*\(3, 4\)"),
    (["a", "b", "c"], SCORES, None, TypeError, "y_true must hold real numbers"),
    ([0.0, 1.0, 2.0], SCORES[0], None, ValueError, r"y_pred must have shape \(N, K\).*\(4,\)"),
    ([0.0, 0.0, 0.0], SCORES[:, :1], None, ValueError, "at least two classes"),
    ([0.0, 1.0, 2.0], SCORES, [1.0], ValueError, r"sample_weight must have shape \(3,\)"),
]


@pytest.mark.parametrize(("labels", "margins", "weight", "error", "text"), WRONG)
def test_wrong_classes(labels, margins, weight, error, text):
    """The error says which label, or what shape."""
    for function in (boosting.xgboost_softmax, boosting.lightgbm_softmax, boosting.mlogloss):
        with pytest.raises(error, match=text):
            function(labels, margins, weight)


@pytest.mark.parametrize(("labels", "margins", "weight", "text"), [
    ([0.0, 1.0], np.zeros(3), None, r"y_true must have shape \(3,\).*got \(2,\)"),
    ([0.0, 1.0], np.zeros(2), [1.0], r"sample_weight must have shape \(2,\).*got \(1,\)"),
    ([0.0, 1.0], np.zeros((2, 3)), None, r"y_pred must have shape \(N,\) or \(N, 1\), got \(2,"),
])  # fmt: skip
def test_wrong_shapes_of_logistic(labels, margins, weight, text):
    """Nothing is broadcast, least of all a weight that a mean is divided by."""
    for function in (boosting.xgboost_logistic, boosting.lightgbm_logistic, boosting.logloss):
        with pytest.raises(ValueError, match=text):
            function(labels, margins, weight)


@pytest.mark.parametrize("label", [-0.5, 1.5, np.nan])
def test_wrong_probabilities(label):
    """Labels of a logistic objective or metric are from 0 to 1."""
    for function in (
        boosting.xgboost_logistic, boosting.lightgbm_logistic, boosting.logloss,
        boosting.binary_logloss,
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"from 0 to 1, got y_true\[1\] = {label}"):
            function([0.0, label], np.zeros(2))


def test_without_the_libraries():
    """Neither is imported for the functions."""
    script = """
        import sys
        from fastxent.integrations import boosting
        boosting.xgboost_softmax([0, 1], [[1.0, 2.0], [3.0, 4.0]])
        print({"xgboost", "lightgbm", "sklearn"} & set(sys.modules))
    """
    assert python(script) == "set()\n"
