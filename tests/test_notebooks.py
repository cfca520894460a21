"""Every notebook runs from beginning to end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))
#: Pictures that each shows, at least.
PICTURES = {
    "01_first_run": 2,
    "02_reading_a_run": 2,
    "03_the_papers_claims": 1,
    "04_own_task_teacher_method": 1,
    "05_callbacks_elsewhere": 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")  # of Jupyter's own packages
def test_notebook_runs(source, tmp_path, monkeypatch):
    jupytext = pytest.importorskip("jupytext", reason="needs the extra 'notebooks'")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra 'notebooks'")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    # Kernel connection files go here as well, not into the home folder.
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", os.fspath(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", os.fspath(tmp_path / "ipython"))

    notebook, here = jupytext.read(source), tmp_path / "here"
    jupytext.write(notebook, tmp_path / f"{source.stem}.ipynb")
    here.mkdir()
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": os.fspath(here)}}).execute()

    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 3
    assert all(cell.execution_count for cell in cells)
    assert not list(here.iterdir()), "it leaves files behind"
    outputs = [output.get("data", {}) for cell in cells for output in cell.outputs]
    pictures = sum(1 for data in outputs if any(kind.startswith("image/") for kind in data))
    assert pictures >= PICTURES[source.stem]


def test_notebooks_are_there():
    assert [path.stem for path in NOTEBOOKS] == list(PICTURES)
