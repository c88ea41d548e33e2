"""All cells of the notebook of the guide run, and show tables, data frames and a picture."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "guide" / "notebook.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The code cells of the notebook, after a Jupyter kernel has run them."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
        client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
        client.execute()
    nbformat.write(notebook, folder / "executed.ipynb")
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_committed_without_what_it_shows():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if "outputs" in cell)


def shown(cell):
    """The output of a cell, by MIME type. It may not print text, since that would be a warning or a message."""
    assert [output.output_type for output in cell.outputs] in ([], ["execute_result"])
    return cell.outputs[0].data if cell.outputs else {}


def test_every_report_is_a_table_and_a_line_and_frames_are_those_of_pandas(executed):
    shows = [shown(cell) for cell in executed]
    reports = [show for show in shows if show.get("text/plain", "").startswith("<") and "text/html" in show]
    assert [show["text/plain"].partition(":")[0] for show in reports] == [
        "<MappingReport",
        "<VerificationReport",
        "<SimulationReport",
        "<HandoffReport",
    ]
    for show in reports:
        assert show["text/html"].startswith("<pre style=")
        assert len(show["text/plain"]) < 260
    frames = [show for show in shows if "<table" in show.get("text/html", "")]
    assert len(frames) == 2
    assert sum("image/png" in show for show in shows) == 1


def test_what_it_shows_is_right(executed):
    text = "".join(shown(cell).get("text/html", "") for cell in executed)
    assert "5 weights mapped" in text
    assert "PASSED: 5 weights (0 bit-identical), 2 comparisons of outputs, and the mapping hold." in text
    assert "accuracy of 5 chips; ideal: 0.9" in text
    assert "5 weights handed off" in text
