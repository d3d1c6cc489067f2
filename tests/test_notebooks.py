"""The notebooks run from the first cell to the last, and are kept as such a run has left them."""

from pathlib import Path

import pytest

PLACE = Path(__file__).parent.parent / "docs" / "notebooks"
NOTEBOOKS = sorted(PLACE.glob("*.ipynb"))

nbformat = pytest.importorskip("nbformat", reason="pip install -e . --group docs")
nbclient = pytest.importorskip("nbclient", reason="pip install -e . --group docs")


def cells(path):
    notebook = nbformat.read(path, as_version=4)
    return notebook, [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(code):
    """Where each cell prints, in however many pieces that arrives, and what else it shows."""
    return [
        (
            {output.name for output in cell.outputs if output.output_type == "stream"},
            [output.output_type for output in cell.outputs if output.output_type != "stream"],
        )
        for cell in code
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_as_it_ran(path):
    """Cells in order, no error; what the site shows was printed by this code."""
    _, code = cells(path)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert "display_data" in kinds and "error" not in kinds


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path):
    """A cell that raises fails the test; each notebook compares its numbers with NumPy's."""
    notebook, code = cells(path)
    before = shown(code)
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": PLACE}}
    ).execute()
    assert shown(code) == before
