"""The accuracy page is of the run that lies in the repository."""

import importlib
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results" / "accuracy"


@pytest.fixture(scope="module")
def script():
    """bench/accuracy_page.py."""
    pytest.importorskip("matplotlib")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "bench")
        yield importlib.import_module("accuracy_page")


@pytest.fixture(scope="module")
def run(script):
    """The newest run."""
    return script.record.load(max(RESULTS.glob("*.json")))


def test_pages_are_of_the_newest_run(script, run, tmp_path):
    """Written anew they are what they are."""
    for name in ("accuracy.md", "index.md"):
        shutil.copy(ROOT / "docs" / name, tmp_path)
    script.fill(run, tmp_path)
    for name in ("accuracy.md", "index.md"):
        assert (tmp_path / name).read_text() == (ROOT / "docs" / name).read_text()


def test_a_chart_is_drawn(script, run, tmp_path):
    """Of a size that a page can carry."""
    script.draw(run, "binary", tmp_path)
    (picture,) = (tmp_path / "img").iterdir()
    assert picture.name == "accuracy-binary.png"
    assert 10_000 < picture.stat().st_size < 120_000


def test_errors_as_they_are_written(script):
    """Lost digits are per cent, what is no number is said to be none, and a loss is bold."""
    errors = [1.25e-7, 0.0033, 0.359, 1.0, float("inf")]
    assert [script.written(error) for error in errors] == [
        "1.2e-07", "0.0033", "36%", "100%", "∞ or nan"]  # fmt: skip
    assert script.marked(1e-7, ours=2e-7) == "**1.0e-07**"
    assert script.marked(2e-7, ours=2e-7) == "2.0e-07"
