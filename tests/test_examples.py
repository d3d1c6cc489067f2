"""The examples in docs/examples do what their documents say; how long they take is not tested."""

import functools
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scripts import run

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


def example(name):
    """The module of an example; its `main` has not run."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sklearn():
    """scikit-learn, which has the data."""
    reason = "the data are scikit-learn's: pip install scikit-learn"
    return pytest.importorskip("sklearn", reason=reason)


@pytest.fixture
def torch():
    """PyTorch, whose number of threads the example sets."""
    module = pytest.importorskip("torch", reason="PyTorch is optional: pip install torch")
    found = module.get_num_threads()
    yield module
    module.set_num_threads(found)


def test_dask_out_of_core(monkeypatch, capsys, environment):
    """The logits are larger than the worker's limit, its memory stays below, and NumPy agrees."""
    pytest.importorskip("distributed", reason="distributed is optional: pip install distributed")
    module = example("dask_out_of_core")
    monkeypatch.setattr(module, "ROWS", 7000)
    monkeypatch.setattr(module, "CHUNK", (500, 5000))
    monkeypatch.setattr(module, "LIMIT", 512 << 20)
    figures = module.main()
    assert figures.before < figures.peak < figures.limit < figures.size
    assert figures.loss == pytest.approx(figures.expected, rel=1e-6)
    assert figures.difference * module.ROWS < 1e-6
    assert f"{figures.peak / 1e6:.0f} MB" in capsys.readouterr().out


def test_torch_classifier(torch, sklearn, monkeypatch, capsys):
    """Both losses train the same classifier: losses step by step, and accuracy."""
    module = example("torch_classifier")
    monkeypatch.setattr(module, "ROUNDS", 1)
    monkeypatch.setattr(module, "LARGE", (64, 100))
    figures = module.main()
    theirs, ours = (np.array(figures.losses[name]) for name in ("torch", "fastxent"))
    assert len(theirs) > 400
    assert theirs[-1] < theirs[0] / 20
    differences = np.abs(ours - theirs) / np.maximum(1, theirs)
    assert differences.max() <= 1e-6
    assert figures.difference == differences.max()
    # A digit between two classes may fall to either side.
    assert abs(figures.accuracy["fastxent"] - figures.accuracy["torch"]) < 0.005
    assert min(figures.accuracy.values()) > 0.93
    printed = capsys.readouterr().out
    assert f"{figures.difference:.1e}" in printed
    assert "speed-up" in printed


def test_torch_functional(torch, capsys):
    """Under `F` of either library the losses of each step are the same."""
    figures = example("torch_functional").main()
    theirs, ours = (np.array(figures.losses[name]) for name in ("torch", "fastxent"))
    assert len(theirs) == 300
    assert theirs[-10:].mean() < 0.7 * theirs[:10].mean()
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert f"{figures.difference:.1e}" in capsys.readouterr().out


@pytest.mark.parametrize("ranks", [1, 2])
def test_torch_fsdp(torch, ranks):
    """Sharded parameters, which are freed between layers: torch.nn's losses and parameters."""
    said, _ = run([EXAMPLES / "torch_fsdp.py", ranks], 200)
    for name in ("CrossEntropyLoss", "LinearCrossEntropyLoss"):
        assert f"\n{name}, ranks: {ranks}: loss 3.78" in f"\n{said}"


def test_scipy_logistic(sklearn, capsys):
    """Both ways to write the objective reach scikit-learn's coefficients."""
    pytest.importorskip("scipy", reason="SciPy is optional: pip install scipy")
    figures = example("scipy_logistic").main()
    printed = capsys.readouterr().out
    peer = figures.objective["scikit-learn"]
    for name in ("by_logits", "by_linear"):
        assert figures.weights[name] <= 1e-4
        assert figures.intercepts[name] <= 1e-4
        assert figures.objective[name] == pytest.approx(peer, rel=1e-9)
        assert figures.accuracy[name] == figures.accuracy["scikit-learn"]
        assert f"{figures.weights[name]:.1e}" in printed
    assert figures.accuracy["by_logits"] > 0.95


def test_scipy_newton(sklearn, capsys):
    """Second-order methods reach the coefficients of L-BFGS, with fewer evaluations."""
    pytest.importorskip("scipy", reason="SciPy is optional: pip install scipy")
    module = example("scipy_newton")
    small = functools.partial(module.larger, 500, 8, 5)
    figures = module.main({"digits": module.digits, "small": small})
    printed = capsys.readouterr().out
    for fits in figures.values():
        first = fits["L-BFGS-B"]
        for method, fit in fits.items():
            assert fit.norm <= module.TOLERANCE, method
            assert fit.objective == pytest.approx(first.objective, rel=1e-9)
            np.testing.assert_allclose(fit.weights, first.weights, atol=1e-3)
            assert (fit.products > 0) is (method != "L-BFGS-B")
            assert f"{fit.objective:.9f}" in printed
    digits = figures["digits"]
    assert digits["trust-ncg"].calls < digits["L-BFGS-B"].calls / 3


def test_boosting_margins(capsys):
    """Both libraries, on both data sets, have the margins of their own objective."""
    for library in ("xgboost", "lightgbm"):
        pytest.importorskip(library, reason="pip install 'fastxent[boosting]'")
    module = example("boosting_margins")
    rows = module.main()
    assert len(rows) == 4
    printed = capsys.readouterr().out
    for (library, data), row in rows.items():
        assert row.largest > 1
        assert row.difference <= 1e-5
        assert row.fastxent == row.built_in > 0.9
        assert f"{library}, {data}" in printed and f"{row.difference:.1e}" in printed
