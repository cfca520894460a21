"""Every notebook runs from beginning to end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))


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

    notebook = jupytext.read(source)
    path = tmp_path / f"{source.stem}.ipynb"
    jupytext.write(notebook, path)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": os.fspath(tmp_path)}}).execute()

    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 3
    assert all(cell.execution_count for cell in cells)


def test_notebooks_are_there():
    assert [path.stem for path in NOTEBOOKS] == [
        "01_first_run",
        "02_reading_a_run",
        "03_the_papers_claims",
        "04_own_task_teacher_method",
        "05_callbacks_elsewhere",
    ]
