"""LogisticRegression beside scikit-learn's own: what it takes over, and that it is the same."""

import os
import pickle
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn", reason="pip install 'fastxent[sklearn]'")

from sklearn import linear_model, model_selection, pipeline, preprocessing  # noqa: E402
from sklearn.datasets import load_breast_cancer, load_digits  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.linear_model._linear_loss import LinearModelLoss  # noqa: E402
from sklearn.utils import estimator_checks  # noqa: E402

from fastxent.integrations import sklearn as integration  # noqa: E402
from fastxent.integrations.sklearn import LogisticRegression  # noqa: E402

# Under several workers the threads of BLAS would wait for one another.
threadpoolctl = pytest.importorskip("threadpoolctl", reason="comes with scikit-learn")


@pytest.fixture(autouse=True)
def one_blas_thread():
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


KERNELS = (
    "linear_cross_entropy", "linear_cross_entropy_hvp", "binary_cross_entropy_with_logits"
)  # fmt: skip
METHODS = ("loss", "loss_gradient", "gradient", "gradient_hessian_product", "gradient_hessian")


@pytest.fixture(scope="module")
def data():
    """Scaled features and classes: ten and two."""
    sets = {}
    for n_classes, load in ((10, load_digits), (2, load_breast_cancer)):
        x, y = load(return_X_y=True)
        sets[n_classes] = preprocessing.StandardScaler().fit_transform(x), y
    return sets


@pytest.fixture
def counts(monkeypatch):
    """How often our functions and scikit-learn's methods were called."""
    found = {"ours": 0, "theirs": 0}

    def counting(owner, name, key):
        function = getattr(owner, name)

        def call(*args, **kwargs):
            found[key] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for name in KERNELS:
        counting(integration, name, "ours")
    for name in METHODS:
        counting(LinearModelLoss, name, "theirs")
    return found


def fits(estimators, x, y, *args):
    """Each fitted, and the warnings of each."""
    said = []
    for estimator in estimators:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimator.fit(x, y, *args)
        said.append([(warning.category, str(warning.message)) for warning in caught])
    return said


def pair(**parameters):
    return LogisticRegression(**parameters), linear_model.LogisticRegression(**parameters)


TAKEN_OVER = [
    {}, {"solver": "newton-cg"}, {"fit_intercept": False}, {"C": np.inf, "max_iter": 8},
    {"class_weight": "balanced", "solver": "newton-cg", "fit_intercept": False},
    {"C": 0.01, "class_weight": {1: 3.0}}, {"warm_start": True, "max_iter": 3},
]  # fmt: skip


@pytest.mark.parametrize("n_classes", [2, 10])
@pytest.mark.parametrize("parameters", TAKEN_OVER, ids=str)
def test_taken_over(data, counts, n_classes, parameters):
    """Our functions alone are called; coefficients, iterations and warnings are scikit-learn's."""
    x, y = data[n_classes]
    ours, theirs = pair(**parameters)
    weight = np.random.default_rng(0).uniform(0.1, 2, len(y))
    weight[::7] = 0
    for _ in range(1 + ours.warm_start):  # the second time from the first's coefficients
        for weights in ((), (weight,)):
            counts.update(ours=0, theirs=0)
            mine = fits([ours], x, y, *weights)[0]
            assert counts["ours"] >= ours.n_iter_[0] and not counts["theirs"]
            assert mine == fits([theirs], x, y, *weights)[0]
            assert ours.n_iter_ == theirs.n_iter_
            for name in ("coef_", "intercept_", "classes_", "n_iter_"):
                mine_, other = getattr(ours, name), getattr(theirs, name)
                np.testing.assert_allclose(mine_, other, 1e-6, 1e-8, strict=True, err_msg=name)


@pytest.mark.parametrize("n_classes", [2, 10])
@pytest.mark.parametrize(
    "parameters",
    [{"solver": "liblinear"}, {"solver": "newton-cholesky", "max_iter": 2},
     {"solver": "sag", "max_iter": 2, "random_state": 0},
     {"solver": "saga", "l1_ratio": 1.0, "max_iter": 2, "random_state": 0}, "sparse"],
    ids=str,
)  # fmt: skip
def test_left_to_scikit_learn(data, counts, n_classes, parameters):
    """Our functions are not called, and every bit is scikit-learn's."""
    x, y = (part[:300] for part in data[n_classes])
    if parameters == {"solver": "liblinear"} and n_classes > 2:
        y = y == 3
    if parameters == "sparse":
        x, parameters = pytest.importorskip("scipy.sparse").csr_array(x), {"max_iter": 3}
    mine, other = fits(models := pair(**parameters), x, y)
    assert mine == other and not counts["ours"]
    np.testing.assert_array_equal(models[0].coef_, models[1].coef_)


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg"])
def test_float32(data, counts, solver):
    """A result of the type that scikit-learn's has, as near to it as float32 allows."""
    x, y = data[10]
    fits(models := pair(solver=solver), x.astype(np.float32), y)
    assert counts["ours"] and models[0].coef_.dtype == models[1].coef_.dtype
    np.testing.assert_allclose(models[0].coef_, models[1].coef_, 0, 2e-4)


def test_the_warning_of_too_few_iterations(data):
    """ConvergenceWarning, with scikit-learn's text."""
    mine, other = fits(pair(max_iter=2), *data[10])
    assert mine == other and ConvergenceWarning in [category for category, _ in mine]


def test_clone_pickle_and_search(data):
    """It can be cloned, pickled before and after a fit, and searched over; metadata is routed."""
    x, y = (part[:400] for part in data[10])
    model = sklearn.clone(LogisticRegression(C=0.5)).set_params(tol=1e-3)
    assert pickle.loads(pickle.dumps(model)).get_params() == model.get_params()
    copy = pickle.loads(pickle.dumps(model.fit(x, y)))
    assert type(copy) is LogisticRegression
    np.testing.assert_array_equal(copy.predict_proba(x), model.predict_proba(x))
    weight = np.linspace(0, 1, 400)
    with sklearn.config_context(enable_metadata_routing=True):
        weighted = LogisticRegression(tol=1e-2).set_fit_request(sample_weight=True)
        weighted.set_score_request(sample_weight=True)
        steps = pipeline.make_pipeline(
            preprocessing.StandardScaler().set_fit_request(sample_weight=False),
            weighted,
        )
        search = model_selection.GridSearchCV(steps, {"logisticregression__C": [0.1, 1]}, cv=2)
        search.fit(x, y, sample_weight=weight)
    assert search.best_score_ > 0.7


def test_parameters_and_docs_are_inherited():
    """So they are those of the release that is installed."""
    theirs = linear_model.LogisticRegression
    for name in ("__init__", "_parameter_constraints", "predict_proba", "set_params"):
        assert name not in vars(LogisticRegression)
        assert getattr(LogisticRegression, name) is getattr(theirs, name)
    assert LogisticRegression.fit.__doc__ == theirs.fit.__doc__
    with pytest.raises(ValueError, match="'solver' parameter of LogisticRegression"):
        LogisticRegression(solver="sgd").fit([[0.0], [1.0]], [0, 1])


def test_an_unknown_release_is_refused():
    """One whose code does not use the names that are given other meanings."""
    with pytest.raises(ImportError, match="scikit-learn .* does not use NoSuchLoss"):
        integration._rebound(linear_model._logistic._logistic_regression_path, NoSuchLoss=None)


def test_a_memory_map_is_read_block_by_block(tmp_path):
    """40 MB of rows in a file: a fit holds less than a quarter of that."""
    rng = np.random.default_rng(0)
    x = np.memmap(tmp_path / "rows", np.float32, "w+", shape=(100_000, 100))
    labels = rng.integers(0, 4, len(x))
    x[:] = rng.standard_normal(x.shape, np.float32)
    x = np.memmap(tmp_path / "rows", np.float32, "r", shape=x.shape)
    model = LogisticRegression(max_iter=1)
    tracemalloc.start()
    for y in (labels, labels > 1):
        fits([model], x, y)
    size = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size < x.nbytes / 4


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg"])
def test_checks_of_estimators(solver):
    """scikit-learn's `check_estimator`; no check is expected to fail."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # checks fit data on which few iterations do not converge
        estimator_checks.check_estimator(LogisticRegression(solver=solver))


def test_tests_of_scikit_learn(tmp_path):
    """Its own tests of logistic regression pass with our class in the place of its own."""
    here = Path(__file__).parent
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "swapped_estimator", "-p", "no:cacheprovider",
        "--pyargs", "sklearn.linear_model.tests.test_logistic",
    ]  # fmt: skip
    environment = os.environ | {
        "PYTHONPATH": str(here), "PYTEST_ADDOPTS": "", "OPENBLAS_NUM_THREADS": "1"
    }  # fmt: skip
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 250
