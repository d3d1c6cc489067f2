"""The measured tables of docs/integrations.md are of the runs that lie in the repository."""

import importlib
import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_tables_are_of_the_runs(monkeypatch, tmp_path):
    """Written anew they are what they are."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    copy = tmp_path / "integrations.md"
    shutil.copy(ROOT / "docs" / "integrations.md", copy)
    importlib.import_module("integrations_page").fill(copy)
    assert copy.read_text() == (ROOT / "docs" / "integrations.md").read_text()
    assert "`lightgbm_softmax` |" in copy.read_text()
