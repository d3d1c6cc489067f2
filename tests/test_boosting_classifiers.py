"""Classifiers of XGBoost and LightGBM with fastxent's objective: those of the built-in ones."""

import importlib
import pickle
from functools import partial

import numpy as np
import pytest

from fastxent.integrations.boosting import binary_logloss, logloss, mlogloss

pytest.importorskip("sklearn", reason="pip install scikit-learn")

from sklearn import datasets, model_selection  # noqa: E402
from sklearn.base import clone  # noqa: E402

EXACT = 1e-6  # of a probability
DATA = {"digits": "load_digits", "wine": "load_wine", "cancer": "load_breast_cancer"}


def table(name):
    """Training features and labels, test features and labels, weights of the training rows."""
    x, y = getattr(datasets, DATA[name])(return_X_y=True)
    x, x_test, y, y_test = model_selection.train_test_split(x, y, test_size=0.3, random_state=0)
    return x, y, x_test, y_test, np.random.default_rng(0).uniform(0.3, 3, len(y))


class XGBoost:
    """XGBoost's classifier and fastxent's, with few small trees."""

    def __init__(self):
        self.module = pytest.importorskip("xgboost", reason="pip install xgboost-cpu")
        ours = importlib.import_module("fastxent.integrations.xgboost")
        common = {"n_estimators": 5, "max_depth": 3, "n_jobs": 1}
        self.theirs = partial(self.module.XGBClassifier, **common)
        self.ours = partial(ours.XGBClassifier, **common)
        self.raw = {"output_margin": True}

    def evaluated(self, x, y, **more):
        """Arguments of `fit` for a set to evaluate; with `metric`, of the constructor, too."""
        options = {"eval_metric": more["metric"]} if "metric" in more else {}
        return options, {"eval_set": [(x, y)], "verbose": False}

    def history(self, model):
        return model.evals_result()["validation_0"]

    def stopping(self):
        return {"early_stopping_rounds": 2, "learning_rate": 1.0}


class LightGBM:
    """LightGBM's classifier and fastxent's, with few small trees."""

    def __init__(self):
        self.module = pytest.importorskip("lightgbm", reason="pip install lightgbm")
        ours = importlib.import_module("fastxent.integrations.lightgbm")
        common = {"n_estimators": 5, "num_leaves": 8, "n_jobs": 1, "verbose": -1}
        self.theirs = partial(self.module.LGBMClassifier, **common)
        self.ours = partial(ours.LGBMClassifier, **common)
        self.raw = {"raw_score": True}

    def evaluated(self, x, y, **more):
        given = {"eval_metric": more["metric"]} if "metric" in more else {}
        return {}, {"eval_X": x, "eval_y": y, **given}

    def history(self, model):
        return model.evals_result_["valid_0"]

    def stopping(self):
        return {"early_stopping_round": 2, "learning_rate": 1.0}


@pytest.fixture(params=[XGBoost, LightGBM], ids=lambda library: library.__name__)
def library(request):
    return request.param()


@pytest.fixture
def xgb():
    return XGBoost()


@pytest.fixture
def lgb():
    return LightGBM()


def agree(ours, theirs, x):
    """Both models give the same probabilities and classes; returns the probabilities."""
    found = ours.predict_proba(x)
    np.testing.assert_allclose(found, theirs.predict_proba(x), rtol=0, atol=EXACT)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
    return found


# --- the built-in objective -----------------------------------------------------------------


@pytest.mark.parametrize("name", DATA)
def test_held_out_probabilities(library, name):
    """Of rows that were held back, from the default start, with weights and without."""
    x, y, x_test, y_test, weight = table(name)
    plain = None
    for w in (None, weight):
        _, given = library.evaluated(x_test, y_test)
        ours, theirs = (
            model().fit(x, y, sample_weight=w, **given) for model in (library.ours, library.theirs)
        )
        found = agree(ours, theirs, x_test)
        assert (ours.predict(x_test) == y_test).mean() > 0.85
        assert w is None or np.abs(found - plain).max() > 1e-3
        plain = found
        mine, its = library.history(ours), library.history(theirs)
        assert list(mine) == list(its)
        for metric, values in its.items():
            np.testing.assert_allclose(mine[metric], values, rtol=0, atol=EXACT)
        want = theirs.predict(x_test, **library.raw)
        np.testing.assert_allclose(ours.predict(x_test, **library.raw), want, rtol=0, atol=1e-5)


XGB_STARTS = {
    "base_score": ({"base_score": 0.3}, {}),
    "base_margin": ({}, {"base_margin": "start"}),
    "dart": ({"booster": "dart", "rate_drop": 0.5}, {}),
}
LGB_STARTS = {
    "zero": ({"boost_from_average": False}, {}),
    "zero, by text": ({"boost_from_average": "false"}, {}),
    "init_score": ({}, {"init_score": "start"}),
    "linear": ({"boost_from_average": False, "linear_tree": True}, {}),
}


@pytest.mark.parametrize(
    ("library", "options", "given"),
    [(XGBoost, *case) for case in XGB_STARTS.values()]
    + [(LightGBM, *case) for case in LGB_STARTS.values()],
    ids=[f"XGBoost {name}" for name in XGB_STARTS] + [f"LightGBM {name}" for name in LGB_STARTS],
)
def test_other_starts(library, options, given):
    """A start that is given is the model's."""
    library = library()
    x, y, x_test, *_ = table("cancer")
    start = {"start": np.random.default_rng(1).standard_normal(len(y))}
    given = {name: start[value] for name, value in given.items()}
    agree(
        *(model(**options).fit(x, y, **given) for model in (library.ours, library.theirs)), x_test
    )


def test_training_goes_on(library):
    """From a fitted model on."""
    x, y, x_test, *_ = table("wine")
    name = "xgb_model" if isinstance(library, XGBoost) else "init_model"
    first = [model(n_estimators=3).fit(x, y) for model in (library.ours, library.theirs)]
    again = [
        model().fit(x, y, **{name: before})
        for model, before in zip((library.ours, library.theirs), first, strict=True)
    ]
    agree(*again, x_test)


def test_weights_of_classes(library):
    """Under each name, also if it is set later: as beside the built-in objective."""
    x, y, x_test, _, weight = table("cancer")
    several = [{"scale_pos_weight": 3.0}]
    if isinstance(library, LightGBM):
        several += [{"is_unbalance": True}, {"unbalance": "true"}, {"class_weight": "balanced"}]
        several += [{"class_weight": {0: 3.0, 1: 0.5}}]
    plain = library.ours().fit(x, y, sample_weight=weight).predict_proba(x_test)
    for options in several:
        ours = library.ours().set_params(**options).fit(x, y, sample_weight=weight)
        found = agree(ours, library.theirs(**options).fit(x, y, sample_weight=weight), x_test)
        assert np.abs(found - plain).max() > 1e-3, options


def test_weights_of_many_classes(lgb):
    """`class_weight` is for any number of classes, and any labels."""
    x, y, x_test, *_ = table("wine")
    names = np.array(["a", "b", "c"])
    options = {"class_weight": {"a": 4.0, "b": 0.5, "c": 1.0}}
    agree(lgb.ours(**options).fit(x, names[y]), lgb.theirs(**options).fit(x, names[y]), x_test)


# --- scikit-learn ---------------------------------------------------------------------------


def test_as_an_estimator(library):
    """Labels that are text; clone, pickle, joblib, cross-validation and searches."""
    joblib = pytest.importorskip("joblib", reason="pip install joblib")
    x, y, x_test, y_test, _ = table("wine")
    names = np.array(["red", "rosé", "white"])
    model = library.ours(learning_rate=0.3)
    params = repr(model.get_params())
    _, given = library.evaluated(x_test, names[y_test])
    assert model.fit(x, names[y], **given) is model
    assert repr(model.get_params()) == params
    assert model.classes_.tolist() == names.tolist()
    assert (model.predict(x_test) == names[y_test]).mean() > 0.85
    assert model.score(x_test, names[y_test]) > 0.85
    found = model.predict_proba(x_test)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(x_test), found)
    np.testing.assert_array_equal(again.predict(x_test), model.predict(x_test))
    other = clone(model)
    assert type(other) is type(model) and not hasattr(other, "classes_")
    np.testing.assert_array_equal(other.fit(x, names[y]).predict_proba(x_test), found)
    model.set_params(n_jobs=2)  # a fitted booster hears of it
    np.testing.assert_array_equal(model.predict_proba(x_test), found)
    buffer = joblib.hash(again)
    assert buffer == joblib.hash(pickle.loads(pickle.dumps(again)))
    scores = model_selection.cross_val_score(
        other, x, names[y], cv=2, scoring="neg_log_loss", params={"sample_weight": np.ones(len(y))}
    )
    assert (scores > -0.6).all()
    search = model_selection.GridSearchCV(other, {"n_estimators": [1, 4]}, cv=2, n_jobs=1)
    search.set_params(scoring="neg_log_loss").fit(x, names[y])
    assert search.best_params_ == {"n_estimators": 4}
    assert set(search.predict(x_test)) <= set(names)
    # Two classes next: the same estimator chooses the logistic objective.
    two = y < 2
    assert other.fit(x[two], names[y[two]]).predict_proba(x_test).shape == (len(x_test), 2)


def test_early_stopping(library):
    """A set that was held back stops where it stops the built-in objective."""
    x, y, x_test, y_test, _ = table("cancer")
    names = np.array(["benign", "malignant"])
    options = {**library.stopping(), "n_estimators": 40}
    ours, theirs = library.ours(**options), library.theirs(**options)
    _, given = library.evaluated(x_test, names[y_test])
    ours.fit(x, names[y], **given)
    theirs.fit(x, y, **library.evaluated(x_test, y_test)[1])
    place = "best_iteration" if isinstance(library, XGBoost) else "best_iteration_"
    assert getattr(ours, place) == getattr(theirs, place) < 35
    found = ours.predict_proba(x_test)
    np.testing.assert_allclose(found, theirs.predict_proba(x_test), rtol=0, atol=EXACT)


def test_one_class(library):
    """Labels that are all the same train what they train beside the built-in objective."""
    x, _, x_test, *_ = table("wine")
    y = np.zeros(len(x), int)
    agree(library.ours().fit(x, y), library.theirs().fit(x, y), x_test)


def test_labels_that_are_no_classes(library):
    x, y, *_ = table("wine")
    with pytest.raises(ValueError, match="Unknown label type"):
        library.ours().fit(x, x[:, 0])
    with pytest.raises(ValueError, match="1d array"):
        library.ours().fit(x, np.eye(3, dtype=int)[y])
    assert not library.ours().__sklearn_tags__().classifier_tags.multi_label


# --- metrics --------------------------------------------------------------------------------


def probability_loss(y_true, y_pred):
    """Log loss of probabilities; of margins nan, with a warning."""
    p = y_pred if y_pred.ndim == 2 else np.stack([1 - y_pred, y_pred], 1)
    return float(-np.log(p[np.arange(len(p)), y_true.astype(int)]).mean())


def lightgbm_loss(y_true, y_pred):
    return "probability_loss", probability_loss(y_true, y_pred), False


@pytest.mark.parametrize("name", ["wine", "cancer"])
def test_metrics(library, name):
    """Names and functions give what they give beside the built-in objective, each once."""
    x, y, x_test, y_test, _ = table(name)
    if isinstance(library, XGBoost):
        several = ["merror", probability_loss] if name == "wine" else ["error", "auc"]
        several = [several, probability_loss]
    else:
        several = [["error", "auc_mu" if name == "wine" else "auc"], lightgbm_loss]
        several += [] if name == "wine" else ["average_precision"]
    for metric in several:
        found = []
        for model in (library.ours, library.theirs):
            # LightGBM writes its names of metrics into the list that it is given.
            chosen = list(metric) if isinstance(metric, list) else metric
            options, given = library.evaluated(x_test, y_test, metric=chosen)
            found.append(library.history(model(**options).fit(x, y, **given)))
        mine, its = found
        assert set(mine) == set(its)
        for key, values in its.items():
            assert len(mine[key]) == len(values) == 5
            np.testing.assert_allclose(mine[key], values, rtol=0, atol=2e-6)


def test_no_metric_twice(xgb):
    """fastxent's metric replaces XGBoost's default of the same name; XGBoost's own doubles it."""
    for name, metric in (("wine", mlogloss), ("cancer", logloss)):
        x, y, x_test, y_test, _ = table(name)
        options, given = xgb.evaluated(x_test, y_test, metric=metric)
        ((key, values),) = xgb.history(xgb.ours(**options).fit(x, y, **given)).items()
        want = xgb.history(xgb.theirs().fit(x, y, **given))[metric.__name__]
        assert key == metric.__name__ and len(values) == 5
        np.testing.assert_allclose(values, want, rtol=0, atol=2e-6)
        both = [metric.__name__, metric]
        with pytest.raises(ValueError, match=f"must name '{key}' once"):
            xgb.ours(eval_metric=both).fit(x, y, **given)


def test_metrics_by_lightgbms_parameter(lgb):
    """`metric`, under its other names too, chooses or turns off the default."""
    x, y, x_test, y_test, _ = table("cancer")
    _, given = lgb.evaluated(x_test, y_test)
    for options, more, names in (
        ({"metric": "auc,binary_logloss"}, {}, ["auc", "binary_logloss"]),
        ({"metrics": ["binary"]}, {}, ["binary_logloss"]),
        ({"metric": "None"}, {"eval_metric": binary_logloss}, ["binary_logloss"]),
        ({"metric": "binary_error"}, {"eval_metric": ["auc"]}, ["auc", "binary_error"]),
    ):
        found = lgb.history(lgb.ours(**options).fit(x, y, **given, **more))
        assert list(found) == names


# --- what is refused ------------------------------------------------------------------------


XGB_REFUSED = [
    ("wine", {"objective": "reg:squarederror"}, "objective must be 'binary:logistic' or 'multi:s"),
    ("wine", {"objective": logloss}, "objective must be 'binary:logistic' or"),
    ("cancer", {"class_weight": "balanced"}, "class_weight must be left out .*sample_weight"),
    ("cancer", {"is_unbalance": True}, "is_unbalance must be left out .*sample_weight"),
    ("wine", {"scale_pos_weight": 2.0}, "scale_pos_weight must be left out .*two classes"),
]
LGB_REFUSED = [
    ("wine", {"objective": "cross_entropy"}, "objective must be None, 'binary' or 'multiclass'"),
    ("wine", {"application": "multiclassova"}, "objective must be None, 'binary' or"),
    ("wine", {"scale_pos_weight": 2.0}, "scale_pos_weight must be left out .*class_weight"),
    ("wine", {"unbalanced_sets": True}, "is_unbalance must be left out .*class_weight"),
    ("cancer", {"is_unbalance": True, "scale_pos_weight": 2.0}, "scale_pos_weight .*is_unbalance"),
    ("cancer", {"sigmoid": 2.0}, "sigmoid must be left out .*own objectives"),
    ("cancer", {"pos_subsample": 0.5}, "pos_bagging_fraction must be left out"),
    ("cancer", {"neg_bagging": 0.5}, "neg_bagging_fraction must be left out"),
    ("cancer", {"linear_trees": True}, "linear_tree must be left out .*boost_from_average=False"),
    ("cancer", {"boosting": "rf"}, "boosting must be left out .*random forest"),
    ("wine", {"num_classes": 4}, "num_class must be left out .*3 classes"),
    ("wine", {"metric": "kullback_leibler"}, "metric 'kullback_leibler' from raw scores as if"),
]


@pytest.mark.parametrize(
    ("library", "name", "options", "says"),
    [(XGBoost, *case) for case in XGB_REFUSED] + [(LightGBM, *case) for case in LGB_REFUSED],
)
def test_refused(library, name, options, says):
    """What a function as objective would ignore, given at once or set later."""
    library = library()
    x, y, *_ = table(name)
    for model in (library.ours(**options), library.ours().set_params(**options)):
        with pytest.raises(ValueError, match=says):
            model.fit(x, y)


def test_eval_init_score_needs_init_score(lgb):
    x, y, x_test, y_test, _ = table("cancer")
    _, given = lgb.evaluated(x_test, y_test)
    with pytest.raises(ValueError, match="eval_init_score must be left out .*init_score allows it"):
        lgb.ours().fit(x, y, **given, eval_init_score=[np.zeros(len(y_test))])


def test_aliases_are_lightgbms():
    """The other names of each parameter that is looked at are all that LightGBM knows."""
    LightGBM()
    from lightgbm.basic import _ConfigAliases

    from fastxent.integrations import lightgbm

    for name, others in lightgbm._ALIASES.items():
        assert _ConfigAliases.get(name) == {name, *others}
    for name in ("sigmoid", "scale_pos_weight", "boost_from_average", "feature_pre_filter"):
        assert _ConfigAliases.get(name) == {name}


# --- beside ---------------------------------------------------------------------------------


def test_model_file(xgb, tmp_path):
    """XGBoost reads a saved model as one of its own objective; labels are class indices there."""
    x, y, x_test, *_ = table("wine")
    names = np.array(["a", "b", "c"])
    model = xgb.ours().fit(x, names[y])
    model.save_model(tmp_path / "model.json")
    for read in (xgb.ours(), xgb.theirs()):
        read.load_model(tmp_path / "model.json")
        np.testing.assert_array_equal(read.predict_proba(x_test), model.predict_proba(x_test))
        np.testing.assert_array_equal(names[read.predict(x_test)], model.predict(x_test))


def test_model_without_splits(lgb):
    """Too few rows to split give the classes' shares; no feature that varies is an error."""
    x, y, *_ = table("wine")
    few = lgb.ours().fit(x[:15], y[:15])
    np.testing.assert_allclose(few.predict_proba(x[:1])[0], np.bincount(y[:15]) / 15)
    with pytest.raises(ValueError, match="X must have a feature that varies"):
        lgb.ours().fit(np.zeros((len(y), 2)), y)


def test_predictions_that_are_not_classes(lgb):
    """Leaves and contributions are LightGBM's own, as is a part of the trees."""
    x, y, x_test, *_ = table("cancer")
    ours, theirs = lgb.ours().fit(x, y), lgb.theirs().fit(x, y)
    for given in ({"pred_leaf": True}, {"pred_contrib": True}, {"start_iteration": 3}):
        want = theirs.predict_proba(x_test, **given)
        np.testing.assert_allclose(ours.predict_proba(x_test, **given), want, rtol=0, atol=EXACT)
    want = theirs.predict(x_test, pred_leaf=True)
    np.testing.assert_array_equal(ours.predict(x_test, False, 0, None, True), want)
